"""Names of evaluation files: equal only where the results are, whatever option of evaluate.py differs."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluate
from dataset.build_sudoku_dataset import main as build
from errors import UserError
from evaluate import Options, asked_of, result_name
from files import file_sha256
from options import REQUIRED, Choices, settings_of
from tests.helpers import newest_report, refused_line, train_here
from training.evaluation.result_files import dtype_parts, kept_beside
from training.settings.checks import value_of
from training.storage.weights import load_weights
from training.trained_model import Checkpoint, open_checkpoint, recorded_metadata

# They decide where the network is, what else is written and where, or how rows are cut into batches.
OF_NO_RESULT = {"checkpoint", "device", "batch_size", "save_outputs", "output"}
# What must be asked for before a setting of the section is read.
SWITCHES: dict[str, dict[str, Any]] = {
    "eval.perturbed_starts": {"sigma": [0.1]},
    "eval.stochastic_rollouts": {"sigma": 0.3},
    "eval.stochastic_rollouts.probes": {"sizes": [1e-3]},
}


@pytest.fixture(scope="module")
def trained(sudoku4_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    options = ["max_steps=2", "validation_size=2", "fast_validation_size=2", "arch.halt_max_steps=4", "dtype=auto"]
    assert train_here("trm_mlp", sudoku4_folder, folder, options) == "done"
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def put_value(options: Options, key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    node: Any = options
    for name in parents:
        node = getattr(node, name)
    setattr(node, leaf, value)


def switched_on(key: str) -> Options:
    options = Options("best.pt")
    for section, settings in SWITCHES.items():
        if key.startswith(f"{section}."):
            for name, value in settings.items():
                put_value(options, f"{section}.{name}", value)
    return options


def values(setting: Any, value: Any) -> Iterator[Any]:
    """Values of a setting that differ in what they ask for, the present one first."""
    yield value
    if isinstance(setting.range, Choices):
        yield from (name for name in setting.range.names if name != value)
    elif isinstance(value, bool):
        yield not value
    elif setting.key in ("data_paths_test", "evaluators"):
        yield from (["a/x"], ["y"], ["a/x", "y"]) if setting.key == "data_paths_test" else ([], ["sudoku"])
    elif "list" in str(setting.kind):
        yield from ([1], [2], [1, 2], list(range(1, 60)), list(range(1, 61)))
    else:
        yield from ((value or 0) + step for step in (1, 2, 10))


def named(options: Options, checkpoint: Checkpoint) -> str:
    metadata = recorded_metadata(checkpoint)
    assert metadata is not None
    dtype = dtype_parts(checkpoint, options.dtype, metadata, torch.device("cpu"))
    return result_name(asked_of(options, checkpoint, dtype), checkpoint)


def test_every_option_that_changes_results_is_in_the_name(trained: Path) -> None:
    checkpoint = open_checkpoint(trained, device="cpu")
    assert named(Options("best.pt"), checkpoint) == "best"
    looked_at = set()
    for setting in settings_of(Options):
        if setting.is_section or setting.key in OF_NO_RESULT:
            continue
        assert setting.default is not REQUIRED
        names: dict[str, Any] = {}
        for value in values(setting, value_of(switched_on(setting.key), setting.key)):
            options = switched_on(setting.key)
            put_value(options, setting.key, value)
            name = named(options, checkpoint)
            same = (setting.key, value) in [("validation_size", 2), ("dtype", "auto"), ("dtype", "float32")]
            assert len(name) < 200
            if same:  # what the run has
                assert name == "best"
                continue
            assert name not in names, f"{setting.key}: {value} and {names[name]}"
            names[name] = value
        assert len(names) > 1
        looked_at.add(setting.key)
    assert {"split", "max_test_rows", "dtype", "eval.max_steps", "eval.stochastic_rollouts.probes.steps"} <= looked_at
    assert len(looked_at) > 15


def test_options_that_are_not_in_the_name_change_no_result(run: Path, tmp_path: Path) -> None:
    found, elsewhere = [], tmp_path / "elsewhere.json"
    for word in ("split=all", "batch_size=3", "save_outputs=[preds]", "device=auto", f"output={elsewhere}"):
        evaluate.main([f"checkpoint={run}/best.pt", "device=cpu", word])
        report = json.loads(elsewhere.read_text()) if elsewhere.exists() else newest_report(run)
        results = [{key: value for key, value in each.items() if key != "compute"} for each in report["results"]]
        found.append(json.loads(json.dumps(results), parse_float=lambda text: round(float(text), 9)))
    assert found[0] and all(each == found[0] for each in found)
    assert [path.name for path in run.glob("evaluation_*")] == ["evaluation_best.json"]


def test_no_other_evaluation_takes_a_name(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By output=, and by data whose folder is called as another one."""
    for number in (1, 2):
        folder = f"{tmp_path}/{number}/data"
        build(f"--output-dir {folder} --generate 4x4 --num-train 24 --test-size 12 --seed {number}".split())
    plain = [f"checkpoint={run}/best.pt", "device=cpu"]
    evaluate.main([*plain, f"data_paths_test=[{tmp_path}/1/data]"])
    before = {path: path.read_bytes() for path in run.glob("evaluation_*")}
    line = refused_line(capsys, evaluate.main, [*plain, f"data_paths_test=[{tmp_path}/2/data]"])
    assert "evaluation_best_data.json reports on other data of that name" in line
    line = refused_line(capsys, evaluate.main, [*plain, "max_test_rows=2", f"output={run}/evaluation_best.json"])
    assert "so is another evaluation called; this one is evaluation_best_first2.json" in line
    assert {path: path.read_bytes() for path in run.glob("evaluation_*")} == before


