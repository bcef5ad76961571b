"""Weights on disk: plain state dicts, official names, torch files or safetensors, checked key by key."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from errors import UserError
from files import UnusableFile, open_new, open_regular, regular_size
from training.storage.archive import (
    ArchiveError,
    ChecksumMissing,
    check_zip_bounds,
    read_archive,
    verify_archive,
    write_archive,
)

PREFIXES = ("_orig_mod.", "model.", "inner.", "module.")
_SHOWN = 8  # names listed per kind of difference before the rest is counted
_STATE_FORMAT = "rrs-state"


def strip_prefixes(key: str) -> str:
    """The innermost name: leading `model.`, `inner.`, `module.` and any `_orig_mod.` removed.

    A compiled sub-module leaves `_orig_mod.` in the middle of a name.
    """
    key = ".".join(word for word in key.split(".") if word != "_orig_mod")
    while True:
        for prefix in PREFIXES:
            if key.startswith(prefix):
                key = key[len(prefix) :]
                break
        else:
            return key


def write_weights(path: Path, state_dict: Mapping[str, torch.Tensor], *, safetensors: bool) -> None:
    """Write and sync a state dict to `path` (a temporary file), tensors detached on the CPU, keys as given.

    Errors: `OSError` from the disk, `TypeError` for an entry that is no tensor.
    """
    for key, tensor in state_dict.items():
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
            raise TypeError(f"weights[{key!r}] is a {type(tensor).__name__}, expected a tensor under a name")
    # A view would drag its whole storage into the file; safetensors refuses shared and non-contiguous ones.
    plain = {}
    for key, tensor in state_dict.items():
        tensor = tensor.detach().cpu().contiguous()
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        plain[key] = tensor.clone() if safetensors or not whole else tensor
    if not safetensors:
        write_archive(path, plain)
        return
    try:
        open_new(path).close()  # by ourselves, since the library follows a link
        save_file(plain, path)
    except SafetensorError as error:
        # The library reports a full disk as its own error type.
        raise OSError(str(error)) from error
    with open_regular(path) as file:
        os.fsync(file.fileno())


def load_weights(path: Path | str, map_location: str = "cpu") -> dict[str, torch.Tensor]:
    """Read weights (ours, the official code's zip or legacy pickle, `.safetensors`), prefixes stripped.

    Nothing but tensors in plain containers is ever unpickled. Errors: `UserError`, one line, for anything
    unusable.
    """
    path = Path(path)
    try:
        regular_size(path)
    except UnusableFile as error:
        raise UserError(f"cannot load weights from {path}: {error}; name a file such as RUN_FOLDER/best.pt") from None
    try:
        value = _read(path, map_location)
    except ArchiveError as error:
        raise UserError(f"cannot load weights from {path}: {error}") from error
    return _named_tensors(path, value)


@dataclass(frozen=True)
class WeightsDifference:
    """How the weights of a file differ from what a model needs; three empty tuples mean they fit."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]  # "name (file 3×4, model 5×4)"

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        kinds = (("missing", self.missing), ("unexpected", self.unexpected), ("misshapen", self.misshapen))
        return "; ".join(f"{len(names)} {kind}: {_shortened(names)}" for kind, names in kinds if names)


def compare_weights(
    expected: Mapping[str, Sequence[int] | torch.Tensor], weights: Mapping[str, torch.Tensor]
) -> WeightsDifference:
    """Compare names and shapes. `expected` maps each name of the model to its tensor or shape.

    Prefixes are stripped on both sides.
    """
    needed = {strip_prefixes(key): _shape(value) for key, value in expected.items()}
    given = {strip_prefixes(key): _shape(value) for key, value in weights.items()}
    misshapen = [
        f"{key} (file {_written(given[key])}, model {_written(needed[key])})"
        for key in needed
        if key in given and given[key] != needed[key]
    ]
    return WeightsDifference(
        missing=tuple(sorted(needed.keys() - given.keys())),
        unexpected=tuple(sorted(given.keys() - needed.keys())),
        misshapen=tuple(sorted(misshapen)),
    )


def check_weights(
    expected: Mapping[str, Sequence[int] | torch.Tensor],
    weights: Mapping[str, torch.Tensor],
    *,
    source: Path | str = "the weights",
) -> None:
    """Raise `UserError`, every missing, unexpected and misshapen key in one line, unless they fit.

    Likewise where a number is too large for the data type of the model's tensor, in which it would be infinite.
    """
    difference = compare_weights(expected, weights)
    if not difference.fits:
        raise UserError(
            f"{source} does not fit this model: {difference}. Use the arch options it was trained with "
            "(its folder's all_config.yaml) or another file"
        )
    given = {strip_prefixes(key): tensor for key, tensor in weights.items()}
    for key, needed in expected.items():
        if not isinstance(needed, torch.Tensor) or not needed.is_floating_point():
            continue
        tensor = given[strip_prefixes(key)]
        if tensor.numel() and not bool(_extremes(tensor).to(needed.dtype).isfinite().all()):
            raise UserError(
                f"{source}: its entry {key!r} reaches {_extremes(tensor).abs().max().item():.3g}, too large for "
                f"{needed.dtype}, in which the model computes; use a file with smaller numbers"
            )


def adopt_weights(model: nn.Module, weights: Mapping[str, torch.Tensor], *, source: Path | str) -> None:
    """Make these tensors the model's own, in its dtypes, where `load_state_dict` copies them into those it has.

    A model that was put on the device `meta` before, which frees its tensors, then costs their memory once.
    Errors: as `check_weights`.
    """
    needed = model.state_dict()
    check_weights(needed, weights, source=source)
    own = {key: weights[key].to(tensor.dtype).contiguous() for key, tensor in needed.items()}
    model.load_state_dict(own, assign=True)


def _read(path: Path, map_location: str) -> object:
    if path.suffix == ".safetensors":
        try:
            return load_file(path, device=map_location)
        except Exception as error:  # the library's own error type, or those of JSON, Unicode and the OS
            reason = " ".join(str(error).split())[:160]
            raise ArchiveError(f"it is no sound safetensors file ({reason})") from error
    with open_regular(path) as file:
        start = file.read(4)
    if not start:
        raise ArchiveError("it is empty")
    if start == b"PK\x03\x04":
        try:
            verify_archive(path)
        except ChecksumMissing:  # the official code's: its CRCs are all there is
            check_zip_bounds(path, crc=True)
    return read_archive(path, map_location)


def _named_tensors(path: Path, value: object) -> dict[str, torch.Tensor]:
    if isinstance(value, dict) and value.get("format") == _STATE_FORMAT:
        raise UserError(
            f"{path} is a full state, weights were expected: name the best.pt or final.pt beside it, "
            "or go on from it with resume=FILE"
        )
    if not isinstance(value, dict) or not value:
        raise UserError(f"cannot load weights from {path}: expected named tensors, found {_kind(value)}")
    weights: dict[str, torch.Tensor] = {}
    for key, tensor in value.items():
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
            entry = f"its entry {str(key)[:80]!r} is {_kind(tensor)}, expected a tensor under a name"
            raise UserError(f"cannot load weights from {path}: {entry}")
        name = strip_prefixes(key)
        if name in weights:
            raise UserError(f"cannot load weights from {path}: {name!r} is in it twice, under two prefixes")
        wrong = _unusable(tensor)
        if wrong:
            raise UserError(f"cannot load weights from {path}: its entry {name[:80]!r} {wrong}")
        weights[name] = tensor
    return weights


def _unusable(tensor: torch.Tensor) -> str | None:
    """What keeps a tensor from being weights: copied into a model, it would be refused late or change silently."""
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
        kind = f"{tensor.layout} {tensor.dtype} on {tensor.device}"
        return f"is {kind}, expected dense floating-point numbers"
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        return f"claims the shape {_written(tuple(tensor.shape))} and holds fewer numbers"
    finite = not tensor.numel() or bool(_extremes(tensor).isfinite().all())
    return None if finite else "holds NaN or infinity"


def _extremes(tensor: torch.Tensor) -> torch.Tensor:
    """Smallest and largest: NaN where any number is, and unlike `isfinite` they need no second table."""
    numbers = tensor.float() if tensor.element_size() == 1 else tensor  # float8 has no extremes of its own
    return torch.stack(numbers.aminmax())


def _kind(value: object) -> str:
    return "an empty dictionary" if isinstance(value, dict) and not value else f"a {type(value).__name__}"


def _shape(value: Sequence[int] | torch.Tensor) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else tuple(value)


def _written(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _shortened(names: tuple[str, ...]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
