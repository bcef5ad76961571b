"""The inference seam: ways of producing predictions. Evaluators only judge what these return."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from dataset.puzzle_folder import PuzzleSet
from errors import UserError
from models.act import Batch
from models.losses import IGNORE_LABEL_ID
from models.recursive_model import RecursiveModel
from options import settings_of

_LONGEST_PART = 80

if TYPE_CHECKING:  # the schema is made of these sections
    from training.settings.schema import AnswerConfig


@dataclass
class Predictions:
    """answers (B, S) tokens, q_halt (B,) logits, steps (B,) supervision steps spent, logits (B, S, V).

    q_halt and logits are those of the step at which a row stopped. forward_passes: supervision steps computed for
    these rows, one for each row and step, padding and discarded work included: never below steps.sum().
    """

    answers: Tensor
    q_halt: Tensor
    steps: Tensor
    logits: Tensor
    forward_passes: int


class Inference(ABC):
    """How rows are answered. A subclass says how one batch is; what it draws follows from its seed and the rows."""

    name: str

    @abstractmethod
    def predict(self, model: RecursiveModel, batch: Batch) -> Predictions:
        """Answers to a batch on the model's device, in the batch's order; a model in evaluation mode."""

    def answer(self, model: RecursiveModel, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Predictions]]:
        """Answers to batches on any device, as groups of rows on the model's.

        Every real row is in exactly one group; groups may have any size, and rows any order. Here: batch by batch.
        """
        for batch in batches:
            rows = to_device(batch, model.H_init.device)
            yield rows, self.predict(model, rows)


class InferenceSettings:
    """Base of an inference's section of `eval.*`: the dataclass `Settings` in its file, whose name is the section's.

    The sections that are in use are built one after the other (`training.inference.choose.build_inference`): each gets
    the inference so far, at first the plain one of `eval.max_steps` and `eval.adaptive_halt`, and gives back its own.
    """

    # Whether runs have the section too, or evaluate.py alone.
    in_runs: ClassVar[bool] = True
    # Whether the answers that are judged are this inference's; else it is measured beside them.
    answers: ClassVar[bool] = True
    # In the names of result files: its word, and the setting whose value follows that at once.
    named: ClassVar[str]
    named_by: ClassVar[str]
    # Names under `eval` that it cannot be used with, and why; and what switches it on.
    excludes: ClassVar[tuple[str, ...]] = ()
    excludes_because: ClassVar[str] = ""
    switched_on_by: ClassVar[str]

    @property
    def in_use(self) -> bool:
        """Whether the section asks for anything."""
        raise NotImplementedError

    @classmethod
    def of(cls, settings: "AnswerConfig") -> Self:
        """Its section of `settings`; where they have none, as a run has none of evaluate.py's, one that is off."""
        return next((section for section in vars(settings).values() if type(section) is cls), cls())

    def unread(self) -> dict[str, str]:
        """Settings that are not at their default and that nothing reads, with what would switch them on.

        Here: of a section that is off, all.
        """
        return {} if self.in_use else dict.fromkeys(changed_settings(self), self.switched_on_by)

    def check(self, settings: "AnswerConfig") -> None:
        """Refuse what cannot be made; ranges are checked before. Errors: `UserError`."""

    def refuse_excluded(self, settings: "AnswerConfig", option: str) -> None:
        """Refuse `option`, which asks for this inference, beside what it excludes. Errors: `UserError`."""
        found = []
        for name in self.excludes:
            other = getattr(settings, name, False)
            if other.in_use if isinstance(other, InferenceSettings) else other:
                found.append(f"eval.{name}")
        if found:
            raise UserError(f"option '{option}': {self.excludes_because}; leave out {' and '.join(found)}")

    def name_parts(self) -> list[str]:
        """Parts of the name of a result file, such as `rollouts0.3-sitez_L`: all that is not at its default."""
        changed = {key: attrgetter(key)(self) for key in changed_settings(self)}
        word = self.named + _in_name(changed.pop(self.named_by))
        part = "-".join([word, *(key + _in_name(value) for key, value in changed.items())])
        if len(part) > _LONGEST_PART:  # a file's name has an end
            part = f"{part[: _LONGEST_PART - 9]}-{hashlib.sha256(part.encode()).hexdigest()[:8]}"
        return [part]

    def mode(self) -> Mapping[str, Any]:
        """What a report says of it under `mode`."""
        return {}

    def passes(self, inner: int, steps: int) -> int:
        """Supervision steps of one row, where the inference beneath takes `inner` and an answer `steps` of them."""
        return inner

    def build(
        self, inner: Inference, settings: "AnswerConfig", puzzle_sets: Sequence[PuzzleSet], seed: int
    ) -> Inference:
        """The inference for rows of `puzzle_sets`, on top of `inner`; `seed` is the run's. Errors: `UserError`."""
        return inner


def _in_name(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(map(_in_name, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def changed_settings(section: Any) -> list[str]:
    """Dotted keys of a section of settings whose values are not the defaults."""
    settings = [setting for setting in settings_of(type(section)) if not setting.is_section]
    return [setting.key for setting in settings if attrgetter(setting.key)(section) != setting.default]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with every leaf on `device`."""
    return {key: leaf.to(device) for key, leaf in batch.items()}


def real_rows(batch: Batch) -> Tensor:
    """(B,) bool: no padding. By `row` where the batch has it, else by having a scored token."""
    if "row" in batch:
        return batch["row"] >= 0
    return (batch["labels"] != IGNORE_LABEL_ID).any(dim=-1)
