"""Violation rates that theory gives for functions V of a lookahead window, for uniform residues of n.

Model: the valuations k_1, k_2, ... are independent with P(k) = 2^-k. That is exact for odd n uniform modulo 2^B and
windows whose valuations add up to less than B (Terras 1976). All sums are of integers; 2^K < 3^j decides K < j log2 3.
"""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Bounds:
    """The rates at one lookahead L, as probabilities.

    Attributes:
        rate_V_avg: P(k_1 + ... + k_(L+1) < (L+1) log2 3), the rate of V_avg.
        rate_V_min: P(every partial sum of the first L+1 is below its j log2 3), the rate of V_min and of V_max.
        lower_bound: rate_V_avg / (L+1). No V = alpha ln n + G(k_1..k_L) with alpha > 0 has a smaller rate: the L+1
            rotations of a window with positive net drift form a closed chain, along which V cannot decrease every
            time. A network that also sees n modulo powers of 3 sees some history; for it the number is a guide.
    """

    rate_V_avg: float
    rate_V_min: float
    lower_bound: float

    def in_words(self) -> str:
        return (
            f"V_avg {100 * self.rate_V_avg:.4g} %, V_min and V_max {100 * self.rate_V_min:.4g} % violations on uniform "
            f"residues; no function of ln n and the window below {100 * self.lower_bound:.4g} %"
        )


def bounds_at(lookahead: int) -> Bounds:
    """The rates for lookahead L >= 1. Errors: `ValueError` below."""
    if lookahead < 1:
        raise ValueError(f"lookahead {lookahead}: expected at least 1")
    rising = probability_of_rise(lookahead + 1)
    return Bounds(
        rate_V_avg=float(rising),
        rate_V_min=float(probability_of_staying_above(lookahead + 1)),
        lower_bound=float(rising / (lookahead + 1)),
    )


def probability_of_rise(steps: int) -> Fraction:
    """p_+(m) = P(k_1 + ... + k_m < m log2 3): after m steps a large n is larger than it was."""
    return _probability(steps, last_only=True)


def probability_of_staying_above(steps: int) -> Fraction:
    """P(k_1 + ... + k_j < j log2 3 for j = 1..m): within m steps a large n is never below where it was."""
    return _probability(steps, last_only=False)


def _probability(steps: int, *, last_only: bool) -> Fraction:
    """Sum over the final sum K of (number of sequences) 2^-K; the number by dynamic programming over the steps."""
    power = 3**steps
    limit = power.bit_length() - 1  # the largest K with 2^K < 3^m: no power of 3 is one of 2
    ways = [1] + [0] * limit  # ways[K]: sequences so far with sum K
    for step in range(1, steps + 1):
        highest = limit if last_only else (3**step).bit_length() - 1
        total, following = 0, [0] * (limit + 1)
        for k_sum in range(1, highest + 1):
            total += ways[k_sum - 1]
            following[k_sum] = total
        ways = following
    return Fraction(sum(count << (limit - k_sum) for k_sum, count in enumerate(ways)), 1 << limit)
