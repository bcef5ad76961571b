"""Whole Collatz runs through the one loop: the folder, the log, resuming after any kill, the report of the end."""

import json
import math
import os
import random
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

import collatz as script
from projects.collatz import evaluation_report as collatz_report
from projects.collatz.build_eval import main as build_eval
from projects.collatz.closed_forms import CLOSED_FORMS
from projects.collatz.evaluation import judge_orbits
from projects.collatz.judge import NetworkJudge
from projects.collatz.log_lines import log_lines
from projects.collatz.setup import build_value
from projects.collatz.syracuse import TEST_STARTS, orbit
from projects.collatz.train_flags import to_config
from tests.helpers import (
    ROOT,
    assert_same_state,
    differences,
    logged,
    logged_training,
    read_state,
    temporaries,
    wait_until,
)
from training.records.metrics_log import read_metrics
from training.settings.identity import config_to_dict
from training.settings.resolving import load_config_file, resolve
from training.storage.checkpoint import load_newest, load_state
from training.storage.weights import load_weights

SLEEP = "RRS_TEST_SLEEP_IN_SAVE"
TINY = """--layers 16,8 --lookahead 4 --batch-size 32 --epochs 24 --eval-interval 12 --quick-eval-interval 6
    --log-interval 1 --checkpoint-interval 2 --test-starts 2 --validation-starts 1 --device cpu --threads 1""".split()
MINING = [*TINY, *"--curriculum --ramp-len 490 --start-seeds 0 --mine-negatives --mine-interval 5 --use-t4".split()]
ORBIT = ["--preset", "orbit", *TINY, "--batch-size", "4", "--segment-steps", "8"]
KINDS = {"faithful": MINING, "orbit": ORBIT}
KILLS = 7


@pytest.fixture(autouse=True)
def small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report of the end, on fewer numbers."""
    monkeypatch.setattr(collatz_report, "NUMBERS_OF_A_SIZE", 40)


@pytest.fixture(scope="module")
def eval_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("collatz") / "eval.csv"
    build_eval(["--rows", "300", "--seed", "3", "--output-csv", str(path)])
    return path


def run(folder: Path, *words: object) -> None:
    script.main([*map(str, words), "--output-dir", str(folder)])


def start(folder: Path, words: list[str], log: Path, sleep: str) -> int:
    """The command in a process of its own, forked from this one; its id."""
    child = os.fork()
    if child == 0:
        code = 99
        with log.open("w") as file:
            sys.stdout = sys.stderr = file
            try:
                os.environ[SLEEP] = sleep
                run(folder, *words)
                code = 0
            except SystemExit as leaving:
                code = leaving.code if isinstance(leaving.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                file.flush()
                os._exit(code)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def read(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text())
    assert isinstance(value, dict)
    return value


@pytest.fixture(scope="module", params=KINDS)
def whole(request: pytest.FixtureRequest, eval_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """(kind, folder) of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp(request.param) / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collatz_report, "NUMBERS_OF_A_SIZE", 40)
        run(folder, *KINDS[request.param], "--eval-csv", eval_csv)
    yield request.param, folder


