"""Adaptive computation time around the pure map: reset, truncated step, halting. Source: HRM §2, TRM §2.4.

The carry is a plain dict of tensors whose first axis is the slot: saving it, cutting it into accumulation
slices or rank slices and putting it together again is one map over its leaves.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from errors import UserError
from models.config import ModelConfig
from models.losses import IGNORE_LABEL_ID
from models.recursion import RecurrentState, SupervisionStep
from models.recursive_model import RecursiveModel

Batch = dict[str, Tensor]
Carry = dict[str, Tensor]


# What a batch may say beside what the model reads: the number of each row's example, for who asks for rows' losses.
EXAMPLE = "example"


def carry_names(model: RecursiveModel) -> tuple[str, ...]:
    """The leaves of every carry that `act_step` returns."""
    return ("z_H", "z_L", "steps", "halted", *model.row_keys, *model.begin_keys)


@dataclass(frozen=True)
class Leaf:
    """What is known of a leaf of every carry: dtype, shape of a slot, and of whole numbers from where to below what."""

    dtype: torch.dtype
    shape: tuple[int, ...] = ()
    low: int | None = None
    below: int | None = None


def carry_leaves(model: RecursiveModel) -> dict[str, Leaf]:
    """The leaves whose form the model alone decides; rows may have others."""
    config = model.config
    state = Leaf(config.carry_dtype, (config.total_len, config.hidden_size))
    return {
        "z_H": state,
        "z_L": state,
        "steps": Leaf(torch.int32, (), 0, config.halt_max_steps + 1),
        "halted": Leaf(torch.bool),
        "inputs": Leaf(torch.int32, (config.seq_len,), 0, config.vocab_size),
        "labels": Leaf(torch.int32, (config.seq_len,), IGNORE_LABEL_ID, config.vocab_size),
        "puzzle_identifiers": Leaf(torch.int32, (), 0, config.num_puzzle_identifiers),
    }


def _row_keys(model: RecursiveModel, batch: Batch) -> tuple[str, ...]:
    """What of a batch stays with a slot."""
    return (*model.row_keys, EXAMPLE) if EXAMPLE in batch else tuple(model.row_keys)


def initial_carry(model: RecursiveModel, batch: Batch) -> Carry:
    """A carry in which every slot is halted, so that the first step starts all of them from `batch`.

    Without leaves of `model.begin`, which come with the first rows. Errors: `UserError` when rows lack what the model
    asks for.

    Differs: upstream leaves the states uninitialised; zeros make saved states reproducible.
    """
    lacking = [name for name in model.row_keys if name not in batch]
    if lacking:
        raise UserError(
            f"the model {model.config.kind} reads {', '.join(lacking)} of each row, and the data have only "
            f"{', '.join(sorted(batch))}: name data made for it, data_paths=[FOLDER]"
        )
    size, device = batch["inputs"].shape[0], model.H_init.device
    state = model.initial_state(size)
    carry = {"z_H": torch.zeros_like(state.z_H).contiguous(), "z_L": torch.zeros_like(state.z_L).contiguous()}
    carry["steps"] = torch.zeros(size, dtype=torch.int32, device=device)
    carry["halted"] = torch.ones(size, dtype=torch.bool, device=device)
    return carry | {key: torch.zeros_like(batch[key], device=device) for key in _row_keys(model, batch)}


def _by_slot(mask: Tensor, like: Tensor) -> Tensor:
    return mask.view(-1, *(1,) * (like.ndim - 1))


def start_halted_slots(model: RecursiveModel, carry: Carry, batch: Batch) -> Carry:
    """Halted slots take the initial state and the batch's row at the same index; the others go on.

    `model.begin` sees the rows that enter, and no others: what it makes of them is all that has a graph.
    """
    halted = carry["halted"]
    start = model.initial_state(halted.shape[0])
    fresh = {"z_H": start.z_H, "z_L": start.z_L, "steps": torch.zeros_like(carry["steps"])}
    fresh |= {key: batch[key] for key in _row_keys(model, batch)}
    current = {key: torch.where(_by_slot(halted, new), new, carry[key]) for key, new in fresh.items()}
    return current | _begun_leaves(model, carry, batch) if model.begin_keys else current


def _begun_leaves(model: RecursiveModel, carry: Carry, batch: Batch) -> Carry:
    """The leaves of `model.begin`: new ones where a slot is halted, the carry's elsewhere.

    Only with a model that has such leaves does the host wait for the device, for the number of rows that enter.
    """
    kept = {key: carry[key] for key in model.begin_keys if key in carry}
    entering = carry["halted"].nonzero()[:, 0]
    if not len(entering):
        return kept
    rows = model.begun({key: leaf[entering] for key, leaf in batch.items()})
    size = carry["halted"].shape[0]
    for key in model.begin_keys:
        new = rows[key]
        old = kept[key] if key in kept else new.new_zeros(size, *new.shape[1:])
        kept[key] = old.index_copy(0, entering, new)
    return kept


def truncated_step(step: SupervisionStep, state: RecurrentState) -> RecurrentState:
    """One supervision step; gradients pass through the sub-updates from `grad_start` on only."""
    with torch.no_grad():
        for sub_update in step.sub_updates[: step.grad_start]:
            state = sub_update(state)
    for sub_update in step.sub_updates[step.grad_start :]:
        state = sub_update(state)
    return state


def draw_min_halt_steps(num_slots: int, halt_max_steps: int, prob: float, generator: torch.Generator) -> Tensor:
    """Exploration: with probability `prob` a slot may not halt before m ~ U{2..halt_max_steps}; (B,) int32.

    Redrawn at every step, as officially. Drawn for the global batch on the CPU and then sliced, so that the
    number of processes does not change it.
    """
    explores = torch.rand(num_slots, generator=generator) < prob
    minimum = torch.randint(2, max(halt_max_steps, 2) + 1, (num_slots,), generator=generator)
    return (explores * minimum).to(torch.int32)


def wants_to_halt(config: ModelConfig, q_halt: Tensor, q_continue: Tensor) -> Tensor:
    """Where a model would stop by itself: the sign of q_halt, or with Q-learning the larger value; bool, same shape."""
    return q_halt > 0 if config.no_ACT_continue else q_halt > q_continue


def halting(
    config: ModelConfig, steps: Tensor, q_halt: Tensor, q_continue: Tensor, min_halt_steps: Tensor | None
) -> Tensor:
    """Which slots halt in training after `steps` (B,) supervision steps; (B,) bool.

    By q and, where given, not before `min_halt_steps`; at the last step in any case.
    """
    halted = steps >= config.halt_max_steps
    if config.halt_max_steps > 1:
        halted = halted | wants_to_halt(config, q_halt, q_continue)
        if min_halt_steps is not None:
            halted = halted & (steps >= min_halt_steps)
    return halted


def continue_target(last: Tensor, next_halt: Tensor, next_continue: Tensor) -> Tensor:
    """What q_continue is trained to be (B,): the better of the two values one step later; at the last step, halt.

    Differs: upstream's TRM crashes here; this is HRM's target (no replay, no target network).
    """
    return torch.sigmoid(torch.where(last, next_halt, torch.maximum(next_halt, next_continue)))


def act_step(
    model: RecursiveModel, carry: Carry, batch: Batch, *, training: bool, min_halt_steps: Tensor | None = None
) -> tuple[Carry, dict[str, Tensor]]:
    """One supervision step of every slot.

    Args:
        carry: from `initial_carry` or the last call. batch: rows for the slots that are halted.
        training: halt by q (and by exploration); in evaluation a slot runs exactly halt_max_steps.
        min_halt_steps: (B,) int32, 0 = no constraint; from `draw_min_halt_steps`.
    Returns:
        the new carry (states and leaves of `model.begin` detached) and outputs `logits`, `q_halt_logits`,
        `q_continue_logits`, `z_H`, `z_L`, for Q-learning in training also `target_q_continue`. The carry's `labels`,
        `halted` and `steps` belong to these outputs.
    """
    config = model.config
    current = start_halted_slots(model, carry, batch)
    embeddings = model.embed(current)
    step = model.supervision_step(embeddings)
    state = truncated_step(step, RecurrentState(current["z_H"], current["z_L"]))
    logits, q_halt, q_continue = model.readout(state)
    outputs = {"logits": logits, "q_halt_logits": q_halt, "q_continue_logits": q_continue, **state._asdict()}
    with torch.no_grad():
        steps = current["steps"] + 1
        last = steps >= config.halt_max_steps
        halted = last
        if training:
            halted = halting(config, steps, q_halt, q_continue, min_halt_steps)
            if config.halt_max_steps > 1 and not config.no_ACT_continue:
                _, next_halt, next_continue = model.readout(step(state))
                outputs["target_q_continue"] = continue_target(last, next_halt, next_continue)
    new_carry = {"z_H": state.z_H.detach(), "z_L": state.z_L.detach(), "steps": steps, "halted": halted}
    new_carry |= {key: current[key] for key in _row_keys(model, batch)}
    return new_carry | {key: current[key].detach() for key in model.begin_keys}, outputs
