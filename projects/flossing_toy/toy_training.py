"""One cell of the flossing toy: a rate network trained on a delayed task, flossed before and during training or not.

Everything random is a function of (seed, use, number): arms of one seed share the first weights, the batches and the
sequences that are flossed on, so that they differ by their arm alone, and a cell begun again gives the same bits.

Source: Engelken 2023 (arXiv:2312.17306) and github.com/RainerEngelken/GradientFlossing; defaults are those of its
README, with 3,001 epochs and 500 flossing updates an episode.
Differs: the gradient of flossing is clipped as the task's is, where the source clips the task's only. Spikes stay in
Adam's second moment, and on some seeds 500 updates then divide the loss by 6 instead of hundreds (LOG.md).
"""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dynamics.lyapunov import lyapunov_spectrum
from options import MOST_CHANNELS, MOST_REPEATS, MOST_ROWS, above_zero, at_least, option
from projects.flossing_toy.delayed_bits import DelayedBits, delayed_bits, draw_bits
from projects.flossing_toy.rate_exponents import window_exponents
from projects.flossing_toy.rate_network import Gradients, RateNetwork, task_pass
from training.seeding import generator


@dataclass(frozen=True)
class FlossingArm:
    """What distinguishes an arm. before, during: when it is flossed. shuffled: towards its own first exponents in
    another order instead of zero: as many updates of the same kind that push nowhere. orthogonal: first J. clipped:
    whether the task's gradients are.
    """

    before: bool = False
    during: bool = False
    shuffled: bool = False
    orthogonal: bool = False
    clipped: bool = True


ARMS = {
    "none": FlossingArm(),
    "pre": FlossingArm(before=True),
    "inter": FlossingArm(during=True),
    "pre_inter": FlossingArm(before=True, during=True),
    "shuffled": FlossingArm(before=True, shuffled=True),
    "shuffled_inter": FlossingArm(before=True, during=True, shuffled=True),
    "orthogonal": FlossingArm(orthogonal=True),
    "unclipped": FlossingArm(clipped=False),
}


@dataclass(frozen=True)
class ToySettings:
    """What all cells of a comparison share. Lengths are steps of the network, `epochs` updates of the task."""

    num_units: int = option(80, "N, rate units", at_least(1, MOST_CHANNELS))
    gain: float = option(1.0, "g of the first J; the one setting without a flag", above_zero)
    num_steps: int = option(300, "T, steps of a sequence", at_least(1, MOST_REPEATS))
    batch_size: int = option(16, "B, sequences of a batch", at_least(1, MOST_ROWS))
    epochs: int = option(3001, "updates of the task", at_least(1))
    num_exponents: int = option(75, "k, exponents flossed", at_least(1, MOST_CHANNELS))
    window: int = option(55, "steps of a flossing update", at_least(1, MOST_REPEATS))
    transient: int = option(16, "of these, steps before exponents are measured", at_least(0))
    qr_interval: int = option(3, "steps between orthonormalisations", at_least(1))
    floss_updates: int = option(500, "flossing updates of one episode", at_least(1))
    inter_every: int = option(100, "epochs between episodes during training", at_least(1))
    inter_episodes: int = option(2, "episodes during training", at_least(0))
    lr: float = option(1e-3, "learning rate of both", above_zero)
    clip: float = option(0.03, "norm to which each array of the task's gradient is clipped", above_zero)
    floss_clip: float = option(0.03, "likewise of flossing; 0: none, as in the source", at_least(0))
    block: int = option(10, "epochs of one point of the learning curve", at_least(1))
    eval_batches: int = option(16, "batches of the final accuracy", at_least(1, MOST_REPEATS))
    measured_sequences: int = option(4, "sequences that spectra are measured on", at_least(1, MOST_ROWS))
    # Not before the last episode.
    stop_accuracy: float | None = option(
        None, "end training once so accurate for --patience points (default: never)", above_zero
    )
    patience: int = option(5, "points of the learning curve", at_least(1))


@dataclass(frozen=True)
class Cell:
    """One training: which task and delay, in which arm, from which seed."""

    task: str
    delay: int
    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.task}_d{self.delay}_{self.arm}_s{self.seed}"


class NonFiniteToyError(RuntimeError):
    """A loss or gradient of a cell is NaN or infinite."""


