"""The signs by which training on perturbed trajectories would be seen to work, line by line, whatever they say.

Source: the trajectory augmentation notes name them: better success from perturbed starts, clean accuracy that does not
regress, and both the peak and the final value of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.arms.finished_runs import Arm
from analysis.arms.seed_pairs import CLEAN, Difference, MeanInterval, mean_interval, with_baseline


@dataclass(frozen=True)
class Sign:
    """One line: `seen` where the interval lies above 0, `against` where below, `open` where it holds 0 or is none."""

    arm: str
    sign: str
    interval: MeanInterval

    @property
    def verdict(self) -> str:
        low, high = self.interval.bounds or (0.0, 0.0)
        return "seen" if low > 0 else "against" if high < 0 else "open"


def success_signature(arms: Sequence[Arm], differences: Sequence[Difference]) -> list[Sign]:
    """For every arm but the baselines: each sign with its mean over seeds and its interval."""
    signs = []
    for baseline, arm in with_baseline(arms):
        own = [each for each in differences if (each.arm, each.baseline) == (arm.label, baseline.label)]
        for each in own:
            if each.start != CLEAN and each.moment == "final":
                name = f"better success from perturbed starts than {baseline.label} ({each.start})"
                signs.append(Sign(arm.label, name, each.interval))
        for moment in ("best", "final"):
            changes = [
                run.tested[moment].value - run.tested["initial"].value for run in arm.runs if "initial" in run.tested
            ]
            if changes:
                name = f"clean accuracy above the initial weights', {moment}"
                signs.append(Sign(arm.label, name, mean_interval(changes)))
        signs += [
            Sign(arm.label, f"clean accuracy above {baseline.label}'s, {'peak' if each.moment == 'best' else 'final'}",
                 each.interval)
            for each in own if each.start == CLEAN
        ]  # fmt: skip
    return signs


def signature_table(signs: Sequence[Sign]) -> list[str]:
    """For people: verdict, mean and interval in percentage points."""
    lines = []
    for each in signs:
        bounds = each.interval.bounds
        interval = "no interval" if bounds is None else f"[{100 * bounds[0]:+.2f}, {100 * bounds[1]:+.2f}]"
        lines.append(
            f"{each.verdict:>7}  {each.arm}: {each.sign}: {100 * each.interval.mean:+.2f} points {interval}, "
            f"{each.interval.n} {'seed' if each.interval.n == 1 else 'seeds'}"
        )
    return lines
