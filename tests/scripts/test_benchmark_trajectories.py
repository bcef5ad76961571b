"""The benchmark of perturbed training: what it runs, counts, and takes for a peak. No test asserts a time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts import benchmark_timing, benchmark_trajectories, trajectory_measures
from scripts.benchmark_measures import training_step
from scripts.benchmark_memory import kept_bytes, peak_over_base
from scripts.benchmark_setup import SHAPES, data_shape, synthetic_run
from scripts.trajectory_measures import (
    Variant,
    full_length_objective,
    measure_variants,
    paired_ratio,
    variants,
)
from tests.helpers import ROOT, train_here
from tests.scripts.test_benchmark import documented
from training.checkpoint import load_weights, save_weights
from training.objectives.choose import build_objective

CPU = torch.device("cpu")
TINY = ["--preset", "smoke", "--repeats", "2", "--device", "cpu", "--batch-size", "3"]
NAMES = ["clean", "single", "parallel_fixed", "serial_act", "act_mask"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Presets name data folders below the present one: here are none."""
    monkeypatch.chdir(tmp_path)


def measured(tmp_path: Path, *options: str) -> dict[str, Any]:
    file = tmp_path / "rollouts.json"
    assert benchmark_trajectories.main([*TINY, *options, "--json", str(file)]) == 0
    record: dict[str, Any] = json.loads(file.read_text())
    return record


