"""What a run tells of itself over time: compute in the log, initial, best and final in the summary and its table."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from errors import UserError
from models.config import ModelConfig
from models.flops import step_flops
from models.registry import build_model
from tests.helpers import differences, logged, read_state, train_here
from training.evaluation.summary_table import aligned, compute_point, summary_table
from training.initial_weights import weights_digest
from training.records.metrics_log import read_metrics
from training.storage.checkpoint import save_state, save_weights
from training.storage.weights import load_weights
from training.validation import Best

COMPUTE = ("train/seconds", "train/samples", "train/flops")
# Nothing is trained: what a run ends with is what it began with.
FROZEN = ["lr=0", "puzzle_emb_lr=0", "ema=False", "guards.mode=off", "max_steps=8"]
MEASURED = ("numerator", "denominator", "accuracy", "lm_loss", "q_halt_accuracy")


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def measured(folder: Path, which: str) -> dict[str, Any]:
    return {key: summary_of(folder)["test"][which][key] for key in MEASURED}


@pytest.fixture
def trained(sudoku6_folder: Path, tmp_path: Path) -> Path:
    """Weights of some other run, with a puzzle table that is not zero."""
    train_here("trm_att", sudoku6_folder, tmp_path / "other", ["max_steps=3", "seed=5"])
    return tmp_path / "other" / "final.pt"


def test_every_line_says_where_the_run_stood(sudoku6_folder: Path, tmp_path: Path) -> None:
    """Two sessions, evaluations between: samples and operations in closed form, seconds of training only."""
    for end in (10, 21):
        train_here("trm_att", sudoku6_folder, tmp_path, [f"max_steps={end}", "fast_eval_interval=3"])
    lines = list(read_metrics(tmp_path / "metrics.jsonl"))
    config = ModelConfig(
        kind="trm", seq_len=36, vocab_size=8, num_puzzle_identifiers=1, puzzle_emb_ndim=16, puzzle_emb_len=2,
        hidden_size=16, num_heads=2, expansion=2, H_cycles=2, L_cycles=2, H_layers=0, L_layers=1,
        pos_encodings="rope", swiglu_multiple=1, mlp_t=False, halt_max_steps=4,
    )  # fmt: skip
    for line in lines:
        assert line["train/samples"] == 8 * line["step"]
        assert line["train/flops"] == line["train/samples"] * step_flops(config, training=True)
    seconds = [line["train/seconds"] for line in lines]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert seconds[-1] == summary_of(tmp_path)["train_seconds"] == read_state(tmp_path)["train_seconds"]
    after_updates = {line["step"]: line["train/seconds"] for line in lines if "train/loss" in line}
    assert len(set(after_updates.values())) == len(after_updates) == 21
    evaluations = [line for line in lines if "eval/fast/count" in line]
    assert {3, 6, 8, 18, 21} <= {line["step"] for line in evaluations}
    assert all(line["train/seconds"] == after_updates[line["step"]] for line in evaluations)
    assert "train/seconds" not in {key for line in logged(tmp_path) for key in line}


def test_the_summary_tells_what_best_and_final_have_cost(sudoku6_folder: Path, tmp_path: Path) -> None:
    train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=20", "fast_eval_interval=6"])
    summary = summary_of(tmp_path)
    assert summary["curve"].keys() == {"best", "final"}
    for which, step in (("best", summary["best"]["step"]), ("final", 20)):
        (line,) = [
            line
            for line in read_metrics(tmp_path / "metrics.jsonl")
            if line["step"] == step and "eval/fast/count" in line
        ]
        values = {key.removeprefix("train/"): line[key] for key in COMPUTE}
        assert summary["curve"][which] == {"updates": step, **values}


def test_initial_weights_are_those_the_run_began_with(trained: Path, sudoku6_folder: Path, tmp_path: Path) -> None:
    """A run that trains nothing ends with them; one that trains reports the same numbers for them."""
    for name, start in (("seeded", []), ("given", [f"init_from={trained}"])):
        frozen, moving = tmp_path / f"{name}-frozen", tmp_path / f"{name}-moving"
        train_here("trm_att", sudoku6_folder, frozen, [*FROZEN, *start])
        train_here("trm_att", sudoku6_folder, moving, [*start, "max_steps=8", "lr=0.01", "ema=False"])
        assert measured(frozen, "initial") == measured(frozen, "final") == measured(moving, "initial")
        assert measured(moving, "initial") != measured(moving, "final")
        assert summary_of(moving)["test"]["initial"]["step"] == 0
        low, high = summary_of(moving)["test"]["initial"]["interval95"]
        assert 0 <= low <= summary_of(moving)["test"]["initial"]["value"] <= high < 1
    assert measured(tmp_path / "seeded-frozen", "initial") != measured(tmp_path / "given-frozen", "initial")
    train_here("trm_att", sudoku6_folder, tmp_path / "another", [*FROZEN, "seed=1"])
    assert measured(tmp_path / "another", "initial") != measured(tmp_path / "seeded-frozen", "initial")


def test_a_run_in_parts_reports_the_same(trained: Path, sudoku6_folder: Path, tmp_path: Path) -> None:
    """Also when the later command no longer names the weights that the first one started from."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ["max_steps=20", "fast_eval_interval=6"]
    train_here("trm_att", sudoku6_folder, whole, [*options, f"init_from={trained}"])
    train_here("trm_att", sudoku6_folder, parts, [*options, f"init_from={trained}", "max_steps=9"])
    train_here("trm_att", sudoku6_folder, parts, options)
    first, second = summary_of(whole), summary_of(parts)
    for summary in (first, second):
        numbers = summary["record"]["numbers"]
        summary["record"]["numbers"] = [number for number in numbers if number.get("unit") != "seconds"]
        assert len(summary["record"]["numbers"]) == len(numbers) - 1
    assert differences(first, second, ignore=("train_seconds", "seconds")) == []
    assert first["test"].keys() == {"initial", "best", "final"}
    for summary in (first, second):
        assert 0 < summary["curve"]["best"]["seconds"] <= summary["curve"]["final"]["seconds"]


