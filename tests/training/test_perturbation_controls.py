"""Noise on the input and on the weights: against hand-made updates, off means off, nothing stays perturbed."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.recursive_model import RecursiveModel
from tests.helpers import assert_same_state, differences, logged_training, train_here
from tests.models.small import small_batch
from tests.training import rank_jobs
from tests.training.comparison import puzzle_folder
from tests.training.ranks import run_ranks
from tests.training.test_perturbed_training import INTERVALS
from tests.training.test_perturbed_training import MULTI as MULTI_OPTIONS
from tests.training.test_perturbed_training import assert_close as assert_records_close
from tests.training.test_trajectory_perturbation import (
    BASELINE,
    CONTEXT,
    LOSS,
    MULTI,
    SINGLE,
    B,
    K,
    assert_close,
    assert_same_bits,
    make_update,
    model,
)
from training.distributed import World
from training.noise import draw_noise
from training.objectives.perturbed_weights import perturbed_weights
from training.objectives.trajectory_perturbation import KINDS_OF_ROLLOUT

__all__ = ["model"]  # the fixture
CONTROLS = ("input", "weights")
# A normalizer of one update with equal weights for all trajectories and steps.
FIXED = [replace(settings, rollout="parallel_fixed") for settings in (SINGLE, MULTI)]


def weight_noise(model: RecursiveModel, index: int) -> dict[str, Tensor]:
    return {
        name: draw_noise(CONTEXT.seed, CONTEXT.step, [index * B], tuple(weight.shape), f"weights/{name}")[0]
        for name, weight in model.named_parameters()
    }


def moved_copy(model: RecursiveModel, index: int, sigma: float) -> RecursiveModel:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            weight.add_(weight_noise(model, index)[name].to(weight.dtype) * sigma)
    return other


@pytest.mark.parametrize("site", CONTROLS)
@pytest.mark.parametrize("rollout", KINDS_OF_ROLLOUT)
def test_without_noise_it_is_the_baseline_to_the_bit(model: RecursiveModel, site: str, rollout: str) -> None:
    batch = small_batch(B)
    off = make_update(model, replace(SINGLE, perturb=site, rollout=rollout, sigma=0.0), batch)
    assert_same_bits(off, make_update(model, replace(BASELINE, rollout=rollout), batch))
    on = make_update(model, replace(SINGLE, perturb=site, rollout=rollout), batch)
    assert on.loss != off.loss


def test_input_noise_of_size_0_is_a_start_of_size_0(model: RecursiveModel) -> None:
    batch = small_batch(B)
    updates = [make_update(model, replace(MULTI, perturb=site, sigma=0.0), batch) for site in ("input", "both")]
    assert_same_bits(*updates)


@pytest.mark.parametrize("settings", FIXED, ids=lambda settings: settings.name)
def test_input_noise_by_hand(model: RecursiveModel, settings: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trajectory alone: a baseline whose embedding is another one."""
    settings = replace(settings, perturb="input")  # type: ignore[type-var]
    batch = small_batch(B)
    made = make_update(model, settings, batch)
    embed = type(model).embed
    gradients: dict[str, Tensor] = {}
    table = torch.zeros_like(made.table)
    losses = []
    for number in range(B * settings.num_trajectories):
        index, slot = divmod(number, B)
        clean = settings.name == "multi_perturbed_ce" and index == 0
        shape = (model.config.total_len, model.config.hidden_size)
        noise = draw_noise(CONTEXT.seed, CONTEXT.step, [number], shape, "input").double() * (0.0 if clean else 0.3)
        monkeypatch.setattr(type(model), "embed", lambda *args, noise=noise: embed(*args) + noise)
        row = {key: leaf[slot : slot + 1] for key, leaf in batch.items()}
        alone = make_update(model, BASELINE, row, replace(CONTEXT, slots=slice(0, 1), num_slots=1))
        for name, gradient in alone.gradients.items():
            gradients[name] = gradients.get(name, torch.zeros_like(gradient)) + gradient
        table += alone.table
        losses.append(alone.loss)
    count = len(losses)
    expected = replace(
        made,
        gradients={name: gradient / count for name, gradient in gradients.items()},
        table=table / count,
        loss=sum(losses) / count,
    )
    # sigma is a float32 number
    assert_close(made, expected, tolerance=1e-6)


