"""The launcher of grids: what it refuses, what it runs in which order, and how it goes on."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dataset import build_maze_dataset, build_sudoku_dataset
from errors import UserError
from scripts import run_grid
from scripts.built_data import BUILDERS, built_otherwise
from scripts.grid_file import GRIDS, ROOT, find_grid, read_grid
from scripts.grid_record import Clock, GridRecord, in_words
from tests.dataset.folders import edit_metadata
from tests.helpers import assert_same_state
from tests.python_server import PythonServer
from training.storage.run_folder import RunFolder

CHAIN = """
common:
  worker: -m tests.scripts.grid_worker "{out}/{name}"
runs:
  - name: first_{seed}
    for: {seed: [0, 1]}
    kind: confirmatory
    command: "{worker} 3"
  - name: second_{seed}
    for: {seed: [0, 1]}
    needs: first_{seed}
    command: "{worker} 3"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "grid.yaml"
    path.write_text(text)
    return path


def run(grid: Path, out: Path, *options: str) -> int:
    """The launcher in this process; its refusals as errors, not as exits."""
    return run_grid.main.__wrapped__([str(grid), "--out", str(out), *options])  # type: ignore[attr-defined,no-any-return]


def lines(out: Path, name: str, file: str = "sessions") -> list[Any]:
    return [json.loads(line) for line in (out / name / file).read_text().splitlines()]


def test_placeholders_are_filled_in(tmp_path: Path) -> None:
    text = """
out: some/where
common:
  shared: --data "{data}/{arch}" {flags} "{out}/{name}"
  flags: --quiet --again
runs:
  - name: run_{arch}_{seed}
    for: {arch: [trm, hrm], seed: [0, 1], data: [my puzzles]}
    command: pretrain.py arch={arch} {shared} "{{x}}"
"""
    grid = read_grid(write(tmp_path, text))
    assert [each.name for each in grid.runs] == ["run_trm_0", "run_trm_1", "run_hrm_0", "run_hrm_1"]
    assert grid.runs[1].command == (
        "pretrain.py", "arch=trm", "--data", "my puzzles/trm", "--quiet", "--again", "some/where/run_trm_1", "{x}",
    )  # fmt: skip
    assert grid.runs[1].finished_file == ROOT / "some/where/run_trm_1/summary.json"
    assert {each.form for each in grid.runs} == {"run_{arch}_{seed}"} and grid.runs[0].kind == "exploratory"


MISTAKES = {
    "runs: []": "expected a list of runs",
    "run: []": "unknown key 'run', the nearest valid key is 'runs'",
    "runs: [{name: a}]": "it has no 'command'",
    "runs: [{name: a, command: pretrain.py, need: b}]": "unknown key 'need', the nearest valid key is 'needs'",
    "runs: [{name: a, command: pretrain.py, kind: sure}]": "expected confirmatory or exploratory",
    "runs: [{name: a, command: pretrain.py, needs: b}]": "a needs 'b', which is no run of this grid",
    "runs: [{name: a, command: pretrain.py}, {name: a, command: pretrain.py}]": "the name a is given twice",
    "runs: [{name: a, for: {s: [0, 1]}, command: pretrain.py}]": "put every placeholder of 'for' into the name",
    "runs: [{name: 'a_{seeed}', for: {seed: [0]}, command: pretrain.py}]": "the nearest is {seed}",
    "common: {x: '{y}', y: '{x}'}\nruns: [{name: a, command: 'pretrain.py {x}'}]": "contains itself (x -> y -> x)",
    "runs: [{name: a, command: pretrian.py}]": "expected a script of the suite",
    "runs: [{name: a, command: 'pretrain.py \"x'}]": "cannot be cut into words",
    "runs: [{name: ../a, command: pretrain.py}]": "expected letters, digits and",
    "runs: [{name: logs, command: pretrain.py}]": "other than logs",
    "common: {out: x}\nruns: [{name: a, command: pretrain.py}]": "it already has a meaning",
    "threads: 0\nruns: [{name: a, command: pretrain.py}]": "expected a whole number from 1",
    "runs: [{name: a, needs: b, command: pretrain.py}, {name: b, needs: a, command: pretrain.py}]": "for each other",
    "runs: [{name: a, makes: x, command: pretrain.py}, {name: b, makes: x, command: pretrain.py}]": "the same file as",
    "- a": "expected a mapping of names",
}


