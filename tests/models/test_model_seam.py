"""A model that reads more of a row than tokens and a puzzle id: a toy encoder, cached by `begin` and re-encoding."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from errors import UserError
from models.act import Batch, Carry, act_step, carry_names, initial_carry
from models.losses import act_loss
from models.recursion import RecurrentState
from models.recursion_maps import RecursionMaps
from models.recursive_model import RecursiveModel
from models.registry import MODELS
from models.trm import TinyRecursiveModel
from tests.helpers import differences, tiny_config
from tests.models.small import small_batch, small_config, small_model
from training.distributed import World
from training.hooks.base import Hook, TrainState
from training.inference.adaptive import AdaptiveInference
from training.inference.base import Inference
from training.inference.fixed import FixedInference, OfficialInference
from training.inference.perturbed_starts import PerturbedInference
from training.inference.stepwise import StepwiseInference
from training.inference.stochastic_rollouts import StochasticRollouts
from training.objectives.act_streaming import ACTStreaming
from training.objectives.base import UpdateContext
from training.objectives.rollout import rollout
from training.run import full_state, restore
from training.settings.schema import FlossConfig
from training.start import act_objective, build_run
from training.storage.checkpoint import load_state, save_state
from training.terms.gradient_flossing import flossing_loss
from training.update import train_on_batch

LOSS = "softmax_cross_entropy"
CONTEXT = 3  # numbers in the context of a row


class Encoding(TinyRecursiveModel):
    """`context` (B, 3) int, encoded into a vector that is added to all embeddings of its row."""

    row_keys = (*TinyRecursiveModel.row_keys, "context")

    def __init__(self, config: Any, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        self.encoder = nn.Linear(CONTEXT, config.hidden_size, bias=False, dtype=config.param_dtype)
        nn.init.normal_(self.encoder.weight, generator=generator)
        self.encoded: list[Tensor] = []  # the contexts of each call

    def encode(self, rows: Mapping[str, Tensor]) -> Tensor:
        self.encoded.append(rows["context"])
        context = rows["context"].to(self.config.dtype)
        return nn.functional.linear(context, self.encoder.weight.to(self.config.dtype))

    def code(self, rows: Mapping[str, Tensor]) -> Tensor:
        return self.encode(rows)

    def embed(self, rows: Mapping[str, Tensor], puzzle_rows: Tensor | None = None) -> Tensor:
        return super().embed(rows, puzzle_rows) + self.code(rows)[:, None]


class Caching(Encoding):
    """The same, encoded when a row enters its slot."""

    begin_keys = ("code",)

    def begin(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"code": self.encode(rows)}

    def code(self, rows: Mapping[str, Tensor]) -> Tensor:
        return rows["code"]


def encoding_model(kind: type[Encoding], **changes: Any) -> Encoding:
    """With the halting head of `small_model`, which is not at its constant start."""
    model = kind(small_config("trm-att", **changes), torch.Generator().manual_seed(0))
    plain = small_model("trm-att", **changes)
    model.q_head.load_state_dict(plain.q_head.state_dict())
    return model


def never_halting(model: Encoding) -> Encoding:
    with torch.no_grad():
        model.q_head.weight.zero_()
        model.q_head.bias.fill_(-5)  # type: ignore[union-attr]
    return model


def context_batch(size: int = 4, seed: int = 0) -> Batch:
    context = torch.randint(-4, 5, (size, CONTEXT), generator=torch.Generator().manual_seed(100 + seed))
    return small_batch(size, seed) | {"context": context.to(torch.int32)}


def some(batch: Mapping[str, Tensor], rows: list[int]) -> Batch:
    return {key: leaf[rows] for key, leaf in batch.items()}


def loss_of(model: RecursiveModel, carry: Carry, batch: Batch) -> tuple[Carry, Tensor]:
    carry, outputs = act_step(model, carry, batch, training=True)
    return carry, act_loss(outputs, carry["labels"], carry["halted"], carry["steps"], LOSS)[0]


def encoder_gradient(model: Encoding) -> Tensor | None:
    gradient, model.encoder.weight.grad = model.encoder.weight.grad, None
    return gradient


# -- gradients


@pytest.mark.parametrize("no_ACT_continue", [True, False])
def test_where_the_encoder_has_gradients_in_streaming(no_ACT_continue: bool) -> None:
    """Cached at the first step of its rows only, re-encoded at every step; at the first step they are equal."""
    gradients: dict[str, list[Tensor | None]] = {}
    batch = context_batch()
    for kind in (Caching, Encoding):
        model = never_halting(encoding_model(kind, no_ACT_continue=no_ACT_continue)).train()
        carry = initial_carry(model, batch)
        made = gradients[kind.__name__] = []
        for _ in range(5):  # halt_max_steps is 4: the fifth is a first one again
            carry, loss = loss_of(model, carry, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            made.append(encoder_gradient(model))
            assert not any(leaf.requires_grad for leaf in carry.values())
    cached, encoded = gradients["Caching"], gradients["Encoding"]
    assert [gradient is not None for gradient in cached] == [True, False, False, False, True]
    assert all(gradient is not None and gradient.abs().max() > 1e-6 for gradient in encoded)
    for step in (0, 4):
        torch.testing.assert_close(cached[step], encoded[step], rtol=1e-12, atol=1e-14)


def test_rows_that_enter_among_others_are_the_only_ones_with_gradients() -> None:
    model, batch, later = never_halting(encoding_model(Caching)).train(), context_batch(), context_batch(seed=1)
    carry, _ = loss_of(model, initial_carry(model, batch), batch)
    carry["halted"] = torch.tensor([False, True, False, True])
    _, loss = loss_of(model, carry, later)
    loss.backward()  # type: ignore[no-untyped-call]
    found = encoder_gradient(model)
    alone = some(later, [1, 3])
    _, loss = loss_of(model, initial_carry(model, alone), alone)
    loss.backward()  # type: ignore[no-untyped-call]
    expected = encoder_gradient(model)
    assert found is not None and found.abs().max() > 1e-6
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("no_ACT_continue", [True, False])
def test_where_the_encoder_has_gradients_in_a_rollout(no_ACT_continue: bool) -> None:
    """Two trajectories a row; each step's graph is freed before the next step is asked for."""
    batch, steps = context_batch(), 4
    made: dict[str, list[Tensor | None]] = {}
    for kind in (Caching, Encoding):
        model = encoding_model(kind, no_ACT_continue=no_ACT_continue).train()
        clean = model.initial_state(8)
        state = RecurrentState(clean.z_H + torch.linspace(0, 1, 8)[:, None, None], clean.z_L)
        made[kind.__name__] = []
        for step in rollout(model, batch, state):
            labels, taken = batch["labels"].repeat(2, 1), torch.full((8,), step.number)
            act_loss(step.outputs, labels, step.halted, taken, LOSS)[0].backward()  # type: ignore[no-untyped-call]
            made[kind.__name__].append(encoder_gradient(model))
        assert len(model.encoded) == (1 if kind is Caching else steps + (not no_ACT_continue))
    cached, encoded = made["Caching"], made["Encoding"]
    assert [gradient is not None for gradient in cached] == [True] + [False] * (steps - 1)
    torch.testing.assert_close(cached[0], encoded[0], rtol=1e-12, atol=1e-14)
    assert all(gradient is not None and gradient.abs().max() > 1e-6 for gradient in encoded)