def test_the_run_folder_is_that_of_every_run(whole: Any, eval_csv: Path) -> None:
    kind, folder = whole
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "all_config.yaml", "best.pt", "final.pt", "latest_state.pt", "previous_state.pt", "best_state.pt",
        "final_state.pt", "metrics.jsonl", "status.json", "provenance.json", "summary.json", "evaluation.json", "best",
    }  # fmt: skip
    status, summary = read(folder / "status.json"), read(folder / "summary.json")
    assert status["state"] == "done" and status["global_step"] == status["total_steps"] == 24
    assert status["best"]["metric"] == summary["best"]["metric"] == "eval/validation/pass"
    assert summary["steps"] == summary["planned_steps"] == 24
    config = load_config_file(folder / "all_config.yaml")
    assert config.collatz.preset == kind and config.collatz.lookahead == 4 and config.collatz.layers == [16, 8]
    text = (folder / "all_config.yaml").read_text()
    assert not re.search("^(arch|objective|eval|data_paths|puzzle_emb_lr):", text, re.M), "not read, not listed"
    provenance = read(folder / "provenance.json")
    assert provenance["datasets"]["data"].startswith("collatz") and provenance["seeds"] == {"seed": 0}
    assert provenance["datasets"]["eval_csv"] == {"sha256": sha256(eval_csv.read_bytes()).hexdigest(), "rows": 300}
    best = summary["best"]
    assert best["value"] == pytest.approx(best["numerator"] / best["denominator"], rel=1e-12)
    assert summary["test"].keys() == {"final", "best"}
    weights = load_weights(folder / "final.pt")
    network = build_value(config, torch.device("cpu"))
    network.load_state_dict(weights)
    if kind == "orbit":
        assert differences(weights, load_state(folder / "final_state.pt")["ema"], "average") == []


def test_the_log_has_every_update_and_every_evaluation(whole: Any) -> None:
    _, folder = whole
    lines = list(read_metrics(folder / "metrics.jsonl"))
    training = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in training] == list(range(1, 25))
    assert all(0 <= line["train/violations"] <= 1 and math.isfinite(line["train/loss"]) for line in training)
    quick = [line["step"] for line in lines if "eval/quick/pass" in line]
    full = [line["step"] for line in lines if "eval/validation/pass" in line]
    assert quick == [6, 12, 18, 24] and full == [12, 24]
    (last,) = [line for line in lines if "test/final/value" in line]
    assert last["step"] == 24


def test_lines_of_the_log_by_hand() -> None:
    """The source's last evaluation of its best run, and a quick look."""
    rates = {"pass": 0.9791, "weighted_pass": 0.974, "growth_pass": 0.9982, "growth_weighted_pass": 0.9975}
    seeds = {111: (0, None), 27: (0, None), 703: (8, -0.5), 26623: (18, -0.79), 626331: (32, -1.17)}
    record: dict[str, Any] = {"step": 100000, "eval/csv/rows": 50000} | {f"eval/csv/{k}": v for k, v in rates.items()}
    record |= {"eval/validation/count": 1000, "eval/validation/violations": 123, "eval/orbits/violations": 58}
    for begin, (bad, margin) in seeds.items():
        record[f"eval/orbits/{begin}/violations"] = bad
        if margin is not None:
            record[f"eval/orbits/{begin}/worst_margin"] = margin
    assert log_lines(record, 0.015, improved=True) == [
        "update 100000: loss 0.0150; pass 97.91 %, weighted 97.40 %, growth 99.82 %, gr.wtd 99.75 % of 50,000",
        "    rows; on-orbit 123/1000 violated (12.30 %), new best",
        "  hard seeds 58/429 violated (13.5 %), worst margin -1.17: 111 solved; 27 solved; 703 8/62 worst",
        "      -0.50; 26623 18/113 worst -0.79; 626331 32/189 worst -1.17",
    ]
    quick = {"step": 7, "eval/quick/pass": 0.981, "eval/quick/count": 1000, "eval/quick/orbit_27_violations": 3}
    assert log_lines(quick, None, improved=False) == [
        "update 7: 98.1 % of 1000 random numbers pass; seed 27: 3/41 violated"
    ]
    solved = record | {f"eval/orbits/{begin}/violations": 0 for begin in seeds} | {"eval/orbits/violations": 0}
    solved = {key: value for key, value in solved.items() if "worst_margin" not in key}
    assert "(0.0 %), none violated: 111 solved" in "".join(log_lines(solved, 1.0, improved=False))


