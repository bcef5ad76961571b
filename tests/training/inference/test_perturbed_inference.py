"""Perturbed starts: rollout by rollout against a plain loop, and what must not matter."""

import pytest
import torch
from torch import Tensor

from models.act import Batch
from models.recursive_model import RecursiveModel
from tests.models.small import ARCHITECTURES, small_batch, small_model
from training.inference.fixed import FixedInference, OfficialInference
from training.inference.perturbed_starts import SEED, PerturbedInference
from training.noise import SITES, draw_noise

DTYPES = {
    "float64": (torch.float64, None),
    "float32": (torch.float32, None),
    "bfloat16": (torch.bfloat16, None),
    "bfloat16_float32_states": (torch.bfloat16, torch.float32),
}


def numbered(batch: Batch, first: int = 0) -> Batch:
    return batch | {"row": torch.arange(first, first + len(batch["inputs"]))}


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_without_noise_every_rollout_is_the_official_answer_to_the_bit(arch: str, dtypes: str) -> None:
    dtype, state_dtype = DTYPES[dtypes]
    model, batch = small_model(arch, dtype=dtype, state_dtype=state_dtype).eval(), numbered(small_batch(5))
    for official, steps in ((OfficialInference(), None), (FixedInference(7), 7)):
        expected = official.predict(model, batch)
        made = PerturbedInference(0.0, "both", 3, steps).predict(model, batch)
        for name in ("answers", "q_halt", "steps", "logits"):
            assert torch.equal(getattr(made, name), getattr(expected, name)), name
        for rollout in range(3):
            assert torch.equal(made.rollout_answers[:, rollout], expected.answers)
            assert torch.equal(made.rollout_steps[:, rollout], expected.steps)
        assert made.forward_passes == 3 * expected.forward_passes


def row_by_row(
    model: RecursiveModel, batch: Batch, sigma: float, site: str, rollouts: int, num_steps: int
) -> list[list[Tensor]]:
    """Logits of every row and rollout, each alone: the start made by hand, a loop over sub-updates."""
    shape = (model.config.total_len, model.config.hidden_size)
    found = []
    with torch.no_grad():
        for row in range(len(batch["inputs"])):
            one = {key: leaf[row : row + 1] for key, leaf in batch.items()}
            found.append([])
            for rollout in range(rollouts):
                starts = {"z_H": model.H_init, "z_L": model.L_init}
                for name in starts:
                    state = starts[name].double().expand(1, *shape)
                    if site in (name, "both"):
                        noise = draw_noise(SEED, rollout, [int(batch["row"][row])], shape, f"evaluation/{name}")
                        state = state + sigma * noise.double()
                    starts[name] = state.to(model.config.carry_dtype)
                state = model.initial_state(1)._replace(**starts)
                sub_updates = model.supervision_step(model.embed(one)).sub_updates
                for _ in range(num_steps):
                    for sub_update in sub_updates:
                        state = sub_update(state)
                found[-1].append(model.readout(state)[0][0])
    return found


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_rollout_against_the_plain_loop(arch: str, site: str) -> None:
    model, batch = small_model(arch).eval(), numbered(small_batch(4), 11)
    made = PerturbedInference(0.7, site, 3, 2).predict(model, batch)
    expected = row_by_row(model, batch, 0.7, site, 3, 2)
    answers = torch.stack([torch.stack([logits.argmax(-1) for logits in row]) for row in expected])
    assert torch.equal(made.rollout_answers, answers)
    assert torch.allclose(made.logits, torch.stack([row[0] for row in expected]), rtol=0, atol=1e-11)
    assert torch.equal(made.answers, answers[:, 0])
    clean = FixedInference(2).predict(model, batch)
    assert not torch.allclose(made.logits, clean.logits, rtol=0, atol=1e-3), "the noise arrives"
    assert not torch.allclose(expected[0][0], expected[0][1], rtol=0, atol=1e-3), "each rollout has its own"


def test_batches_and_order_do_not_matter() -> None:
    model, batch = small_model("trm-att").eval(), numbered(small_batch(9))
    inference = PerturbedInference(1.0, "both", 4, 3)
    whole = inference.predict(model, batch)
    order = torch.tensor([4, 7, 0, 2, 8, 1, 3, 6, 5])
    for size in (2, 4):
        for rows in order.split(size):
            part = inference.predict(model, {key: leaf[rows] for key, leaf in batch.items()})
            assert torch.equal(part.rollout_answers, whole.rollout_answers[rows])
            assert torch.allclose(part.logits, whole.logits[rows], rtol=0, atol=1e-11)
    assert len({tuple(map(tuple, row.tolist())) for row in whole.rollout_answers}) > 1
    more = PerturbedInference(1.0, "both", 6, 3).predict(model, batch)
    assert torch.equal(more.rollout_answers[:, :4], whole.rollout_answers)


def test_padding_starts_somewhere_and_counts_its_steps() -> None:
    model, batch = small_model("hrm").eval(), numbered(small_batch(3))
    batch["row"][2] = -1
    made = PerturbedInference(0.1, "z_H", 2, 3).predict(model, batch)
    assert made.rollout_answers.shape == (3, 2, batch["inputs"].shape[1]) and made.forward_passes == 2 * 3 * 3
    assert not made.logits.requires_grad
