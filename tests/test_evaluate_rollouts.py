"""evaluate.py with stochastic rollouts: the command of the README, the official numbers without noise, refusals."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evaluate
from tests.helpers import newest_report, train_here
from training.evaluation.rollout_report import SELECTORS
from training.evaluation.rollout_table import read_rollouts

ROLLOUTS = "eval.stochastic_rollouts"
COMMAND = [*(f"{ROLLOUTS}.{word}" for word in ("rollouts=6", "sigma=0.3", "site=z_L")), "eval.max_steps=8"]
PROBED = f"{ROLLOUTS}.probes.sizes=[1e-3]"
ASKED = "rollouts0.3-rollouts6-sitez_L"
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
    return newest_report(run, name)


def test_noise_at_every_step_and_what_is_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = evaluated(
        run,
        f"best_steps8_{ASKED}-probes.sizes0.001",
        *COMMAND,
        PROBED,
        "save_outputs=[preds,q_halt_logits]",
        "batch_size=4",
    )
    printed = capsys.readouterr().out
    assert "stochastic rollouts: noise of 0.3 on z_L at each of 8 supervision steps, 6 rollouts of each row" in printed
    assert [result["rows"] for result in record["results"]] == ["test", "validation"]
    name = f"best_steps8_{ASKED}-probes.sizes0.001"
    files = {"test": f"predictions_{name}.npz", "validation": f"predictions_{name}_validation.npz"}
    for result in record["results"]:
        kind, made = result["rows"], result["rollouts"]
        table, settings = read_rollouts(run / f"evaluation_{name}.npz", f"{kind}/", mend="")
        arrays = np.load(run / files[kind], allow_pickle=False)
        assert settings == {key: value for key, value in made.items() if key != "accuracy"}
        assert (made["sigma"], made["site"], made["rollouts"], made["steps"]) == (0.3, "z_L", 6, [2, 4, 8])
        assert made["puzzles"] == len(table.row) == result["exact_accuracy"]["denominator"]
        by_name = {(each["selector"], each["steps"], each["rollouts"]): each for each in made["accuracy"]}
        choices = {(each, steps, r) for each in SELECTORS for steps in (2, 4, 8) for r in (1, 2, 4, 6)}
        assert set(by_name) == choices | {("noiseless", steps, 1) for steps in (2, 4, 8)}
        assert by_name["noiseless", 8, 1]["exact_accuracy"]["numerator"] == table.noiseless[:, -1].sum()
        # What q chooses is what everything else in the report judges.
        assert by_name["q", 8, 6]["exact_accuracy"] == result["exact_accuracy"]
        best = table.q[..., -1].argmax(axis=1)
        rows = np.arange(len(table.row))
        assert np.array_equal(arrays["q_halt_logits"], table.q[rows, best, -1])
        assert result["exact_accuracy"]["numerator"] == table.exact[rows, best, -1].sum()
        assert result["per_step"] is None and result["robustness"] is None and result["mode"]["rollouts"] == 6
        padded = -(-len(rows) // 4) * 4 if len(rows) > 4 else len(rows)
        assert result["compute"]["forward_passes"] == padded * (8 + 6 * (8 + 3 * 4 * (1 + 2)))
        assert by_name["stability", 8, 2]["forward_passes"] == 2 * (8 + 12)
        assert table.growth.shape == (len(rows), 6, 3, 1) and np.isfinite(table.growth).all()


def test_batch_size_changes_no_answer(run: Path) -> None:
    made = []
    for size in (3, 10):
        options = [*COMMAND, f"{ROLLOUTS}.sigma=4", "dtype=float64", f"batch_size={size}", "split=test"]
        name = "best_test_rows_float64_steps8_rollouts4-rollouts6-sitez_L"
        evaluated(run, name, *options)
        made.append(read_rollouts(run / f"evaluation_{name}.npz", "test/", mend="")[0])
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
    alone = [*options, f"{ROLLOUTS}.sigma=0", f"{ROLLOUTS}.rollouts=1"]
    stochastic = evaluated(run, f"{name}_rollouts0-rollouts1", *alone, outputs)
    first, second = (np.load(run / f"predictions_{each}.npz") for each in (name, f"{name}_rollouts0-rollouts1"))
    assert set(first.files) == set(second.files)
    for key in first.files:
        assert first[key].tobytes() == second[key].tobytes(), key
    for one, other in zip(official["results"], stochastic["results"], strict=True):
        for key in ("exact_accuracy", "accuracy", "lm_loss", "q_halt_accuracy", "calibration", "difficulty", "sudoku"):
            assert one[key] == other[key], key
        assert one["compute"]["forward_passes"] == other["compute"]["forward_passes"]
        assert {each["selector"] for each in other["rollouts"]["accuracy"]} == {"noiseless", *SELECTORS} - {"stability"}


def test_without_probes_every_pass_is_a_step_of_a_rollout(run: Path) -> None:
    """Unasked there are none, and asking for them changes no answer."""
    words = [*COMMAND, "split=test", "batch_size=5"]  # 10 rows, so that none is padding
    name = f"best_test_rows_steps8_{ASKED}"
    plain = evaluated(run, name, *words)["results"][0]
    probed = evaluated(run, f"{name}-probes.sizes0.001", *words, PROBED)["results"][0]
    rows = plain["exact_accuracy"]["denominator"]
    assert plain["compute"]["forward_passes"] == rows * (6 + 1) * 8
    assert probed["compute"]["forward_passes"] == rows * (8 + 6 * (8 + 3 * 4 * (1 + 2)))
    assert plain["rollouts"]["stability"] is None
    assert probed["rollouts"]["stability"] == {"sizes": [1e-3], "steps": 4, "directions": 2}
    kept = [each for each in probed["rollouts"]["accuracy"] if each["selector"] != "stability"]
    assert plain["rollouts"]["accuracy"] == kept != probed["rollouts"]["accuracy"]
    for key in ("exact_accuracy", "accuracy", "lm_loss", "calibration"):
        assert plain[key] == probed[key]


def test_the_older_spelling_makes_the_same_tables(run: Path) -> None:
    older = ["eval.rollouts=6", "eval.sigma=0.3", "eval.site=z_L", "eval.max_steps=8", "eval.stability_sizes=[1e-3]"]
    name, files = f"best_steps8_{ASKED}-probes.sizes0.001", []
    for words in ([*COMMAND, PROBED], older):
        evaluated(run, name, *words)
        files.append((run / f"evaluation_{name}.npz").read_bytes())
    assert files[0] == files[1]


def test_perturbed_starts_beside(run: Path) -> None:
    words = ["eval.perturbed_starts.sigma=[0.3]", "eval.perturbed_starts.site=z_L", "eval.perturbed_starts.starts=2"]
    (test, _) = evaluated(run, "best_perturbed0.3-starts2-sitez_L", *words)["results"]
    assert test["robustness"][0]["rollouts"] == 2 and "rollouts" not in test and "rollouts" not in test["mode"]


BAD = {
    "sigma=-0.1": "option '{}.sigma': found -0.1, expected 0 or more",
    "sigma=nan": "option '{}.sigma': found nan, expected a finite number",
    "sigma=[0.3]": "option '{}.sigma': found [0.3], expected float or null",
    "sigma=0.3 site=z": "option '{}.site': found 'z', expected one of: z_H, z_L, both",
    "sigma=0.3 rollouts=0": "option '{}.rollouts': found 0, expected a number from 1",
    "sigma=0.3 eval.vote.views=2": "choose among themselves; leave out eval.vote",
    "sigma=0.3 eval.adaptive_halt=true": "'{}': they take a fixed number of steps and choose among themselves",
    "sigma=0.3 eval.perturbed_starts.sigma=[1]": "leave out eval.perturbed_starts",
    "clean_first=true": "option '{}.clean_first' is read with {}.sigma=0.3 only: give that too",
    "probes.sizes=[0.1] eval.perturbed_starts.sigma=[1]": "option '{}.probes.sizes' is read with {}.sigma=0.3 only",
    "sigma=0.3 probes.steps=2": "option '{}.probes.steps' is read with {}.probes.sizes=[1e-3] only: give that too",
    "sigma=0.3 probes.steps=0": "option '{}.probes.steps': found 0, expected a number from 1",
    "sigma=0.3 probes.sizes=[1e-9]": "found [1e-09], expected a number from 1e-06 to 1",
    "sigma=0.3 probes.sizes=[0.1,1e-1]": "option '{}.probes.sizes': expected each size once",
    "sigma=0.3 noise_seed=-1": "option '{}.noise_seed': found -1, expected 0 or more",
    "sigma=0.3 judged_steps=[5] eval.max_steps=4": "'{}.judged_steps': found 5, expected steps from 1 to 4",
    "sigma=0.3 judged_steps=[3]": "'{}.judged_steps': found 3, expected steps from 1 to 2",
    "sigma=0.3 save_outputs=[step_preds]": "save_outputs: 'step_preds' needs the answers after every step",
    "sigam=0.3": "unknown option '{}.sigam' in '{}.sigam=0.3': the nearest valid key is '{}.sigma'",
    "sigma=0.3 probes.size=[1e-3]": "the nearest valid key is '{}.probes.sizes'",
    "eval.inference=stochastic_rollouts": "stochastic_rollouts needs a noise scale: {}.sigma=0.3",
    "eval.inference=stochastic_rollouts eval.sigma=[1,2]": "found 1, 2, expected one noise scale",
    "eval.inference=perturbed_starts": "perturbed_starts needs noise scales: eval.perturbed_starts.sigma",
    "eval.inference=ptrm": "option 'eval.inference': found 'ptrm', expected one of: stochastic_rollouts",
    "sigma=0.3 eval.noise_seed=2 noise_seed=1": "eval.noise_seed=2 and {}.noise_seed=1 say different things: give",
}


@pytest.mark.parametrize(("options", "says"), BAD.items())
def test_bad_options(run: Path, options: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run.iterdir())
    own = ("eval.", "save_outputs")
    words = [word if word.startswith(own) else f"{ROLLOUTS}.{word}" for word in options.split()]
    with pytest.raises(SystemExit) as caught:
        evaluate.main([f"checkpoint={run}/best.pt", "device=cpu", *words])
    captured = capsys.readouterr()
    assert caught.value.code == 2 and says.replace("{}", ROLLOUTS) in captured.err and captured.err.count("\n") == 1
    assert sorted(run.iterdir()) == before


def test_bfloat16_layers_answer_without_probes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{ROLLOUTS}.sigma=0.3", f"{ROLLOUTS}.rollouts=2", "dtype=bfloat16", "split=test"]
    name = "best_test_rows_bfloat16_rollouts0.3-rollouts2"
    record = evaluated(run, f"{name}-probes.sizes0.001", *words, PROBED)
    assert "warning: no stability of rollouts: bfloat16 layers" in capsys.readouterr().err
    (result,) = record["results"]
    assert result["rollouts"]["stability"] is None
    assert {each["selector"] for each in result["rollouts"]["accuracy"]} == {"noiseless", *SELECTORS} - {"stability"}
    again = evaluated(run, name, *words)
    assert "warning" not in capsys.readouterr().err, "nobody asked for probes"
    assert again["results"][0]["rollouts"] == result["rollouts"]
