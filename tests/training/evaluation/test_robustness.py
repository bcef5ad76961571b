"""Accuracy from perturbed starts: counted by hand, its interval, in a run, by evaluate.py, on several processes."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluate
from errors import UserError
from tests.helpers import assert_same_state, logged, newest_report, train_here
from tests.training import rank_jobs
from tests.training.ranks import run_ranks
from training.distributed import World
from training.evaluation.robustness import RATES, RobustnessEvaluator, clustered_interval
from training.inference import vote
from training.inference.base import Predictions
from training.inference.choose import check_inference, mode_parts
from training.inference.perturbed_starts import PerturbedPredictions, Settings
from training.records.result_numbers import wilson_interval
from training.settings.resolving import resolve
from training.settings.schema import EvalConfig


def rollouts(answers: list[list[list[int]]], steps: list[list[int]] | None = None) -> PerturbedPredictions:
    """Rows of rollouts of tokens."""
    given = torch.tensor(answers)
    taken = torch.full(given.shape[:2], 4) if steps is None else torch.tensor(steps)
    zeros = torch.zeros(len(given))
    return PerturbedPredictions(
        given[:, 0], zeros, taken[:, 0], torch.zeros(*given[:, 0].shape, 4), 0,
        rollout_answers=given, rollout_steps=taken,
    )  # fmt: skip


def test_by_hand() -> None:
    """Two rollouts: one row always solved, one by one of them, one never, one of padding, one scored in one cell."""
    evaluator = RobustnessEvaluator(2)
    evaluator.begin()
    labels = torch.tensor([[1, 2], [1, 2], [1, 2], [-100, -100]])
    answers = [[[1, 2], [1, 2]], [[1, 2], [1, 3]], [[3, 2], [3, 3]], [[1, 2], [1, 2]]]
    evaluator.update({"labels": labels}, rollouts(answers, [[2, 4], [4, 4], [4, 4], [9, 9]]))
    evaluator.update({"labels": torch.tensor([[-100, 2]])}, rollouts([[[7, 2], [8, 2]]]))
    result = evaluator.metrics()
    assert evaluator.histogram() == [1, 1, 2]
    assert (result["exact_count"], result["count"], result["puzzles"]) == (5, 8, 4)
    assert (result["always_count"], result["partly_count"], result["never_count"]) == (2, 1, 1)
    assert (result["solved_always"], result["solved_partly"], result["solved_never"]) == (0.5, 0.25, 0.25)
    assert result["exact_accuracy"] == 5 / 8
    assert result["accuracy"] == pytest.approx((1 + 0.75 + 0.25 + 1) / 4, abs=1e-12)
    assert result["steps"] == (3 + 4 + 4 + 4) / 4
    assert (result["exact_low"], result["exact_high"]) == clustered_interval([1, 1, 2])
    assert set(RATES) <= result.keys()


@pytest.mark.parametrize("seed", range(3))
def test_groups_of_any_size_against_counting(seed: int) -> None:
    """Row by row and rollout by rollout in plain Python."""
    rng = random.Random(seed)
    labels = [[rng.choice([-100, 1, 2]) for _ in range(2)] for _ in range(90)]
    answers = [[[rng.choice([1, 2]) for _ in range(2)] for _ in range(3)] for _ in range(90)]
    evaluator, start = RobustnessEvaluator(3), 0
    while start < 90:
        size = rng.randint(0, 6)
        part = slice(start, start + size)
        if labels[part]:
            evaluator.update({"labels": torch.tensor(labels[part])}, rollouts(answers[part]))
        start += size
    counts, shares = [0] * 4, []
    for row, tried in zip(labels, answers, strict=True):
        scored = [i for i in range(2) if row[i] != -100]
        if scored:
            counts[sum(all(one[i] == row[i] for i in scored) for one in tried)] += 1
            shares.append(np.mean([np.mean([one[i] == row[i] for i in scored]) for one in tried]))
    result = evaluator.metrics()
    assert evaluator.histogram() == counts and min(counts) > 0
    assert result["exact_accuracy"] == pytest.approx(sum(k * n for k, n in enumerate(counts)) / 3 / sum(counts))
    assert result["accuracy"] == pytest.approx(np.mean(shares), abs=1e-12)


def test_no_rows_no_rates() -> None:
    result = RobustnessEvaluator(2).metrics()
    assert result == {
        "exact_count": 0,
        "count": 0,
        "puzzles": 0,
        "always_count": 0,
        "partly_count": 0,
        "never_count": 0,
    }


def test_other_predictions_are_a_fault() -> None:
    made = Predictions(torch.zeros(1, 2), torch.zeros(1), torch.zeros(1), torch.zeros(1, 2, 4), 0)
    with pytest.raises(TypeError, match="needs PerturbedInference"):
        RobustnessEvaluator(2).update({"labels": torch.zeros(1, 2)}, made)


# -- the interval


@pytest.mark.parametrize(("solved", "total"), [(0, 9), (3, 10), (426, 500), (12, 12)])
def test_rollouts_that_agree_are_one(solved: int, total: int) -> None:
    """As many trials as puzzles: the interval of the official evaluation."""
    counts = [total - solved, 0, 0, 0, solved]
    assert clustered_interval(counts) == pytest.approx(wilson_interval(solved, total), abs=1e-12)


def test_rollouts_that_differ_no_more_than_coins_are_all_counted() -> None:
    """Every puzzle solved by half of its rollouts: no variance between puzzles, never more trials than rollouts."""
    assert clustered_interval([0, 0, 50, 0, 0]) == pytest.approx(wilson_interval(100, 200), abs=1e-12)
    # Shares spread as two fair coins a puzzle spread them.
    assert clustered_interval([25, 50, 25]) == pytest.approx(wilson_interval(100, 200), abs=1e-12)


def test_interval_is_that_of_resampled_puzzles() -> None:
    """Against a percentile bootstrap over puzzles, far from 0 and 1."""
    counts = np.array([150, 40, 30, 60, 220])
    drawn = np.random.default_rng(0).multinomial(counts.sum(), counts / counts.sum(), size=100_000)
    rates = drawn @ (np.arange(5) / 4) / counts.sum()
    assert clustered_interval(counts.tolist()) == pytest.approx(np.quantile(rates, [0.025, 0.975]), abs=0.002)


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.2), (2.0, 1.0), (8.0, 0.5)])
def test_interval_covers_the_truth_as_often_as_it_says(a: float, b: float) -> None:
    """4,000 draws of 200 puzzles, whose chances of success are beta(a, b), with 4 rollouts each."""
    rng, covered = np.random.default_rng(1), 0
    for _ in range(4000):
        solved = rng.binomial(4, rng.beta(a, b, size=200))
        low, high = clustered_interval(np.bincount(solved, minlength=5).tolist())
        covered += low <= a / (a + b) <= high
    assert 0.935 <= covered / 4000 <= 0.965


# -- batches, order, processes


@pytest.mark.parametrize("count", [1, 13])
def test_two_processes_measure_what_one_does(count: int) -> None:
    alone = rank_jobs.robustness(World(), count)
    clean, noisy = alone
    assert clean["exact_accuracy"] == 1.0 and clean["always_count"] == count
    assert count == 1 or 0 < noisy["partly_count"] and noisy["exact_count"] < noisy["count"]
    assert (noisy["count"], noisy["forward_passes"], noisy["steps"]) == (3 * count, 3 * 3 * count, 3)
    for other in (*run_ranks("robustness", count=count), rank_jobs.robustness(World(), count, size=2)):
        for record, expected in zip(other, alone, strict=True):
            assert record["histogram"] == expected["histogram"]
            assert record["accuracy"] == pytest.approx(expected["accuracy"], abs=1e-12)
            assert record.keys() == expected.keys()


# -- in a run and in evaluate.py

SOLVES = ["lr=2e-2", "weight_decay=0", "arch.hidden_size=64", "arch.halt_max_steps=2", "epochs=80", "eval_interval=20"]
STARTS = "eval.perturbed_starts"
SIGMAS = "eval.perturbed_starts.sigma=[0,0.1]"


@pytest.fixture(scope="module")
def runs(sudoku4_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run that solves some puzzles, and the same one evaluated from perturbed starts too."""
    folder = tmp_path_factory.mktemp("runs")
    asked = [SIGMAS, "eval.during.sigma_grid=[0.0,1e-3,0.5]", "eval.perturbed_starts.starts=3"]
    for name, options in {"plain": [], "robust": asked}.items():
        options = [*SOLVES, "max_test_rows=9", "validation_size=2", "fast_validation_size=2", *options]
        assert train_here("trm_mlp", sudoku4_folder, folder / name, options) == "done"
    return {name: folder / name for name in ("plain", "robust")}


