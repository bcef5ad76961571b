"""The parity replay: passes on the official files, sees what differs, refuses what is no golden file."""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from errors import UserError
from scripts import check_parity
from scripts.check_parity import check_file, tolerance
from tests.models.golden_files import OPTIONS, golden_arrays, write_golden

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.npz"))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    """Exit code of the script for these arguments."""
    monkeypatch.setattr(sys, "argv", ["check_parity.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        check_parity.main()
    return int(exit_.value.code or 0)


@functools.cache
def _standard() -> dict[str, np.ndarray]:
    return golden_arrays(OPTIONS, seed=0)


def standard() -> dict[str, np.ndarray]:
    """The arrays of a small golden file made by the reference."""
    return dict(_standard())


def altered(tmp_path: Path, **changes: Any) -> Path:
    """A golden file of the reference with some arrays replaced; None removes one. `config` may be a dict."""
    arrays = standard()
    for name, value in changes.items():
        if value is None:
            arrays.pop(name)
        else:
            arrays[name] = np.array(json.dumps(value) if isinstance(value, dict) else value)
    path = tmp_path / "altered.npz"
    np.savez(path, **arrays)
    return path


def test_three_official_files_ship() -> None:
    assert [path.name for path in GOLDEN] == ["hrm.npz", "trm_att.npz", "trm_mlp_t.npz"]


def test_official_files_pass_with_one_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *GOLDEN) == 0
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [report["file"] for report in reports] == [str(path) for path in GOLDEN]
    for report in reports:
        assert report["ok"] and report["exceeded"] == []
        largest = report["max_abs_diff"]
        assert {"z_H", "z_L", "logits", "grad", "loss", "halted", "steps", "q_halt_logits"} <= largest.keys()
        assert max(largest[name] for name in ("z_H", "z_L", "logits", "grad")) < 1e-9
        assert largest["halted"] == largest["steps"] == 0


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
@pytest.mark.parametrize("weight", ["H_init", "lm_head.weight", "L_level.layers.1.mlp.down_proj.weight"])
def test_a_weight_off_by_a_millionth_fails(
    path: Path,
    weight: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    key = f"sd/_orig_mod.model.inner.{weight}"
    arrays[key] = arrays[key].astype(np.float64)
    arrays[key].flat[1] += 1e-6
    np.savez(tmp_path / "off.npz", **arrays)
    assert run(monkeypatch, GOLDEN[1], tmp_path / "off.npz") == 1
    good, bad = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert good["ok"] and not bad["ok"] and bad["exceeded"]


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("eval/1/z_H", 2e-8, "z_H"),
        ("eval/3/z_L", 2e-8, "z_L"),
        ("eval/0/logits", 2e-8, "logits"),
        ("eval/2/q_continue_logits", 2e-5, "q_continue_logits"),
        ("train/2/loss", 2e-5, "loss"),
        ("eval/3/metric/accuracy", 2e-5, "metric/accuracy"),
        ("train/1/steps", 1, "steps"),
        ("train/2/grad/model.inner.lm_head.weight", 2e-8, "grad"),
        ("train/0/grad/puzzle_emb_rows", 2e-8, "grad"),
        ("train/1/metric/q_halt_loss", np.nan, "metric/q_halt_loss"),
    ],
)
def test_every_recorded_quantity_is_compared(name: str, change: float, expected: str, tmp_path: Path) -> None:
    arrays = standard()
    value = np.array(arrays[name])
    value.flat[0] += value.dtype.type(change)
    largest = check_file(altered(tmp_path, **{name: value}))
    over = [key for key, value in largest.items() if not value <= tolerance(key, 1e-8, 1e-5)]
    assert over == [expected]


def test_halting_must_agree_exactly(tmp_path: Path) -> None:
    halted = standard()["train/0/halted"]
    largest = check_file(altered(tmp_path, **{"train/0/halted": ~halted}))
    assert largest["halted"] == 1 > tolerance("halted", 1e9, 1e9)


def test_an_unknown_recorded_quantity_fails(tmp_path: Path) -> None:
    assert check_file(altered(tmp_path, **{"eval/0/z_M": np.zeros(3)}))["z_M"] == float("inf")


def test_a_quantity_of_another_shape_fails(tmp_path: Path) -> None:
    assert check_file(altered(tmp_path, **{"eval/0/logits": np.zeros((4, 6, 6))}))["logits"] == float("inf")


def test_steps_between_recorded_ones_are_made(tmp_path: Path) -> None:
    arrays = golden_arrays(OPTIONS, seed=3, train_steps=5)
    for t in (0, 1, 2, 3):
        arrays = {k: v for k, v in arrays.items() if not k.startswith(f"train/{t}/")}
    for t in (0, 2):
        arrays = {k: v for k, v in arrays.items() if not k.startswith(f"eval/{t}/")}
    np.savez(tmp_path / "sparse.npz", **arrays)
    largest = check_file(tmp_path / "sparse.npz")
    assert {"z_H", "grad", "steps"} <= largest.keys()
    assert all(value <= tolerance(name, 1e-8, 1e-5) for name, value in largest.items())


def test_a_file_without_recorded_steps_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {k: v for k, v in standard().items() if not k.startswith(("eval/", "train/"))}
    np.savez(tmp_path / "empty.npz", **arrays)
    assert run(monkeypatch, tmp_path / "empty.npz") == 1


def test_tolerances_are_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = standard()
    path = altered(tmp_path, **{"eval/1/z_H": arrays["eval/1/z_H"] + 1e-6})
    assert run(monkeypatch, path) == 1
    assert run(monkeypatch, path, "--tol", "1e-5") == 0
    path = altered(tmp_path, **{"eval/1/loss": arrays["eval/1/loss"] + 1e-3})
    assert run(monkeypatch, path) == 1
    assert run(monkeypatch, path, "--loss-tol", "1e-2") == 0


def test_a_file_recorded_with_exploration_is_replayed(tmp_path: Path) -> None:
    """Its random halts cannot be repeated, everything else can: no crash, states agree."""
    largest = check_file(write_golden(tmp_path / "e.npz", OPTIONS | {"halt_exploration_prob": 0.5}))
    assert largest["z_H"] < 1e-9 and largest["logits"] < 1e-9


BAD_CONFIGS: dict[str, dict[str, Any]] = {
    "unknown kind": {"kind": "mlp"},
    "kind of another type": {"kind": ["trm"]},
    "unknown loss": {"loss": "hinge"},
    "unknown dtype": {"forward_dtype": "int3"},
    "heads": {"num_heads": 3},
    "text for a number": {"hidden_size": "wide"},
    "negative depth": {"L_layers": -1},
    "a billion layers": {"L_layers": 10**9},
    "a billion channels": {"hidden_size": 2 * 10**9},
    "another vocabulary": {"vocab_size": 9},
    "another sequence length": {"seq_len": 7, "pos_encodings": "learned"},
    "zero heads": {"num_heads": 0},
}


@pytest.mark.parametrize("change", BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys())
def test_an_impossible_config_ends_in_one_line(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="altered.npz"):
        check_file(altered(tmp_path, config=OPTIONS | change))


BAD_ARRAYS: dict[str, dict[str, Any]] = {
    "no config": {"config": None},
    "config is no JSON": {"config": "{"},
    "config is a list": {"config": "[1]"},
    "no inputs": {"batch/inputs": None},
    "tokens beyond the vocabulary": {"batch/inputs": np.full((4, 6), 99, np.int32)},
    "ids beyond the table": {"batch/puzzle_identifiers": np.full(4, 99, np.int32)},
    "labels beyond the vocabulary": {"batch/labels": np.full((4, 6), 99, np.int32)},
    "flat inputs": {"batch/inputs": np.zeros(4, np.int32)},
    "text for inputs": {"batch/inputs": np.array([["a"] * 6] * 4)},
    "a step that is no number": {"eval/first/z_H": np.zeros(1)},
    "a step far away": {"eval/999999999/z_H": np.zeros(1)},
    "a missing weight": {"sd/_orig_mod.model.inner.lm_head.weight": None},
    "a foreign weight": {"sd/_orig_mod.model.inner.lm_head.extra": np.zeros(1)},
    "a misshapen weight": {"sd/_orig_mod.model.inner.lm_head.weight": np.zeros((5, 4))},
    "a weight of text": {"sd/_orig_mod.model.inner.lm_head.weight": np.array(["a"])},
}


@pytest.mark.parametrize("changes", BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_unusable_arrays_end_in_one_line(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="altered.npz"):
        check_file(altered(tmp_path, **changes))


def _damaged(kind: str, path: Path) -> None:
    good = GOLDEN[1].read_bytes()
    if kind == "text":
        path.write_text("not a golden file")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(good[: len(good) // 2])
    elif kind == "flipped":
        data = bytearray(good)
        data[len(data) // 3] ^= 0xFF
        path.write_bytes(bytes(data))
    elif kind == "bare array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif kind == "pickled":
        np.savez(path, config=np.array([{"kind": "trm"}], dtype=object))


@pytest.mark.parametrize("kind", ["text", "empty", "cut", "flipped", "bare array", "pickled", "missing"])
def test_a_damaged_file_ends_in_one_line_and_code_2(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "damaged.npz"
    _damaged(kind, path)
    assert run(monkeypatch, path) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1 and captured.err.startswith("error: ")
    assert "damaged.npz" in captured.err
