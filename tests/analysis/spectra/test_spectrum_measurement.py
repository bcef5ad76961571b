"""The measurement of a trajectory against the engine itself and the official inference; its files and their faults."""

import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.samples.measured_rows import PARTS
from analysis.samples.networks import chosen_rows, violations_of
from analysis.spectra.spectrum_files import FILE_NAME, read_arrays, spectrum_store
from analysis.spectra.spectrum_measurement import SpectrumSettings, measure_batch, tangents_of_rows
from dataset.eval_batches import EvalBatches
from dataset.puzzle_folder import PuzzleSet, open_puzzle_set
from dataset.sudoku import is_solution, missing_digits, parse_board
from dynamics.lyapunov import lyapunov_spectrum
from dynamics.trajectory import trajectory
from errors import UserError
from models.act import Batch
from models.recursion_maps import RecursionMaps
from models.recursive_model import RecursiveModel
from models.srm import StableRecursionModel
from tests.helpers import tiny_config
from training.inference.stepwise import StepwiseInference
from training.setup import build_network

SETTINGS = SpectrumSettings(num_exponents=3, num_steps=4, dtype="float64", seed=5)


@pytest.fixture(scope="module")
def puzzles(sudoku6_folder: Path) -> PuzzleSet:
    return open_puzzle_set(sudoku6_folder, "test")


@pytest.fixture(params=["trm_att", "trm_mlp", "hrm", "srm"])
def model(request: pytest.FixtureRequest, puzzles: PuzzleSet, tmp_path: Path) -> RecursiveModel:
    config = tiny_config(request.param, puzzles.root, tmp_path, ["dtype=float64", "arch.halt_max_steps=4"])
    network = build_network(config, puzzles.metadata, torch.device("cpu")).eval()
    with torch.no_grad():  # untrained halting values are all alike
        network.q_head.weight.normal_(generator=torch.Generator().manual_seed(3))
    return network


def batch_of(puzzles: PuzzleSet, rows: list[int]) -> Batch:
    return next(iter(EvalBatches(puzzles, np.array(rows), len(rows))))


def test_readings_are_those_of_the_official_inference(model: RecursiveModel, puzzles: PuzzleSet) -> None:
    batch = batch_of(puzzles, [0, 3, 7])
    arrays = measure_batch(model, batch, SETTINGS, violations_of(puzzles))
    with torch.no_grad():
        official = StepwiseInference().predict(model, batch)
    answers = official.step_answers.numpy()  # (B, T, S)
    labels = batch["labels"].numpy()
    np.testing.assert_array_equal(arrays["exact"], (answers == labels[:, None]).all(axis=2))
    np.testing.assert_allclose(arrays["q_halt"], official.step_q_halt.numpy(), rtol=1e-6)
    changes = (answers[:, 1:] != answers[:, :-1]).sum(axis=2)
    np.testing.assert_array_equal(arrays["changed"][:, 1:], changes)
    broken = np.stack([missing_digits((answers[:, t] - 1).astype(np.uint8), (2, 3)) for t in range(4)], axis=1)
    np.testing.assert_array_equal(arrays["violations"], broken)


def test_exponents_and_drift_are_those_of_the_map(model: RecursiveModel, puzzles: PuzzleSet) -> None:
    batch = batch_of(puzzles, [2, 5])
    arrays = measure_batch(model, batch, SETTINGS)
    maps = RecursionMaps(model, batch)
    state = maps.initial_state
    size = sum(leaf[0].numel() for leaf in state)
    start = tangents_of_rows(batch["row"], size, 3, seed=5).double()
    per_step = lyapunov_spectrum(maps.step, state, num_exponents=3, num_steps=4, initial_tangents=start)
    # Another QR cadence: equal up to rounding.
    np.testing.assert_allclose(arrays["step_growth"], per_step.local_growth.numpy(), atol=1e-9)
    np.testing.assert_allclose(arrays["svd_exponents"], per_step.svd_exponents.numpy(), atol=1e-9)
    np.testing.assert_allclose(
        arrays["sub_update_growth"].reshape(2, 4, -1, 3).sum(axis=2), arrays["step_growth"], atol=1e-5
    )
    path = [
        torch.cat([leaf.flatten(1) for leaf in visited], dim=1) for visited in [state, *trajectory(maps.step, state, 5)]
    ]
    norms = [torch.linalg.vector_norm(later - before, dim=1) for before, later in zip(path, path[1:], strict=False)]
    drift = torch.stack([moved / torch.linalg.vector_norm(z, dim=1) for moved, z in zip(norms, path[1:], strict=True)])
    np.testing.assert_allclose(arrays["drift"], drift[:4].T.numpy(), rtol=1e-9)
    residual = norms[4] / torch.linalg.vector_norm(path[4], dim=1)
    np.testing.assert_allclose(arrays["residual"], residual.numpy(), rtol=1e-9)