def test_the_run_is_the_same_but_for_what_it_reports(runs: dict[str, Path]) -> None:
    assert_same_state(runs["plain"], runs["robust"])
    plain, robust = logged(runs["plain"]), logged(runs["robust"])
    kept = [{key: value for key, value in line.items() if "/robust/" not in key} for line in robust]
    assert kept == plain
    measured = [line for line in robust if any("/robust/" in key for key in line)]
    full = [line["step"] for line in robust if "eval/validation/count" in line]
    assert [line["step"] for line in measured] == full and len(full) == 4
    for line in measured:
        expected = {f"eval/robust/{sigma}/{key}" for sigma in ("0", "0.001", "0.5") for key in RATES}
        assert {key for key in line if "/robust/" in key} == expected
        assert line["eval/robust/0/exact_accuracy"] == line["eval/fast/exact_accuracy"]
        assert line["eval/robust/0/accuracy"] == pytest.approx(line["eval/fast/accuracy"], abs=1e-12)
        assert (line["eval/robust/0/count"], line["eval/robust/0/puzzles"]) == (6, 2)


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())["test"]


def test_the_end_of_a_run_tests_perturbed_starts(runs: dict[str, Path]) -> None:
    """Of all three weights, on the test rows."""
    for which, tested in summary(runs["robust"]).items():
        clean, noisy = tested["robustness"]
        assert clean["exact_accuracy"] == tested["value"] and clean["count"] == 3 * tested["denominator"], which
        assert (noisy["sigma"], noisy["site"], noisy["rollouts"], noisy["steps"]) == (0.1, "both", 3, 2)
        assert sum(noisy["histogram"]) == noisy["puzzles"] == tested["denominator"]
    assert 0 < tested["numerator"] < tested["denominator"]
    assert all(tested["robustness"] is None for tested in summary(runs["plain"]).values())


