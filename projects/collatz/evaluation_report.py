"""Everything that is measured about functions V at one lookahead, trained and in closed form, in one record and table.

By function's name: what `collatz.py --closed-forms` gives (rates on the evaluation file, `orbits`), and `on_orbit`,
`fresh`, `sizes`, `adversarial`; a network also has `worst_margin` in its orbits and `float32`, its violations in the
arithmetic of training. `samples` says what they are counts of.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from projects.collatz.bounds import Bounds, bounds_at
from projects.collatz.closed_forms import CLOSED_FORMS, ValueFunction
from projects.collatz.eval_file import EvalRows
from projects.collatz.evaluation import (
    NO_RATES,
    judge_orbits,
    judge_rows,
    not_multiples_of_3,
    total_along,
    violations_by_name,
)
from projects.collatz.judge import NetworkJudge
from projects.collatz.samples import FRESH_STARTS, ORBIT_BITS, SIZES, adversarial_states, numbers_of_bits, orbit_states
from projects.collatz.syracuse import TEST_STARTS
from training.evaluation.summary_table import fitted, wrapped
from training.records.result_numbers import wilson_interval

SCHEMA_VERSION = 1
# Seeds of the on-orbit samples. They are the same in all runs, so that all are judged on the same states. The test
# sample was seen by no run while presets were being chosen: those looked at seed 1's.
TEST_SEED, VALIDATION_SEED, SIZE_SEED = 20261125, 2, 3
NUMBERS_OF_A_SIZE = 4000
HEADLINE = "on_orbit"


def judge_states(
    functions: Sequence[ValueFunction], states: Sequence[int], lookahead: int, description: str = "states"
) -> dict[str, dict[str, Any]]:
    """Violations among the steps from some states, with a 95 % Wilson interval of their rate, by function's name."""
    free = not_multiples_of_3(states)
    violations = violations_by_name(functions, states, lookahead, description)
    return {name: _count(bad, free) for name, bad in violations.items()}


def _count(violations: np.ndarray, free: np.ndarray) -> dict[str, Any]:
    number, steps = int(violations.sum()), len(violations)
    return {
        "steps": steps,
        "violations": number,
        "rate": number / steps,
        "rate_interval": list(wilson_interval(number, steps)),
        "free_steps": int(free.sum()),
        "free_violations": int((violations & free).sum()),
    }


def full_report(
    functions: Sequence[ValueFunction],
    lookahead: int,
    rows: EvalRows | None,
    *,
    test_starts: int,
    starts: Sequence[int] = TEST_STARTS,
    networks32: Sequence[NetworkJudge] = (),
) -> dict[str, Any]:
    """All of it for `functions` and the closed forms.

    Args:
        rows: of the evaluation file, or None. test_starts: orbits of the on-orbit sample.
        networks32: networks of the same names as in `functions`, as they are in training.
    """
    judged = [*CLOSED_FORMS, *functions]
    entries: dict[str, dict[str, Any]] = {function.name: dict.fromkeys(NO_RATES) for function in judged}
    if rows is not None:
        entries = judge_rows([*judged, *_renamed(networks32)], rows, lookahead)
    states = test_states(test_starts)
    on_orbit = judge_states([*judged, *_renamed(networks32)], states, lookahead, "on-orbit sample")
    orbits = judge_orbits(judged, starts, lookahead)
    fresh = judge_orbits(judged, FRESH_STARTS, lookahead)
    sizes = {
        bits: judge_states(judged, numbers_of_bits(bits, NUMBERS_OF_A_SIZE, SIZE_SEED), lookahead, f"{bits} bits")
        for bits in SIZES
    }
    hard = adversarial_states()
    adversarial = {name: judge_states(judged, states_of_name, lookahead, name) for name, states_of_name in hard.items()}
    for function in judged:
        entry = entries[function.name]
        entry["orbits"] = {str(start): asdict(count) for start, count in orbits[function.name].items()}
        if isinstance(function, NetworkJudge):
            for start in starts:
                entry["orbits"][str(start)]["worst_margin"] = function.worst_margin(start)
        entry[HEADLINE] = on_orbit[function.name]
        entry["fresh"] = {str(start): asdict(count) for start, count in fresh[function.name].items()}
        entry["sizes"] = {str(bits): counts[function.name] for bits, counts in sizes.items()}
        entry["adversarial"] = {name: counts[function.name] for name, counts in adversarial.items()}
    for network in networks32:
        name = _renamed([network])[0].name
        rowwise = entries.pop(name)["violations"] if rows is not None else None
        entries[network.name]["float32"] = {"violations": rowwise, "on_orbit_violations": on_orbit[name]["violations"]}
    return {
        "lookahead": lookahead,
        "bounds": asdict(bounds_at(lookahead)),
        "samples": {
            "on_orbit": {"starts": test_starts, "bits": ORBIT_BITS, "seed": TEST_SEED, "states": len(states)},
            "sizes": {"numbers": NUMBERS_OF_A_SIZE, "seed": SIZE_SEED},
            "adversarial": {name: len(states_of_name) for name, states_of_name in hard.items()},
        },
        "orbits_total": total_along(orbits),
        "fresh_total": total_along(fresh),
        **entries,
    }


