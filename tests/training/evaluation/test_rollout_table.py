"""The table of rollouts: what is kept, that it survives its file, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from errors import UserError
from tests.training import rank_jobs
from tests.training.ranks import run_ranks
from training.distributed import World
from training.evaluation.rollout_report import accuracies
from training.evaluation.rollout_table import (
    RolloutRecorder,
    RolloutTable,
    answer_hashes,
    joined,
    npz_bytes,
    read_rollouts,
)
from training.inference.stochastic_rollouts import RolloutPredictions

MEND = "make it again"


def test_rows_by_hand() -> None:
    """Two puzzles of two cells, the second with one scored cell, and padding; two rollouts judged once."""
    labels = torch.tensor([[2, 3], [-100, -100], [2, -100]])
    answers = torch.tensor([[[[2, 3]], [[2, 2]]], [[[0, 0]], [[0, 0]]], [[[2, 9]], [[2, 3]]]])
    q = torch.tensor([[[1.0], [2.0]], [[0.0], [0.0]], [[3.0], [4.0]]])
    made = RolloutPredictions(
        answers=answers[:, 0, 0], q_halt=q[:, 0, 0], steps=torch.full((3,), 7), logits=torch.zeros(3, 2, 10),
        forward_passes=0, judged_steps=(7,), rollout_answers=answers, rollout_q=q, rollout_margin=q + 1,
        rollout_growth=q[..., None] * torch.tensor([1.0, -1.0]), noiseless_answers=answers[:, 1],
    )  # fmt: skip
    recorder = RolloutRecorder(2, [7], [1e-3, 1e-2])
    recorder.update({"labels": labels, "row": torch.tensor([5, -1, 4])}, made)
    table = recorder.table()
    assert table.row.tolist() == [4, 5] and table.rollouts == 2 and table.steps.tolist() == [7]
    assert table.exact[..., 0].tolist() == [[True, True], [True, False]]
    assert table.q[..., 0].tolist() == [[3, 4], [1, 2]] and table.margin[..., 0].tolist() == [[4, 5], [2, 3]]
    assert table.growth[1, 1, 0].tolist() == [2, -2]
    same = table.answer[0, 1, 0] == table.answer[1, 0, 0]
    assert same and len(np.unique(table.answer)) == 3, "equal answers, equal numbers"
    recorder.begin()
    assert recorder.table().q.shape == (0, 2, 1) and recorder.table().growth.shape == (0, 2, 1, 2)


def test_hashes_tell_answers_apart_whatever_their_dtype() -> None:
    every = torch.cartesian_prod(*[torch.arange(6)] * 4)
    hashes = answer_hashes(every)
    assert len(hashes.unique()) == 6**4 and torch.equal(answer_hashes(every.to(torch.int16)), hashes)
    assert torch.equal(answer_hashes(every.view(6, 216, 4)).view(-1), hashes)


def small_table() -> RolloutTable:
    rng = np.random.default_rng(0)
    shape = (4, 3, 2)
    return RolloutTable(
        row=np.array([1, 4, 6, 9]), steps=np.array([2, 5]), q=rng.normal(size=shape).astype(np.float32),
        exact=rng.random(shape) < 0.5, noiseless=rng.random((4, 2)) < 0.5,
        answer=rng.integers(-(2**63), 2**63 - 1, shape),
        margin=rng.random(shape).astype(np.float32), growth=rng.normal(size=(*shape, 2)).astype(np.float32),
        sizes=np.array([1e-3, 1e-2]),
    )  # fmt: skip


def assert_same(first: RolloutTable, second: RolloutTable) -> None:
    for name, array in vars(first).items():
        assert np.array_equal(array, getattr(second, name)) and array.dtype == getattr(second, name).dtype, name


def test_a_file_of_before_lacks_the_trajectory_without_noise(tmp_path: Path) -> None:
    arrays = small_table().arrays({})
    del arrays["noiseless"]
    np.savez(tmp_path / "old.npz", **arrays)
    table, _ = read_rollouts(tmp_path / "old.npz", mend="")
    assert table.noiseless.shape == (4, 0)
    assert "noiseless" not in {each["selector"] for each in accuracies(table, probe_passes=1, flops_per_step=1.0)}


def test_a_file_gives_back_the_table(tmp_path: Path) -> None:
    table, settings = small_table(), {"sigma": 0.3, "site": "z_L"}
    arrays = table.arrays(settings)
    (tmp_path / "a.npz").write_bytes(npz_bytes(arrays | {f"test/{name}": array for name, array in arrays.items()}))
    for prefix in ("", "test/"):
        found, told = read_rollouts(tmp_path / "a.npz", prefix, mend=MEND)
        assert_same(found, table)
        assert told == settings
    assert npz_bytes(arrays) == npz_bytes(small_table().arrays(settings))


def test_parts_join_in_the_order_of_rows() -> None:
    table = small_table()
    shared = {"steps": table.steps, "sizes": table.sizes}
    cut = [
        RolloutTable(**{name: array[part] for name, array in vars(table).items() if name not in shared}, **shared)
        for part in ([3, 0], [2], [1])
    ]
    assert_same(joined(cut), table)


def damaged(**changes: Any) -> bytes:
    arrays = small_table().arrays({})
    return npz_bytes({name: array for name, array in (arrays | changes).items() if array is not None})


WRONG = {
    "nothing": (b"", "is no table of rollouts"),
    "text": (b"hello", "is no table of rollouts"),
    "cut": (damaged()[:-30], "is no table of rollouts"),
    "missing": (damaged(q=None), "is no table of rollouts"),
    "pickled": (damaged(q=np.array([{}], object)), "is no table of rollouts"),
    "dtype": (damaged(exact=np.zeros((4, 3, 2), np.int8)), "'exact' is int8 of shape (4, 3, 2), expected bool"),
    "small dtype": (damaged(q=np.zeros((4, 3, 2), np.float16)), "'q' is float16 of shape (4, 3, 2), expected float32"),
    "axes": (damaged(growth=np.zeros((4, 3, 2), np.float32)), "'growth' is float32"),
    "shape": (damaged(margin=np.zeros((4, 3, 1), np.float32)), "'margin' has shape (4, 3, 1), expected (4, 3, 2)"),
    "settings": (damaged(settings=np.frombuffer(b"{", np.uint8)), "'settings' is no JSON"),
    "list": (damaged(settings=np.frombuffer(b"[]", np.uint8)), "'settings' is a list"),
    "empty": (
        npz_bytes(RolloutRecorder(3, [2], [1e-3]).table().arrays({})), "holds no rollout: q has the shape (0, 3, 1)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused(case: str, tmp_path: Path) -> None:
    data, says = WRONG[case]
    path = tmp_path / "a.npz"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_rollouts(path, mend=MEND)
    assert says in str(caught.value) and str(path) in str(caught.value) and str(caught.value).endswith(MEND)
    with pytest.raises(UserError, match="no such file"):
        read_rollouts(tmp_path / "none.npz", mend=MEND)


def test_settings_are_strict_json() -> None:
    text = small_table().arrays({"b": 1, "a": [0.5]})["settings"].tobytes().decode()
    assert text == '{"a": [0.5], "b": 1}' and json.loads(text)


@pytest.mark.parametrize("count", [1, 13])
def test_two_processes_keep_what_one_does(count: int) -> None:
    alone = rank_jobs.rollouts(World(), count)
    assert alone["row"].tolist() == list(range(count)) and alone["forward_passes"] >= count * 3 * (4 + 2 * 10)
    assert count == 1 or 0 < alone["exact"].sum() < alone["exact"].numel()
    for other in run_ranks("rollouts", count=count):
        assert other["forward_passes"] == alone["forward_passes"]
        for name in ("row", "exact", "answer"):
            assert torch.equal(other[name], alone[name]), name
        for name in ("q", "margin", "growth"):
            assert torch.allclose(other[name], alone[name], rtol=0, atol=1e-5), name