def test_extension_goes_on_where_the_measurement_ends(model: RecursiveModel, puzzles: PuzzleSet) -> None:
    batch = batch_of(puzzles, [1, 4])
    short = SpectrumSettings(num_exponents=2, num_steps=4, dtype="float64", extended_steps=9)
    long = SpectrumSettings(num_exponents=1, num_steps=9, dtype="float64")
    extended, straight = measure_batch(model, batch, short), measure_batch(model, batch, long)
    for name in ("exact", "drift", "q_halt"):
        joined = np.concatenate([extended[name], extended[f"extended_{name}"]], axis=1)
        np.testing.assert_allclose(joined, straight[name], rtol=1e-7, atol=1e-12)
    # The first column's tangent does not depend on how many there are: the same leading growth.
    start = tangents_of_rows(batch["row"], 10, 2, seed=0)
    assert start.shape == (2, 10, 2)
    maps = RecursionMaps(model, batch)
    size = sum(leaf[0].numel() for leaf in maps.initial_state)
    first = tangents_of_rows(batch["row"], size, 2, 0).double()[:, :, :1]
    leading = lyapunov_spectrum(
        maps.sub_updates, maps.initial_state, num_exponents=1, num_steps=9, initial_tangents=first
    )
    growth = leading.local_growth[..., 0].reshape(2, 9, -1).sum(dim=2).numpy()
    np.testing.assert_allclose(extended["extended_growth"], growth[:, 4:], atol=1e-8)


def test_srm_in_its_own_norm(puzzles: PuzzleSet, tmp_path: Path) -> None:
    config = tiny_config("srm", puzzles.root, tmp_path, ["dtype=float64", "arch.halt_max_steps=4"])
    model = build_network(config, puzzles.metadata, torch.device("cpu")).eval()
    assert isinstance(model, StableRecursionModel)
    with torch.no_grad():  # weights that make the two norms differ
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.5)
    batch = batch_of(puzzles, [1, 4])
    in_own_norm = SpectrumSettings(num_exponents=2, num_steps=4, dtype="float64", norm="model", extended_steps=6)
    arrays, plain = measure_batch(model, batch, in_own_norm), measure_batch(model, batch, SETTINGS)
    bound = model.contraction_bound().lambda_per_step
    assert (arrays["step_growth"][..., 0] <= bound + 1e-9).all() and (arrays["extended_growth"] <= bound + 1e-9).all()
    for name in ("exact", "drift", "q_halt", "margin", "residual"):  # of the same states, whatever the coordinates
        np.testing.assert_allclose(arrays[name], plain[name], rtol=1e-6, atol=1e-12)
    other = build_network(
        tiny_config("hrm", puzzles.root, tmp_path, ["dtype=float64"]), puzzles.metadata, torch.device("cpu")
    )
    with pytest.raises(UserError, match="arch=srm"):
        measure_batch(other.eval(), batch, in_own_norm)


def test_tangents_depend_on_seed_row_and_copy_only() -> None:
    rows = torch.tensor([3, -1, 8])
    drawn = tangents_of_rows(rows, 20, 4, seed=1)
    torch.testing.assert_close(tangents_of_rows(rows.flip(0), 20, 4, seed=1).flip(0), drawn, rtol=0, atol=0)
    others = [tangents_of_rows(rows, 20, 4, seed=2), tangents_of_rows(rows, 20, 4, seed=1, copy=1), drawn.roll(1, 0)]
    assert all(not torch.equal(other, drawn) for other in others)
    assert abs(float(tangents_of_rows(torch.arange(50), 50, 8, 0).std()) - 1) < 0.02


