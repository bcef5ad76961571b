"""Rows leave as soon as the model wants to halt, and waiting rows take their places.

Source: the halting rule of training (HRM §2, TRM §2.4) without exploration, applied at evaluation, where the official
code always takes all steps. Rows do not influence one another, so that an answer does not depend on its neighbours.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.act import Batch, wants_to_halt
from models.recursion import RecurrentState
from models.recursive_model import RecursiveModel
from training.inference.base import Inference, Predictions, real_rows, to_device
from training.inference.fixed import start_state


class AdaptiveInference(Inference):
    """Each row stops at the first step where its halting rule holds, at the latest after `max_steps`.

    There are as many slots as the first batch has rows. A slot that becomes free takes the next row of the following
    batches; when none is left, the slots become fewer. Padding enters no slot, and every step is a step of some
    row's way to its answer: forward_passes equals steps.sum().

    Args:
        max_steps: at least 1; None means the model's halt_max_steps.
    """

    name = "adaptive"

    def __init__(self, max_steps: int | None = None) -> None:
        self.max_steps = max_steps

    @torch.no_grad()
    def predict(self, model: RecursiveModel, batch: Batch) -> Predictions:
        """As `answer`, for one batch and in its order. Padding takes no step: everything about it is 0."""
        config, device, size = model.config, model.H_init.device, batch["inputs"].shape[0]
        result = Predictions(
            answers=torch.zeros(size, config.seq_len, dtype=torch.int64, device=device),
            q_halt=torch.zeros(size, dtype=config.q_dtype, device=device),
            steps=torch.zeros(size, dtype=torch.int32, device=device),
            logits=torch.zeros(size, config.seq_len, config.vocab_size, dtype=config.dtype, device=device),
            forward_passes=0,
        )
        numbered = batch | {"position": torch.arange(size, device=batch["inputs"].device)}
        for rows, finished in self.answer(model, [numbered]):
            for name in ("answers", "q_halt", "steps", "logits"):
                getattr(result, name)[rows["position"]] = getattr(finished, name)
            result.forward_passes += finished.forward_passes
        return result

    @torch.no_grad()
    def answer(self, model: RecursiveModel, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Predictions]]:
        """Groups of rows that stopped at the same moment, each after steps of its own."""
        max_steps = self.max_steps or model.config.halt_max_steps
        queue = _RowQueue(batches)
        slots: _Slots | None = None
        while True:
            entering = queue.take(queue.num_slots - (0 if slots is None else len(slots)))
            if entering is not None:
                fresh = _Slots.enter(model, entering)
                slots = fresh if slots is None else slots.join(fresh)
            if slots is None:
                return
            step = model.supervision_step(slots.embeddings)
            num_left = 0
            while not num_left:
                slots.state = step(slots.state)
                slots.steps = slots.steps + 1
                logits, q_halt, q_continue = model.readout(slots.state)
                stops = wants_to_halt(model.config, q_halt, q_continue) | (slots.steps >= max_steps)
                # Both are read together: this is the only place where the host waits for the device.
                num_left, passes = torch.stack([stops.sum(), (slots.steps * stops).sum()]).tolist()
            num_staying = len(slots) - num_left
            staying, leaving = stops.int().argsort(stable=True).split([num_staying, num_left])
            finished = logits[leaving]
            yield (
                {key: leaf[leaving] for key, leaf in slots.rows.items()},
                Predictions(finished.argmax(dim=-1), q_halt[leaving], slots.steps[leaving], finished, passes),
            )
            slots = slots.take(staying) if num_staying else None


class _RowQueue:
    """The real rows of batches, in order, any number at a time.

    `num_slots`: size of the first batch, padding included.
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        self.batches = (batch for batch in batches if len(batch["inputs"]))
        first = next(self.batches, None)
        self.num_slots = 0 if first is None else len(first["inputs"])
        self.rows = first if first is None else _without_padding(first)

    def take(self, number: int) -> Batch | None:
        """The next `number` rows, fewer at the end; None when that is no row."""
        taken: list[Batch] = []
        while number and self.rows is not None:
            rows = {key: leaf[:number] for key, leaf in self.rows.items()}
            size = len(rows["inputs"])
            if size:
                taken.append(rows)
                number -= size
                self.rows = {key: leaf[size:] for key, leaf in self.rows.items()}
            else:
                following = next(self.batches, None)
                self.rows = following if following is None else _without_padding(following)
        if not taken:
            return None
        return {key: torch.cat([rows[key] for rows in taken]) for key in taken[0]}


def _without_padding(batch: Batch) -> Batch:
    real = real_rows(batch)
    return {key: leaf[real] for key, leaf in batch.items()}


@dataclass
class _Slots:
    """Rows under way: what they are, their embeddings (n, P+S, D), state, and steps (n,) taken so far.

    What `model.begin` makes of rows that enter is in their embeddings, and moves with these.
    """

    rows: Batch
    embeddings: Tensor
    state: RecurrentState
    steps: Tensor

    @classmethod
    def enter(cls, model: RecursiveModel, batch: Batch) -> "_Slots":
        """Rows before their first step."""
        rows = to_device(batch, model.H_init.device)
        embeddings = model.embed(model.begun(rows))
        steps = torch.zeros_like(rows["puzzle_identifiers"], dtype=torch.int32)
        return cls(rows, embeddings, start_state(model, len(steps)), steps)

    def __len__(self) -> int:
        return self.steps.shape[0]

    def take(self, index: Tensor) -> "_Slots":
        rows = {key: leaf[index] for key, leaf in self.rows.items()}
        state = RecurrentState(*(leaf[index] for leaf in self.state))
        return _Slots(rows, self.embeddings[index], state, self.steps[index])

    def join(self, others: "_Slots") -> "_Slots":
        return _Slots(
            {key: torch.cat([leaf, others.rows[key]]) for key, leaf in self.rows.items()},
            torch.cat([self.embeddings, others.embeddings]),
            RecurrentState(*(torch.cat(pair) for pair in zip(self.state, others.state, strict=True))),
            torch.cat([self.steps, others.steps]),
        )
