"""Whether a sound state file holds what a run can go on from: every part, of the right kind and shape.

The checksum says that a file is as it was written, not that this code wrote it.
"""

from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import torch

from errors import UserError
from models.act import Leaf
from training.progress import Progress


def check_state_form(
    state: Mapping[str, Any],
    source: str,
    *,
    model: Mapping[str, torch.Tensor],
    ema: Mapping[str, torch.Tensor] | None,
    beside: Mapping[str, Mapping[str, Mapping[str, torch.Tensor]]],
    optimizer: torch.optim.Optimizer | None,
    validation: Mapping[str, Any],
    num_slots: int,
    carry_names: Collection[str],
    carry_leaves: Mapping[str, Leaf],
) -> None:
    """Compare a state with the parts of the run that is to take it over.

    beside: tensors that only some runs have, by kind and name; a state may lack a kind of which there is none.

    Errors: `UserError` naming the first entry that is missing or of another kind or shape.
    """
    unfit = Progress.unfit_entry(state)
    if unfit is not None:
        _refuse(source, *unfit)
    for name in ("model", "objective", "hooks", "source", "validation", "rng", "identity"):
        if not isinstance(state.get(name), Mapping):
            _refuse(source, name, "named entries")
    if not isinstance(state.get("data_sha256", {}), Mapping):
        _refuse(source, "data_sha256", "named entries")
    if not isinstance(state.get("best_sha256"), str | None):
        _refuse(source, "best_sha256", "a SHA-256, or null")
    _check_tensors(source, "model", state["model"], model)
    if ema is not None:
        _check_tensors(source, "ema", state.get("ema"), ema)
    if not isinstance(state.get("compiled", False), bool):
        _refuse(source, "compiled", "true or false")
    for kind, tensors_by_name in beside.items():
        saved = state.get(kind, {})
        if not isinstance(saved, Mapping) or saved.keys() != tensors_by_name.keys():
            _refuse(source, kind, f"the tensors of {', '.join(tensors_by_name) or 'nothing'}")
        for name, tensors in tensors_by_name.items():
            _check_tensors(source, f"{kind}.{name}", saved[name], tensors)
    if optimizer is not None:
        _check_optimizer(source, state.get("optimizer"), optimizer)
    _check_validation(source, state["validation"], validation)
    if "carry" not in state:
        _refuse(source, "carry", "the slots' states, or null")
    if state["carry"] is not None:
        _check_carry(source, state["carry"], num_slots, carry_names, carry_leaves)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < float("inf")


def _is_like(value: Any, tensor: torch.Tensor) -> bool:
    if not isinstance(value, torch.Tensor) or value.is_meta or value.layout != torch.strided:
        return False
    return value.shape == tensor.shape and value.dtype == tensor.dtype


def _refuse(source: str, name: str, expected: str) -> NoReturn:
    raise UserError(f"{source}: its entry {name!r} is not what a run saves, expected {expected}; use another state")


def _check_tensors(source: str, name: str, saved: Any, expected: Mapping[str, torch.Tensor]) -> None:
    if not isinstance(saved, Mapping) or saved.keys() != expected.keys():
        _refuse(source, name, "the tensors of this model")
    for key, tensor in expected.items():
        saved_tensor = saved[key]
        if not _is_like(saved_tensor, tensor):
            _refuse(source, f"{name}.{key}", f"{tensor.dtype} of shape {tuple(tensor.shape)}")
        if not _is_finite(saved_tensor):
            _refuse(source, f"{name}.{key}", "finite numbers")


def _is_finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _check_optimizer(source: str, saved: Any, optimizer: torch.optim.Optimizer) -> None:
    """Groups as the run's own, but for the learning rate, which the schedule sets before every update."""
    if not isinstance(saved, Mapping) or saved.keys() != {"state", "param_groups"}:
        _refuse(source, "optimizer", "moments and settings")
    if not isinstance(saved["state"], Mapping):
        _refuse(source, "optimizer", "an optimizer's state")
    if _without_rate(saved.get("param_groups")) != _without_rate(optimizer.state_dict()["param_groups"]):
        _refuse(source, "optimizer.param_groups", "the settings of this run")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, moments in saved["state"].items():
        if type(index) is not int or not 0 <= index < len(parameters) or not isinstance(moments, Mapping):
            _refuse(source, "optimizer.state", "moments by the number of the parameter")
        for key, value in moments.items():
            like = torch.zeros(()) if key == "step" else parameters[index]
            if not _is_like(value, like):
                _refuse(source, f"optimizer.state.{index}.{key}", f"{like.dtype} of shape {tuple(like.shape)}")
            if not _is_finite(value):
                _refuse(source, f"optimizer.state.{index}.{key}", "finite numbers")


def _without_rate(groups: Any) -> Any:
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
        return None
    # Texts are compared: numbers are exact in them, and whatever a file holds can be compared as text.
    return [
        sorted(f"{key}={value!r}" for key, value in group.items() if key not in ("lr", "initial_lr"))
        for group in groups
    ]


def _check_validation(source: str, saved: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    if saved.keys() != expected.keys():
        _refuse(source, "validation", f"the entries {', '.join(expected)}")
    for name, value in saved.items():
        if name == "history":
            fits = isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value)
        elif name == "best":
            fits = value is None or (isinstance(value, Mapping) and _is_number(value.get("value")))
        else:
            fits = _is_number(value) or (value is None and expected[name] is None)
        if not fits:
            _refuse(source, f"validation.{name}", "what the validation record keeps")


def _check_carry(source: str, carry: Any, num_slots: int, names: Collection[str], leaves: Mapping[str, Leaf]) -> None:
    if not isinstance(carry, Mapping) or not set(names) <= carry.keys():
        _refuse(source, "carry", f"the entries {', '.join(names)}")
    for name, leaf in carry.items():
        if not isinstance(leaf, torch.Tensor) or leaf.ndim == 0 or leaf.shape[0] != num_slots or leaf.is_meta:
            _refuse(source, f"carry.{name}", f"one row for each of {num_slots} slots")
        if not _is_finite(leaf):
            _refuse(source, f"carry.{name}", "finite numbers")
        form = leaves.get(name)
        if form is not None:
            if leaf.dtype != form.dtype or leaf.shape[1:] != form.shape:
                _refuse(source, f"carry.{name}", f"{form.dtype} of shape {(num_slots, *form.shape)}")
            if form.low is not None and form.below is not None:
                if leaf.numel() and not form.low <= int(leaf.min()) <= int(leaf.max()) < form.below:
                    _refuse(source, f"carry.{name}", f"numbers from {form.low} to {form.below - 1}")
