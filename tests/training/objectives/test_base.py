"""What objectives share: slices of a batch, and what is said of the rows that are done."""

import pytest
import torch

from models.losses import IGNORE_LABEL_ID
from training.objectives.base import EXAMPLE, PuzzleObjective, Stateless, equal_slices

LOSS = "softmax_cross_entropy"


def test_slices_are_equal_and_cover_the_rows() -> None:
    assert equal_slices(6, 3) == [slice(0, 2), slice(2, 4), slice(4, 6)] and equal_slices(5, 1) == [slice(0, 5)]
    with pytest.raises(ValueError, match="7 slots cannot be cut into 2 equal slices"):
        equal_slices(7, 2)


def test_losses_of_rows_that_are_done() -> None:
    """Means over scored tokens, in the order of the rows; 0, not 0 / 0, where a row has none."""
    labels = torch.tensor([[1, 2, IGNORE_LABEL_ID], [IGNORE_LABEL_ID] * 3, [2, 1, 1], [0, 0, 0]])
    logits = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    done, numbers = torch.tensor([True, True, True, False]), torch.tensor([7, 5, 3, 1])
    rows = {EXAMPLE: torch.tensor([40, 30, 20, 10]), "labels": labels}
    found = PuzzleObjective(LOSS).answered({"logits": logits}, rows, done, numbers)
    assert found is not None and found.dtype == torch.float64
    assert found[:, 0].tolist() == [7, 5, 3] and found[:, 1].tolist() == [40, 30, 20]
    tokens = -logits.double().log_softmax(dim=-1)
    expected = [(tokens[0, 0, 1] + tokens[0, 1, 2]) / 2, 0.0, (tokens[2, 0, 2] + tokens[2, 1, 1] + tokens[2, 2, 1]) / 3]
    torch.testing.assert_close(found[:, 2], torch.tensor(expected).double(), rtol=1e-6, atol=0)
    assert PuzzleObjective(LOSS).answered({"logits": logits}, {"labels": labels}, done, numbers) is None


def test_terms_are_taken_by_those_on_puzzles_only_and_a_foreign_state_by_nobody() -> None:
    objective = Stateless()
    objective.name = "plain"
    assert not objective.takes_terms and PuzzleObjective(LOSS).takes_terms
    assert objective.state_dict() == {} and objective.carry is None
    objective.load_state_dict({})
    with pytest.raises(ValueError, match=r"objective plain keeps no state but found \['a', 'b'\]"):
        objective.load_state_dict({"b": 1, "a": 2})
