"""Questions about Collatz orbits that need no training: which steps fail, which orbits are hard, what L = 30 gives.

    python projects/collatz/report/orbits.py --out DIR

1. Orbits: steps, maxima of the odd-only and of the full map, mean valuation, windows that rise (T^(L+1)(n) >= n, where
   V_avg fails), how much of each orbit the source's hard seeds train on, and whether the start is a record: no smaller
   odd number takes as many steps. The source's own table stands beside it, corrected.
2. Closed forms at each lookahead, on those orbits, on the fresh ones and on an on-orbit sample, beside the bound.
3. Growth and decay steps: on which of them each closed form fails; and at small lookaheads the best possible V by exact
   search, with growth steps weighing as much as decay steps and ten times as much, as in the source's loss.

docs/collatz.md says what follows from it. Writes collatz_orbits.txt, .csv (a line for each function and lookahead) and
.json to DIR.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()


from analysis.command_line import environment, whole_numbers
from analysis.figures.figure_files import save_caption, save_csv, save_json
from analysis.figures.made_of import results_folder
from long_work import progress_bar
from projects.collatz.bounds import bounds_at
from projects.collatz.closed_forms import CLOSED_FORMS, LogN
from projects.collatz.evaluation import judge_orbits, violations_by_name
from projects.collatz.evaluation_report import TEST_SEED, test_states
from projects.collatz.report.orbit_facts import (
    CORRECTION,
    SOURCE_TABLE,
    OrbitFacts,
    at_least_as_long,
    odd_step_counts,
    orbit_facts,
    record_starts,
)
from projects.collatz.report.small_windows import MOST_LOOKAHEAD, BestWindows, best_windows
from projects.collatz.samples import FRESH_STARTS, ORBIT_BITS
from projects.collatz.settings import MOST_LOOKAHEAD as LARGEST_LOOKAHEAD
from projects.collatz.syracuse import TEST_STARTS
from training.evaluation.summary_table import fitted, wrapped
from training.records.result_numbers import Number, rate, record_entry, wilson_interval

SCHEMA_VERSION = 1
LOOKAHEADS = (10, 20, 30)
RECORDS_BELOW = 1 << 20
GROWTH_WEIGHT = 10.0  # of the source's loss


def closed_form_rows(lookahead: int, states: Sequence[int]) -> list[dict[str, Any]]:
    """A flat row for each closed form: violations along the reported and the fresh orbits, and among the states' steps.

    growth_violations and decay_violations are counts among growth_steps and decay_steps of the states.
    """
    orbits, fresh = (judge_orbits(CLOSED_FORMS, starts, lookahead) for starts in (TEST_STARTS, FRESH_STARTS))
    failed = violations_by_name(CLOSED_FORMS, states, lookahead, f"closed forms at lookahead {lookahead}")
    growth = failed[LogN.name]  # of states above 1, ln n fails on growth steps and on no other
    rows = []
    for form in CLOSED_FORMS:
        violations = failed[form.name]
        count = int(violations.sum())
        low, high = wilson_interval(count, len(growth))
        rows.append({
            "lookahead": lookahead, "function": form.name,
            "orbit_violations": sum(counts.violations for counts in orbits[form.name].values()),
            "orbit_steps": sum(counts.steps for counts in orbits[form.name].values()),
            **{f"orbit_{start}": counts.violations for start, counts in orbits[form.name].items()},
            "fresh_violations": sum(counts.violations for counts in fresh[form.name].values()),
            "fresh_steps": sum(counts.steps for counts in fresh[form.name].values()),
            "steps": len(growth), "violations": count, "rate": count / len(growth), "low": low, "high": high,
            "growth_steps": int(growth.sum()), "growth_violations": int((violations & growth).sum()),
            "decay_steps": int((~growth).sum()), "decay_violations": int((violations & ~growth).sum()),
        })  # fmt: skip
    return rows


def small_optima(most: int) -> list[dict[str, Any]]:
    """The best V at lookaheads 1..`most`: at equal weights, ties broken in both ways, and at the source's weight."""
    optima = []
    for lookahead in progress_bar(range(1, most + 1), desc="best small windows", leave=False):
        bounds = bounds_at(lookahead)
        fewest, most_growth = (best_windows(lookahead, 1.0, prefer_growth=prefer) for prefer in (False, True))
        weighted = best_windows(lookahead, GROWTH_WEIGHT)
        optima.append({
            "lookahead": lookahead, "lower_bound": bounds.lower_bound, "rate_V_min": bounds.rate_V_min,
            "forced_growth": fewest.forced_growth, "equal_fewest_growth": _optimum(fewest),
            "equal_most_growth": _optimum(most_growth), "weighted": _optimum(weighted),
        })  # fmt: skip
    return optima


