"""Which Sudokus are equal up to symmetry: an invariant key for each, and an exact test where keys meet.

Two puzzles are equivalent when a symmetry that augmentation may draw (`dataset.sudoku.random_symmetries`) takes one to
the other. Boards are looked at as rows of tokens (0 padding, 1 blank, digit + 1), so that padding stays padding.

The key comes from colour refinement (Weisfeiler and Leman 1968): rows, columns, digits and boxes are coloured by the
multiset of colours of their cells, cells by the colours of what they lie in, round after round. Colours are 64-bit
hashes, combined by sums, which no symmetry can reorder.
"""

from dataclasses import dataclass

import numpy as np

from dataset.hashing import scatter
from dataset.sudoku import Box, number_by_appearance, side

_ROUNDS = 5
_CHUNK = 1024  # boards at a time: their colours stay in the processor's cache
_FIRST_DIGIT = 2
_MARK, _TURN, _BOX, _BAND, _OLD, _DIGIT = (scatter(np.arange(6, dtype=np.uint64)) | np.uint64(1)).tolist()


@dataclass(frozen=True)
class _Colours:
    """Of N boards: rows and columns (N, n), cells (N, n*n), and one colour for the whole of each (N,); all uint64."""

    rows: np.ndarray
    columns: np.ndarray
    cells: np.ndarray
    whole: np.ndarray

    @property
    def tied(self) -> np.ndarray:
        """(N,) bool: two rows or two columns of a board have one colour."""
        return _repeats(self.rows) | _repeats(self.columns)

    def take(self, boards: np.ndarray) -> "_Colours":
        return _Colours(self.rows[boards], self.columns[boards], self.cells[boards], self.whole[boards])


def _repeats(colours: np.ndarray) -> np.ndarray:
    ordered = np.sort(colours, axis=1)
    return (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)


def equivalence_keys(tokens: np.ndarray, box: Box) -> np.ndarray:
    """(N,) uint64 of boards (N, n*n) as tokens: equal for equivalent ones, and hardly ever for others.

    Where refinement alone leaves rows or columns alike, as in puzzles with symmetries of their own and in filled
    grids, it is done once more for each cell, with that cell marked.
    """
    keys = np.empty(len(tokens), np.uint64)
    for start in range(0, len(tokens), _CHUNK):
        chunk = np.asarray(tokens[start : start + _CHUNK])
        colours = _refined(chunk, box)
        found = colours.whole
        tied = np.flatnonzero(colours.tied)
        for board, with_marks in zip(tied.tolist(), _each_marked(chunk[tied], box), strict=True):
            found[board] = scatter(found[board : board + 1] + scatter(with_marks).sum(keepdims=True))[0]
        keys[start : start + _CHUNK] = found
    return keys


