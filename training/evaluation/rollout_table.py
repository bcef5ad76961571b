"""What R stochastic rollouts of each of N puzzles came to, in memory and as a `.npz` file.

Arrays of the file, to be read with allow_pickle=False; in that of evaluate.py, which may hold several tables, every
name begins with that of its rows, such as `test/`:

| name | shape, dtype | content |
|---|---|---|
| row | (N,) int64 | number of the puzzle in its set, ascending; puzzles without a scored token are left out |
| steps | (C,) int64 | supervision steps after which the rollouts were judged, ascending; the last is their length |
| q | (N, R, C) float32 | halting logit |
| exact | (N, R, C) bool | every scored token right: knows the labels, as the next array alone does |
| noiseless | (N, C) bool | the same of the trajectory without noise; (N, 0) where a file of before lacks it |
| answer | (N, R, C) int64 | 64 bits of the BLAKE2b hash of the answer's tokens: equal numbers, equal answers |
| margin | (N, R, C) float32 | largest logit of a cell minus the second, mean over cells |
| growth | (N, R, C, Z) float32 | growth of probes, nats per step; higher is less stable (`inference.stability`) |
| sizes | (Z,) float64 | d0 of the probes, relative to the state's norm; Z = 0 without probes |
| settings | (bytes,) uint8 | UTF-8 of a JSON object: how the rollouts were made |
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from dataset.plain_data import parse_json
from errors import UserError
from files import fault_of, open_regular
from models.act import Batch
from models.losses import IGNORE_LABEL_ID, correctness
from training.distributed import World
from training.evaluation.answering import Evaluator
from training.inference.base import Predictions
from training.inference.stochastic_rollouts import RolloutPredictions

_BY_ROW: dict[str, tuple[type, int]] = {
    "row": (np.int64, 1), "q": (np.float32, 3), "exact": (np.bool_, 3), "noiseless": (np.bool_, 2),
    "answer": (np.int64, 3), "margin": (np.float32, 3), "growth": (np.float32, 4),
}  # fmt: skip
_SHARED: dict[str, tuple[type, int]] = {"steps": (np.int64, 1), "sizes": (np.float64, 1)}


@dataclass(frozen=True)
class RolloutTable:
    """The arrays that the module describes."""

    row: np.ndarray
    steps: np.ndarray
    q: np.ndarray
    exact: np.ndarray
    noiseless: np.ndarray
    answer: np.ndarray
    margin: np.ndarray
    growth: np.ndarray
    sizes: np.ndarray

    @property
    def rollouts(self) -> int:
        return self.q.shape[1]

    def arrays(self, settings: dict[str, Any]) -> dict[str, np.ndarray]:
        """What `np.savez` takes."""
        text = json.dumps(settings, sort_keys=True, allow_nan=False).encode()
        return {name: getattr(self, name) for name in (*_BY_ROW, *_SHARED)} | {
            "settings": np.frombuffer(text, np.uint8)
        }


def npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """The bytes of a `.npz` file, equal for equal arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def joined(tables: Sequence[RolloutTable]) -> RolloutTable:
    """The puzzles of several tables of equal steps and sizes, by ascending row."""
    columns = {name: np.concatenate([getattr(table, name) for table in tables]) for name in _BY_ROW}
    order = np.argsort(columns["row"], kind="stable")
    return RolloutTable(
        **{name: column[order] for name, column in columns.items()}, steps=tables[0].steps, sizes=tables[0].sizes
    )


