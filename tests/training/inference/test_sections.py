"""Every inference that the folder holds, found by its file: its section of settings, what it excludes, its answers."""

import importlib
import itertools
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from torch import Tensor

import evaluate
import training.inference
from dataset.puzzle_folder import open_puzzle_set
from errors import UserError
from options import above_zero, at_least, extended, option, section, settings_of
from tests.models.small import small_batch, small_model
from training.inference.base import Inference, InferenceSettings
from training.inference.choose import build_inference, check_inference, deciding, keeps_steps, mode, mode_parts
from training.inference.fixed import FixedInference, OfficialInference
from training.settings.key_values import parse_key_values
from training.settings.merging import merge_into_schema
from training.settings.schema import AnswerConfig, EvalConfig, EvaluateConfig

FOLDER = Path(training.inference.__file__).parent
FILES = [path.stem for path in sorted(FOLDER.glob("*.py")) if "\nclass Settings(" in path.read_text()]


def section_of(name: str) -> Any:
    return importlib.import_module(f"training.inference.{name}").Settings


def switched_on(*names: str, **flat: Any) -> Any:
    """evaluate.py's settings with these inferences on, by the words that their sections name for it."""
    words = [section_of(name).switched_on_by for name in names]
    words += [f"eval.{key}={value}" for key, value in flat.items()]
    return parse_key_values(["checkpoint=x", *words], evaluate.Options).eval


def test_the_folder_is_what_the_settings_have() -> None:
    assert {"perturbed_starts", "stochastic_rollouts", "vote"} <= set(FILES)
    of_evaluate = {item.name for item in fields(EvaluateConfig)}
    of_runs = {item.name for item in fields(EvalConfig)}
    assert of_evaluate - {"max_steps", "adaptive_halt"} == set(FILES)
    assert of_runs - {"max_steps", "adaptive_halt", "during"} == {name for name in FILES if section_of(name).in_runs}
    assert "stochastic_rollouts" not in of_runs and "during" not in of_evaluate


@pytest.mark.parametrize("name", FILES)
def test_each_is_off_until_asked_for_and_then_says_so(name: str, sudoku4_folder: Path) -> None:
    off, on = EvaluateConfig(), switched_on(name)
    section = section_of(name)
    assert not section.of(off).in_use and section.of(on).in_use
    assert issubclass(section, InferenceSettings) and section.__doc__ and section.switched_on_by.startswith("eval.")
    sets = [open_puzzle_set(sudoku4_folder, "test")]
    assert type(build_inference(off, sets, 0)) is OfficialInference and mode_parts(off) == []
    built = build_inference(on, sets, 0)
    assert (type(built) is not OfficialInference) == section.answers
    assert keeps_steps(on) != section.answers
    assert len(mode_parts(on)) == 1, "a result file of its own"
    assert mode(off, 7) == {"max_steps": 7, "adaptive_halt": False, "vote": 1}
    own = {key for key in deciding(on) if key.startswith(f"{name}.")}
    assert bool(own) == section.answers
    # Nothing of a run's evaluation that lacks the section is in its way.
    assert section.of(EvalConfig()) == section() or section.in_runs


@pytest.mark.parametrize("name", FILES)
def test_each_answers_every_row(name: str, sudoku4_folder: Path) -> None:
    if not section_of(name).answers:
        return
    model = small_model("trm-att").eval()
    inference = build_inference(switched_on(name), [open_puzzle_set(sudoku4_folder, "test")], 0)
    if name == "vote":  # the small model reads no Sudoku
        with pytest.raises(UserError, match="a vote over views of sudoku"):
            inference.predict(model, small_batch(3) | {"row": torch.arange(3)})
        return
    batch = small_batch(3) | {"row": torch.arange(3)}
    found = inference.predict(model, batch)
    assert found.answers.shape == batch["labels"].shape and found.q_halt.shape == (3,)
    assert found.forward_passes >= int(found.steps.sum()) > 0


