r"""Solve one Sudoku with a trained model, and show its answer after each supervision step.

    python predict.py checkpoint=RUN/best.pt \
        puzzle=53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79
    python predict.py checkpoint=RUN/best.pt puzzle_file=FILE          a puzzle a line, or one puzzle as a grid
    python predict.py checkpoint=RUN/best.pt row=7                     a test puzzle of the run's data

Blanks are '.' or '0'; spaces and the characters | + - are passed over. A solver judges the answer: whether the
puzzle has one solution, whether the model found it, and where it is wrong. On a terminal a cell is green when it
is right, red when wrong, and underlined when it is new since the step before.
"""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from errors import UserError, exit_on_user_error, require_packages

require_packages()

import numpy as np
import torch

from dataset.eval_batches import as_batch, test_rows
from dataset.puzzle_folder import open_puzzle_set
from dataset.puzzle_metadata import PuzzleMetadata, data_folder
from dataset.sudoku import (
    BOXES,
    Box,
    boards_from_tokens,
    box_of_shape,
    has_conflict,
    parse_board,
    ruled_lines,
    side,
    tokens_from_boards,
    units,
)
from dataset.sudoku_solver import Solved, solve
from models.recursive_model import RecursiveModel
from options import REQUIRED, anything, at_least, one_of, option, text
from training.devices import resolve_device
from training.inference.base import to_device
from training.inference.stepwise import StepwiseInference, StepwisePredictions
from training.settings.key_values import parse_key_values
from training.settings.schema import DTYPES, Device
from training.trained_model import (
    Checkpoint,
    open_checkpoint,
    restore_model,
    test_metadata,
    with_supervision_steps,
)

MAX_FILE_BYTES = 1 << 20
MAX_PUZZLES = 1000
GREEN, RED, BOLD, UNDERLINE, RESET = "\033[32m", "\033[31m", "\033[1m", "\033[4m", "\033[0m"


@dataclass
class Options:
    """Options of predict.py."""

    checkpoint: str = option(REQUIRED, "weights file in a run folder, such as RUN/best.pt", text)
    puzzle: str | None = option(None, "16, 36 or 81 cells, row by row; '.' or '0' = blank", anything)
    puzzle_file: str | None = option(None, "a puzzle a line, or one as a grid", text)
    row: int | None = option(None, "N-th test puzzle (from 0) that chose no checkpoint", at_least(0))
    data_path: str | None = option(None, "dataset folder of row=N; default: the run's", text)
    steps: int | None = option(None, "supervision steps; default: as trained", at_least(1))
    color: str = option("auto", "auto = on a terminal", one_of("auto", "always", "never"))
    device: str = option("auto", "where the network is; auto = a GPU where there is one", Device())
    dtype: str | None = option(None, "of the layers; default: the run's", one_of(*DTYPES))


def sudoku_box(checkpoint: Checkpoint) -> Box:
    """The box shape of the Sudokus a model was trained on, from its data where present, else its vocabulary.

    Errors: `UserError` when it was trained on something else.
    """
    seq_len = (checkpoint.vocab_size - 2) ** 2
    try:
        seq_len = test_metadata(checkpoint.config).seq_len
    except UserError:
        pass  # the data may lie on another machine
    box = box_of_shape(checkpoint.vocab_size, seq_len)
    if box is None:
        raise UserError(
            f"{checkpoint.path} knows {checkpoint.vocab_size} tokens on sequences of {seq_len}: that is no Sudoku "
            f"of {', '.join(BOXES)}, the puzzles this script reads"
        )
    return box


def sudoku_metadata(checkpoint: Checkpoint, box: Box) -> PuzzleMetadata:
    """The data shape of Sudokus of this box, as the builder writes it, with the checkpoint's puzzle table."""
    return PuzzleMetadata(
        seq_len=side(box) ** 2,
        vocab_size=side(box) + 2,
        num_puzzle_identifiers=checkpoint.num_puzzle_identifiers,
        total_groups=1,
        total_puzzles=1,
    )


def read_puzzle(text: str, box: Box, where: str) -> np.ndarray:
    """(n*n,) digits of a puzzle. Errors: `UserError`: characters, length, or a digit given twice in a unit."""
    cells = re.sub(r"[\s|+-]", "", text)
    n = side(box)
    try:
        board = parse_board(cells, box)
    except ValueError as error:
        raise UserError(f"{where}: {error} ({n}x{n} Sudoku, '.' or '0' for a blank)") from None
    if has_conflict(board[None], box)[0]:
        raise UserError(f"{where}: {conflict_text(board, box)}, so there is no solution; check the givens")
    return board


