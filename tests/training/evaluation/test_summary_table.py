"""Tables and sentences in lines that a terminal need not break."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.evaluation.summary_table import WIDTH, aligned, fitted, wrapped

cells = st.text("ab1 ", min_size=1, max_size=30).map(lambda text: text.strip() or "-")
tables = st.integers(1, 12).flatmap(lambda columns: st.lists(st.lists(cells, min_size=columns, max_size=columns),
                                                             min_size=1, max_size=4))  # fmt: skip


def test_columns_that_do_not_fit_stand_below() -> None:
    rows = [["run", "arm", "seed", "best", "final"], ["a", "plain", "0", "1.5", "22"], ["b", "plain", "1", "2", "3"]]
    assert fitted(rows, left=2) == aligned(rows, left=2)
    assert fitted(rows, left=2, width=18) == [
        "run  arm    seed",
        "a    plain     0",
        "b    plain     1",
        "",
        "run  best  final",
        "a     1.5     22",
        "b       2      3",
    ]
    # One name in two rows: the second column tells them apart, and is repeated too.
    twice = [["arm", "weights", "n", "pass %"], ["a", "best", "5", "97.2"], ["a", "final", "5", "96.1"]]
    assert fitted(twice, left=2, width=16) == [
        "arm  weights  n",
        "a    best     5",
        "a    final    5",
        "",
        "arm  weights  pass %",
        "a    best       97.2",
        "a    final      96.1",
    ]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(tables, st.sampled_from([1, 2]))
def test_no_cell_is_lost_and_no_line_is_too_long(rows: list[list[str]], left: int) -> None:
    lines = fitted(rows, left=left)
    blocks = [list(block) for blank, block in itertools.groupby(lines, lambda line: not line) if not blank]
    assert {len(block) for block in blocks} == {len(rows)} and max(map(len, lines)) <= WIDTH
    for index, row in enumerate(rows):
        printed = " ".join(block[index] for block in blocks)
        assert all(cell in printed for cell in row)
    assert lines == aligned(rows, left=left) or max(map(len, aligned(rows, left=left))) > WIDTH


@pytest.mark.parametrize("indent", ["", "  "])
def test_sentences_are_continued_further_in(indent: str) -> None:
    text = indent + " ".join(["word-with-hyphen"] * 14)
    lines = wrapped(["short", text, ""])
    assert lines[0] == "short" and lines[-1] == "" and all(len(line) <= WIDTH for line in lines)
    assert all(line.startswith(f"{indent}    w") for line in lines[2:-1]) and len(lines) == 5
    assert " ".join(line.strip() for line in lines[1:-1]) == text.strip()


def test_a_word_longer_than_a_line_stays_whole() -> None:
    """A path or a command that was broken could not be copied."""
    path = "runs/" + "a" * WIDTH
    assert wrapped([f"see {path} there"]) == ["see", f"    {path}", "    there"]
