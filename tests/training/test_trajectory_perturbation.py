"""Objectives on perturbed trajectories: against single trajectories unrolled one by one, and against one another."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from models import act
from models.act import Batch, act_step, draw_min_halt_steps, initial_carry
from models.losses import act_loss
from models.recursion import RecurrentState, SupervisionStep
from models.recursive_model import RecursiveModel
from tests.models.small import ARCHITECTURES, small_batch, small_model
from training.noise import SITES, draw_noise
from training.objectives.base import Output, UpdateContext
from training.objectives.perturbed_starts import starting_state, trajectories
from training.objectives.trajectory_perturbation import KINDS_OF_ROLLOUT
from training.optim import merge_gathers, sum_rows
from training.seeding import generator
from training.settings.schema import OBJECTIVE_NAMES, ObjectiveConfig

CHOICES = {field.name: getattr(field.metadata["range"], "names", ()) for field in fields(ObjectiveConfig)}
MASK_NORMALIZERS = CHOICES["mask_normalize"]
LOSS = "stablemax_cross_entropy"
B, K = 4, 3
CONTEXT = UpdateContext(step=5, seed=2, slots=slice(0, B), num_slots=B)
MULTI = ObjectiveConfig(name="multi_perturbed_ce", num_trajectories=K, sigma=0.3)
SINGLE = ObjectiveConfig(name="single_perturbed_ce", sigma=0.3)
BASELINE = ObjectiveConfig(name="baseline_ce")


@dataclass
class Update:
    """What one update would divide and hand to the optimizers."""

    gradients: dict[str, Tensor]
    table: Tensor
    loss: float
    normalizer: float
    outputs: list[Output] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)


def make_update(
    model: RecursiveModel,
    settings: ObjectiveConfig,
    batch: Batch,
    context: UpdateContext = CONTEXT,
    slices: int = 1,
) -> Update:
    """Back-propagate the outputs as the loop does."""
    model.train()
    model.zero_grad(set_to_none=True)
    objective = KINDS_OF_ROLLOUT[settings.rollout](settings, LOSS, slices)
    outputs = []
    for output in objective.outputs(model, batch, context):
        output.loss_sum.backward()  # type: ignore[no-untyped-call]
        outputs.append(output)
    normalizer = sum(output.normalizer for output in outputs)
    metrics: dict[str, float] = {}
    for output in outputs:
        for name, value in output.metric_sums.items():
            metrics[name] = metrics.get(name, 0.0) + float(value)
    loss = sum(float(output.loss_sum.detach()) for output in outputs) / normalizer
    return Update(_gradients(model, normalizer), _table(model, normalizer), loss, normalizer, outputs, metrics)


def _gradients(model: RecursiveModel, normalizer: float) -> dict[str, Tensor]:
    return {name: p.grad / normalizer for name, p in model.named_parameters() if p.grad is not None}


def _table(model: RecursiveModel, normalizer: float) -> Tensor:
    """The gradient of every row of the puzzle table."""
    assert model.puzzle_emb is not None
    gathered = merge_gathers(model.puzzle_emb.take_gathers())
    assert gathered is not None
    ids, rows = sum_rows(*gathered)
    dense = torch.zeros_like(model.puzzle_emb.weights)
    dense[ids] = rows / normalizer
    return dense


def by_hand(model: RecursiveModel, settings: ObjectiveConfig, batch: Batch, context: UpdateContext = CONTEXT) -> Update:
    """Every trajectory alone, step by step through the ACT wrapper, with one graph for everything."""
    model.train()
    model.zero_grad(set_to_none=True)
    by_q = settings.rollout != "parallel_fixed"
    maximum = model.config.halt_max_steps
    total = context.num_slots * settings.num_trajectories
    shape = (model.config.total_len, model.config.hidden_size)
    losses: list[list[Tensor]] = []
    metrics = {"count": 0.0, "steps": 0.0}
    for number in range(total):
        index, slot = divmod(number, context.num_slots)
        row = {key: leaf[slot : slot + 1] for key, leaf in batch.items()}
        carry = initial_carry(model, row)
        state = model.initial_state(1)
        clean = {"baseline_ce": True, "single_perturbed_ce": False, "multi_perturbed_ce": index == 0}
        for name in ("z_H", "z_L"):
            leaf = getattr(state, name)
            if not clean[settings.name] and settings.perturb in (name, "both"):
                noise = draw_noise(context.seed, context.step, [number], shape, f"start/{name}")
                leaf = (leaf.double() + float(torch.tensor(settings.sigma)) * noise.double()).to(leaf.dtype)
            carry[name] = leaf
        carry |= row
        losses.append([])
        for step in range(1, maximum + 1):
            draws = generator(context.seed, f"act_exploration/{step}", context.step)
            minimum = draw_min_halt_steps(total, maximum, model.config.halt_exploration_prob, draws)[number]
            carry["halted"] = torch.zeros(1, dtype=torch.bool)
            carry, outputs = act_step(
                model, carry, row, training=True, min_halt_steps=minimum.view(1) if by_q else torch.tensor([99])
            )
            halted = bool(carry["halted"]) if by_q else step == maximum
            loss, sums = act_loss(outputs, row["labels"], torch.tensor([halted]), carry["steps"], LOSS)
            losses[-1].append(loss)
            metrics = {name: value + float(sums[name]) for name, value in metrics.items()}
            if halted or step == maximum:
                break
    if by_q and settings.mask_normalize == "trajectory":
        loss = torch.stack([torch.stack(each).mean() for each in losses]).mean()
    else:
        loss = torch.cat([torch.stack(each) for each in losses]).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    return Update(_gradients(model, 1.0), _table(model, 1.0), float(loss.detach()), 1.0, [], metrics)


def assert_close(first: Update, second: Update, tolerance: float = 1e-10) -> None:
    assert first.gradients.keys() == second.gradients.keys() and len(first.gradients) > 3
    pairs = [(first.gradients[name], second.gradients[name]) for name in first.gradients]
    for a, b in [*pairs, (first.table, second.table)]:
        assert a.dtype == torch.float64 and a.abs().sum() > 0
        assert (a - b).abs().max() <= tolerance * a.abs().max()
    assert first.loss == pytest.approx(second.loss, rel=tolerance)


def assert_same_bits(first: Update, second: Update) -> None:
    assert first.gradients.keys() == second.gradients.keys()
    assert all(torch.equal(first.gradients[name], second.gradients[name]) for name in first.gradients)
    assert torch.equal(first.table, second.table)
    assert first.loss == second.loss and first.metrics == second.metrics


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> RecursiveModel:
    return float64_model(request.param)


def float64_model(arch: str, **changes: Any) -> RecursiveModel:
    """Float64 throughout; some trajectories halt early, some do not."""
    model = small_model(arch, q_dtype=torch.float64, halt_exploration_prob=0.3, **changes)
    if arch == "hrm":
        with torch.no_grad():
            model.q_head.bias[0] = 1.5
    return model


def with_rollout(settings: ObjectiveConfig, rollout: str, normalize: str = "trajectory") -> ObjectiveConfig:
    return replace(settings, rollout=rollout, mask_normalize=normalize)


# -- against trajectories unrolled by hand


@pytest.mark.parametrize("settings", [BASELINE, SINGLE, MULTI], ids=lambda settings: settings.name)
def test_parallel_fixed_is_the_mean_over_single_trajectories(model: RecursiveModel, settings: ObjectiveConfig) -> None:
    batch = small_batch(B)
    found, expected = make_update(model, settings, batch), by_hand(model, settings, batch)
    assert_close(found, expected)
    steps, count = model.config.halt_max_steps, B * settings.num_trajectories
    assert [output.ends_update for output in found.outputs] == [False] * (steps - 1) + [True]
    assert {output.normalizer for output in found.outputs} == {float(count)}
    assert found.metrics["count"] == count and found.metrics["steps"] == count * steps


@pytest.mark.parametrize("normalize", MASK_NORMALIZERS)
@pytest.mark.parametrize("rollout", ["serial_act", "act_mask"])
def test_act_rollouts_are_single_trajectories_until_they_halt(
    model: RecursiveModel, rollout: str, normalize: str
) -> None:
    settings = with_rollout(MULTI, rollout, normalize)
    batch = small_batch(B)
    found, expected = make_update(model, settings, batch), by_hand(model, settings, batch)
    assert_close(found, expected)
    assert found.metrics["count"] == expected.metrics["count"] == B * K, "each trajectory halts once"
    assert found.metrics["steps"] == expected.metrics["steps"]
    maximum = model.config.halt_max_steps
    assert B * K < found.metrics["steps"] < B * K * maximum, "some halt early, some do not"
    total = B * K if normalize == "trajectory" else found.metrics["steps"]
    assert found.normalizer == total
    assert [output.ends_update for output in found.outputs][-1] is True
    assert sum(output.ends_update for output in found.outputs) == 1


@pytest.mark.parametrize("normalize", MASK_NORMALIZERS)
def test_serial_and_masked_rollouts_make_one_update(model: RecursiveModel, normalize: str) -> None:
    batch = small_batch(B)
    serial, masked = (
        make_update(model, with_rollout(MULTI, rollout, normalize), batch) for rollout in ("serial_act", "act_mask")
    )
    assert_close(serial, masked)
    assert len(serial.outputs) > len(masked.outputs)


@pytest.mark.parametrize("normalize", MASK_NORMALIZERS)
def test_a_network_that_never_halts_makes_the_fixed_rollout(model: RecursiveModel, normalize: str) -> None:
    with torch.no_grad():
        model.q_head.weight.zero_()
        model.q_head.bias.copy_(torch.tensor([-5.0, 5.0]))
    batch = small_batch(B)
    masked = make_update(model, with_rollout(MULTI, "act_mask", normalize), batch)
    assert_close(make_update(model, MULTI, batch), masked)


# -- nothing is started anew inside an update


def test_the_naive_concatenation_starts_copies_again_and_this_does_not(
    model: RecursiveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B*K copies in the slots of ACT streaming: a copy that halts early is reloaded, and its (x, y) counts again."""
    batch = small_batch(B)
    copies = {key: leaf.repeat(K, *(1,) * (leaf.ndim - 1)) for key, leaf in batch.items()}
    starts = torch.zeros(B * K, dtype=torch.int64)
    original = act.start_halted_slots

    def counted(model: RecursiveModel, carry: Batch, batch: Batch) -> Batch:
        starts.add_(carry["halted"].long())
        return original(model, carry, batch)

    monkeypatch.setattr(act, "start_halted_slots", counted)
    carry = initial_carry(model, copies)
    with torch.no_grad():
        for _ in range(model.config.halt_max_steps):
            carry, _ = act_step(model, carry, copies, training=True)
    assert starts.min() >= 1 and starts.max() > 1, "a slot took its own puzzle again within one rollout"

    begun: list[int] = []
    initial = model.initial_state

    def noted(size: int) -> RecurrentState:
        begun.append(size)
        return initial(size)

    monkeypatch.setattr(model, "initial_state", noted)
    monkeypatch.setattr(act, "start_halted_slots", None)
    for rollout in ("act_mask", "serial_act"):
        begun.clear()
        settings = with_rollout(replace(MULTI, sigma=0.0), rollout)
        found = make_update(model, settings, batch)
        assert sum(begun) == B * K, "every trajectory begins once"
        assert found.metrics["count"] == B * K, "and ends once"


