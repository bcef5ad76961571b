"""The benchmark: what it runs, counts and writes. No test asserts a time."""

import csv
import json
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis import timing as analysis_timing
from analysis.timing import Timing, seconds_of
from errors import UserError
from models.products import Product, total_flops
from scripts.benchmark import growth as benchmark_growth
from scripts.benchmark import measures as benchmark_measures
from scripts.benchmark import timing as benchmark_timing
from scripts.benchmark import updates as benchmark
from scripts.benchmark.measures import (
    count_flops,
    count_synchronizations,
    measure_preset,
    peak_flops,
    training_step,
)
from scripts.benchmark.setup import SHAPES, compose_preset, data_shape, synthetic_run
from scripts.benchmark.timing import floor_seconds, operands
from tests.dataset.folders import make_folder
from tests.helpers import ROOT

CPU = torch.device("cpu")
TINY = ["--repeats", "1", "--device", "cpu", "--batch-size", "2"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Presets name data folders below the present one: here are none."""
    monkeypatch.chdir(tmp_path)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as leaving:
        benchmark.main(arguments)
    assert leaving.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def documented(section: str) -> set[str]:
    """The keys that a section of docs/speed.md defines in the first column of its table."""
    text = (ROOT / "docs" / "speed.md").read_text()
    body = re.split(rf"^###? .*{re.escape(section)}.*$", text, flags=re.MULTILINE)[1].split("\n#")[0]
    cells = re.findall(r"^\| (`[^|]*) \|", body, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_a_tiny_preset_runs_to_a_record_whose_keys_are_documented(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "speed.json"
    assert benchmark.main(["--preset", "smoke", *TINY, "--set", "accumulation_slices=2", "--json", str(file)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[0] == "preset" and table[1].split()[0] == "smoke"
    record = json.loads(file.read_text())
    assert record.keys() == documented("The record")
    assert record["environment"].keys() == documented("`environment`")
    (result,) = record["results"]
    assert result.keys() == documented("`results`")
    assert result["preset"] == "smoke" and (result["seq_len"], result["vocab_size"]) == (16, 6)
    assert (result["batch_size"], result["threads"], result["ema"]) == (2, 1, True)
    assert result["loader"].keys() == {"seconds", "share"} and 0 < result["loader"]["share"] < 1
    assert result["peak_memory"]["kind"] == "resident_growth" and result["syncs_per_step"] is None
    for kind in ("training", "evaluation"):
        part = result[kind]
        assert part.keys() == documented("`training` and `evaluation`")
        assert part["seconds"].keys() == documented("`seconds`")
        assert part["flop_counter"].keys() == documented("`flop_counter`")
        assert all(product.keys() == documented("`products`") for product in part["products"])
        assert sum(product["flops"] for product in part["products"]) == part["flops"]
        floor = sum(product["count"] * product["seconds"] for product in part["products"])
        assert part["floor_seconds"] == floor
        assert min(part["floor_passes_seconds"]) <= floor <= max(part["floor_passes_seconds"])
        assert part["ratio"] == floor / part["seconds"]["median"] and part["share_of_peak"] is None
        assert part["flop_counter"]["unexplained"] == 0
    names = [product["name"] for product in result["evaluation"]["products"]]
    assert names and not any("gradient" in name for name in names)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("preset", "overrides", "words"),
    [
        ("smoke", {"optimizer": "muon"}, "the optimizer's products"),
        ("smoke", {"dtype": "bfloat16"}, "the counter also sees the heads"),
        ("smoke", {"arch.mlp_t": "True", "arch.pos_encodings": "none"}, "the counter also sees the heads"),
        ("hrm_sudoku_17clue_cpu", {"arch.hidden_size": "16", "global_batch_size": "2"}, "fused attention"),
        ("srm_sudoku_6x6_cpu", {"arch.hidden_size": "16", "accumulation_slices": "4"}, "preparation of the weights"),
    ],
)
def test_what_torch_counts_in_a_run_is_explained_to_the_last_operation(
    preset: str, overrides: dict[str, str], words: str
) -> None:
    config = compose_preset(preset, {"device": "cpu", **overrides})
    with synthetic_run(config, data_shape(config, preset)) as run:
        counted = count_flops(run, training_step(run), training=True)
        assert run.step == 1
    assert counted["unexplained"] == 0 and words in counted["explanation"]
    assert (counted["optimizer"] > 0) == (overrides.get("optimizer") == "muon")
    assert counted["heads"] > 0


def test_the_timed_step_is_the_loops_update() -> None:
    config = compose_preset("smoke", {"device": "cpu"})
    with synthetic_run(config, data_shape(config, "smoke")) as run:
        assert run.ema is not None and run.dense is not None
        before = [parameter.clone() for parameter in run.model.parameters()]
        average = [parameter.clone() for parameter in run.ema.model.parameters()]
        step = training_step(run)
        step()
        step()
        assert run.step == 2 and run.progress.samples_seen == 2 * config.global_batch_size
        assert any(not torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
        assert any(not torch.equal(a, b) for a, b in zip(average, run.ema.model.parameters(), strict=True))


def test_a_sample_may_span_several_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that ticks at each update, an update takes one tick whatever a sample spans."""
    clock = {"now": 0.0}
    update = benchmark_measures.train_on_batch

    def train_on_batch(*args: Any, **options: Any) -> Any:
        clock["now"] += 1.0
        return update(*args, **options)

    config = compose_preset("smoke", {"device": "cpu"})
    monkeypatch.setattr(benchmark_measures, "train_on_batch", train_on_batch)
    monkeypatch.setattr(benchmark_measures, "updates_per_sample", lambda device: 3)
    monkeypatch.setattr(benchmark_measures, "measure_products", lambda products, *_: {p.shape: 1.0 for p in products})
    monkeypatch.setattr(analysis_timing.time, "perf_counter", lambda: clock["now"])
    with synthetic_run(config, data_shape(config, "smoke")) as run:
        record = benchmark_measures.measure_training(run, 2)
        assert run.step == 6 and run.progress.metric_sums["normalizer"] == 6 * config.global_batch_size
    assert record["seconds"] == {"median": 1.0, "min": 1.0, "max": 1.0, "q1": 1.0, "q3": 1.0, "count": 2}
    assert record["rows_per_second"] == config.global_batch_size


def test_evaluation_leaves_a_run_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an average the trained model itself answers, in evaluation mode, and goes on training."""
    config = compose_preset("smoke", {"device": "cpu", "ema": "False"})
    modes = []
    answer = benchmark_measures.OfficialInference.predict

    def predict(self: Any, model: Any, batch: Any) -> Any:
        modes.append(model.training)
        return answer(self, model, batch)

    monkeypatch.setattr(benchmark_measures.OfficialInference, "predict", predict)
    with synthetic_run(config, data_shape(config, "smoke")) as run:
        weights = {name: value.clone() for name, value in run.model.state_dict().items()}
        record = benchmark_measures.measure_evaluation(run, 4)
        assert run.model.training and run.step == 0
        assert all(torch.equal(value, weights[name]) for name, value in run.model.state_dict().items())
    assert modes == [False, False, False]  # one to warm up, half of the repeats
    assert record["seconds"]["count"] == 2


def test_the_timed_products_are_those_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shape once in each pass, before, between and after the steps; the floor weighs medians by their counts."""
    timed_shapes: list[Any] = []
    seconds_of_pass = [4.0, 1.0, 2.0]

    def product_seconds(product: Product, dtype: torch.dtype, device: torch.device, repeats: int) -> float:
        assert dtype is torch.float32
        timed_shapes.append(product.shape)
        return seconds_of_pass[timed_shapes.count(product.shape) - 1]

    monkeypatch.setattr(benchmark_timing, "product_seconds", product_seconds)
    config = compose_preset("smoke", {"device": "cpu", "global_batch_size": "6", "accumulation_slices": "3"})
    with synthetic_run(config, data_shape(config, "smoke")) as run:
        products = run.model.step_products(run.model.config, 2, training=True)
        record = benchmark_measures.measure_training(run, 2)
        listed = benchmark_measures.products_of(run, training=True)
    assert Counter(timed_shapes) == {product.shape: 3 for product in products}
    assert [p.count for p in listed] == [3 * p.count for p in products]
    assert total_flops(listed) == record["flops"] == 3 * total_flops(products)
    count = sum(product.count for product in listed)
    assert record["floor_passes_seconds"] == [4 * count, count, 2 * count]
    assert record["floor_seconds"] == 2 * count and record["seconds"]["count"] == 2


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("left_transposed", [False, True])
@pytest.mark.parametrize("right_transposed", [False, True])
def test_operands_have_the_products_shape_and_layout(batch: int, left_transposed: bool, right_transposed: bool) -> None:
    product = Product("any", 1, batch, 4, 5, 6, left_transposed, right_transposed)
    left, right, result = operands(product, torch.float64, CPU)
    leading = () if batch == 1 else (batch,)
    assert (left.shape, right.shape, result.shape) == ((*leading, 4, 5), (*leading, 5, 6), (*leading, 4, 6))
    assert left.is_contiguous() != left_transposed and right.is_contiguous() != right_transposed
    assert left.mT.is_contiguous() == left_transposed and right.mT.is_contiguous() == right_transposed


def test_a_product_is_multiplied_as_often_as_its_time_is_divided_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that ticks once per product, one product takes one tick, however many operands take turns."""
    ticks = 0.0
    multiply = torch.mm
    left_operands = set()

    def mm(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        nonlocal ticks
        ticks += 1e-5
        left_operands.add(left.data_ptr())
        return multiply(left, right, out=out)

    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(analysis_timing.time, "perf_counter", lambda: ticks)
    seconds = benchmark_timing.product_seconds(Product("any", 9, 1, 4, 5, 6), torch.float32, CPU, 3)
    assert seconds == pytest.approx(1e-5, rel=1e-9)
    assert len(left_operands) == 8


def test_floor_is_the_sum_over_counts() -> None:
    products = [Product("a", 2, 1, 3, 4, 5), Product("b", 5, 1, 3, 4, 5), Product("c", 1, 7, 3, 4, 5)]
    seconds = {products[0].shape: 0.5, products[2].shape: 10.0}
    assert floor_seconds(products, seconds) == 2 * 0.5 + 5 * 0.5 + 10.0


def test_quartiles_of_known_times() -> None:
    timing = Timing.of([5.0, 1.0, 2.0, 4.0, 3.0])
    assert timing == Timing(3.0, 1.0, 5.0, 2.0, 4.0, 5)


def test_of_several_calls_in_a_row_the_mean_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([1.0, 7.0])
    monkeypatch.setattr(analysis_timing.time, "perf_counter", lambda: next(ticks))
    calls: list[int] = []
    assert seconds_of(lambda: calls.append(1), CPU, 4) == 1.5 and len(calls) == 4


def fake_record(ratio: float) -> dict[str, Any]:
    counter = {"counter": 1, "explanation": "none"}
    part = {
        "seconds": {"median": 1.0, "q1": 1.0, "q3": 1.0, "count": 1}, "rows_per_second": 1.0, "floor_seconds": ratio,
        "flops": 1.0, "flops_per_second": 1.0, "flop_counter": counter,
    }  # fmt: skip
    return {
        "device": "cpu", "dtype": "float32", "compiled": False, "batch_size": 2, "training": part | {"ratio": 0.9},
        "evaluation": part | {"ratio": ratio}, "loader": {"share": 0.1}, "peak_memory": {"bytes": None},
        "syncs_per_step": 3,
    }  # fmt: skip


@pytest.mark.parametrize(("ratio", "code"), [(0.49, 1), (0.5, 0)])
def test_a_ratio_below_the_floor_ends_with_1(
    ratio: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "measure_preset", lambda *_, **__: fake_record(ratio))
    assert benchmark.main(["--preset", "smoke", "--device", "cpu", "--floor", "0.5"]) == code
    captured = capsys.readouterr()
    assert ("smoke: evaluation ratio 0.4900 is below --floor 0.5" in captured.err) == bool(code)
    assert "training ratio" not in captured.err
    assert "waits for the device 3 times" in captured.out


def test_a_cpus_peak_memory_is_that_of_the_first_preset_only() -> None:
    config = compose_preset("smoke", {"device": "cpu"})
    shape = data_shape(config, "smoke")
    assert measure_preset(config, shape, 1)["peak_memory"]["bytes"] >= 0
    assert measure_preset(config, shape, 1, first=False)["peak_memory"]["bytes"] is None


def test_growth_varies_one_size_at_a_time_and_writes_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "growth"
    tiny = ["--set", "arch.hidden_size=8", "arch.H_cycles=1", "arch.L_cycles=1"]
    arguments = ["--preset", "smoke", "--growth", "--output-dir", str(folder), *TINY, *tiny]
    assert benchmark.main(arguments) == 0
    assert {path.name for path in folder.glob("growth*")} == {
        f"growth.{kind}" for kind in "csv json pdf png svg txt".split()
    }
    with (folder / "growth.csv").open() as file:
        rows = list(csv.DictReader(file))
    record = json.loads((folder / "growth.json").read_text())
    assert len(rows) == len(record["rows"]) == 16 and record["environment"].keys() == documented("`environment`")
    names = ("batch_size", "seq_len", "hidden_size", "H_cycles", "L_cycles")
    points = {axis: [tuple(int(row[name]) for name in names) for row in rows if row["axis"] == axis]
              for axis in benchmark_growth.AXES}  # fmt: skip
    assert points == {
        "batch_size": [(2, 16, 8, 1, 1), (4, 16, 8, 1, 1), (8, 16, 8, 1, 1), (16, 16, 8, 1, 1)],
        "seq_len": [(2, 16, 8, 1, 1), (2, 32, 8, 1, 1), (2, 64, 8, 1, 1), (2, 128, 8, 1, 1)],
        "hidden_size": [(2, 16, 8, 1, 1), (2, 16, 16, 1, 1), (2, 16, 32, 1, 1), (2, 16, 64, 1, 1)],
        "cycles": [(2, 16, 8, 1, 1), (2, 16, 8, 1, 2), (2, 16, 8, 2, 2), (2, 16, 8, 2, 4)],
    }
    by_batch = [float(row["flops"]) for row in rows if row["axis"] == "batch_size"]
    assert by_batch == [by_batch[0] * factor for factor in (1, 2, 4, 8)]
    # The base is measured once and stands in every axis.
    assert len({row["seconds"] for row in record["rows"][::4]}) == 1
    assert len({row["seconds"] for row in record["rows"]}) == 13
    assert "smoke: what is not varied is batch 2, S 16" in (folder / "growth.txt").read_text()


def test_the_picture_shows_every_point_and_its_floor() -> None:
    rows = [
        {"preset": preset, "axis": axis, "value": value, "seconds": 2.0 * value, "q1": 1.5 * value, "q3": 3.0 * value,
         "floor_seconds": 1.0 * value}
        for preset in ("one", "two") for axis in benchmark_growth.AXES for value in (1, 2, 4, 8)
    ]  # fmt: skip
    figure = benchmark_growth.draw(rows)
    for axes, label in zip(figure.axes, benchmark_growth.AXES.values(), strict=True):
        assert axes.get_xlabel() == label and axes.get_yscale() == "log"
        lines = [line for line in axes.lines if len(line.get_xdata()) == 4 and line.get_linestyle() != "None"]
        drawn = sorted(tuple(np.asarray(line.get_ydata()).tolist()) for line in lines)
        assert drawn == sorted([(1.0, 2.0, 4.0, 8.0), (2.0, 4.0, 8.0, 16.0)] * 2)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "one: step", "two: step", "one: its products alone", "two: its products alone",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "shape"),
    [
        ("quickstart", "sudoku6x6"),
        ("smoke", "sudoku4x4"),
        ("trm_sudoku_att", "sudoku9x9"),
        ("hrm_sudoku_17clue", "sudoku9x9"),
        ("trm_maze", "maze30x30"),
    ],
)
def test_names_tell_the_shape_of_the_data(preset: str, shape: str) -> None:
    config = compose_preset(preset, {"device": "cpu"})
    found = data_shape(config, preset)
    assert (found.seq_len, found.vocab_size) == (SHAPES[shape].seq_len, SHAPES[shape].vocab_size)
    # Symmetries are drawn where the preset asks for them; stored copies are what the published presets train on.
    assert found.augmentation == (SHAPES[shape].augmentation if config.augment == "on_the_fly" else None)
    assert data_shape(config, preset, "arc").seq_len == 900


def test_a_data_folder_that_exists_tells_its_own_shape(tmp_path: Path) -> None:
    folder = tmp_path / "sudoku-9x9"
    make_folder(folder, puzzles_per_group=[1], examples_per_puzzle=[1], on_the_fly=True, num_identifiers=5)
    config = compose_preset("smoke", {"data_paths": f"[{folder}]", "device": "cpu"})
    shape = data_shape(config, "smoke")
    assert (shape.seq_len, shape.vocab_size, shape.num_puzzle_identifiers) == (16, 6, 5)
    assert shape.augmentation == {"kind": "sudoku", "box": [2, 2]}


def test_a_name_that_tells_nothing_needs_a_shape() -> None:
    config = compose_preset("smoke", {"data_paths": "[data/research]", "device": "cpu"})
    with pytest.raises(UserError, match="--preset mine.*--shape"):
        data_shape(config, "mine")
    assert data_shape(config, "mine", "sudoku9x9").seq_len == 81


def test_a_cpu_takes_eight_rows_unless_told_otherwise() -> None:
    assert compose_preset("trm_sudoku_att", {"device": "cpu"}).global_batch_size == 8
    assert compose_preset("trm_sudoku_att", {"device": "cpu", "global_batch_size": "11"}).global_batch_size == 11
    assert compose_preset("trm_sudoku_att", {"device": "cpu", "accumulation_slices": "3"}).global_batch_size == 6


def test_a_run_leaves_neither_files_nor_threads(tmp_path: Path) -> None:
    config = compose_preset("smoke", {"device": "cpu", "threads": "2"})
    with synthetic_run(config, data_shape(config, "smoke")) as run:
        folder = run.folder.path.parent
        assert torch.get_num_threads() == 2 and folder.is_dir()
    assert torch.get_num_threads() == 1 and not folder.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("gpu", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA RTX A6000", 155e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA L40", None),
        (None, None),
    ],
)
def test_only_known_devices_have_a_peak(gpu: str | None, rate: float | None) -> None:
    assert peak_flops(gpu, torch.bfloat16) == rate
    assert peak_flops(gpu, torch.float32) is None


def test_synchronisations_are_the_warnings_of_torchs_debug_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[object] = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def step() -> None:
        assert modes == ["warn"]
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation (function warn_on_sync)", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    assert count_synchronizations(step) == 3
    assert modes == ["warn", 0]

    def failing() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        count_synchronizations(failing)
    assert modes[-1] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "nonesuch"], "unknown choice experiment=nonesuch: the nearest is"),
        (["--preset", "smoke", "--set", "lr"], "--set lr: expected key=value"),
        (["--preset", "smoke", "--set", "arch.hiden_size=3"], "nearest valid key is 'arch.hidden_size'"),
        (["--preset", "smoke", "--set", "experiment=quickstart"], "name the preset with --preset"),
        (["--preset", "smoke", "--set", "global_batch_size=4", "--batch-size", "2"], "given twice (--batch-size)"),
        (["--preset", "smoke", "--set", "lr=1", "lr=2"], "lr is given twice"),
        (["--preset", "smoke", "--set", "freeze_weights=True"], "freeze_weights=True"),
        (["--preset", "smoke", "--batch-size", "0"], "'global_batch_size': found 0"),
        (["--preset", "smoke", "--set", "accumulation_slices=3", "--batch-size", "4"], "a divisor of"),
        (["--preset", "smoke", "--device", "tpu"], "'device': found 'tpu'"),
        (["--preset", "smoke", "--repeats", "0"], "--repeats 0: expected at least 1"),
        (["--preset", "smoke", "--floor", "nan"], "--floor nan"),
        (["--preset", "smoke", "--preset", "smoke"], "twice"),
        (["--preset", "smoke", "--growth"], "add --output-dir DIR"),
        (["--preset", "smoke", "--output-dir", "x"], "--output-dir belongs to --growth"),
        (["--preset", "smoke", "--growth", "--output-dir", "x", "--floor", "1"], "without --json and --floor"),
        (["--preset", "smoke", "--json", "no/such/folder.json"], "there is no such folder"),
        (["--preset", "smoke", "--set", "augment=on_the_fly", "--shape", "arc"], "names no augmentation"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert words in refused(["--repeats", "1", *arguments] if "--repeats" not in arguments else arguments, capsys)
    assert list(tmp_path.iterdir()) == []
