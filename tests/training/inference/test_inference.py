"""Inference: any fixed number of steps, and rows that leave when they want to, against the plain routes."""

import shutil
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dataset.puzzle_folder import open_puzzle_set
from errors import UserError
from models.act import Batch, act_step, initial_carry
from models.recursion import RecurrentState
from models.recursive_model import RecursiveModel
from tests.dataset.folders import edit_metadata
from tests.models.small import ARCHITECTURES, small_batch, small_model
from training.distributed import World
from training.evaluation.answering import AccuracyEvaluator, evaluate
from training.evaluation.evaluators import StepCountEvaluator
from training.inference.adaptive import AdaptiveInference
from training.inference.base import Inference, Predictions, real_rows
from training.inference.choose import build_inference, keeps_steps, mode_parts
from training.inference.fixed import FixedInference, OfficialInference
from training.inference.stepwise import StepwiseInference
from training.inference.vote import Settings, VoteInference
from training.settings.schema import EvalConfig

DTYPES = {
    "float64": (torch.float64, None),
    "float32": (torch.float32, None),
    "bfloat16": (torch.bfloat16, None),
    "bfloat16_float32_states": (torch.bfloat16, torch.float32),
}
FIELDS = ("answers", "q_halt", "steps", "logits")


def act_outputs(model: RecursiveModel, batch: Batch, num_steps: int) -> list[dict[str, Tensor]]:
    """Outputs of the ACT wrapper in evaluation, which takes halt_max_steps steps: the official evaluation."""
    model.config = replace(model.config, halt_max_steps=num_steps)
    carry, outputs = initial_carry(model, batch), []
    with torch.no_grad():
        for _ in range(num_steps):
            carry, made = act_step(model, carry, batch, training=False)
            outputs.append(made)
    assert carry["halted"].all() and (carry["steps"] == num_steps).all()
    return outputs


# -- a fixed number of steps


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_fixed_steps_are_the_official_evaluation_to_the_bit(arch: str, dtypes: str) -> None:
    dtype, state_dtype = DTYPES[dtypes]
    model = small_model(arch, dtype=dtype, state_dtype=state_dtype).eval()
    batch = small_batch(5)
    official = OfficialInference().predict(model, batch)
    by_number = {steps: FixedInference(steps).predict(model, batch) for steps in (1, 3, 4, 9)}
    expected = act_outputs(model, batch, 9)
    for steps, made in (*by_number.items(), (4, official)):
        outputs = expected[steps - 1]
        assert torch.equal(made.logits, outputs["logits"]) and made.logits.dtype == outputs["logits"].dtype
        assert torch.equal(made.q_halt, outputs["q_halt_logits"])
        assert torch.equal(made.answers, outputs["logits"].argmax(-1))
        assert made.steps.tolist() == [steps] * 5 and made.forward_passes == 5 * steps
        assert not made.logits.requires_grad
    assert not torch.equal(expected[8]["logits"], expected[3]["logits"])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_stepwise_keeps_every_step_of_the_same(arch: str) -> None:
    model, batch = small_model(arch).eval(), small_batch(5)
    made = StepwiseInference(7).predict(model, batch)
    fixed = FixedInference(7).predict(model, batch)
    for name in FIELDS:
        assert torch.equal(getattr(made, name), getattr(fixed, name)), name
    assert made.forward_passes == fixed.forward_passes
    default = StepwiseInference().predict(model, batch)
    outputs = act_outputs(model, batch, 7)
    assert torch.equal(made.step_answers, torch.stack([one["logits"].argmax(-1) for one in outputs], 1))
    assert torch.equal(made.step_q_halt, torch.stack([one["q_halt_logits"] for one in outputs], 1))
    assert torch.equal(made.step_q_continue, torch.stack([one["q_continue_logits"] for one in outputs], 1))
    assert torch.equal(default.step_answers, made.step_answers[:, :4])


