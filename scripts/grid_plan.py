"""What the runs of a grid would do and cost, one after the other; nothing is written but in a folder that is removed.

What a run needs and is not there yet, a stand-in of the same shape takes the place of: the puzzles that the grid's own
command generates, or as many as the grid says of a published set; of a pretraining its settings, without weights.
"""

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from dataset.puzzle_folder import write_identifiers, write_puzzle_folder
from dataset.puzzle_metadata import PuzzleMetadata
from dataset.sudoku import BOXES, random_symmetries, side, tokens_from_boards
from errors import UserError
from files import open_new
from scripts.built_data import BUILDERS
from scripts.grid_file import ROOT, Grid, GridRun
from training.run_plan import plan_lines
from training.settings.cli import compose_config
from training.settings.identity import config_to_dict
from training.settings.resolving import load_config_file
from training.settings.schema import TrainConfig
from training.settings.trajectory_flags import PROGRAM, in_flags, read_flags
from training.start import under_an_older_name
from training.storage.run_folder import ALL_CONFIG

_PRETRAINING = "pretrain.py"


class GridPlan:
    """Plans the runs of a grid; `folder` holds the stand-ins."""

    def __init__(self, grid: Grid, folder: Path) -> None:
        self.folder = folder
        self.makers = [*grid.runs, *grid.earlier]
        self.stand_ins: dict[Path, tuple[Path, GridRun]] = {}  # of folders that are not there yet, and what makes them

    def lines(self, run: GridRun) -> list[str]:
        """What it would do and cost. Errors: `UserError`, as the run would raise."""
        script, words = _script_and_words(run)
        if script in BUILDERS:
            return [f"makes        {_option(words, '--output-dir')}"]
        if script == _PRETRAINING:
            config = self._pretraining(words)
            lines = plan_lines(under_an_older_name(config), test_rows=self._test_rows(config))
        elif script == PROGRAM:
            lines = self._further_training(words)
        else:
            return [f"{script} has no plan"]
        return [true for line in lines for true in self._with_true_names(line)]

    def _pretraining(self, words: Sequence[str]) -> TrainConfig:
        """The settings of a pretraining, on stand-ins of data that is not there yet."""
        config = compose_config(words)
        return replace(config, data_paths=[self._data(path) for path in config.data_paths])

    def _further_training(self, words: list[str]) -> list[str]:
        root, name = _option(words, "--ckpt-root"), _option(words, "--ckpt-name")
        there = root is None or name is None or os.path.isfile(ROOT / root / name)
        if root is not None and name is not None and not there:
            maker = next((maker for maker in self.makers if maker.finished_file.parent == ROOT / root), None)
            if maker is not None and _script_and_words(maker)[0] == _PRETRAINING:
                words = [*words, "--ckpt-root", str(self._run_folder(ROOT / root, maker, name))]
        if root is not None and "--data-path" not in words:
            words = [*words, *self._data_option(Path(_option(words, "--ckpt-root") or root))]
        config, _ = read_flags(words)
        try:
            test_rows = self._test_rows(config)
            return plan_lines(under_an_older_name(config), read_weights=there, test_rows=test_rows)
        except UserError as error:
            raise in_flags(error) from None

    def _data_option(self, root: Path) -> list[str]:
        """Flags that put stand-ins in the place of the original run's data, where some of it is not there yet."""
        if not os.path.isfile(root / ALL_CONFIG):
            return []
        paths = load_config_file(root / ALL_CONFIG).data_paths
        instead = [self._data(path) for path in paths]
        return [] if instead == list(paths) else ["--data-path", *instead]

    def _data(self, path: str) -> str:
        """This folder of puzzles, or what stands in for it."""
        target = ROOT / path
        if target in self.stand_ins:
            return str(self.stand_ins[target][0])
        for maker in self.makers:
            script, words = _script_and_words(maker)
            if script in BUILDERS and ROOT / (_option(words, "--output-dir") or "") == target:
                if maker.is_finished:
                    break
                folder = self._new(target, maker)
                if maker.sizes is not None:
                    length, train, _ = maker.sizes
                    _write_puzzles(folder, length, train)
                else:
                    _build(maker, folder)
                return str(folder)
        return path

    def _test_rows(self, config: TrainConfig) -> int | None:
        """How many test rows stand-ins of a given size stand for; None where there are real ones, or generated."""
        used = [maker.sizes for folder, maker in self.stand_ins.values() if str(folder) in config.data_paths]
        return sum(sizes[2] for sizes in used if sizes is not None) or None

    def _run_folder(self, target: Path, maker: GridRun, name: str) -> Path:
        """The folder of a pretraining that has not been made, with its settings and an empty file of weights."""
        if target not in self.stand_ins:
            config = self._pretraining(_script_and_words(maker)[1])
            folder = self._new(target, maker)
            folder.mkdir()
            with open_new(folder / ALL_CONFIG) as file:
                file.write(yaml.safe_dump(config_to_dict(config)).encode())
        folder, _ = self.stand_ins[target]
        if not os.path.exists(folder / name):
            open_new(folder / name).close()
        return folder

    def _new(self, target: Path, maker: GridRun) -> Path:
        folder = self.folder / f"{len(self.stand_ins)}-{target.name}"
        self.stand_ins[target] = folder, maker
        return folder

    def _with_true_names(self, line: str) -> list[str]:
        """The line with what stand-ins stand in for, then the commands that make it."""
        makers = []
        for target, (folder, maker) in self.stand_ins.items():
            if str(folder) in line:
                true = target.relative_to(ROOT) if target.is_relative_to(ROOT) else target
                line = line.replace(str(folder), str(true))
                makers.append(f"             not there yet: python {shlex.join(maker.command)}")
        return [line, *makers]