@pytest.mark.parametrize("name", ["best.pt", "weights.json", "summary.json", "notes.md", "mine.json"])
def test_output_replaces_nothing_but_a_report(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a file of the run nor one that a person wrote; it is said before anything is measured."""
    path = run / name
    if not path.exists():
        path.write_text('{"mine": 1}' if name.endswith(".json") else "mine\n")
    before = path.read_bytes()
    line = refused_line(capsys, evaluate.main, [f"checkpoint={run}/best.pt", f"output={path}"])
    assert f"output={path}" in line and "name another" in line
    assert path.read_bytes() == before and not (run / "evaluation_best.json").exists()


@pytest.mark.parametrize("place", ["none/x.json", ".", "pipe"])
def test_an_output_that_cannot_be_is_refused_before_the_work(
    place: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "measure", None)
    if place == "pipe":
        os.mkfifo(tmp_path / "pipe")
    line = refused_line(capsys, evaluate.main, [f"checkpoint={run}/best.pt", f"output={tmp_path / place}"])
    assert f"output={tmp_path / place} cannot be written" in line and "name another" in line


def test_what_is_kept_beside_a_report_is_called_as_it_is(run: Path, tmp_path: Path) -> None:
    """Two outputs, two files of predictions; a report says of which bytes it is."""
    for name in ("a", "b"):
        evaluate.main([f"checkpoint={run}/best.pt", f"output={tmp_path / name}.json", "save_outputs=[preds]"])
        report = json.loads((tmp_path / f"{name}.json").read_text())
        assert report["checkpoint_sha256"] == file_sha256(run / "best.pt")
    assert {path.name for path in run.glob("predictions_*")} >= {"predictions_a.npz", "predictions_b.npz"}


def files_of(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def refused_keeping(capsys: pytest.CaptureFixture[str], run: Path, words: list[str]) -> str:
    """The line of a refusal before anything was measured, after which every file is as it was."""
    before = files_of(run)
    line = refused_line(capsys, evaluate.main, [*words, "device=cpu"])
    assert files_of(run) == before
    return line


def test_fewer_arrays_replace_no_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = [f"checkpoint={run}/best.pt"]
    evaluate.main([*plain, "device=cpu", "save_outputs=[inputs,preds]"])
    line = refused_keeping(capsys, run, [*plain, "save_outputs=[labels,preds]"])
    assert "predictions_best.npz also keeps inputs: give save_outputs=[inputs,preds,labels]" in line
    assert "output=FILE.json" in line
    before = files_of(run)
    evaluate.main([*plain, "device=cpu"])  # a new report of the same; the arrays stay, and it still knows them
    assert all(files_of(run)[path] == data for path, data in before.items() if path.suffix == ".npz")
    refused_keeping(capsys, run, [*plain, "save_outputs=[preds]"])
    evaluate.main([*plain, "device=cpu", "save_outputs=[inputs,preds,labels]"])
    with np.load(run / "predictions_best.npz") as file:
        assert {"inputs", "preds", "labels", "row"} == set(file)
    evaluate.main([*plain, "device=cpu", "save_outputs=[row]", f"output={tmp_path}/x.json"])


def test_other_weights_replace_no_report(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights exchanged under one name, and two files whose names differ in nothing that a report is called by."""
    shutil.copyfile(run / "best.pt", run / "x.pt")
    evaluate.main([f"checkpoint={run}/x.pt", "device=cpu", "save_outputs=[preds]"])
    (run / "weights.json").unlink()
    torch.save({key: value + 1 for key, value in load_weights(run / "x.pt").items()}, run / "x")
    line = refused_after_warning(capsys, [f"checkpoint={run}/x", "device=cpu"])
    assert "evaluation_x.json reports on other weights of that name: move it away, or" in line
    (run / "x").replace(run / "x.pt")
    assert "other weights" in refused_after_warning(capsys, [f"checkpoint={run}/x.pt", "device=cpu"])
    (run / "evaluation_x.json").unlink()
    line = refused_after_warning(capsys, [f"checkpoint={run}/x.pt", "device=cpu", "save_outputs=[preds]"])
    assert "predictions_x.npz is there, and" in line and "evaluation_x.json does not say of what" in line


def refused_after_warning(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        evaluate.main(words)
    warning, line = capsys.readouterr().err.splitlines()
    assert leaving.value.code == 2 and "weights.json" in warning
    return line


def test_settings_changed_beside_the_weights_replace_no_report(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "weights.json").unlink()
    evaluate.main([f"checkpoint={run}/best.pt", "device=cpu"])
    settings = run / "all_config.yaml"
    settings.write_text(settings.read_text().replace("H_cycles: 2", "H_cycles: 1"))
    assert "H_cycles: 1" in settings.read_text()
    line = refused_after_warning(capsys, [f"checkpoint={run}/best.pt", "device=cpu"])
    assert "evaluation_best.json reports on other settings beside the weights: move" in line


@pytest.mark.parametrize(
    ("folder", "first", "then"),
    [
        ("validation", "save_outputs=[preds]", "save_outputs=[preds]"),
        ("first2", "max_test_rows=2", ""),
        ("validation_rows", "split=validation", ""),
        ("steps5", "eval.max_steps=5", ""),
    ],
)
def test_a_folder_called_like_a_part_of_a_name(
    folder: str, first: str, then: str, run: Path, sudoku4_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Of the very same data, so that only what is asked differs; in both orders."""
    plain, data = [f"checkpoint={run}/best.pt"], shutil.copytree(sudoku4_folder, tmp_path / folder)
    one, other = [*plain, first], [*plain, f"data_paths_test=[{data}]", *([then] if then else [])]
    for number, (earlier, later) in enumerate(((one, other), (other, one))):
        there = shutil.copytree(run, tmp_path / f"run{number}")
        earlier, later = ([word.replace(str(run), str(there)) for word in words] for words in (earlier, later))
        evaluate.main([*earlier, "device=cpu"])
        assert "move it away, or name another report" in refused_keeping(capsys, there, later)


def test_two_reports_of_one_file_name_share_no_predictions(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    words = [f"checkpoint={run}/best.pt", "save_outputs=[preds]", f"output={tmp_path}/a/x.json"]
    for _ in range(2):
        evaluate.main([*words, "device=cpu"])
    line = refused_keeping(capsys, run, [*words[:2], "max_test_rows=2", f"output={tmp_path}/b/x.json"])
    assert "predictions_x.npz is there" in line
    assert "reports on what other options ask" in refused_keeping(capsys, run, [*words, "max_test_rows=2"])


def test_shares_of_other_processes_are_not_mixed(tmp_path: Path) -> None:
    """Two files of four processes would be replaced by those of two, whose rows stand in the other two as well."""
    report = tmp_path / "evaluation_best.json"
    shares = {f"predictions_best.{rank}.npz": {"arrays": ["preds"], "processes": 4} for rank in range(4)}
    report.write_text(json.dumps({"kept": kept_beside(tmp_path, report, shares)}))
    for name in shares:
        (tmp_path / name).touch()
    assert kept_beside(tmp_path, report, shares) == shares
    two = {name: {"arrays": ["preds"], "processes": 2} for name in list(shares)[:2]}
    with pytest.raises(UserError, match="keeps the rows of one among 4 processes, now there are 2"):
        kept_beside(tmp_path, report, two)
    # One process names its file otherwise, so none is replaced, and both would be taken for shares of one result.
    for stem in ("predictions_final", "predictions_final_sigma0.1"):
        alone = {f"{stem}.npz": {"arrays": ["preds"], "processes": 1}}
        pair = {f"{stem}.{rank}.npz": {"arrays": ["preds"], "processes": 2} for rank in range(2)}
        for before, now in ((alone, pair), (pair, alone)):
            report.write_text(json.dumps({"kept": before}))
            for name in before:
                (tmp_path / name).touch()
            count, count_now = len(before), len(now)
            with pytest.raises(UserError, match=f"one among {count} processes, now there are {count_now}"):
                kept_beside(tmp_path, report, now)
            for name in before:
                (tmp_path / name).unlink()
            assert kept_beside(tmp_path, report, now) == now
