"""What the benchmark runs on: a preset's settings, the shape of its data, a run on synthetic tokens of that shape."""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset.find_task import PLAIN
from dataset.puzzle_folder import write_identifiers, write_puzzle_folder
from dataset.puzzle_metadata import PuzzleMetadata, read_metadata
from errors import UserError
from training.compiling import settle_compiling
from training.devices import resolve_device
from training.distributed import World
from training.objectives.base import Objective
from training.run import Run
from training.settings.cli import compose_config
from training.settings.schema import TrainConfig
from training.start import act_objective, build_run

SEED = 0
CPU_BATCH_SIZE = 8
_PUZZLES = 256
_BLANK, _FIRST_SYMBOL = 1, 2


@dataclass(frozen=True)
class DataShape:
    """S, V, rows of the puzzle table, and "augmentation" of `dataset.json` where symmetries are drawn on the fly."""

    seq_len: int
    vocab_size: int
    num_puzzle_identifiers: int = 1
    augmentation: Mapping[str, Any] | None = None


# The real puzzle table of ARC has hundreds of thousands of rows; a step touches those of its batch only.
SHAPES = {
    "sudoku9x9": DataShape(81, 11, augmentation={"kind": "sudoku", "box": [3, 3]}),
    "sudoku6x6": DataShape(36, 8, augmentation={"kind": "sudoku", "box": [2, 3]}),
    "sudoku4x4": DataShape(16, 6, augmentation={"kind": "sudoku", "box": [2, 2]}),
    "maze30x30": DataShape(900, 6),
    "arc": DataShape(900, 12, num_puzzle_identifiers=1000),
}


def compose_preset(preset: str, overrides: Mapping[str, str]) -> TrainConfig:
    """The settings of `config/experiment/<preset>.yaml` with overrides (key to value). Errors: `UserError`.

    Without global_batch_size among the overrides a CPU takes the preset's batch, but at most `CPU_BATCH_SIZE` rows.
    """
    given = {"experiment": preset, "seed": str(SEED), **overrides}
    config = compose_config([f"{key}={value}" for key, value in given.items()], require_data=False)
    if config.freeze_weights:
        raise UserError("freeze_weights=True: the benchmark's floor counts weight gradients; leave it out")
    if "global_batch_size" not in given and resolve_device(config.device).type == "cpu":
        slices = config.accumulation_slices
        size = max(slices, CPU_BATCH_SIZE // slices * slices)
        config = replace(config, global_batch_size=min(config.global_batch_size, size))
    return config


def data_shape(config: TrainConfig, preset: str, name: str | None = None) -> DataShape:
    """The shape that `name` chooses from `SHAPES`, else that of the data folder, else the one that names tell of.

    Errors: `UserError` when the folder is absent and its name and the preset's say nothing.
    """
    if name is None:
        for folder in config.data_paths:
            if Path(folder).exists():
                metadata = read_metadata(folder, "train")
                return DataShape(
                    metadata.seq_len,
                    metadata.vocab_size,
                    metadata.num_puzzle_identifiers,
                    metadata.task.augmentation if config.augment in ("auto", "on_the_fly") else None,
                )
        name = next(filter(None, map(_kind, [*config.data_paths, preset])), None)
        if name is None:
            raise UserError(
                f"--preset {preset}: no data folder is there and the names do not tell its shape; add --shape with one "
                f"of {', '.join(SHAPES)}"
            )
    shape = SHAPES[name]
    return shape if config.augment == "on_the_fly" else replace(shape, augmentation=None)


def _kind(name: str) -> str | None:
    """The entry of `SHAPES` that the name of a folder or a preset tells of."""
    words = re.split(r"[^a-z0-9]+", Path(name).name.lower())
    if any(word.startswith("arc") for word in words):
        return "arc"
    if any(word.startswith("maze") for word in words):
        return "maze30x30"
    size = next((word for word in words if word in ("4x4", "6x6")), "9x9")
    return f"sudoku{size}" if any(word.startswith("sudoku") for word in words) else None


def write_synthetic_data(root: Path, shape: DataShape, num_puzzles: int) -> None:
    """Both splits of a data folder: random tokens, half of the inputs blank, one puzzle per group."""
    rng = np.random.default_rng(SEED)
    write_identifiers(root, ["<blank>", *(f"puzzle {i}" for i in range(1, shape.num_puzzle_identifiers))])
    for split in ("train", "test"):
        labels = rng.integers(_FIRST_SYMBOL, shape.vocab_size, (num_puzzles, shape.seq_len))
        blank = np.less(rng.random(labels.shape), 0.5)
        metadata = PuzzleMetadata(
            seq_len=shape.seq_len,
            vocab_size=shape.vocab_size,
            num_puzzle_identifiers=shape.num_puzzle_identifiers,
            total_groups=num_puzzles,
            total_puzzles=num_puzzles,
            extra={
                "task": shape.augmentation["kind"] if shape.augmentation else PLAIN,
                "augmentation": shape.augmentation,
            },
        )
        arrays = {
            "inputs": np.where(blank, _BLANK, labels),
            "labels": labels,
            "puzzle_identifiers": rng.integers(0, shape.num_puzzle_identifiers, num_puzzles),
            "puzzle_indices": np.arange(num_puzzles + 1),
            "group_indices": np.arange(num_puzzles + 1),
        }
        write_puzzle_folder(root, split, metadata=metadata, arrays=arrays)


@contextmanager
def synthetic_run(config: TrainConfig, shape: DataShape, objective: Objective | None = None) -> Iterator[Run]:
    """A `Run` as training builds it, over synthetic data in a temporary folder that goes with it.

    By default it pretrains. The number of threads, which a preset may set, is put back. Errors: `UserError`, also
    where memory does not suffice.
    """
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        write_synthetic_data(folder / "data", shape, max(_PUZZLES, config.global_batch_size))
        config = replace(
            config, data_paths=[str(folder / "data")], data_paths_test=[], checkpoint_path=str(folder / "run")
        )
        try:
            run = build_run(config, World(), objective or act_objective(config))
            if run.device.type == "cuda" or config.compile:
                settle_compiling(run)
            yield run
        except (torch.OutOfMemoryError, MemoryError) as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(
                f"global_batch_size={config.global_batch_size} does not fit into memory ({reason}); use a smaller "
                "--batch-size"
            ) from error
        finally:
            torch.set_num_threads(threads)
