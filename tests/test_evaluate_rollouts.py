"""evaluate.py with stochastic rollouts: the command of the README, the official numbers without noise, refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evaluate
from tests.helpers import train_here
from training.evaluation.rollout_report import SELECTORS
from training.evaluation.rollout_table import read_rollouts
from training.inference.rollout_choice import with_inference

COMMAND = ["eval.rollouts=6", "eval.sigma=0.3", "eval.site=z_L", "eval.max_steps=8"]
SOLVES = ["lr=2e-2", "weight_decay=0", "arch.hidden_size=64", "arch.halt_max_steps=2", "epochs=80", "eval_interval=80"]


@pytest.fixture(scope="module")
def trained(sudoku4_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that solves some puzzles."""
    folder = tmp_path_factory.mktemp("runs") / "solves"
    options = [*SOLVES, "max_test_rows=9", "validation_size=2", "fast_validation_size=2"]
    assert train_here("trm_mlp", sudoku4_folder, folder, options) == "done"
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def evaluated(run: Path, name: str, *options: str) -> dict[str, Any]:
    evaluate.main([f"checkpoint={run}/best.pt", "device=cpu", *options])
    return json.loads((run / f"evaluation_{name}.json").read_text())


def test_noise_at_every_step_and_what_is_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = evaluated(run, "best_steps8_rollouts", *COMMAND, "save_outputs=[preds,q_halt_logits]", "batch_size=4")
    printed = capsys.readouterr().out
    assert "stochastic rollouts: noise of 0.3 on z_L at each of 8 supervision steps, 6 rollouts of each row" in printed
    assert [result["rows"] for result in record["results"]] == ["test", "validation"]
    arrays = np.load(run / "predictions_best_steps8_rollouts.npz", allow_pickle=False)
    for result in record["results"]:
        kind, made = result["rows"], result["rollouts"]
        table, settings = read_rollouts(run / "evaluation_best_steps8_rollouts.npz", f"{kind}/", mend="")
        assert settings == {key: value for key, value in made.items() if key != "accuracy"}
        assert (made["sigma"], made["site"], made["rollouts"], made["steps"]) == (0.3, "z_L", 6, [2, 4, 8])
        assert made["puzzles"] == len(table.row) == result["exact_accuracy"]["denominator"]
        by_name = {(each["selector"], each["steps"], each["rollouts"]): each for each in made["accuracy"]}
        assert set(by_name) == {(name, steps, r) for name in SELECTORS for steps in (2, 4, 8) for r in (1, 2, 4, 6)}
        # What q chooses is what everything else in the report judges.
        assert by_name["q", 8, 6]["exact_accuracy"] == result["exact_accuracy"]
        best = table.q[..., -1].argmax(axis=1)
        rows = np.arange(len(table.row))
        assert np.array_equal(arrays[f"{kind}/q_halt_logits"], table.q[rows, best, -1])
        assert result["exact_accuracy"]["numerator"] == table.exact[rows, best, -1].sum()
        assert result["per_step"] is None and result["robustness"] is None and result["mode"]["rollouts"] == 6
        padded = -(-len(rows) // 4) * 4 if len(rows) > 4 else len(rows)
        assert result["compute"]["forward_passes"] == padded * 6 * (8 + 3 * 4 * (1 + 2))
        assert by_name["stability", 8, 2]["forward_passes"] == 2 * (8 + 12)
        assert table.growth.shape == (len(rows), 6, 3, 1) and np.isfinite(table.growth).all()


def test_batch_size_changes_no_answer(run: Path) -> None:
    made = []
    for size in (3, 10):
        options = [*COMMAND, "eval.sigma=4", "dtype=float64", f"batch_size={size}", "split=test"]
        evaluated(run, "best_steps8_rollouts", *options)
        made.append(read_rollouts(run / "evaluation_best_steps8_rollouts.npz", "test/", mend="")[0])
    for name in ("row", "exact", "answer"):
        assert np.array_equal(getattr(made[0], name), getattr(made[1], name)), name
    answers = made[0].answer[..., -1]
    assert (answers != answers[:, :1]).any(), "and the rollouts of a puzzle differ"


@pytest.mark.parametrize("options", [[], ["eval.max_steps=5"]])
def test_without_noise_one_rollout_is_the_official_evaluation(run: Path, options: list[str]) -> None:
    """Every number and every saved bit."""
    outputs = "save_outputs=[preds,logits,q_halt_logits,steps]"
    name = "best" if not options else "best_steps5"
    official = evaluated(run, name, *options, outputs)
    alone = [*options, "eval.sigma=0", "eval.rollouts=1", "eval.stability_sizes=[]"]
    stochastic = evaluated(run, f"{name}_rollouts", *alone, outputs)
    first, second = (np.load(run / f"predictions_{each}.npz") for each in (name, f"{name}_rollouts"))
    assert set(first.files) == set(second.files)
    for key in first.files:
        assert first[key].tobytes() == second[key].tobytes(), key
    for one, other in zip(official["results"], stochastic["results"], strict=True):
        for key in ("exact_accuracy", "accuracy", "lm_loss", "q_halt_accuracy", "calibration", "difficulty", "sudoku"):
            assert one[key] == other[key], key
        assert one["compute"]["forward_passes"] == other["compute"]["forward_passes"]
        assert {each["selector"] for each in other["rollouts"]["accuracy"]} == set(SELECTORS) - {"stability"}


def test_a_list_still_means_perturbed_starts(run: Path) -> None:
    (test, _) = evaluated(run, "best_perturbed", "eval.sigma=[0.3]", "eval.site=z_L", "eval.rollouts=2")["results"]
    assert test["robustness"][0]["rollouts"] == 2 and "rollouts" not in test and "rollouts" not in test["mode"]
    named = evaluated(run, "best_rollouts", "eval.sigma=[0.3]", "eval.inference=stochastic_rollouts", "eval.rollouts=2")
    assert named["results"][0]["rollouts"]["rollouts"] == 2 and named["results"][0]["robustness"] is None


def test_what_decides() -> None:
    implied = ["eval.sigma=[0.3]", "eval.inference=stochastic_rollouts"]
    assert with_inference(["eval.sigma=0.3"]) == ["eval.sigma=0.3", *implied]
    assert with_inference(["+eval.sigma=1e-3"])[1:] == ["eval.sigma=[1e-3]", implied[1]]
    assert with_inference(["eval.sigma=[1]", "eval.sigma=0.3", "eval.inference=null"])[3:] == implied
    named = ["eval.inference=perturbed_starts", "eval.sigma=0.3"]
    assert with_inference(named) == [*named, "eval.sigma=[0.3]"]
    for left in (["eval.sigma=[0.3]"], ["eval.sigma=small"], ["eval.sigma=0.3", "eval.sigma=[1]"], ["eval.sigma"], []):
        assert with_inference(left) == left


BAD = {
    "eval.sigma=-0.1": "option 'eval.sigma': found [-0.1], expected 0 or more",
    "eval.sigma=nan": "option 'eval.sigma': found [nan], expected a finite number",
    "eval.sigma=0.3 eval.site=z": "option 'eval.site': found 'z', expected one of: z_H, z_L, both",
    "eval.sigma=0.3 eval.rollouts=0": "option 'eval.rollouts': found 0, expected at least 1",
    "eval.sigma=0.3 eval.vote=2": "leave out eval.adaptive_halt and eval.vote",
    "eval.sigma=0.3 eval.adaptive_halt=true": "stochastic rollouts take a fixed number of steps",
    "eval.inference=stochastic_rollouts": "found none, expected one noise scale for stochastic rollouts",
    "eval.inference=stochastic_rollouts eval.sigma=[1,2]": "found 1, 2, expected one noise scale",
    "eval.inference=perturbed_starts": "perturbed_starts needs noise scales",
    "eval.inference=ptrm": "option 'eval.inference': found 'ptrm', expected one of: stochastic_rollouts",
    "eval.clean_first=true": "'eval.clean_first' is of stochastic rollouts: give a noise scale too",
    "eval.sigma=[0.1] eval.stability_steps=2": "'eval.stability_steps' is of stochastic rollouts",
    "eval.sigma=0.3 eval.stability_steps=0": "option 'eval.stability_steps': found 0, expected at least 1",
    "eval.sigma=0.3 eval.stability_sizes=[1e-9]": "found [1e-09], expected a number from 1e-06 to 1",
    "eval.sigma=0.3 eval.stability_sizes=[0.1,1e-1]": "option 'eval.stability_sizes': expected each size once",
    "eval.sigma=0.3 eval.noise_seed=-1": "option 'eval.noise_seed': found -1, expected 0 or more",
    "eval.sigma=0.3 eval.max_steps=4 eval.judged_steps=[5]": "'eval.judged_steps': found 5, expected steps from 1 to 4",
    "eval.sigma=0.3 eval.judged_steps=[3]": "'eval.judged_steps': found 3, expected steps from 1 to 2",
    "eval.sigma=0.3 save_outputs=[step_preds]": "save_outputs: 'step_preds' needs the answers after every step",
}


@pytest.mark.parametrize(("options", "says"), BAD.items())
def test_bad_options(run: Path, options: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run.iterdir())
    with pytest.raises(SystemExit) as caught:
        evaluate.main([f"checkpoint={run}/best.pt", "device=cpu", *options.split()])
    captured = capsys.readouterr()
    assert caught.value.code == 2 and says in captured.err and captured.err.count("\n") == 1
    assert sorted(run.iterdir()) == before


def test_bfloat16_layers_answer_without_probes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = evaluated(run, "best_rollouts", "eval.sigma=0.3", "eval.rollouts=2", "dtype=bfloat16", "split=test")
    assert "warning: no stability of rollouts: bfloat16 layers" in capsys.readouterr().err
    (result,) = record["results"]
    assert result["rollouts"]["stability"] is None
    assert {each["selector"] for each in result["rollouts"]["accuracy"]} == set(SELECTORS) - {"stability"}
