"""What a spectrum says about the attractor: Kaplan-Yorke dimension and entropy, with what part of it is known."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dimension:
    """Of each spectrum of a batch.

    Args:
        kaplan_yorke: (B,) float64: j + (lambda_1 + ... + lambda_j) / |lambda_{j+1}| with the largest j whose sum is
            not negative; 0 where lambda_1 < 0. NaN where the sum does not cross zero among the exponents that are
            known (then it is more than `at_least`), and where one of them is NaN.
        at_least: (B,) int64: number of leading exponents whose sum is not negative.
        entropy: (B,) float64, nats per step: sum of the positive exponents, an upper bound of the Kolmogorov-Sinai
            entropy (Ruelle; equality: Pesin).
        entropy_complete: (B,) bool: an exponent <= 0 is among those known, so that no positive one is missing.
    """

    kaplan_yorke: Tensor
    at_least: Tensor
    entropy: Tensor
    entropy_complete: Tensor


def dimension(exponents: Tensor, num_components: int | None = None) -> Dimension:
    """Kaplan-Yorke dimension and entropy of spectra (B, k), sorted here; -inf counts as an exponent.

    Args:
        num_components: D, where known: with k = D nothing is missing, and a sum that never turns negative means that
            no volume contracts: the dimension is D.
    Errors: ValueError unless (B, k) with k <= D.
    Source: Kaplan and Yorke 1979 (Lecture Notes in Mathematics 730, 204); Frederickson et al. 1983.
    """
    if exponents.ndim != 2 or not exponents.shape[1]:
        raise ValueError(f"exponents is {tuple(exponents.shape)}, expected (B, k)")
    count = exponents.shape[1]
    if num_components is not None and count > num_components:
        raise ValueError(f"{count} exponents of {num_components} components")
    known = ~exponents.isnan().any(dim=1)
    ordered = torch.where(known[:, None], exponents.double(), -1.0).sort(dim=1, descending=True).values
    sums = ordered.cumsum(dim=1)
    held = (sums >= 0).sum(dim=1)  # the sum rises, then falls: where it is not negative is one beginning
    before = torch.where(held > 0, sums.gather(1, (held - 1).clamp(min=0)[:, None])[:, 0], 0.0)
    following = ordered.gather(1, held.clamp(max=count - 1)[:, None])[:, 0]
    whole = held.double()
    value = torch.where(held == 0, 0.0, whole + before / following.abs())
    # A sum over all exponents that is zero crosses there, whatever would follow.
    ends_at_zero = (sums[:, -1] == 0) & (ordered[:, -1] < 0)
    everything = torch.where(ends_at_zero | (count == num_components), whole, torch.nan)
    value = torch.where(held == count, everything, value)
    entropy = ordered.clamp(min=0).sum(dim=1)
    complete = (ordered[:, -1] <= 0) | (count == num_components)
    return Dimension(
        torch.where(known, value, torch.nan),
        torch.where(known, held, 0),
        torch.where(known, entropy, torch.nan),
        known & complete,
    )
