"""Endings of a tiny run: the numbers by another route, the files, going on, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.endings import failure_endings
from analysis.endings.ending_measurement import EndingSettings, measure_endings, read_endings
from analysis.samples.networks import one_batch
from dataset.puzzle_folder import open_puzzle_set
from dynamics.trajectory import residual, trajectory
from models.recursion_maps import RecursionMaps
from tests.helpers import changed_flags, refused_line, train_here
from tests.models.small import small_model
from training.inference.stepwise import StepwiseInference
from training.noise import draw_state_noise, perturb

OPTIONS = ["--num-puzzles", "6", "--num-steps", "3", "--extended-steps", "5", "--sigma", "0.5,1", "--starts", "2",
           "--pool", "12", "--batch-size", "4", "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def runs(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        train_here("trm_mlp", sudoku6_folder, folder / f"seed{seed}", ["max_steps=2", f"seed={seed}"])
    return [folder / f"seed{seed}" / "final.pt" for seed in (0, 1)]


def run(checkpoints: list[Path], out: Path, *options: str) -> None:
    names = [str(path) for path in checkpoints]
    failure_endings.main(["--checkpoint", *names, "--out", str(out), *changed_flags(OPTIONS, options)])


def test_numbers_by_another_route(sudoku6_folder: Path) -> None:
    puzzle_set, rows = open_puzzle_set(sudoku6_folder, "test"), np.array([3, 8, 9])
    model, batch = small_model("trm-mlp", seq_len=36, vocab_size=8).eval(), one_batch(puzzle_set, rows)
    # Labels that this network gives at its third step: right there, and perhaps again.
    answers = StepwiseInference(5).predict(model, batch).step_answers
    batch["labels"] = answers[:, 2].to(batch["labels"].dtype)
    settings = EndingSettings(num_steps=3, extended_steps=5, sigma=(0.5, 2.0), starts=2)
    arrays = measure_endings(model, batch, settings)
    assert (
        np.array_equal(arrays["exact"], (answers == answers[:, 2:3]).all(dim=2).numpy()) and arrays["exact"][:, 2].all()
    )
    maps = RecursionMaps(model, batch)
    states = [maps.initial_state, *trajectory(maps.step, maps.initial_state, 5)]
    flat = [torch.cat([leaf.flatten(1) for leaf in state], dim=1).double() for state in states]
    for t, (before, after) in enumerate(zip(flat, flat[1:], strict=False)):
        expected = (after - before).norm(dim=1) / after.norm(dim=1)
        np.testing.assert_allclose(arrays["drift"][:, t], expected.numpy(), rtol=1e-5)
    at_rest = residual(maps.step, states[-1]).numpy()
    np.testing.assert_allclose(arrays["recurrence_distance"][:, 0], at_rest, rtol=1e-6)
    sixteen = list(trajectory(maps.step, states[-1], 16))[-1]
    last = torch.cat([leaf.flatten(1) for leaf in sixteen], dim=1).double()
    expected = (last - flat[-1]).norm(dim=1) / flat[-1].norm(dim=1)
    np.testing.assert_allclose(arrays["recurrence_distance"][:, 15], expected.numpy(), rtol=1e-6)
    for place, sigma in enumerate(settings.sigma):
        for start in range(2):
            noise = draw_state_noise(0, start, rows.tolist(), tuple(states[0].z_H.shape[1:]), "both", "evaluation")
            state = perturb(states[0], torch.full((3,), sigma, dtype=torch.float64), noise, "both")
            *_, end = trajectory(maps.step, state, 3)
            right = maps.read(end).exact.numpy()
            assert np.array_equal(arrays["restart_exact"][:, place, start], right)


def test_two_runs_and_going_on(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that fails everywhere is said and drawn; stopped between two blocks, it ends with the same files."""
    run(runs, tmp_path / "a")
    assert "seed1_final: all of 12 test puzzles failed" in capsys.readouterr().err
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    (group,) = summary["groups"].values()
    data = summary["runs"][0]["settings"]["data"]
    assert {one["group"] for one in summary["runs"]} == {f"TRM-MLP, width 16, {data}, 2 updates"}
    assert group["failures_measured"] == 12 and group["accuracy"]["mean"] == 0
    names = [number["name"] for number in summary["record"]["numbers"]]
    assert any("failures, moving, mean over runs" in name for name in names) and len(set(names)) == len(names)
    for name in ("endings", "survival", "restarts"):
        for suffix in ("png", "pdf", "svg", "csv", "txt"):
            assert (tmp_path / "a" / f"{name}.{suffix}").stat().st_size > 0
    arrays = read_endings(tmp_path / "a" / "seed0_final" / "endings.npz")
    assert arrays["exact"].shape == (6, 5) and arrays["restart_exact"].shape == (6, 2, 2)

    measured, plain = [], failure_endings.measure_endings

    def stops(*words: object) -> object:
        if len(measured) == 1:
            raise KeyboardInterrupt
        measured.append(1)
        return plain(*words)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(failure_endings, "measure_endings", stops)
        with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
            failure_endings.main.__wrapped__(  # type: ignore[attr-defined]
                ["--checkpoint", str(runs[0]), "--out", str(tmp_path / "b"), *OPTIONS]
            )
    assert len(list((tmp_path / "b" / "parts").iterdir())) == 1
    run(runs[:1], tmp_path / "b")
    again = read_endings(tmp_path / "b" / "endings.npz")
    for name, array in read_endings(tmp_path / "a" / "seed0_final" / "endings.npz").items():
        assert np.array_equal(array, again[name]), name


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--extended-steps", "2"], "--extended-steps 2: expected at least --num-steps 3"),
        (["--sigma", "1,1"], "each noise scale once"),
        (["--sigma", "-1"], "expected"),
        (["--num-puzzles", "1"], "--num-puzzles 1: expected at least 2"),
        (["--pool", "1"], "--pool 1: expected at least 2"),
    ],
)
def test_refusals(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    words = ["--checkpoint", runs[0], "--out", tmp_path / "x", *changed_flags(OPTIONS, options)]
    assert says in refused_line(capsys, failure_endings.main, words)
    assert not (tmp_path / "x").exists()


def test_other_options_need_another_folder(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(runs[:1], tmp_path / "a", "--sigma", "none")
    assert not (tmp_path / "a" / "restarts.png").exists()
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    words = ["--checkpoint", runs[0], "--out", tmp_path / "a", *OPTIONS]
    assert "name another --out" in refused_line(capsys, failure_endings.main, words)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
