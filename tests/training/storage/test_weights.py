"""Weight files: official names, three formats, every misfit in one line."""

import random
from pathlib import Path

import pytest
import torch

from errors import UserError
from tests.training.states import files_of, foreign_files, make_state
from training.storage.checkpoint import save_state, save_weights
from training.storage.weights import check_weights, compare_weights, load_weights, strip_prefixes

ROOT = Path(__file__).resolve().parents[3]


OFFICIAL = "_orig_mod.model.inner.L_level.layers.0.self_attn.qkv_proj.weight"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (OFFICIAL, "L_level.layers.0.self_attn.qkv_proj.weight"),
        ("module._orig_mod.model.inner.puzzle_emb.weights", "puzzle_emb.weights"),
        (
            "model.inner.L_level._orig_mod.layers.0.mlp.down_proj.weight",
            "L_level.layers.0.mlp.down_proj.weight",
        ),
        ("lm_head.weight", "lm_head.weight"),
        ("inner_model.weight", "inner_model.weight"),
    ],
)
def test_prefixes(key: str, name: str) -> None:
    assert strip_prefixes(key) == name


@pytest.mark.parametrize("name", ["best.pt", "step_7", "best.safetensors"])
def test_weights_come_back(tmp_path: Path, name: str) -> None:
    base = torch.randn(8, 6)
    weights = {OFFICIAL: base[2:5], "lm_head.weight": base.t(), "H_init": torch.ones(4, dtype=torch.bfloat16)}
    save_weights(tmp_path / name, weights)
    found = load_weights(tmp_path / name)
    assert {key: value.tolist() for key, value in found.items()} == {
        strip_prefixes(key): value.tolist() for key, value in weights.items()
    }
    assert found["H_init"].dtype == torch.bfloat16
    assert files_of(tmp_path) == [name]


def test_a_view_does_not_drag_its_storage_along(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.pt", {"w": torch.zeros(1_000_000)[:10]})
    assert (tmp_path / "w.pt").stat().st_size < 10_000


@pytest.mark.parametrize("legacy", [False, True])
def test_official_files_load(tmp_path: Path, legacy: bool) -> None:
    torch.save({OFFICIAL: torch.ones(2, 3)}, tmp_path / "step_9", _use_new_zipfile_serialization=not legacy)
    assert load_weights(tmp_path / "step_9").keys() == {"L_level.layers.0.self_attn.qkv_proj.weight"}


def test_unusable_weights_are_refused_in_one_line(tmp_path: Path) -> None:
    files = foreign_files(tmp_path)
    for name in ("torch", "legacy", "weights"):
        assert load_weights(files.pop(name)).keys() == {"w"}
    save_state(tmp_path / "latest_state.pt", make_state(1))
    files["state"] = tmp_path / "latest_state.pt"
    for name, value in {
        "nested": {"model": {"w": torch.ones(2)}},
        "list": [torch.ones(2)],
        "empty": {},
        "twice": {"model.w": torch.ones(2), "inner.w": torch.ones(2)},
    }.items():
        files[name] = tmp_path / f"{name}.pt"
        torch.save(value, files[name])
    files["bad_safetensors"] = tmp_path / "x.safetensors"
    files["bad_safetensors"].write_bytes(b"\xff" * 100)
    for name, path in files.items():
        with pytest.raises(UserError) as caught:
            load_weights(path)
        assert path.name in str(caught.value) and "\n" not in str(caught.value), name
    with pytest.raises(UserError, match="full state.*resume=FILE"):
        load_weights(files["state"])
    assert not (tmp_path / "owned").exists()


def test_a_flip_in_weights_never_changes_them_silently(tmp_path: Path) -> None:
    expected = torch.arange(40.0)
    save_weights(tmp_path / "ours.pt", {"w": expected})
    torch.save({"w": expected}, tmp_path / "official.pt")
    draw = random.Random(3)
    refused = {"ours.pt": 0, "official.pt": 0}
    for name in refused:
        sound = (tmp_path / name).read_bytes()
        for _ in range(300):
            damaged = bytearray(sound)
            damaged[draw.randrange(len(sound))] ^= 1 << draw.randrange(8)
            (tmp_path / "d.pt").write_bytes(damaged)
            try:
                found = load_weights(tmp_path / "d.pt")
            except UserError:
                refused[name] += 1
            else:  # padding of a file without checksum; ours whose checksum's own bytes are hit, CRCs sound
                assert torch.equal(found["w"], expected)
    assert refused["ours.pt"] > 250 and refused["official.pt"] > 100


def test_differences_are_listed_in_one_line() -> None:
    expected = {"a": (2, 3), "b": torch.zeros(4), "c": (1,), "puzzle_emb.weights": (5, 8)}
    weights = {
        "model.a": torch.zeros(2, 3),
        "b": torch.zeros(5),
        "d": torch.zeros(()),
        "inner.puzzle_emb.weights": torch.zeros(9, 8),
    }
    report = compare_weights(expected, weights)
    assert report.missing == ("c",) and report.unexpected == ("d",)
    assert report.misshapen == ("b (file 5, model 4)", "puzzle_emb.weights (file 9×8, model 5×8)")
    with pytest.raises(UserError) as caught:
        check_weights(expected, weights, source="x.pt")
    for part in (
        "x.pt",
        "1 missing: c",
        "1 unexpected: d",
        "2 misshapen: b (file 5, model 4), puzzle_emb.weights",
    ):
        assert part in str(caught.value)
    check_weights({"a": (2, 3)}, {"model.a": torch.zeros(2, 3)})


def test_long_lists_are_shortened_with_a_count() -> None:
    report = compare_weights({f"k{n:02}": (1,) for n in range(20)}, {})
    assert not report.fits and str(report).endswith("k07 and 12 more") and str(report).startswith("20 missing: k00")