def read_puzzle_file(path: Path, box: Box) -> np.ndarray:
    """(N, n*n) puzzles of a file: one a line (text after '#' passed over), or one drawn as a grid."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"puzzle_file={path}: larger than {MAX_FILE_BYTES} bytes; evaluate.py takes whole sets")
        lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise UserError(f"puzzle_file={path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"puzzle_file={path} is no text file; expected a puzzle a line") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line]
    if not numbered:
        raise UserError(f"puzzle_file={path} holds no puzzle; expected a puzzle a line")
    cells = side(box) ** 2
    if len(re.sub(r"[\s|+-]", "", "".join(line for _, line in numbered))) == cells:
        return read_puzzle("".join(line for _, line in numbered), box, str(path))[None]
    if len(numbered) > MAX_PUZZLES:
        raise UserError(f"puzzle_file={path}: {len(numbered)} puzzles, at most {MAX_PUZZLES}; evaluate.py takes sets")
    return np.stack([read_puzzle(line, box, f"{path}, line {number}") for number, line in numbered])


def test_puzzle(checkpoint: Checkpoint, box: Box, row: int, data_path: str | None) -> np.ndarray:
    """The row-th test puzzle that chose no checkpoint, (n*n,). Errors: `UserError`."""
    config = checkpoint.config
    paths = [data_path] if data_path else config.data_paths_test or config.data_paths
    if not paths:
        raise UserError("row=N needs a dataset: give data_path=data/NAME")
    puzzle_set = open_puzzle_set(data_folder(paths[0]), "test")
    if box_of_shape(puzzle_set.metadata.vocab_size, puzzle_set.metadata.seq_len) != box:
        raise UserError(f"{paths[0]} holds other puzzles than the model's {side(box)}x{side(box)} Sudokus")
    rows = test_rows(puzzle_set, config.validation_size)
    if not 0 <= row < len(rows):
        raise UserError(f"row={row}: {paths[0]} has {len(rows)} test puzzles, expected 0 to {len(rows) - 1}")
    return boards_from_tokens(puzzle_set.read_rows(rows[row : row + 1])[0])[0]


def read_puzzles(options: Options, checkpoint: Checkpoint, box: Box) -> np.ndarray:
    """(N, n*n) the puzzles asked for. Errors: `UserError`."""
    given = [name for name in ("puzzle", "puzzle_file", "row") if getattr(options, name) is not None]
    if len(given) != 1:
        options_given = f"{given[0]} and {given[1]}" if given else "none"
        raise UserError(f"found {options_given}: give one of puzzle=53..7..., puzzle_file=FILE, row=N")
    if options.puzzle is not None:
        return read_puzzle(options.puzzle, box, "puzzle")[None]
    if options.puzzle_file is not None:
        return read_puzzle_file(Path(options.puzzle_file), box)
    assert options.row is not None
    return test_puzzle(checkpoint, box, options.row, options.data_path)[None]


def answer_puzzles(model: RecursiveModel, puzzles: np.ndarray, metadata: PuzzleMetadata) -> StepwisePredictions:
    """The model's answers to (N, n*n) boards, on the CPU."""
    tokens = tokens_from_boards(puzzles)
    batch = as_batch(tokens, tokens, np.zeros(len(puzzles), np.int32), metadata)
    device = model.H_init.device
    predictions = StepwiseInference().predict(model, to_device(batch, device))
    tensors = {key: value.cpu() for key, value in vars(predictions).items() if isinstance(value, torch.Tensor)}
    return replace(predictions, **tensors)  # type: ignore[arg-type]


