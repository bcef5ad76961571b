"""Weights that are finite in the file's data type and not in the model's."""

import pytest
import torch
from torch import nn

from errors import UserError
from training.storage.weights import adopt_weights, check_weights


@pytest.mark.parametrize("size", [1e39, -1e39, 1e300])
def test_a_number_beyond_the_models_type_is_refused(size: float) -> None:
    model = nn.Linear(2, 1)
    weights = {"weight": torch.tensor([[0.5, size]], dtype=torch.float64), "bias": torch.zeros(1)}
    for take in (
        lambda: check_weights(model.state_dict(), weights),
        lambda: adopt_weights(model, weights, source="w.pt"),
    ):
        with pytest.raises(
            UserError, match=rf"'weight' reaches {abs(size):.3g}.*too large for torch.float32".replace("+", r"\+")
        ):
            take()
    check_weights(model.double().state_dict(), weights)


def test_the_largest_number_of_the_models_type_is_taken() -> None:
    model = nn.Linear(1, 1)
    largest = torch.finfo(torch.float32).max
    weights = {"weight": torch.full((1, 1), largest, dtype=torch.float64), "bias": torch.zeros(1)}
    adopt_weights(model, weights, source="w.pt")
    assert model.weight.item() == largest