# -- off means off


def test_no_noise_is_the_baseline_to_the_bit(model: RecursiveModel) -> None:
    batch = small_batch(B)
    for rollout in KINDS_OF_ROLLOUT:
        baseline = make_update(model, with_rollout(BASELINE, rollout), batch)
        for changes in (
            {"sigma": 0.0},
            {"noise_sampling": "mixture", "p_clean": 1.0},
            {"noise_sampling": "loguniform", "clean_warmup_steps": CONTEXT.step + 1},
            {"sigma_ramp_steps": 10, "clean_warmup_steps": CONTEXT.step},
        ):
            single = make_update(model, replace(with_rollout(SINGLE, rollout), **changes), batch)
            assert_same_bits(single, baseline)
        assert any(
            not torch.equal(gradient, baseline.gradients[name])
            for name, gradient in make_update(model, with_rollout(SINGLE, rollout), batch).gradients.items()
        )


def test_several_trajectories_without_noise_make_the_update_of_one(model: RecursiveModel) -> None:
    """Not so with exploration, which binds each trajectory by itself; hence the fixed rollout."""
    batch = small_batch(B)
    assert_close(make_update(model, replace(MULTI, sigma=0.0), batch), make_update(model, BASELINE, batch))


# -- starts


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("settings", [BASELINE, SINGLE, MULTI], ids=lambda settings: settings.name)
def test_starts(model: RecursiveModel, settings: ObjectiveConfig, site: str) -> None:
    """Trajectory 0 of multi is clean, the others are at z0 + sigma epsilon at the chosen site."""
    settings = replace(settings, perturb=site, sigma=0.25)
    chosen = trajectories(settings, CONTEXT, slice(0, B), range(settings.num_trajectories))
    assert chosen.numbers == list(range(B * settings.num_trajectories))
    state = starting_state(model, settings, CONTEXT, chosen)
    clean = model.initial_state(1)
    first_perturbed = {"baseline_ce": B * K, "single_perturbed_ce": 0, "multi_perturbed_ce": B}[settings.name]
    for number in chosen.numbers:
        for name in ("z_H", "z_L"):
            start, z0 = getattr(state, name)[number], getattr(clean, name)[0]
            if number < first_perturbed or site not in (name, "both"):
                assert torch.equal(start, z0)
            else:
                noise = draw_noise(CONTEXT.seed, CONTEXT.step, [number], tuple(z0.shape), f"start/{name}")[0]
                assert torch.equal(start, z0 + 0.25 * noise)


