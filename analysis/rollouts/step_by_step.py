"""Draw three test puzzles with the model's answer after each supervision step.

    python analysis/rollouts/step_by_step.py RUN/best.pt [--rows 3 17 42] [--output-dir DIR]

Without --rows: the easiest and the hardest puzzle that the model solves after changing its mind, and one that it
does not solve, among the first test puzzles (those that chose no checkpoint). Writes step_by_step.png, the same
as .json, and the caption as .txt, to the run's figures folder unless told otherwise.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

import numpy as np
import torch

from analysis.command_line import check_at_least
from analysis.figures.figure_files import GREEN, RED, STYLE, Figure, matplotlib, plt, save_picture
from analysis.figures.made_of import results_folder
from dataset.eval_batches import EvalBatches, test_rows
from dataset.puzzle_folder import PuzzleSet
from dataset.tasks.base import PuzzleTask
from models.recursive_model import RecursiveModel
from training.inference.stepwise import StepwiseInference
from training.setup import device_of
from training.trained_model import open_puzzle_checkpoint, open_test_set, restore_model

MAX_COLUMNS = 8
LIGHT_GREEN, LIGHT_RED = "#D5EFE5", "#F8DCCB"


@dataclass(frozen=True)
class Trace:
    """One puzzle (S,) and the answers of T steps (T, S), as tokens; halting probabilities (T,)."""

    row: int
    rating: int | None
    difficulty: int
    puzzle: np.ndarray
    solution: np.ndarray
    answers: np.ndarray
    halting: np.ndarray

    @property
    def solved(self) -> bool:
        return bool((self.answers[-1] == self.solution).all())

    @property
    def settled(self) -> int:
        """The step from which on the answer stays as it is at the end (1 = from the first)."""
        different = np.flatnonzero((self.answers != self.answers[-1]).any(axis=1))
        return int(different[-1]) + 2 if len(different) else 1


def trace_rows(model: RecursiveModel, puzzle_set: PuzzleSet, rows: np.ndarray, batch_size: int) -> list[Trace]:
    """The model's way through some rows of a set, in order."""
    traces = []
    device, task = model.H_init.device, puzzle_set.metadata.task
    for batch in EvalBatches(puzzle_set, rows, min(batch_size, len(rows))):
        predictions = StepwiseInference().predict(model, {key: leaf.to(device) for key, leaf in batch.items()})
        answers = task.as_judged(predictions.step_answers.cpu().numpy())
        if task.blank is not None:  # an answer of padding leaves the cell empty, as one of blank does
            answers = np.where(task.filled(answers), answers, task.blank)
        halting = torch.sigmoid(predictions.step_q_halt).cpu().numpy()
        for i, row in enumerate(batch["row"].tolist()):
            if row < 0:
                continue
            inputs, labels = puzzle_set.read_rows(np.array([row]))
            rating = None if puzzle_set.ratings is None else int(puzzle_set.ratings[row])
            hard = task.difficulty(inputs)
            difficulty = 0 if hard is None else int(hard[0])
            traces.append(Trace(row, rating, difficulty, inputs[0], labels[0], answers[i], halting[i]))
    return traces


