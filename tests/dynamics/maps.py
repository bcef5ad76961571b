"""Maps with known exponents, batched, and Jacobian products by a route that shares nothing with the engine."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


def rows(*values: Sequence[float]) -> Tensor:
    """A float64 tensor of these rows."""
    return torch.tensor(values, dtype=torch.float64)


def linear(matrix: Tensor) -> Map:
    """z -> A z for states (B, D)."""
    return lambda z: z @ matrix.T


def logistic(x: Tensor) -> Tensor:
    return 4 * x * (1 - x)


def tent(x: Tensor) -> Tensor:
    return 1 - (1 - 2 * x).abs()


def baker(z: Tensor) -> Tensor:
    whole = (2 * z[:, 0]).floor()
    return torch.stack((2 * z[:, 0] - whole, (z[:, 1] + whole) / 2), dim=1)


def cat(z: Tensor) -> Tensor:
    moved = z @ rows((2, 1), (1, 1))
    return moved - moved.floor()


def henon(z: Tensor) -> Tensor:
    return torch.stack((1 - 1.4 * z[:, 0] ** 2 + z[:, 1], 0.3 * z[:, 0]), dim=1)


def standard(K: float) -> Map:
    """Chirikov's standard map, not taken modulo 2 pi."""

    def advance(z: Tensor) -> Tensor:
        p = z[:, 1] + K * z[:, 0].sin()
        return torch.stack((z[:, 0] + p, p), dim=1)

    return advance


def lorenz(dt: float) -> Map:
    """One Runge-Kutta step of fourth order, sigma=10, rho=28, beta=8/3."""

    def velocity(z: Tensor) -> Tensor:
        x, y, w = z.unbind(1)
        return torch.stack((10 * (y - x), x * (28 - w) - y, x * y - 8 / 3 * w), dim=1)

    def advance(z: Tensor) -> Tensor:
        a = velocity(z)
        b = velocity(z + dt / 2 * a)
        c = velocity(z + dt / 2 * b)
        d = velocity(z + dt * c)
        return z + dt / 6 * (a + 2 * b + 2 * c + d)

    return advance


def random_network(size: int, gain: float, seed: int = 0) -> Tensor:
    """W of x' = W tanh(x): independent normal entries of variance gain^2 / size."""
    draws = torch.Generator().manual_seed(seed)
    return gain / size**0.5 * torch.randn(size, size, dtype=torch.float64, generator=draws)


def rate_network(weights: Tensor) -> Map:
    return lambda x: x.tanh() @ weights.T


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def jacobian(advance: Map, z: Tensor) -> Tensor:
    """DF of one example (D,), by reverse mode, one row after the other: (D, D)."""
    return torch.autograd.functional.jacobian(lambda x: advance(x[None])[0], z)


def jacobians(advance: Map, z: Tensor, num_steps: int) -> list[Tensor]:
    """DF along the trajectory of one example (D,)."""
    found = []
    for _ in range(num_steps):
        found.append(jacobian(advance, z))
        z = advance(z[None])[0].detach()
    return found


def qr_exponents(matrices: Sequence[Tensor], start: Tensor) -> Tensor:
    """ln R_ii of the product A_T ... A_1 Q0 over T, by ONE factorisation of the whole product: for small T only."""
    product = torch.linalg.qr(start).Q
    for matrix in matrices:
        product = matrix @ product
    R = torch.linalg.qr(product).R
    return R.diagonal().abs().log() / len(matrices)


def svd_exponents(matrices: Sequence[Tensor]) -> Tensor:
    """ln of the singular values of the whole product over T."""
    product = torch.eye(matrices[0].shape[1], dtype=torch.float64)
    for matrix in matrices:
        product = matrix @ product
    return torch.linalg.svdvals(product).log() / len(matrices)