def test_the_readout_is_made_once_and_the_input_embedded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = small_model("hrm").eval(), Counter[str]()
    for name in ("embed", "readout", "supervision_step"):
        plain = getattr(model, name)

        def counted(*args: object, name: str = name, plain: object = plain) -> object:
            calls[name] += 1
            return plain(*args)  # type: ignore[operator]

        monkeypatch.setattr(model, name, counted)
    FixedInference(6).predict(model, small_batch())
    assert calls == {"embed": 1, "readout": 1, "supervision_step": 1}


@pytest.mark.parametrize("inference", [FixedInference(6), StepwiseInference(6), AdaptiveInference(6)])
def test_logits_of_earlier_steps_are_not_kept(inference: Inference, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a step is read out, at most the logits of the step before are still there."""
    model, alive = small_model("trm-att").eval(), []
    made: list[weakref.ref[Tensor]] = []
    readout = model.readout

    def watched(state: RecurrentState) -> tuple[Tensor, Tensor, Tensor]:
        alive.append(sum(one() is not None for one in made))
        outputs = readout(state)
        made.append(weakref.ref(outputs[0]))
        return outputs

    monkeypatch.setattr(model, "readout", watched)
    inference.predict(model, small_batch())
    assert alive and max(alive) <= 1


# -- rows that leave


def lively_model(arch: str, seed: int = 0, **changes: object) -> RecursiveModel:
    """A model whose rows halt at different steps, in float64 throughout."""
    model = small_model(arch, seed, q_dtype=torch.float64, **changes).eval()
    generator = torch.Generator().manual_seed(seed + 7)
    with torch.no_grad():
        weight, bias = model.q_head.weight, model.q_head.bias
        assert bias is not None
        weight.copy_(torch.randn(weight.shape, generator=generator))
        # The states of SRM have no norm that bounds them, and settle within a few steps.
        bias.copy_(torch.tensor([-22.34 if arch == "srm" else -1.5, 0.0]))
    return model


def row_by_row(model: RecursiveModel, batch: Batch, max_steps: int) -> list[tuple[int, Tensor, Tensor]]:
    """For each row alone: steps taken, q_halt and logits where it stopped. A loop over sub-updates, no batch."""
    found = []
    with torch.no_grad():
        for row in range(len(batch["inputs"])):
            one = {key: leaf[row : row + 1] for key, leaf in batch.items()}
            sub_updates = model.supervision_step(model.embed(one)).sub_updates
            state: RecurrentState = model.initial_state(1)
            steps, halts = 0, False
            while steps < max_steps and not halts:
                steps += 1
                for sub_update in sub_updates:
                    state = sub_update(state)
                logits, q_halt, q_continue = model.readout(state)
                threshold = 0.0 if model.config.no_ACT_continue else q_continue.item()
                halts = q_halt.item() > threshold
            found.append((steps, q_halt[0], logits[0]))
    return found


def cut(batch: Batch, size: int) -> list[Batch]:
    """Batches of one size as evaluation makes them: with row numbers, the last one filled up with padding."""
    count = len(batch["inputs"])
    numbered = batch | {"row": torch.arange(count)}
    missing = -count % size
    fill = {"inputs": 0, "labels": -100, "puzzle_identifiers": 0, "row": -1}
    padded = {
        key: torch.cat([leaf, leaf.new_full((missing, *leaf.shape[1:]), fill[key])]) for key, leaf in numbered.items()
    }
    return [{key: leaf[i : i + size] for key, leaf in padded.items()} for i in range(0, count + missing, size)]


def assert_rows_equal(
    groups: Iterable[tuple[Batch, Predictions]], expected: list[tuple[int, Tensor, Tensor]], batch: Batch
) -> None:
    """Each row once, with its own data, and what it does alone; every pass is one of a row's steps."""
    seen: list[int] = []
    passes = 0
    for rows, made in groups:
        assert made.forward_passes == int(made.steps.sum())
        passes += made.forward_passes
        for i, row in enumerate(rows["row"].tolist()):
            seen.append(row)
            steps, q_halt, logits = expected[row]
            assert made.steps[i] == steps
            assert torch.equal(made.answers[i], logits.argmax(-1))
            torch.testing.assert_close(made.q_halt[i], q_halt, atol=1e-10, rtol=0)
            torch.testing.assert_close(made.logits[i], logits, atol=1e-10, rtol=0)
            for key in ("inputs", "labels", "puzzle_identifiers"):
                assert torch.equal(rows[key][i], batch[key][row])
    assert sorted(seen) == list(range(len(expected)))
    assert passes == sum(steps for steps, _, _ in expected)


LIVELY = [*ARCHITECTURES, "trm-q-learning"]


def lively(name: str) -> RecursiveModel:
    """Models under both halting rules."""
    if name == "trm-q-learning":
        return lively_model("trm-att", no_ACT_continue=False)
    return lively_model(name)


@pytest.mark.parametrize("size", [1, 3, 8, 40])
@pytest.mark.parametrize("arch", LIVELY)
def test_adaptive_rows_are_answered_as_if_alone(arch: str, size: int) -> None:
    model, batch, max_steps = lively(arch), small_batch(23), 6
    expected = row_by_row(model, batch, max_steps)
    # Some stop at once, some in between, some at the end.
    assert {1, max_steps} < {steps for steps, _, _ in expected}
    assert_rows_equal(AdaptiveInference(max_steps).answer(model, cut(batch, size)), expected, batch)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9])