def test_flossing_reaches_the_encoder() -> None:
    settings = FlossConfig(mode="inter", k=2, window=1, warmup=1, rows=None, where="late", clip=None)
    gradients = []
    for kind in (Caching, Encoding):
        model = encoding_model(kind).train()
        flossed = flossing_loss(model, context_batch(2), range(2), settings, seed=3, step=0)
        flossed.loss_sum.backward()  # type: ignore[no-untyped-call]
        gradients.append(encoder_gradient(model))
    assert gradients[0] is not None and gradients[0].abs().max() > 1e-8
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-14)


# -- slots


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("slices", [1, 2])
def test_a_slot_keeps_what_was_begun_with_its_row(slices: int, dtype: torch.dtype) -> None:
    """Whatever the encoder's weights have become since; and only rows that enter are encoded."""
    model = encoding_model(Caching, dtype=dtype, halt_exploration_prob=0.5, halt_max_steps=5).train()
    objective = ACTStreaming(LOSS, slices)
    size = 6
    batches = [context_batch(size, seed) for seed in range(12)]
    entered = [0] * size  # the batch that each slot's row is of
    halted = [True] * size
    began: list[Tensor] = [torch.empty(0)] * size
    lengths = set()
    for number, batch in enumerate(batches):
        model.encoded.clear()
        expected = model.encoder.weight.detach().to(dtype)
        for _ in objective.outputs(model, batch, UpdateContext(number, 0, slice(0, size), size)):
            pass
        assert sum(map(len, model.encoded)) == sum(halted) and all(map(len, model.encoded))
        for slot in range(size):
            if halted[slot]:
                lengths.add(number - entered[slot])
                entered[slot] = number
                began[slot] = nn.functional.linear(batch["context"][slot].to(dtype)[None], expected)[0]
        carry = objective.carry
        assert carry is not None and tuple(carry) == (*carry_names(model),)
        for slot in range(size):
            assert torch.equal(carry["context"][slot], batches[entered[slot]]["context"][slot])
            assert torch.equal(carry["labels"][slot], batches[entered[slot]]["labels"][slot])
            torch.testing.assert_close(carry["code"][slot], began[slot], rtol=1e-12, atol=0)
        halted = carry["halted"].tolist()
        with torch.no_grad():
            model.encoder.weight.mul_(-1.25)
    assert len(lengths) > 2 and set(entered) != {entered[0]}, "slots did not halt at different times"


