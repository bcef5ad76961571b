"""Delayed copy and XOR against sequences written by hand."""

import pytest
import torch

from projects.flossing_toy.delayed_bits import TASKS, delayed_bits, draw_bits, first_scored


def column(text: str) -> torch.Tensor:
    return torch.tensor([[int(bit)] for bit in text])


@pytest.mark.parametrize(
    ("task", "delay", "shown", "wanted"),
    [
        #              0123456789
        ("copy", 1, "1011001110", "-101100111"),
        ("copy", 3, "1011001110", "---1011001"),
        # |s_{t-1} - s_{t-2}|, |s_{t-2} - s_{t-4}|
        ("xor", 1, "1011001110", "--11010100"),
        ("xor", 2, "1011001110", "----011111"),
    ],
)
def test_by_hand(task: str, delay: int, shown: str, wanted: str) -> None:
    made_task = delayed_bits(task, delay, column(shown))
    assert made_task.first == wanted.count("-") == first_scored(task, delay)
    assert "".join(str(int(bit)) for bit in made_task.targets[made_task.first :, 0]) == wanted[made_task.first :]
    assert "".join(str(int(bit)) for bit in made_task.inputs[:, 0, 0]) == shown
    assert made_task.inputs.dtype == made_task.targets.dtype == torch.float32


@pytest.mark.parametrize("task", TASKS)
def test_bit_by_bit_in_a_batch(task: str) -> None:
    """Python integers, sequence by sequence."""
    bits = draw_bits(40, 3, torch.Generator().manual_seed(5))
    made_task = delayed_bits(task, 7, bits)
    for column_number in range(3):
        s = bits[:, column_number].tolist()
        for t in range(made_task.first, 40):
            expected = s[t - 7] if task == "copy" else s[t - 7] ^ s[t - 14]
            assert made_task.targets[t, column_number] == expected
    assert 0.3 < float(bits.float().mean()) < 0.7


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="more than 20 steps"):
        delayed_bits("xor", 10, torch.zeros(20, 1))
    with pytest.raises(ValueError, match="at least 1"):
        delayed_bits("copy", 0, torch.zeros(20, 1))
