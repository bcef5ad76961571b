r"""Solve one puzzle with a trained model, and show its answer after each supervision step.

    python predict.py                                                  a 6x6 Sudoku, with the network that is shipped
    python predict.py puzzle=.3....541.......2....5....5.4..2.3.1      yours, of 36 cells
    python predict.py checkpoint=RUN/best.pt \
        puzzle=53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79
    python predict.py checkpoint=RUN/best.pt puzzle_file=FILE          a puzzle a line, or puzzles as grids
    python predict.py checkpoint=RUN/best.pt maze=FILE                 one maze, its rows as lines, or on one line
    python predict.py checkpoint=RUN/best.pt row=7                     row 7 of the test set, as in tables and pictures;
                                                                       of networks that know rules by identifiers, as of
                                                                       mini-ARC, nothing else

Of a Sudoku blanks are '.' or '0', or * x _ - ?; spaces and what is drawn between cells are passed over. A file may
be any list that the Sudoku builder reads, a CSV file with questions too. A maze has # for walls, a space or . for free
cells, S and G. A solver judges the answer: what solutions the puzzle has, whether the model found one, and where it is
wrong. On a terminal a cell is green
when it is right, red when wrong, and underlined when it is new since the step before.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

import numpy as np
import torch

from dataset.eval_batches import as_batch, validation_rows
from dataset.find_task import official_shapes
from dataset.puzzle_csv import read_puzzle_file
from dataset.puzzle_grids import read_puzzle_grids
from dataset.puzzle_metadata import PuzzleMetadata, data_folder, read_metadata
from dataset.tasks.base import Known, PuzzleTask
from dataset.tasks.maze import Task as MazeTask
from long_work import progress_bar
from models.recursive_model import RecursiveModel
from options import MOST_REPEATS, anything, at_least, one_of, option, text
from training.inference.base import to_device
from training.inference.choose import cost_line
from training.inference.stepwise import StepwiseInference, StepwisePredictions
from training.settings.key_values import parse_key_values
from training.settings.schema import DTYPES, Device
from training.setup import device_of
from training.trained_model import (
    Checkpoint,
    data_is_here,
    open_puzzle_checkpoint,
    open_test_set,
    recorded_metadata,
    restore_model,
    shaped,
    test_metadata,
    with_supervision_steps,
)

# (name, cells) -> tokens of official puzzles that are no task here.
OTHER_OFFICIAL = {("arc", 900): 12}
MAX_PUZZLES = 1000
LONG_PASSES = 1000  # supervision steps of single rows; fewer take seconds
SHIPPED = Path(__file__).parent / "models/pretrained/sudoku6/best.pt"
EXAMPLE = ".3....541.......2....5....5.4..2.3.1"  # a test puzzle of the 6x6 Sudokus that it never saw
GREEN, RED, BOLD, UNDERLINE, RESET = "\033[32m", "\033[31m", "\033[1m", "\033[4m", "\033[0m"


@dataclass
class Options:
    """Options of predict.py."""

    checkpoint: str | None = option(
        None, "weights file in a run folder, such as RUN/best.pt; default: the 6x6 Sudoku network that is shipped", text
    )
    puzzle: str | None = option(None, "its cells row by row, of a Sudoku 16, 36 or 81; '.' or '0' = blank", anything)
    puzzle_file: str | None = option(None, "a puzzle a line, puzzles as grids, or a CSV file", text)
    maze: str | None = option(None, "text file with one maze, its rows as lines or all on one line", text)
    row: int | None = option(None, "row of the test set, from 0, as tables and pictures number them", at_least(0))
    data_path: str | None = option(None, "dataset folder of row=N; default: the run's", text)
    steps: int | None = option(None, "supervision steps; default: as trained", at_least(1, MOST_REPEATS))
    color: str = option("auto", "auto = on a terminal", one_of("auto", "always", "never"))
    device: str = option("auto", "where the network is; auto = a GPU where there is one", Device())
    dtype: str | None = option(None, "of the layers; default: the run's", one_of(*DTYPES))


def puzzle_metadata(checkpoint: Checkpoint, data_path: str | None) -> PuzzleMetadata:
    """Shape and task of the puzzles that a model was trained on, with the rows of its puzzle table.

    As its folder knows them; of an old or a foreign folder as its data say, else `data_path`, else its number of tokens
    where one kind of official puzzles has so many, which is said. Errors: `UserError` when nothing tells.
    """
    size = checkpoint.vocab_size
    metadata = recorded_metadata(checkpoint)
    if metadata is None and data_path is not None:
        metadata = read_metadata(data_folder(data_path), "test")
    if metadata is None and data_is_here(checkpoint.config):
        metadata = test_metadata(checkpoint.config)
    if metadata is None:
        shapes = [*official_shapes(size), *(shape for shape, tokens in OTHER_OFFICIAL.items() if tokens == size)]
        if len(shapes) != 1:
            known = ", ".join(f"{name} of {seq_len} cells" for name, seq_len in shapes) or "no task"
            raise UserError(
                f"{checkpoint.path} knows {size} tokens, as do: {known}; its data is not here to say which "
                "puzzles it reads; give data_path=data/NAME"
            )
        ((name, seq_len),) = shapes
        metadata = shaped(task=name, seq_len=seq_len, vocab_size=size)
        taken = f"its {size} tokens are taken for {metadata.task}"
        print(f"warning: nothing here says what {checkpoint.path} was trained on: {taken}", file=sys.stderr)
    if metadata.vocab_size != size:
        raise UserError(
            f"{checkpoint.path} knows {size} tokens, but the puzzles of its data have {metadata.vocab_size}"
        )
    return replace(metadata, num_puzzle_identifiers=checkpoint.num_puzzle_identifiers)


def read_puzzle(text: str, task: PuzzleTask, where: str) -> np.ndarray:
    """(S,) tokens of a puzzle. Errors: `UserError` saying what is no puzzle of the task."""
    try:
        return task.parse(text)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


@dataclass(frozen=True)
class Asked:
    """N puzzles (N, S) and their identifiers (N,); recorded: the answers (N, S) to those whose rule only these tell."""

    tokens: np.ndarray
    identifiers: np.ndarray | None = None
    recorded: np.ndarray | None = None

    def known(self, task: PuzzleTask, index: int) -> Known:
        """What is known of a puzzle, the recorded answer too."""
        known = task.known(self.tokens[index])
        if known.solution is not None or self.recorded is None:
            return known
        return replace(known, solution=self.recorded[index])


def test_puzzle(checkpoint: Checkpoint, metadata: PuzzleMetadata, row: int, data_path: str | None) -> Asked:
    """Row `row` of the test set. One that chose the best checkpoint is said to be so. Errors: `UserError`."""
    puzzle_set = open_test_set(checkpoint, data_path, option="data_path=")
    found = puzzle_set.metadata
    if (found.seq_len, found.vocab_size) != (metadata.seq_len, metadata.vocab_size):
        raise UserError(
            f"{puzzle_set.root} holds other puzzles than the model's: {found.seq_len} cells of {found.vocab_size} "
            f"tokens ({found.task}), expected {metadata.seq_len} of {metadata.vocab_size} ({metadata.task})"
        )
    if row >= puzzle_set.num_examples:
        last = puzzle_set.num_examples - 1
        raise UserError(f"row={row}: {puzzle_set.root} has test rows 0 to {last}")
    if row in validation_rows(puzzle_set, checkpoint.config.validation_size):
        print(f"row {row} is a validation row: it helped to choose the best checkpoint")
    tokens, recorded = puzzle_set.read_rows(np.array([row]))
    identifiers = puzzle_set.puzzle_identifiers[puzzle_set.puzzle_of(np.array([row]))]
    return Asked(tokens, identifiers, recorded if metadata.num_puzzle_identifiers > 1 else None)


def read_puzzles(options: Options, checkpoint: Checkpoint, metadata: PuzzleMetadata) -> Asked:
    """The puzzles asked for. Errors: `UserError`."""
    given = [name for name in ("puzzle", "puzzle_file", "maze", "row") if getattr(options, name) is not None]
    if options.data_path is not None and options.row is None and recorded_metadata(checkpoint) is not None:
        raise UserError(
            f"found data_path={options.data_path}, the folder of row=N, and no row; add row=0, or leave data_path out"
        )
    if not given and options.checkpoint is None:
        return Asked(read_puzzle(EXAMPLE, metadata.task, "the example")[None])
    if len(given) != 1:
        options_given = f"{given[0]} and {given[1]}" if given else "none"
        raise UserError(f"found {options_given}: give one of puzzle=53..7..., puzzle_file=FILE, maze=FILE, row=N")
    if options.row is None and metadata.num_puzzle_identifiers > 1:
        raise UserError(
            f"{given[0]}: {checkpoint.path} knows puzzles by {metadata.num_puzzle_identifiers} identifiers, and one "
            "that is written out has none; give row=N, with data_path=data/NAME for those of other data"
        )
    if options.row is not None:
        return test_puzzle(checkpoint, metadata, options.row, options.data_path)
    return Asked(read_written(options, checkpoint, metadata))


def read_written(options: Options, checkpoint: Checkpoint, metadata: PuzzleMetadata) -> np.ndarray:
    """(N, S) the puzzles that are written out. Errors: `UserError`."""
    if options.puzzle is not None:
        return read_puzzle(options.puzzle, metadata.task, "puzzle")[None]
    if options.puzzle_file is not None:
        found = read_puzzle_file(Path(options.puzzle_file), metadata.task, MAX_PUZZLES)
        for note in found.notes:
            say(f"note: {note}")
        return found.tokens
    assert options.maze is not None
    if not isinstance(metadata.task, MazeTask):
        raise UserError(f"maze={options.maze}: {checkpoint.path} answers {metadata.task}; name a network of mazes")
    return read_puzzle_grids(Path(options.maze), metadata.task, max_puzzles=1).tokens


def answer_puzzles(
    model: RecursiveModel, puzzles: np.ndarray, metadata: PuzzleMetadata, identifiers: np.ndarray | None = None
) -> StepwisePredictions:
    """The model's answers to puzzles (N, S), on the CPU. Of long work the cost is said, and progress shown.

    identifiers: (N,) of the puzzles; None = the blank one.
    """
    steps = model.config.halt_max_steps
    long = len(puzzles) * steps >= LONG_PASSES
    if long:
        say(cost_line(len(puzzles), steps, model.config), file=sys.stderr)
    if identifiers is None:
        identifiers = np.full(len(puzzles), metadata.blank_identifier_id)
    batch = as_batch(puzzles, puzzles, identifiers, metadata)
    device = model.H_init.device
    bar = partial(progress_bar, total=steps, desc="supervision steps", unit="step", shown=long, leave=False)
    predictions = StepwiseInference(watched=bar).predict(model, to_device(batch, device))
    tensors = {key: value.cpu() for key, value in vars(predictions).items() if isinstance(value, torch.Tensor)}
    return replace(predictions, **tensors)  # type: ignore[arg-type]


def verdict(task: PuzzleTask, puzzle: np.ndarray, answer: np.ndarray, known: Known) -> str:
    """One paragraph: what the puzzle is, and what the answer (S,) is worth."""
    faults = task.faults(puzzle, answer)
    if known.solution is not None:
        givens = task.filled(puzzle) if task.blank is not None else np.zeros(len(puzzle), bool)
        wrong = np.flatnonzero((answer != known.solution) & ~givens)
        if len(wrong):
            columns = task.grid[1]
            shown = ", ".join(f"r{cell // columns + 1}c{cell % columns + 1}" for cell in wrong[:6])
            what = "cells" if task.blank is None else "blanks"
            total = f"{len(wrong)} of {int((~givens).sum())} {what} wrong"
            faults.insert(0, f"{total} ({shown}{', ...' * (len(wrong) > 6)})")
    if faults:
        return f"{known.about}\nanswer: NOT solved; {'; '.join(faults)}"
    if known.solution is None and task.rules is None:
        return f"{known.about}\nanswer: nothing here can judge it"
    return f"{known.about}\nanswer: SOLVED, {task.rules or 'every cell is right'}"


def grid_lines(
    task: PuzzleTask, tokens: np.ndarray, *, givens: np.ndarray, right: np.ndarray | None, changed: np.ndarray
) -> list[str]:
    """A puzzle or an answer (S,) drawn in styles: givens bold, right green, wrong red, changed underlined."""

    def style(cell: int, symbol: str) -> str:
        codes = BOLD if givens[cell] else ""
        if right is not None and not givens[cell]:
            codes += GREEN if right[cell] else RED
        elif right is not None and not right[cell]:
            codes += RED
        codes += UNDERLINE if changed[cell] else ""
        return f"{codes}{symbol}{RESET}" if codes else symbol

    return task.draw(tokens, style)


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
    task: PuzzleTask, asked: Asked, predictions: StepwisePredictions, index: int, *, color: bool, width: int
) -> list[str]:
    """A puzzle, the answer after each step, and the verdict."""
    puzzle, known = asked.tokens[index], asked.known(task, index)
    givens, nothing = task.filled(puzzle), np.zeros(len(puzzle), bool)

    def panel(tokens: np.ndarray, right: np.ndarray | None, changed: np.ndarray) -> list[str]:
        return grid_lines(task, tokens, givens=givens, right=right, changed=changed) if color else task.draw(tokens)

    panels = [("puzzle", "", panel(puzzle, None, nothing))]
    steps = task.as_judged(predictions.step_answers[index].numpy())
    halting = predictions.step_q_halt[index].sigmoid().tolist()
    before = np.array(task.symbols(puzzle))
    for step, (tokens, probability) in enumerate(zip(steps, halting, strict=True), 1):
        symbols = np.array(task.symbols(tokens))
        changed = (symbols != before) & (givens if step == 1 else True)
        right = None if known.solution is None else tokens == known.solution
        count = f", {int(changed.sum())} new" if step > 1 else ""
        panels.append((f"step {step}{count}", f"halt {probability:.3f}", panel(tokens, right, changed)))
        before = symbols
    panel_width = max(map(len, task.draw(puzzle)))
    return [*side_by_side(panels, panel_width, width), verdict(task, puzzle, steps[-1], known)]


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else list(argv)
    options = parse_key_values(words, Options, description=__doc__ or "")
    checkpoint = open_puzzle_checkpoint(options.checkpoint or SHIPPED, device=options.device, dtype=options.dtype)
    checkpoint = replace(checkpoint, config=with_supervision_steps(checkpoint.config, options.steps))
    metadata = puzzle_metadata(checkpoint, options.data_path)
    asked = read_puzzles(options, checkpoint, metadata)
    model = restore_model(checkpoint, metadata, device_of(checkpoint.config, losses=False))
    predictions = answer_puzzles(model, asked.tokens, metadata, asked.identifiers)
    color = options.color == "always" or (options.color == "auto" and sys.stdout.isatty())
    width = shutil.get_terminal_size().columns
    try:
        for index in range(len(asked.tokens)):
            if len(asked.tokens) > 1:
                print(f"== puzzle {index + 1} of {len(asked.tokens)}")
            print("\n".join(show(metadata.task, asked, predictions, index, color=color, width=width)), flush=True)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# pytest collects what is called test_*; this is not one.
test_puzzle.__test__ = False  # type: ignore[attr-defined]

if __name__ == "__main__":
    main()
