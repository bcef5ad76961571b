"""The settings `objective`: choices, refusals, defaults that follow from them, identity."""

from typing import Any

import pytest

from errors import UserError
from tests.training.settings.test_config import DATA, OFFICIAL_TRM
from training.objectives.act_streaming import ACTStreaming
from training.objectives.choose import build_objective
from training.objectives.trajectory_perturbation import ACTMask, ParallelFixed, SerialACT
from training.settings.cli import compose_config
from training.settings.identity import config_hash, config_to_dict, run_identity
from training.settings.resolving import resolve
from training.settings.schema import ObjectiveConfig

MULTI = {"name": "multi_perturbed_ce", "num_trajectories": 4}
# One change of each setting that an objective reads.
CHANGES = {
    "rollout": "act_mask",
    "num_trajectories": 3,
    "perturb": "z_L",
    "noise_sampling": "loguniform",
    "sigma": 2e-3,
    "sigma_min": 1e-5,
    "sigma_max": 1e-2,
    "p_clean": 0.25,
    "clean_warmup_steps": 7,
    "sigma_ramp_steps": 9,
    "mask_normalize": "valid_steps",
}


def refusal(objective: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        resolve({**DATA, "objective": objective})
    return str(caught.value)


def test_the_default_is_pretraining_and_leaves_no_trace() -> None:
    """Folders and states of runs from before there was a choice are still theirs."""
    cfg = resolve(OFFICIAL_TRM)
    assert cfg.objective == ObjectiveConfig() and cfg.objective.name == "act_streaming"
    assert cfg.state_dtype == "auto"
    assert config_hash(cfg) == config_hash(resolve({**OFFICIAL_TRM, "objective": {}}))
    assert not [key for key in run_identity(cfg) if key.startswith("objective")]
    assert isinstance(build_objective(cfg), ACTStreaming)
    unread = resolve({**OFFICIAL_TRM, "objective": {"sigma": 1.0}})
    assert config_hash(unread) == config_hash(cfg) and run_identity(unread) == run_identity(cfg)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ObjectiveConfig()),
        (["objective=act_streaming"], ObjectiveConfig()),
        (["objective=baseline_ce"], ObjectiveConfig(name="baseline_ce")),
        (["objective=single_perturbed_ce"], ObjectiveConfig(name="single_perturbed_ce")),
        (["objective=multi_perturbed_ce"], ObjectiveConfig(name="multi_perturbed_ce", num_trajectories=4)),
        (
            ["objective=multi_perturbed_ce", "objective.num_trajectories=2", "objective.noise_sampling=loguniform"],
            ObjectiveConfig(name="multi_perturbed_ce", num_trajectories=2, noise_sampling="loguniform"),
        ),
        (["objective.name=baseline_ce"], ObjectiveConfig(name="baseline_ce")),
    ],
)
def test_command_lines(words: list[str], expected: ObjectiveConfig) -> None:
    assert compose_config(["data_paths=[data/x]", *words]).objective == expected


@pytest.mark.parametrize(
    ("name", "kind"), [("parallel_fixed", ParallelFixed), ("serial_act", SerialACT), ("act_mask", ACTMask)]
)
def test_rollouts(name: str, kind: type) -> None:
    objective = build_objective(resolve({**DATA, "accumulation_slices": 2, "objective": {**MULTI, "rollout": name}}))
    assert type(objective) is kind and isinstance(objective, ParallelFixed | ACTMask)
    assert objective.accumulation_slices == 2 and objective.name == "multi_perturbed_ce"


@pytest.mark.parametrize(
    ("objective", "found", "expected"),
    [
        ({"name": "multi"}, "'multi'", "multi_perturbed_ce"),
        ({"rollout": "parallel"}, "'parallel'", "parallel_fixed, serial_act, act_mask"),
        ({"perturb": "z"}, "'z'", "z_H, z_L, both"),
        ({"noise_sampling": "normal"}, "'normal'", "fixed, loguniform, mixture"),
        ({"mask_normalize": "steps"}, "'steps'", "trajectory, valid_steps"),
        ({**MULTI, "num_trajectories": 0}, "found 0", "from 1 to 100000"),
        ({**MULTI, "num_trajectories": 1}, "found 1", "at least 2 for multi_perturbed_ce"),
        ({"name": "baseline_ce", "num_trajectories": 4}, "found 4", "1 for baseline_ce"),
        ({"name": "single_perturbed_ce", "num_trajectories": 2}, "found 2", "multi_perturbed_ce takes several"),
        ({**MULTI, "sigma_min": 1e-2, "sigma_max": 1e-3}, "'objective.sigma_min': found 0.01", "sigma_max=0.001"),
        ({**MULTI, "noise_sampling": "loguniform", "sigma_min": 0.0}, "found 0.0", "above 0"),
        ({**MULTI, "sigma": -1.0}, "found -1.0", "0 or more"),
        ({**MULTI, "sigma": float("nan")}, "found nan", "finite"),
        ({**MULTI, "p_clean": 1.5}, "found 1.5", "0 to 1"),
        ({**MULTI, "sigma_ramp_steps": -1}, "found -1", "0 or more"),
        ({**MULTI, "clean_warmup_steps": 1.5}, "found 1.5", "int"),
        ({**MULTI, "sigmas": 1}, "'objective.sigmas'", "objective.sigma"),
    ],
)
def test_refusals(objective: dict[str, Any], found: str, expected: str) -> None:
    message = refusal(objective)
    assert found in message and expected in message and "\n" not in message


def test_frozen_weights_are_not_perturbed() -> None:
    options = ["data_paths=[x]", "freeze_weights=True", "arch.puzzle_emb_ndim=8"]
    for site in ("both", "input"):
        compose_config([*options, f"objective.perturb={site}"])
    with pytest.raises(UserError, match="'objective.perturb': found 'weights', expected another site"):
        compose_config([*options, "objective.perturb=weights"])


def test_states_are_float32_unless_said_otherwise() -> None:
    for name, count in (("baseline_ce", 1), ("single_perturbed_ce", 1), ("multi_perturbed_ce", 2)):
        objective = {"name": name, "num_trajectories": count}
        for dtype in ("auto", "bfloat16", "float32"):
            cfg = resolve({**DATA, "dtype": dtype, "objective": objective})
            assert (cfg.dtype, cfg.state_dtype) == (dtype, "float32")
            assert resolve(config_to_dict(cfg)) == cfg
        assert resolve({**DATA, "dtype": "float64", "objective": objective}).state_dtype == "auto"
        chosen = resolve({**DATA, "state_dtype": "bfloat16", "objective": objective})
        assert chosen.state_dtype == "bfloat16"


def test_every_setting_is_another_run() -> None:
    assert set(CHANGES) | {"name"} == set(config_to_dict(resolve(DATA))["objective"])
    base = resolve({**DATA, "objective": MULTI})
    assert run_identity(base)["objective.name"] == "multi_perturbed_ce"
    for key, value in CHANGES.items():
        other = resolve({**DATA, "objective": {**MULTI, key: value}})
        assert config_hash(other) != config_hash(base) and other.run_name != base.run_name
        before, now = run_identity(base), run_identity(other)
        assert [name for name in now if now[name] != before[name]] == [f"objective.{key}"]
    single, fixed = (resolve({**DATA, "objective": {"name": n}}) for n in ("single_perturbed_ce", "baseline_ce"))
    assert len({config_hash(cfg) for cfg in (base, single, fixed, resolve(DATA))}) == 4
