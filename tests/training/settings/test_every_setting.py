"""The whole schema, field by field: help, a range, and odd values that are taken or refused in one line."""

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import evaluate
import predict
from dataset import sudoku_collect_generated
from dataset.build_sudoku_dataset import main as build_sudoku
from dataset.plain_data import read_json_object
from dataset.sudoku_generator import TEST_STREAM
from errors import UserError
from options import CONTROL, JUDGING, REQUIRED, Numbers, anything, at_least, extended, option, section, settings_of
from tests.helpers import ROOT
from training.rooms import HOOKS, TERMS
from training.settings import identity, resolving
from training.settings.cli import CONFIG_DIR, compose_config
from training.settings.identity import config_hash, config_to_dict, run_identity, with_defaults
from training.settings.key_values import setting_lines
from training.settings.resolving import resolve
from training.settings.schema import EvaluateConfig, TrainConfig
from training.start import train, under_an_older_name

SCHEMAS = (TrainConfig, EvaluateConfig, evaluate.Options, predict.Options)
SETTINGS = [setting for setting in settings_of(TrainConfig) if not setting.is_section]
ODD = {
    "nan": math.nan,
    "infinite": math.inf,
    "negative": -1,
    "zero": 0,
    "huge": 10**30,
    "empty": "",
    "text": "some words",
    "list": [1, "a"],
}
DATA = {"data_paths": ["data/x"]}
PRESETS = sorted(path.stem for path in (CONFIG_DIR / "experiment").glob("*.yaml"))


def nested(key: str, value: Any) -> dict[str, Any]:
    *sections, leaf = key.split(".")
    raw: dict[str, Any] = {leaf: value}
    for name in reversed(sections):
        raw = {name: raw}
    return raw


def numbers(value: Any) -> Iterator[float]:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, int | float):
            yield item


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.__name__)
def test_every_field_explains_itself_and_has_a_range(schema: type) -> None:
    shown = "\n".join(setting_lines(schema))
    for setting in settings_of(schema):
        assert len(setting.help) > 3, setting.key
        assert setting.key in shown
        if not setting.is_section:
            assert setting.default is REQUIRED or setting.refusal(setting.default) is None, setting.key


def test_a_field_without_a_range_is_a_mistake() -> None:
    @dataclass
    class Open:
        weight: float = 0.1

    with pytest.raises(TypeError, match="weight declares no range"):
        setting_lines(Open)


def test_numbers_without_a_range_are_meant() -> None:
    """`anything` is for switches, texts with a reader of their own, and names that a table maps."""
    for setting in SETTINGS:
        if setting.range is anything:
            assert not any(kind in str(setting.kind) for kind in ("int", "float")), setting.key


@pytest.mark.parametrize("kind", ODD)
def test_odd_values_are_taken_sensibly_or_refused_in_one_line(kind: str) -> None:
    refused = 0
    for setting in SETTINGS:
        raw = nested(setting.key, ODD[kind])
        base = {"collatz": {"preset": "faithful"}} if setting.key.startswith("collatz.") else DATA
        merged = {**base, **raw}
        if setting.key.startswith("collatz.") and setting.key != "collatz.preset":
            merged["collatz"] = {"preset": "faithful", **raw["collatz"]}
        try:
            cfg = resolve(merged)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and "Traceback" not in str(error)
            continue
        value: Any = cfg
        for name in setting.key.split("."):
            value = getattr(value, name)
        assert all(math.isfinite(number) for number in numbers(value)), setting.key
        assert setting.refusal(value) is None
        assert resolve(config_to_dict(cfg)) == cfg, setting.key
    assert refused > len(SETTINGS) / 4


def test_a_range_refuses_what_is_outside_of_it() -> None:
    """Each number of the schema: below and above its range, in one line that names the option and the range."""
    for setting in SETTINGS:
        if not isinstance(setting.range, Numbers):
            continue
        low, high = setting.range.low, setting.range.high
        below = [low if setting.range.low_open else low - 1] if low > -math.inf else []
        above = [high if setting.range.high_open else high * 2] if high < math.inf else []
        for bad in below + above:
            raw = nested(setting.key, [bad] if str(setting.kind).startswith("list") else bad)
            if setting.key.startswith("collatz."):
                raw["collatz"]["preset"] = "orbit"
            with pytest.raises(UserError) as caught:
                resolve({**DATA, **raw})
            assert f"'{setting.key}'" in str(caught.value) and "expected" in str(caught.value)


def test_a_new_section_with_defaults_renames_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class New:
        """Something that comes later."""

        weight: float = option(0.0, "of the new loss", at_least(0))
        places: list[int] = option([], "where", at_least(0))

    before = {name: compose_config([f"+experiment={name}"], require_data=False) for name in PRESETS}
    unnamed = {name: config_to_dict(cfg) | {"run_name": None, "checkpoint_path": None} for name, cfg in before.items()}
    named = {name: resolve(plain).run_name for name, plain in unnamed.items()}
    wider = extended(TrainConfig, __name__, [("new", New, section(New, "new"))])
    for module in (resolving, identity):
        monkeypatch.setattr(module, "TrainConfig", wider)
    for name, cfg in before.items():
        again = resolve(unnamed[name])
        assert type(again) is wider and config_hash(again) == config_hash(cfg), name
        assert again.run_name == named[name], name
        changed = resolve({**unnamed[name], "new": {"weight": 0.5}})
        assert config_hash(changed) != config_hash(cfg) and changed.run_name != again.run_name
        # A state from before the section existed: at its default it goes on, changed it does not.
        saved = run_identity(cfg)
        assert with_defaults(saved, run_identity(again)) == with_defaults(run_identity(again), saved)
        assert with_defaults(saved, run_identity(changed)) != with_defaults(run_identity(changed), saved)


