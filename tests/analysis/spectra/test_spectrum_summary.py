"""The statistics of spectra are those of the arrays: each against a second route."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from analysis.arms.seed_pairs import smallest_effect
from analysis.spectra import spectrum_over_runs
from analysis.spectra.long_trajectories import SETTLED_DRIFT
from analysis.spectra.spectrum_over_runs import beyond_over_runs, paired_differences, statistics_over_runs
from analysis.spectra.spectrum_summary import auroc_notes, finite, run_statistics, spectrum_entry
from analysis.spectra.spectrum_table import SpectrumTable, Window
from tests.analysis.figures.test_figure_bundle import table

OPTIONS: dict[str, Any] = {"burn_in": 2, "draws": 300, "seed": 0}


def area(scores: np.ndarray, failed: np.ndarray) -> float:
    return float(mannwhitneyu(scores[failed], scores[~failed]).statistic / (failed.sum() * (~failed).sum()))


@pytest.fixture
def one() -> SpectrumTable:
    return table("a", "TRM-att", 0)


def test_windows_and_burn_in(one: SpectrumTable) -> None:
    # Solved late: from the fourth step on, the failed never.
    solved_late = np.arange(6)[None] >= 3
    one.arrays["exact"][:] = ~one.failed[:, None] & solved_late
    report = run_statistics(one, **OPTIONS)
    growth, failed = one.arrays["step_growth"], one.failed
    assert report["lambda1"]["auroc"]["value"] == pytest.approx(area(growth[:, 2:, 0].mean(axis=1), failed))
    for start in (0, 2, 4):
        separated = report["lambda1_by_burn_in"][str(start)]
        assert separated["auroc"]["value"] == pytest.approx(area(growth[:, start:, 0].mean(axis=1), failed))
    assert list(report["windows"]) == ["1-3", "4-6"]  # six steps do not divide by four
    first = report["windows"]["1-3"]
    assert first["all"]["auroc"]["value"] == pytest.approx(area(growth[:, :3, 0].mean(axis=1), failed))
    assert first["not_yet_solved_at_its_end"]["n"] == 40  # nobody has solved it by then
    assert report["windows"]["4-6"]["not_yet_solved_at_its_end"] is None
    assert report["exact_accuracy_by_step"] == pytest.approx([0, 0, 0, 0.65, 0.65, 0.65])
    for name, of_outcome in (("solved", ~failed), ("failed", failed)):
        value = np.median(growth[of_outcome, 2:, 0].mean(axis=1))
        assert report["lambda1"][f"median_{name}"]["value"] == pytest.approx(value)
        assert report["lambda1_per_sub_update"][f"median_{name}"]["value"] == pytest.approx(value / 6)


def test_windows_are_quarters_where_they_can_be() -> None:
    long = table("a", "TRM-att", 0)
    for name in ("step_growth", "exact", "drift"):
        long.arrays[name] = np.concatenate([long.arrays[name]] * 2, axis=1)
    assert [window.name for window in long.windows()] == ["1-3", "4-6", "7-9", "10-12"]
    np.testing.assert_allclose(long.exponents(Window(0, 6)), long.exponents(Window(6, 12)))


def test_puzzles_that_are_not_finite_are_dropped_and_counted(one: SpectrumTable) -> None:
    one.arrays["step_growth"][3, 4, 1] = np.nan
    report = run_statistics(one, **OPTIONS)
    assert report["dropped_not_finite"] == 1 and report["n"] == 39
    assert report["exact_accuracy"]["denominator"] == 40  # solved or not it was all the same


def test_positive_exponents_and_extremes(one: SpectrumTable) -> None:
    report = run_statistics(one, **OPTIONS)
    exponents = one.arrays["step_growth"][:, 2:].mean(axis=1)
    for name, of_outcome in (("solved", ~one.failed), ("failed", one.failed)):
        assert report["num_positive"][name] == pytest.approx(
            sum((row > 0).sum() for row in exponents[of_outcome]) / of_outcome.sum()
        )
    assert report["lambda1_largest"] == one.arrays["step_growth"][..., 0].max()
    # Vanished directions have an exponent of -inf: a rank, and text in JSON.
    one.arrays["step_growth"][:, :, 2] = -np.inf
    assert finite(run_statistics(one, **OPTIONS))["exponents"][2]["median_solved"]["value"] in (None, "-inf")


def test_what_lambda1_adds(one: SpectrumTable) -> None:
    """Nothing where a baseline is lambda_1 itself, something where all baselines are noise."""
    noise = run_statistics(one, **OPTIONS)["beyond_baselines"]["nested"]["late_drift"]["difference"]["value"]
    leading = one.arrays["step_growth"][:, 2:, 0].mean(axis=1)
    one.arrays["drift"][:] = np.exp(leading)[:, None]
    same = run_statistics(one, **OPTIONS)["beyond_baselines"]
    assert noise > 0.15 and abs(same["nested"]["late_drift"]["difference"]["value"]) < 0.02
    assert same["nested"]["without_rules"]["columns"] == [
        "late_drift", "residual", "minus_q_halt", "minus_logit_margin", "entropy", "changed_cells"
    ]  # fmt: skip


def test_estimator(one: SpectrumTable) -> None:
    assert set(run_statistics(one, **OPTIONS)["estimator"]) == {"condition_log_max"}
    again = one.arrays["step_growth"].copy()
    again[..., 0] += np.where(np.arange(40) % 2, 0.1, -0.1)[:, None]
    one.arrays["replicate_step_growth"] = again
    between_tangents = run_statistics(one, **OPTIONS)["estimator"]["between_tangents_burn_in_2"]
    assert between_tangents["standard_deviation"] == pytest.approx(0.1 / np.sqrt(2))  # of one of the two
    assert between_tangents["top_mean_standard_deviation"] == pytest.approx(0.1 / 3 / np.sqrt(2))
    first, second = (growth[:, 2:, 0].mean(axis=1) for growth in (one.arrays["step_growth"], again))
    assert between_tangents["correlation"] == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert between_tangents["spread_of_lambda1"] == pytest.approx(np.std(first))


def test_runs_of_one_network_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrum_over_runs, "DRAWS_OVER_RUNS", 100)
    tables = [table("a", "TRM-att", 0), table("b", "TRM-att", 1), table("c", "HRM", 2)]
    joint = statistics_over_runs(tables, burn_in=2, seed=0)
    assert list(joint) == ["TRM-att", "HRM"] and joint["TRM-att"]["runs"] == ["a", "b"]
    areas = [area(of_run.exponents(of_run.whole(2))[:, 0], of_run.failed) for of_run in tables[:2]]
    assert joint["TRM-att"]["lambda1"]["auroc"]["values"] == pytest.approx(areas)
    assert joint["TRM-att"]["lambda1"]["auroc"]["draws"] == 100
    singular = [area(of_run.arrays["svd_exponents"][:, 0], of_run.failed) for of_run in tables[:2]]
    assert joint["TRM-att"]["scores"]["the leading exponent of singular values"]["values"] == pytest.approx(singular)
    for name, failures in (("solved", False), ("failed", True)):
        chosen = [of_run.exponents(of_run.whole(2))[of_run.failed == failures] for of_run in tables[:2]]
        expected = {
            "lambda1": [np.median(each[:, 0]) for each in chosen],
            "top_mean": [np.median(each.mean(axis=1)) for each in chosen],
        }
        for quantity, values in expected.items():
            assert joint["TRM-att"][quantity][f"median_{name}"]["values"] == pytest.approx(values)
        positive = [(each > 0).sum() / len(each) for each in chosen]
        assert joint["TRM-att"]["num_positive"][name]["values"] == pytest.approx(positive)
    assert "not included" in joint["HRM"]["lambda1"]["auroc"]["speaks_of"]


def test_what_lambda1_adds_over_runs() -> None:
    def run(model: str, added: float | None) -> dict[str, Any]:
        return {"model": model, "beyond_baselines": {"nested": {"all": {"difference": {"value": added}}}}}

    beyond = beyond_over_runs(
        [run("TRM", 0.01), run("TRM", -0.02), run("TRM", None), run("TRM", 0.03), run("HRM", None)]
    )
    assert beyond["TRM"]["all"]["values"] == [0.01, -0.02, None, 0.03] and beyond["HRM"]["all"] is None
    interval = beyond["TRM"]["all"]["interval"]
    assert interval["mean"] == pytest.approx(0.02 / 3) and interval["low"] < 0 < interval["high"]
    assert beyond["TRM"]["all"]["smallest_effect"] == pytest.approx(smallest_effect([0.01, -0.02, 0.03]))


def test_differences_are_paired_by_seed() -> None:
    baseline = [table(f"b{seed}", "TRM-att", seed, objective="baseline_ce") for seed in (0, 1, 2)]
    other = [table(f"m{seed}", "TRM-att", seed, objective="multi_perturbed_ce", shift=0.05) for seed in (2, 0, 7)]
    differences = paired_differences([*baseline, *other, table("h", "HRM", 0)], burn_in=2)
    assert {difference["model"] for difference in differences} == {"TRM-att multi_perturbed_ce"}
    (failed,) = (difference for difference in differences if difference["quantity"] == "lambda1_median_failed")
    assert failed["baseline"] == "TRM-att baseline_ce" and failed["seeds"] == [2, 0]
    # The same draws: the leading exponents of failed puzzles are lower by the difference of the shifts.
    assert failed["values"] == pytest.approx([-0.2, -0.2])
    (accuracy,) = (difference for difference in differences if difference["quantity"] == "exact_accuracy")
    assert accuracy["values"] == [0, 0]


def test_accuracy_of_case_control_samples_is_that_of_their_pools() -> None:
    """A sample itself is half solved, whatever the network."""
    tables = [table("b", "TRM-att", 0, objective="baseline_ce"), table("m", "TRM-att", 0)]
    for one, failed in zip(tables, (30, 50), strict=True):
        one.settings["sample"] = {"kind": "case-control", "pool": 1000, "failed": failed, "strata": 4}
    (accuracy,) = (one for one in paired_differences(tables, burn_in=2) if one["quantity"] == "exact_accuracy")
    assert accuracy["values"] == pytest.approx([-0.02])


def test_strata_are_quarters_of_the_puzzles_by_difficulty(one: SpectrumTable) -> None:
    """Pairs within four groups of ten, counted one by one; and among those that have not settled."""
    one.arrays["givens"] = np.random.default_rng(0).permutation(40)  # fewer are harder
    report = run_statistics(one, **OPTIONS)
    leading, failed = one.arrays["step_growth"][:, 2:, 0].mean(axis=1), one.failed
    stratum = (39 - one.arrays["givens"]) // 10
    pairs = [(i, j) for i in np.flatnonzero(failed) for j in np.flatnonzero(~failed) if stratum[i] == stratum[j]]
    wins = sum(leading[i] > leading[j] for i, j in pairs)
    assert report["difficulty_strata"]["auroc"] == pytest.approx(wins / len(pairs))
    one.arrays["drift"][:20] = SETTLED_DRIFT / 2
    among = run_statistics(one, **OPTIONS)["beyond_baselines"]["among_unsettled"]
    assert among["n"] == 20 and among["auroc"]["value"] == pytest.approx(area(leading[20:], failed[20:]))


def test_notes_of_figures() -> None:
    def lambda1(value: float | None, low: float | None, high: float | None) -> dict[str, Any]:
        return {"auroc_newcombe": {"value": value, "low": low, "high": high}}

    def joint(*labels: str, **mean: float) -> dict[str, Any]:
        return {"runs": list(labels), "lambda1": {"auroc": {"over_runs": mean or None}}}

    values = {
        "TRM": (0.984, 0.962, 0.991),
        "HRM": (0.5, 0.1, 0.9),
        "SRM": (None, None, None),
        "MLP": (0.75, None, None),
    }
    runs = [{"model": model, "lambda1": lambda1(*value)} for model, value in values.items()]
    models = {model: joint("a") for model in values} | {"HRM": joint("a", "b", "c", mean=0.85, low=0.62, high=1.0)}
    assert auroc_notes({"models": models, "runs": runs}) == {
        "TRM": "AUROC 0.98 [0.96, 0.99]",
        "HRM": "AUROC 0.85 [0.62, 1.00], mean of 3 runs",
        "SRM": "one outcome only",
        "MLP": "AUROC 0.75",
    }


def test_numbers_of_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts of two runs are added; what changed by another way of training comes before, its accuracy last."""
    monkeypatch.setattr(spectrum_over_runs, "DRAWS_OVER_RUNS", 100)
    tables = [table("a", "TRM", 0), table("b", "TRM", 1), table("m", "TRM", 0, objective="multi", shift=0.05)]
    runs = [run_statistics(each, **OPTIONS) for each in tables]
    for run, settled, chaotic in zip(runs, (3, 5, 0), (2, 7, 0), strict=True):
        run["settled_by_correct"] = {"settled_failed": settled, "unsettled_failed": 10}
        ends = {"fixed point": 1, "chaos": chaotic, "n": 14}
        run["long_rollout"] = {"num_steps": 12, "kinds_at_end": {"failed": ends, "solved": {"n": 26}}}
    entry = spectrum_entry({
        "runs": runs, "models": statistics_over_runs(tables, burn_in=2, seed=0), "burn_in": 2,
        "beyond_baselines": beyond_over_runs(runs), "differences": paired_differences(tables, burn_in=2),
    })["record"]  # fmt: skip
    numbers = {number["name"]: number for number in entry["numbers"]}
    names = list(numbers)
    solved = numbers["TRM: solved"]
    assert solved["of"] == 80 and solved["value"] == pytest.approx(100 * 52 / 80)
    settled = numbers["TRM: settled failures"]
    assert settled["of"] == 28 and settled["value"] == pytest.approx(100 * 8 / 28, abs=1e-3)
    assert numbers["TRM: failures after 12 steps, chaos"] == {
        "name": "TRM: failures after 12 steps, chaos", "value": 9, "of": 28
    }  # fmt: skip
    assert numbers["TRM: failures after 12 steps, fixed point"]["value"] == 2 and numbers["TRM: runs"]["value"] == 2
    assert "TRM: failures after 12 steps, n" not in numbers
    leading = "TRM multi minus TRM: lambda1_median_failed"
    assert numbers[leading]["value"] == pytest.approx(-0.2)
    first_of_networks = names.index("TRM: AUROC of lambda_1")
    assert names[first_of_networks - 1] == "TRM multi minus TRM: exact_accuracy"
    for run, model in zip(runs, ("TRM", "TRM", "TRM multi"), strict=True):
        assert run["model"] == model
    per_sub_update = np.mean([run["lambda1_per_sub_update"]["median_failed"]["value"] for run in runs[:2]])
    assert numbers["TRM: median lambda_1, failed"]["value"] == pytest.approx(per_sub_update, abs=1e-4)
    assert entry["findings"] == ["6 steps, first 2 not counted, 3 exponents, None"]