def test_adaptive_with_any_number_of_rows(count: int) -> None:
    model, batch = lively("hrm"), small_batch(count, seed=3)
    expected = row_by_row(model, batch, 4)
    assert_rows_equal(AdaptiveInference().answer(model, cut(batch, 4)), expected, batch)


def test_adaptive_takes_rows_from_anywhere_in_the_batches() -> None:
    """Empty batches, padding at the front and in the middle, a short first batch."""
    model, batch = lively("trm-mlp"), small_batch(9)
    first, second, third = cut(batch, 3)
    nothing = {key: leaf[:0] for key, leaf in first.items()}
    padding = {key: leaf.clone() for key, leaf in first.items()}
    padding["row"].fill_(-1)
    padding["labels"].fill_(-100)
    mixed = {key: torch.cat([padding[key][:1], second[key], padding[key]]) for key in second}
    batches = [nothing, padding, first, mixed, padding, third, nothing]
    expected = row_by_row(model, batch, 4)
    assert_rows_equal(AdaptiveInference().answer(model, batches), expected, batch)
    assert list(AdaptiveInference().answer(model, [])) == []
    assert list(AdaptiveInference().answer(model, [padding, nothing])) == []


def test_adaptive_slots_are_refilled_and_then_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes of all steps are those of a simulation of slots; no step computes a row that has stopped."""
    model, batch, max_steps, slots = lively("trm-att"), small_batch(23), 6, 5
    lengths = [steps for steps, _, _ in row_by_row(model, batch, max_steps)]
    queue, active, sizes = list(lengths), [], []
    while queue or active:
        while queue and len(active) < slots:
            active.append(queue.pop(0))
        sizes.append(len(active))
        active = [left - 1 for left in active if left > 1]
    found, embedded = [], []
    readout, embed = model.readout, model.embed

    def counted(state: RecurrentState) -> tuple[Tensor, Tensor, Tensor]:
        found.append(len(state.z_H))
        return readout(state)

    def counted_embed(rows: Batch) -> Tensor:
        embedded.append(len(rows["inputs"]))
        return embed(rows)

    monkeypatch.setattr(model, "readout", counted)
    monkeypatch.setattr(model, "embed", counted_embed)
    list(AdaptiveInference(max_steps).answer(model, cut(batch, slots)))
    assert found == sizes and sum(sizes) == sum(lengths)
    assert max(sizes) == slots and sizes[-1] < slots
    assert sum(embedded) == 23, "once per row"


def test_adaptive_on_one_batch_keeps_its_order() -> None:
    model, batch = lively("hrm"), small_batch(7)
    (padded,) = cut(batch, 10)
    made = AdaptiveInference(5).predict(model, padded)
    expected = row_by_row(model, batch, 5)
    assert made.steps.tolist() == [steps for steps, _, _ in expected] + [0] * 3
    torch.testing.assert_close(made.logits[:7], torch.stack([one[2] for one in expected]), atol=1e-10, rtol=0)
    torch.testing.assert_close(made.q_halt[:7], torch.stack([one[1] for one in expected]), atol=1e-10, rtol=0)
    assert torch.equal(made.answers[:7], made.logits[:7].argmax(-1))
    assert not made.logits[7:].any() and not made.answers[7:].any() and not made.q_halt[7:].any()
    assert made.forward_passes == int(made.steps.sum())
    official = OfficialInference().predict(model, padded)
    for name in FIELDS:
        assert getattr(made, name).shape == getattr(official, name).shape
        assert getattr(made, name).dtype == getattr(official, name).dtype


def test_a_model_that_never_halts_takes_all_steps() -> None:
    """Then adaptive is fixed: the same answers after the same number of steps."""
    model, batch = lively("trm-att"), small_batch(6)
    with torch.no_grad():
        model.q_head.weight.zero_()
        assert model.q_head.bias is not None
        model.q_head.bias.fill_(-5.0)
    ((_, made),) = AdaptiveInference(9).answer(model, cut(batch, 6))
    fixed = FixedInference(9).predict(model, batch)
    for name in FIELDS:
        assert torch.equal(getattr(made, name), getattr(fixed, name)), name


class Share(World):
    """One of several processes that are not there: numbers are not sent, so that sums are of its own rows."""

    def sum_numbers(self, values: list[float], device: torch.device | None = None) -> list[float]:  # type: ignore[override]
        return list(values)


class Recorded(Inference):
    """Keeps what another inference answers."""

    name = "recorded"

    def __init__(self, inner: Inference) -> None:
        self.inner = inner
        self.groups: list[tuple[Batch, Predictions]] = []

    def predict(self, model: RecursiveModel, batch: Batch) -> Predictions:
        return self.inner.predict(model, batch)

    def answer(self, model: RecursiveModel, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Predictions]]:
        for group in self.inner.answer(model, batches):
            self.groups.append(group)
            yield group


@pytest.mark.parametrize("count", [1, 13])
@pytest.mark.parametrize("arch", ["trm-mlp", "hrm"])
def test_adaptive_shares_of_two_processes_are_the_rows_of_one(arch: str, count: int) -> None:
    model, batch = lively(arch), small_batch(count)
    expected = row_by_row(model, batch, 4)
    inferences = [Recorded(AdaptiveInference()) for _ in range(2)]
    results = [
        evaluate(model, cut(batch, 5), inference, [AccuracyEvaluator("softmax_cross_entropy")], Share(rank, 2))
        for rank, inference in enumerate(inferences)
    ]
    assert_rows_equal([group for inference in inferences for group in inference.groups], expected, batch)
    assert sum(result["rows"] for result in results) == count
    assert sum(result["forward_passes"] for result in results) == sum(steps for steps, _, _ in expected)


def test_evaluation_of_adaptive_answers() -> None:
    model, batch = lively("trm-att"), small_batch(23)
    expected = row_by_row(model, batch, 6)
    labels = torch.stack([logits.argmax(-1) for _, _, logits in expected]).int()
    labels[::3, 0] = (labels[::3, 0] + 1) % 5
    accuracy, counts = AccuracyEvaluator("softmax_cross_entropy"), StepCountEvaluator(6)
    batches = cut(batch | {"labels": labels}, 4)
    result = evaluate(model, batches, AdaptiveInference(6), [accuracy, counts], World()) | accuracy.report()
    assert (result["count"], result["exact_count"], result["rows"]) == (23, 15, 23)
    assert result["forward_passes"] == sum(steps for steps, _, _ in expected)
    assert result["steps"] == pytest.approx(result["forward_passes"] / 23)
    stopped = Counter(steps for steps, _, _ in expected)
    assert counts.report() == [{"step": step, "count": stopped[step]} for step in sorted(stopped)]


def test_fixed_steps_count_padding_as_passes() -> None:
    model = small_model("trm-att").eval()
    result = evaluate(model, cut(small_batch(7), 4), FixedInference(3), [], World())
    assert (result["rows"], result["forward_passes"]) == (7, 24)
    assert result["seconds"] > 0 and set(result) == {"rows", "forward_passes", "seconds"}


def test_real_rows_with_and_without_numbers() -> None:
    labels = torch.tensor([[1, -100], [-100, -100], [-100, -100]])
    assert real_rows({"labels": labels}).tolist() == [True, False, False]
    # A row without a scored token, as in a test set without solutions, is to be answered all the same.
    assert real_rows({"labels": labels, "row": torch.tensor([0, 5, -1])}).tolist() == [True, True, False]


# -- chosen by settings


def test_settings_choose_the_inference(sudoku6_folder: Path) -> None:
    sets = [open_puzzle_set(sudoku6_folder, "test")]
    official = build_inference(EvalConfig(), sets, 0)
    assert type(official) is OfficialInference and mode_parts(EvalConfig()) == [] and keeps_steps(EvalConfig())
    longer = EvalConfig(max_steps=64)
    found = build_inference(longer, sets, 0)
    assert type(found) is FixedInference and found.max_steps == 64 and mode_parts(longer) == ["steps64"]
    stepwise = build_inference(longer, sets, 0, stepwise=True)
    assert type(stepwise) is StepwiseInference and stepwise.max_steps == 64
    everything = EvalConfig(max_steps=64, adaptive_halt=True, vote=Settings(views=8))
    vote = build_inference(everything, sets, 5, stepwise=True)
    assert isinstance(vote, VoteInference) and isinstance(vote.inner, AdaptiveInference)
    assert (vote.inner.max_steps, vote.num_views, vote.seed) == (64, 8, 5) and vote.task == sets[0].metadata.task
    assert mode_parts(everything) == ["steps64", "adaptive", "vote8"] and not keeps_steps(everything)
    assert not keeps_steps(EvalConfig(vote=Settings(views=2))) and not keeps_steps(EvalConfig(adaptive_halt=True))


def test_a_vote_needs_views_of_one_kind(
    sudoku4_folder: Path, sudoku6_folder: Path, sudoku6_stored_folder: Path, tmp_path: Path
) -> None:
    settings = EvalConfig(vote=Settings(views=2))
    shutil.copytree(sudoku6_folder, tmp_path / "plain")
    edit_metadata(tmp_path / "plain" / "test", task="plain", augmentation=None)
    folders = (sudoku4_folder, sudoku6_folder, sudoku6_stored_folder, tmp_path / "plain")
    four, six, stored, plain = (open_puzzle_set(path, "test") for path in folders)
    with pytest.raises(UserError, match="eval.vote.views=2: .*plain holds puzzles of the task plain, which have 1"):
        build_inference(settings, [six, plain], 0)
    with pytest.raises(UserError, match="found sudoku with boxes of 2x2 in .*, .*2x3 in .*, expected puzzles of one"):
        build_inference(settings, [four, six], 0)
    # Symmetries are the task's, whether or not training draws them.
    assert isinstance(build_inference(settings, [six, stored], 0), VoteInference)
    assert isinstance(build_inference(EvalConfig(), [stored, plain], 0), OfficialInference)
