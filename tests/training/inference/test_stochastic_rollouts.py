"""Stochastic rollouts: against a plain loop, without noise the official inference, and what must not matter."""

import pytest
import torch
from torch import Tensor

from errors import UserError
from models.act import Batch
from models.recursive_model import RecursiveModel
from tests.models.small import ARCHITECTURES, small_batch, small_model
from tests.training.inference.test_perturbed_inference import DTYPES, numbered
from training.inference.fixed import FixedInference, OfficialInference
from training.inference.stability import StabilityProbe
from training.inference.stochastic_rollouts import RolloutPredictions, StochasticRollouts, judged_steps
from training.noise import SITES, draw_noise

PROBE = StabilityProbe((1e-3, 1e-2), num_steps=2, num_directions=2)


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_without_noise_it_is_the_official_answer_to_the_bit(arch: str, dtypes: str) -> None:
    dtype, state_dtype = DTYPES[dtypes]
    model, batch = small_model(arch, dtype=dtype, state_dtype=state_dtype).eval(), numbered(small_batch(5))
    for official, steps in ((OfficialInference(), None), (FixedInference(7), 7)):
        expected = official.predict(model, batch)
        for rollouts in (1, 3):
            made = StochasticRollouts(0.0, "both", rollouts, steps).predict(model, batch)
            for name in ("answers", "q_halt", "steps", "logits"):
                assert torch.equal(getattr(made, name), getattr(expected, name)), name
            assert made.forward_passes == rollouts * expected.forward_passes
            for rollout in range(rollouts):
                assert torch.equal(made.rollout_answers[:, rollout, -1], expected.answers)
                assert torch.equal(made.rollout_q[:, rollout, -1], expected.q_halt)


def row_by_row(
    model: RecursiveModel, batch: Batch, sigma: float, site: str, rollouts: int, num_steps: int, seed: int
) -> list[list[list[tuple[Tensor, Tensor]]]]:
    """Logits and q of every row, rollout and step, each row alone, by a loop over sub-updates."""
    shape = (model.config.total_len, model.config.hidden_size)
    found = []
    with torch.no_grad():
        for row in range(len(batch["inputs"])):
            one = {key: leaf[row : row + 1] for key, leaf in batch.items()}
            sub_updates = model.supervision_step(model.embed(one)).sub_updates
            found.append([])
            for rollout in range(rollouts):
                state, steps = model.initial_state(1), []
                for step in range(1, num_steps + 1):
                    for name in ("z_H", "z_L"):
                        if site in (name, "both"):
                            number = int(batch["row"][row])
                            noise = draw_noise(seed, step, [number], shape, f"rollouts/{rollout}/{name}")
                            state = state._replace(**{name: getattr(state, name) + sigma * noise.double()})
                    for sub_update in sub_updates:
                        state = sub_update(state)
                    logits, q_halt, _ = model.readout(state)
                    steps.append((logits[0], q_halt[0]))
                found[-1].append(steps)
    return found


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_rollout_and_step_against_the_plain_loop(arch: str, site: str) -> None:
    model, batch = small_model(arch).eval(), numbered(small_batch(4), 11)
    made = StochasticRollouts(0.7, site, 3, 3, judged_steps=[1, 2], seed=5).predict(model, batch)
    expected = row_by_row(model, batch, 0.7, site, 3, 3, 5)
    logits = torch.stack([torch.stack([torch.stack([s[0] for s in r]) for r in row]) for row in expected])
    q = torch.stack([torch.stack([torch.stack([s[1] for s in r]) for r in row]) for row in expected])
    assert made.judged_steps == (1, 2, 3) and torch.equal(made.rollout_answers, logits.argmax(-1))
    assert torch.allclose(made.rollout_q, q, rtol=0, atol=1e-6)
    ordered = logits.sort(dim=-1, descending=True).values
    assert torch.allclose(made.rollout_margin, (ordered[..., 0] - ordered[..., 1]).mean(-1).float(), atol=1e-6)
    best = q[:, :, -1].argmax(dim=1)
    rows = torch.arange(4)
    assert torch.equal(made.answers, logits[rows, best, -1].argmax(-1)) and len(set(best.tolist())) > 1
    assert torch.allclose(made.logits, logits[rows, best, -1], rtol=0, atol=1e-11)
    assert torch.equal(made.q_halt, made.rollout_q[rows, best, -1]) and made.forward_passes == 3 * 4 * (3 + 1)
    clean = FixedInference(3).predict(model, batch)
    assert torch.equal(made.noiseless_answers[:, -1], clean.answers) and made.noiseless_answers.shape[1] == 3
    assert torch.equal(made.noiseless_answers[:, 0], FixedInference(1).predict(model, batch).answers)
    assert not torch.allclose(logits[:, 0, -1], clean.logits, rtol=0, atol=1e-3), "the noise arrives"
    assert not torch.allclose(logits[:, 0], logits[:, 1], rtol=0, atol=1e-3), "each rollout has its own"