def test_a_model_without_more_has_the_plain_carry() -> None:
    model, batch = small_model("trm-att").train(), context_batch()
    carry, _ = act_step(model, initial_carry(model, batch), batch, training=True)
    plain = ("z_H", "z_L", "steps", "halted", "inputs", "labels", "puzzle_identifiers")
    assert tuple(carry) == plain == carry_names(model)
    other, _ = act_step(model, initial_carry(model, small_batch()), small_batch(), training=True)
    assert all(torch.equal(carry[name], other[name]) for name in plain)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="reads context of each row, and the data have only inputs, labels"):
        initial_carry(encoding_model(Caching), small_batch())
    model, batch = encoding_model(Caching), context_batch()
    with pytest.raises(ValueError, match=r"begin makes \['code'\] of rows with \['code', 'context'"):
        model.begun(batch | {"code": torch.zeros(4)})
    model.begin_keys = ("code", "more")
    with pytest.raises(ValueError, match=r"begin_keys are \('code', 'more'\)"):
        OfficialInference().predict(model, batch)


# -- inference


def by_hand(model: Encoding, row: Batch, num_steps: int, *, adaptive: bool = False) -> tuple[Tensor, Tensor, int]:
    """Logits and q_halt of one row alone, from the ACT wrapper."""
    model.config = replace(model.config, halt_max_steps=num_steps)
    carry = initial_carry(model, row)
    with torch.no_grad():
        for _ in range(num_steps):
            carry, outputs = act_step(model, carry, row, training=False)
            if adaptive and outputs["q_halt_logits"] > 0:
                break
    return outputs["logits"][0], outputs["q_halt_logits"][0], int(carry["steps"])


