"""Other modes of evaluation inside a run: they change what is reported, never what is trained."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import differences, read_state, train_here
from training.records.metrics_log import read_metrics

MODES = {
    "longer": ["eval.max_steps=6"],
    "adaptive": ["eval.adaptive_halt=True", "eval.max_steps=6"],
    "vote": ["eval.vote.views=2"],
}


@pytest.mark.parametrize("mode", MODES)
def test_a_run_trains_as_ever_and_reports_by_the_mode(mode: str, sudoku6_folder: Path, tmp_path: Path) -> None:
    official, other = tmp_path / "official", tmp_path / mode
    train_here("trm_mlp", sudoku6_folder, official, ["max_steps=16"])
    outputs = "eval_save_outputs=[preds,steps]" if mode == "adaptive" else "eval_save_outputs=[preds]"
    train_here("trm_mlp", sudoku6_folder, other, ["max_steps=16", *MODES[mode], outputs])
    judged = ("train_seconds", "validation")
    assert differences(read_state(official), read_state(other), ignore=judged) == []
    expected = 4 if mode == "vote" else 6
    summary = json.loads((other / "summary.json").read_text())
    assert summary["test"]["final"]["supervision_steps"] == expected
    (last,) = [line for line in read_metrics(other / "metrics.jsonl") if "eval/steps" in line][-1:]
    with np.load(other / f"step_{last['step']}_all_preds.0.npz", allow_pickle=False) as saved:
        assert saved["preds"].shape == (8, 36)
        if mode == "adaptive":
            assert 1 <= saved["steps"].min() and saved["steps"].max() <= expected
            assert last["eval/steps"] == pytest.approx(saved["steps"].mean())
        else:
            assert last["eval/steps"] == expected
