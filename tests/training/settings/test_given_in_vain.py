"""Settings of a part that is off, which a run does not read: each is said, and none that is read."""

from pathlib import Path

import pytest

from tests.helpers import tiny_config, train_here
from training.settings.identity import config_hash, given_in_vain


@pytest.mark.parametrize(
    ("option", "switch"),
    [
        ("floss.weight=0.02", "floss.mode=inter"),
        ("hook.swa.period=3", "hook.swa.enabled=True"),
        ("hook.grad_noise.begin=1.0", "hook.grad_noise.enabled=True"),
        ("term.halt_entropy.after_step=2", "term.halt_entropy.weight=0.1"),
        ("objective.sigma=0.5", "objective.name=multi_perturbed_ce objective.num_trajectories=2"),
        ("objective.sigma_max=0.5", "objective.name=multi_perturbed_ce objective.num_trajectories=2 "
         "objective.noise_sampling=loguniform"),
        ("ema_rate=0.5", "ema=True"),
        ("wandb.project=mine", "wandb.mode=offline"),
    ],
)  # fmt: skip
def test_it_is_said_unless_its_part_is_on(option: str, switch: str) -> None:
    plain = tiny_config("trm_att", "d", "f", ["ema=False", "ema_rate=0.999"])
    alone = tiny_config("trm_att", "d", "f", ["ema=False", "ema_rate=0.999", option])
    key = option.partition("=")[0]
    assert given_in_vain(plain) == {} and list(given_in_vain(alone)) == [key]
    both = tiny_config("trm_att", "d", "f", ["ema=False", "ema_rate=0.999", option, *switch.split()])
    assert key not in given_in_vain(both)
    if key.startswith(("floss", "hook", "term")):
        assert config_hash(alone) == config_hash(plain), "it is the plain run"


def test_what_another_model_reads_is_said() -> None:
    assert given_in_vain(tiny_config("trm_att", "d", "f", ["arch.alpha=0.25"])) == {"arch.alpha": 0.25}
    assert given_in_vain(tiny_config("srm", "d", "f", ["arch.alpha=0.25"])) == {}


def test_a_new_run_says_it_once(sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["floss.weight=0.02", "floss.where=failed"]
    train_here("trm_att", sudoku6_folder, tmp_path, [*options, "max_steps=1"])
    said = "warning: floss.weight=0.02, floss.where=failed: not read by this run, as the part that it is of is off\n"
    assert said in capsys.readouterr().err
    train_here("trm_att", sudoku6_folder, tmp_path, [*options, "max_steps=2"])
    assert "not read by this run" not in capsys.readouterr().err