def conflict_text(board: np.ndarray, box: Box) -> str:
    """`5 stands twice in row 3`: the first conflict of a board; empty when there is none."""
    n = side(box)
    for index, unit in enumerate(units(box)):
        digits = board[unit]
        digits = digits[(digits >= 1) & (digits <= n)]
        repeated = np.flatnonzero(np.bincount(digits, minlength=n + 1) > 1)
        if len(repeated):
            kind = ("row", "column", "box")[index // n]
            return f"{int(repeated[0])} stands twice in {kind} {index % n + 1}"
    return ""


def verdict(puzzle: np.ndarray, answer: np.ndarray, solved: Solved, box: Box) -> str:
    """One paragraph: what the puzzle is, and what the answer is worth. `answer` (n*n,), 0 = no digit."""
    n = side(box)
    if not solved.complete[0]:
        about = "puzzle: the solver gave up before it knew how many solutions there are"
    elif solved.num_solutions[0] == 0:
        about = "puzzle: it has no solution"
    elif solved.num_solutions[0] > 1:
        about = "puzzle: it has more than one solution"
    else:
        about = f"puzzle: one solution, rating {int(solved.ratings[0])} (search nodes)"
    givens = puzzle > 0
    changed = int((givens & (answer != puzzle)).sum())
    empty = int(((answer < 1) | (answer > n)).sum())
    clash = conflict_text(answer, box)
    if not changed and not empty and not clash:
        return f"{about}\nanswer: SOLVED, every row, column and box is right"
    faults = [f"{changed} givens changed"] if changed else []
    faults += [f"{empty} cells without a digit"] if empty else []
    faults += [clash] if clash else []
    if solved.unique[0]:
        wrong = np.flatnonzero((answer != solved.solutions[0]) & ~givens)
        shown = ", ".join(f"r{cell // n + 1}c{cell % n + 1}" for cell in wrong[:6])
        faults.insert(0, f"{len(wrong)} of {int((~givens).sum())} blanks wrong ({shown}{', ...' * (len(wrong) > 6)})")
    return f"{about}\nanswer: NOT solved; {'; '.join(faults)}"


def grid_lines(
    board: np.ndarray, box: Box, *, givens: np.ndarray, right: np.ndarray | None, changed: np.ndarray, color: bool
) -> list[str]:
    """A board as lines with ruled boxes. Styles: givens bold, right green, wrong red, changed underlined."""
    n = side(box)
    cells = []
    for cell, digit in enumerate(board.tolist()):
        text = str(digit) if 1 <= digit <= n else "."
        if color:
            style = BOLD if givens[cell] else ""
            if right is not None and not givens[cell]:
                style += GREEN if right[cell] else RED
            elif right is not None and not right[cell]:
                style += RED
            style += UNDERLINE if changed[cell] else ""
            text = f"{style}{text}{RESET}" if style else text
        cells.append(text)
    return ruled_lines(cells, box)


def side_by_side(panels: Sequence[tuple[str, str, list[str]]], panel_width: int, line_width: int) -> list[str]:
    """Panels (title, second title, grid lines), as many in a row as fit; the grids are `panel_width` wide."""
    width = max(panel_width, *(len(title) for panel in panels for title in panel[:2]))
    per_row = max(1, (line_width + 3) // (width + 3))
    padding = " " * (width - panel_width)
    lines = []
    for start in range(0, len(panels), per_row):
        row = panels[start : start + per_row]
        titles = zip(*(panel[:2] for panel in row), strict=True)
        lines += ["   ".join(title.ljust(width) for title in line) for line in titles]
        grids = zip(*(grid for _, _, grid in row), strict=True)
        lines += ["   ".join(line + padding for line in grid_row) for grid_row in grids]
        lines.append("")
    return [line.rstrip() for line in lines]


def show(
    puzzle: np.ndarray, predictions: StepwisePredictions, index: int, box: Box, *, color: bool, width: int
) -> list[str]:
    """The puzzle, the answer after each step, and the verdict."""
    n = side(box)
    solved = solve(puzzle[None], box)
    solution = solved.solutions[0] if solved.unique[0] else None
    givens, nothing = puzzle > 0, np.zeros(n * n, bool)
    panels = [("puzzle", "", grid_lines(puzzle, box, givens=givens, right=None, changed=nothing, color=color))]
    tokens = predictions.step_answers[index].numpy()
    steps = np.where(tokens >= 2, tokens - 1, 0)
    halting = predictions.step_q_halt[index].sigmoid().tolist()
    before = puzzle
    for step, (board, probability) in enumerate(zip(steps, halting, strict=True), 1):
        changed = (board != before) & (before > 0 if step == 1 else True)
        right = None if solution is None else board == solution
        lines = grid_lines(board, box, givens=givens, right=right, changed=changed, color=color)
        count = f", {int(changed.sum())} new" if step > 1 else ""
        panels.append((f"step {step}{count}", f"halt {probability:.3f}", lines))
        before = board
    panel_width = 2 * n - 1 + 2 * (n // box[1] - 1)
    return [*side_by_side(panels, panel_width, width), verdict(puzzle, steps[-1], solved, box)]


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else list(argv)
    options = parse_key_values(words, Options, description=__doc__ or "")
    checkpoint = open_checkpoint(options.checkpoint, device=options.device, dtype=options.dtype)
    checkpoint = replace(checkpoint, config=with_supervision_steps(checkpoint.config, options.steps))
    box = sudoku_box(checkpoint)
    puzzles = read_puzzles(options, checkpoint, box)
    metadata = sudoku_metadata(checkpoint, box)
    model = restore_model(checkpoint, metadata, resolve_device(checkpoint.config.device))
    predictions = answer_puzzles(model, puzzles, metadata)
    color = options.color == "always" or (options.color == "auto" and sys.stdout.isatty())
    width = shutil.get_terminal_size().columns
    try:
        for index, puzzle in enumerate(puzzles):
            if len(puzzles) > 1:
                print(f"== puzzle {index + 1} of {len(puzzles)}")
            print("\n".join(show(puzzle, predictions, index, box, color=color, width=width)), flush=True)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# pytest collects what is called test_*; this is not one.
test_puzzle.__test__ = False  # type: ignore[attr-defined]

if __name__ == "__main__":
    main()