def test_what_excludes_what() -> None:
    """Each pair goes together unless one of the two says otherwise; then it is refused in one line that names it."""
    refused = set()
    for first, second in itertools.combinations(FILES, 2):
        settings = switched_on(first, second)
        if second in section_of(first).excludes or first in section_of(second).excludes:
            with pytest.raises(UserError, match=f"leave out eval.({first}|{second})"):
                check_inference(settings)
            refused.add((first, second))
        else:
            check_inference(settings)
    assert refused >= {("perturbed_starts", "stochastic_rollouts"), ("perturbed_starts", "vote")}
    for name in FILES:
        settings = switched_on(name, adaptive_halt="true")
        if "adaptive_halt" in section_of(name).excludes:
            with pytest.raises(UserError, match="leave out eval.adaptive_halt"):
                check_inference(settings)
        else:
            check_inference(settings)
    everything = {"adaptive_halt", *FILES}
    assert all(set(section_of(name).excludes) <= everything - {name} for name in FILES)


@pytest.mark.parametrize("name", FILES)
def test_what_nothing_reads_is_refused(name: str) -> None:
    if name == "perturbed_starts":  # eval.during.sigma_grid reads its starts and its site
        return
    section = section_of(name)
    for setting in settings_of(section):
        other = {bool: True, int: 9, list[float]: [0.5], list[int]: [2], str: "z_L"}.get(setting.kind)
        changed = section()
        if setting.is_section or other is None or "." in setting.key:
            continue
        setattr(changed, setting.key, other)
        if not changed.in_use:
            with pytest.raises(UserError, match=f"option 'eval.{name}.{setting.key}' is read with eval"):
                check_inference(EvaluateConfig(**{name: changed}))


SHARED = [("vote", section_of("vote"), section(section_of("vote"), "views"))]


@dataclass
class Sharper(InferenceSettings):
    """Logits of the inference so far, times a factor: a toy."""

    factor: float = option(1.0, "of the logits", above_zero)
    times: int = option(1, "how often", at_least(1))

    excludes: ClassVar[tuple[str, ...]] = ("vote",)
    excludes_because: ClassVar[str] = "a vote has its own"
    switched_on_by: ClassVar[str] = "eval.sharper.factor=2"

    @property
    def in_use(self) -> bool:
        return self.factor != 1

    def name_parts(self) -> list[str]:
        return [f"sharper{self.factor:g}"]

    def build(self, inner: Inference, settings: Any, puzzle_sets: Any, seed: int) -> Inference:
        return SharperInference(inner, self.factor)


class SharperInference(Inference):
    name = "sharper"

    def __init__(self, inner: Inference, factor: float) -> None:
        self.inner, self.factor = inner, factor

    def predict(self, model: Any, batch: dict[str, Tensor]) -> Any:
        found = self.inner.predict(model, batch)
        found.logits = found.logits * self.factor
        return found


def test_one_more_inference_needs_its_section_only() -> None:
    """Its name in files, its place on top of another and its refusals follow: `choose.py` knows no name."""
    wider: Any = extended(AnswerConfig, __name__, [*SHARED, ("sharper", Sharper, section(Sharper, "toy"))])
    settings = merge_into_schema({"max_steps": 2, "sharper": {"factor": 3}}, wider)
    assert mode_parts(settings) == ["steps2", "sharper3"] and not keeps_steps(settings)
    model, batch = small_model("trm-att").eval(), small_batch(3)
    plain = FixedInference(2).predict(model, batch)
    assert torch.equal(build_inference(settings, [], 0).predict(model, batch).logits, plain.logits * 3)
    assert torch.equal(
        build_inference(merge_into_schema({"max_steps": 2}, wider), [], 0).predict(model, batch).logits, plain.logits
    )
    for raw, says in {
        "sharper: {facto: 2}": "unknown option 'sharper.facto': the nearest valid key is 'sharper.factor'",
        "shaper: {factor: 2}": "the nearest valid key is 'sharper",
        "sharper: {times: 2}": "option 'eval.sharper.times' is read with eval.sharper.factor=2 only",
        "sharper: {factor: 2}\nvote: {views: 2}": "option 'eval.sharper': a vote has its own; leave out eval.vote",
    }.items():
        with pytest.raises(UserError, match=says):
            check_inference(merge_into_schema(yaml.safe_load(raw), wider))
