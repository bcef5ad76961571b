"""Arms against their baseline, seed by seed: differences, their interval over seeds, McNemar's test of each pair."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.arms.finished_runs import COMPARED, Arm, FinishedRun
from errors import UserError
from training.records.provenance import other_data

CLEAN = "the initial state"
INTERVAL = (
    "95 % Student t interval of the mean over seeds (a bootstrap of so few seeds would come out too narrow); it speaks "
    "of other seeds with the same data, not of other puzzles"
)


@dataclass(frozen=True)
class MeanInterval:
    """A mean over seeds; `low` and `high` are None for a single one, and where all are equal."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def bounds(self) -> tuple[float, float] | None:
        """(low, high) where there is an interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def within(self, least: float, most: float) -> "MeanInterval":
        """The interval cut where no mean can lie: of shares, below 0 and above 1."""
        low, high = (None if bound is None else min(max(bound, least), most) for bound in (self.low, self.high))
        return MeanInterval(self.mean, low, high, self.n)

    @property
    def side(self) -> int:
        """1 where the interval lies above 0, -1 where below, 0 where it holds 0 or is none."""
        low, high = self.bounds or (0.0, 0.0)
        return int(low > 0) - int(high < 0)

    def in_words(self, form: str = "+.2f", *, scale: float = 100, unit: str = "points") -> str:
        """`-0.52 points, 95 % t interval -0.80 to -0.24, 5 seeds`; of shares in percentage points unless told."""
        mean = f"{scale * self.mean:{form}} {unit}"
        if self.bounds is None:
            return f"{mean}, {'one seed' if self.n == 1 else f'the same on {self.n} seeds'}: no interval"
        low, high = (scale * bound for bound in self.bounds)
        return f"{mean}, 95 % t interval {low:{form}} to {high:{form}}, {self.n} seeds"


@dataclass(frozen=True)
class McNemar:
    """Test puzzles that one of two runs solves alone, and the exact two-sided p of so uneven a split."""

    only_arm: int
    only_baseline: int
    p: float


@dataclass(frozen=True)
class Difference:
    """Accuracy of an arm minus that of its baseline at one moment, by seed.

    start: CLEAN, or the perturbed starts of which the accuracy over rollouts is compared. mcnemar: None without rows
    of both, and from perturbed starts, whose rollouts are no independent trials.
    """

    arm: str
    baseline: str
    moment: str
    start: str
    seeds: list[int | None]
    values: list[float]
    interval: MeanInterval
    mcnemar: list[McNemar | None]


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """Mean of at least one value and its 95 % t interval.

    Equal values have none: the formula's would have no width, and say more than a handful of seeds can.
    """
    from scipy.stats import ttest_1samp  # takes as long to import as the script to start

    mean = float(np.mean(values))
    if len(set(values)) == 1:
        return MeanInterval(mean, None, None, len(values))
    interval = ttest_1samp(values, 0.0).confidence_interval(0.95)
    return MeanInterval(mean, float(interval.low), float(interval.high), len(values))


def smallest_effect(values: Sequence[float]) -> float | None:
    """The mean of such values that a t test of five per cent finds in four of five repetitions; None of one value.

    (t_0.975 + t_0.8) standard errors: what a mean whose interval holds 0 may still be, and would often not be seen.
    Source: Bloom 1995 (Evaluation Review 19, 547), minimum detectable effects, with the t distribution's quantiles.
    """
    from scipy.stats import t  # takes as long to import as the script to start

    if len(values) < 2:
        return None
    freedom = len(values) - 1
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return float((t.ppf(0.975, freedom) + t.ppf(0.8, freedom)) * error)


def mcnemar(arm: np.ndarray, baseline: np.ndarray) -> McNemar:
    """McNemar's test without approximation, of two (N,) bool over the same puzzles.

    Under the hypothesis that both solve equally many, each puzzle solved by one alone is as likely to be the other's.
    """
    from scipy.stats import binomtest  # takes as long to import as the script to start

    only_arm, only_baseline = int((arm & ~baseline).sum()), int((baseline & ~arm).sum())
    discordant = only_arm + only_baseline
    p = float(binomtest(only_arm, discordant, 0.5).pvalue) if discordant else 1.0
    return McNemar(only_arm, only_baseline, p)


def compared(arms: Sequence[Arm]) -> list[Difference]:
    """Every arm against the first of its network, at the best and at the final weights, also from perturbed starts.

    Arms that share no seed with their baseline are left out. Errors: `UserError` when two runs of a pair were tested on
    other puzzles.
    """
    differences = []
    for baseline, arm in with_baseline(arms):
        ours, theirs = arm.by_seed, baseline.by_seed
        seeds = [seed for seed in ours if seed in theirs]
        for moment in COMPARED if seeds else ():
            pairs = [(ours[seed], theirs[seed]) for seed in seeds]
            tests = [_mcnemar(run, baseline_run, moment) for run, baseline_run in pairs]
            tested = [(run.tested[moment], baseline_run.tested[moment]) for run, baseline_run in pairs]
            # Whole numbers are subtracted, so that equal differences are equal to the last bit.
            clean = [(test.solved - of_baseline.solved) / test.count for test, of_baseline in tested]
            names = arm.label, baseline.label, moment
            differences.append(Difference(*names, CLEAN, seeds, clean, mean_interval(clean), tests))
            for start in tested[0][0].perturbed:
                counts = [(test.perturbed.get(start), other.perturbed.get(start)) for test, other in tested]
                values = [
                    (solved[0] - other[0]) / solved[1]
                    for solved, other in counts
                    if solved and other and solved[1] == other[1]
                ]
                if len(values) == len(seeds):
                    nothing: list[McNemar | None] = [None] * len(seeds)
                    differences.append(Difference(*names, start, seeds, values, mean_interval(values), nothing))
    return differences


def with_baseline(arms: Sequence[Arm]) -> Iterator[tuple[Arm, Arm]]:
    """(baseline, arm) for every arm that is not the first of its network."""
    baselines: dict[str, Arm] = {}
    for arm in arms:
        baseline = baselines.setdefault(arm.network, arm)
        if baseline is not arm:
            yield baseline, arm


def _mcnemar(run: FinishedRun, baseline_run: FinishedRun, moment: str) -> McNemar | None:
    same = run.tested[moment].count == baseline_run.tested[moment].count
    if same and run.rows is not None and baseline_run.rows is not None:
        same = run.rows.puzzle == baseline_run.rows.puzzle
    elif same:
        differing = other_data(run.curve.provenance.get("datasets"), baseline_run.curve.provenance.get("datasets"))
        same = all(name != "judged_on" for name, *_ in differing)
    if not same:
        raise UserError(
            f"{run.curve.folder} and {baseline_run.curve.folder} were tested on other puzzles: a pair needs the "
            "same data_paths_test, validation_size and max_test_rows"
        )
    if run.rows is None or baseline_run.rows is None:
        return None
    return mcnemar(run.rows.exact[moment], baseline_run.rows.exact[moment])
