"""The table at the end of a run: what was reached on which rows, and what training had cost by then."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from errors import printable
from training.evaluation.answering import describe_rate
from training.validation import Best

WIDTH = 100  # characters of a line that a terminal need not break
HEADER = ("rows, weights", "exact accuracy", "tokens", "loss", "updates", "samples", "FLOPs", "seconds")


def compute_point(step: int, spent: Mapping[str, float]) -> dict[str, float | None]:
    """A point of the logged curve under short names; null where `spent` (keys `train/...`) lacks a value."""
    return {"updates": step} | {name: spent.get(f"train/{name}") for name in ("samples", "flops", "seconds")}


def summary_table(results: Mapping[str, Any], best: Best | None) -> list[Sequence[str]]:
    """Header and rows: best and final on validation rows, initial, best and final on test rows.

    `results` is what `Scoring.final_results` returns. What is not known or not measured is a dash. The columns
    after the loss are the training compute spent when the weights were what they are.
    """
    curve = results["curve"]
    spent = {"initial": compute_point(0, {"train/samples": 0, "train/flops": 0, "train/seconds": 0}), **curve}
    rows: list[Sequence[str]] = [HEADER]
    if best is not None:
        counts = {"exact_count": best.numerator, "count": best.denominator}
        rows.append(_row("validation, best", counts, {}, spent["best"]))
    final = results.get("final")
    if final is not None:
        counts = {"exact_count": final["numerator"], "count": final["denominator"]}
        at_end = final["step"] == curve["final"]["updates"]
        point = spent["final"] if at_end else compute_point(final["step"], {})
        rows.append(_row("validation, final", counts, {}, point))
    for which in ("initial", "best", "final"):
        values = results["test"].get(which)
        if values is not None:
            counts = {"exact_count": values["numerator"], "count": values["denominator"]}
            rows.append(_row(f"test, {which}", counts, values, spent[which]))
    return rows


def aligned(rows: Sequence[Sequence[str]], *, left: int = 2) -> list[str]:
    """Lines with two spaces between columns: the first `left` columns flush left, the others flush right."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def fitted(rows: Sequence[Sequence[str]], *, left: int = 1, width: int = WIDTH) -> list[str]:
    """`aligned` in at most `width` characters: columns that do not fit stand in a block of their own below.

    The first column opens every block, and so does a second one of those that are flush left where it tells rows apart.
    A block has one further column at least, however wide it is.
    """
    names = [row[0] for row in rows]
    repeated = 1 if left == 1 or len(set(names)) == len(names) else 2
    columns = list(zip(*rows, strict=True))
    sizes = [max(map(len, column)) for column in columns]
    blocks: list[list[int]] = [list(range(repeated))]
    for index in range(repeated, len(columns)):
        used = sum(sizes[column] + 2 for column in blocks[-1])
        if used + sizes[index] > width and len(blocks[-1]) > repeated:
            blocks.append(list(range(repeated)))
        blocks[-1].append(index)
    lines: list[str] = []
    for block in blocks:
        cells = [[row[column] for column in block] for row in rows]
        lines += [*([""] if lines else []), *aligned(cells, left=sum(column < left for column in block))]
    return lines


def wrapped(lines: Sequence[str], width: int = WIDTH) -> list[str]:
    """Sentences in lines of at most `width` characters, those that continue one further in."""
    return [
        part
        for line in lines
        for part in textwrap.wrap(
            line,
            width,
            subsequent_indent=" " * (len(line) - len(line.lstrip()) + 4),
            break_long_words=False,
            break_on_hyphens=False,
        )
        or [""]
    ]


def _row(name: str, counts: Mapping[str, float], values: Mapping[str, Any], spent: Mapping[str, Any]) -> Sequence[str]:
    rate = describe_rate(counts).removeprefix("exact_accuracy ")
    measured = [_number(values.get(key), ".4f") for key in ("accuracy", "lm_loss")]
    cost = {"updates": "d", "samples": ",.0f", "flops": ".3g", "seconds": ".0f"}
    return [name, rate, *measured, *(_number(spent[key], form) for key, form in cost.items())]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