# Whoever adds a name here says that it shapes no weight, and which of both it is.
CONTROLS = """project_name run_name checkpoint_path data_path load_checkpoint init_from resume max_steps max_hours
checkpoint_interval checkpoint_every_eval checkpoint_every_fast_eval keep_last archive_best archive_keep device compile
compile_mode threads accumulation_slices collective_timeout_seconds eval_batch_size eval_save_outputs log_interval
status_interval_seconds wandb.mode wandb.project wandb.entity""".split()
JUDGES = """data_paths_test evaluators min_eval_interval fast_validation_size validation_size max_test_rows
fast_eval_interval fast_eval_delta force_full_eval_every early_stop_patience guards.mode
guards.after_updates collatz.eval_csv collatz.eval_interval collatz.quick_eval_interval evaluate_weights""".split()


# Every term and hook on.
IDEAS = {
    "term": {name: {"weight": 0.5} for name in TERMS.names()},
    "hook": {name: {"enabled": True} for name in HOOKS.names()},
}


def test_everything_is_of_a_run_s_identity_unless_it_says_otherwise() -> None:
    """A deny-list, written out here once more: what is not on it makes another run, and its states are refused."""
    assert {setting.key for setting in SETTINGS if setting.role == CONTROL} == set(CONTROLS)
    # How rows are answered judges, whatever inferences there are.
    judges = {*JUDGES, *(setting.key for setting in SETTINGS if setting.key.startswith("eval."))}
    assert {setting.key for setting in SETTINGS if setting.role == JUDGING} == judges
    for raw in ({"arch": {"name": "srm"}, "floss": {"mode": "inter"}}, {"objective": {"name": "baseline_ce"}}, IDEAS):
        base = resolve({**DATA, **raw})
        shaping = run_identity(base)
        sections = {key.partition(".")[0] for key in shaping}
        unread = set() if base.arch.name == "srm" else {"arch.alpha", "arch.kappa"}
        for setting in SETTINGS:
            if setting.key.partition(".")[0] in sections and setting.key not in {*CONTROLS, *judges, *unread, "epochs"}:
                assert setting.key in shaping, setting.key
    orbit = {"collatz": {"preset": "orbit"}, "lr_min_ratio": 1.0, "eval_interval": None}
    assert run_identity(resolve({**orbit, "epochs": 5}))["epochs"] == 5, "tau falls over all epochs"
    assert "epochs" not in run_identity(resolve({**orbit, "collatz": {"preset": "faithful"}}))


def test_what_a_state_does_not_know_is_at_its_architecture_s_default() -> None:
    saved = run_identity(resolve({**DATA, "arch": {"name": "hrm"}}))
    del saved["arch.no_ACT_continue"]
    for value, same in ((False, True), (True, False)):
        now = run_identity(resolve({**DATA, "arch": {"name": "hrm", "no_ACT_continue": value}}))
        assert (with_defaults(saved, now) == with_defaults(now, saved)) == same
    assert with_defaults({"arch.name": ["hrm"]}, {"lr": 1})["lr"] == 1e-4, "a damaged identity is compared, no more"


def test_an_old_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that commit 8370a56 made and named, by the same command: found, gone on with, its settings unchanged."""
    monkeypatch.chdir(tmp_path)
    folder = Path("checkpoints/Sudoku-4x4-ACT-torch/trm-f5efbaf2")
    shutil.copytree(ROOT / "tests" / "golden" / "run_of_8370a56", folder)
    # At that commit the training puzzles were the next ones of the test stream.
    monkeypatch.setattr(sudoku_collect_generated, "TRAIN_STREAM", TEST_STREAM)
    build_sudoku("--output-dir data/sudoku-4x4 --generate 4x4".split())
    words = ["+experiment=smoke", "data_paths=[data/sudoku-4x4]", "device=cpu"]
    assert train(compose_config([*words, "max_steps=5"])) == "done"
    printed = capsys.readouterr()
    assert f"going on from {folder}/latest_state.pt" in printed.out and "config_hash" not in printed.err
    assert read_json_object(folder / "summary.json")["steps"] == 5
    assert [path.name for path in folder.parent.iterdir()] == ["trm-f5efbaf2"]
    with pytest.raises(UserError, match=r"is the state of another run: lr: saved 0\.\d+, now 0.5"):
        train(compose_config([*words, f"checkpoint_path={folder}", "lr=0.5", "max_steps=6"]))


def test_a_folder_of_an_older_rule_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = resolve(DATA)
    assert under_an_older_name(cfg) == cfg
    for name, settings in (("trm-00000000", {"seed": 1}), ("trm-11111111", {}), ("trm-22222222", {"init_from": "w"})):
        folder = Path(cfg.checkpoint_path or "").parent / name
        folder.mkdir(parents=True)
        (folder / "all_config.yaml").write_text(yaml.safe_dump(config_to_dict(resolve({**DATA, **settings}))))
    (folder.parent / "trm-00000001").mkdir()
    found = under_an_older_name(cfg)
    assert found.run_name == "trm-11111111" and found.checkpoint_path == str(folder.parent / "trm-11111111")
    assert under_an_older_name(resolve({**DATA, "init_from": "w"})).run_name == "trm-22222222"
    for other in (resolve({**DATA, "lr": 1e-3}), resolve({**DATA, "run_name": "mine"})):
        assert under_an_older_name(other) == other
    Path(cfg.checkpoint_path or "").mkdir()
    assert under_an_older_name(cfg) == cfg, "the folder of today's rule comes first"
