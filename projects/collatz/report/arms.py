"""Arms of Collatz runs: runs that differ in nothing but the seed, how they are named, whether they can be compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.arms.labels import apart, shortened, told_apart
from analysis.arms.run_curves import refuse_other_data, refuse_repeated_seeds
from errors import UserError
from projects.collatz.report.runs import BY_NAME, CollatzRun, Metric
from training.records.provenance import settings_sha256

# Decided on integers: on the same steps they count the same on every machine.
_EXACT = ("V_avg", "V_min", "V_max")
# Counts and shares of counts: equal on every machine for functions that are decided on integers.
_COUNTED = ("on_orbit", "pass", "orbits", "fresh")


@dataclass(frozen=True)
class CollatzArm:
    """Runs that differ in nothing but the seed."""

    label: str
    settings_sha256: str
    runs: list[CollatzRun]

    @property
    def by_seed(self) -> dict[int | None, CollatzRun]:
        return {run.seed: run for run in self.runs}

    @property
    def lookahead(self) -> int:
        return self.runs[0].lookahead

    @property
    def settings(self) -> dict[str, Any]:
        return self.runs[0].settings

    def values(self, metric: Metric, moment: str) -> list[float] | None:
        """The metric's value for each run; None where a run was not measured."""
        values = [metric.read(run.entries[moment]) for run in self.runs]
        known = [value for value in values if value is not None]
        return known if len(known) == len(values) else None


def collatz_arms(runs: Sequence[CollatzRun]) -> list[CollatzArm]:
    """Arms in the order in which their first runs are named.

    Errors: `UserError` when an arm has a seed twice, or when runs were judged on different states or files.
    """
    _refuse_other_samples(runs)
    groups: dict[str, list[CollatzRun]] = {}
    for run in runs:
        groups.setdefault(settings_sha256(run.settings), []).append(run)
    labels = arm_labels([members[0].settings for members in groups.values()])
    for members in groups.values():
        refuse_repeated_seeds((run.seed, run.folder) for run in members)
    return [CollatzArm(label, digest, members) for label, (digest, members) in zip(labels, groups.items(), strict=True)]


def _refuse_other_samples(runs: Sequence[CollatzRun]) -> None:
    first = runs[0]
    for run in runs[1:]:
        for what, option in (("on_orbit", "--test-starts"), ("sizes", None), ("adversarial", None)):
            ours, theirs = run.report["samples"].get(what), first.report["samples"].get(what)
            if ours != theirs:
                mend = f"give all runs the same {option}" if option else "run both with the same version"
                raise UserError(
                    f"{run.folder} and {first.folder} were judged on other states ({what}: {ours}, {theirs}): {mend}"
                )
        if run.entries["final"]["orbits"].keys() != first.entries["final"]["orbits"].keys():
            raise UserError(
                f"{run.folder} and {first.folder} were judged along other orbits: run both with the same version"
            )
    with_file = [run for run in runs if run.rows is not None]
    for run in with_file[1:]:
        if run.rows != with_file[0].rows:
            raise UserError(
                f"{run.folder} and {with_file[0].folder} were judged on evaluation files of {run.rows} and "
                f"{with_file[0].rows} rows: give all runs the same --eval-csv"
            )
    refuse_other_data((run.provenance, run.folder) for run in runs)
    by_lookahead: dict[int, CollatzRun] = {}
    for run in (*with_file, *(run for run in runs if run.rows is None)):
        twin = by_lookahead.setdefault(run.lookahead, run)
        for name in _EXACT:
            counts = [[BY_NAME[what].read(judged.report[name]) for judged in (run, twin)] for what in _COUNTED]
            # A run without an evaluation file has no value for it.
            if any(ours != theirs for ours, theirs in counts if ours is not None and theirs is not None):
                raise UserError(
                    f"{run.folder} and {twin.folder} count other violations of {name}, so they were judged "
                    "on other numbers: give all runs the same --eval-csv and --test-starts"
                )


def reports_by_lookahead(arms: Sequence[CollatzArm]) -> dict[int, dict[str, Any]]:
    """A report to read closed forms from, by lookahead in order of the arms; one with an evaluation file, if any."""
    runs = [run for arm in arms for run in arm.runs]
    return {
        lookahead: max((run for run in runs if run.lookahead == lookahead), key=lambda run: run.rows is not None).report
        for lookahead in dict.fromkeys(run.lookahead for run in runs)
    }


# How a setting that sets an arm apart is named; others as key=value.
_WORDS: dict[str, Callable[[Any], str]] = {
    "collatz.mine_negatives": lambda value: "mining" if value else "no mining",
    "collatz.mine_interval": lambda value: f"mined every {value}",
    "collatz.mine_count": lambda value: f"{value} mined",
    "collatz.mine_start_epoch": lambda value: f"mining from {value} on",
    "collatz.use_t4": lambda value: "T4" if value else "no T4",
    "collatz.use_t8": lambda value: "T8" if value else "no T8",
    "collatz.ramp_len": lambda value: f"ramp {value}",
    "collatz.target_type": lambda value: f"{value} target",
    "collatz.layers": lambda value: f"layers {','.join(map(str, value))}",
    "collatz.legacy_lr_plateau": lambda value: "rate that collapses" if value else "rate that does not collapse",
    "collatz.growth_weight": lambda value: f"growth weight {value:g}",
    "collatz.decontaminate": lambda value: "test orbits kept out" if value else "trained on test orbits",
    "collatz.empty_pool": lambda value: f"empty pool {value}",
    "lr_min_ratio": lambda value: "constant rate" if value == 1 else "cosine",
    "updates": lambda value: f"{value} updates",
}
_OF_MINING = {"collatz.mine_interval", "collatz.mine_count", "collatz.mine_start_epoch"}
_SAID = {"collatz.lookahead", "collatz.preset", "epochs", "min_eval_interval"}  # in the label anyway, or by `updates`


def arm_labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """`faithful L10 mining`: preset, lookahead, and what sets the arm apart from those of its preset. No two are alike.

    Left out is what has no meaning here, and what another setting implies: a rate that follows a schedule, or is
    compared with one, cannot collapse.
    """
    labels = []
    for of_arm in settings:
        preset = of_arm["collatz.preset"]
        names = apart(of_arm, [others for others in settings if others["collatz.preset"] == preset])
        unsaid = _SAID | (set() if of_arm.get("collatz.mine_negatives") else _OF_MINING)
        if "lr_min_ratio" in names:
            unsaid.add("collatz.legacy_lr_plateau")
        words = [
            _WORDS[name](of_arm[name]) if name in _WORDS else f"{name.removeprefix('collatz.')}={of_arm.get(name)}"
            for name in names
            if name not in unsaid
        ]
        labels.append(f"{preset} L{of_arm['collatz.lookahead']} {shortened(words)}".strip())
    return told_apart(labels, settings)
