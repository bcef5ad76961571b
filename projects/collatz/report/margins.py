"""Margins of a run's weights along the five reported orbits, on the scale of ln n so that runs can be compared."""

from dataclasses import dataclass

import numpy as np
import torch

from projects.collatz.closed_forms import SMALLEST_MARGIN, ClosedForm, margins
from projects.collatz.judge import NetworkJudge
from projects.collatz.report.runs import CollatzRun
from projects.collatz.setup import build_value
from projects.collatz.syracuse import TEST_STARTS, orbit
from projects.collatz.windows import Windows, orbit_windows
from training.storage.weights import check_weights
from training.trained_model import open_checkpoint


@dataclass(frozen=True)
class OrbitMargins:
    """V along the five orbits.

    Attributes: margins: by start, V(n) - V(T(n)) of each step. violated: by start, bool of each step. slope: dV / d ln
    n, by least squares over all states; V has no fixed scale, so that margins of two networks compare only over it.
    """

    margins: dict[int, np.ndarray]
    violated: dict[int, np.ndarray]
    slope: float

    def worst(self, start: int) -> float | None:
        """The smallest margin among the violations, in nats of ln n; None without one, or where V does not rise."""
        bad = self.margins[start][self.violated[start]]
        return float(bad.min() / self.slope) if len(bad) and self.slope > 0 else None


def run_margins(run: CollatzRun, moment: str) -> OrbitMargins:
    """Margins of the best or final weights, in float64. Errors: `UserError` for missing or unfit weights."""
    checkpoint = open_checkpoint(run.folder / f"{moment}.pt", device="cpu")
    network = build_value(checkpoint.config, torch.device("cpu"))
    check_weights(network.state_dict(), checkpoint.weights, source=checkpoint.path)
    network.load_state_dict(checkpoint.weights)
    judge = NetworkJudge.float64("V", network)
    return _along({start: judge.margins(windows) for start, windows in _windows(run.lookahead).items()}, None)


def closed_form_margins(form: ClosedForm, lookahead: int) -> OrbitMargins:
    """Margins of a function in closed form, which says itself what it violates."""
    windows = _windows(lookahead)
    by_start = {start: margins(form, of_orbit) for start, of_orbit in windows.items()}
    return _along(by_start, {start: form.violations(of_orbit) for start, of_orbit in windows.items()})


def _windows(lookahead: int) -> dict[int, Windows]:
    return {start: orbit_windows(orbit(start), lookahead) for start in TEST_STARTS}


def _along(by_start: dict[int, np.ndarray], violated: dict[int, np.ndarray] | None) -> OrbitMargins:
    # All orbits end at 1, so V of a state is V(1) and the margins from there on.
    heights = [np.append(np.cumsum(of_orbit[::-1])[::-1], 0.0) for of_orbit in by_start.values()]
    logs = [np.log(np.array(orbit(start).states, np.float64)) for start in by_start]
    slope = float(np.polyfit(np.concatenate(logs), np.concatenate(heights), 1)[0])
    bad = violated or {start: of_orbit < SMALLEST_MARGIN for start, of_orbit in by_start.items()}
    return OrbitMargins(by_start, bad, slope)