def choose(traces: Sequence[Trace]) -> list[Trace]:
    """An easy and a hard puzzle among the solved, and a failed one; others of these kinds where one is missing."""

    def difficulty(trace: Trace) -> tuple[int, int, int]:
        return trace.rating or 0, trace.settled, trace.difficulty

    solved = sorted((trace for trace in traces if trace.solved), key=difficulty)
    failed = sorted(
        (trace for trace in traces if not trace.solved),
        key=lambda trace: int((trace.answers[-1] == trace.solution).sum()),
    )
    # The easiest that takes more than one step shows more than one that is right at once.
    easy = next((trace for trace in solved if trace.settled > 1), solved[0] if solved else None)
    hard = next((trace for trace in reversed(solved) if trace is not easy), None)
    wanted = [trace for trace in (easy, hard, failed[len(failed) // 2] if failed else None) if trace is not None]
    rest = [trace for trace in [*reversed(solved), *failed] if not any(trace is item for item in wanted)]
    return (wanted + rest)[:3]


def shown_steps(num_steps: int) -> list[int]:
    """Steps (from 1) that get a column: all of up to eight, else eight that thin out towards the last."""
    if num_steps <= MAX_COLUMNS:
        return list(range(1, num_steps + 1))
    return sorted({round(step) for step in np.geomspace(1, num_steps, MAX_COLUMNS)})


def draw_board(
    axes: Any, tokens: np.ndarray, task: PuzzleTask, *, givens: np.ndarray, right: np.ndarray | None
) -> None:
    """One board: givens black, right cells green, wrong cells red and crossed out; or in the colours of the task."""
    (rows, columns), (high, wide) = task.grid, task.block
    axes.set_xlim(-0.06, columns + 0.06)
    axes.set_ylim(rows + 0.06, -0.06)
    axes.set_aspect("equal")
    axes.axis("off")
    if task.colours is not None:
        _draw_colours(axes, tokens, task.colours, (rows, columns), right)
        return
    for cell, (symbol, filled) in enumerate(zip(task.symbols(tokens), task.filled(tokens).tolist(), strict=True)):
        row, column = divmod(cell, columns)
        given = bool(givens[cell])
        fine = right is None or bool(right[cell])
        if right is not None and not (given and fine):
            axes.add_patch(
                matplotlib.patches.Rectangle((column, row), 1, 1, color=LIGHT_GREEN if fine else LIGHT_RED, linewidth=0)
            )
        color = "black" if given and fine else GREEN if fine else RED
        if not fine:  # crossed out, so that it is seen without colour
            axes.plot([column + 0.12, column + 0.88], [row + 0.88, row + 0.12], color=RED, linewidth=0.9)
        text = symbol if filled else ("" if right is None else "·")
        font: dict[str, Any] = {"size": 11 if columns <= 6 else 8, "weight": "bold" if given else "normal"}
        axes.text(column + 0.5, row + 0.53, text, ha="center", va="center", color=color, fontdict=font)
    for line in range(max(rows, columns) + 1):
        if line <= rows:
            axes.plot([0, columns], [line, line], color="black", linewidth=1.6 if line % high == 0 else 0.4)
        if line <= columns:
            axes.plot([line, line], [0, rows], color="black", linewidth=1.6 if line % wide == 0 else 0.4)


def _draw_colours(
    axes: Any, tokens: np.ndarray, colours: Sequence[str], grid: tuple[int, int], right: np.ndarray | None
) -> None:
    """Cells in the colours of their tokens; wrong ones are crossed out."""
    rows, columns = grid
    shown = matplotlib.colors.to_rgba_array(colours)
    axes.imshow(shown[tokens.reshape(rows, columns)], extent=(0, columns, rows, 0), interpolation="nearest")
    for cell in [] if right is None else np.flatnonzero(~right).tolist():
        row, column = divmod(cell, columns)
        seen = "black" if shown[tokens[cell], :3].mean() > 0.4 else "white"
        axes.plot([column + 0.12, column + 0.88], [row + 0.88, row + 0.12], color=seen, linewidth=0.9)
    edge = matplotlib.patches.Rectangle((0, 0), columns, rows, fill=False, color="black", linewidth=1.0)
    axes.add_patch(edge)


def draw(traces: Sequence[Trace], task: PuzzleTask) -> Figure:
    """A row per puzzle: the puzzle, then the answer after each step with the probability of halting."""
    steps = shown_steps(len(traces[0].answers))
    cell = 1.55 if task.grid[1] <= 6 else 1.85
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure, grid = plt.subplots(
            len(traces),
            1 + len(steps),
            figsize=(cell * (1 + len(steps)), (cell + 0.5) * len(traces)),
            squeeze=False,
            constrained_layout=True,
        )
        for axes_row, trace in zip(grid, traces, strict=True):
            givens = task.filled(trace.puzzle)
            kept = givens if task.blank is not None else np.zeros_like(givens)  # else an answer is another grid
            state = "solved" if trace.solved else "not solved"
            rating = "" if trace.rating is None else f"rating {trace.rating}, "
            axes_row[0].set_title(f"test row {trace.row}\n{rating}{state}", fontsize=9)
            draw_board(axes_row[0], trace.puzzle, task, givens=givens, right=None)
            for axes, step in zip(axes_row[1:], steps, strict=True):
                answer = trace.answers[step - 1]
                wrong = int((answer != trace.solution).sum())
                count = "all right" if not wrong else f"{wrong} wrong"
                axes.set_title(f"step {step}: {count}\nhalt {trace.halting[step - 1]:.0%}", fontsize=9)
                draw_board(axes, answer, task, givens=kept, right=answer == trace.solution)
    return figure


# What the marks in a picture mean: with symbols, and in colours.
_KEYS = ("Black: given; green: right; red and crossed out: wrong", "Crossed out: not as in the recorded answer")


def as_record(trace: Trace, task: PuzzleTask) -> dict[str, Any]:
    """A trace as plain values."""
    puzzle, solution, *answers = (
        "".join(task.symbols(tokens)) for tokens in (trace.puzzle, trace.solution, *trace.answers)
    )
    return {
        "row": trace.row,
        "rating": trace.rating,
        "solved": trace.solved,
        "settled_at_step": trace.settled,
        "puzzle": puzzle,
        "solution": solution,
        "answers": answers,
        "halting_probability": [float(value) for value in trace.halting],
    }


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = FlagParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="weights such as RUN/best.pt")
    parser.add_argument("--rows", type=int, nargs="+", metavar="ROW", help="rows of the test set to draw")
    parser.add_argument("--data-path", metavar="DIR", help="dataset folder; default: the run's")
    parser.add_argument("--max-rows", type=int, default=500, help="test puzzles to choose from (default 500)")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="default: figures beside the checkpoint")
    parser.add_argument("--device", default="auto", help="auto | cpu | mps | cuda | cuda:N")
    options = parser.parse_args(argv)
    checkpoint = open_puzzle_checkpoint(options.checkpoint, device=options.device)
    config = checkpoint.config
    puzzle_set = open_test_set(checkpoint, options.data_path)
    task = puzzle_set.metadata.task
    check_at_least(options, max_rows=1)
    figures = options.output_dir or checkpoint.path.parent / "figures"
    rows = test_rows(puzzle_set, config.validation_size)[: options.max_rows]
    if options.rows:
        rows = np.array(options.rows)
        if not (0 <= rows.min() and rows.max() < puzzle_set.num_examples):
            last = puzzle_set.num_examples - 1
            raise UserError(f"--rows {options.rows}: {puzzle_set.root} has test rows 0 to {last}")
    inputs = [checkpoint.path, *([Path(options.data_path)] if options.data_path else [])]
    asked = {"--rows": options.rows, "--max-rows": None if options.rows else options.max_rows}
    folder = results_folder(figures, ["step_by_step"], inputs, asked, flag="--output-dir", script=__file__)
    model = restore_model(checkpoint, puzzle_set.metadata, device_of(config, losses=False))
    traces = trace_rows(model, puzzle_set, rows, config.eval_batch_size or config.global_batch_size)
    chosen = traces if options.rows else choose(traces)
    stem = folder / "step_by_step"
    solved = sum(trace.solved for trace in traces)
    why = (
        ""
        if options.rows
        else (
            "The puzzles are chosen to show an easy, a hard and a failed one; "
            f"of the {len(traces)} looked at, {solved} are solved."
        )
    )
    typed = [f"--rows {' '.join(map(str, options.rows))}"] if options.rows else []
    typed += [f"--data-path {options.data_path}"] if options.data_path else []
    rating = f" Rating: {task.rating_meaning}." if task.rating_meaning else ""
    words = (
        f"Answers of {checkpoint.path} after its supervision steps. {_KEYS[task.colours is not None]}. halt: the "
        "model's own probability that its answer is right (it stops there when asked to)."
        f"{rating} {why}\n"
        f"Figure: python analysis/rollouts/step_by_step.py {' '.join([str(options.checkpoint), *typed])}"
    )
    numbers = {"checkpoint": checkpoint.path.name, "traces": [as_record(trace, task) for trace in chosen]}
    files = save_picture(draw(chosen, task), stem, caption=words, numbers=numbers, formats=("png",))
    say(f"written: {files}")


if __name__ == "__main__":
    main()