def test_a_lost_start_is_left_out_and_told(
    trained: Path, sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for change in ("gone", "changed"):
        run, start = tmp_path / change, tmp_path / f"{change}.pt"
        weights = load_weights(trained)
        save_weights(start, weights)
        train_here("trm_att", sudoku6_folder, run, [f"init_from={start}", "max_steps=2"])
        start.unlink()
        if change == "changed":
            weights["q_head.bias"][0] += 1
            save_weights(start, weights)
        capsys.readouterr()
        train_here("trm_att", sudoku6_folder, run, [f"init_from={start}", "max_steps=4"])
        warnings = [line for line in capsys.readouterr().err.splitlines() if "initial weights" in line]
        assert len(warnings) == 1 and str(start) in warnings[0], warnings
        assert {"gone": "there is no such file", "changed": "no longer gives"}[change] in warnings[0]
        assert summary_of(run)["test"].keys() == {"best", "final"}


def test_a_state_without_a_start(sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Written before starts were noted, or by other code."""
    train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=2"])
    state = read_state(tmp_path)
    good = state.pop("initial")
    assert good["init_from"] is None and len(good["sha256"]) == 64
    save_state(tmp_path / "latest_state.pt", state)
    train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=4"])
    assert "no test of the initial weights: the run was begun by" in capsys.readouterr().err
    assert summary_of(tmp_path)["test"].keys() == {"best", "final"}
    for bad in ("x", {"init_from": 3, "sha256": "0"}, {"sha256": "0"}, good | {"more": 1}):
        save_state(tmp_path / "latest_state.pt", state | {"initial": bad})
        (tmp_path / "previous_state.pt").unlink(missing_ok=True)
        with pytest.raises(UserError, match="is no state that this run can go on from"):
            train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=6"])


def test_a_branch_has_no_point_for_an_earlier_best(
    sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log begins where it branched off; the start is known all the same."""
    run, branch = tmp_path / "run", tmp_path / "branch"
    options = ["fast_eval_interval=4", "fast_validation_size=8"]
    train_here("trm_att", sudoku6_folder, run, [*options, "max_steps=8"])
    source = run / "best_state.pt"
    step = summary_of(run)["best"]["step"]
    assert step < 8, "ties keep the earlier one"
    train_here("trm_att", sudoku6_folder, branch, [*options, f"max_steps={step + 1}", f"resume={source}"])
    point = {"updates": step, "samples": None, "flops": None, "seconds": None}
    assert summary_of(branch)["curve"]["best"] == point
    assert summary_of(branch)["curve"]["final"]["samples"] == 8 * (step + 1)
    assert measured(branch, "initial") == measured(run, "initial")


def test_digest_of_weights() -> None:
    shape = ModelConfig(
        kind="trm", seq_len=4, vocab_size=5, num_puzzle_identifiers=2, puzzle_emb_ndim=8, puzzle_emb_len=1,
        hidden_size=8, num_heads=2, expansion=1, H_cycles=1, L_cycles=1, H_layers=0, L_layers=1,
        pos_encodings="rope", swiglu_multiple=1, mlp_t=False, halt_max_steps=2,
    )  # fmt: skip
    model = build_model(shape, 1)
    digest = weights_digest(model)
    assert digest == weights_digest(build_model(shape, 1)) != weights_digest(build_model(shape, 2))
    for name, tensor in model.state_dict().items():
        changed = build_model(shape, 1)
        last = changed.state_dict()[name].view(-1)[-1:]
        last.copy_(torch.nextafter(last, torch.full_like(last, 9.0)))
        assert weights_digest(changed) != digest, name
        assert tensor.numel()


def test_table() -> None:
    """Aligned, exact accuracy first, dashes for what is not known."""
    test = {
        "initial": {"numerator": 0, "denominator": 80, "accuracy": 0.25, "lm_loss": 2.5},
        "final": {"numerator": 40, "denominator": 80, "accuracy": 0.75, "lm_loss": 0.5},
        "best": {"numerator": 76, "denominator": 80, "accuracy": 0.975, "lm_loss": 0.125},
    }
    curve = {
        "best": compute_point(400, {"train/samples": 25600, "train/flops": 1.25e15, "train/seconds": 59.6}),
        "final": compute_point(600, {"train/samples": 38400, "train/flops": 1.875e15, "train/seconds": 90.1}),
    }
    final = {"step": 600, "value": 0.5, "numerator": 10, "denominator": 20}
    lines = aligned(summary_table({"test": test, "curve": curve, "final": final}, Best(0.95, 400, 19, 20)))
    assert lines == [
        "rows, weights      exact accuracy                   tokens    loss  updates  samples     FLOPs  seconds",
        "validation, best   0.9500 (19/20, 95% 0.764-0.991)       -       -      400   25,600  1.25e+15       60",
        "validation, final  0.5000 (10/20, 95% 0.299-0.701)       -       -      600   38,400  1.88e+15       90",
        "test, initial      0.0000 (0/80, 95% 0.000-0.046)   0.2500  2.5000        0        0         0        0",
        "test, best         0.9500 (76/80, 95% 0.878-0.980)  0.9750  0.1250      400   25,600  1.25e+15       60",
        "test, final        0.5000 (40/80, 95% 0.393-0.607)  0.7500  0.5000      600   38,400  1.88e+15       90",
    ]
    unknown = {"test": {}, "curve": curve | {"best": compute_point(7, {})}}
    assert [line.split()[-4:] for line in aligned(summary_table(unknown, Best(0.5, 7, 1, 2)))[1:]] == [
        ["7", "-", "-", "-"]
    ]


def test_the_table_is_printed(sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=4"])
    lines = capsys.readouterr().out.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("rows, weights"))
    names = [line.split("  ")[0] for line in lines[start + 1 : start + 6]]
    assert names == ["validation, best", "validation, final", "test, initial", "test, best", "test, final"]
    assert all("/8, 95% " in line for line in lines[start + 1 : start + 6])
    assert json.loads(lines[-1])["steps"] == 4
