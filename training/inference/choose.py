"""From the settings `eval` to an inference: the one place, for training runs and for evaluate.py.

Which inferences there are is not known here: their sections are found in the settings.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dataset.puzzle_folder import PuzzleSet
from errors import UserError
from models.config import ModelConfig
from models.flops import step_flops
from training.inference.adaptive import AdaptiveInference
from training.inference.base import Inference, InferenceSettings
from training.inference.fixed import FixedInference, OfficialInference
from training.inference.stepwise import StepwiseInference

if TYPE_CHECKING:  # the schema is made of what this folder holds
    from training.settings.schema import AnswerConfig


def build_inference(
    settings: "AnswerConfig", puzzle_sets: Sequence[PuzzleSet], seed: int, *, stepwise: bool = False
) -> Inference:
    """The inference that `settings` describe, for rows of `puzzle_sets`.

    Args:
        seed: of a run. stepwise: keep the answer after every step, where `keeps_steps`.
    Errors: `UserError` as `check_inference`, and when a section cannot be made for these sets.
    """
    check_inference(settings)
    inference = _plain(settings, stepwise=stepwise and keeps_steps(settings))
    for section in sections(settings).values():
        if section.in_use:
            inference = section.build(inference, settings, puzzle_sets, seed)
    return inference


def _plain(settings: "AnswerConfig", *, stepwise: bool) -> Inference:
    if settings.adaptive_halt:
        return AdaptiveInference(settings.max_steps)
    if stepwise:
        return StepwiseInference(settings.max_steps)
    return OfficialInference() if settings.max_steps is None else FixedInference(settings.max_steps)


def sections(settings: "AnswerConfig") -> dict[str, InferenceSettings]:
    """The sections of inferences by name."""
    return {name: value for name, value in vars(settings).items() if isinstance(value, InferenceSettings)}


def keeps_steps(settings: "AnswerConfig") -> bool:
    """Whether answers after every step exist: a row that left has none, and other inferences choose whole answers."""
    return not settings.adaptive_halt and not any(
        section.in_use and section.answers for section in sections(settings).values()
    )


def mode_parts(settings: "AnswerConfig") -> list[str]:
    """What differs from the official evaluation, as parts of a file's name; nothing for the official one."""
    parts = [] if settings.max_steps is None else [f"steps{settings.max_steps}"]
    parts += ["adaptive"] if settings.adaptive_halt else []
    return parts + [part for section in sections(settings).values() if section.in_use for part in section.name_parts()]


def mode(settings: "AnswerConfig", trained_steps: int) -> dict[str, Any]:
    """What a report says of how rows were answered."""
    said: dict[str, Any] = {
        "max_steps": settings.max_steps or trained_steps,
        "adaptive_halt": settings.adaptive_halt,
    }
    for section in sections(settings).values():
        said |= section.mode()
    return said


def planned_passes(settings: "AnswerConfig", trained_steps: int) -> int:
    """Supervision steps of one row that an evaluation takes; at most so many where rows stop by themselves."""
    steps = passes = settings.max_steps or trained_steps
    for section in sections(settings).values():
        if section.in_use:
            passes = section.passes(passes, steps)
    return passes


def cost_line(rows: int, passes: int, config: ModelConfig, *, most: str = "") -> str:
    """What answering `rows` will take, `passes` supervision steps each. most: said before them."""
    total = rows * passes
    return (
        f"{rows:,} rows x {most}{passes:,} supervision steps each: {total:,} passes, "
        f"{total * step_flops(config, training=False):.3g} operations"
    )


def deciding(settings: "AnswerConfig") -> dict[str, Any]:
    """The settings that decide which answers are judged, and so which checkpoint is the best; others add to reports."""
    found: dict[str, Any] = {"max_steps": settings.max_steps, "adaptive_halt": settings.adaptive_halt}
    for name, section in sections(settings).items():
        if section.answers:
            values: Any = section  # a dataclass
            found |= {f"{name}.{key}": value for key, value in asdict(values).items()}
    return found


def check_inference(settings: "AnswerConfig") -> None:
    """Refuse what cannot be made (ranges are checked before), and what nothing would read. Errors: `UserError`."""
    for name, section in sections(settings).items():
        if section.in_use:
            section.refuse_excluded(settings, f"eval.{name}")
        for key, switch in section.unread().items():
            raise UserError(f"option 'eval.{name}.{key}' is read with {switch} only: give that too")
        section.check(settings)
