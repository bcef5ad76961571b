"""The task seam: all that must be known of a kind of puzzle. Whoever needs more than tokens asks the task.

A task is one file of this folder with one class `Task`, a `PuzzleTask`; its name is the file's. A folder names its task
in `dataset.json`; what a task does not say of itself is as for a plain one. Arrays hold tokens as they are stored.
"""

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, ClassVar, Literal

import numpy as np

from dataset.hashing import token_hashes

Grid = tuple[int, int]
Style = Callable[[int, str], str]


class TaskError(ValueError):
    """`dataset.json` says of `key` what its task cannot be; `expected` says what it could be."""

    def __init__(self, key: str, expected: str) -> None:
        super().__init__(f"{key!r}: expected {expected}")
        self.key, self.expected = key, expected


@dataclass(frozen=True)
class Views:
    """One image of each of N rows: image[i] = tokens[row[cells[i]]].

    cells (N, S) int64: for each cell of an image the cell of the row that it is read from. tokens (N, V): what each
    token is shown as. Both are permutations, and padding is shown as padding.
    """

    cells: np.ndarray
    tokens: np.ndarray

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """The images of rows (N, S), of the same dtype."""
        moved = np.take_along_axis(rows, self.cells, axis=1)
        return np.take_along_axis(self.tokens, moved.astype(np.intp), axis=1).astype(rows.dtype)

    def inverse(self) -> "Views":
        """The views that undo these, one each."""
        return Views(self.cells.argsort(axis=1), self.tokens.argsort(axis=1))


@dataclass(frozen=True)
class Baseline:
    """A trivial predictor: its answers (N, S), and the cells (N, S) bool that it guesses by the frequency of tokens.

    Of the others it is certain. `guessed` is None for a predictor without a distribution, which has no loss.
    """

    answers: np.ndarray
    guessed: np.ndarray | None = None


@dataclass(frozen=True)
class Known:
    """What is known of a puzzle without a network: one line, and its only solution (S,), None where not known."""

    about: str
    solution: np.ndarray | None = None