@contextlib.contextmanager
def planning(grid: Grid) -> Iterator[GridPlan]:
    """A `GridPlan`, in the suite's folder as the runs are; its stand-ins are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="plan-") as folder, contextlib.chdir(ROOT):
        yield GridPlan(grid, Path(folder))


def _write_puzzles(folder: Path, length: int, train: int) -> None:
    """So many Sudokus of a side to train on, and one test row: good for counts only, as all are one up to symmetry."""
    box = next(box for box in BOXES.values() if side(box) == length)
    rows, columns = box
    lines = np.arange(length)
    pattern = (columns * (lines % rows)[:, None] + (lines // rows)[:, None] + lines) % length + 1
    solution = pattern.astype(np.uint8).reshape(-1)
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", 1)):
        tokens = tokens_from_boards(random_symmetries(count, box, rng).apply(solution))
        arrays = {
            "inputs": tokens,
            "labels": tokens,
            "puzzle_identifiers": np.zeros(count, np.int32),
            "puzzle_indices": np.arange(count + 1),
            "group_indices": np.arange(count + 1),
        }
        metadata = PuzzleMetadata(seq_len=length**2, vocab_size=length + 2, total_groups=count, total_puzzles=count)
        write_puzzle_folder(folder, split, metadata=metadata, arrays=arrays)
    write_identifiers(folder)


def _script_and_words(run: GridRun) -> tuple[str, list[str]]:
    """The script of the suite that a command starts, by itself or under torchrun, and what is given to it."""
    at = next((index for index, word in enumerate(run.command) if word.endswith(".py")), None)
    if at is None:
        return " ".join(run.command[:2]), []
    return run.command[at], list(run.command[at + 1 :])


def _option(words: Sequence[str], flag: str) -> str | None:
    """What follows a flag, the last time that it is given."""
    found = [value for word, value in zip(words, words[1:], strict=False) if word == flag]
    found += [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]
    return found[-1] if found else None


def _build(maker: GridRun, folder: Path) -> None:
    """Run a builder into another folder. Errors: `UserError` where it would fetch a published set, or fails."""
    script, words = _script_and_words(maker)
    if not {"--generate", "--input-file", "--input-dir"} & set(words):
        raise UserError(
            f"{maker.name} is fetched, which a plan does not; first run: python {shlex.join(maker.command)}"
        )
    command = [sys.executable, script, *words, "--output-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise UserError(f"{maker.name}: {' '.join(done.stderr.split())[-300:]}")