@pytest.mark.parametrize(("text", "words"), MISTAKES.items(), ids=range(len(MISTAKES)))
def test_a_mistake_is_one_line_before_anything_starts(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        run(write(tmp_path, text), tmp_path / "out")
    assert words in str(error.value) and "\n" not in str(error.value) and "grid.yaml" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_mistakes_of_the_command(tmp_path: Path) -> None:
    grid = write(tmp_path, CHAIN)
    for options, words in (
        (["--jobs", "0"], "--jobs 0"),
        (["--max-hours", "-1"], "expected hours above 0"),
        (["--only", "thrid_*"], "has no such run"),
        (["--set", "worker"], "--set worker: expected NAME=TEXT"),
        (["--", "--again"], "common has no 'flags' to set"),
    ):
        with pytest.raises(UserError, match=words):
            run(grid, tmp_path / "out", *options)
    with pytest.raises(UserError, match="one of config/grid: .*step9_sigma_sweep"):
        find_grid("no_such_grid")
    with pytest.raises(UserError, match="it has no 'out'"):
        read_grid(grid)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_registered_grids_are_sound(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every flag is known to the script that it is given to."""
    grid = read_grid(path)
    assert run_grid.main([path.stem, "--dry-run"]) == 0
    listed = capsys.readouterr().out
    assert all(each.name in listed for each in grid.runs)
    for each in grid.runs:
        for word in each.command:
            if word.startswith("+experiment="):
                assert (ROOT / "config/experiment" / f"{word.partition('=')[2]}.yaml").is_file()


def test_needs_come_first_and_what_is_finished_is_not_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, out = write(tmp_path, CHAIN), tmp_path / "out"
    assert run(grid, out, "--jobs", "2") == 0
    for seed in (0, 1):
        ended = float((out / f"first_{seed}" / "ends").read_text())
        assert ended <= lines(out, f"second_{seed}")[0]["at"]
    assert "4/4 done" in capsys.readouterr().out
    record = json.loads((out / "grid.json").read_text())
    assert record["runs"]["first_0"]["kind"] == "confirmatory"
    assert [session["outcome"] for session in record["runs"]["first_0"]["sessions"]] == ["finished"]
    assert run(grid, out) == 0
    assert all(len(lines(out, name)) == 1 for name in ("first_0", "first_1", "second_0", "second_1"))


def test_what_was_made_from_an_earlier_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs that started before that from which they start was made again; each once that is mended."""
    chain = CHAIN + '  - {name: "third", needs: [second_0, second_1], command: "{worker} 3"}\n'
    grid, out = write(tmp_path, chain), tmp_path / "out"
    assert run(grid, out, "--jobs", "2") == 0
    record = json.loads((out / "grid.json").read_text())
    for number, entry in enumerate(record["runs"].values()):
        entry["sessions"][-1]["started_utc"] = f"2020-01-01T00:00:0{number}+00:00"
    (out / "grid.json").write_text(json.dumps(record))
    shutil.move(out / "first_0", tmp_path)
    assert "was made again" not in capsys.readouterr().err
    assert run(grid, out) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "was made again" in line]
    assert said == [
        f"warning: {name} was finished before {need} was made again or went on, from which it starts: move "
        f"{out / name} away to run it again"
        for name, need in (("second_0", "first_0"), ("third", "second_0"))
    ]
    for name in ("second_0", "third"):
        shutil.move(out / name, tmp_path)
    assert run(grid, out) == 0
    assert "was made again" not in capsys.readouterr().err


def test_a_run_that_has_gone_on_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a launch and in a plan, with what started from it; a run made from it anew is as it should be."""
    chain = CHAIN + '  - {name: "third", needs: [second_0, second_1], command: "{worker} 3"}\n'
    grid, out = write(tmp_path, chain), tmp_path / "out"
    assert run(grid, out, "--jobs", "2") == 0
    assert run(grid, out) == run(grid, out, "--dry-run") == 0
    assert "warning" not in capsys.readouterr().err
    # What a run by hand, or by --foreground, leaves; "steps" is what a training says of itself.
    (out / "first_0" / "summary.json").write_text('{"steps": 12}')
    gone = f"warning: first_0 is not as the grid finished it (its summary.json is another one): move {out / 'first_0'} "
    older = [f"warning: {name} was finished before {need} was made again or went on, from which it starts"
             for name, need in (("second_0", "first_0"), ("third", "second_0"))]  # fmt: skip
    for options in ([], ["--dry-run"]):
        assert run(grid, out, *options) == 0
        said = capsys.readouterr().err
        assert gone in said and all(line in said for line in older) and said.count("warning: ") == 3
    for name in ("second_0", "third"):
        shutil.move(out / name, tmp_path)
    assert run(grid, out) == 0
    said = capsys.readouterr().err
    assert gone in said and said.count("warning: ") == 1
    record = json.loads((out / "grid.json").read_text())
    record["runs"]["first_0"]["made"]["steps"] = 3
    (out / "grid.json").write_text(json.dumps(record))
    assert run(grid, out) == 0
    assert "first_0 is not as the grid finished it (it had 3 updates, now 12)" in capsys.readouterr().err


def test_without_a_record_the_runs_say_their_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid, out = write(tmp_path, CHAIN), tmp_path / "out"
    assert run(grid, out, "--jobs", "2") == 0
    for each in read_grid(grid, out).runs:
        argv = list(each.command) if each.name != "second_1" else [*each.command, "max_steps=9"]
        sessions = [{"argv": ["of a session before"]}, {"argv": argv}]
        (out / each.name / "provenance.json").write_text(json.dumps({"sessions": sessions}))
    (out / "grid.json").unlink()
    capsys.readouterr()
    assert run(grid, out, "--dry-run") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: second_1 was finished by another command than the grid has now: move ")
    for damaged in ("no JSON", '{"sessions": 3}', '{"sessions": [3]}', '{"sessions": []}'):
        (out / "second_1" / "provenance.json").write_text(damaged)
        assert run(grid, out, "--dry-run") == 0 and capsys.readouterr().err == ""


def test_puzzles_that_were_built_otherwise_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, options = tmp_path / "data", "--generate 4x4 --num-clues 7 --num-train 12"
    text = f"""
runs:
  - {{name: puzzles, makes: {data}/test/dataset.json,
     command: dataset/build_sudoku_dataset.py --output-dir {data} {options} --test-size 6 --num-workers 2}}
"""
    build_sudoku_dataset.main(["--output-dir", str(data), *options.split(), "--test-size", "6"])
    grid, out = write(tmp_path, text), tmp_path / "out"
    assert run(grid, out) == 0 and "warning" not in capsys.readouterr().err
    grid = write(tmp_path, text.replace("--test-size 6", "--test-size 5"))
    assert run(grid, out) == 0
    builder = "python dataset/build_sudoku_dataset.py --generate 4x4 --num-aug 0 --num-clues 7 --num-train 12 --seed 0"
    assert (
        f"warning: {data} was built by: {builder} --test-size 6; that is not what is built here: {builder} "
        "--test-size 5; to have that, move the folder away\n"
    ) in capsys.readouterr().err
    builder = "dataset/build_sudoku_dataset.py"
    assert built_otherwise(data, builder, ["--no-such-option"]) is None, "the builder says so itself"
    edit_metadata(data / "test", build=None)
    assert "does not say how it was built" in str(built_otherwise(data, builder, options.split()))


def test_mazes_that_were_built_otherwise_are_said(tmp_path: Path) -> None:
    words = ["--generate", "4", "--num-train", "3", "--test-size", "2", "--output-dir", str(tmp_path / "data")]
    build_maze_dataset.main(words)
    builder = "dataset/build_maze_dataset.py"
    assert {builder, "dataset/build_sudoku_dataset.py"} <= BUILDERS
    assert built_otherwise(tmp_path / "data", builder, [*words, "--num-workers", "2"]) is None
    said = str(built_otherwise(tmp_path / "data", builder, [*words, "--unique"]))
    assert "that is not what is built here: python dataset/build_maze_dataset.py" in said and "--unique" in said


def test_a_failed_run_takes_only_those_that_need_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = CHAIN.replace("[0, 1]", "[0, broken]").replace('"{worker} 3"', '"{worker} 3 {seed}"', 1)
    grid, out = write(tmp_path, text), tmp_path / "out"
    assert run(grid, out, "--jobs", "1") == 1
    said = capsys.readouterr()
    assert "exit code 7" in said.out and "no such puzzle" in said.out
    assert "failed: first_broken" in said.err and "skipped: second_broken" in said.err
    assert (out / "second_0/summary.json").exists() and not (out / "second_broken").exists()
    (out / "first_broken/mended").touch()
    assert run(grid, out) == 0
    assert len(lines(out, "first_broken")) == 2 and len(lines(out, "first_0")) == 1


def test_only_names_bring_what_they_need(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(write(tmp_path, CHAIN), out, "--only", "second_1") == 0
    assert (out / "first_1/summary.json").exists() and not (out / "first_0").exists()


def test_in_the_foreground(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the names, each after its needs; what is named is started although it is finished."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    grid, out = write(tmp_path, CHAIN), tmp_path / "out"

    def started(*options: str) -> list[str]:
        assert run(grid, out, "--foreground", *options) == 0
        return [line[3:] for line in capfd.readouterr().out.splitlines() if line.startswith("== ")]

    assert started("--only", "second_1", "first_0") == ["first_1", "second_1", "first_0"]
    assert lines(out, "first_0")[0]["threads"] == "3"
    assert sorted(path.name for path in out.iterdir()) == ["first_0", "first_1", "second_1"]
    assert started("--only", "second_1") == ["second_1"]
    assert started() == ["second_0"]


def test_in_the_foreground_the_first_failure_ends_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    grid, out = (
        write(tmp_path, CHAIN.replace("[0, 1]", "[broken, 1]").replace("worker} 3", "worker} 3 {seed}")),
        tmp_path,
    )
    assert run(grid, out, "--foreground") == 7
    assert "no such puzzle" in capfd.readouterr().out and not (out / "first_1").exists()


def test_in_the_foreground_sigterm_is_passed_on(tmp_path: Path) -> None:
    grid, out = write(tmp_path, CHAIN.replace("worker} 3", "worker} 100000")), tmp_path / "out"
    process = start(grid, out, "--foreground")
    wait_for(out / "first_0/place")
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 3 and "stopped (SIGTERM); the same command goes on: python scripts/run_grid.py" in said
    assert (out / "first_0/ends").exists() and not (out / "first_1").exists()


def start(grid: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "scripts/run_grid.py", str(grid), "--out", str(out), *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_it_waits_for_its_runs_and_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    grid, out = write(tmp_path, CHAIN.replace("worker} 3", "worker} 100000")), tmp_path / "out"
    process = start(grid, out, "--jobs", "2")
    wait_for(out / "first_1/place")
    with pytest.raises(UserError, match="another launcher"):
        run(grid, out)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 3 and "the same command goes on: python scripts/run_grid.py" in said
    assert (out / "first_0/ends").exists() and not (out / "first_0/summary.json").exists()
    grid.write_text(CHAIN)
    for name in ("first_0", "first_1"):
        (out / name / "place").write_text("3")
    assert run(grid, out, "--jobs", "1") == 0
    assert [session["from"] for session in lines(out, "first_0")] == [0, 3]
    threads = {line["threads"] for name in ("first_0", "second_1") for line in lines(out, name)}
    assert len(threads) == 1, "the number of threads is kept, whatever --jobs says later"


def test_the_time_is_up(tmp_path: Path) -> None:
    grid, out = write(tmp_path, CHAIN.replace("worker} 3", "worker} 100000")), tmp_path / "out"
    assert run(grid, out, "--max-hours", "0.001") == 3
    assert not (out / "first_0/summary.json").exists() and not (out / "second_0").exists()


def test_time_left_is_the_mean_of_alike_runs(tmp_path: Path) -> None:
    grid = read_grid(write(tmp_path, CHAIN), tmp_path / "out")
    record = GridRecord(tmp_path)
    clock = Clock(record)
    assert clock.seconds_left([], grid.runs, 1) is None
    for name, seconds in (("first_0", 10.0), ("first_1", 20.0)):
        record.begin(grid.by_name[name])
        record.end(grid.by_name[name], seconds, "finished", 0)
    finished = [grid.by_name["first_0"], grid.by_name["first_1"]]
    ahead = [grid.by_name["second_0"], grid.by_name["second_1"]]
    assert clock.seconds_left(finished, ahead, 1) == 30.0 and clock.seconds_left(finished, ahead, 2) == 15.0
    assert [in_words(seconds) for seconds in (45, 185, 7800)] == ["45 s", "3 min 05 s", "2 h 10 min"]


def test_a_damaged_record_is_refused_in_one_line(tmp_path: Path) -> None:
    grid, out = write(tmp_path, CHAIN), tmp_path / "out"
    out.mkdir()
    for text in ("{", '{"threads": 0, "runs": {}}', '{"threads": 1, "runs": {"a": {}}}'):
        (out / "grid.json").write_text(text)
        with pytest.raises(UserError, match="move it away"):
            run(grid, out)


@pytest.mark.slow
def test_trainings_stopped_half_way_end_with_the_same_bits(
    python_server: PythonServer, sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"""
threads: 1
common:
  data: "{sudoku6_folder}"
  tiny: >-
    device=cpu log_interval=5 arch.hidden_size=16 arch.num_heads=2 arch.H_cycles=1 arch.L_cycles=1
    arch.halt_max_steps=4 arch.mlp_t=False arch.pos_encodings=rope global_batch_size=8 validation_size=8
    fast_validation_size=8 checkpoint_interval=20
runs:
  - name: pretrained
    command: >-
      pretrain.py +experiment=quickstart "data_paths=['{{data}}']" "checkpoint_path='{{out}}/{{name}}'" max_steps=30
      {{tiny}}
  - name: perturbed
    needs: pretrained
    command: >-
      step9_trajectory_perturb_train.py --ckpt-root {{out}}/pretrained --ckpt-name final.pt
      --output-dir {{out}}/{{name}}
      --sigma-grid none --train-steps 100 --batch-size 4 --eval-every 50 --eval-n 8 --device cpu --save-train-state
"""
    grid = write(tmp_path, text)
    monkeypatch.setattr(sys, "executable", str(python_server.python))  # of the trainings and of the launcher
    assert run(grid, tmp_path / "whole", "--jobs", "1") == 0
    process = start(grid, tmp_path / "parts", "--jobs", "1")
    wait_for(tmp_path / "parts/perturbed/metrics.jsonl", 120)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 3 and not RunFolder(tmp_path / "parts/perturbed").summary.exists()
    assert run(grid, tmp_path / "parts", "--jobs", "1") == 0
    for name in ("pretrained", "perturbed"):
        ignore = ("train_seconds", "init_from")  # the folders differ
        assert_same_state(tmp_path / "whole" / name, tmp_path / "parts" / name, ignore)