def _optimum(best: BestWindows) -> dict[str, float]:
    return {"growth_weight": best.growth_weight, "rate": best.rate, "growth": best.growth, "decay": best.decay}


def orbit_table(facts: Sequence[OrbitFacts], longer: dict[int, int | None]) -> list[str]:
    """One line for each start; `longer` as `at_least_as_long` gives it."""
    lookaheads = list(facts[0].rising)
    header = ["start", "steps", "growth", "mean k", "odd max", "ratio", "full max", "ratio",
              *(f"rise L={lookahead}" for lookahead in lookaheads), "trained on", "as long"]  # fmt: skip
    rows = [header]
    for fact in facts:
        count = longer[fact.start]
        rows.append([
            str(fact.start), str(fact.steps), str(fact.growth_steps), f"{fact.mean_valuation:.3f}",
            f"{fact.odd_max:,}", f"{fact.odd_ratio:,.1f}", f"{fact.full_max:,}", f"{fact.full_ratio:,.1f}",
            *(str(rising) for rising in fact.rising.values()), f"{fact.trained_on}/{fact.steps}",
            "-" if count is None else "record" if count == 1 else str(count),
        ])  # fmt: skip
    return fitted(rows)


def closed_form_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each function at one lookahead."""
    first = rows[0]
    header = [f"L = {first['lookahead']}", f"on-orbit /{first['steps']:,}", "95 %", "of growth steps", "of decay steps",
              f"orbits /{first['orbit_steps']}", "each", f"fresh /{first['fresh_steps']}"]  # fmt: skip
    lines = [header]
    for row in rows:
        by_orbit = "/".join(str(row[f"orbit_{start}"]) for start in TEST_STARTS)
        lines.append([
            row["function"], f"{100 * row['rate']:.3f} %", f"{100 * row['low']:.2f}-{100 * row['high']:.2f}",
            f"{100 * row['growth_violations'] / row['growth_steps']:.3f} %",
            f"{100 * row['decay_violations'] / row['decay_steps']:.3f} %",
            str(row["orbit_violations"]), by_orbit, str(row["fresh_violations"]),
        ])  # fmt: skip
    bounds = bounds_at(first["lookahead"])
    theory = (
        f"in theory: {bounds.in_words()}; growth steps that every V of ln n and the window fails: "
        f"{100 * 2.0 ** -(first['lookahead'] + 1):.3g} % of all steps"
    )
    return [*fitted(lines), *wrapped([theory])]


def small_table(optima: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each lookahead, in percent of all steps."""
    rows: list[Sequence[str]] = [
        ("L", "bound", "best V", "on growth", "on decay", "at 10:1", "on growth", "on decay", "forced growth", "V_min")
    ]
    for optimum in optima:
        low, high, weighted = optimum["equal_fewest_growth"], optimum["equal_most_growth"], optimum["weighted"]
        rows.append((
            str(optimum["lookahead"]), _percent(optimum["lower_bound"]), _percent(low["rate"]),
            f"{_percent(low['growth'])} to {_percent(high['growth'])}",
            f"{_percent(high['decay'])} to {_percent(low['decay'])}", _percent(weighted["rate"]),
            _percent(weighted["growth"]), _percent(weighted["decay"]), _percent(optimum["forced_growth"]),
            _percent(optimum["rate_V_min"]),
        ))  # fmt: skip
    return fitted(rows)


def _percent(share: float) -> str:
    return f"{100 * share:.3f}"


