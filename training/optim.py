"""Optimizers: AdamATan2, AdamW and Muon for parameters, SignSGD for the rows of the puzzle table."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from models.puzzle_embedding import Gather


class AdamATan2(torch.optim.Optimizer):
    """Adam whose update is atan2(m, sqrt(v)): bounded, no epsilon.

    p <- p (1 - lr wd);  p <- p - lr / (1 - beta1^t) * atan2(m, sqrt(v / (1 - beta2^t)))

    Source: Everett et al. 2024, arXiv:2407.05872, in the form of the official `adam-atan2` kernel: factor 1
    and the first bias correction *outside* the atan2. (The PyPI package `adam-atan2-pytorch` scales by 1.27
    and corrects inside; the two differ by up to 1.27x in the steady state.)
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p] = {
                        "step": torch.zeros((), dtype=torch.float32),
                        "exp_avg": torch.zeros_like(p),
                        "exp_avg_sq": torch.zeros_like(p),
                    }
            states = [self.state[p] for p in params]
            for state in states:
                state["step"] += 1
            # Each parameter counts its own steps, because a frozen one may be thawed later.
            by_step: dict[int, list[int]] = {}
            for index, state in enumerate(states):
                by_step.setdefault(int(state["step"]), []).append(index)
            for step, indices in by_step.items():
                chosen = [params[i] for i in indices]
                averages = [states[i]["exp_avg"] for i in indices]
                squares = [states[i]["exp_avg_sq"] for i in indices]
                self._update(chosen, averages, squares, step, group)

    @staticmethod
    def _update(
        params: list[Tensor], averages: list[Tensor], squares: list[Tensor], step: int, group: dict[str, Any]
    ) -> None:
        beta1, beta2 = group["betas"]
        lr = group["lr"]
        grads = [p.grad for p in params if p.grad is not None]
        torch._foreach_lerp_(averages, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, math.sqrt(1 - beta2**step))
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        directions = [torch.atan2(average, root) for average, root in zip(averages, roots, strict=True)]
        torch._foreach_add_(params, directions, alpha=-lr / (1 - beta1**step))


# Both of torch's optimizers keep per-parameter state by parameter and settings by group, so they can share both.
_MATRICES, _OTHERS = 0, 1


class MuonAdamW(torch.optim.Optimizer):
    """torch.optim.Muon on `matrices` (2-D), torch.optim.AdamW on `others`; one lr serves both.

    Muon replaces a matrix's averaged gradient by the nearest semi-orthogonal matrix, scaled here to the size of
    AdamW's update (0.2 sqrt(larger side)), so that a learning rate means the same for both.
    Source: Jordan et al. 2024 (Muon); Liu et al. 2025, arXiv:2502.16982 (the scale).
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        others: list[nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        self._optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer] = (
            torch.optim.Muon(matrices, lr, weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr, betas, weight_decay=weight_decay),
        )
        super().__init__([group for optimizer in self._optimizers for group in optimizer.param_groups], {})
        self._share()

    def _share(self) -> None:
        for optimizer, index in zip(self._optimizers, (_MATRICES, _OTHERS), strict=True):
            optimizer.state = self.state
            optimizer.param_groups = self.param_groups[index : index + 1]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What `load_state_dict` ends in: it brings new containers."""
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for optimizer in self._optimizers:
            optimizer.step()


def muon_adamw(model: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float) -> MuonAdamW:
    """Matrices of the stacks (`…layers…`) go to Muon; embeddings, heads and biases to AdamW, as is the custom."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (matrices if ".layers." in name and parameter.ndim == 2 else others).append(parameter)
    return MuonAdamW(matrices, others, lr, betas, weight_decay)


class SparseSignSGD:
    """SignSGD with decoupled decay on the touched rows of the puzzle table only.

    row <- row (1 - lr wd) - lr sign(sum of the row's gradients over the global batch). It has no state.
    Source: Bernstein et al. 2018, arXiv:1802.04434; the official sparse embedding optimizer.
    """

    def __init__(self, weights: Tensor, lr: float, weight_decay: float) -> None:
        self.weights = weights
        self.lr = lr
        self.weight_decay = weight_decay

    @torch.no_grad()
    def step(self, ids: Tensor, grads: Tensor) -> None:
        """ids (N,) may repeat; grads (N, ndim) are summed per id."""
        rows, sums = sum_rows(ids, grads)
        decayed = self.weights[rows] * (1 - self.lr * self.weight_decay)
        # An id that occurs several times is written several times, each time with the same value.
        self.weights[rows] = decayed - self.lr * sums.sign()


def sum_rows(ids: Tensor, grads: Tensor) -> tuple[Tensor, Tensor]:
    """ids (N,) in ascending order, repeats kept, and for each the sum (N, ndim) of all its gradients.

    All shapes are those of the input: to count the distinct ids, a GPU would make the host wait.
    """
    rows, order = ids.long().sort(stable=True)
    starts = torch.ones_like(rows)
    starts[1:] = (rows[1:] != rows[:-1]).long()
    group = starts.cumsum(0) - 1
    sums = torch.zeros_like(grads).index_add_(0, group, grads[order])
    return rows, sums[group]


def merge_gathers(gathers: list[Gather]) -> tuple[Tensor, Tensor] | None:
    """Records of the table as one (ids (N,), grads (N, ndim)); None when nothing was gathered."""
    if not gathers:
        return None
    grads = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for _, leaf in gathers]
    return torch.cat([ids for ids, _ in gathers]), torch.cat(grads)


def dense_optimizer(
    name: str, model: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    """The optimizer `adam_atan2`, `adamw` or `muon` over all parameters that are trained.

    The rate of a group is a multiple of its `initial_lr`.
    """
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer
    if name == "adam_atan2":
        optimizer = AdamATan2(params, lr, betas, weight_decay)
    elif name == "adamw":
        optimizer = torch.optim.AdamW(params, lr, betas, weight_decay=weight_decay)
    elif name == "muon":
        optimizer = muon_adamw(model, lr, betas, weight_decay)
    else:
        raise ValueError(f"optimizer {name!r} is none of adam_atan2, adamw, muon")
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def assert_ownership(model: nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Every trained parameter is owned by exactly one optimizer; fails at start-up, not in the results."""
    owned = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    trained = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    twice = [trained.get(i, "?") for i in set(owned) if owned.count(i) > 1]
    missing = [name for i, name in trained.items() if i not in owned]
    foreign = len(set(owned) - set(trained))
    if twice or missing or foreign:
        raise AssertionError(f"optimizer ownership: twice {twice}, missing {missing}, foreign {foreign}")
