"""A case-control sample: all failures, as many solved puzzles stratum by stratum, weights that restore the pool."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from analysis.samples import case_control
from analysis.samples.case_control import STRATA, answered, draw
from analysis.samples.networks import one_batch, violations_of
from analysis.samples.trajectory_readings import TrajectoryRecorder
from dataset.puzzle_folder import PuzzleSet, open_puzzle_set
from dynamics.trajectory import residual, trajectory
from errors import UserError
from models.recursion_maps import RecursionMaps
from tests.models.small import small_model


def pool(seed: int, size: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, failures (the harder, the likelier) and difficulties with many ties, as search nodes have them."""
    rng = np.random.default_rng(seed)
    difficulty = rng.geometric(0.4, size).astype(float)
    failed = rng.random(size) < 0.02 * difficulty
    return rng.permutation(10 * size)[:size], failed, difficulty


def by_stratum(rows: np.ndarray, difficulty: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.bincount(np.searchsorted(edges, difficulty, side="right"), minlength=len(edges) + 1)


@pytest.mark.parametrize("count", [60, 4000])
def test_solved_puzzles_are_as_hard_as_failed_ones(count: int) -> None:
    rows, failed, difficulty = pool(0)
    sample = draw(rows, failed, difficulty, count, seed=0)
    assert (np.diff(sample.rows) > 0).all() and np.isin(sample.rows, rows).all()
    where = {row: place for place, row in enumerate(rows.tolist())}
    places = np.array([where[row] for row in sample.rows.tolist()])
    of_failed, of_solved = (difficulty[places[failed[places] == outcome]] for outcome in (True, False))
    assert len(of_failed) == min(count // 2, failed.sum())
    # Wherever the edges lie: the strata are cut by difficulty alone, and each holds as many of both.
    values = np.unique(difficulty)
    same = [np.count_nonzero(of_failed < value) == np.count_nonzero(of_solved < value) for value in values]
    assert sum(same) >= sample.strata and 1 < sample.strata <= STRATA
    unmatched = np.random.default_rng(1).permutation(difficulty[~failed])[: len(of_failed)]
    assert abs(of_solved.mean() - of_failed.mean()) < abs(unmatched.mean() - of_failed.mean())


def test_weights_restore_the_pool() -> None:
    """Of any sample: shares of the pool, by outcome and of what depends on the stratum alone."""
    rows, failed, difficulty = pool(1)
    sample = draw(rows, failed, difficulty, 80, seed=0)
    assert sample.weight.sum() == pytest.approx(len(rows)) and (sample.pool, sample.pool_failed) == (2000, failed.sum())
    chosen = np.isin(rows, sample.rows)
    of_row = dict(zip(sample.rows.tolist(), sample.weight.tolist(), strict=True))
    weight = np.array([of_row[row] for row in rows[chosen].tolist()])
    assert weight[failed[chosen]].sum() == pytest.approx(failed.sum())
    everything = draw(rows, failed, difficulty, 10**6, seed=0)
    taken = np.isin(rows, everything.rows)
    assert taken[failed].all() and set(everything.weight[np.isin(everything.rows, rows[failed])]) == {1.0}
    means = []
    for seed in range(200):
        drawn = draw(rows, failed, difficulty, 80, seed)
        order = np.argsort(rows)
        places = order[np.searchsorted(rows, drawn.rows, sorter=order)]
        means.append(np.average(difficulty[places], weights=drawn.weight))
    error = np.std(means) / np.sqrt(len(means))
    assert abs(np.mean(means) - difficulty.mean()) < 4 * error, "the mean of anything is that of the pool"


def test_a_draw_is_a_function_of_its_seed() -> None:
    first, again, other = (draw(*pool(2), 50, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.rows, again.rows) and not np.array_equal(first.rows, other.rows)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 17])
def test_every_stratum_has_a_share_of_few_puzzles(count: int) -> None:
    rows, failed, difficulty = pool(3)
    sample = draw(rows, failed, difficulty, count, seed=0)
    of_failed = failed[np.isin(rows, sample.rows)]
    assert len(of_failed) == count // 2 * 2 and of_failed.sum() == count // 2
    assert sample.weight.sum() == pytest.approx(len(rows)) and sample.strata <= count // 2
    weight = dict(zip(sample.rows.tolist(), sample.weight.tolist(), strict=True))
    assert sum(weight[row] for row in rows[failed].tolist() if row in weight) == pytest.approx(failed.sum())


@pytest.mark.parametrize("failed", [False, True])
def test_one_outcome_is_all_there_is(failed: bool) -> None:
    sample = draw(np.arange(10), np.full(10, failed), np.zeros(10), 4, seed=0)
    assert len(np.unique(sample.rows)) == 4 and sample.weight.sum() == pytest.approx(10)
    assert sample.described() == {"kind": "case-control", "pool": 10, "failed": 10 * failed, "strata": 1}


def network(puzzle_set: PuzzleSet, weights: str) -> Any:
    """What `answered` reads of a `Network`."""
    model = small_model("trm-mlp", seq_len=36, vocab_size=8).eval()
    return SimpleNamespace(
        checkpoint=SimpleNamespace(config=SimpleNamespace(dtype="float32")), described=lambda: {"weights": weights},
        model=model, puzzle_set=puzzle_set, device=torch.device("cpu"), violations=violations_of(puzzle_set),
    )  # fmt: skip


def test_answers_are_kept_and_are_those_of_the_map(
    sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of what a recorder of the whole way says; kept for the same weights, rows and number of steps only."""
    puzzle_set, rows = open_puzzle_set(sudoku6_folder, "test"), np.arange(3, 36)
    monkeypatch.setattr(case_control, "_BATCH", 8)
    found = answered(network(puzzle_set, "a"), rows, 6, tmp_path)
    maps = RecursionMaps(network(puzzle_set, "a").model, one_batch(puzzle_set, rows))
    whole = TrajectoryRecorder(maps, maps.initial_state, violations_of(puzzle_set))
    states = list(trajectory(maps.step, maps.initial_state, 6))
    for state in states:
        whole(state)
    for name, values in whole.arrays().items():
        np.testing.assert_allclose(found[name], values[:, -3:], rtol=1e-4, atol=1e-6)
    assert np.array_equal(found["failed"], ~found["exact"][:, -1])
    np.testing.assert_allclose(found["residual"], residual(maps.step, states[-1]).numpy(), rtol=1e-3)

    asked: list[int] = []
    plain = RecursionMaps.read
    monkeypatch.setattr(RecursionMaps, "read", lambda maps, state: asked.append(1) or plain(maps, state))
    again = answered(network(puzzle_set, "a"), rows, 6, tmp_path)
    assert np.array_equal(again["residual"], found["residual"]) and not asked
    for weights, steps, calls in (("b", 6, 20), ("b", 2, 30)):
        answered(network(puzzle_set, weights), rows, steps, tmp_path)
        assert len(asked) == calls
    (tmp_path / case_control.FILE_NAME).write_bytes(b"PK damaged")
    with pytest.raises(UserError, match=r"answered\.npz is damaged .* remove it"):
        answered(network(puzzle_set, "b"), rows, 2, tmp_path)
