"""A signal during an evaluation is obeyed at its next batch, and the run that goes on is the undisturbed one."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import assert_same_state, logged_training, train_here
from training import scoring
from training.evaluation.answering import evaluate
from training.records.metrics_log import read_metrics

# 24 updates: three iterations, each evaluated; the fast interval adds evaluations at 5, 10, ... where it is set.
OPTIONS = ["epochs=3", "eval_interval=1", "eval_batch_size=2", "log_interval=1"]


def count_evaluations(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> list[int]:
    """Let `act(number)` come before each of a run's evaluations; returns the batches that each one saw."""
    seen: list[int] = []

    def counted(model: Any, batches: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        class Counted:
            def __len__(self) -> int:
                return len(batches)

            def __iter__(self) -> Any:
                for number, batch in enumerate(batches):
                    if number == 0:
                        act(len(seen) - 1)
                    seen[-1] += 1
                    yield batch

        seen.append(0)
        return evaluate(model, Counted(), *args, **kwargs)

    monkeypatch.setattr(scoring, "evaluate", counted)
    return seen


def told(folder: Path) -> dict[str, Any]:
    """What a run says at its end, without what depends on the clock."""
    summary = json.loads((folder / "summary.json").read_text())
    kept = ("steps", "best", "final", "samples_seen", "baselines")
    tests = {which: tested["numerator"] for which, tested in summary["test"].items()}
    return {name: summary[name] for name in kept} | {"tests": tests}


def evaluations(folder: Path) -> dict[tuple[int, bool], float]:
    """Logged evaluations: loss by update and kind. The one of the end is made, and logged, again after a stop."""
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if "eval/fast/count" in line]
    return {(line["step"], "eval/validation/count" in line): line["eval/fast/lm_loss"] for line in lines}


@pytest.mark.parametrize("fast", [None, 5])
def test_every_evaluation_of_a_run_may_be_stopped(
    fast: int | None, sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*OPTIONS, *([] if fast is None else [f"fast_eval_interval={fast}", "fast_validation_size=8"])]
    whole = tmp_path / "whole"
    with monkeypatch.context() as patch:
        batches = count_evaluations(patch, lambda number: None)
        assert train_here("trm_mlp", sudoku6_folder, whole, options) == "done"
    assert min(batches) >= 2 and len(batches) >= (5 if fast is None else 10)
    for stopped in range(len(batches)):
        run = tmp_path / f"stopped_{stopped}"

        def stop(number: int, wanted: int = stopped) -> None:
            if number == wanted:
                os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            seen = count_evaluations(patch, stop)
            assert train_here("trm_mlp", sudoku6_folder, run, options) == "stopped"
        assert seen[:-1] == batches[:stopped] and seen[-1] == 1
        assert json.loads((run / "status.json").read_text())["state"] == "stopped"
        assert not (run / "summary.json").exists()
        assert train_here("trm_mlp", sudoku6_folder, run, options) == "done"
        assert told(run) == told(whole) and told(run)["baselines"]
        assert logged_training(run) == logged_training(whole)
        assert evaluations(run) == evaluations(whole)
        assert_same_state(run, whole)
