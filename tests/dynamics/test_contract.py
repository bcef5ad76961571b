"""What others rely on: small times against explicit Jacobian products, pytrees, windows, bad input, bad examples."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from dynamics.flat_state import StateLayout
from dynamics.lyapunov import LyapunovResult, lyapunov_spectrum
from dynamics.trajectory import apply_once
from tests.dynamics.maps import (
    henon,
    jacobians,
    linear,
    logistic,
    lorenz,
    normal,
    qr_exponents,
    random_network,
    rate_network,
    rows,
    svd_exponents,
)

CLOSE = {"rtol": 0, "atol": 1e-9}


class Pair(NamedTuple):
    slow: Tensor
    fast: Tensor


WEIGHTS = random_network(5, 2.5, seed=4)


def update_fast(state: Pair) -> Pair:
    """(B, 2, 1) and (B, 3): only `fast` moves, and it sees both."""
    both = torch.cat((state.slow.flatten(1), state.fast), dim=1)
    return state._replace(fast=(both @ WEIGHTS[:3].T).tanh())


def update_slow(state: Pair) -> Pair:
    both = torch.cat((state.slow.flatten(1), state.fast), dim=1)
    return state._replace(slow=(both @ WEIGHTS[3:].T).sin()[:, :, None])


HALVES = [update_fast, update_fast, update_slow]


def joined(z: Tensor) -> Tensor:
    """`HALVES` on the flat vector."""
    state = apply_once(HALVES, Pair(z[:, :2, None], z[:, 2:]))
    return torch.cat((state.slow.flatten(1), state.fast), dim=1)


def pair(batch: int) -> Pair:
    z = normal(batch, 5, seed=7)
    return Pair(z[:, :2, None], z[:, 2:])


# -- finite times


@pytest.mark.parametrize("num_steps", [1, 2, 5, 9])
@pytest.mark.parametrize("name", ["henon", "lorenz", "network"])
def test_small_times_against_the_whole_product(name: str, num_steps: int) -> None:
    maps = {"henon": henon, "lorenz": lorenz(0.02), "network": rate_network(random_network(4, 1.8))}
    size = {"henon": 2, "lorenz": 3, "network": 4}[name]
    start = 0.3 * normal(3, size, seed=2)
    tangents = normal(3, size, size, seed=3)
    found = lyapunov_spectrum(maps[name], start, num_exponents=size, num_steps=num_steps, initial_tangents=tangents)
    for row in range(3):
        product = jacobians(maps[name], start[row], num_steps)
        # It is the whole product that loses digits here, not the engine.
        whole = qr_exponents(product, tangents[row]), svd_exponents(product)
        torch.testing.assert_close(found.exponents[row], whole[0], rtol=0, atol=1e-7)
        torch.testing.assert_close(found.svd_exponents[row], whole[1], rtol=0, atol=1e-7)


def test_svd_exponents_of_a_part_are_those_on_its_span() -> None:
    advance, start, tangents = rate_network(random_network(6, 1.8)), normal(2, 6), normal(2, 6, 3, seed=3)
    found = lyapunov_spectrum(advance, start, num_exponents=3, num_steps=7, initial_tangents=tangents)
    for row in range(2):
        product = torch.linalg.multi_dot(jacobians(advance, start[row], 7)[::-1])
        on_span = torch.linalg.svdvals(product @ torch.linalg.qr(tangents[row]).Q).log() / 7
        torch.testing.assert_close(found.svd_exponents[row], on_span, **CLOSE)
        whole = torch.linalg.svdvals(product).log() / 7
        assert (found.svd_exponents[row] <= whole[:3] + 1e-12).all()


# -- pytrees


@pytest.mark.parametrize("qr_interval", [1, 3, 6])
def test_half_of_the_state_moves_at_a_time(qr_interval: int) -> None:
    start, tangents = pair(3), normal(3, 5, 5, seed=8)
    found = lyapunov_spectrum(
        HALVES, start, num_exponents=5, num_steps=4, qr_interval=qr_interval, initial_tangents=tangents
    )
    flat = torch.cat((start.slow.flatten(1), start.fast), dim=1)
    # fast is replaced whole each time: a full step cannot remember more than what slow knew. Rank is lost.
    for row in range(3):
        product = torch.linalg.multi_dot(jacobians(joined, flat[row], 4)[::-1])
        whole = torch.linalg.svdvals(product @ torch.linalg.qr(tangents[row]).Q).log() / 4
        torch.testing.assert_close(found.svd_exponents[row, :2], whole[:2], rtol=0, atol=1e-6)
    final = found.final_state
    assert isinstance(final, Pair) and final.slow.shape == (3, 2, 1)
    expected = start
    for _ in range(4):
        expected = apply_once(HALVES, expected)
    assert torch.equal(final.slow, expected.slow) and torch.equal(final.fast, expected.fast)
    assert found.local_growth.shape == (3, 12 // qr_interval, 5)


def test_half_moves_and_nothing_is_forgotten() -> None:
    """Leapfrog on a dict: an invertible map of two sub-updates, each of which leaves one leaf alone."""

    def kick(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"q": state["q"], "p": state["p"] + 0.4 * state["q"].sin()}

    def drift(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"p": state["p"], "q": state["q"] + 0.7 * state["p"]}  # keys in another order

    def flat_map(z: Tensor) -> Tensor:
        state = drift(kick({"q": z[:, :2], "p": z[:, 2:]}))
        return torch.cat((state["q"], state["p"]), dim=1)

    z, tangents = normal(2, 4), normal(2, 4, 4, seed=5)
    found = lyapunov_spectrum(
        [kick, drift], {"q": z[:, :2], "p": z[:, 2:]}, num_exponents=4, num_steps=6, initial_tangents=tangents
    )
    assert not found.any_flag.any()
    for row in range(2):
        product = jacobians(flat_map, z[row], 6)
        torch.testing.assert_close(found.exponents[row], qr_exponents(product, tangents[row]), **CLOSE)
        torch.testing.assert_close(found.svd_exponents[row], svd_exponents(product), **CLOSE)
    torch.testing.assert_close(found.exponents.sum(dim=1), torch.zeros(2).double(), **CLOSE)


def test_expanded_states_and_leaves_that_stay() -> None:
    """Initial states of models are expanded views, and a part of the state may be constant."""

    def advance(state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return 2 * state[0] + state[1].mean(dim=1, keepdim=True), state[1]

    state = (torch.ones(1).double().expand(2, 3), torch.ones(1).double().expand(2, 1))
    tangents = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    found = lyapunov_spectrum(advance, state, num_exponents=4, num_steps=5, initial_tangents=tangents)
    expected = rows([math.log(2)] * 3 + [0]).expand(2, -1)
    torch.testing.assert_close(found.exponents, expected, **CLOSE)


def test_a_leaf_that_is_replaced_by_a_constant() -> None:
    def advance(state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return 3 * state[0], torch.ones_like(state[1])

    tangents = torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    found = lyapunov_spectrum(
        advance, (normal(2, 1), normal(2, 1)), num_exponents=2, num_steps=5, initial_tangents=tangents
    )
    torch.testing.assert_close(found.exponents, rows((math.log(3), -math.inf)).expand(2, -1), **CLOSE)


# -- parts of a run


def test_windows_and_units() -> None:
    found = lyapunov_spectrum(HALVES, pair(2), num_exponents=2, num_steps=6, qr_interval=3)
    parts = torch.stack([found.window(0, 2), found.window(2, 6)])
    torch.testing.assert_close((2 * parts[0] + 4 * parts[1]) / 6, found.exponents, **CLOSE)
    assert torch.equal(found.window(0, 6), found.exponents)
    torch.testing.assert_close(found.exponents_per_map * 3, found.exponents, **CLOSE)
    for start, stop in [(0, 7), (3, 3), (-1, 2)]:
        with pytest.raises(ValueError, match="window"):
            found.window(start, stop)
    with pytest.raises(ValueError, match="multiples of qr_interval=9"):
        lyapunov_spectrum(HALVES, pair(2), num_exponents=2, num_steps=6, qr_interval=9).window(0, 2)


@pytest.mark.parametrize("transient", [0, 2])
def test_transient_and_warmup_only_come_first(transient: int) -> None:
    """What is measured after them is the tail of the run that measures everything."""
    whole = lyapunov_spectrum(henon, rows((0.1, 0.1)), num_exponents=2, num_steps=9, generator=seeded())
    tail = lyapunov_spectrum(
        henon, rows((0.1, 0.1)), num_exponents=2, num_steps=9 - 3 - transient, transient_steps=transient,
        tangent_warmup_steps=3, generator=seeded(),
    )  # fmt: skip
    assert torch.equal(tail.local_growth, whole.local_growth[:, 3 + transient :])
    assert torch.equal(tail.final_state, whole.final_state)


def test_going_on_is_the_same_as_not_stopping() -> None:
    whole = lyapunov_spectrum(HALVES, pair(3), num_exponents=3, num_steps=8, generator=seeded())
    first = lyapunov_spectrum(HALVES, pair(3), num_exponents=3, num_steps=5, generator=seeded())
    second = lyapunov_spectrum(
        HALVES, first.final_state, num_exponents=3, num_steps=3, initial_tangents=first.final_tangents
    )
    growth = torch.cat((first.local_growth, second.local_growth), dim=1)
    # Not bitwise: the tangents are orthonormalised once more. Noise in directions without rank is no number.
    torch.testing.assert_close(growth[:, :, :2], whole.local_growth[:, :, :2], rtol=0, atol=1e-8)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def test_a_seed_determines_every_bit() -> None:
    def run() -> LyapunovResult:
        return lyapunov_spectrum(HALVES, pair(3), num_exponents=3, num_steps=8, generator=seeded())

    first, second = run(), run()
    for name in ("exponents", "local_growth", "svd_exponents", "final_tangents", "condition_log"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


# -- bad examples


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_example_leaves_the_others_alone(bad: float) -> None:
    start = 0.1 * normal(4, 2)
    tangents = normal(4, 2, 2, seed=1)
    clean = lyapunov_spectrum(henon, start, num_exponents=2, num_steps=7, initial_tangents=tangents)
    broken = start.clone()
    broken[1, 0] = bad
    found = lyapunov_spectrum(henon, broken, num_exponents=2, num_steps=7, initial_tangents=tangents)
    others = torch.tensor([0, 2, 3])
    for name in ("exponents", "local_growth", "svd_exponents", "condition_log"):
        assert getattr(found, name)[1].isnan().all(), name
        torch.testing.assert_close(getattr(found, name)[others], getattr(clean, name)[others], **CLOSE)
    assert found.flags["nonfinite_state"].tolist() == [False, True, False, False]
    assert found.any_flag.tolist() == [False, True, False, False]
    assert found.first_nonfinite.tolist() == [-1, 0, -1, -1]


def test_an_example_that_explodes_later() -> None:
    def advance(z: Tensor) -> Tensor:
        return z**4

    found = lyapunov_spectrum(advance, rows((0.9,), (1e3,)), num_exponents=1, num_steps=6)
    assert found.exponents[0].isfinite().all() and found.exponents[1].isnan().all()
    assert found.flags["nonfinite_state"].tolist() == [False, True]
    # 1e3^(4^4) = 1e768.
    assert found.first_nonfinite.tolist() == [-1, 3]
    assert found.local_growth[1, :3].isfinite().all()


@pytest.mark.parametrize("device_looks_once", [True, False])
def test_which_examples_are_finite(device_looks_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not device_looks_once:  # as on a GPU
        monkeypatch.setattr(StateLayout, "surely_finite", lambda layout, leaves: False)
    most = torch.finfo(torch.float64).max
    # Finite, with a sum that is not; infinities that cancel; one number that is none.
    start = rows((most, most), (math.inf, -math.inf), (1.0, math.nan), (1.0, 2.0))
    found = lyapunov_spectrum(lambda z: -z, start, num_exponents=2, num_steps=3)
    assert found.flags["nonfinite_state"].tolist() == [False, True, True, False]
    assert found.exponents[[0, 3]].abs().max() < 1e-15


def test_an_infinity_between_two_maps_is_remembered() -> None:
    # The second example's state is infinite after the first map and finite after the second, its tangent always finite.
    maps = [lambda z: 1e300 * z, torch.atan]
    found = lyapunov_spectrum(maps, rows((1e-300,), (1e10,)), num_exponents=1, num_steps=1, qr_interval=2)
    assert found.final_state.flatten().tolist() == [math.pi / 4, math.pi / 2]
    assert found.exponents[0].isfinite() and found.exponents[1].isnan()


def test_tangents_that_overflow_while_the_state_does_not() -> None:
    def advance(z: Tensor) -> Tensor:
        return (1e200 * z).sin()

    # The derivative is 1e200 each time: two fit into one QR as little as into float64.
    start = rows((0.0,))
    found = lyapunov_spectrum(advance, start, num_exponents=1, num_steps=4, qr_interval=2)
    assert found.flags["nonfinite_tangents"].tolist() == [True] and found.exponents.isnan().all()
    short = lyapunov_spectrum(advance, start, num_exponents=1, num_steps=4)
    assert short.exponents.item() == pytest.approx(200 * math.log(10), rel=1e-12)


def test_an_interval_that_is_too_long_is_flagged() -> None:
    factors = torch.tensor([3.0, 0.3], dtype=torch.float64)
    tangents = rows((1, -1), (1, 1))[None]

    def run(qr_interval: int) -> LyapunovResult:
        return lyapunov_spectrum(
            lambda z: factors * z, normal(1, 2), num_exponents=2, num_steps=40, qr_interval=qr_interval,
            initial_tangents=tangents,
        )  # fmt: skip

    for qr_interval in (1, 2, 4):
        assert not run(qr_interval).any_flag.any()
    assert run(10).flags["ill_conditioned"].all()
    assert run(20).flags["rank_lost"][0].tolist() == [False, True]


@pytest.mark.parametrize("advance", [lambda z: z.mul_(2), lambda z: 2 * z])
def test_the_callers_state_stays_as_it_is(advance: Any) -> None:
    start = normal(2, 3)
    before = start.clone()
    found = lyapunov_spectrum(advance, start, num_exponents=2, num_steps=3)
    assert torch.equal(start, before)
    torch.testing.assert_close(found.exponents, torch.full_like(found.exponents, math.log(2)), **CLOSE)


def test_a_map_may_write_into_its_result_and_branch() -> None:
    def written(z: Tensor) -> Tensor:
        new = torch.empty_like(z)
        new[:, 0] = 1 - 1.4 * z[:, 0] ** 2 + z[:, 1]
        new[:, 1] = 0.3 * z[:, 0]
        return new if bool(new.isfinite().all()) else z

    request = {"num_exponents": 2, "num_steps": 6, "initial_tangents": normal(2, 2, 2)}
    found, plain = (lyapunov_spectrum(one, 0.1 * normal(2, 2), **request) for one in (written, henon))  # type: ignore[arg-type]
    assert torch.equal(found.exponents, plain.exponents)


# -- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_exponents": 3}, "num_exponents=3: the state has 2 components"),
        ({"num_exponents": 0}, "num_exponents=0"),
        ({"num_exponents": True}, "num_exponents=True"),
        ({"num_steps": 0}, "num_steps=0"),
        ({"num_steps": 2.0}, "num_steps=2.0"),
        ({"transient_steps": -1}, "transient_steps=-1"),
        ({"tangent_warmup_steps": -1}, "tangent_warmup_steps=-1"),
        ({"qr_interval": 0}, "qr_interval=0"),
        ({"qr_interval": 3}, "does not divide the 4 maps"),
        ({"qr_interval": 8}, "does not divide the 4 maps"),
        ({"dtype": torch.bfloat16}, "float32 or float64 only"),
        ({"initial_tangents": torch.eye(2)}, "expected \\(B, D, k\\) = \\(3, 2, 2\\)"),
        ({"initial_tangents": torch.ones(3, 2, 2)}, "linearly dependent"),
        ({"initial_tangents": torch.zeros(3, 2, 2)}, "linearly dependent"),
        ({"initial_tangents": torch.full((3, 2, 2), math.nan)}, "not finite"),
        ({"advance": []}, "non-empty sequence"),
        ({"advance": 3}, "expected a map"),
        ({"advance": lambda z: z[:, :1]}, "expected shape"),
        ({"advance": lambda z: (z, z)}, "leaves"),
        ({"initial_state": torch.zeros(3, 2, dtype=torch.bfloat16)}, "pass dtype="),
        ({"initial_state": torch.zeros(3, 2, dtype=torch.int64)}, "expected float32 or float64"),
        ({"initial_state": (torch.zeros(3, 2), torch.zeros(2, 2))}, "different batch axes"),
        ({"initial_state": torch.zeros(())}, "no axis"),
        ({"initial_state": torch.zeros(0, 2)}, "empty"),
        ({"initial_state": []}, "no tensor"),
        ({"initial_state": {"z": 1.0}}, "expected a tensor"),
    ],
)
def test_impossible_requests_are_one_clear_line(changes: dict[str, Any], message: str) -> None:
    request: dict[str, Any] = {
        "advance": henon, "initial_state": normal(3, 2), "num_exponents": 2, "num_steps": 4,
    } | changes  # fmt: skip
    with pytest.raises(ValueError, match=message) as raised:
        lyapunov_spectrum(request.pop("advance"), request.pop("initial_state"), **request)
    assert "\n" not in str(raised.value)


def test_dtype_casts_the_state() -> None:
    start = torch.tensor([[0.25], [0.75]], dtype=torch.bfloat16)
    found = lyapunov_spectrum(logistic, start, num_exponents=1, num_steps=3, dtype=torch.float64)
    assert found.dtype == torch.float64 and found.final_state.dtype == torch.float64
    exact = lyapunov_spectrum(logistic, start.double(), num_exponents=1, num_steps=3)
    assert torch.equal(found.exponents, exact.exponents)
    # float32 in, float32 tangents, numbers in float64
    single = lyapunov_spectrum(linear(torch.eye(2)), torch.ones(1, 2), num_exponents=2, num_steps=3)
    assert single.final_tangents.dtype == torch.float32 and single.exponents.dtype == torch.float64
