"""The networks V(n): sizes, what they see, and that they see nothing else."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from projects.collatz.closed_forms import Tilted
from projects.collatz.judge import NetworkJudge
from projects.collatz.syracuse import orbit, syracuse
from projects.collatz.value_networks import CollatzValue, LookaheadValue, SelectionValue, lookahead_features
from projects.collatz.windows import Windows, orbit_windows, windows_of
from tests.projects.collatz.numbers_drawn import EDGES, naive_steps

SOURCE_LAYERS = [2048, 1024, 1024, 512, 512, 512, 256, 128, 64]
BOTH: list[Any] = [LookaheadValue, SelectionValue]


def values(network: CollatzValue, numbers: list[int]) -> torch.Tensor:
    """V of each, from Python integers alone."""
    window = network.lookahead
    walked = [naive_steps(number, window) for number in numbers]
    logs = torch.tensor([[math.log(state) for state in states] for states, _ in walked], dtype=torch.float64)
    residues = torch.tensor([number % 81 for number in numbers])
    with torch.no_grad():
        return network(logs, residues, torch.tensor([valuations for _, valuations in walked]))


@pytest.mark.parametrize(
    ("lookahead", "count"), [(10, 4_405_250), (20, 4_425_730), (30, 4_446_210), (100, 4_589_570), (200, 4_794_370)]
)
def test_parameters_of_the_source(lookahead: int, count: int) -> None:
    network = LookaheadValue(lookahead, SOURCE_LAYERS, 0)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_the_better_network_is_small() -> None:
    network = SelectionValue(20, [128, 128], 0)
    assert sum(parameter.numel() for parameter in network.parameters()) <= 300_000


def test_features_at_the_edges() -> None:
    """Column by column, in integers, as far as a feature is one."""
    lookahead = 12
    walked = [naive_steps(number, lookahead) for number in EDGES]
    logs = torch.tensor([math.log(number) for number in EDGES], dtype=torch.float64)
    residues = torch.tensor([number % 81 for number in EDGES], dtype=torch.uint8)
    valuations = torch.tensor([ks for _, ks in walked], dtype=torch.int16)
    features = lookahead_features(logs, residues, valuations, torch.float64)
    assert features.shape == (len(EDGES), 6 + lookahead)
    for row, (number, (_, ks)) in zip(features.tolist(), zip(EDGES, walked, strict=True), strict=True):
        assert row[0] == pytest.approx(math.log10(number) / 40, rel=1e-14, abs=1e-15)
        assert row[1:5] == [(number % m) / (m - 1) for m in (3, 9, 27, 81)]
        assert row[5] == pytest.approx((lookahead * math.log2(3) - sum(ks)) / 10, rel=1e-14)
        assert row[6:] == [min(k, 10) / 10 for k in ks]
    single = lookahead_features(logs, residues, valuations, torch.float32)
    assert single.dtype == torch.float32 and torch.equal(single[:, :6], features[:, :6].float())


def test_windows_past_1_are_padded_by_twos() -> None:
    network = LookaheadValue(30, [8], 0)
    assert naive_steps(5, 30)[1] == [4] + [2] * 29
    assert values(network, [5, 1]).isfinite().all()


@pytest.mark.parametrize("kind", BOTH)
def test_v_sees_its_window_only(kind: Any) -> None:
    """n + 81 2^(K+1) t has the same k_1..k_L and residues: V may change through ln n alone, and k_(L+1) is unseen."""
    network = kind(6, [16, 8], 1).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    number = 2**90 + 12345
    ks = naive_steps(number, 6)[1]
    others = [number + 81 * 2 ** (sum(ks) + 1) * t for t in (1, 2, 3, 5, 8)]
    assert all(naive_steps(other, 6)[1] == ks for other in others)
    assert len({naive_steps(other, 7)[1][6] for other in others}) > 1
    heights = values(network, [number, *others])
    if kind is SelectionValue:
        # Relative heights of states this large are the same to the last bits.
        relative = heights - torch.tensor([math.log(n) for n in (number, *others)], dtype=torch.float64)
        assert (relative - relative[0]).abs().max() < 1e-12
    else:
        assert (heights - heights[0]).abs().max() < 1e-9, "ln n hardly changes"
    different = values(network, [number, number + 2 * 81 * 2])
    assert (different[0] - different[1]).abs() > 1e-6


def windows_along(numbers: list[int], lookahead: int) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms (N, L + 1) and valuations (N, L), from Python integers alone."""
    walked = [naive_steps(number, lookahead) for number in numbers]
    return np.array([[math.log(state) for state in states] for states, _ in walked]), np.array([ks for _, ks in walked])