def test_a_trajectory_keeps_its_name_in_any_cut_of_the_batch() -> None:
    context = UpdateContext(step=0, seed=0, slots=slice(6, 12), num_slots=12)
    part = trajectories(MULTI, context, slice(2, 4), range(1, 3))
    assert part.numbers == [12 + 8, 12 + 9, 24 + 8, 24 + 9] and part.perturbed == [True] * 4
    more = trajectories(replace(MULTI, num_trajectories=9), context, slice(2, 4), range(1, 3))
    assert more == part


def test_every_update_has_its_own_noise(model: RecursiveModel) -> None:
    batch = small_batch(B)
    here = make_update(model, SINGLE, batch)
    assert_same_bits(here, make_update(model, SINGLE, batch))
    for changed in (replace(CONTEXT, step=6), replace(CONTEXT, seed=3)):
        assert make_update(model, SINGLE, batch, changed).loss != here.loss


# -- cuts of the batch


@pytest.mark.parametrize("rollout", KINDS_OF_ROLLOUT)
def test_slices_of_rows_add_up(model: RecursiveModel, rollout: str) -> None:
    batch = small_batch(B)
    settings = with_rollout(MULTI, rollout)
    whole = make_update(model, settings, batch)
    for slices in (2, 4):
        cut = make_update(model, settings, batch, slices=slices)
        assert_close(whole, cut)
        assert cut.normalizer == whole.normalizer and cut.metrics["count"] == whole.metrics["count"]
        assert [output.ends_update for output in cut.outputs].index(True) == len(cut.outputs) - 1


