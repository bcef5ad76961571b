"""QR of tangents and singular values of long products, against exact arithmetic and plain QR."""

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from dynamics.graded_product import GradedProduct
from dynamics.orthonormal import orthonormalise
from tests.dynamics.maps import normal

K, BATCH, SIZE = 4, 3, 40


def block(tangents: list[Tensor]) -> Tensor:
    return torch.cat([leaf.flatten(2) for leaf in tangents], dim=2).permute(1, 2, 0)


def two_leaves(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [normal(K, BATCH, 5, 2).to(dtype), normal(K, BATCH, 30, seed=1).to(dtype)]


@pytest.mark.parametrize("householder", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_product_of_orthonormal_and_triangular(householder: bool, dtype: torch.dtype) -> None:
    tangents = two_leaves(dtype)
    found = orthonormalise(tangents, householder=householder)
    assert [Q.shape for Q in found.Q] == [leaf.shape for leaf in tangents]
    assert all(Q.dtype == dtype for Q in found.Q) and found.R.dtype == torch.float64
    Q, eps = block(found.Q).double(), torch.finfo(dtype).eps
    torch.testing.assert_close(Q.mT @ Q, torch.eye(K).double().expand(BATCH, K, K), rtol=0, atol=30 * eps)
    torch.testing.assert_close(Q @ found.R, block(tangents).double(), rtol=0, atol=100 * eps)
    assert torch.equal(found.R, found.R.triu()) and (found.R.diagonal(dim1=1, dim2=2) > 0).all()
    expected = torch.linalg.qr(block(tangents).double()).R.diagonal(dim1=1, dim2=2).abs().log()
    torch.testing.assert_close(found.log_diagonal, expected, rtol=0, atol=100 * eps)


def test_cholesky_falls_back_where_angles_are_too_small() -> None:
    """One example of three is nearly dependent; both routes agree on all of them."""
    tangents = [normal(K, BATCH, SIZE)]
    tangents[0][3, 1] = tangents[0][0, 1] + 1e-9 * normal(SIZE, seed=9)
    fast, safe = (orthonormalise(tangents, householder=route) for route in (False, True))
    torch.testing.assert_close(fast.log_diagonal, safe.log_diagonal, rtol=0, atol=1e-6)
    Q = block(fast.Q)
    torch.testing.assert_close(Q.mT @ Q, torch.eye(K).double().expand(BATCH, K, K), rtol=0, atol=1e-12)
    # 1 / 1e-9 in units of the columns' lengths.
    assert fast.trust.log_condition[1].item() == pytest.approx(math.log(1e9), abs=1)
    assert (fast.trust.log_condition[[0, 2]] < 2).all() and not fast.trust.lost.any()


def test_the_second_pass_makes_small_angles_orthogonal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A condition of about 1e5: after one pass 1e-6 would be left, and no other route may help."""
    monkeypatch.delattr("dynamics.orthonormal._householder")
    tangents = [normal(K, BATCH, SIZE)]
    tangents[0][3] = tangents[0][0] + 1e-5 * normal(BATCH, SIZE, seed=9)
    found = orthonormalise(tangents, householder=False)
    Q = block(found.Q)
    torch.testing.assert_close(Q.mT @ Q, torch.eye(K).double().expand(BATCH, K, K), rtol=0, atol=1e-14)
    torch.testing.assert_close(Q @ found.R, block(tangents), rtol=0, atol=1e-13)


@pytest.mark.parametrize("householder", [True, False])
def test_what_cannot_be_factorised_is_told_apart(householder: bool) -> None:
    tangents = [normal(K, 5, SIZE)]
    tangents[0][1, 1] = 0
    tangents[0][2, 2] = 3 * tangents[0][0, 2]
    tangents[0][0, 3, 7] = math.nan
    found = orthonormalise(tangents, householder=householder)
    assert found.trust.vanished.nonzero().tolist() == [[1, 1]] and found.trust.lost.nonzero().tolist() == [[2, 2]]
    assert found.finite.tolist() == [True, True, True, False, True]
    assert found.R[3].isnan().all() and (found.Q[0][:, 3] == 0).all()
    assert found.log_diagonal[1, 1] == -math.inf and found.trust.log_condition[2] == math.inf
    alone = orthonormalise([tangents[0][:, 4:]], householder=householder)
    torch.testing.assert_close(found.R[4], alone.R[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_lengths_whose_squares_do_not_fit(scale: float) -> None:
    tangents = [scale * normal(K, BATCH, SIZE)]
    found = orthonormalise(tangents, householder=False)
    expected = orthonormalise([normal(K, BATCH, SIZE)], householder=True).log_diagonal + math.log(scale)
    torch.testing.assert_close(found.log_diagonal, expected, rtol=1e-14, atol=1e-11)
    assert found.finite.all() and not (found.trust.vanished | found.trust.lost).any()


def exact_singular_values(matrices: list[Tensor]) -> tuple[float, float]:
    """ln of both singular values of a product of 2x2 matrices of float64, in rational numbers up to the logarithm."""
    product = [[Fraction(1), Fraction(0)], [Fraction(0), Fraction(1)]]
    for matrix in matrices:
        entries = [[Fraction(one) for one in row] for row in matrix.tolist()]
        product = [
            [sum(a * b for a, b in zip(row, column, strict=True)) for column in zip(*product, strict=True)]  # type: ignore[misc]
            for row in entries
        ]
    (a, b), (c, d) = product
    square, determinant = a * a + b * b + c * c + d * d, abs(a * d - b * c)
    # sigma_1^2 = square / 2 (1 + sqrt(1 - q)) with q = (2 det / square)^2.
    q = (2 * determinant / square) ** 2
    largest = 0.5 * (log(square / 2) + math.log1p(math.sqrt(1 - float(q))))
    return largest, log(determinant) - largest


def log(value: Fraction) -> float:
    return math.log(value.numerator) - math.log(value.denominator)


@pytest.mark.parametrize("gap", [0.0, 0.1, 2.0])
def test_singular_values_of_a_long_product_against_rational_numbers(gap: float) -> None:
    """Up to a ratio of e^-800: far outside of what one matrix of float64 can hold."""
    matrices = normal(400, 2, 2, seed=3).triu()
    matrices[:, 0, 0] = matrices[:, 0, 0].abs() + 0.3
    matrices[:, 1, 1] = (matrices[:, 1, 1].abs() + 0.3) * math.exp(-gap)
    product = GradedProduct(1, 2, torch.device("cpu"))
    for matrix in matrices:
        product.multiply(matrix[None, None])
    values, _ = product.log_singular_values()
    expected = exact_singular_values(list(matrices))
    torch.testing.assert_close(values[0], torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-10)


def test_singular_values_of_a_short_product_against_svd() -> None:
    matrices = normal(5, 3, 6, 6, seed=3).triu()
    product = GradedProduct(3, 6, torch.device("cpu"))
    plain = torch.eye(6, dtype=torch.float64).expand(3, 6, 6)
    for matrix in matrices:
        product.multiply(matrix[None])
        plain = matrix @ plain
    values, condition = product.log_singular_values()
    torch.testing.assert_close(values.exp(), torch.linalg.svdvals(plain), rtol=1e-9, atol=1e-12)
    assert (condition >= 0).all()


def test_one_rotation_is_exact_for_a_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong angle would be put right by further sweeps, at their cost."""
    monkeypatch.setattr("dynamics.graded_product._MAX_SWEEPS", 1)
    matrices = normal(50, 2, 2, seed=5).triu()
    product = GradedProduct(50, 2, torch.device("cpu"))
    product.multiply(matrices[None])
    values, _ = product.log_singular_values()
    torch.testing.assert_close(values.exp(), torch.linalg.svdvals(matrices), rtol=1e-13, atol=1e-15)


def test_singular_values_of_a_product_that_is_singular_or_broken() -> None:
    matrices = normal(3, 3, 3, seed=1).triu()
    matrices[1, :, 1] = 0
    matrices[2, 0, 2] = math.nan
    product = GradedProduct(3, 3, torch.device("cpu"))
    product.multiply(matrices[None])
    values, _ = product.log_singular_values()
    torch.testing.assert_close(values[0].exp(), torch.linalg.svdvals(matrices[0]))
    torch.testing.assert_close(values[1, :2].exp(), torch.linalg.svdvals(matrices[1])[:2])
    assert values[1, 2] == -math.inf or values[1, 2] < -30
    assert values[2].isnan().all()