def test_the_better_network_starts_as_a_soft_v_tmax(monkeypatch: pytest.MonkeyPatch) -> None:
    network = SelectionValue(20, [16], 0).double()
    numbers = [2**127 - 25, *orbit(2**80 + 27).states[:200]]
    logs, _ = windows_along(numbers, 20)
    chord = np.maximum(0.0, (logs[:, -1:] - logs[:, :1]) / 20) * np.arange(21)
    tilted = logs - logs[:, :1] - chord
    weights = np.exp(30 * tilted) / np.exp(30 * tilted).sum(axis=1, keepdims=True)
    soft = (weights * (logs + 0.02 * np.arange(21))).sum(axis=1)
    assert values(network, numbers).numpy() == pytest.approx(soft, abs=1e-12)
    monkeypatch.setattr(SelectionValue, "SHARPNESS", 1e8)
    place = tilted.argmax(axis=1)
    # Both ends of a rising window lie on its chord.
    inside = np.sort(tilted, axis=1)[:, -2:] @ [-1, 1] > 1e-6
    assert inside.sum() > 100
    hard = Tilted(np.argmax, 1.0).values(logs, np.zeros((len(numbers), 20))) + (0.02 - 1e-3) * place
    assert values(network, numbers).numpy()[inside] == pytest.approx(hard[inside], abs=1e-9)


def test_what_the_better_network_sees_of_a_place() -> None:
    """Column by column, place by place, in plain Python."""
    network = SelectionValue(9, [16], 0).double()
    numbers = [*orbit(2**80 + 27).states[:40], *orbit(27).states]
    logs, ks = windows_along(numbers, 9)
    heights = logs - logs[:, :1]
    features = network.features(*map(torch.from_numpy, (logs[:, 0], heights, ks))).numpy()
    assert features.shape == (len(numbers), 10, 13)
    for row, (h, k) in enumerate(zip(heights.tolist(), ks.tolist(), strict=True)):
        slope = max(0.0, h[9] / 9)
        above = [height - slope * place for place, height in enumerate(h)]
        for place in range(10):
            expected = [
                h[place] / 4, (h[place] - h[9]) / 4, above[place] / 4, (above[place] - max(above)) / 4,
                (min(h[place:]) - h[place]) / 4, (max(h[place:]) - h[place]) / 4,
                (min(h[: place + 1]) - h[place]) / 4, (max(h[: place + 1]) - h[place]) / 4,
                4 * h[9] / 9, place / 9,
                min(k[place - 1], 10) / 4 if place else 0, min(k[place], 10) / 4 if place < 9 else 0,
                10 * numbers[row] ** -0.25,
            ]  # fmt: skip
            assert features[row, place] == pytest.approx(expected, abs=1e-12), (numbers[row], place)


@pytest.mark.parametrize("kind", BOTH)
def test_same_seed_same_weights_and_nothing_of_the_global_generator(kind: Any) -> None:
    torch.manual_seed(1)
    one = kind(5, [8, 8], 3)
    before = torch.get_rng_state()
    two = kind(5, [8, 8], 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    other = kind(5, [8, 8], 4)
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_closed_form_of_the_operations() -> None:
    network = LookaheadValue(10, [256, 128, 64], 0)
    assert network.extra_flops() == 2 * (16 * 256 + 256 * 128 + 128 * 64 + 64)
    assert network.trained_flops() == 3 * network.extra_flops()
    assert SelectionValue(20, [64, 32], 0).extra_flops() == 21 * 2 * (13 * 64 + 64 * 32 + 32 * 2)


@pytest.mark.parametrize("kind", BOTH)
def test_a_judge_takes_differences_along_the_map(kind: Any) -> None:
    """Margins of windows, of a file's kind and along an orbit, against V of Python integers at n and T(n)."""
    network = kind(7, [16, 8], 5).double()
    numbers = [3, 5, 27, 2**64 + 13, 2**128 - 1, 81 * 7]
    judge = NetworkJudge("V", network)
    (windows,) = windows_of(numbers, 7)
    after = [syracuse(number)[0] for number in numbers]
    expected = (values(network, numbers) - values(network, after)).numpy()
    assert np.abs(judge.margins(windows) - expected).max() < 1e-12
    path = orbit(27)
    expected = (values(network, path.states[:-1]) - values(network, path.states[1:])).numpy()
    along = orbit_windows(path, 7)
    assert np.abs(judge.margins(along) - expected).max() < 1e-12
    assert judge.violations(along).tolist() == (expected < 1e-6).tolist()
    assert judge.worst_margin(27) == pytest.approx(expected.min(), abs=1e-12)


def test_a_margin_that_is_too_small_is_a_violation() -> None:
    class Flat(LookaheadValue):
        slope_of_logs = 0.0

        def forward(self, logs: torch.Tensor, residues: torch.Tensor, valuations: torch.Tensor) -> torch.Tensor:
            return self.slope_of_logs * logs[..., 0]

    network = Flat(4, [4], 0)
    windows = Windows(
        np.log([[9.0, 7, 11, 17, 13, 5]]), np.array([[2, 1, 3, 5, 4, 0]]), np.array([[2, 1, 1, 2, 3]]), np.array([9])
    )
    assert NetworkJudge("V", network).violations(windows).tolist() == [True], "no decrease is no decrease"
    network.slope_of_logs = 1e-6
    assert NetworkJudge("V", network).violations(windows).tolist() == [True]
    network.slope_of_logs = 1e-5
    assert NetworkJudge("V", network).violations(windows).tolist() == [False]