def evaluated(run: Path, name: str, *options: str) -> dict[str, Any]:
    evaluate.main([f"checkpoint={run}/best.pt", "device=cpu", "split=test", "max_test_rows=9", *options])
    (result,) = newest_report(run, f"best_test_rows_first9{name}")["results"]
    return result


def untimed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in each.items() if key not in ("seconds", "forward_passes")} for each in records]


def test_evaluate_measures_as_the_run_did(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """And beside it reports what it reports without: in a file of its own."""
    run = runs["robust"]
    plain = evaluated(run, "")
    assert plain["robustness"] is None and "perturbed" not in capsys.readouterr().out
    result = evaluated(run, "_perturbed0+0.1-starts3", SIGMAS, "eval.perturbed_starts.starts=3", "batch_size=4")
    printed = capsys.readouterr().out
    known = summary(run)["best"]["robustness"]
    for found, expected in zip(untimed(result["robustness"]), untimed(known), strict=True):
        assert found.pop("accuracy") == pytest.approx(expected.pop("accuracy"), abs=1e-12)
        assert found == expected
    for name in ("exact_accuracy", "mode", "difficulty", "rows"):
        assert result[name] == plain[name], name
    clean = known[0]
    assert "from perturbed starts (3 rollouts of each row, both)" in printed
    assert f"({clean['exact_count']}/{clean['count']}, 95% {clean['exact_low']:.3f}-" in printed


def test_longer_rollouts(runs: dict[str, Path]) -> None:
    result = evaluated(
        runs["robust"],
        "_steps5_perturbed0+0.1-sitez_L",
        SIGMAS,
        "eval.max_steps=5",
        f"{STARTS}.site=z_L",
    )
    assert [(each["steps"], each["site"], each["rollouts"]) for each in result["robustness"]] == [(5, "z_L", 4)] * 2
    assert result["robustness"][0]["exact_accuracy"] == result["exact_accuracy"]["value"]


BAD = {
    f"{STARTS}.site=z_Q": f"option '{STARTS}.site': found 'z_Q', expected one of: z_H, z_L, both",
    f"{STARTS}.starts=0": f"option '{STARTS}.starts': found 0, expected a number from 1",
    f"{STARTS}.sigma=[-1e-3]": f"option '{STARTS}.sigma': found [-0.001], expected 0 or more",
    f"{STARTS}.sigma=[.inf]": f"option '{STARTS}.sigma': found [inf], expected a finite number",
    f"{STARTS}.sigma=[0.001,1e-3]": f"option '{STARTS}.sigma': found 0.001, 0.001, expected each noise scale once",
    "eval.sigma=1e-3 eval.inference=perturbed_starts eval.noise_seed=1": (
        "option 'eval.stochastic_rollouts.noise_seed' is read with eval.stochastic_rollouts.sigma=0.3 only"
    ),
    f"{STARTS}.sigma=small": f"option '{STARTS}.sigma': found 'small', expected list[float]",
    f"{STARTS}.sigma=0.1": f"option '{STARTS}.sigma': found 0.1, expected list[float]",
    f"{STARTS}.sigma=[small]": f"option '{STARTS}.sigma'",
    f"{STARTS}.sigma=[0.1] eval.vote.views=2": (
        f"'{STARTS}': perturbed starts are answered after a fixed number of steps; leave out eval.vote"
    ),
    f"{STARTS}.sigma=[0.1] eval.vote.views=2 eval.adaptive_halt=true": "leave out eval.adaptive_halt and eval.vote",
    "eval.sigma=[0.1] eval.adaptive_halt=true": "leave out eval.adaptive_halt",
    "eval.sigma_grid=[0.1]": "unknown option 'eval.sigma_grid' in 'eval.sigma_grid=[0.1]': the nearest valid key",
    "eval.during.sigma_grid=[0.1]": f"the nearest valid key is '{STARTS}.sigma'",
    f"{STARTS}.sigmas=[0.1]": f"the nearest valid key is '{STARTS}.sigma'",
}


@pytest.mark.parametrize(("options", "says"), BAD.items())
def test_bad_options(runs: dict[str, Path], options: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(runs["plain"].iterdir())
    with pytest.raises(SystemExit) as caught:
        evaluate.main([f"checkpoint={runs['plain']}/best.pt", "device=cpu", *options.split()])
    captured = capsys.readouterr()
    assert caught.value.code == 2 and says in captured.err and captured.err.count("\n") == 1
    assert sorted(runs["plain"].iterdir()) == before


def test_a_number_is_one_scale_where_perturbed_starts_are_named(runs: dict[str, Path]) -> None:
    named = evaluated(runs["robust"], "_perturbed0.1", "eval.sigma=1e-1", "eval.inference=perturbed_starts")
    listed = evaluated(runs["robust"], "_perturbed0.1", "eval.sigma=[0.1]", "eval.site=both")
    assert untimed(named["robustness"]) == untimed(listed["robustness"]) and len(named["robustness"]) == 1


def test_a_run_refuses_them_too(sudoku4_folder: Path, tmp_path: Path) -> None:
    grid = "eval.during.sigma_grid=[0.1]"
    for options, says in {
        (grid, "eval.adaptive_halt=True"): "eval.during.sigma_grid': .* leave out eval.adaptive_halt",
        (grid, "eval.vote.views=2"): "eval.during.sigma_grid': .* leave out eval.vote",
        ("eval.during.sigma_grid=[0.1,1e-1]",): "eval.during.sigma_grid': .* each noise scale once",
        (grid, f"{STARTS}.site=x"): f"option '{STARTS}.site'",
        (f"{STARTS}.sigma=0.3",): f"option '{STARTS}.sigma': found 0.3, expected list",
    }.items():
        with pytest.raises(UserError, match=says):
            train_here("trm_mlp", sudoku4_folder, tmp_path / "run", list(options))
        assert not (tmp_path / "run").exists()


def test_settings() -> None:
    assert resolve({"data_paths": ["d"], "eval": {"perturbed_starts": {"sigma": ["1e-3", 0]}}}).eval == EvalConfig(
        perturbed_starts=Settings(sigma=[0.001, 0.0])
    )
    assert mode_parts(EvalConfig(max_steps=9, perturbed_starts=Settings(sigma=[0.1]))) == ["steps9", "perturbed0.1"]
    check_inference(EvalConfig(adaptive_halt=True, vote=vote.Settings(views=2)))