@pytest.mark.parametrize("settings", FIXED, ids=lambda settings: settings.name)
def test_weight_noise_by_hand(model: RecursiveModel, settings: object) -> None:
    """The mean of the gradients at each trajectory's own weights, handed over with the clean weights in place."""
    settings = replace(settings, perturb="weights")  # type: ignore[type-var]
    batch = small_batch(B)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    places = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    made = make_update(model, settings, batch)
    assert [output.ends_update for output in made.outputs] == [False] * (len(made.outputs) - 1) + [True]
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]) and weight.data_ptr() == places[name]
    first = 1 if settings.name == "multi_perturbed_ce" else 0
    alone = [
        make_update(moved_copy(model, index, float(torch.tensor(0.3)) if index >= first else 0.0), BASELINE, batch)
        for index in range(settings.num_trajectories)
    ]
    count = len(alone)
    expected = replace(
        made,
        gradients={name: sum(each.gradients[name] for each in alone) / count for name in made.gradients},
        table=sum(each.table for each in alone) / count,
        loss=sum(each.loss for each in alone) / count,
    )
    assert_close(made, expected)
    assert made.loss != pytest.approx(alone[0].loss, rel=1e-6) or count == 1


@pytest.mark.parametrize("rollout", KINDS_OF_ROLLOUT)
def test_weights_are_clean_whenever_an_update_ends(model: RecursiveModel, rollout: str) -> None:
    batch = small_batch(B)
    before = [weight.detach().clone() for weight in model.parameters()]
    moved = []
    objective = KINDS_OF_ROLLOUT[rollout](replace(MULTI, perturb="weights", rollout=rollout), LOSS, 2)
    model.train()
    for output in objective.outputs(model, batch, CONTEXT):
        output.loss_sum.backward()  # type: ignore[no-untyped-call]
        same = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert same or not output.ends_update
        moved.append(not same)
    assert any(moved) and not moved[-1] and output.ends_update


def test_weights_are_restored_when_an_update_is_given_up(model: RecursiveModel) -> None:
    before = [weight.detach().clone() for weight in model.parameters()]

    def clean() -> bool:
        return all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))

    outputs = KINDS_OF_ROLLOUT["parallel_fixed"](replace(SINGLE, perturb="weights"), LOSS).outputs(
        model.train(), small_batch(B), CONTEXT
    )
    next(outputs)
    assert not clean()
    outputs.close()  # type: ignore[attr-defined]
    assert clean()
    settings = replace(SINGLE, perturb="weights")
    with pytest.raises(KeyError), perturbed_weights(model, settings, CONTEXT, 0, True) as moved:
        assert moved and not clean()
        raise KeyError
    assert clean()


def test_all_slots_and_slices_share_the_weights(model: RecursiveModel) -> None:
    batch = small_batch(B)
    settings = replace(MULTI, perturb="weights", sigma=0.05)  # with more, rounding alone grows beyond the tolerance
    assert_close(make_update(model, settings, batch), make_update(model, settings, batch, slices=2))
    other = replace(CONTEXT, step=CONTEXT.step + 1)
    assert make_update(model, settings, batch).loss != make_update(model, settings, batch, other).loss


@pytest.mark.parametrize("site", CONTROLS)
def test_stop_and_go_on(site: str, sudoku6_folder: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = [*MULTI_OPTIONS, *INTERVALS, f"objective.perturb={site}"]
    for folder, step in ((whole, 16), (parts, 11), (parts, 16)):
        train_here("trm_att", sudoku6_folder, folder, [*options, f"max_steps={step}"])
    assert_same_state(whole, parts)
    assert logged_training(whole) == logged_training(parts) != []


@pytest.mark.parametrize("site", CONTROLS)
def test_one_update_on_two_ranks_is_the_update_of_one(
    site: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    data = str(puzzle_folder(tmp_path_factory.mktemp("data") / "puzzles"))
    options = [*MULTI_OPTIONS, f"objective.perturb={site}"]
    shared = {"arch": "trm_att", "data": data, "folder": str(tmp_path), "options": options, "updates": [5, 40]}
    one = rank_jobs.perturbed_updates(World(), **shared)  # type: ignore[arg-type]
    for alone, first, second in zip(one, *run_ranks("perturbed_updates", **shared), strict=True):
        assert differences(first, second) == [], "ranks differ"
        assert_records_close(alone, first)


def test_more_trajectories_keep_the_weights_of_the_first(model: RecursiveModel) -> None:
    """The noise of an index does not depend on K."""
    batch = small_batch(B)
    three, two = (
        make_update(model, replace(MULTI, perturb="weights", num_trajectories=count), batch) for count in (K, 2)
    )
    steps = model.config.halt_max_steps
    losses = [[float(output.loss_sum.detach()) for output in update.outputs] for update in (three, two)]
    assert losses[0][: 2 * steps] == losses[1][: 2 * steps]
