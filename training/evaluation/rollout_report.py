"""What each rule of choice among stochastic rollouts solves, against what the rollouts cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from models.config import ModelConfig
from models.flops import step_flops
from training.distributed import World
from training.evaluation.answering import describe_rate, effective_wilson
from training.evaluation.rollout_selection import first_best, first_majority, groups_majority, subset_any, subset_best
from training.evaluation.rollout_table import RolloutRecorder, RolloutTable
from training.inference.stochastic_rollouts import Settings, judged_steps
from training.records.result_numbers import wilson_interval
from training.storage.atomic_file import write_npz_atomically

SELECTORS = ("q", "stability", "majority", "random", "oracle")
NOISELESS = "noiseless"


def rollout_counts(rollouts: int) -> list[int]:
    """1, 2, 4, ... below `rollouts`, and `rollouts`."""
    return [*(2**power for power in range(rollouts.bit_length()) if 2**power < rollouts), rollouts]


def accuracies(table: RolloutTable, *, probe_passes: int, flops_per_step: float) -> list[dict[str, Any]]:
    """Exact accuracy of every selector after each judged step with 1, 2, 4, ... R rollouts.

    An entry has `selector`, `steps`, `rollouts` (r), `forward_passes` and `flops` of one puzzle, and

    - `exact_accuracy` of the first r rollouts: value, numerator, denominator and 95 % interval. `random`: of rollouts,
      not puzzles, in an interval over puzzles; the exact expectation of a draw among the r.
    - `expected`: value and interval over puzzles of the mean over all sets of r of the R rollouts, in closed form;
      `majority`, which has none, over the groups of r rollouts that follow one another.

    Passes are r times the steps, for `random` too, which is what blind choice makes of them; for `stability` also the
    probes that selecting needs (of the first size, at the judged step). `noiseless` is no choice but what there is
    without noise, for one trajectory of so many steps: what every choice is to be compared with.

    Args:
        probe_passes: supervision steps of one such probe. flops_per_step: operations of one such step.
    """
    entries = []
    for moment, steps in enumerate(table.steps.tolist()):
        exact, q, answer = table.exact[..., moment], table.q[..., moment], table.answer[..., moment]
        stability = -table.growth[..., moment, 0] if len(table.sizes) else None
        if table.noiseless.shape[1]:
            alone = table.noiseless[:, moment].astype(float)
            entries.append(
                {"selector": NOISELESS, "steps": steps, "rollouts": 1, "forward_passes": steps}
                | {"flops": steps * flops_per_step, "exact_accuracy": _counted(alone, 1), "expected": _mean(alone, 1)}
            )
        for size in rollout_counts(table.rollouts):
            first = {
                "q": first_best(exact, q, size),
                "majority": first_majority(exact, answer, q, size),
                "random": exact[:, :size].mean(axis=1),
                "oracle": exact[:, :size].any(axis=1),
            }
            expected = {
                "q": subset_best(exact, q, size),
                "majority": groups_majority(exact, answer, q, size),
                "random": exact.mean(axis=1),
                "oracle": subset_any(exact, size),
            }
            if stability is not None:
                first["stability"] = first_best(exact, stability, size)
                expected["stability"] = subset_best(exact, stability, size)
            for selector in (name for name in SELECTORS if name in first):
                passes = size * (steps + (probe_passes if selector == "stability" else 0))
                entries.append({
                    "selector": selector, "steps": steps, "rollouts": size, "forward_passes": passes,
                    "flops": passes * flops_per_step,
                    "exact_accuracy": _counted(first[selector], size if selector == "random" else 1),
                    "expected": _mean(expected[selector], table.rollouts),
                })  # fmt: skip
    return entries


def rollout_record(settings: Settings, table: RolloutTable, config: ModelConfig) -> dict[str, Any]:
    """How the stochastic rollouts of a table were made, and what each way to choose among them solves."""
    probe, flops = settings.probes.build(settings.noise_seed), step_flops(config, training=False)
    passes = 0 if probe is None else probe.passes(1)
    counts = {"steps": table.steps.tolist(), "puzzles": len(table.row), "step_flops": flops}
    measured = accuracies(table, probe_passes=passes, flops_per_step=flops) if len(table.row) else []
    return settings.recipe() | counts | {"accuracy": measured}


class RolloutEvaluator(RolloutRecorder):
    """The stochastic rollouts of some rows, and what each way to choose among them solves.

    Args:
        max_steps: length of a rollout. file: the `.npz` file that keeps rollouts. prefix: of the arrays' names in it.
    """

    def __init__(self, settings: Settings, max_steps: int, config: ModelConfig, file: str, prefix: str) -> None:
        super().__init__(settings.rollouts, judged_steps(settings.judged_steps, max_steps), settings.probes.sizes)
        self.settings, self.config, self.file, self.prefix = settings, config, file, prefix

    def begin(self) -> None:
        super().begin()
        self.found: dict[str, Any] = {}
        self.others: dict[str, np.ndarray] = {}

    def gather(self, world: World) -> None:
        super().gather(world)
        self.found = rollout_record(self.settings, self.table(), self.config)

    def add(self, other: Self) -> None:
        """The other one's arrays stand in the file beside these, under its own prefix."""
        self.others |= other.arrays()

    def report(self) -> dict[str, Any]:
        return self.found

    def lines(self) -> list[str]:
        return rollout_lines(self.found)

    def arrays(self) -> dict[str, np.ndarray]:
        how = {key: value for key, value in self.found.items() if key != "accuracy"}
        arrays = {self.prefix + name: array for name, array in self.table().arrays(how).items()}
        return arrays | self.others

    def files(self, folder: Path) -> list[Path]:
        write_npz_atomically(folder / self.file, self.arrays())
        return [folder / self.file]


