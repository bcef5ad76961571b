"""Replay golden files of the official TRM/HRM code and report the largest differences.

    python scripts/check_parity.py tests/golden/*.npz [--tol 1e-8] [--loss-tol 1e-5]

Each file describes a small model (`config`, `sd/...`), a batch, and what the official code computed from it
in float64. One JSON line per file; exit code 1 when a difference exceeds its tolerance.
"""

import io
import json
import math
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say
from files import open_regular

require_packages()

import numpy as np
import torch
from torch import Tensor

from dataset.plain_data import parse_json
from models.act import Batch, act_step, initial_carry
from models.config import ModelConfig
from models.losses import TOKEN_LOSSES, act_loss
from models.recursive_model import RecursiveModel
from models.registry import MODELS, build_model, config_from_official
from training.storage.weights import check_weights, strip_prefixes

Arrays = dict[str, np.ndarray]
EXACT = ("halted", "steps")
# All of these are far beyond any golden file.
MAX_STEPS = 10_000
MAX_CYCLES = 32
MAX_LENGTH = 4096
MAX_UNPACKED_BYTES = 64 << 20


class Differences:
    """Largest absolute difference per quantity; shapes that differ and missing numbers count as infinite."""

    def __init__(self) -> None:
        self.largest: dict[str, float] = {}

    def add(self, name: str, ours: Any, theirs: np.ndarray) -> None:
        ours = ours.detach().cpu().double().numpy() if isinstance(ours, Tensor) else np.asarray(ours, np.float64)
        theirs = theirs.astype(np.float64)
        difference = float(np.abs(ours - theirs).max(initial=0.0)) if ours.shape == theirs.shape else math.nan
        if math.isnan(difference):
            difference = math.inf
        self.largest[name] = max(self.largest.get(name, 0.0), difference)


def read_golden(path: Path) -> tuple[dict[str, Any], Arrays]:
    """The config and all arrays of a golden file, or a `UserError` naming what is wrong with it."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such golden file; the shipped ones are tests/golden/*.npz")
    try:
        arrays = read_arrays(path)
        options = parse_json(str(arrays.pop("config")).encode())
    except Exception as error:  # zipfile and numpy raise nearly any type on crafted bytes
        raise UserError(f"{path} is not a readable golden file: {type(error).__name__}: {error}") from None
    if not isinstance(options, dict) or str(options.get("kind")) not in MODELS:
        raise UserError(f"{path}: config names no known kind; expected one of {', '.join(MODELS)}")
    if str(options.get("loss")) not in TOKEN_LOSSES:
        raise UserError(f"{path}: loss {options.get('loss')!r} is none of {', '.join(TOKEN_LOSSES)}")
    return options, arrays


def read_arrays(path: Path) -> Arrays:
    """Named arrays of an .npz, CRCs checked. Errors: `ValueError` for sizes beyond any golden file, and others."""
    arrays = {}
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
            raise ValueError(f"it unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB")
        if len({member.filename for member in members}) < len(members):
            raise ValueError("a name is in it twice")
        for member in members:
            array = np.lib.format.read_array(io.BytesIO(archive.read(member)), allow_pickle=False)
            if array.dtype.kind not in "biufU":
                raise ValueError(f"{member.filename} holds {array.dtype} values")
            name = member.filename.removesuffix(".npy")
            arrays[name] = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)
    return arrays


def check_size(config: ModelConfig, weights: Batch) -> None:
    """Refuse a config that asks for far more than the file holds, before it is built or run."""
    size, length = config.hidden_size, config.total_len
    mixing = 3 * length * config.swiglu_width(length) if config.mlp_t else 4 * size * size
    depth = config.L_layers + (config.H_layers if config.kind == "hrm" else 0)
    needed = depth * (mixing + 3 * size * config.swiglu_width(size)) + 2 * config.vocab_size * size
    if config.kind == "srm":
        layer = config.num_heads * length * length + 3 * size * config.swiglu_width(2 * size)
        needed = depth * layer + 2 * config.vocab_size * size
    needed += config.num_puzzle_identifiers * config.puzzle_emb_ndim
    held = sum(value.numel() for value in weights.values())
    if depth > len(weights) or needed > 2 * held or size != weights["H_init"].numel():
        raise ValueError("it does not describe the weights beside it")
    if max(config.H_cycles, config.L_cycles) > MAX_CYCLES or length > MAX_LENGTH:
        raise ValueError(f"more than {MAX_CYCLES} cycles or {MAX_LENGTH} positions, beyond any golden file")


def golden_model(options: dict[str, Any], arrays: Arrays, path: Path) -> RecursiveModel:
    """The described model in float64 with the file's weights."""
    try:
        config = config_from_official(options, dtype=torch.float64)
        weights = {
            strip_prefixes(key[3:]): torch.from_numpy(value).double()
            for key, value in arrays.items()
            if key.startswith("sd/")
        }
        if len(weights) < sum(key.startswith("sd/") for key in arrays):
            raise ValueError("two of its weights have one name")
        check_size(config, weights)
        model = build_model(config)
    except (ArithmeticError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: the config describes no buildable model: {reason}") from None
    check_weights(model.state_dict(), weights, source=path)
    model.load_state_dict(weights)
    return model


def replay_step(
    model: RecursiveModel, carry: Batch, batch: Batch, loss_type: str, recorded: Arrays, differences: Differences
) -> tuple[Batch, Tensor]:
    """One ACT step; every quantity that is recorded of it (except gradients) is compared."""
    carry, outputs = act_step(model, carry, batch, training=model.training)
    loss, metrics = act_loss(outputs, carry["labels"], carry["halted"], carry["steps"], loss_type)
    ours: dict[str, Any] = {**outputs, **{f"metric/{key}": value for key, value in metrics.items()}}
    ours |= {key: carry[key] for key in ("z_H", "z_L", "halted", "steps")} | {"loss": loss}
    for name, theirs in recorded.items():
        if not name.startswith("grad/"):
            mine = ours.get(name)
            differences.add(name, mine if mine is not None else float("nan"), theirs)
    return carry, loss


def check_gradients(model: RecursiveModel, recorded: Arrays, differences: Differences) -> None:
    """Compare gradients of loss/B, dense parameters by name and the gathered rows of the puzzle table."""
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    if model.puzzle_emb is not None:
        ours["puzzle_emb_rows"] = model.puzzle_emb.take_gathers()[0][1].grad
    for key, theirs in recorded.items():
        if key.startswith("grad/"):
            name = key.removeprefix("grad/").removeprefix("model.inner.")
            gradient = ours.get(name)
            if gradient is None:
                gradient = torch.full(theirs.shape, 0.0 if name in ours else float("nan"), dtype=torch.float64)
            differences.add("grad", gradient, theirs)
    model.zero_grad(set_to_none=True)


def check_file(path: Path) -> dict[str, float]:
    """Largest absolute difference per quantity over all recorded steps of one golden file."""
    options, arrays = read_golden(path)
    model = golden_model(options, arrays, path)
    try:
        return replay(options, arrays, model)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} cannot be replayed: {type(error).__name__}: {error}") from None


