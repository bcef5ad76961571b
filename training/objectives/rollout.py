"""One rollout: supervision steps from given starts, each with a graph of its own, and who is still on its way."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from models.act import Batch, continue_target, truncated_step
from models.recursion import RecurrentState
from models.recursive_model import RecursiveModel

# (step, q_halt (n,), q_continue (n,)) -> which trajectories halt after this step (n,) bool.
HaltingRule = Callable[[int, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class RolloutStep:
    """One supervision step of n trajectories.

    number: from 1. outputs: what `PuzzleObjective.losses` takes. active: (n,) bool, had not halted before.
    halted: (n,) bool, active ones that halt now. last: no further step follows. extra_passes: steps of rows computed
    for the target of q_continue and for nothing else.
    """

    number: int
    outputs: dict[str, Tensor]
    active: Tensor
    halted: Tensor
    last: bool
    extra_passes: int


def rollout(
    model: RecursiveModel,
    batch: Batch,
    state: RecurrentState,
    halts: HaltingRule | None = None,
    input_noise: Tensor | None = None,
) -> Iterator[RolloutStep]:
    """Supervision steps of all trajectories together, until the last has halted, `halt_max_steps` at most.

    As in `models.act.act_step`: the gradient of a step passes through its sub-updates from `grad_start` on, and none
    passes from step to step. A step's graph may be freed before the next step is asked for; then memory does not
    grow with their number. What `model.begin` makes of the rows, once for all steps, therefore has gradients from the
    first step only, as in `act_step`. A trajectory that has halted is computed on with the others, and never started
    anew.

    Differs from `act_step` in cost: the target of q_continue is read off the following step, which is computed anyway;
    only after the last step is one computed for it alone. While one is trained, two graphs exist at a time.

    Args:
        batch: b rows. state: starts of n = K * b trajectories, those of trajectory 0 of each row first.
        halts: None = nobody halts before `halt_max_steps`. With a rule the host waits for the device at each step.
        input_noise: (n, P+S, D), added to what every step of a trajectory is shown, which is float32 then: in bfloat16
            small noise would be rounded away.
    """
    config = model.config
    copies = state.z_H.shape[0] // batch["inputs"].shape[0]
    # One leaf serves all steps, so that the table's record does not depend on when trajectories halt.
    puzzle_rows = model.puzzle_rows(batch["puzzle_identifiers"])
    rows = model.begun(batch)
    noise = None
    if input_noise is not None:
        noise = input_noise.to(state.z_H.device, torch.promote_types(config.dtype, torch.float32))

    def advance(start: RecurrentState) -> tuple[RecurrentState, RecurrentState, tuple[Tensor, Tensor, Tensor]]:
        nonlocal rows
        embeddings = model.embed(rows, puzzle_rows)
        rows = {**rows, **{key: rows[key].detach() for key in model.begin_keys}}
        embeddings = embeddings.repeat(copies, 1, 1) if copies > 1 else embeddings
        if noise is not None:
            embeddings = embeddings.to(noise.dtype) + noise
        after = truncated_step(model.supervision_step(embeddings), start)
        return RecurrentState(*(leaf.detach() for leaf in after)), after, model.readout(after)

    active = torch.ones(state.z_H.shape[0], dtype=torch.bool, device=state.z_H.device)
    learns_continue = config.halt_max_steps > 1 and not config.no_ACT_continue
    following = None
    for number in range(1, config.halt_max_steps + 1):
        state, with_graph, (logits, q_halt, q_continue) = following or advance(state)
        following = None
        outputs = {"logits": logits, "q_halt_logits": q_halt, "q_continue_logits": q_continue, **with_graph._asdict()}
        last = number == config.halt_max_steps
        halted = active if last else torch.zeros_like(active)
        if halts is not None and not last:
            halted = active & halts(number, q_halt.detach(), q_continue.detach())
            last = not bool((active & ~halted).any())
        if learns_continue:
            with torch.no_grad() if last else nullcontext():
                following = advance(state)
            _, next_halt, next_continue = (value.detach() for value in following[2])
            at_maximum = torch.full_like(active, number == config.halt_max_steps)
            outputs["target_q_continue"] = continue_target(at_maximum, next_halt, next_continue)
        extra_passes = len(active) if learns_continue and last else 0
        yield RolloutStep(number, outputs, active, halted, last, extra_passes)
        if last:
            return
        active = active & ~halted
