"""A batch drawn ahead is the batch that would have been drawn, and whatever goes wrong is said in its turn."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from dataset.source import START, Position
from errors import UserError
from tests.helpers import tiny_config
from training.batches import Batches
from training.devices import upload
from training.setup import open_training_data

CPU = torch.device("cpu")


def sequence(batches: Batches, start: Position, times: int) -> list[tuple[dict[str, torch.Tensor], Position]]:
    drawn, position = [], start
    for _ in range(times):
        batch, position = batches.next(position)
        drawn.append((batch, position))
    return drawn


@pytest.mark.parametrize("slots", [slice(0, 8), slice(4, 8)])
def test_batches_drawn_ahead_are_those_of_the_source(slots: slice, sudoku6_folder: Path, tmp_path: Path) -> None:
    """Over the end of an iteration, and from a position that was not the next one."""
    config = tiny_config("trm_mlp", sudoku6_folder, tmp_path)
    ahead, plain = open_training_data(config), open_training_data(config)
    with Batches(ahead, CPU, slots, ahead=True) as batches:
        found = sequence(batches, START, 20)
        again = sequence(batches, found[3][1], 2)
    position = START
    for batch, following in found:
        expected, position = plain.next(position)
        assert position == following and batch.keys() == expected.keys()
        assert all(torch.equal(batch[key], leaf[slots]) for key, leaf in expected.items())
    assert any(position["iteration"] > 0 for _, position in found)
    for (batch, following), (expected, after) in zip(again, found[4:6], strict=True):
        assert following == after and all(torch.equal(batch[key], leaf) for key, leaf in expected.items())


class Counting:
    """A source whose batch holds its number, drawn in whatever thread; the fourth cannot be had."""

    wants_losses = False

    def __init__(self) -> None:
        self.drawn_in: list[int] = []
        self.learnt = 0

    def next(self, position: Position) -> tuple[dict[str, torch.Tensor], Position]:
        self.drawn_in.append(threading.get_ident())
        if position["batch"] == 3:
            raise UserError("the fourth batch is damaged")
        return {"number": torch.tensor([position["batch"] + 10 * self.learnt])}, {"batch": position["batch"] + 1}


def test_the_next_batch_is_drawn_in_another_thread_and_its_error_comes_in_its_turn() -> None:
    source: Any = Counting()
    with Batches(source, CPU, slice(0, 1), ahead=True) as batches:
        numbers = [int(batch["number"]) for batch, _ in sequence(batches, {"batch": 0}, 3)]
        with pytest.raises(UserError, match="fourth batch"):
            batches.next({"batch": 3})
    assert numbers == [0, 1, 2]
    assert source.drawn_in[0] == threading.get_ident() and threading.get_ident() not in source.drawn_in[1:4]


def test_on_a_cpu_and_where_losses_are_told_nothing_is_drawn_ahead() -> None:
    """What a source learnt of an update is in the very next batch."""
    for device, wants in ((CPU, False), (torch.device("cuda"), True)):
        source: Any = Counting()
        source.wants_losses = wants
        with Batches(source, device, slice(0, 1)) as batches:
            batches._device = CPU  # there need be no GPU for this
            _, following = batches.next({"batch": 0})
            source.learnt = 1
            batch, _ = batches.next(following)
        assert int(batch["number"]) == 11 and len(source.drawn_in) == 2


def test_a_host_tensor_stays_where_it_is_on_a_cpu() -> None:
    tensor = torch.arange(3)
    assert upload(tensor, CPU) is tensor


@pytest.mark.gpu
def test_a_gpu_gets_pinned_batches(sudoku6_folder: Path, tmp_path: Path) -> None:
    config = tiny_config("trm_mlp", sudoku6_folder, tmp_path)
    source, plain, device = open_training_data(config), open_training_data(config), torch.device("cuda")
    with Batches(source, device, slice(0, 8)) as batches:
        drawn = sequence(batches, START, 10)
        assert batches._next is not None
        assert all(leaf.is_pinned() for leaf in batches._next[1].result()[0].values())
    position = START
    for batch, _ in drawn:
        expected, position = plain.next(position)
        assert all(leaf.device.type == "cuda" and torch.equal(leaf.cpu(), expected[key]) for key, leaf in batch.items())