def replay(options: dict[str, Any], arrays: Arrays, model: RecursiveModel) -> dict[str, float]:
    """Evaluation and training from fresh carries, up to the last recorded step of each."""
    batch = {key: torch.from_numpy(arrays[f"batch/{key}"]) for key in ("inputs", "labels", "puzzle_identifiers")}
    differences = Differences()
    for mode in ("eval", "train"):
        model.train(mode == "train")
        carry = initial_carry(model, batch)
        steps = {int(key.split("/")[1]) for key in arrays if key.startswith(f"{mode}/")}
        if not steps <= set(range(MAX_STEPS)):
            raise ValueError(f"recorded steps of {mode} beyond 0..{MAX_STEPS - 1}")
        # Every step is made, recorded or not: a later one starts from it.
        for step in range(max(steps, default=-1) + 1):
            prefix = f"{mode}/{step}/"
            recorded = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
            with torch.set_grad_enabled(mode == "train"):
                carry, loss = replay_step(model, carry, batch, options["loss"], recorded, differences)
            if mode == "train":
                (loss / len(batch["inputs"])).backward()
                check_gradients(model, recorded, differences)
    return differences.largest


def tolerance(name: str, tol: float, loss_tol: float) -> float:
    """What a quantity may differ by: halting not at all, q, losses and metrics loss_tol, the rest tol."""
    if name in EXACT:
        return 0.0
    loose = name == "loss" or name.startswith("metric/") or name.startswith("q_") or name == "target_q_continue"
    return loss_tol if loose else tol


@exit_on_user_error
def main() -> None:
    parser = FlagParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.npz")
    parser.add_argument("--tol", type=float, default=1e-8, help="states, logits and gradients (absolute)")
    parser.add_argument("--loss-tol", type=float, default=1e-5, help="q values, losses and metrics (absolute)")
    arguments = parser.parse_args()
    failed = False
    for path in arguments.files:
        largest = check_file(path)
        exceeded = [
            name for name, value in largest.items() if not value <= tolerance(name, arguments.tol, arguments.loss_tol)
        ]
        ok = bool(largest) and not exceeded
        printable = {name: value if np.isfinite(value) else None for name, value in sorted(largest.items())}
        say(json.dumps({"file": str(path), "ok": ok, "exceeded": exceeded, "max_abs_diff": printable}))
        failed |= not ok
    sys.exit(failed)


if __name__ == "__main__":
    main()