@dataclass(frozen=True)
class PuzzleTask:
    """Puzzles of one shape, as `dataset.json` describes them: S = seq_len cells, V = vocab_size tokens.

    Args:
        augmentation: what may be drawn while training, None = nothing. rating: how stored ratings were made.
    Errors: `TaskError` where the shape or the augmentation is none of this task.
    """

    seq_len: int
    vocab_size: int
    pad_id: int = 0
    augmentation: Any = None
    rating: Any = None

    # (seq_len, vocab_size) of the folders that official builders write, which do not name their task.
    official_shapes: ClassVar[Sequence[tuple[int, int]]] = ()
    # The token of an empty cell.
    blank: ClassVar[int | None] = None
    # Whether `augment` draws anything; "augmentation" may then be {"kind": the task's name}.
    augments: ClassVar[bool] = False
    # What an answer without faults has in order; None where answers cannot be judged by rules.
    rules: ClassVar[str | None] = None
    # What is chosen as one for validation: examples, or whole groups, as where answers to views of a puzzle vote.
    validation_unit: ClassVar[Literal["example", "group"]] = "example"

    def __post_init__(self) -> None:
        if not self.augments and self.augmentation is not None:
            raise TaskError("augmentation", f"null, since the task {self.name} draws nothing while training")
        self.check()

    def check(self) -> None:
        """Raises `TaskError` where this is no augmentation, or no shape, of the task."""
        if self.augmentation not in (None, {"kind": self.name}):
            raise TaskError("augmentation", f'null or {{"kind": "{self.name}"}}')

    @property
    def name(self) -> str:
        """As in `dataset.json`: the name of the task's file."""
        return type(self).__module__.rpartition(".")[2]

    def __str__(self) -> str:
        """The name, and what tells puzzles of equal shape apart: those of equal text have the same views."""
        return self.name

    # -- symmetries

    @property
    def augmentation_identity(self) -> Any:
        """What run states hold of the augmentation: data drawn otherwise does not continue a run."""
        return self.augmentation

    def augment(
        self, inputs: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Puzzles (B, S) and their solutions under one random symmetry per row, drawn from `rng`, same dtypes."""
        return inputs, labels

    def augment_puzzles(
        self, inputs: np.ndarray, labels: np.ndarray, descriptors: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `augment`, for a task that draws by what is stored of the rules of puzzles: descriptors (B, F)."""
        return self.augment(inputs, labels, rng)

    def descriptor_fault(self, descriptors: np.ndarray | None) -> str:
        """What is wrong with what is stored of the rules of puzzles (P, F), None = nothing; empty where it is right."""
        return ""

    @property
    def num_views(self) -> int | None:
        """How many views of a puzzle can vote, itself included; None = as many as are asked for."""
        return 1

    def views(self, view: int, draws: Sequence[np.random.Generator]) -> Views:
        """View number `view` (from 1; 0 is the puzzle itself) of one row for each generator: a function of both alone.

        A finite group takes its element of that number and leaves the generators alone.
        """
        raise ValueError(f"{self} has no view {view}")

    def equivalence_keys(self, rows: np.ndarray) -> np.ndarray:
        """(B,) uint64 of inputs (B, S): equal for inputs that a symmetry of the task takes to each other.

        Others have the same key by chance only, with the odds of a 64-bit hash.
        """
        return token_hashes(rows)

    # -- judging

    def judges(self) -> tuple[str, ...]:
        """Names of the evaluators that judge answers by more than the recorded solution."""
        return ()

    def violations(self, answers: np.ndarray) -> np.ndarray:
        """(N,) int64: how far answers (N, S) are from the rules; 0 = none is broken. Of a task with `rules` only."""
        raise ValueError(f"the rules of {self} are not known")

    def as_judged(self, answers: np.ndarray) -> np.ndarray:
        """Answers (..., S) without what does not count in them."""
        return answers

    def faults(self, puzzle: np.ndarray, answer: np.ndarray) -> list[str]:
        """What is wrong with an answer (S,) without knowing the solution, in words."""
        changed = int((self.filled(puzzle) & (answer != puzzle)).sum()) if self.blank is not None else 0
        return [f"{changed} givens changed"] if changed else []

    def known(self, puzzle: np.ndarray) -> Known:
        """What is known of a puzzle (S,) without a network."""
        return Known("puzzle: its solution is not known here")

    def baselines(self, inputs: np.ndarray, frequent: int) -> dict[str, Baseline]:
        """Trivial predictors for inputs (N, S), beside those that any tokens have; `frequent`: the commonest label."""
        if self.blank is None:
            return {}
        empty = inputs == self.blank
        return {"copy_givens": Baseline(np.where(empty, frequent, inputs), empty)}

    def filled(self, tokens: np.ndarray) -> np.ndarray:
        """Bool of the same shape: cells that hold something. Of an input, its givens."""
        return (tokens != self.pad_id) & (tokens != self.blank)

    def difficulty(self, inputs: np.ndarray) -> np.ndarray | None:
        """(N,) int64, higher = harder, where no rating is stored: the cells left open. None where that says nothing."""
        return None if self.blank is None else (~self.filled(inputs)).sum(axis=1)

    def row_faults(self, puzzles: np.ndarray, answers: np.ndarray) -> dict[int, str]:
        """By row what is wrong with answers (N, S) that a file has for its puzzles (N, S), as `has an answer that ...`.

        Here: one that changes a given, or breaks a rule where there are any.
        """
        changed = ((puzzles != answers) & (puzzles != self.blank)).any(axis=1)
        invalid = self.violations(answers) > 0 if self.rules is not None else np.zeros(len(answers), bool)
        return {
            row: f"has an answer that {f'breaks the rule: {self.rules}' if invalid[row] else 'changes a given'}"
            for row in np.flatnonzero(changed | invalid).tolist()
        }

    @property
    def rating_meaning(self) -> str | None:
        """What a stored rating counts, in words; None where it is not known."""
        return None

    # -- text and pictures

    @property
    def grid(self) -> Grid:
        """(rows, columns) in which a puzzle is drawn: a square where the cells make one, else one line."""
        side = isqrt(self.seq_len)
        return (side, side) if side * side == self.seq_len else (1, self.seq_len)

    @property
    def block(self) -> Grid:
        """(rows, columns) of the parts that lines divide the grid into."""
        return self.grid

    @property
    def alphabet(self) -> str:
        """The character of each token; shorter than the vocabulary where there are too few."""
        return (string.digits + string.ascii_letters)[: self.vocab_size]

    @property
    def characters(self) -> dict[str, int]:
        """The token of each character that a cell may be written as; an ASCII one each."""
        return {character: token for token, character in enumerate(self.alphabet)}

    @property
    def answer_characters(self) -> dict[str, int]:
        """Those of `characters` that an answer may be written with: all but that of an empty cell."""
        return {character: token for character, token in self.characters.items() if token != self.blank}

    @property
    def space_is_cell(self) -> bool:
        """Whether a space is a cell, so that nothing can be drawn around cells, and rows end where lines end."""
        return " " in self.characters

    @property
    def colours(self) -> Sequence[str] | None:
        """Of each token the colour that its cells have in pictures; None where symbols are written into them."""
        return None

    def symbols(self, tokens: np.ndarray) -> list[str]:
        """What is printed for each of the tokens."""
        alphabet = self.alphabet
        return [alphabet[t] if t < len(alphabet) else str(t) for t in np.asarray(tokens).ravel().tolist()]

    def draw(self, tokens: np.ndarray, style: Style | None = None) -> list[str]:
        """Lines of text that show a puzzle or an answer (S,). `style` (cell, symbol) may dress the symbols up."""
        symbols = self.symbols(tokens)
        width = max(map(len, symbols))
        cells = [symbol.rjust(width) for symbol in symbols]
        if style is not None:
            cells = [style(cell, symbol) for cell, symbol in enumerate(cells)]
        (rows, columns), (high, wide) = self.grid, self.block
        gap = "" if self.space_is_cell else " "
        rule = "-+-".join(["-" * ((width + 1) * wide - 1)] * (columns // wide))
        lines = []
        for row in range(rows):
            line = cells[row * columns : (row + 1) * columns]
            lines.append(" | ".join(gap.join(line[start : start + wide]) for start in range(0, columns, wide)))
            if (row + 1) % high == 0 and row + 1 < rows:
                lines.append(rule)
        return lines

    def cells(self, text: str) -> str:
        """The characters of a text that are cells, without what is drawn around them.

        A dash is one only where the task reads it as a cell and the text is no puzzle without it.
        """
        if self.space_is_cell:
            return re.sub(r"[\r\n]", "", text)
        drawn = re.sub(r"[\s|+]", "", text)
        without = drawn.replace("-", "")
        return drawn if "-" in self.characters and len(drawn) == self.seq_len else without

    def parse(self, text: str) -> np.ndarray:
        """Tokens (S,) uint8 of a puzzle as text, a character a cell. Errors: `ValueError` saying what is wrong."""
        cells, characters = self.cells(text), self.characters
        if len(self.alphabet) < self.vocab_size:
            raise ValueError(f"the {self.vocab_size} tokens of {self} have no characters; give a row of its data")
        if len(cells) != self.seq_len:
            raise ValueError(f"{len(cells)} characters, expected {self.seq_len}")
        unknown = next((place for place, cell in enumerate(cells) if cell not in characters), None)
        if unknown is not None:
            raise ValueError(f"character {cells[unknown]!r} at position {unknown + 1}, expected {self.expected_cells}")
        puzzle = np.array([characters[cell] for cell in cells], np.uint8)
        if self.clashes(puzzle[None])[0]:
            raise ValueError(self.clash_text(puzzle))
        return puzzle

    @property
    def expected_cells(self) -> str:
        """What cells may be written as, in words."""
        return self.alphabet

    def clashes(self, puzzles: np.ndarray) -> np.ndarray:
        """(N,) bool: puzzles (N, S) whose givens contradict each other."""
        return np.zeros(len(puzzles), bool)

    def clash_text(self, puzzle: np.ndarray) -> str:
        """How the givens of a puzzle (S,) contradict each other, in words; empty where they do not."""
        return ""