@pytest.mark.parametrize("kind", [Caching, Encoding])
def test_every_inference_answers_each_row_as_it_would_alone(kind: type[Encoding]) -> None:
    """Adaptive inference has fewer slots than rows, so that rows move between slots on their way."""
    model = encoding_model(kind, halt_max_steps=6).eval()
    with torch.no_grad():  # rows of which some halt early, and at different steps
        for weight in model.L_level.parameters():
            weight.mul_(3)
        model.q_head.weight.normal_(0, 2, generator=torch.Generator().manual_seed(4))
        model.q_head.bias.fill_(-1)  # type: ignore[union-attr]
    size, steps = 11, 6
    rows = context_batch(size) | {"row": torch.arange(size)}
    assert not torch.equal(
        FixedInference(steps).predict(model, rows).logits,
        FixedInference(steps).predict(model, rows | {"context": rows["context"].roll(1, 0)}).logits,
    ), "the context does not matter"
    ways: dict[str, Inference] = {
        "official": OfficialInference(),
        "stepwise": StepwiseInference(steps),
        "perturbed": PerturbedInference(0.0, "both", 2, steps),
        "stochastic": StochasticRollouts(0.0, "both", 2, steps),
        "adaptive": AdaptiveInference(steps),
    }
    batches = [some(rows, list(range(start, min(start + 4, size)))) for start in range(0, size, 4)]
    for name, inference in ways.items():
        seen, lengths = [], set()
        model.encoded.clear()
        for answered, made in inference.answer(model, batches):
            for index, row in enumerate(answered["row"].tolist()):
                alone = copy.deepcopy(model)
                logits, q_halt, taken = by_hand(alone, some(rows, [row]), steps, adaptive=name == "adaptive")
                torch.testing.assert_close(made.logits[index], logits, rtol=1e-9, atol=1e-9)
                torch.testing.assert_close(made.q_halt[index], q_halt, rtol=1e-9, atol=1e-9)
                assert made.steps[index] == taken
                lengths.add(taken)
                seen.append(row)
        assert sorted(seen) == list(range(size))
        assert sum(map(len, model.encoded)) == size, f"{name}: each row is encoded once"
        assert len(lengths) > 2 if name == "adaptive" else lengths == {steps}
    maps = RecursionMaps(model, rows)
    state = maps.initial_state
    with torch.no_grad():
        for _ in range(steps):
            state = maps.step(state)
    torch.testing.assert_close(maps.logits(state), OfficialInference().predict(model, rows).logits, rtol=0, atol=0)


# -- a run


class Contexts(Hook):
    """Gives each row of a batch a context, a function of its tokens."""

    name = "contexts"

    def before_batch(self, state: TrainState, batch: Batch) -> Batch:
        return batch | {"context": batch["inputs"][:, :CONTEXT] - batch["inputs"][:, -CONTEXT:]}


def test_a_run_goes_on_with_what_was_begun(
    sudoku4_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "trm", Caching)
    config = tiny_config("trm_att", sudoku4_folder, tmp_path)

    def fresh() -> Any:
        run = build_run(config, World(), act_objective(config))
        run.hooks = [Contexts()]
        return run

    def train(run: Any, updates: int) -> Any:
        for _ in range(updates):
            batch, run.progress.position = run.source.next(run.progress.position)
            train_on_batch(run, batch, stop_requested=False)
        return run

    run = train(fresh(), 3)
    path = tmp_path / "latest_state.pt"
    save_state(path, full_state(run))
    state = load_state(path)
    assert {"context", "code"} <= state["carry"].keys()
    code, now = state["carry"]["code"], run.model.encode(run.objective.carry)
    running = state["carry"]["steps"] > 1
    assert running.any() and not torch.equal(code[running], now[running]), "the encoder has learned since"
    other = fresh()
    restore(other, state, str(path))
    assert differences(full_state(train(other, 3)), full_state(train(run, 3)), ignore=("train_seconds",)) == []
    for name in ("context", "code"):
        lacking = state | {"carry": {key: leaf for key, leaf in state["carry"].items() if key != name}}
        with pytest.raises(UserError, match=r"its entry 'carry' is not what a run saves, expected .*context, code"):
            restore(fresh(), lacking, str(path))