def read_rollouts(path: Path, *prefixes: str, mend: str) -> tuple[RolloutTable, dict[str, Any]]:
    """The table of a file and its settings. Errors: `UserError`, ending with `mend`, for anything else.

    prefixes: of the names; of several, the first under which the file holds a table.
    """
    try:
        with open_regular(path) as opened, np.load(opened, allow_pickle=False) as file:
            prefix = next((candidate for candidate in prefixes if f"{candidate}q" in file.files), "")
            lacking = {"noiseless"} - {name.removeprefix(prefix) for name in file.files}
            arrays = {name: file[prefix + name] for name in (*_BY_ROW, *_SHARED, "settings") if name not in lacking}
            if lacking:
                arrays["noiseless"] = np.zeros((len(arrays["q"]), 0), np.bool_)
    except Exception as error:  # zipfile and numpy raise many types on crafted bytes
        reason = fault_of(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is no table of rollouts ({reason}); {mend}") from error
    settings = _checked(arrays, path, mend)
    return RolloutTable(**{name: arrays[name] for name in (*_BY_ROW, *_SHARED)}), settings


def _checked(arrays: dict[str, np.ndarray], path: Path, mend: str) -> dict[str, Any]:
    """The settings, once every array has the kind and shape that the others speak of."""
    for name, (kind, axes) in (_BY_ROW | _SHARED).items():
        if arrays[name].dtype != kind or arrays[name].ndim != axes:
            array = f"{arrays[name].dtype} of shape {arrays[name].shape}"
            raise UserError(f"{path}: '{name}' is {array}, expected {np.dtype(kind)} with {axes} axes; {mend}")
    counts, sizes = arrays["q"].shape, arrays["sizes"].shape
    for name, shape in (
        ("exact", counts), ("answer", counts), ("margin", counts), ("row", counts[:1]), ("steps", counts[2:]),
        ("growth", counts + sizes), ("noiseless", (*counts[:1], arrays["noiseless"].shape[1] and counts[2])),
    ):  # fmt: skip
        if arrays[name].shape != shape:
            raise UserError(f"{path}: '{name}' has shape {arrays[name].shape}, expected {shape} beside q; {mend}")
    if 0 in counts:
        raise UserError(f"{path} holds no rollout: q has the shape {counts}; {mend}")
    try:
        settings = parse_json(arrays["settings"].tobytes())
    except ValueError as error:
        raise UserError(f"{path}: 'settings' is no JSON; {mend}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path}: 'settings' is a {type(settings).__name__}, expected an object; {mend}")
    return settings


class RolloutRecorder(Evaluator):
    """Keeps the rollouts of every row with a scored token; after `gather`, those of the rows of all processes.

    Args:
        rollouts, steps, sizes: their number, the judged steps, and d0 of the probes.
    """

    def __init__(self, rollouts: int, steps: Sequence[int], sizes: Sequence[float]) -> None:
        self.steps, self.sizes = np.array(steps, np.int64), np.array(sizes, np.float64)
        self.shape = (rollouts, len(steps))
        self.begin()

    def begin(self) -> None:
        empty = {
            name: (0, *self.shape, *((len(self.sizes),) if axes == 4 else ()))[:axes]
            for name, (_, axes) in _BY_ROW.items()
        } | {"noiseless": (0, self.shape[1])}
        self.batches = {name: [torch.from_numpy(np.zeros(empty[name], kind))] for name, (kind, _) in _BY_ROW.items()}

    def update(self, batch: Batch, predictions: Predictions) -> None:
        if not isinstance(predictions, RolloutPredictions):
            raise TypeError(f"needs StochasticRollouts, found {type(predictions).__name__}")
        scored = (batch["labels"] != IGNORE_LABEL_ID).any(dim=-1)
        answers = torch.cat([predictions.rollout_answers, predictions.noiseless_answers[:, None]], dim=1)[scored]
        exact = correctness(answers.flatten(1, 2), batch["labels"][scored]).exact.view(answers.shape[:3])
        kept = {
            "row": batch["row"][scored].long(),
            "q": predictions.rollout_q[scored].float(),
            "exact": exact[:, :-1],
            "noiseless": exact[:, -1],
            "answer": answer_hashes(answers[:, :-1]),
            "margin": predictions.rollout_margin[scored].float(),
            "growth": predictions.rollout_growth[scored].float(),
        }
        for name, values in kept.items():
            self.batches[name].append(values.cpu())

    def gather(self, world: World) -> None:
        self.batches = {name: [world.gather_ragged(torch.cat(batches))] for name, batches in self.batches.items()}

    def add(self, other: Self) -> None:
        self.batches = {name: batches + other.batches[name] for name, batches in self.batches.items()}

    def report(self) -> dict[str, Any]:
        """Of how many puzzles there are how many rollouts, after which steps they are judged, and d0 of the probes."""
        table = self.table()
        counts = {"puzzles": len(table.row), "rollouts": table.rollouts}
        return counts | {"steps": self.steps.tolist(), "sizes": self.sizes.tolist()}

    def table(self) -> RolloutTable:
        arrays = {name: torch.cat(batches).numpy() for name, batches in self.batches.items()}
        return joined([RolloutTable(**arrays, steps=self.steps, sizes=self.sizes)])


def answer_hashes(answers: Tensor) -> Tensor:
    """Answers (..., S) as (...) int64 on the CPU: 64 bits of a hash of their tokens."""
    tokens = answers.cpu().to(torch.int32).contiguous().numpy()
    flat = tokens.reshape(-1, tokens.shape[-1]).astype("<i4")
    digests = b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in flat)
    return torch.from_numpy(np.frombuffer(digests, "<i8").astype(np.int64)).view(answers.shape[:-1])
