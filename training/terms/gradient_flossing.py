"""The flossing loss of a recursive model: mean over i <= k of (lambda_i - target)^2, through the model's own map.

Each puzzle starts at z0 and follows inference without halting up to a window; there its exponents are measured with a
graph through tangents and QRs, and the loss is a function of the weights of embedding and stacks.

Source: Engelken 2023 (arXiv:2312.17306), for recurrent networks that a task drives.
Differs: the map is autonomous, with an exponent per supervision step or sub-update; tangents align before the window
without a graph; a puzzle without rank or numbers has no gradient instead of none being had by any.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamics.differentiable import DifferentiableExponents, differentiable_exponents
from dynamics.lyapunov import lyapunov_spectrum
from dynamics.tangents import exact_arithmetic
from models.act import Batch
from models.recursion import RecurrentState
from models.recursion_maps import RecursionMaps
from models.recursive_model import RecursiveModel
from training.noise import draw_noise
from training.seeding import derived_seed
from training.settings.schema import FlossConfig

NAME = "floss"


@dataclass(frozen=True)
class Flossed:
    """What flossing found on this process's rows.

    loss_sum: over rows. rows: those that have a loss. metric_sums: sums over them. passes: supervision steps of rows
    that all of it cost, in forward passes: a tangent counts as a pass, a pass with a graph as three.
    """

    loss_sum: Tensor
    rows: int
    metric_sums: dict[str, Tensor]
    passes: int


@dataclass(frozen=True)
class Window:
    """Where exponents are measured: `begin` supervision steps after z0, over `updates` sub-updates."""

    begin: int
    updates: int


def choose_window(settings: FlossConfig, num_updates: int, max_steps: int, seed: int, step: int) -> Window:
    """The window of one update, the same on every process.

    `all`: uniform among the places at which it fits behind the warm-up and ends within `max_steps` supervision steps;
    `late` and `failed`: the last of them.

    Args:
        num_updates: sub-updates of a supervision step.
    """
    updates = settings.window * (num_updates if settings.unit == "step" else 1)
    last = max_steps - -(-updates // num_updates)
    if settings.where != "all":
        return Window(last, updates)
    places = last - settings.warmup + 1
    return Window(settings.warmup + derived_seed(seed, "floss/window", step) % places, updates)


def flossing_loss(
    model: RecursiveModel, batch: Batch, slots: range, settings: FlossConfig, seed: int, step: int
) -> Flossed:
    """The loss on the rows of this process among the first `settings.rows` slots of the batch.

    With `failed`, of these the rows whose answer is not exact after all `halt_max_steps` supervision steps: read from
    the trajectory of the whole selection, which the tangents' own differs from by no more than what rounding does to
    another number of rows.

    Args:
        batch: this process's rows. slots: their numbers in the global batch, on which tangents depend.
    """
    steps = model.config.halt_max_steps
    chosen = [row for row, slot in enumerate(slots) if settings.rows is None or slot < settings.rows]
    passes = 0
    with _eager(model), exact_arithmetic(differentiable=True):
        if settings.where == "failed" and chosen:
            maps = _maps(model, batch, chosen)
            with torch.no_grad():
                exact = maps.read(_advance(maps, maps.initial_state, steps)).exact
            passes += len(chosen) * steps
            chosen = [row for row, right in zip(chosen, exact.tolist(), strict=True) if not right]
        if not chosen:
            return _nothing(model, passes)
        maps = _maps(model, batch, chosen)
        updates = maps.sub_updates
        window = choose_window(settings, len(updates), steps, seed, step)
        state = maps.initial_state
        size = sum(leaf[0].numel() for leaf in state)
        drawn = draw_noise(seed, step, [slots[row] for row in chosen], (size, settings.k), f"{NAME}/tangents")
        tangents = drawn.to(state.z_H.device, state.z_H.dtype)
        with torch.no_grad():
            state = _advance(maps, state, window.begin - settings.warmup)
            if settings.warmup:
                aligned = lyapunov_spectrum(
                    updates, state, num_exponents=settings.k, num_steps=settings.warmup, initial_tangents=tangents
                )
                state, tangents = aligned.final_state, aligned.final_tangents.to(tangents.dtype)
        measured = differentiable_exponents(
            [updates[number % len(updates)] for number in range(window.updates)], state, num_exponents=settings.k,
            num_steps=1, qr_interval=settings.qr_interval, initial_tangents=tangents,
        )  # fmt: skip
    with_tangents = settings.warmup + 3 * window.updates / len(updates)
    passes += len(chosen) * (window.begin - settings.warmup) + math.ceil(len(chosen) * (1 + settings.k) * with_tangents)
    return _loss(DifferentiableExponents(measured.exponents / settings.window, measured.degenerate), settings, passes)


def _loss(measured: DifferentiableExponents, settings: FlossConfig, passes: int) -> Flossed:
    kept = measured.exponents.detach()[~measured.degenerate]
    metrics = {
        f"{NAME}/exponent_first": kept[:, 0].sum(),
        f"{NAME}/exponent_last": kept[:, -1].sum(),
        f"{NAME}/degenerate": measured.degenerate.sum(),
    }
    return Flossed(measured.mean_square(settings.target), len(kept), metrics, passes)


def _nothing(model: RecursiveModel, passes: int) -> Flossed:
    """No row to floss: the same numbers, all zero, so that processes agree on what they sum."""
    zero = torch.zeros((), device=model.H_init.device)
    names = ("exponent_first", "exponent_last", "degenerate")
    return Flossed(zero, 0, {f"{NAME}/{name}": zero for name in names}, passes)


def _maps(model: RecursiveModel, batch: Batch, rows: list[int]) -> RecursionMaps:
    index = torch.tensor(rows, device=batch["inputs"].device)
    chosen = {name: leaf[index] for name, leaf in batch.items()}
    with torch.no_grad():
        # With gradients the table would record this gather for its optimizer.
        puzzle_rows = model.puzzle_rows(chosen["puzzle_identifiers"])
    return RecursionMaps(model, chosen, puzzle_rows)


def _advance(maps: RecursionMaps, state: RecurrentState, steps: int) -> RecurrentState:
    for _ in range(steps):
        state = maps.step(state)
    return state


@contextmanager
def _eager(model: RecursiveModel) -> Iterator[None]:
    """Compiled stacks run uncompiled within: compiled maps have no tangents."""
    if not model.is_compiled:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