def _renamed(networks: Sequence[NetworkJudge]) -> list[NetworkJudge]:
    return [NetworkJudge(f"{network.name} float32", network.network) for network in networks]


def report_table(report: dict[str, Any], networks: Sequence[str]) -> str:
    """One line for each function, what theory says, and whether each of `networks` beats the closed forms."""
    names = [form.name for form in CLOSED_FORMS] + list(networks)
    total, fresh = report["orbits_total"], report["fresh_total"]
    steps = report["samples"]["on_orbit"]["states"]
    header = ["V", f"on-orbit viol. /{steps:,}", "95 %", "pass %", "weighted", "growth", "gr.wtd", "n%3!=0",
              f"orbits /{total['steps']}", "each", f"fresh /{fresh['steps']}"]  # fmt: skip
    lines = [header]
    for name in names:
        entry = report[name]
        counts = entry[HEADLINE]
        low, high = counts["rate_interval"]
        shares = [entry[key] for key in ("pass", "weighted_pass", "growth_pass", "growth_weighted_pass", "free_pass")]
        by_orbit = "/".join(str(count["violations"]) for count in entry["orbits"].values())
        lines.append([
            name, f"{100 * counts['rate']:.3f} %", f"{100 * low:.2f}-{100 * high:.2f}",
            *("-" if share is None else f"{100 * share:.2f}" for share in shares),
            str(total["violations"][name]), by_orbit, str(fresh["violations"][name]),
        ])  # fmt: skip
    bounds = Bounds(**report["bounds"])
    verdicts = [verdict(report, name) for name in networks]
    return "\n".join(
        [
            f"lookahead {report['lookahead']}: V of networks in float64; a margin below 1e-6 is a violation",
            *fitted(lines),
            *wrapped([f"in theory: {bounds.in_words()}", *verdicts]),
        ]
    )


def verdict(report: dict[str, Any], name: str) -> str:
    """Whether a network violates less on-orbit steps than the best closed form, which is named."""
    best = min((form.name for form in CLOSED_FORMS), key=lambda form: report[form][HEADLINE]["violations"])
    theirs, ours = report[best][HEADLINE], report[name][HEADLINE]
    low, high = ours["rate_interval"]
    share = f"{ours['violations']} of {ours['steps']:,} on-orbit steps violated ({100 * ours['rate']:.3f} %, 95 % "
    share += f"{100 * low:.2f}-{100 * high:.2f})"
    if ours["violations"] < theirs["violations"]:
        return f"{name} beats the closed forms: {share}; the best of them, {best}, violates {theirs['violations']}"
    return f"{name} does not beat the closed forms: {share}; {best} violates {theirs['violations']}"


def validation_states(starts: int) -> list[int]:
    """The on-orbit states that choose the best checkpoint, none of which is reported."""
    return orbit_states(starts, VALIDATION_SEED)


def test_states(starts: int) -> list[int]:
    """The on-orbit states that are reported."""
    return orbit_states(starts, TEST_SEED)


# pytest collects what is called test_*; this is not one.
test_states.__test__ = False  # type: ignore[attr-defined]
