"""What a Collatz run prints of an evaluation while it trains, in the columns of the source's log."""

from collections.abc import Mapping
from typing import Any

from projects.collatz.syracuse import TEST_STARTS, orbit
from training.evaluation.summary_table import wrapped

_OF_FILE = {"pass": "pass", "weighted_pass": "weighted", "growth_pass": "growth", "growth_weighted_pass": "gr.wtd"}


def log_lines(record: Mapping[str, Any], loss: float | None, *, improved: bool) -> list[str]:
    """Loss, shares passed of the evaluation file, on-orbit violations, worst margin, and the state of each hard seed.

    record: the line of metrics.jsonl, of a quick look, a full evaluation or both. loss: mean over the last updates.
    """
    words = [] if loss is None else [f"loss {loss:.4f}"]
    if "eval/csv/rows" in record:
        shares = [f"{name} {_percent(record.get(f'eval/csv/{key}'))}" for key, name in _OF_FILE.items()]
        words.append(f"{', '.join(shares)} of {record['eval/csv/rows']:,} rows")
    if "eval/validation/count" in record:
        count, bad = record["eval/validation/count"], record["eval/validation/violations"]
        words.append(f"on-orbit {bad}/{count} violated ({100 * bad / count:.2f} %){', new best' if improved else ''}")
    if "eval/quick/pass" in record:
        words.append(f"{_percent(record['eval/quick/pass'], 1)} of {record['eval/quick/count']} random numbers pass")
        if "eval/orbits/violations" not in record:
            words.append(f"seed 27: {record['eval/quick/orbit_27_violations']}/{orbit(27).steps} violated")
    lines = [f"update {record['step']}: {'; '.join(words)}"]
    if "eval/orbits/violations" in record:
        bad, steps = record["eval/orbits/violations"], sum(orbit(start).steps for start in TEST_STARTS)
        margins = [record.get(f"eval/orbits/{start}/worst_margin") for start in TEST_STARTS]
        worst = min((margin for margin in margins if margin is not None), default=None)
        told = "none violated" if worst is None else f"worst margin {worst:.2f}"
        seeds = [_state(record, start, margin) for start, margin in zip(TEST_STARTS, margins, strict=True)]
        share = f"{bad}/{steps} violated ({100 * bad / steps:.1f} %)"
        lines.append(f"  hard seeds {share}, {told}: {'; '.join(seeds)}")
    return wrapped(lines)


def _state(record: Mapping[str, Any], start: int, margin: float | None) -> str:
    """`27 solved`, or `703 8/62 worst -0.50`."""
    bad = record[f"eval/orbits/{start}/violations"]
    return f"{start} solved" if margin is None else f"{start} {bad}/{orbit(start).steps} worst {margin:.2f}"


def _percent(share: float | None, digits: int = 2) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f} %"