def test_the_log_prints_the_loss_of_its_last_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where lines of the log and evaluations do not fall together: 24 updates, a line every 5, a look every 6."""
    run(tmp_path / "a", *TINY, "--log-interval", "5")
    printed = capsys.readouterr().out.splitlines()
    every = re.compile(r"update (\d+): loss (\d+\.\d{4});")
    losses = dict(match.groups() for match in map(every.match, printed) if match)
    assert list(losses) == ["6", "12", "18", "24"] and all(float(loss) > 0 for loss in losses.values())
    run(tmp_path / "b", *TINY)
    again = dict(match.groups() for match in map(every.match, capsys.readouterr().out.splitlines()) if match)
    by_step = {line["step"]: line["train/loss"] for line in read_metrics(tmp_path / "b" / "metrics.jsonl")
               if "train/loss" in line}  # fmt: skip
    assert again == {str(step): f"{by_step[step]:.4f}" for step in (6, 12, 18, 24)}
    assert losses["6"] == again["6"] and float(losses["12"]) == pytest.approx((by_step[11] + by_step[12]) / 2, abs=1e-4)


def test_every_written_key_is_defined(whole: Any) -> None:
    """docs/metrics.md, its section on Collatz runs and that on training."""
    _, folder = whole
    text = (ROOT / "docs" / "metrics.md").read_text()
    section = next(chapter for chapter in text.split("\n## ") if chapter.startswith("Collatz runs"))
    defined = set(re.findall(r"`([a-z0-9_/<>]+)`", section)) | set(re.findall(r"^\| `(train/[a-z_]+)`", text, re.M))
    for line in read_metrics(folder / "metrics.jsonl"):
        for key in line.keys() - {"step", "event", "time"}:
            general = re.sub(r"eval/orbits/\d+/", "eval/orbits/<start>/", key)
            general = re.sub(r"test/(final|best)/", "test/<weights>/", general)
            assert general in defined, key


def test_the_log_agrees_with_a_second_count(whole: Any, eval_csv: Path) -> None:
    """Orbits at the last evaluation, counted again from final.pt, in the arithmetic of training."""
    _, folder = whole
    config = load_config_file(folder / "all_config.yaml")
    network = build_value(config, torch.device("cpu"))
    network.load_state_dict(load_weights(folder / "final.pt"))
    judge = NetworkJudge("V", network.eval())
    counted = judge_orbits([judge], TEST_STARTS, 4)["V"]
    last = [line for line in read_metrics(folder / "metrics.jsonl") if "eval/validation/pass" in line][-1]
    for begin in TEST_STARTS:
        assert last[f"eval/orbits/{begin}/violations"] == counted[begin].violations
        assert last.get(f"eval/orbits/{begin}/worst_margin") == judge.worst_margin(begin)
    assert last["eval/orbits/violations"] == sum(count.violations for count in counted.values())
    assert last["eval/csv/rows"] == 300


def test_the_report_has_the_closed_forms_and_says_who_wins(whole: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = whole
    report, summary = read(folder / "evaluation.json"), read(folder / "summary.json")
    names = [form.name for form in CLOSED_FORMS]
    networks = [name for name in report if name in ("V_final", "V_best")]
    assert "V_final" in networks and all(name in report for name in names)
    states = report["samples"]["on_orbit"]["states"]
    for name in [*names, *networks]:
        entry = report[name]
        assert entry["rows"] == 300 and entry["on_orbit"]["steps"] == states
        assert entry["orbits"].keys() == set(map(str, TEST_STARTS)) and entry["orbits"]["27"]["steps"] == 41
        assert sum(count["steps"] for count in entry["fresh"].values()) == 2182
        assert entry["sizes"].keys() == {"16", "32", "64", "128", "256"}
        assert entry["adversarial"]["2^32-1"]["steps"] == 31
        low, high = entry["on_orbit"]["rate_interval"]
        assert low <= entry["on_orbit"]["rate"] <= high
    # m - 1 - L violations at the least on 2^m - 1, for whatever function of the window that grows with ln n.
    for name in ("V_avg", "V_min", "V_max"):
        assert report[name]["adversarial"]["2^64-1"]["violations"] >= 64 - 1 - 4
    assert {"violations", "on_orbit_violations"} == report["V_final"]["float32"].keys()
    test = summary["test"]["final"]
    assert test["numerator"] == states - report["V_final"]["on_orbit"]["violations"]
    text = collatz_report.report_table(report, networks)
    assert "V_final does not beat the closed forms" in text and "in theory: V_avg" in text
    best = min(names, key=lambda name: report[name]["on_orbit"]["violations"])
    better = json.loads(json.dumps(report))
    better["V_final"]["on_orbit"]["violations"] = report[best]["on_orbit"]["violations"] - 1
    assert "V_final beats the closed forms" in collatz_report.verdict(better, "V_final")


def test_many_kills_at_random_moments(whole: Any, eval_csv: Path, tmp_path: Path) -> None:
    """The same command, killed again and again, ends bit for bit as the run that nobody disturbed."""
    kind, undisturbed = whole
    draws = random.Random(11)
    killed, words = tmp_path / "killed", [*KINDS[kind], "--eval-csv", str(eval_csv)]
    steps = []
    for kill in range(KILLS):
        child = start(killed, words, tmp_path / f"{kill}.log", "0.1" if kill % 2 else "0.02")
        goal = (steps[-1] if steps else 0) + draws.randint(1, 4)

        def reached(goal: int = goal) -> bool:
            path = killed / "metrics.jsonl"
            return path.exists() and any(line["step"] >= goal for line in read_metrics(path))

        wait_until(reached)
        time.sleep(draws.uniform(0, 0.15))
        os.kill(child, signal.SIGKILL)
        assert ended(child) == -signal.SIGKILL, (tmp_path / f"{kill}.log").read_text()
        newest = load_newest(killed)
        steps.append(0 if newest is None else int(newest[0]["step"]))
    assert steps == sorted(steps) and len(set(steps)) >= 3 and steps[-1] < 24
    child = start(killed, words, tmp_path / "last.log", "0")
    assert ended(child) == 0, (tmp_path / "last.log").read_text()
    assert "going on from" in (tmp_path / "last.log").read_text()
    assert_same_state(killed, undisturbed)
    for name in ("final.pt", "best.pt"):
        assert differences(load_weights(killed / name), load_weights(undisturbed / name), name) == []
    assert logged_training(killed) == logged_training(undisturbed)
    assert logged(killed) == logged(undisturbed)
    assert read(killed / "evaluation.json") == read(undisturbed / "evaluation.json")
    assert temporaries(killed) == []
    if kind == "faithful":
        state = read_state(killed)
        assert len(state["source"]["mined"]) > 10 and state["source"]["mined_at"] == 20
        assert state["hooks"]["loss_plateau"]["last_epoch"] == 24


def test_a_state_goes_on_in_another_run_of_the_same_settings(tmp_path: Path) -> None:
    """--max-steps, then --resume-state: as if it had not stopped."""
    run(tmp_path / "whole", *MINING)
    run(tmp_path / "part", *MINING, "--max-steps", 11)
    assert read_state(tmp_path / "part")["step"] == 11
    run(tmp_path / "other", *MINING, "--resume-state", tmp_path / "part" / "latest_state.pt")
    assert_same_state(tmp_path / "other", tmp_path / "whole")
    state = tmp_path / "part" / "latest_state.pt"
    run(tmp_path / "third", "--resume-state", state)  # all other flags are those of its run
    assert_same_state(tmp_path / "third", tmp_path / "whole")
    script.main(["--resume-state", str(state)])
    assert_same_state(tmp_path / "part", tmp_path / "whole")


def test_evaluation_leaves_the_weights_alone(tmp_path: Path, eval_csv: Path) -> None:
    """Neither what is evaluated nor how often it is changes the path of the weights."""
    often = [*MINING, "--eval-interval", "2", "--quick-eval-interval", "1", "--eval-csv", str(eval_csv)]
    run(tmp_path / "often", *often)
    run(tmp_path / "rarely", *MINING, "--eval-interval", "24", "--quick-eval-interval", "24")
    first, second = (load_weights(tmp_path / name / "final.pt") for name in ("often", "rarely"))
    assert differences(first, second, "weights") == []


def test_the_rate_is_the_plateau_schedule_or_a_cosine(tmp_path: Path) -> None:
    plain = ["--epochs", "8", "--lr-schedule"]
    run(tmp_path / "cosine", *TINY, *plain, "cosine")
    rates = [line["train/lr"] for line in logged_training(tmp_path / "cosine")]
    assert rates == pytest.approx([1e-3 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(1, 9)])
    run(tmp_path / "constant", *TINY, *plain, "constant")
    assert {line["train/lr"] for line in logged_training(tmp_path / "constant")} == {1e-3}
    assert "loss_plateau" not in read_state(tmp_path / "constant")["hooks"]


def test_the_plateau_schedule_acts_on_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.hooks import loss_plateau

    monkeypatch.setattr(loss_plateau, "PATIENCE", 2)
    run(tmp_path, *TINY)
    lines = logged_training(tmp_path)
    rate, best, bad, expected = 1e-3, math.inf, 0, []
    for line in lines:
        expected.append(rate)
        if line["train/loss"] < best * (1 - 1e-4):
            best, bad = line["train/loss"], 0
        else:
            bad += 1
        if bad > 2:
            rate, bad = rate / 2, 0
    assert [line["train/lr"] for line in lines] == expected and expected[-1] < 1e-3


def test_a_decontaminated_run_trains_on_no_state_of_a_test_orbit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the objective sees, number by number; and the line that says so."""
    from projects.collatz.decrease import HingeDecrease

    tested = {state for begin in TEST_STARTS for state in orbit(begin).states}
    original, seen = HingeDecrease.outputs, [0, 0]

    def look(self: HingeDecrease, model: Any, batch: Any, context: Any) -> Any:
        for logs, kept in zip(batch["logs"].tolist(), batch["kept"].tolist(), strict=True):
            touched = any(log < 30 and round(math.exp(log)) in tested for log in logs)
            assert not (touched and kept and "clean" in str(tmp_path / which))
            seen[0] += touched and kept
        seen[1] += 1
        return original(self, model, batch, context)

    monkeypatch.setattr(HingeDecrease, "outputs", look)
    which = "clean"
    run(tmp_path / which, *TINY, "--decontaminate", "--epochs", "6")
    assert "kept out of training" in capsys.readouterr().out and seen[1] == 6 and seen[0] == 0
    which = "source"
    run(tmp_path / which, *TINY, "--epochs", "6")
    assert "--decontaminate keeps them out" in capsys.readouterr().out and seen[0] > 0


