"""Peak against final: the source's table, arms and pairs over seeds, exact tests by counting, refusals, files."""

import csv
import hashlib
import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.arms import peak_vs_final
from analysis.arms.equal_budgets import at_equal_budgets, budget_table
from analysis.arms.finished_runs import Arm, arms_of, read_finished
from analysis.arms.peak_vs_final import draw, signature_table, snapshot, success_signature
from analysis.arms.seed_pairs import CLEAN, compared, mcnemar, mean_interval
from dataset.eval_batches import row_hashes, test_rows
from dataset.puzzle_folder import open_puzzle_set
from errors import UserError
from scripts.record_sources import gathered
from tests.helpers import train_here
from training.evaluation.row_outcomes import read_test_rows

FIGURE = "Fig3_trajectory_perturbation_improves_peak_accuracy"


def finished(
    folder: Path,
    solved: tuple[int | None, int, int],
    *,
    seed: int = 0,
    best_step: int = 20,
    updates: int = 30,
    count: int = 16,
    rows: bool = True,
    shift: int = 0,
    cost: int = 1,
    **config: Any,
) -> Path:
    """A run of three validations whose weights solve the first puzzles of `count`: initial, best and final ones.

    Those of `shift` start so many puzzles later. 1000 operations, and `cost` times 2 seconds and 64 rows an update.
    """
    folder.mkdir(parents=True)
    steps = dict(zip(("initial", "best", "final"), (0, best_step, updates), strict=True))
    test, exact = {}, {}
    for (moment, step), number in zip(steps.items(), solved, strict=True):
        if number is not None:
            test[moment] = {"step": step, "numerator": number, "denominator": count}
            exact[moment] = (np.arange(count) >= shift) & (np.arange(count) < shift + number)
            assert exact[moment].sum() == number
    spent = {
        which: {"updates": steps[which], "flops": 1e3 * steps[which], "seconds": 2.0 * steps[which], "samples": 64}
        for which in ("best", "final")
    }
    (folder / "summary.json").write_text(json.dumps({"steps": updates, "test": test, "curve": spent}))
    lines = [
        {
            "step": step,
            "eval/validation/exact_accuracy": value,
            "eval/validation/count": 8,
            "train/seconds": 2.0 * step * cost,
            "train/samples": 64 * step * cost,
        }
        for step, value in ((updates // 3, 0.25), (best_step, 0.5), (updates, 0.375))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"seed": seed, "arch": {"name": "trm"}, "checkpoint_path": str(folder)} | config
    provenance = {
        "config": settings, "seeds": {"seed": seed}, "git": {"commit": "c0ffee" * 7, "dirty": False},
        "cpu": "A CPU", "gpu": None, "num_threads": 2, "world_size": 1,
    }  # fmt: skip
    (folder / "provenance.json").write_text(json.dumps(provenance))
    if rows:
        save_rows(folder, [f"{puzzle:016x}" for puzzle in range(count)], exact)
    return folder


def save_rows(folder: Path, puzzle: list[str], exact: dict[str, np.ndarray]) -> None:
    texts = {name: "".join(str(int(one)) for one in values) for name, values in exact.items()}
    (folder / "test_rows.json").write_text(json.dumps({"puzzle": puzzle, **texts}))


MULTI = {"objective": {"name": "multi_perturbed_ce", "num_trajectories": 4, "noise_sampling": "loguniform"}}
PLAIN = {"objective": {"name": "baseline_ce"}}


def arms(*folders: Path) -> list[Arm]:
    return arms_of([read_finished(folder) for folder in folders])


def test_the_table_of_the_source(tmp_path: Path) -> None:
    """The long-run result snapshot of the source document, from runs that solved so many of 1,024."""
    hrm = {"arch": {"name": "hrm"}}
    groups = arms(
        finished(tmp_path / "e", (530, 648, 594), best_step=5000, updates=50000, count=1024, **hrm, **PLAIN),
        finished(tmp_path / "f", (530, 640, 603), best_step=7500, updates=50000, count=1024, **hrm, **MULTI),
        finished(tmp_path / "g", (575, 609, 509), best_step=22500, updates=50000, count=1024, **PLAIN),
        finished(tmp_path / "h", (575, 623, 564), best_step=42500, updates=50000, count=1024, **MULTI),
    )
    assert snapshot(groups) == [
        "HRM baseline:          initial 0.5176, best 0.6328 @ 5000, final 0.5801",
        "HRM multi4 loguniform: initial 0.5176, best 0.6250 @ 7500, final 0.5889",
        "TRM baseline:          initial 0.5615, best 0.5947 @ 22500, final 0.4971",
        "TRM multi4 loguniform: initial 0.5615, best 0.6084 @ 42500, final 0.5508",
    ]
    differences = compared(groups)
    assert [
        (difference.arm.split()[0], difference.moment, 1024 * difference.values[0]) for difference in differences
    ] == [("HRM", "best", -8), ("HRM", "final", 9), ("TRM", "best", 14), ("TRM", "final", 55)]
    assert all(difference.interval.low is None and difference.interval.n == 1 for difference in differences)


def test_arms_are_settings_and_lengths_without_the_seed(tmp_path: Path) -> None:
    groups = arms(
        finished(tmp_path / "a0", (1, 4, 3), **PLAIN),
        finished(tmp_path / "long0", (1, 5, 4), updates=60, **PLAIN),
        finished(tmp_path / "wide0", (1, 5, 4), global_batch_size=4, **PLAIN),
        finished(tmp_path / "a1", (2, 5, 4), seed=1, run_name="other", **PLAIN),
        finished(tmp_path / "multi", (2, 6, 4), seed=1, **MULTI),
        finished(
            tmp_path / "single",
            (2, 6, 4),
            objective={"name": "single_perturbed_ce", "num_trajectories": 1, "noise_sampling": "fixed"},
        ),
    )
    assert [[run.name for run in arm.runs] for arm in groups] == [
        ["a0", "a1"],
        ["long0"],
        ["wide0"],
        ["multi"],
        ["single"],
    ]
    assert [arm.label for arm in groups] == [
        "TRM baseline",
        "TRM baseline (2× updates)",
        "TRM baseline (global_batch_size=4)",
        "TRM multi4 loguniform",
        "TRM single fixed",
    ]
    assert (groups[0].spent("flops"), groups[0].spent("seconds"), groups[1].spent("flops")) == (3e4, 60, 6e4)


def test_arms_are_named_by_what_differs(tmp_path: Path) -> None:
    """Two by both values; what only judges is named where nothing else differs, a planned length with no length."""
    batch = {"global_batch_size": 4, "fast_eval_interval": 6}
    two = arms(finished(tmp_path / "a", (1, 4, 3), **PLAIN), finished(tmp_path / "b", (1, 4, 3), **batch, **PLAIN))
    assert [arm.label for arm in two] == [
        "TRM baseline", "TRM baseline (global_batch_size=4)",
    ]  # fmt: skip
    assert [arm.label for arm in arms(tmp_path / "b", tmp_path / "a")] == ["TRM baseline", "TRM baseline (192× batch)"]
    longer = {"updates": 60, "epochs": 60}
    two = arms(finished(tmp_path / "c", (1, 4, 3), **PLAIN), finished(tmp_path / "d", (1, 4, 3), **longer, **PLAIN))
    assert [arm.label for arm in two] == ["TRM baseline", "TRM baseline (2× updates)"]
    judged = {"fast_eval_interval": 6}
    two = arms(finished(tmp_path / "e", (1, 4, 3), **PLAIN), finished(tmp_path / "f", (1, 4, 3), **judged, **PLAIN))
    assert two[1].label == "TRM baseline (fast_eval_interval=6)"


def test_lengths_that_patience_decided_are_one_arm(tmp_path: Path) -> None:
    (arm,) = arms(
        finished(tmp_path / "a", (1, 4, 3), early_stop_patience=2),
        finished(tmp_path / "b", (1, 4, 3), seed=1, updates=60, early_stop_patience=2),
    )
    assert len(arm.runs) == 2


def test_arms_that_a_label_cannot_tell_apart_get_their_hash(tmp_path: Path) -> None:
    many = {"lr": 0.5, "beta1": 0.5, "beta2": 0.5, "weight_decay": 0.5}
    groups = arms(
        *(finished(tmp_path / f"{decay}", (1, 4, 3), **many, **PLAIN, puzzle_emb_lr=decay) for decay in (0.1, 0.2)),
        finished(tmp_path / "plain", (1, 4, 3), **PLAIN),
    )
    assert len({arm.label for arm in groups}) == 3


@pytest.mark.parametrize("seed", range(4))
def test_mcnemar_by_counting_all_signs(seed: int) -> None:
    """Every way to hand the puzzles solved by one alone to either run: how many are at most as likely as ours."""
    rng = random.Random(seed)
    ours, theirs = (np.array([rng.random() < share for _ in range(20)]) for share in (0.7, 0.4))
    counts = mcnemar(ours, theirs)
    only_ours = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    only_theirs = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    assert (counts.only_arm, counts.only_baseline) == (only_ours, only_theirs)
    discordant = only_ours + only_theirs
    ways = [sum(signs) for signs in itertools.product((0, 1), repeat=discordant)]
    as_extreme = [n for n in ways if math.comb(discordant, n) <= math.comb(discordant, only_ours)]
    assert counts.p == pytest.approx(len(as_extreme) / len(ways), rel=1e-12)


def test_mcnemar_of_equal_answers_says_nothing() -> None:
    same = np.array([True, False, True])
    assert mcnemar(same, same).p == 1.0


def test_interval_of_three_seeds_by_hand() -> None:
    """Half width t(0.975, 2 degrees of freedom) s / sqrt(3), that quantile being 0.95 sqrt(2 / (1 - 0.95²))."""
    values = [0.01, 0.03, 0.08]
    quantile = 0.95 * math.sqrt(2 / (1 - 0.95**2))
    half = quantile * math.sqrt(sum((value - 0.04) ** 2 for value in values) / 2 / 3)
    interval = mean_interval(values)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.04, 0.04 - half, 0.04 + half), rel=1e-12)
    assert mean_interval([0.5]) == mean_interval([0.5]).__class__(0.5, None, None, 1)
    equal = mean_interval([0.5, 0.5])
    assert (equal.mean, equal.low, equal.high, equal.n) == (0.5, None, None, 2)


def test_pairs_are_seeds_of_both_arms(tmp_path: Path) -> None:
    groups = arms(
        finished(tmp_path / "b0", (1, 4, 2), **PLAIN),
        finished(tmp_path / "b1", (1, 6, 2), seed=1, **PLAIN),
        finished(tmp_path / "b2", (1, 16, 2), seed=2, **PLAIN),
        finished(tmp_path / "m3", (1, 0, 2), seed=3, **MULTI),
        finished(tmp_path / "m1", (1, 8, 4), seed=1, shift=2, **MULTI),
        finished(tmp_path / "m0", (1, 8, 2), shift=3, **MULTI),
        finished(tmp_path / "hrm", (1, 8, 2), arch={"name": "hrm"}, **MULTI),
    )
    best, final = compared(groups)
    assert (best.baseline, best.arm) == ("TRM baseline", "TRM multi4 loguniform")
    assert best.seeds == final.seeds == [1, 0]
    assert best.values == [2 / 16, 4 / 16] and final.values == [2 / 16, 0]
    # Seed 1: puzzles 2 to 9 against 0 to 5. Seed 0: 3 to 10 against 0 to 3.
    assert [(test.only_arm, test.only_baseline) for test in best.mcnemar if test] == [(4, 2), (7, 3)]
    assert best.interval == mean_interval([2 / 16, 4 / 16])


def test_perturbed_starts_are_compared_where_both_were_tried(tmp_path: Path) -> None:
    def robust(sigma: float, solved: int, count: int = 64) -> dict[str, Any]:
        return {"sigma": sigma, "site": "both", "rollouts": 4, "exact_count": solved, "count": count}

    given = {
        "b0": [robust(1e-3, 16), robust(0.1, 8)],
        "b1": [robust(1e-3, 20), robust(0.1, 8)],
        "m0": [robust(0.1, 32), robust(1e-3, 20), robust(1.0, 1)],
        "m1": [robust(0.1, 24), robust(1e-3, 40)],
    }
    for name, records in given.items():
        folder = finished(tmp_path / name, (1, 4, 2), seed=int(name[1]), **(MULTI if name[0] == "m" else PLAIN))
        summary = json.loads((folder / "summary.json").read_text())
        summary["test"]["best"]["robustness"] = records
        (folder / "summary.json").write_text(json.dumps(summary))
    groups = arms(*(tmp_path / name for name in given))
    differences = compared(groups)
    starts = [(difference.moment, difference.start, difference.values) for difference in differences]
    assert starts == [
        ("best", "the initial state", [0, 0]),
        ("best", "sigma 0.1, both, 4 rollouts", [24 / 64, 16 / 64]),
        ("best", "sigma 0.001, both, 4 rollouts", [4 / 64, 20 / 64]),
        ("final", "the initial state", [0, 0]),
    ]
    assert differences[1].mcnemar == [None, None] and differences[1].interval == mean_interval([24 / 64, 16 / 64])
    lines = peak_vs_final.difference_table(groups, differences)
    assert any("best, from perturbed starts (sigma 0.1, both, 4 rollouts): +31.25 points" in line for line in lines)
    assert "  seed 0: +37.50 points" in lines
    row = peak_vs_final.run_records(groups)[2]
    assert row["best, sigma 0.1, both, 4 rollouts, solved"] == 32 and row["best, sigma 0.1, both, 4 rollouts, of"] == 64
    assert len(draw(groups, differences).axes[2].lines) == 1 + 2 * 2, "the figure has the initial state alone"


def test_equal_budgets_by_hand(tmp_path: Path) -> None:
    """Validation 0.25, 0.5, 0.375 at updates 10, 20, 30, four times as dear in the second arm."""
    pairs = [
        (
            finished(tmp_path / f"a{seed}", (1, 4, 3), seed=seed, **PLAIN),
            finished(tmp_path / f"b{seed}", (1, 6, 5), seed=seed, cost=2, **MULTI),
        )
        for seed in (0, 1)
    ]
    comparisons = at_equal_budgets(arms(*itertools.chain(*pairs)))
    assert [(comparison.unit, comparison.budgets, comparison.values) for comparison in comparisons] == [
        ("updates", [30.0, 30.0], [0.0, 0.0]),
        ("passes", [1920.0, 1920.0], [0.25 - 0.375] * 2),
        ("seconds of training", [60.0, 60.0], [0.25 - 0.375] * 2),
    ]
    assert "at equal passes (1,920): -12.50 points, the same on 2 seeds: no interval" in budget_table(comparisons)[1]
    dear = finished(tmp_path / "dear", (1, 6, 5), cost=10, learning=1, **MULTI)
    assert [comparison.unit for comparison in at_equal_budgets(arms(pairs[0][0], dear))] == ["updates"], (
        "never within the others"
    )


def test_signature_by_hand(tmp_path: Path) -> None:
    plain, multi = [], []
    for seed, better in ((0, 4), (1, 5), (2, 6)):
        plain.append(finished(tmp_path / f"a{seed}", (4, 6, 6), seed=seed, **PLAIN))
        multi.append(finished(tmp_path / f"b{seed}", (4, 6 + better, 6 - better), seed=seed, **MULTI))
    groups = arms(*plain, *multi)
    signs = success_signature(groups, compared(groups))
    assert [(sign.sign, sign.verdict, round(16 * sign.interval.mean)) for sign in signs] == [
        ("clean accuracy above the initial weights', best", "seen", 7),
        ("clean accuracy above the initial weights', final", "against", -3),
        ("clean accuracy above TRM baseline's, peak", "seen", 5),
        ("clean accuracy above TRM baseline's, final", "against", -5),
    ]
    assert signature_table(signs)[3].split()[0] == "against"


def test_the_recorder_reads_it(tmp_path: Path) -> None:
    folders = [
        finished(tmp_path / f"{name}{seed}", solved, seed=seed, **arm)
        for name, solved, arm in (("a", (4, 8, 8), PLAIN), ("b", (4, 12, 4), MULTI))
        for seed in (0, 1)
    ]
    peak_vs_final.main([*map(str, folders), "--out", str(tmp_path / "out")])
    found = gathered([tmp_path / "out" / "peak_vs_final.json"])
    assert found["seeds"] == [0, 1] and found["commits"] == ["c0ffeec0ffee"] and len(found["config_hashes"]) == 2
    assert found["hardware"] == ["1× A CPU (2 threads)"] and found["seconds"] == 240
    numbers, label = {number.key: number for number in found["numbers"]}, "TRM multi4 loguniform"
    headline = found["numbers"][0]
    assert headline.key == (f"{label} minus TRM baseline: test exact_accuracy", "final")
    assert (headline.value, headline.low, headline.n, headline.unit) == (-25, None, 2, "points")
    accuracies = [numbers["TRM baseline: test exact_accuracy", moment].value for moment in ("initial", "peak", "final")]
    assert accuracies == [25, 50, 50]
    assert numbers[f"{label} minus its baseline: validation exact_accuracy at equal passes", None].value == 0
    assert f"open: {label}: clean accuracy above TRM baseline's, peak" in found["findings"]


def test_perturbed_starts_of_a_later_evaluation(tmp_path: Path) -> None:
    folders = [finished(tmp_path / "a", (1, 4, 3), **PLAIN), finished(tmp_path / "b", (1, 6, 5), **MULTI)]
    for folder, solved, exact in zip(folders, (20, 26), (3, 5), strict=True):
        result = {
            "rows": "test",
            "exact_accuracy": {"numerator": exact, "denominator": 16},
            "robustness": [{"sigma": 0.3, "site": "both", "rollouts": 2, "exact_count": solved, "count": 32}],
        }
        path = folder / "evaluation_final_perturbed.json"
        path.write_text(json.dumps({"results": [result, {**result, "rows": "validation"}]}))
    (difference,) = [difference for difference in compared(arms(*folders)) if difference.start != CLEAN]
    assert (difference.moment, difference.start) == ("final", "sigma 0.3, both, 2 rollouts")
    assert difference.values == [6 / 32]
    signs = success_signature(arms(*folders), compared(arms(*folders)))
    assert signs[0].sign.startswith("better success from perturbed starts") and signs[0].verdict == "open"
    (folders[1] / "final.pt").write_bytes(b"as evaluated")
    with pytest.raises(UserError, match=r"evaluation_final_perturbed.json is of other weights than .*b/final.pt holds"):
        read_finished(folders[1])
    evaluated = {"checkpoint_sha256": hashlib.sha256(b"as evaluated").hexdigest(), "results": [result]}
    path.write_text(json.dumps(evaluated))
    assert read_finished(folders[1]).tested["final"].perturbed == {"sigma 0.3, both, 2 rollouts": (26, 32)}
    (folders[1] / "final.pt").write_bytes(b"of more updates")
    with pytest.raises(UserError, match=r"evaluation_final_perturbed.json is of other weights than .*b/final.pt holds"):
        read_finished(folders[1])
    (folders[1] / "final.pt").unlink()
    assert read_finished(folders[1]).tested["final"].perturbed, "weights that were removed compare with nothing"
    result["exact_accuracy"] = {"numerator": 4, "denominator": 16}
    path.write_text(json.dumps({"results": [result]}))
    with pytest.raises(UserError, match="counts 4 of 16 test rows, the run 5 of 16"):
        read_finished(folders[1])
    path.write_text('{"results": 3}')
    with pytest.raises(UserError, match="is no evaluation of test rows"):
        read_finished(folders[1])


def test_arms_without_a_common_seed_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [finished(tmp_path / "b", (1, 4, 2), **PLAIN), finished(tmp_path / "m", (1, 4, 2), seed=1, **MULTI)]
    peak_vs_final.main([*map(str, folders), "--out", str(tmp_path / "out")])
    assert "TRM multi4 loguniform: no seed in common with TRM baseline, not compared" in capsys.readouterr().out


def test_without_rows_there_is_no_test_by_row(tmp_path: Path) -> None:
    groups = arms(
        finished(tmp_path / "b", (None, 4, 2), rows=False, **PLAIN), finished(tmp_path / "m", (1, 4, 2), **MULTI)
    )
    assert [difference.mcnemar for difference in compared(groups)] == [[None], [None]]
    assert snapshot(groups)[0].split(": ")[1].strip() == "initial -, best 0.2500 @ 20, final 0.1250"


def on_data(folder: Path, **datasets: Any) -> Path:
    """The run, with these fingerprints of its data."""
    record = json.loads((folder / "provenance.json").read_text())
    (folder / "provenance.json").write_text(json.dumps(record | {"datasets": datasets}))
    return folder


def test_runs_of_an_arm_are_on_the_same_data(tmp_path: Path) -> None:
    """Folders of one name may be built anew between two seeds; an older run may not tell what it was judged on."""
    old, new = f"{1:064x}", f"{2:064x}"
    told = [
        {"data": [old], "judged_on": [old], "seed": 0},
        {"data": [old], "seed": 1},
        {"data": [old], "judged_on": [old]},
    ]
    runs = [on_data(finished(tmp_path / f"a{seed}", (1, 4, 3), seed=seed), **data) for seed, data in enumerate(told)]
    assert [len(arm.runs) for arm in arms(*runs)] == [3]
    for name, data in (
        ("data", {"data": [new], "judged_on": [old]}),
        ("judged_on", {"data": [old], "judged_on": [new]}),
    ):
        other = on_data(finished(tmp_path / name, (1, 4, 3), seed=3), **data)
        differs = rf"a0 and .*{name} were trained or judged on different data \({name} {old[:12]} and {new[:12]}\)"
        with pytest.raises(UserError, match=differs):
            arms(*runs, other)
        assert [len(arm.runs) for arm in arms(*runs, finished(tmp_path / f"{name} elsewhere", (1, 4, 3), lr=0.5))] == [
            3,
            1,
        ]


def test_a_pair_without_rows_is_of_one_test_set(tmp_path: Path) -> None:
    old, new = f"{1:064x}", f"{2:064x}"
    baseline = on_data(finished(tmp_path / "b", (1, 4, 2), rows=False, **PLAIN), data=[old], judged_on=[old])
    same, other = (
        on_data(finished(tmp_path / name, (1, 4, 2), **MULTI), data=[new], judged_on=[judged])
        for name, judged in (("same", old), ("other", new))
    )
    assert len(compared(arms(baseline, same))) == 2
    with pytest.raises(UserError, match=r"other and .*b were tested on other puzzles"):
        compared(arms(baseline, other))


def test_the_picture_holds_the_numbers(tmp_path: Path) -> None:
    groups = arms(
        finished(tmp_path / "b0", (1, 4, 2), **PLAIN),
        finished(tmp_path / "b1", (1, 6, 4), seed=1, **PLAIN),
        finished(tmp_path / "m0", (1, 8, 2), **MULTI),
        finished(tmp_path / "m1", (1, 12, 2), seed=1, **MULTI),
        finished(tmp_path / "hrm", (1, 8, 2), arch={"name": "hrm"}, **PLAIN),
    )
    figure = draw(groups, compared(groups))
    assert len(figure.axes) == 6, "a row for each network"
    curves, tests, gaps, _, _, lonely = figure.axes
    first = curves.lines[0]
    assert curves.get_xlabel() == "passes", "the arms spend other numbers of them on an update"
    assert list(first.get_xdata()) == [640, 1280, 1920] and list(first.get_ydata()) == [0.25, 0.5, 0.375]
    for run in groups[0].runs:  # of before: their logs do not hold passes
        log = run.curve.folder / "metrics.jsonl"
        log.write_text(log.read_text().replace("train/samples", "train/other"))
    older, *_ = draw(groups, compared(groups)).axes
    assert older.get_xlabel() == "updates" and list(older.lines[0].get_xdata()) == [10, 20, 30]
    heights = {tuple(line.get_ydata()) for line in tests.lines}
    assert {(4 / 16, 6 / 16), (5 / 16, 5 / 16), (8 / 16, 12 / 16), (10 / 16, 10 / 16)} <= heights
    points = [tuple(line.get_ydata()) for line in gaps.lines]
    assert (25.0, 37.5) in points and (31.25, 31.25) in points and (0.0, -12.5) in points
    assert [text.get_text() for text in lonely.texts] == ["nothing to compare"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0] == "TRM baseline (2 seeds; 3e+04 FLOPs, 60 s a run)" and len(labels) == 3


def test_files_and_what_they_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [
        finished(tmp_path / "b0", (1, 4, 2), **PLAIN),
        finished(tmp_path / "b1", (1, 6, 4), seed=1, **PLAIN),
        finished(tmp_path / "m0", (1, 8, 2), shift=3, **MULTI),
        finished(tmp_path / "m1", (1, 7, 2), seed=1, **MULTI),
    ]
    for name in ("out", "again"):
        peak_vs_final.main([*map(str, folders), "--out", str(tmp_path / name)])
    files = sorted((tmp_path / "out").glob("[!.]*"))
    assert [path.name for path in files] == [
        *(f"{FIGURE}.{kind}" for kind in ("csv", "json", "png", "svg", "txt")),
        *(f"peak_vs_final.{kind}" for kind in ("csv", "json", "txt")),
    ]
    for path in files:
        if path.suffix in (".png", ".svg", ".csv"):
            assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    printed = capsys.readouterr().out
    text = (tmp_path / "out" / "peak_vs_final.txt").read_text()
    assert text.strip() in printed
    half = 100 * 12.706204736432095 * (3 / 16) / 2  # t(0.975, 1) times s / sqrt(2), of the differences 4 and 1 of 16
    assert f"best: +15.62 points, 95 % t interval {15.625 - half:+.2f} to {15.625 + half:+.2f}, 2 seeds" in text
    assert "seed 0: +25.00 points; solved by only this arm 7, only the baseline 3, McNemar p = 0.344" in text
    rows = list(csv.DictReader((tmp_path / "out" / "peak_vs_final.csv").open()))
    names = ("run", "seed", "initial_solved", "best_solved", "best_step", "final_solved", "count", "final_flops")
    assert [[row[name] for name in names] for row in rows][:3] == [
        ["b0", "0", "1", "4", "20", "2", "16", "30000.0"],
        ["b1", "1", "1", "6", "20", "4", "16", "30000.0"],
        ["m0", "0", "1", "8", "20", "2", "16", "30000.0"],
    ]
    record = json.loads((tmp_path / "out" / f"{FIGURE}.json").read_text())
    assert (record["seeds"], record["n_test"], record["commits"]) == ([0, 1], [16], ["c0ffeec0ffee"])
    assert record["interval"].startswith("95 % Student t") and record["command"].startswith("python analysis/arms/peak")
    assert record["arms"][1]["best"]["mean"] == 7.5 / 16 and record["arms"][0]["mean_seconds"] == 60
    assert record["differences"][0]["mcnemar"][0] == {"only_arm": 7, "only_baseline": 3, "p": pytest.approx(352 / 1024)}
    points = list(csv.DictReader((tmp_path / "out" / f"{FIGURE}.csv").open()))
    assert len(points) == len(record["points"]) == 4 * 3 + 4 * 3 + 2 * 3
    caption = (tmp_path / "out" / f"{FIGURE}.txt").read_text()
    for words in (
        "n = 16 test puzzles", "8 validation puzzles", "95 % Student t interval", "seeds 0, 1",
        "3e+04 FLOPs, 60 s of training", "TRM baseline:", "1× A CPU (2 threads)", "c0ffeec0ffee",
        f"python analysis/arms/peak_vs_final.py {folders[0]}",
    ):  # fmt: skip
        assert words in caption, words


BAD = {
    "no folder": (["{tmp}/absent"], "has no metrics.jsonl"),
    "twice": (["{tmp}/run", "{tmp}/run/../run"], "is named twice"),
    "a seed twice": (["{tmp}/run", "{tmp}/same"], "same repeats seed 0 of "),
    "under way": (["{tmp}/unfinished"], "has no summary.json: let the run go on to its end"),
    "gone on": (["{tmp}/longer"], "was summed up at update 30 and has gone on to 40"),
    "no tests": (["{tmp}/untested"], "holds no test of the best weights"),
    "odd counts": (["{tmp}/odd"], "the test of the best weights is damaged (found 5 of 4)"),
    "other counts": (["{tmp}/run", "{tmp}/fewer"], "were tested on other puzzles"),
    "other puzzles": (["{tmp}/run", "{tmp}/moved"], "were tested on other puzzles"),
    "other rows": (["{tmp}/stale"], "does not hold the 4 of 16 rows"),
    "no rows": (["{tmp}/torn"], "test_rows.json: it is no JSON"),
    "odd rows": (["{tmp}/strange"], "best is not one 0 or 1 for each of 16 puzzles"),
    "odd seed": (["{tmp}/seeds"], "found seed [3], expected a whole number"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("run", "same", "unfinished", "longer", "untested", "odd", "stale", "torn", "strange", "seeds"):
        finished(tmp_path / name, (1, 4, 3))
    finished(tmp_path / "fewer", (1, 4, 3), count=12, lr=0.5)
    moved = finished(tmp_path / "moved", (1, 4, 3), lr=0.5)
    rows = read_test_rows(moved / "test_rows.json")
    save_rows(moved, rows.puzzle[1:] + rows.puzzle[:1], rows.exact)
    save_rows(tmp_path / "stale", rows.puzzle, rows.exact | {"best": ~rows.exact["best"]})
    save_rows(tmp_path / "strange", rows.puzzle, rows.exact | {"best": rows.exact["best"][:3]})
    (tmp_path / "torn" / "test_rows.json").write_text('{"puzzle": ["')
    (tmp_path / "unfinished" / "summary.json").unlink()
    record = json.loads((tmp_path / "seeds" / "provenance.json").read_text())
    (tmp_path / "seeds" / "provenance.json").write_text(json.dumps(record | {"seeds": {"seed": [3]}}))
    with (tmp_path / "longer" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 40, "train/lm_loss": 1.0}) + "\n")
    for name, best in (("untested", None), ("odd", {"step": 20, "numerator": 5, "denominator": 4})):
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        summary["test"]["best"] = best
        (tmp_path / name / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(SystemExit) as caught:
        peak_vs_final.main([*(word.format(tmp=tmp_path) for word in arguments), "--out", str(tmp_path / "out")])
    assert caught.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_real_runs(sudoku6_folder: Path, tmp_path: Path) -> None:
    """What runs write is read; the rows they save are those of the test set, by content."""
    folders = []
    for seed, steps in itertools.product((0, 1), (8, 12)):
        folder = tmp_path / f"{steps}-{seed}"
        train_here("trm_mlp", sudoku6_folder, folder, [f"max_steps={steps}", f"seed={seed}", "max_test_rows=20"])
        folders.append(folder)
    groups = arms(*folders)
    assert [[run.curve.seed for run in arm.runs] for arm in groups] == [[0, 1], [0, 1]]
    assert all(run.spent["final"]["flops"] for arm in groups for run in arm.runs)
    puzzle_set = open_puzzle_set(sudoku6_folder, "test")
    rows = read_test_rows(folders[0] / "test_rows.json")
    hashes = row_hashes(puzzle_set)[test_rows(puzzle_set, 8)[:20]]
    assert [int(puzzle, 16) for puzzle in rows.puzzle] == hashes.tolist()
    assert rows.exact.keys() == {"initial", "best", "final"}
    assert all(test is not None for difference in compared(groups) for test in difference.mcnemar)
    peak_vs_final.main([*map(str, folders), "--out", str(tmp_path / "out")])