def _each_marked(tokens: np.ndarray, box: Box, marks: np.ndarray | None = None) -> np.ndarray:
    """(N, n*n) uint64: the colour of each whole board once that cell of it is marked, beside what `marks` marks."""
    count, cells = tokens.shape
    one = np.eye(cells, dtype=np.uint64) * np.uint64(cells)  # like no mark that `marks` has
    together = max(1, _CHUNK // cells)
    parts = [np.empty((0, cells), np.uint64)]
    for start in range(0, count, together):
        boards = tokens[start : start + together]
        each = np.broadcast_to(one, (len(boards), cells, cells))
        if marks is not None:
            each = each + marks[start : start + together, None]
        colours = _refined(np.repeat(boards, cells, axis=0), box, each.reshape(-1, cells))
        parts.append(colours.whole.reshape(-1, cells))
    return np.concatenate(parts)


def _refined(tokens: np.ndarray, box: Box, marks: np.ndarray | None = None) -> _Colours:
    """Colours of boards (N, n*n); `marks` (N, n*n) uint64 tells cells apart that are to differ from the others."""
    high, wide = box
    n = side(box)
    count = len(tokens)
    tokens = tokens.astype(np.intp)
    kinds = np.arange(n + 2, dtype=np.uint64)
    kinds[_FIRST_DIGIT:] = _FIRST_DIGIT  # all digits are alike at first; padding and blanks are never like them
    digits = np.tile(scatter(kinds), (count, 1))
    by_digit = tokens.argsort(axis=1)
    ends = (tokens[:, :, None] <= np.arange(_FIRST_DIGIT - 1, n + 2)).sum(
        axis=1
    )  # of each digit's cells, in that order
    rows = np.zeros((count, n), np.uint64)
    # Only a square box can be turned: elsewhere rows and columns differ from the start.
    columns = rows if high == wide else rows + np.uint64(_TURN)
    fixed = np.zeros((count, n, n), np.uint64) if marks is None else (marks * np.uint64(_MARK)).reshape(count, n, n)
    boxes = np.zeros((count, wide, 1, high, 1), np.uint64)
    for _ in range(_ROUNDS):
        own = np.take_along_axis(digits, tokens, axis=1).reshape(count, n, n)
        cells = rows[:, :, None] + columns[:, None, :] + own * np.uint64(_DIGIT) + fixed
        view = cells.reshape(count, wide, high, high, wide)  # band, row in band, stack, column in stack
        view += boxes * np.uint64(_BOX)
        cells = scatter(cells)
        boxes = cells.reshape(view.shape).sum(axis=(2, 4), keepdims=True)
        rows = _lines(rows, cells.sum(axis=2), high)
        columns = _lines(columns, cells.sum(axis=1), wide)
        flat = cells.reshape(count, n * n)
        running = np.zeros((count, n * n + 1), np.uint64)
        np.cumsum(np.take_along_axis(flat, by_digit, axis=1), axis=1, out=running[:, 1:])
        sums = np.diff(np.take_along_axis(running, ends, axis=1), axis=1)
        digits[:, _FIRST_DIGIT:] = scatter(digits[:, _FIRST_DIGIT:] * np.uint64(_OLD) + sums)
    whole = scatter(rows.sum(axis=1) + columns.sum(axis=1) + digits.sum(axis=1))
    return _Colours(rows, columns, flat, whole)


def _lines(lines: np.ndarray, sums: np.ndarray, size: int) -> np.ndarray:
    """New colours of lines (N, n): from the old one, the sum of their cells', and the other lines of their block."""
    own = scatter(lines * np.uint64(_OLD) + sums)
    blocks = own.reshape(len(own), -1, size).sum(axis=2, keepdims=True)
    return scatter(own.reshape(len(own), -1, size) + blocks * np.uint64(_BAND)).reshape(own.shape)


def are_equivalent(first: np.ndarray, second: np.ndarray, box: Box) -> np.ndarray:
    """(M,) bool, exact: whether boards (M, n*n) of tokens are equivalent to those in the same place of `second`."""
    first, second = np.asarray(first), np.asarray(second)
    verdict = np.zeros(len(first), bool)
    for start in range(0, len(first), _CHUNK):
        one, other = first[start : start + _CHUNK], second[start : start + _CHUNK]
        colours, others = _refined(one, box), _refined(other, box)
        found = _matched(one, other, colours, others, box)
        # Without a tie the colours leave one way to map lines, or two with a turn, and both have been tried.
        pairs = np.flatnonzero(~found & (colours.whole == others.whole) & colours.tied)
        if len(pairs):
            one, other = one[pairs], other[pairs]
            found[pairs] = _matched(one, other, _untied(one, box), _untied(other, box), box)
        for pair in pairs[~found[pairs]].tolist():
            places = first[start + pair], second[start + pair]
            marks = np.zeros(first.shape[1], np.uint64)
            at = np.array([pair])
            found[pair] = _search(*places, colours.take(at), others.take(at), marks, marks, box)
        verdict[start : start + _CHUNK] = found
    return verdict


def _untied(tokens: np.ndarray, box: Box) -> _Colours:
    """Colours once cells have been marked until no lines are tied, each the one whose mark gives the lowest colour.

    Equivalent boards nearly always come out alike: where several cells give it, mostly a symmetry relates them.
    """
    marks = np.zeros(tokens.shape, np.uint64)
    colours = _refined(tokens, box, marks)
    level = 1
    while len(tied := np.flatnonzero(colours.tied & (level < tokens.shape[1]))):
        lowest = np.where(marks[tied] > 0, np.iinfo(np.uint64).max, _each_marked(tokens[tied], box, marks[tied]))
        marks[tied, lowest.argmin(axis=1)] = level
        colours = _refined(tokens, box, marks)
        level += 1
    return colours


def _matched(first: np.ndarray, second: np.ndarray, colours: _Colours, others: _Colours, box: Box) -> np.ndarray:
    """(M,) bool: lines put in the order of their colours, upright or turned, make the boards one up to digits."""
    ordered = _ordered(first, colours.rows, colours.columns, box)
    found = (ordered == _ordered(second, others.rows, others.columns, box)).all(axis=1)
    if box[0] == box[1]:
        n = side(box)
        turned = second.reshape(-1, n, n).transpose(0, 2, 1).reshape(second.shape)
        found |= (ordered == _ordered(turned, others.columns, others.rows, box)).all(axis=1)
    return found


def _ordered(boards: np.ndarray, rows: np.ndarray, columns: np.ndarray, box: Box) -> np.ndarray:
    """(M, n*n + 2n): digits by order of appearance once lines are sorted by colour, and the blocks the lines are of.

    Equal for two boards only where a symmetry relates them: one that keeps lines of a band or stack together.
    """
    high, wide = box
    n = side(box)
    row_order, column_order = rows.argsort(axis=1, kind="stable"), columns.argsort(axis=1, kind="stable")
    grids = np.take_along_axis(boards.reshape(-1, n, n), row_order[:, :, None], axis=1)
    moved = np.take_along_axis(grids, column_order[:, None, :], axis=2).reshape(boards.shape).astype(np.uint8)
    digits = number_by_appearance(np.where(moved >= _FIRST_DIGIT, moved - (_FIRST_DIGIT - 1), 0).astype(np.uint8), n)
    # Padding is no blank: 0 and 1 as in tokens, digits from 2 on.
    shown = np.where(moved >= _FIRST_DIGIT, digits + np.uint8(_FIRST_DIGIT - 1), moved)
    bands = number_by_appearance((row_order // high + 1).astype(np.uint8), n)
    stacks = number_by_appearance((column_order // wide + 1).astype(np.uint8), n)
    return np.concatenate([shown, bands, stacks], axis=1)


def _search(
    first: np.ndarray,
    second: np.ndarray,
    colours: _Colours,
    others: _Colours,
    marks: np.ndarray,
    other_marks: np.ndarray,
    box: Box,
) -> bool:
    """Whether one pair with ties is equivalent: a cell of the first is marked, and each it could go to of the second.

    The boards (n*n,) carry marks so far (n*n,) uint64; `colours` and `others` hold one board each, refined with them.
    """
    if colours.whole[0] != others.whole[0]:
        return False
    if _matched(first[None], second[None], colours, others, box)[0]:
        return True
    if not colours.tied[0]:
        return False
    values, counts = np.unique(colours.cells[0], return_counts=True)
    smallest = values[np.where(counts > 1, counts, len(first) + 1).argmin()]
    mark = marks.max() + np.uint64(1)
    marked = marks.copy()
    marked[np.flatnonzero(colours.cells[0] == smallest)[0]] = mark
    places = np.flatnonzero(others.cells[0] == smallest)
    tries = np.repeat(other_marks[None], len(places), axis=0)
    tries[np.arange(len(places)), places] = mark
    refined = _refined(first[None], box, marked[None])
    tried = _refined(np.repeat(second[None], len(places), axis=0), box, tries)
    return any(
        _search(first, second, refined, tried.take(np.array([place])), marked, tries[place], box)
        for place in range(len(places))
    )


class SymmetryClasses:
    """Numbers puzzles by what they are equivalent to, as they come: equal numbers for equivalent ones, exactly."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.count = 0
        self._known: dict[int, list[tuple[int, np.ndarray]]] = {}  # by key: classes, with a board of each

    def add(self, tokens: np.ndarray) -> np.ndarray:
        """(N,) int64 classes of boards (N, n*n) of tokens. Those not met before have numbers from `count` on."""
        return self._numbers(tokens, open_new=True)

    def find(self, tokens: np.ndarray) -> np.ndarray:
        """As `add`, but boards of classes not met before are not noted: -1."""
        return self._numbers(tokens, open_new=False)

    def _numbers(self, tokens: np.ndarray, *, open_new: bool) -> np.ndarray:
        keys = equivalence_keys(tokens, self.box).tolist()
        numbers = np.full(len(keys), -1)
        waiting = list(range(len(keys)))
        compared = 0  # each waiting board is in none of so many classes of its key
        while waiting:
            pairs: list[int] = []
            for row in waiting:
                if len(self._known.get(keys[row], ())) > compared:
                    pairs.append(row)
                elif open_new:
                    numbers[row] = self.count
                    self._known.setdefault(keys[row], []).append((self.count, tokens[row].copy()))
                    self.count += 1
            others = [self._known[keys[row]][compared] for row in pairs]
            boards = np.array([board for _, board in others], tokens.dtype).reshape(-1, tokens.shape[1])
            same = are_equivalent(tokens[pairs], boards, self.box)
            numbers[pairs] = np.where(same, [number for number, _ in others], -1)
            waiting = [row for row, equal in zip(pairs, same.tolist(), strict=True) if not equal]
            compared += 1
        return numbers