def test_a_finished_run_is_judged_again(
    whole: Any, eval_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--evaluate gives what the end of the run gave, in the schema of the closed forms."""
    _, folder = whole
    out, closed = tmp_path / "out.json", tmp_path / "closed.json"
    script.main(["--evaluate", str(folder / "final.pt"), "--eval-csv", str(eval_csv), "--json", str(out)])
    assert "V_final does not beat the closed forms" in capsys.readouterr().out
    report, end = read(out), read(folder / "evaluation.json")
    assert report["checkpoint"]["function"] == "V_final" and report["checkpoint"]["preset"] == whole[0]
    for name in ("V_final", *(form.name for form in CLOSED_FORMS)):
        assert report[name] == end[name]
    script.main(["--closed-forms", "--lookahead", "4", "--eval-csv", str(eval_csv), "--json", str(closed)])
    plain = read(closed)
    assert plain.keys() <= report.keys()
    for form in CLOSED_FORMS:
        assert plain[form.name].items() <= report[form.name].items()
        assert plain[form.name].keys() < report["V_final"].keys()


def test_settings_survive_their_file(tmp_path: Path) -> None:
    for words in ({}, {"preset": "orbit"}, {"use_t4": True, "layers": [4, 4], "mine_negatives": True}):
        config, _ = to_config({**words, "output_dir": str(tmp_path)})
        assert resolve(config_to_dict(config)) == config
