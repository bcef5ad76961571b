"""How stable a rollout is where it has come to: growth of small real perturbations, without a look at any label."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dynamics.finite_size import finite_size_growth
from errors import UserError
from models.recursion import RecurrentState, SupervisionStep
from options import MOST_REPEATS, at_least, option
from training.noise import draw_state_noise


@dataclass
class ProbeSettings:
    """Probes of the stability of stochastic rollouts. They cost passes of their own: `StabilityProbe.passes`."""

    sizes: list[float] = option(
        [],
        "d0 / |z| of the probes of each rollout, such as [1e-3]; the first one selects; [] = no probes",
        # Below, a float32 state keeps too few digits of a probe; above, it is another state.
        at_least(1e-6, 1),
    )
    steps: int = option(4, "supervision steps that a probe is followed for", at_least(1, MOST_REPEATS))
    directions: int = option(2, "probes of each rollout and size", at_least(1, MOST_REPEATS))

    @property
    def in_use(self) -> bool:
        return bool(self.sizes)

    def check(self) -> None:
        """Errors: `UserError`."""
        if len({f"{size:g}" for size in self.sizes}) < len(self.sizes):
            raise UserError("option 'eval.stochastic_rollouts.probes.sizes': expected each size once")

    def build(self, seed: int) -> "StabilityProbe | None":
        """What measures the stability of rollouts; None where no size is asked for."""
        return StabilityProbe(tuple(self.sizes), self.steps, self.directions, seed) if self.in_use else None


@dataclass(frozen=True)
class StabilityProbe:
    """Finite differences at a state z: the noiseless map from z and from z + d0 |z| u, for random directions u.

    The directions of a probe are functions of (seed, row, rollout, supervision step, number of the direction) alone:
    not of the batch, nor of d0.

    Args:
        sizes: d0, parts of the norm of the whole state (z_H, z_L), which is also: of its rms.
        num_steps: supervision steps m that both are followed for. num_directions: averaged over.
    """

    sizes: tuple[float, ...]
    num_steps: int = 4
    num_directions: int = 2
    seed: int = 0

    def passes(self, num_sizes: int | None = None) -> int:
        """Supervision steps of one row that a probe costs, for all sizes or the first few of them."""
        count = len(self.sizes) if num_sizes is None else num_sizes
        return self.num_steps * (1 + count * self.num_directions) if count else 0

    @torch.no_grad()
    def growth(self, step: SupervisionStep, state: RecurrentState, rows: Tensor, rollout: int, moment: int) -> Tensor:
        """ln(|z'_m - z_m| / |z'_0 - z_0|) / m in nats per supervision step, mean over directions: (B, n_sizes) float32.

        Higher is less stable. A distance below the resolution of the state's dtype, eps |z|, says nothing beyond that
        and counts as eps |z|: the most stable states are equal. NaN where a trajectory is not finite.

        Args:
            step: the map, in float32 or float64, as the states; lower precision: ValueError.
            state: (B, P+S, D) each. rows: (B,) numbers of the puzzles. moment: supervision steps taken so far.
        """
        shape = tuple(state.z_H.shape[1:])
        directions = []
        for number in range(self.num_directions):
            noise = draw_state_noise(self.seed, moment, rows, shape, "both", f"stability/{rollout}/{number}")
            directions.append(torch.cat([noise[name].flatten(1) for name in state._fields], dim=1))
        measured = finite_size_growth(
            step, state, sizes=self.sizes, num_steps=self.num_steps, directions=torch.stack(directions, dim=2)
        )
        ends = measured.log_distance[..., -1]
        scale = measured.sizes / torch.tensor(self.sizes, dtype=torch.float64, device=ends.device)
        resolution = (torch.finfo(state.z_H.dtype).eps * scale).log()[..., None]
        # torch.maximum returns NaN where one argument is NaN.
        growth = (torch.maximum(ends, resolution) - measured.log_distance[..., 0]) / self.num_steps
        return growth.mean(dim=2).float()