def test_measurement_goes_on_where_it_stopped(puzzles: PuzzleSet, tmp_path: Path) -> None:
    config = tiny_config("trm_mlp", puzzles.root, tmp_path, ["dtype=float64", "arch.halt_max_steps=4"])
    model = build_network(config, puzzles.metadata, torch.device("cpu")).eval()
    blocks = [np.array([0, 1, 2]), np.array([3, 4])]

    def measured(block: np.ndarray) -> dict[str, np.ndarray]:
        return measure_batch(model, batch_of(puzzles, block.tolist()), SETTINGS)

    described = {"weights_sha256": "x", **asdict(SETTINGS)}
    straight = spectrum_store(tmp_path / "straight", described)
    for block in blocks:
        straight.add(measured(block))
    straight.finish(np.arange(5))
    spectrum_store(tmp_path / "stopped", described).add(measured(blocks[0]))
    assert not (tmp_path / "stopped" / FILE_NAME).exists()
    later = spectrum_store(tmp_path / "stopped", described)
    assert later.missing(np.arange(5)).tolist() == [3, 4] and later.missing(blocks[0]).size == 0
    later.add(measured(blocks[1]))
    assert len(later.finish(np.array([1, 3]))["row"]) == 2
    assert not (tmp_path / "stopped" / PARTS).exists()
    assert (tmp_path / "stopped" / FILE_NAME).read_bytes() == (tmp_path / "straight" / FILE_NAME).read_bytes()

    (tmp_path / "stopped" / "notes.txt").write_text("mine")
    spectrum_store(tmp_path / "stopped", described).add(measured(np.array([5])))
    with pytest.raises(UserError, match="measured with num_steps = 4, now 5: name another --out") as refused:
        spectrum_store(tmp_path / "stopped", {**described, "num_steps": 5})
    # The advice, as a shell takes it, removes the measurement and nothing beside it.
    subprocess.run(str(refused.value).rpartition(": ")[2], shell=True, check=True)
    assert [path.name for path in (tmp_path / "stopped").rglob("*") if path.is_file()] == ["notes.txt"]
    spectrum_store(tmp_path / "stopped", {**described, "num_steps": 5})


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with pytest.raises(UserError, match="is not there"):
        read_arrays(path)
    path.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(UserError, match="damaged"):
        read_arrays(path)
    np.savez(path, row=np.arange(3))
    with pytest.raises(UserError, match="holds no settings"):
        read_arrays(path)
    np.savez(path, settings="{}", row=np.arange(3), step_growth=np.zeros((2, 1, 1)), exact=np.zeros((3, 1)))
    with pytest.raises(UserError, match="expected 3 rows"):
        read_arrays(path)
    np.savez(path, settings=np.array([{}], dtype=object), row=np.arange(1))
    with pytest.raises(UserError, match="damaged"):  # a pickle is not opened
        read_arrays(path)


def test_missing_digits() -> None:
    solution = parse_board("123456456123214365365214531642642531", (2, 3))
    other, blank = solution.copy(), solution.copy()
    other[0] = 2  # the row, column and box lack their 1
    blank[0] = 0
    boards = np.stack([solution, other, blank, np.ones(36, np.uint8)])
    assert is_solution(boards, (2, 3)).tolist() == [True, False, False, False]
    assert missing_digits(boards, (2, 3)).tolist() == [0, 3, 3, 18 * 5]


def test_rows_without_an_answer_are_left_out(puzzles: PuzzleSet, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = chosen_rows(puzzles, 8, 100)
    assert len(everything) == 32 and chosen_rows(puzzles, 8, 5).tolist() == everything[:5].tolist()
    read = PuzzleSet.read_rows

    def nothing_to_answer(self: PuzzleSet, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs, labels = read(self, rows)
        labels = labels.astype(np.int32)
        labels[rows == everything[1]] = self.metadata.ignore_label_id
        return inputs, labels

    monkeypatch.setattr(PuzzleSet, "read_rows", nothing_to_answer)
    assert chosen_rows(puzzles, 8, 100).tolist() == np.delete(everything, 1).tolist()