def test_a_tiny_preset_runs_to_a_record_whose_keys_are_documented(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    record = measured(tmp_path)
    shown = capfd.readouterr()
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert [line.split()[0] for line in lines[:6]] == ["update", *NAMES]
    assert lines[-1] == "cpu, float32, 1 threads, 3 puzzles, all trajectories take 2 steps"
    assert record.keys() == documented("record of benchmark_trajectories")
    assert record["environment"].keys() == documented("`environment`")
    assert record["run"].keys() <= documented("`results`") and record["run"]["batch_size"] == 3
    assert record["comparisons"].keys() == documented("`comparisons`")
    assert [rollout["name"] for rollout in record["rollouts"]] == NAMES
    for rollout in record["rollouts"]:
        assert rollout.keys() == documented("`rollouts`")
        assert rollout["seconds"].keys() == documented("`seconds`") and rollout["seconds"]["count"] == 2
        assert rollout["over_clean"].keys() == {"median", "q1", "q3"}
        assert rollout["kept_bytes"] == record["rollouts"][0]["kept_bytes"]
    assert record["rollouts"][0]["over_clean"] == {"median": 1.0, "q1": 1.0, "q3": 1.0}
    parallel = record["rollouts"][2]
    assert record["comparisons"]["parallel_over_clean"] == parallel["over_clean"]
    assert record["comparisons"]["peak_parallel_over_clean"] == parallel["peak_over_clean"]
    assert list(tmp_path.iterdir()) == [tmp_path / "rollouts.json"]


def test_passes_are_counted(tmp_path: Path) -> None:
    """B = 3, K = 5, two steps. By `trajectory` the ACT rollouts are made once before without gradients."""
    record = measured(tmp_path, "--num-trajectories", "5")
    assert record["equal_steps"] and record["run"]["halt_max_steps"] == 2
    found = {each["name"]: (each["num_trajectories"], each["trajectories"], each["trained_passes"],
                            each["extra_passes"], each["mean_steps"]) for each in record["rollouts"]}  # fmt: skip
    assert found == {
        "clean": (1, 3, 6, 0, 2),
        "single": (1, 3, 6, 0, 2),
        "parallel_fixed": (5, 15, 30, 0, 2),
        "serial_act": (5, 15, 30, 30, 2),
        "act_mask": (5, 15, 30, 30, 2),
    }
    valid = measured(tmp_path, "--set", "objective.mask_normalize=valid_steps")
    assert [each["extra_passes"] for each in valid["rollouts"]] == [0] * 5
    # With Q-learning one more step is computed for the target of the last one, in each rollout.
    learns = measured(tmp_path, "--set", "arch.no_ACT_continue=False", "objective.mask_normalize=valid_steps")
    assert [each["extra_passes"] for each in learns["rollouts"]] == [3, 3, 12, 12, 12]


@pytest.fixture(scope="module")
def halting_weights(sudoku4_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights with which everybody wants to halt at once."""
    folder = tmp_path_factory.mktemp("halting")
    with synthetic_run(compose(variants(4)[0]), SHAPES["sudoku4x4"]) as run:
        weights = run.model.state_dict()
    weights["q_head.bias"] = torch.full_like(weights["q_head.bias"], 5.0)
    save_weights(folder / "halting.pt", weights)
    return folder / "halting.pt"


def compose(variant: Variant, **overrides: str) -> Any:
    return variant.compose("smoke", {"device": "cpu", "global_batch_size": "3", **overrides})


def test_steps_are_equal_unless_trajectories_may_halt_by_themselves(
    halting_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--init-from", str(halting_weights), "--set", "arch.halt_max_steps=4", "arch.halt_exploration_prob=0"]
    record = measured(tmp_path, *options)
    assert record["equal_steps"] and [each["mean_steps"] for each in record["rollouts"]] == [4.0] * 5
    assert "all trajectories take 4 steps" in capsys.readouterr().out
    own = measured(tmp_path, *options, "--own-halting")
    assert not own["equal_steps"] and [each["mean_steps"] for each in own["rollouts"]] == [4.0, 4.0, 4.0, 1.0, 1.0]
    assert [each["trained_passes"] for each in own["rollouts"]] == [12, 12, 48, 12, 12]
    assert "not the same number of steps" in capsys.readouterr().out


@pytest.mark.parametrize("rollout", ["serial_act", "act_mask"])
def test_full_length_is_the_same_training_where_nobody_would_halt(rollout: str) -> None:
    """Drawn weights do not want to halt: the updates are bit for bit those of training."""
    config = compose(Variant(rollout, "multi_perturbed_ce", rollout, 3))
    states = []
    for factory in (build_objective, full_length_objective):
        with synthetic_run(config, SHAPES["sudoku4x4"], factory) as run:
            step = training_step(run)
            step()
            step()
            states.append({name: value.clone() for name, value in run.model.state_dict().items()})
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], value) for name, value in initial(config).items())


def initial(config: Any) -> dict[str, torch.Tensor]:
    with synthetic_run(config, SHAPES["sudoku4x4"]) as run:
        return {name: value.clone() for name, value in run.model.state_dict().items()}


def test_noise_is_at_full_strength_whatever_the_preset_has(tmp_path: Path) -> None:
    """The registered runs let it grow from 0; a measured update must draw and add it."""
    for preset in ("step9_H_trm_multi4_cpu", "step9_G_trm_baseline_cpu"):
        for variant in variants(4):
            settings = variant.compose(preset, {"device": "cpu"}).objective
            assert (settings.name, settings.rollout) == (variant.objective, variant.rollout)
            assert settings.num_trajectories == variant.num_trajectories
            assert settings.sigma_ramp_steps == settings.clean_warmup_steps == 0
            assert (settings.noise_sampling, settings.sigma_min, settings.sigma_max) == ("loguniform", 3e-5, 3e-3)
    own = {"device": "cpu", "objective.sigma_max": "1e-2"}
    assert variants(4)[2].compose("quickstart", own).objective.sigma_max == 0.01


def test_variants_take_turns_and_ratios_are_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which the update of variant i takes i + 1 ticks, and ten times as many from the second turn on."""
    order: list[str] = []
    clock = {"now": 0.0}

    def seconds_of(action: Any, device: torch.device) -> float:
        before = clock["now"]
        action()
        return clock["now"] - before

    chosen = variants(2)
    configs = [compose(variant) for variant in chosen]
    update = trajectory_measures.training_step

    def training_step_(run: Any) -> Any:
        step = update(run)
        index = [config.objective for config in configs].index(run.config.objective)

        def ticking() -> None:
            step()
            order.append(chosen[index].name)
            clock["now"] += (index + 1) * (10.0 if len(order) > 20 else 1.0)

        return ticking

    monkeypatch.setattr(trajectory_measures, "training_step", training_step_)
    monkeypatch.setattr(trajectory_measures, "seconds_of", seconds_of)
    record = measure_variants(chosen, configs, SHAPES["sudoku4x4"], 3)
    # Two to warm up and one for the memory each, then three turns that begin with another one each time.
    assert order[15:] == [*NAMES, *NAMES[1:], NAMES[0], *NAMES[2:], *NAMES[:2]]
    assert [each["over_clean"]["median"] for each in record["rollouts"]] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert all(each["over_clean"]["q1"] == each["over_clean"]["q3"] for each in record["rollouts"])
    assert record["comparisons"]["serial_over_parallel"]["median"] == pytest.approx(4 / 3)
    assert record["comparisons"]["mask_over_parallel"]["median"] == pytest.approx(5 / 3)


def test_a_paired_ratio_is_the_median_of_ratios() -> None:
    """Not the ratio of medians, which is 2 here."""
    assert paired_ratio([2.0, 40.0, 9.0], [1.0, 10.0, 3.0]) == {"median": 3.0, "q1": 2.5, "q3": 3.5}


# -- memory


def test_a_peak_on_a_cpu_is_that_of_the_tensors_alive_at_once() -> None:
    """4,000 + 2,000 bytes, then 4,000 go and 3,200 come; what was there before is no part of it, nor its release."""
    before = [torch.ones(10_000)]

    def action() -> None:
        a, b = torch.ones(1000), torch.ones(500)
        del a
        c = torch.ones(800)
        before.clear()
        d = torch.ones(200)
        assert b.numel() + c.numel() + d.numel() == 1500

    assert peak_over_base(action, CPU) == 6000
    assert peak_over_base(lambda: None, CPU) == 0
    assert peak_over_base(lambda: None, torch.device("mps")) is None


def test_what_a_backward_pass_holds_is_in_the_peak() -> None:
    """A chain of n exponentials of N floats keeps the n results; the way back adds two gradients at a time at most."""
    x = torch.zeros(1000, requires_grad=True)

    def chain(n: int) -> Any:
        def action() -> None:
            y = x
            for _ in range(n):
                y = y.exp()
            x.grad = torch.autograd.grad(y, x, torch.ones_like(y))[0]

        return action

    peaks = [peak_over_base(chain(n), CPU) for n in (4, 8, 16)]
    assert peaks[1] - peaks[0] == 4 * 4000 and peaks[2] - peaks[1] == 8 * 4000  # type: ignore[operator]
    assert 5 * 4000 <= peaks[0] <= 8 * 4000  # type: ignore[operator]


# The peak as the operating system sees it, in a process that has done nothing else. Not ru_maxrss, in which Linux
# counts what the process was before it became this program: a copy of the tests' own.
CHILD = """
import re, sys
sys.path.insert(0, sys.argv[1])
import torch
from scripts.benchmark_memory import peak_over_base

def largest_resident_bytes():
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", file.read())[1])

torch.set_num_threads(1)
size = 16 << 20  # 64 MiB of floats
x = torch.zeros(1000, requires_grad=True)

def action(size):
    x = torch.ones(size, requires_grad=True)
    y = x.sigmoid().tanh()
    z = torch.ones(2 * size)
    del z
    y.sum().backward()

peak_over_base(lambda: action(1000), torch.device("cpu"))
before = largest_resident_bytes()
counted = peak_over_base(lambda: action(size), torch.device("cpu"))
print(counted, largest_resident_bytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_the_peak_agrees_with_the_operating_systems() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(ROOT)], capture_output=True, text=True, timeout=120, check=True
    )
    counted, resident = map(int, done.stdout.split())
    assert counted >= 5 * (64 << 20)
    assert abs(resident - counted) < 0.05 * counted


def test_the_peak_of_k_trajectories_is_that_of_as_many_puzzles(tmp_path: Path) -> None:
    """Another way to the same number: a clean unroll of 4 B puzzles. One by one they need no more than B."""
    peaks = {each["name"]: each["peak_bytes"] for each in measured(tmp_path)["rollouts"]}
    quadruple = peak_of("clean", global_batch_size="12")
    assert peaks["parallel_fixed"] == pytest.approx(quadruple, rel=0.02)
    assert peaks["act_mask"] == pytest.approx(quadruple, rel=0.02)
    assert peaks["serial_act"] == pytest.approx(peaks["clean"], rel=0.02)
    assert peaks["single"] == pytest.approx(peaks["clean"], rel=0.02)
    assert 2 < peaks["parallel_fixed"] / peaks["clean"] < 4.2


def peak_of(name: str, **overrides: str) -> int:
    variant = next(each for each in variants(4) if each.name == name)
    with synthetic_run(compose(variant, **overrides), SHAPES["sudoku4x4"], full_length_objective) as run:
        step = training_step(run)
        step()
        step()
        peak = peak_over_base(step, CPU)
    assert peak is not None
    return peak


def test_what_is_kept_is_weights_average_and_two_moments() -> None:
    config = compose(variants(4)[0])
    with synthetic_run(config, data_shape(config, "smoke"), build_objective) as run:
        training_step(run)()
        parameters = sum(p.numel() * p.element_size() for p in run.model.parameters())
        buffers = sum(b.numel() * b.element_size() for b in run.model.buffers())
        assert run.ema is not None and run.dense is not None
        counters = kept_bytes(run) - 4 * parameters - buffers
    # AdamW's step counts, a few bytes for each parameter; buffers are shared with the average.
    assert 0 <= counters <= 64 * len(list(run.model.parameters()))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num-trajectories", "1"], "--num-trajectories 1: expected at least 2"),
        (["--set", "objective=baseline_ce"], "--set objective=baseline_ce: all kinds of update are measured"),
        (["--set", "objective.num_trajectories=3"], "leave it out (--num-trajectories K)"),
        (["--set", "objective.sigma_max=1e-6"], "objective.sigma_min"),
        (["--set", "objective.mask_normalise=x"], "nearest valid key is 'objective.mask_normalize'"),
        (["--init-from", "absent.pt"], "--init-from absent.pt: there is no such file"),
        (["--repeats", "0"], "--repeats 0: expected at least 1"),
        (["--json", "no/such/folder.json"], "a folder that exists"),
        (["--preset", "nonesuch"], "unknown choice experiment=nonesuch"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as leaving:
        benchmark_trajectories.main([*TINY, *arguments])
    assert leaving.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_network_are_refused(
    sudoku4_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_here("trm_mlp", sudoku4_folder, tmp_path / "run", ["max_steps=1"])
    assert load_weights(tmp_path / "run" / "final.pt")
    with pytest.raises(SystemExit):
        benchmark_trajectories.main([*TINY, "--init-from", str(tmp_path / "run" / "final.pt")])
    assert "final.pt" in capsys.readouterr().err


def test_a_sample_on_cuda_is_eight_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time is divided by eight and the counted passes by the updates made."""
    monkeypatch.setattr(trajectory_measures, "updates_per_sample", lambda device: 8)
    clock = {"now": 0.0}
    monkeypatch.setattr(benchmark_timing.time, "perf_counter", lambda: clock["now"])
    update = trajectory_measures.training_step

    def training_step_(run: Any) -> Any:
        step = update(run)

        def ticking() -> None:
            clock["now"] += 1.0
            step()

        return ticking

    monkeypatch.setattr(trajectory_measures, "training_step", training_step_)
    chosen = variants(2)
    record = measure_variants(chosen, [compose(variant) for variant in chosen], SHAPES["sudoku4x4"], 1)
    assert [each["seconds"]["median"] for each in record["rollouts"]] == [1.0] * 5
    assert [each["trained_passes"] for each in record["rollouts"]] == [6, 6, 12, 12, 12]
