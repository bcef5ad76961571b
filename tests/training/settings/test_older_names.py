"""Older spellings of settings: each stands for today's, on every command line and in files, and none is taught."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import evaluate
from errors import UserError
from options import settings_of
from tests.helpers import ROOT
from training.settings.cli import check_command_line, compose_config
from training.settings.identity import config_hash, config_to_dict
from training.settings.key_values import parse_key_values, setting_lines
from training.settings.older_names import INFERENCE, OF_ROLLOUTS, OLDER_NAMES, first_name
from training.settings.resolving import load_config_file, resolve
from training.settings.schema import TrainConfig, schema_keys

CHECKPOINT = "checkpoint=RUN/best.pt"
STARTS, ROLLOUTS = "eval.perturbed_starts", "eval.stochastic_rollouts"
# A value of each older name that is not the default.
VALUES = {
    "eval.vote": "8",
    "eval.sigma": "[1e-3,0.1]",
    "eval.rollouts": "7",
    "eval.site": "z_L",
    "eval.sigma_grid": "[0.2]",
    "eval.noise_seed": "3",
    "eval.clean_first": "true",
    "eval.judged_steps": "[2,5]",
    "eval.stability_sizes": "[1e-4,1e-2]",
    "eval.stability_steps": "6",
    "eval.stability_directions": "5",
}
# Of a run with no setting but its data, and of one with all older names, as first written.
HASH_OF_NONE = "b4a129619f1c2cfda1f4bafcf0b8d3ab81eebc1b9fe16a9e7db7b961f4ebab5b"
HASH_OF_ALL = "da9216a016f1462c5a2fbaa2004e6810b76432e3432f2716a0b8726c9dddd528"
# Of one whose perturbed starts are measured while it trains, and not at its end.
DURING = ("eval.sigma_grid=[0.1]", "eval.rollouts=9")
HASH_OF_DURING = "152e25dfae1e8514098839730b85adc508853131476841bc71c8f08c21f3f252"
OF_RUNS = [name for name, today in OLDER_NAMES.items() if today in schema_keys(TrainConfig)]
OF_EVALUATE = [name for name in OLDER_NAMES if name != "eval.sigma_grid"]


def evaluation(*words: str) -> Any:
    return parse_key_values([CHECKPOINT, *words], evaluate.Options).eval


def composed(*words: str) -> TrainConfig:
    return compose_config(["data_paths=[data/x]", *words])


def nested(values: dict[str, Any]) -> dict[str, Any]:
    raw: dict[str, Any] = {}
    for key, value in values.items():
        *sections, leaf = key.split(".")
        node = raw
        for name in sections:
            node = node.setdefault(name, {})
        node[leaf] = value
    return raw


def test_the_table_is_whole() -> None:
    assert set(VALUES) == set(OLDER_NAMES) and len(set(OLDER_NAMES.values())) == len(OLDER_NAMES)
    known = set(schema_keys(TrainConfig)) | set(schema_keys(evaluate.Options))
    assert set(OLDER_NAMES.values()) | set(OF_ROLLOUTS.values()) <= known
    for schema in (TrainConfig, evaluate.Options):
        plain = {setting.key for setting in settings_of(schema) if not setting.is_section}
        assert not plain & {*OLDER_NAMES, INFERENCE}


@pytest.mark.parametrize("name", OF_RUNS)
def test_a_run_with_the_older_name_is_the_run_with_todays(name: str, tmp_path: Path) -> None:
    """The same settings by command line, by a file with the older name, and by its own hash of then."""
    value, today = VALUES[name], OLDER_NAMES[name]
    older, newer = composed(f"{name}={value}"), composed(f"{today}={value}")
    assert older == newer != composed()
    assert composed(f"+{name}={value}") == newer
    check_command_line(["data_paths=[data/x]", f"{name}={value}"])
    raw = {"data_paths": ["data/x"], **nested({name: yaml.safe_load(value)})}
    assert resolve(raw).eval == newer.eval and resolve(config_to_dict(older)) == newer
    file = tmp_path / "all_config.yaml"
    file.write_text(yaml.safe_dump(raw))
    assert load_config_file(file).eval == newer.eval


@pytest.mark.parametrize("name", OF_EVALUATE)
def test_evaluate_takes_the_older_name_for_todays(name: str) -> None:
    value = VALUES[name]
    if name in ("eval.vote", "eval.sigma", "eval.rollouts", "eval.site"):
        assert evaluation(f"{name}={value}") == evaluation(f"{OLDER_NAMES[name]}={value}") != evaluation()
    if name not in ("eval.vote", "eval.sigma"):
        today = OF_ROLLOUTS.get(name, OLDER_NAMES[name])
        newer = [f"{ROLLOUTS}.sigma=0.3", f"{today}={value}"]
        if name in ("eval.stability_steps", "eval.stability_directions"):
            newer.append(f"{ROLLOUTS}.probes.sizes=[1e-3]")  # they meant these where none was given
        for sigma in ("eval.sigma=0.3", f"{ROLLOUTS}.sigma=0.3"):
            assert evaluation(sigma, f"{name}={value}") == evaluation(*newer) != evaluation(newer[0])


@pytest.mark.parametrize(
    ("older", "newer"),
    {
        "eval.sigma=0.3": f"{ROLLOUTS}.sigma=0.3",
        "+eval.sigma=1e-3": f"{ROLLOUTS}.sigma=1e-3",
        "eval.sigma=0": f"{ROLLOUTS}.sigma=0",
        "eval.sigma=[0.3]": f"{STARTS}.sigma=[0.3]",
        "eval.sigma=[1] eval.sigma=0.3": f"{ROLLOUTS}.sigma=0.3",
        "eval.sigma=0.3 eval.sigma=[1]": f"{STARTS}.sigma=[1]",
        "eval.sigma=0.3 eval.inference=null": f"{ROLLOUTS}.sigma=0.3",
        "eval.sigma=0.3 eval.inference=perturbed_starts": f"{STARTS}.sigma=[0.3]",
        "eval.sigma=[0.3] eval.inference=stochastic_rollouts": f"{ROLLOUTS}.sigma=0.3",
        f"{ROLLOUTS}.sigma=0.3 eval.inference=stochastic_rollouts": f"{ROLLOUTS}.sigma=0.3",
        "eval.sigma=0.3 eval.rollouts=9 eval.site=z_H": (
            f"{ROLLOUTS}.sigma=0.3 {ROLLOUTS}.rollouts=9 {ROLLOUTS}.site=z_H"
        ),
        "eval.sigma=[0.3] eval.rollouts=9 eval.site=z_H": f"{STARTS}.sigma=[0.3] {STARTS}.starts=9 {STARTS}.site=z_H",
    }.items(),
)
def test_a_number_and_a_list_meant_two_things(older: str, newer: str) -> None:
    assert evaluation(*older.split()) == evaluation(*newer.split()) != evaluation()


def test_a_run_keeps_the_hash_of_its_first_names() -> None:
    """What commit 8370a56 and its followers made of these settings."""
    assert {first_name(today) for today in OLDER_NAMES.values()} == set(OLDER_NAMES)
    assert first_name("lr") == "lr"
    words = [f"{name}={VALUES[name]}" for name in OF_RUNS]
    assert config_hash(composed(*words)) == HASH_OF_ALL
    assert config_hash(composed()) == HASH_OF_NONE
    assert config_hash(composed(*DURING)) == HASH_OF_DURING


DIFFERENT = [
    *((name, VALUES[name], today, "[0.7]" if "[" in VALUES[name] else "2") for name, today in OLDER_NAMES.items()),
]


@pytest.mark.parametrize(("name", "value", "today", "other"), DIFFERENT)
def test_two_values_are_refused_in_one_line(name: str, value: str, today: str, other: str, tmp_path: Path) -> None:
    says = f"{today} only"
    refused = 0
    words = [f"{name}={value}", f"{today}={other}"]
    if name in OF_RUNS:
        file = tmp_path / "all_config.yaml"
        both = nested({today: yaml.safe_load(other), name: yaml.safe_load(value)} if name != "eval.vote" else {})
        file.write_text(yaml.safe_dump({"data_paths": ["data/x"], **both}))
        calls: list[Any] = [lambda: composed(*words), lambda: composed(*words[::-1])]
        calls += [lambda: check_command_line(words)]
        if both:  # as eval.vote is a section now, a file has one or the other
            calls += [lambda: load_config_file(file), lambda: resolve({"data_paths": ["data/x"], **both})]
        for call in calls:
            with pytest.raises(UserError, match=says) as caught:
                call()
            assert "say different things" in str(caught.value) and "\n" not in str(caught.value)
            refused += 1
        composed(words[0], f"{today}={value}")
    if name in OF_EVALUATE:
        for each in (words, words[::-1]):
            with pytest.raises(UserError, match=says):
                evaluation(*each)
            refused += 1
        evaluation(words[0], f"{today}={value}")
    assert refused


def test_a_command_line_wins_over_an_older_file(tmp_path: Path) -> None:
    """A user's own experiment may have either spelling, and be overridden in either but for today's over the older."""
    (tmp_path / "experiment").mkdir()
    header = "# @package _global_\n"
    (tmp_path / "experiment" / "older.yaml").write_text(header + "eval: {vote: 2, rollouts: 3}\n")
    (tmp_path / "experiment" / "today.yaml").write_text(
        header + "eval: {vote: {views: 2}, perturbed_starts: {starts: 3}}\n"
    )
    for name in ("older", "today"):
        words = ["data_paths=[x]", f"--config-dir={tmp_path}", f"+experiment={name}", "eval.vote=8", "eval.rollouts=9"]
        check_command_line(words)
    words = ["data_paths=[x]", f"--config-dir={tmp_path}", "+experiment=older", f"{STARTS}.starts=9"]
    with pytest.raises(UserError, match=f"eval.rollouts=3 and {STARTS}.starts=9 say different things"):
        check_command_line(words)


def test_a_sweep_over_an_older_name_is_one_over_todays() -> None:
    command = check_command_line(["-m", "data_paths=[x]", "eval.rollouts=2,3", "eval.vote=1,2"])
    swept = [word for word in command.overrides if "," in word]
    assert swept == [f"++{STARTS}.starts=2,3", "++eval.vote.views=1,2"]


@pytest.mark.parametrize(
    "raw",
    [
        {"rollouts": 2, "perturbed_starts": 5},
        {"rollouts": 2, "perturbed_starts": None},
        {"vote": None},
        {"vote": [1]},
        {"sigma": {"a": 1}},
        {"noise_seed": 1},
        {"inference": "stochastic_rollouts"},
    ],
)
def test_odd_files_are_refused_in_one_line(raw: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        resolve({"data_paths": ["data/x"], "eval": raw})
    assert "\n" not in str(caught.value) and "'eval." in str(caught.value)


def test_older_names_are_not_taught() -> None:
    texts = {
        "--help": "\n".join([*setting_lines(TrainConfig), *setting_lines(evaluate.Options), str(evaluate.__doc__)])
    }
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "config").rglob("*.yaml")]
    texts |= {str(path): path.read_text() for path in pages if path.name != "results.md"}
    for where, text in texts.items():
        for name in (*OLDER_NAMES, INFERENCE):
            assert not any(f"{name}{end}" in text for end in ("=", "`", " ", "]")), (where, name)


def test_a_number_in_a_run_is_refused_as_ever() -> None:
    """It meant stochastic rollouts, which are no part of a run."""
    with pytest.raises(UserError, match=f"option '{STARTS}.sigma': found 0.3, expected list"):
        composed("eval.sigma=0.3")
    for unknown in (f"{ROLLOUTS}.sigma=0.3", "eval.noise_seed=1", "eval.inference=perturbed_starts"):
        with pytest.raises(UserError, match="unknown option 'eval"):
            composed(unknown)