def test_slices_must_be_equal(model: RecursiveModel) -> None:
    with pytest.raises(ValueError, match="4 slots cannot be cut into 3 equal slices"):
        make_update(model, MULTI, small_batch(B), slices=3)


# -- cost


class Holder:
    """A saved tensor that can be watched."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def peak_saved_bytes(model: RecursiveModel, settings: ObjectiveConfig, batch: Batch) -> int:
    """The most bytes that graphs hold at one time for the backward pass of an update; weights are not counted."""
    alive, peak = 0, 0
    weights = {p.data_ptr() for p in model.parameters()}

    def freed(size: int) -> None:
        nonlocal alive
        alive -= size

    def pack(tensor: Tensor) -> Holder:
        nonlocal alive, peak
        holder = Holder(tensor)
        size = 0 if tensor.data_ptr() in weights else tensor.numel() * tensor.element_size()
        alive += size
        peak = max(peak, alive)
        weakref.finalize(holder, freed, size)
        return holder

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda holder: holder.tensor):
        make_update(model, settings, batch)
    gc.collect()
    return peak


@pytest.mark.parametrize("rollout", KINDS_OF_ROLLOUT)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_memory_does_not_grow_with_the_number_of_steps(arch: str, rollout: str) -> None:
    batch = small_batch(B)
    settings = with_rollout(MULTI, rollout)
    peaks = []
    for steps in (3, 12):
        model = float64_model(arch, halt_max_steps=steps)
        with torch.no_grad():
            model.q_head.bias.copy_(torch.tensor([-50.0, 50.0]))
        peaks.append(peak_saved_bytes(model, settings, batch))
    assert peaks[0] > 0 and peaks[1] == peaks[0]
    one = peak_saved_bytes(model, with_rollout(SINGLE, rollout), batch)
    assert peak_saved_bytes(model, replace(settings, num_trajectories=4), batch) < 4.2 * one


@pytest.mark.parametrize("normalize", MASK_NORMALIZERS)
@pytest.mark.parametrize("rollout", KINDS_OF_ROLLOUT)
def test_supervision_steps_are_counted_as_they_are_computed(
    model: RecursiveModel, rollout: str, normalize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows times sub-updates, with and without a graph, against what the outputs say."""
    with_graph = without = 0
    original = model.supervision_step

    def watched(embeddings: Tensor) -> SupervisionStep:
        step = original(embeddings)

        def counted(sub_update: Callable[[RecurrentState], RecurrentState]) -> Any:
            def apply(state: RecurrentState) -> RecurrentState:
                nonlocal with_graph, without
                if torch.is_grad_enabled():
                    with_graph += state.z_H.shape[0]
                else:
                    without += state.z_H.shape[0]
                return sub_update(state)

            return apply

        return SupervisionStep([counted(sub_update) for sub_update in step.sub_updates], step.grad_start)

    monkeypatch.setattr(model, "supervision_step", watched)
    found = make_update(model, with_rollout(MULTI, rollout, normalize), small_batch(B))
    monkeypatch.undo()
    step = model.supervision_step(torch.zeros(1, model.config.total_len, model.config.hidden_size).double())
    tail = len(step.sub_updates) - step.grad_start
    trained = sum(output.trained_steps for output in found.outputs)
    extra = sum(output.extra_passes for output in found.outputs)
    assert with_graph == trained * tail
    assert without == trained * step.grad_start + extra * len(step.sub_updates)
    if rollout == "parallel_fixed":
        steps = model.config.halt_max_steps
        assert trained == B * K * steps
        assert extra == (0 if model.config.no_ACT_continue else B * K), "a target costs one look-ahead per rollout"


# -- names


def test_settings_and_code_know_the_same_names() -> None:
    assert tuple(KINDS_OF_ROLLOUT) == CHOICES["rollout"]
    for name in OBJECTIVE_NAMES[1:]:
        count = 2 if name == "multi_perturbed_ce" else 1
        settings = ObjectiveConfig(name=name, num_trajectories=count)
        assert KINDS_OF_ROLLOUT["parallel_fixed"](settings, LOSS).name == name


def test_nothing_lives_between_updates() -> None:
    objective = KINDS_OF_ROLLOUT["parallel_fixed"](MULTI, LOSS)
    assert objective.carry is None and objective.state_dict() == {}
    assert objective.carry_names(small_model("trm-att")) == ()
    with pytest.raises(ValueError, match="keeps no state but found"):
        objective.load_state_dict({"x": 1})
