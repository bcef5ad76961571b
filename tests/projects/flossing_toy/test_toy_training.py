"""Cells of the flossing toy: the mechanism at a small size, arms that share what they should, the same bits again."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from projects.flossing_toy.rate_network import task_pass
from projects.flossing_toy.toy_training import (
    ARMS,
    Cell,
    NonFiniteToyError,
    ToyRun,
    ToySettings,
    planned_updates,
    run_cell,
)

SMALL = ToySettings(
    num_units=24, num_steps=24, batch_size=6, epochs=25, num_exponents=20, window=16, transient=4, floss_updates=30,
    inter_every=8, inter_episodes=2, block=5, eval_batches=2, measured_sequences=2,
)  # fmt: skip


def without_seconds(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "seconds"}


def run(arm: str, settings: ToySettings = SMALL, delay: int = 2, seed: int = 0) -> dict[str, Any]:
    return run_cell(settings, Cell("xor", delay, arm, seed))


def test_flossing_flattens_the_spectrum_and_conditions_the_long_jacobian() -> None:
    """Ten times less loss in 250 updates, on sequences that were not flossed on; the control's do no such thing."""
    settings = replace(SMALL, epochs=1, floss_updates=250, lr=3e-3)
    before, after, _ = run("pre", settings)["measures"]
    assert after["mean_square"] < before["mean_square"] / 10
    assert abs(after["exponents"][0]) < 0.15 and after["exponents"][-1] > before["exponents"][-1] + 0.5
    # Orders of magnitude of the condition number, on each sequence.
    assert max(after["log10_condition"]) < min(before["log10_condition"]) - 2
    _, shuffled, _ = run("shuffled", settings)["measures"]
    assert shuffled["mean_square"] > before["mean_square"] / 4


def test_the_condition_number_is_that_of_the_whole_product() -> None:
    """Singular values of the reverse-mode Jacobian of all steps, on the span of the first tangents."""
    settings = replace(SMALL, window=6, transient=2)
    toy = ToyRun(settings, Cell("copy", 2, "none", 3))
    measure = toy._measure(0)
    network = toy.network.double().requires_grad_(False)
    inputs = toy._sequences("measure", 0, 2).double()
    for number in range(2):

        def through(x: torch.Tensor, number: int = number) -> torch.Tensor:
            for one in network.state_maps(inputs[:, number : number + 1]):
                x = one(x[None])[0]
            return x

        jacobian = torch.autograd.functional.jacobian(through, network.x0[0])
        values = torch.linalg.svdvals(jacobian @ toy.tangents.double())
        expected = (values[0] / values[-1]).log10().item()
        assert measure["log10_condition"][number] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("arm", ARMS)
def test_episodes_of_each_arm(arm: str) -> None:
    result = run(arm)
    expected = {"pre": [1], "shuffled": [1], "inter": [8, 16], "pre_inter": [1, 8, 16], "shuffled_inter": [1, 8, 16]}
    assert [one["before_epoch"] for one in result["episodes"]] == expected.get(arm, [])
    assert all(len(one["losses"]) == len(one["grad_norms"]) == 30 for one in result["episodes"])
    assert planned_updates(SMALL, Cell("xor", 2, arm, 0)) == 25 + 30 * len(result["episodes"])
    assert result["curve"]["last_epoch"] == [5, 10, 15, 20, 25]
    assert len(result["measures"]) == 2 + len(result["episodes"])
    assert result["final"]["bits"] == 2 * 6 * (24 - 4)


def test_arms_differ_by_their_arm_alone() -> None:
    """One seed: the same weights, and the same batches: the first loss of all that are not flossed before is one."""
    results = {arm: run(arm, replace(SMALL, block=1)) for arm in ARMS}
    plain = results["none"]
    for arm in ("inter", "unclipped"):
        assert results[arm]["measures"][0] == plain["measures"][0]
        assert results[arm]["curve"]["loss"][0] == plain["curve"]["loss"][0]
        assert results[arm]["curve"]["loss"] != plain["curve"]["loss"]
    # What is flossed during training is the baseline until then.
    assert results["inter"]["curve"]["loss"][:7] == plain["curve"]["loss"][:7]
    assert results["inter"]["curve"]["loss"][7] != plain["curve"]["loss"][7]
    assert results["pre"]["measures"][0] == plain["measures"][0]
    assert results["pre"]["episodes"][0]["losses"][0] != results["shuffled"]["episodes"][0]["losses"][0]
    assert results["orthogonal"]["measures"][0]["exponents"] != plain["measures"][0]["exponents"]


def test_the_shuffled_target_is_the_first_spectrum_in_another_order() -> None:
    toy = ToyRun(SMALL, Cell("xor", 2, "shuffled", 0))
    result = toy.result()
    first = result["measures"][0]["exponents"]
    assert toy.target.tolist() != pytest.approx(first)
    assert sorted(toy.target.tolist()) == pytest.approx(sorted(first), abs=1e-6)


def test_a_cell_begun_again_gives_the_same_bits() -> None:
    first, second = run("pre_inter"), run("pre_inter")
    assert without_seconds(first) == without_seconds(second)
    assert without_seconds(run("pre_inter", seed=1)) != without_seconds(first)


@pytest.mark.parametrize("arm", ["none", "orthogonal"])
def test_updates_are_those_of_the_plain_optimizer(arm: str) -> None:
    """Every weight moves along its own gradient (fused kernels go by address, not by index)."""
    toy = ToyRun(SMALL, Cell("xor", 2, arm, 0))
    plain = copy.deepcopy(toy.network)
    optimizer = torch.optim.Adam(plain.parameters(), SMALL.lr, foreach=False, fused=False)
    for epoch in range(1, 4):
        batch = toy._bits("batch", epoch)
        done = task_pass(plain, batch.inputs, batch.targets, batch.first)
        assert done.gradients is not None
        for name, gradient in done.gradients.items():
            getattr(plain, name).grad = gradient * min(1.0, SMALL.clip / float(gradient.norm()))
        optimizer.step()
        toy._train(epoch)
    for (name, ours), theirs in zip(toy.network.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=name)
        assert float((ours - getattr(ToyRun(SMALL, toy.cell).network, name)).detach().abs().max()) > 1e-4


def test_each_array_is_clipped_on_its_own() -> None:
    toy = ToyRun(SMALL, Cell("xor", 2, "none", 0))
    gradients = {"J": torch.full((24, 24), 2.0), "b": torch.full((24,), 1e-4)}
    norm = toy._apply(torch.optim.SGD([toy.network.J], 0.0), gradients, 0.03)
    assert norm == pytest.approx((48.0**2 + 24e-8) ** 0.5)
    assert toy.network.J.grad is not None and toy.network.J.grad.norm().item() == pytest.approx(0.03)
    assert toy.network.b.grad is not None and torch.equal(toy.network.b.grad, gradients["b"])


def test_a_solved_cell_ends_early_and_not_before_its_last_episode() -> None:
    settings = replace(SMALL, stop_accuracy=0.4, patience=2)
    assert run("none", settings)["curve"]["last_epoch"] == [5, 10]
    assert run("inter", settings)["curve"]["last_epoch"] == [5, 10, 15, 20]
    assert run("none", replace(settings, stop_accuracy=1.0))["curve"]["last_epoch"][-1] == 25


def test_numbers_that_are_not_finite_end_the_cell() -> None:
    with pytest.raises(NonFiniteToyError, match="xor_d2_pre_s0"):
        run("pre", replace(SMALL, lr=1e30))
