"""Settings changed beside the weights that they made: refused, or of no influence on any number."""

import contextlib
import copy
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import evaluate
import predict
from analysis.rollouts import q_head_vs_stability, step_by_step
from analysis.spectra import lyapunov_spectrum
from dataset.build_sudoku_dataset import main as build
from errors import UserError
from options import Choices, Setting, settings_of
from tests.helpers import ROOT, refused_line, tiny_config, train_here
from training.distributed import World
from training.settings.checks import value_of
from training.settings.merging import put
from training.settings.resolving import load_config_file
from training.settings.schema import TrainConfig
from training.storage.weights_record import read_record, write_record
from training.trained_model import open_checkpoint

OLD = ROOT / "tests" / "golden" / "run_of_8370a56"


@pytest.fixture(scope="module")
def trained(sudoku4_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    options = ["max_steps=2", "validation_size=2", "fast_validation_size=2", "arch.halt_max_steps=2", "dtype=auto"]
    assert train_here("trm_att", sudoku4_folder, folder, options) == "done"
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def settings_of_run(run: Path) -> dict[str, Any]:
    settings = yaml.safe_load((run / "all_config.yaml").read_text())
    assert isinstance(settings, dict)
    return settings


def written(run: Path, settings: dict[str, Any]) -> Path:
    path = run / "all_config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def with_changes(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(settings)
    for key, value in changes.items():
        put(changed, key, value)
    return changed


def results(run: Path) -> list[dict[str, Any]]:
    """What evaluate.py finds, but for what it cost and the last digits, which batches decide."""
    with contextlib.redirect_stdout(io.StringIO()):
        record = evaluate.evaluate_checkpoint(evaluate.Options(f"{run}/best.pt", device="cpu"), World())
    found = [{key: value for key, value in result.items() if key != "compute"} for result in record["results"]]
    return json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 9))