def test_the_noise_knows_neither_batch_nor_order_nor_number_of_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, for the noise itself; the outcomes then agree as far as the kernels do."""
    drawn: dict[tuple[int, int, str], Tensor] = {}
    seen = {"again": 0}

    def keep(seed: int, step: int, rows: Tensor, shape: tuple[int, ...], site: str, stream: str) -> dict[str, Tensor]:
        made = {name: draw_noise(seed, step, rows, shape, f"{stream}/{name}") for name in SITES[site]}
        for name, noise in made.items():
            for row, values in zip(rows.tolist(), noise, strict=True):
                key = (step, row, f"{stream}/{name}")
                if key in drawn:
                    seen["again"] += 1
                    assert torch.equal(drawn[key], values)
                drawn[key] = values
        return made

    monkeypatch.setattr("training.inference.stochastic_rollouts.draw_state_noise", keep)
    model, batch = small_model("trm-att").eval(), numbered(small_batch(9))
    inference = StochasticRollouts(1.0, "both", 4, 3)
    whole = inference.predict(model, batch)
    assert len(drawn) == 9 * 4 * 3 * 2
    assert len({values.numpy().tobytes() for values in drawn.values()}) == len(drawn), "nowhere the same noise twice"
    order = torch.tensor([4, 7, 0, 2, 8, 1, 3, 6, 5])
    for size in (2, 4):
        for rows in order.split(size):
            part = inference.predict(model, {key: leaf[rows] for key, leaf in batch.items()})
            assert torch.equal(part.rollout_answers, whole.rollout_answers[rows])
            assert torch.allclose(part.logits, whole.logits[rows], rtol=0, atol=1e-11)
    more = StochasticRollouts(1.0, "both", 6, 3).predict(model, batch)
    assert torch.equal(more.rollout_q[:, :4], whole.rollout_q) and seen["again"] == 3 * 9 * 4 * 3 * 2
    monkeypatch.undo()
    other = StochasticRollouts(1.0, "both", 4, 3, seed=1).predict(model, batch)
    assert (other.rollout_q != whole.rollout_q).all()


def test_the_first_rollout_may_be_clean() -> None:
    model, batch = small_model("hrm").eval(), numbered(small_batch(4))
    noisy = StochasticRollouts(0.5, "z_L", 3, 2).predict(model, batch)
    mixed = StochasticRollouts(0.5, "z_L", 3, 2, clean_first=True).predict(model, batch)
    clean = FixedInference(2).predict(model, batch)
    assert torch.equal(mixed.rollout_q[:, 0, -1], clean.q_halt)
    assert (noisy.rollout_q[:, 0, -1] != clean.q_halt).all()
    assert torch.equal(mixed.rollout_q[:, 1:], noisy.rollout_q[:, 1:])


def test_labels_are_not_looked_at() -> None:
    model, batch = small_model("trm-mlp").eval(), numbered(small_batch(4))
    inference = StochasticRollouts(0.5, "both", 2, 2, probe=PROBE)
    unlabelled = {key: leaf for key, leaf in batch.items() if key != "labels"}
    first, second = inference.predict(model, batch), inference.predict(model, unlabelled)
    for name in ("answers", "logits", "rollout_q", "rollout_answers", "rollout_margin", "rollout_growth"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def test_probing_changes_no_rollout_and_is_paid_for() -> None:
    model, batch = small_model("trm-att").eval(), numbered(small_batch(5))
    plain, probed = (StochasticRollouts(0.5, "z_H", 3, 4, probe=probe).predict(model, batch) for probe in (None, PROBE))
    assert torch.equal(plain.rollout_q, probed.rollout_q) and torch.equal(plain.logits, probed.logits)
    assert plain.rollout_growth.shape == (5, 3, 3, 0) and probed.rollout_growth.shape == (5, 3, 3, 2)
    assert probed.rollout_growth.isfinite().all()
    # Judged after 1, 2 and 4 steps; a probe follows the state and two directions of two sizes for two steps.
    assert PROBE.passes() == 2 * (1 + 4) and PROBE.passes(1) == 2 * (1 + 2)
    assert (plain.forward_passes, probed.forward_passes) == (5 * (3 + 1) * 4, 5 * (4 + 3 * (4 + 3 * 10)))


def test_a_q_that_is_no_number_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = small_model("trm-att").eval(), numbered(small_batch(2))
    readout, calls = model.readout, {"number": 0}

    def broken(state: object) -> tuple[Tensor, Tensor, Tensor]:
        logits, q_halt, q_continue = readout(state)  # type: ignore[arg-type]
        calls["number"] += 1
        # The first is of the trajectory without noise.
        return logits, torch.full_like(q_halt, torch.nan) if calls["number"] == 2 else q_halt, q_continue

    monkeypatch.setattr(model, "readout", broken)
    made = StochasticRollouts(0.5, "z_L", 2, 1).predict(model, batch)
    assert made.rollout_q[:, 0].isnan().all() and torch.equal(made.q_halt, made.rollout_q[:, 1, -1])
    assert torch.equal(made.answers, made.rollout_answers[:, 1, -1])


@pytest.mark.parametrize("bias", [0.5, torch.nan])
def test_of_equal_q_the_first_rollout_is_chosen(bias: float) -> None:
    model, batch = small_model("trm-att").eval(), numbered(small_batch(6))
    assert model.q_head.bias is not None
    torch.nn.init.zeros_(model.q_head.weight)
    torch.nn.init.constant_(model.q_head.bias, bias)
    made = StochasticRollouts(2.0, "both", 4, 3).predict(model, batch)
    assert torch.equal(made.answers, made.rollout_answers[:, 0, -1])
    assert not torch.equal(made.answers, made.rollout_answers[:, -1, -1])
    assert torch.equal(made.answers, made.logits.argmax(-1))


def test_judged_steps() -> None:
    assert [judged_steps([], steps) for steps in (1, 2, 3, 4, 64)] == [[1], [1, 2], [1, 3], [1, 2, 4], [16, 32, 64]]
    assert judged_steps([8, 2, 8], 9) == [2, 8, 9]
    for wrong in (0, 10):
        with pytest.raises(UserError, match=f"found {wrong}, expected steps from 1 to 9"):
            judged_steps([wrong], 9)


def test_padding_counts_its_steps_and_calls_are_counted() -> None:
    model, batch = small_model("hrm").eval(), numbered(small_batch(3))
    batch["row"][2] = -1
    rollouts: list[int] = []
    made = StochasticRollouts(0.1, "z_H", 4, 3, on_rollout=lambda: rollouts.append(1)).predict(model, batch)
    assert isinstance(made, RolloutPredictions) and made.forward_passes == (4 + 1) * 3 * 3 and len(rollouts) == 4
    assert not made.logits.requires_grad
