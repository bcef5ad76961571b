"""Averaging near the end: the rate's course, the mean of the weights at its lows, and who evaluates them."""

from pathlib import Path

import pytest
import torch

from errors import UserError
from tests.helpers import logged_training, read_state, tiny_config, train_here
from tests.models.small import small_model
from training.averages import MeanOfSamples
from training.hooks.base import Hook, TrainState, refuse_conflicts
from training.hooks.loss_plateau import LossPlateau
from training.hooks.swa import Settings, WeightAveraging
from training.storage.weights import load_weights


def test_the_rate_goes_down_and_up() -> None:
    hook = WeightAveraging(Settings(enabled=True, start_update=10, period=4, lowest=0.2, highest=1.0))
    factors = [hook.factor(step, 100) for step in range(9, 20)]
    assert factors == pytest.approx([1, 1, 1, 0.6, 0.2, 0.6, 1, 0.6, 0.2, 0.6, 1])
    uneven = WeightAveraging(Settings(enabled=True, start_update=0, period=5, lowest=0.0, highest=2.0))
    assert [uneven.factor(step, 100) for step in range(1, 7)] == pytest.approx([2, 1, 0, 2 / 3, 4 / 3, 2])
    every = WeightAveraging(Settings(enabled=True, start_fraction=0.5, period=1, lowest=0.3))
    assert [every.factor(step, 8) for step in range(1, 9)] == [1, 1, 1, 1, 0.3, 0.3, 0.3, 0.3]


def test_the_mean_is_that_of_the_samples_table_included() -> None:
    model = small_model("trm-att")
    average, samples = MeanOfSamples(model), []
    assert not average.ready
    generator = torch.Generator().manual_seed(0)
    for number in range(7):
        with torch.no_grad():
            for tensor in (*model.parameters(), model.puzzle_emb.weights):
                tensor.add_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
        if number % 2 == 0:
            samples.append({name: tensor.detach().clone() for name, tensor in model.state_dict().items()})
            average.sample()
    assert average.ready and average.samples == 4
    for name, tensor in average.model.state_dict().items():
        expected = torch.stack([sample[name] for sample in samples]).mean(dim=0)
        torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-7)
        assert name in ("H_init", "L_init") or not torch.equal(tensor, samples[-1][name])


SWA = ["hook.swa.enabled=True", "hook.swa.start_update=4", "hook.swa.period=6", "evaluate_weights=swa"]


def test_the_average_is_evaluated_and_exported_and_the_trained_weights_go_on(
    sudoku6_folder: Path, tmp_path: Path
) -> None:
    """`final.pt` is the mean of the weights at updates 8 and 14: (4 + 4) and one period later."""
    trained = {}
    for stop in (8, 14):
        folder = tmp_path / str(stop)
        train_here("trm_att", sudoku6_folder, folder, [*SWA, f"max_steps={stop}"])
        trained[stop] = read_state(folder)
    exported = load_weights(tmp_path / "14" / "final.pt")
    for name, tensor in exported.items():
        mean = (trained[8]["model"][name] + trained[14]["model"][name]) / 2
        torch.testing.assert_close(tensor, mean, rtol=1e-5, atol=1e-6)
    assert trained[14]["hooks"] == {"swa": {"samples": 2}} and set(trained[14]["averages"]) == {"swa"}
    raw = tmp_path / "raw"
    train_here("trm_att", sudoku6_folder, raw, [*SWA[:-1], "evaluate_weights=raw", "max_steps=14"])
    assert all(torch.equal(read_state(raw)["model"][name], trained[14]["model"][name]) for name in exported)
    assert all(
        torch.equal(tensor, trained[14]["model"][name]) for name, tensor in load_weights(raw / "final.pt").items()
    )
    rates = {line["step"]: line["train/lr"] for line in logged_training(raw)}
    assert rates[5] == pytest.approx(1e-3) and rates[8] == pytest.approx(5e-4) and rates[14] == pytest.approx(5e-4)


def test_before_the_first_sample_the_ema_stands_in_and_is_named(
    sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    often = "fast_eval_interval=4"
    train_here("trm_att", sudoku6_folder, tmp_path, [*SWA, often, "max_steps=5"])
    state, exported = read_state(tmp_path), load_weights(tmp_path / "final.pt")
    assert all(torch.equal(exported[name], tensor) for name, tensor in state["ema"].items())
    said = "evaluate_weights=swa, but nothing was averaged yet: the ema weights are tested and exported"
    assert said in capsys.readouterr().err
    train_here("trm_att", sudoku6_folder, tmp_path, [*SWA[:-1], "evaluate_weights=raw", often, "max_steps=9"])
    said = capsys.readouterr().err
    assert "nothing was averaged" not in said
    assert "evaluate_weights swa -> raw since update 5" in said, "the best so far was chosen by others"


def test_beside_updates_that_only_floss(sudoku6_folder: Path, tmp_path: Path) -> None:
    """They have no loss of the task to tell a hook."""
    floss = ["floss.mode=pre", "floss.pre_steps=2", "floss.k=1", "floss.rows=2"]
    train_here(
        "trm_att",
        sudoku6_folder,
        tmp_path,
        [*floss, *SWA, "hook.swa.start_update=0", "hook.swa.period=1", "max_steps=3"],
    )
    assert read_state(tmp_path)["hooks"] == {"swa": {"samples": 3}}


def test_the_lowest_rate_is_below_the_highest() -> None:
    with pytest.raises(UserError, match=r"option 'hook.swa.lowest': found 2, expected at most hook.swa.highest=1"):
        Settings(enabled=True, lowest=2.0).build()
    with pytest.raises(UserError, match=r"option 'hook.swa.highest': found 1e\+300, expected a number above 0"):
        tiny_config("trm_att", "data", "folder", ["hook.swa.enabled=True", "hook.swa.highest=1e300"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["evaluate_weights=swa"], "hook.swa.enabled=True beside it"),
        (["evaluate_weights=ema", "ema=False"], "ema=True beside it"),
        (["evaluate_weights=best"], "one of: raw, ema, swa"),
    ],
)
def test_weights_that_are_not_there_are_refused(options: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        tiny_config("trm_att", "data", "folder", options)


def test_hooks_that_exclude_each_other() -> None:
    with pytest.raises(UserError, match="hooks loss_plateau and swa both set the learning rate"):
        refuse_conflicts([LossPlateau(1e-3), WeightAveraging(Settings())])

    class Silent(Hook):
        name = "silent"
        excludes = frozenset({"swa"})

        def before_update(self, state: TrainState) -> dict[str, torch.Tensor]:
            return {}

    with pytest.raises(UserError, match="hooks swa and silent exclude each other"):
        refuse_conflicts([WeightAveraging(Settings()), Silent()])
    refuse_conflicts([LossPlateau(1e-3), Silent()])
