"""Accumulation: a batch cut into slices makes the update of the whole batch, on one process and on two."""

from pathlib import Path

import pytest
import torch

from tests.helpers import ARCHITECTURES
from tests.training import rank_jobs
from tests.training.comparison import assert_same_update, largest, puzzle_folder
from tests.training.rank_jobs import Record, update_config
from tests.training.ranks import run_ranks
from training.distributed import World
from training.objectives.act_streaming import ACTStreaming
from training.objectives.base import UpdateContext
from training.start import act_objective, build_run

NUM_STATES = 20
SOME_STATES = (0, 1, 7, 13, 19)
ALONE = World()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(puzzle_folder(tmp_path_factory.mktemp("data") / "puzzles"))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def whole(request: pytest.FixtureRequest, data: str, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """20 updates of undivided batches of 40, with the state before each."""
    folder = str(tmp_path_factory.mktemp("states"))
    config = update_config(request.param, data, folder)
    records = rank_jobs.successive_updates(ALONE, config, folder, NUM_STATES)
    return {"arch": request.param, "folder": folder, "records": records}


def test_five_slices_of_8_are_one_batch_of_40(whole: Record, data: str) -> None:
    folder = whole["folder"]
    sliced = rank_jobs.updates_from(ALONE, whole["arch"], data, folder, folder, range(NUM_STATES), slices=5)
    worst = largest([assert_same_update(a, b) for a, b in zip(whole["records"], sliced, strict=True)])
    print(f"{whole['arch']}, 5 slices of 8, largest relative differences: {worst}")


@pytest.mark.parametrize("slices", [1, 40])
def test_slices_down_to_single_rows(whole: Record, data: str, slices: int) -> None:
    folder = whole["folder"]
    sliced = rank_jobs.updates_from(ALONE, whole["arch"], data, folder, folder, SOME_STATES[:2], slices=slices)
    for index, record in zip(SOME_STATES, sliced, strict=False):
        worst = assert_same_update(whole["records"][index], record)
        assert slices > 1 or not any(worst.values()), "one slice is no slicing"


def test_five_slices_on_each_of_two_ranks(whole: Record, data: str) -> None:
    """10 slices of 4 altogether; rows of the table arrive in slot order all the same."""
    folder = whole["folder"]
    arguments = {"arch": whole["arch"], "data": data, "folder": folder, "states": folder}
    sliced = run_ranks("updates_from", indices=list(SOME_STATES), slices=5, **arguments)[0]
    pairs = zip((whole["records"][index] for index in SOME_STATES), sliced, strict=True)
    worst = largest([assert_same_update(a, b) for a, b in pairs])
    print(f"{whole['arch']}, 5 slices of 4 on 2 ranks, largest relative differences: {worst}")


def test_an_update_ends_with_the_last_slice(data: str, tmp_path: Path) -> None:
    """Slices follow the slots; normalizers add up to the batch; the carry is whole after the last one only."""
    config = update_config("trm_mlp", data, str(tmp_path), ["accumulation_slices=5"])
    objective = act_objective(config)
    run = build_run(config, ALONE, objective)
    batch, _ = run.source.next(run.progress.position)
    context = UpdateContext(step=0, seed=0, slots=slice(0, 40), num_slots=40)
    ends, normalizers = [], 0.0
    for output in objective.outputs(run.model, batch, context):
        assert objective.carry is not None and objective.carry["halted"].shape == (40,)
        assert bool(objective.carry["steps"].any()) == output.ends_update
        ends.append(output.ends_update)
        normalizers += output.normalizer
    assert ends == [False] * 4 + [True] and normalizers == 40
    assert objective.carry is not None
    assert torch.equal(objective.carry["inputs"], batch["inputs"])
    assert run.model.puzzle_emb is not None
    ids = torch.cat([ids for ids, _ in run.model.puzzle_emb.take_gathers()])
    assert torch.equal(ids, batch["puzzle_identifiers"])


def test_slices_must_be_equal(data: str, tmp_path: Path) -> None:
    run = build_run(update_config("trm_mlp", data, str(tmp_path)), ALONE, ACTStreaming("softmax_cross_entropy"))
    batch, _ = run.source.next(run.progress.position)
    context = UpdateContext(step=0, seed=0, slots=slice(0, 40), num_slots=40)
    objective = ACTStreaming("softmax_cross_entropy", accumulation_slices=3)
    with pytest.raises(ValueError, match="40 slots cannot be cut into 3 equal slices"):
        next(objective.outputs(run.model, batch, context))