def planned_updates(settings: ToySettings, cell: Cell) -> int:
    """Updates of a cell, flossing included."""
    arm = ARMS[cell.arm]
    during = min(settings.inter_episodes, settings.epochs // settings.inter_every) if arm.during else 0
    return settings.epochs + settings.floss_updates * (int(arm.before) + during)


class ToyRun:
    """The training of a cell. Errors: `NonFiniteToyError`."""

    def __init__(self, settings: ToySettings, cell: Cell, advanced: Callable[[int], None] | None = None) -> None:
        self.settings, self.cell, self.arm = settings, cell, ARMS[cell.arm]
        self.advanced = advanced or (lambda updates: None)
        self.network = RateNetwork(
            settings.num_units, settings.batch_size, self._draws("network"), gain=settings.gain,
            orthogonal=self.arm.orthogonal,
        )  # fmt: skip
        self.task_optimizer = torch.optim.Adam(self.network.parameters(), settings.lr, fused=True)
        dynamics = [self.network.J, self.network.w_s, self.network.b]
        self.floss_optimizer = torch.optim.Adam(dynamics, settings.lr, fused=True)
        shape = settings.num_units, settings.num_exponents
        self.tangents = torch.linalg.qr(torch.randn(shape, generator=self._draws("tangents"))).Q
        self.target = torch.zeros(settings.num_exponents)
        self.floss_count = 0
        self.seconds = {"training": 0.0, "flossing": 0.0, "measuring": 0.0}

    def _draws(self, use: str, number: int = 0) -> torch.Generator:
        return generator(self.cell.seed, f"flossing_toy/{use}", number)

    def result(self) -> dict[str, Any]:
        """Train; everything worth keeping of the cell, as plain numbers."""
        settings = self.settings
        measures = [self._measure(0)]
        if self.arm.shuffled:
            first_exponents = torch.tensor(measures[0]["exponents"], dtype=torch.float32)
            self.target = first_exponents[torch.randperm(len(first_exponents), generator=self._draws("order"))]
        episodes: list[dict[str, Any]] = []
        updates: list[tuple[float, float, float]] = []
        for epoch in range(1, settings.epochs + 1):
            if self._flosses_before(epoch, len(episodes)):
                episodes.append(self._episode(epoch))
                measures.append(self._measure(epoch - 1, "after flossing"))
            started = time.perf_counter()
            updates.append(self._train(epoch))
            self.seconds["training"] += time.perf_counter() - started
            self.advanced(1)
            if self._solved(updates, epoch):
                break
        measures.append(self._measure(epoch))
        return {
            "format": 1,
            "cell": asdict(self.cell),
            "settings": asdict(settings),
            "episodes": episodes,
            "measures": measures,
            "curve": _block_means(updates, settings.block),
            "final": self._evaluate(),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }

    def _flosses_before(self, epoch: int, episodes: int) -> bool:
        if epoch == 1 and self.arm.before:
            return True
        during = episodes - int(self.arm.before)
        return self.arm.during and epoch % self.settings.inter_every == 0 and during < self.settings.inter_episodes

    def _solved(self, updates: Sequence[tuple[float, float, float]], epoch: int) -> bool:
        settings = self.settings
        if settings.stop_accuracy is None or epoch % settings.block:
            return False
        last = settings.inter_every * settings.inter_episodes if self.arm.during else 0
        recent = _block_means(updates, settings.block)["accuracy"][-settings.patience :]
        return epoch >= last and len(recent) == settings.patience and min(recent) >= settings.stop_accuracy

    # -- the task

    def _bits(self, use: str, number: int) -> DelayedBits:
        draws = self._draws(use, number)
        bits = draw_bits(self.settings.num_steps, self.settings.batch_size, draws)
        return delayed_bits(self.cell.task, self.cell.delay, bits)

    def _train(self, epoch: int) -> tuple[float, float, float]:
        """One update on a fresh batch: loss, accuracy (before the update) and the gradient's norm before clipping."""
        batch = self._bits("batch", epoch)
        done = task_pass(self.network, batch.inputs, batch.targets, batch.first)
        assert done.gradients is not None
        norm = self._apply(self.task_optimizer, done.gradients, self.settings.clip if self.arm.clipped else None)
        return self._finite(done.loss.item(), epoch), done.accuracy.item(), self._finite(norm, epoch)

    def _evaluate(self) -> dict[str, Any]:
        """Accuracy on sequences that nothing was trained on."""
        passes = []
        for number in range(self.settings.eval_batches):
            batch = self._bits("evaluation", number)
            passes.append(task_pass(self.network, batch.inputs, batch.targets, batch.first, gradients=False))
        mean = sum(done.accuracy.item() for done in passes) / len(passes)
        return {
            "accuracy": mean,
            "loss": sum(done.loss.item() for done in passes) / len(passes),
            "bits": len(passes) * self.settings.batch_size * (self.settings.num_steps - batch.first),
        }

    # -- flossing

    def _episode(self, epoch: int) -> dict[str, Any]:
        """Flossing updates alone, each on a new sequence."""
        settings, started = self.settings, time.perf_counter()
        losses, norms = [], []
        for _ in range(settings.floss_updates):
            self.floss_count += 1
            inputs = self._sequences("floss", self.floss_count, 1)[:, 0]
            measured = window_exponents(
                self.network, self.network.x0[0], inputs, self.tangents, transient=settings.transient,
                qr_interval=settings.qr_interval,
            )  # fmt: skip
            distance = measured.exponents - self.target
            gradients = measured.pull(2 * distance / len(distance))
            norm = self._apply(self.floss_optimizer, gradients, settings.floss_clip)
            losses.append(self._finite(distance.square().mean().item(), epoch))
            norms.append(self._finite(norm, epoch))
        self.seconds["flossing"] += time.perf_counter() - started
        self.advanced(settings.floss_updates)
        return {"before_epoch": epoch, "losses": losses, "grad_norms": norms}

    def _sequences(self, use: str, number: int, count: int) -> Tensor:
        bits = draw_bits(self.settings.window, count, self._draws(use, number))
        return bits[..., None].to(torch.float32)

    @torch.no_grad()
    def _measure(self, epochs: int, when: str | None = None) -> dict[str, Any]:
        """Spectrum and conditioning in float64 on sequences of their own.

        log10_condition: of d x_T / d x_0 on the span of the first tangents, T the window.
        """
        settings, started = self.settings, time.perf_counter()
        inputs = self._sequences("measure", 0, settings.measured_sequences).double()
        precise = RateNetwork(settings.num_units, settings.batch_size, self._draws("network"), dtype=torch.float64)
        precise.load_state_dict(self.network.state_dict())
        tangents = self.tangents.double()
        exponents = torch.stack(
            [
                window_exponents(precise, precise.x0[0], sequence, tangents, transient=settings.transient).exponents
                for sequence in inputs.unbind(dim=1)
            ]
        )
        whole = lyapunov_spectrum(
            precise.state_maps(inputs), precise.x0[:1].expand(inputs.shape[1], -1), num_steps=1,
            num_exponents=settings.num_exponents, initial_tangents=tangents.expand(inputs.shape[1], -1, -1),
        )  # fmt: skip
        spread = (whole.svd_exponents[:, 0] - whole.svd_exponents[:, -1]) / math.log(10)
        self.seconds["measuring"] += time.perf_counter() - started
        return {
            "epochs": epochs,
            "when": when or ("at the start" if epochs == 0 else "at the end"),
            "exponents": exponents.mean(dim=0).tolist(),
            "mean_square": exponents.square().mean().item(),
            "log10_condition": spread.tolist(),
        }

    # -- both

    def _apply(self, optimizer: torch.optim.Optimizer, gradients: Gradients, clip: float | None) -> float:
        """Clip each array's gradient to norm `clip` (not where it is 0 or None) and make the update.

        Returns the whole gradient's norm before clipping.
        """
        norms = torch._foreach_norm(list(gradients.values()))
        for (name, gradient), norm in zip(gradients.items(), norms, strict=True):
            if clip:
                # Multiplied by 1 where it is short enough: no bits change.
                gradient = gradient * (clip / norm.clamp_min(clip))
            getattr(self.network, name).grad = gradient
        optimizer.step()
        return float(torch.stack(norms).norm())

    def _finite(self, value: float, epoch: int) -> float:
        if not math.isfinite(value):
            raise NonFiniteToyError(
                f"{self.cell.name}: {value} at epoch {epoch}; flossing {'on' if self.floss_count else 'off'}"
            )
        return value


def _block_means(updates: Sequence[tuple[float, float, float]], block: int) -> dict[str, list[Any]]:
    """Means of what `ToyRun._train` returns over blocks of epochs; the last block may be shorter."""
    blocks = [updates[start : start + block] for start in range(0, len(updates), block)]
    columns: dict[str, list[Any]] = {"last_epoch": list(itertools.accumulate(map(len, blocks)))}
    for index, name in enumerate(("loss", "accuracy", "grad_norm")):
        columns[name] = [sum(row[index] for row in rows) / len(rows) for rows in blocks]
    return columns


def run_cell(settings: ToySettings, cell: Cell, advanced: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Train one cell; `advanced` is told of updates made. Errors: `NonFiniteToyError`."""
    return ToyRun(settings, cell, advanced).result()