def _counted(shares: np.ndarray, per_puzzle: int) -> dict[str, Any]:
    """A rate of `per_puzzle` answers of each puzzle."""
    numerator, denominator = round(float(shares.sum()) * per_puzzle), len(shares) * per_puzzle
    interval = wilson_interval(numerator, denominator) if per_puzzle == 1 else _mean(shares, per_puzzle)["interval95"]
    return {
        "value": numerator / denominator, "numerator": numerator, "denominator": denominator,
        "interval95": list(interval),
    }  # fmt: skip


def _mean(shares: np.ndarray, most: int) -> dict[str, Any]:
    """Mean over puzzles; its interval speaks of at most `most` trials for each."""
    rate = min(1.0, max(0.0, float(shares.mean())))
    low, high = effective_wilson(rate, float(shares.var()), float(len(shares)), float(len(shares) * most))
    return {"value": rate, "interval95": [low, high]}


def rollout_lines(measured: Mapping[str, Any]) -> list[str]:
    """For people: what each selector solves at the end, by number of rollouts."""
    if not measured["accuracy"]:
        return []
    entries: Sequence[Mapping[str, Any]] = measured["accuracy"]
    last = measured["steps"][-1]
    at_end = {(entry["selector"], entry["rollouts"]): entry for entry in entries if entry["steps"] == last}
    names = [name for name in SELECTORS if (name, 1) in at_end]
    lines = [
        f"  stochastic rollouts: noise of {measured['sigma']:g} on {measured['site']} at each of {last} supervision "
        f"steps, {measured['rollouts']} rollouts of each row; means over sets of so many of them",
        "  rollouts  " + "  ".join(f"{name:>9}" for name in names) + "  passes a row",
    ]
    for size in rollout_counts(measured["rollouts"]):
        values = "  ".join(f"{at_end[name, size]['expected']['value']:>9.4f}" for name in names)
        lines.append(f"  {size:>8}  {values}  {at_end['q', size]['forward_passes']:>12,}")
    if (alone := at_end.get((NOISELESS, 1))) is not None:
        counts = {"exact_count": alone["exact_accuracy"]["numerator"], "count": alone["exact_accuracy"]["denominator"]}
        lines.append(f"  one trajectory of {last} steps without noise: {describe_rate(counts)}")
    return lines