def others(setting: Setting, value: Any) -> Iterator[Any]:
    """Other values that a setting might have."""
    if isinstance(setting.range, Choices):
        yield from (name for name in setting.range.names if name != value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (number for number in (value * 2, value + 1, value / 2, 0) if number != value)
    elif isinstance(value, list):
        yield from ([0.25], ["sudoku"], [7])
    else:
        yield from (0.25, 1, True, "sudoku", "cpu", "float64", ["sudoku"])


def test_no_setting_can_be_changed_in_silence_where_that_changes_a_number(run: Path) -> None:
    """Every setting of all_config.yaml, changed alone: the folder is refused, or evaluates to the same numbers.

    Of those that are not refused many are changed together, and one by one only where that is not what it was.
    """
    config, plain, before = load_config_file(run / "all_config.yaml"), settings_of_run(run), results(run)
    silent, refused, changed = dict[str, Any](), [], []
    for setting in settings_of(TrainConfig):
        if setting.is_section or setting.key.partition(".")[0] not in plain:
            continue
        for other in others(setting, value_of(config, setting.key)):
            try:
                load_config_file(written(run, with_changes(plain, {setting.key: other})))
            except UserError as error:
                if "was changed since its run" not in str(error):
                    continue  # no value of this setting
                refused.append(setting.key)
            else:
                silent[setting.key] = other
            break
    groups = [dict(list(silent.items())[start : start + 8]) for start in range(0, len(silent), 8)]
    for group in groups:
        for changes in [group, *({key: value} for key, value in group.items())]:
            try:
                written(run, with_changes(plain, changes))
                same = results(run) == before
            except UserError:
                same = False
                if len(changes) == 1:
                    refused += changes
                    continue
            if same and changes is group:
                break
            if not same and len(changes) == 1:
                changed += changes
    assert changed == []
    assert {"arch.H_cycles", "arch.rope_theta", "dtype", "state_dtype", "seed", "arch.loss.loss_type"} <= set(refused)
    assert {"validation_size", "data_paths", "data_paths_test"} <= set(refused)
    assert {"eval.max_steps", "device", "keep_last", "max_test_rows", "evaluators"} <= {*silent}
    assert len(silent) > 30 and len(refused) > 40


def test_without_the_record_a_line_warns_and_the_change_is_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the test above would see if nothing tied settings to weights."""
    before, plain = results(run), settings_of_run(run)
    assert "weights.json" not in capsys.readouterr().err
    (run / "weights.json").unlink()
    plain["arch"]["H_cycles"] = 3
    written(run, plain)
    (run / "evaluation_best.json").unlink()  # which a report of other settings does not replace
    assert results(run) != before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {run}/best.pt: no weights.json beside it")


def test_every_key_must_be_there_and_be_known(run: Path) -> None:
    """In a folder of this code; in an older one what is missing is at its default, and what is unknown refused too."""
    plain = settings_of_run(run)
    for folder, strict in ((run, True), (Path(shutil.copytree(OLD, run.parent / "old")), False)):
        plain = settings_of_run(folder)
        for name in list(plain)[::5]:
            rest = {key: value for key, value in plain.items() if key != name}
            with pytest.raises(UserError, match="unknown option|expected keys such as"):
                load_config_file(written(folder, {**rest, name + "x": plain[name]}))
            if strict:
                with pytest.raises(UserError):
                    load_config_file(written(folder, rest))
        if not strict:
            del plain["threads"]
            assert load_config_file(written(folder, plain)).threads is None


def test_a_foreign_file_is_read_leniently(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = {"arch": {"name": "trm", "spice": 3}, "global_batch_size": 8, "flavour": "sweet"}
    assert load_config_file(written(tmp_path, foreign)).global_batch_size == 8
    assert "options unknown here are ignored: arch.spice, flavour" in capsys.readouterr().err


def test_scripts_refuse_in_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = settings_of_run(run)
    plain["arch"]["H_cycles"] = 3
    written(run, plain)
    out = ["--out", str(run / "out")]
    calls: list[tuple[Any, list[str]]] = [
        (evaluate.main, [f"checkpoint={run}/best.pt"]),
        (predict.main, [f"checkpoint={run}/best.pt", "row=1"]),
        (step_by_step.main, [f"{run}/best.pt"]),
        (lyapunov_spectrum.main, ["--checkpoint", f"{run}/best.pt", *out]),
        (q_head_vs_stability.main, ["--checkpoint", f"{run}/best.pt", *out]),
    ]
    for main, words in calls:
        line = refused_line(capsys, main, words)
        assert "was changed since its run: arch.H_cycles: saved 2, now 3; put it back, or remove" in line


def test_data_built_anew_are_not_those_of_the_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:

    plain = settings_of_run(run)
    build(f"--output-dir {tmp_path}/other --generate 4x4 --num-train 24 --test-size 12 --seed 5".split())
    plain["data_paths"] = [f"{tmp_path}/other"]
    written(run, plain)
    for main, way_out in ((evaluate.main, "data_paths_test=["), (predict.main, "data_path=")):
        words = [f"checkpoint={run}/best.pt", *(["row=1"] if main is predict.main else [])]
        line = refused_line(capsys, main, words)
        assert f"{tmp_path}/other is not what the run of {run}/best.pt was judged on" in line and way_out in line
    evaluate.main([f"checkpoint={run}/best.pt", f"data_paths_test=[{tmp_path}/other]", "device=cpu"])
    assert (run / "evaluation_best_other.json").exists()


def test_the_record_itself_is_checked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "weights.json"
    text = path.read_text()
    for damaged in (text.replace('"validation_size": 2', '"validation_size": 1'), text[:-9], "[]", "{}"):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"weights.json: .*; remove it to use the folder without it"):
            open_checkpoint(run, device="cpu")
    path.write_text(text)
    record = read_record(run)
    assert record is not None and {name for entry in record.weights.values() for name in entry["files"]} >= {
        "best.pt",
        "final.pt",
    }
    write_record(run, record)
    assert path.read_text() == text
    # Other weights than those that were written: a line says so.
    capsys.readouterr()
    (run / "best.pt").write_bytes((OLD / "best.pt").read_bytes())
    open_checkpoint(run, device="cpu")
    assert "weights.json does not know its bytes" in capsys.readouterr().err
    # The archive of the best checkpoint explains itself.
    open_checkpoint(next((run / "best").iterdir()) / "weights.pt", device="cpu")
    assert capsys.readouterr().err == ""


def test_a_run_that_goes_on_knows_its_earlier_weights(sudoku4_folder: Path, tmp_path: Path) -> None:
    """Also those of each evaluation, and none but those that are there."""
    options = ["validation_size=2", "fast_validation_size=2", "fast_eval_interval=1", "checkpoint_every_fast_eval=True"]
    for most in (2, 4):
        train_here("trm_att", sudoku4_folder, tmp_path / "run", [*options, f"max_steps={most}", "keep_last=2"])
    record = read_record(tmp_path / "run")
    assert record is not None
    named = {name for entry in record.weights.values() for name in entry["files"]}
    assert {"step_3", "step_4", "best.pt", "final.pt"} <= named
    files = [name for entry in record.weights.values() for name in entry["files"]]
    assert len(files) < 8 and all(
        any((tmp_path / "run" / name).exists() for name in entry["files"]) for entry in record.weights.values()
    )
    for name in ("step_3", "step_4", "best.pt", "final.pt"):
        checkpoint = open_checkpoint(tmp_path / "run" / name, device="cpu")
        assert checkpoint.config.arch == tiny_config("trm_att", sudoku4_folder, tmp_path / "run", options).arch