def numbers(report: Mapping[str, Any]) -> list[Number]:
    """For the records of results: closed forms, the best first; small windows, orbits."""
    measured = []
    for row in sorted(report["closed_forms"], key=lambda row: row["violations"]):
        name = f"L={row['lookahead']} {row['function']}"
        measured.append(rate(f"{name}: violated on-orbit steps", row["violations"], row["steps"]))
        for kind, words in (("growth", "growth steps"), ("decay", "decay steps"), ("orbit", "steps of five orbits"),
                            ("fresh", "steps of fresh orbits")):  # fmt: skip
            measured.append(rate(f"{name}: violated {words}", row[f"{kind}_violations"], row[f"{kind}_steps"]))
    for window in report["small_windows"]:
        name, weighted = f"best V at L={window['lookahead']}: violated steps", window["weighted"]
        measured.append(Number(name, 100 * window["equal_fewest_growth"]["rate"], unit="%"))
        for key, words in (("rate", ""), ("growth", ", of growth"), ("decay", ", of decay")):
            name_of = f"{name}, growth steps at {weighted['growth_weight']:g}:1{words}"
            measured.append(Number(name_of, 100 * weighted[key], unit="%"))
    for orbit in report["orbits"]:
        measured += [
            Number(f"orbit of {orbit['start']}: steps", orbit["steps"]),
            Number(f"orbit of {orbit['start']}: mean k", orbit["mean_valuation"]),
            Number(f"orbit of {orbit['start']}: odd-only maximum over the start", orbit["odd_ratio"], unit="times"),
        ]
    return measured


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = FlagParser(description=__doc__)
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder for the tables")
    parser.add_argument("--lookaheads", type=whole_numbers(1, LARGEST_LOOKAHEAD), default=list(LOOKAHEADS),
                        metavar="L,L,...", help="default 10,20,30")  # fmt: skip
    parser.add_argument("--starts", type=int, default=100, metavar="N",
                        help=f"orbits of {ORBIT_BITS}-bit starts in the sample (default %(default)s)")  # fmt: skip
    parser.add_argument("--small", type=int, default=MOST_LOOKAHEAD, metavar="L",
                        help="largest lookahead of the exact search (default and most %(default)s)")  # fmt: skip
    options = parser.parse_args(argv)
    options.lookaheads = list(dict.fromkeys(options.lookaheads))
    if not 1 <= options.starts <= 100_000:
        raise UserError(f"--starts {options.starts}: expected 1 to 100,000")
    if not 1 <= options.small <= MOST_LOOKAHEAD:
        raise UserError(f"--small {options.small}: expected 1 to {MOST_LOOKAHEAD}")
    typed = ["--out", str(options.out), "--lookaheads", ",".join(map(str, options.lookaheads)),
             "--starts", str(options.starts), "--small", str(options.small)]  # fmt: skip
    asked = {f"--{name}": getattr(options, name) for name in ("lookaheads", "starts", "small")}
    folder = results_folder(options.out, ["collatz_orbits"], [], asked, script=__file__)
    starts = (*TEST_STARTS, *FRESH_STARTS)
    facts = [orbit_facts(start, options.lookaheads) for start in starts]
    counts = odd_step_counts(RECORDS_BELOW)
    longer = at_least_as_long(counts, starts)
    states = test_states(options.starts)
    by_lookahead = [closed_form_rows(lookahead, states) for lookahead in progress_bar(options.lookaheads, leave=False)]
    optima = small_optima(options.small)
    of_orbits = (
        "Orbits. rise L: states with T^(L+1)(n) >= n. trained on: states on orbits of the source's seeds. as long: odd "
        f"numbers up to the start with at least as many steps, of starts below {RECORDS_BELOW:,}; record: no other"
    )
    of_windows = (
        "The best V = alpha ln n + G(k_1..k_L) there is, in percent of all steps, valuations from 3 on seen as one: at "
        "equal weights (from the fewest to the most violated growth steps that are as good), and growth steps 10:1"
    )
    table = [
        *wrapped([of_orbits]),
        *orbit_table(facts, longer),
        *wrapped([CORRECTION]),
        "",
        *(line for rows in by_lookahead for line in [*closed_form_table(rows), ""]),
        *wrapped([of_windows]),
        *small_table(optima),
    ]
    say(*table)
    save_caption("\n".join(table), folder / "collatz_orbits.txt")
    save_csv([row for rows in by_lookahead for row in rows], folder / "collatz_orbits.csv")
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": f"python projects/collatz/report/orbits.py {shlex.join(typed)}",
        "environment": environment(),
        "sample": {"starts": options.starts, "bits": ORBIT_BITS, "seed": TEST_SEED, "states": len(states)},
        "orbits": [
            asdict(fact) | {"odd_ratio": fact.odd_ratio, "full_ratio": fact.full_ratio,
                            "mean_valuation": fact.mean_valuation, "at_least_as_long": longer[fact.start],
                            "source": SOURCE_TABLE.get(fact.start)}
            for fact in facts
        ],
        "correction": CORRECTION,
        "records": {"below": RECORDS_BELOW, "starts": record_starts(counts)},
        "closed_forms": [row for rows in by_lookahead for row in rows],
        "bounds": {str(lookahead): asdict(bounds_at(lookahead)) for lookahead in options.lookaheads},
        "small_windows": optima,
    }  # fmt: skip
    records = [f"{start} has the most steps of all odd starts up to it" for start in starts if longer[start] == 1]
    entry = record_entry(
        numbers(report),
        origin=report["environment"] | {"command": report["command"]},
        datasets=["synthetic"],
        seeds=[TEST_SEED],
        findings=records,
    )
    save_json(report | entry, folder / "collatz_orbits.json")
    say(f"written: {folder / 'collatz_orbits.txt'} (also .csv .json)")


if __name__ == "__main__":
    main()
