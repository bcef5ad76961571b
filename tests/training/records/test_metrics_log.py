"""The metrics log under kills, full disks and resumes; the optional wandb sink with a stand-in client."""

import errno
import json
import math
import resource
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from errors import UserError
from tests.helpers import train_here
from training.records import metrics_log
from training.records.metrics_log import MetricsLog, read_metrics
from training.records.wandb_sink import open_wandb, without_secrets


def strict(line: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(line, parse_constant=refuse)


def records(path: Path) -> list[Any]:
    return [strict(line) for line in path.read_text().splitlines()]


def test_lines_are_there_at_once(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m.jsonl")
    for step in (1, 2):
        log.append({"step": step, "train/loss": 0.5})
        assert len(records(tmp_path / "m.jsonl")) == step  # before close
    log.close()
    MetricsLog(tmp_path / "m.jsonl").append({"step": 3})
    assert [record["step"] for record in read_metrics(tmp_path / "m.jsonl")] == [1, 2, 3]


def test_values_of_libraries_and_nonfinite_ones(tmp_path: Path) -> None:
    with closing(MetricsLog(tmp_path / "m.jsonl")) as log:
        log.append(
            {
                "step": 4,
                "a": torch.tensor(0.25),
                "b": np.float32(0.5),
                "c": float("nan"),
                "d": {"e": [1.0, -math.inf]},
                "name": "ü\n|",
                "flag": True,
                "none": None,
                "inf": torch.tensor(math.inf),
            }
        )
    assert records(tmp_path / "m.jsonl") == [
        {
            "step": 4,
            "a": 0.25,
            "b": 0.5,
            "c": None,
            "d": {"e": [1.0, None]},
            "name": "ü\n|",
            "flag": True,
            "none": None,
            "inf": None,
            "nonfinite": ["c", "d.e.1", "inf"],
        }
    ]


def test_floats_come_back_bitwise(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(200).tolist() + [5e-324, 1.7976931348623157e308, -0.0]
    with closing(MetricsLog(tmp_path / "m.jsonl")) as log:
        log.append({"step": 0, "values": values})
    found = records(tmp_path / "m.jsonl")[0]["values"]
    assert [value.hex() for value in found] == [value.hex() for value in values]


@pytest.mark.parametrize("record", [{}, {"step": 1.0}, {"step": True}, {"step": "1"}])
def test_a_record_needs_its_step(tmp_path: Path, record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="integer 'step'"):
        MetricsLog(tmp_path / "m.jsonl").append(record)


def test_truncated_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with closing(MetricsLog(path)) as log:
        for step in (1, 2, 2, 3, 4):
            log.append({"step": step})
        before = path.read_bytes()
        assert log.truncate_to_step(4) == 0 and path.read_bytes() == before
        assert log.truncate_to_step(2) == 2
        log.append({"step": 3, "again": True})
    assert [record["step"] for record in records(path)] == [1, 2, 2, 3]
    assert MetricsLog(tmp_path / "absent").truncate_to_step(5) == 0
    assert sorted(item.name for item in tmp_path.iterdir()) == ["m.jsonl"]


def test_every_torn_last_line_is_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.jsonl"
    first, second = b'{"step": 1, "a": 0.5}\n', b'{"step": 2, "a": 0.25}\n'
    for cut in range(1, len(second)):
        path.write_bytes(first + second[:cut])
        assert [record["step"] for record in read_metrics(path)] == [1]
        assert MetricsLog(path).truncate_to_step(10) == 1
        assert path.read_bytes() == first
    assert capsys.readouterr().err == ""  # a torn last line is the normal trace of a kill


def test_unreadable_lines_are_dropped_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\xfe\n[1]\n' + b"[" * 100_000 + b'\n{"step": "x"}\n{"step": 2}\n')
    assert MetricsLog(path).truncate_to_step(2) == 4
    assert [record["step"] for record in records(path)] == [1, 2]
    assert "4 unreadable lines" in capsys.readouterr().err


def test_failing_rewrite_keeps_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n')

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(metrics_log, "write_atomically", fail)
    with pytest.raises(UserError, match="m.jsonl could not be cut back to step 1: No space"):
        MetricsLog(path).truncate_to_step(1)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_full_disk_holds_the_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real refusal by the kernel, which first writes half of the line."""
    path = tmp_path / "m.jsonl"
    log = MetricsLog(path)
    log.append({"step": 1})
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, hard))
    try:
        log.append({"step": 2})
        log.append({"step": 3})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.stat().st_size == size
    log.append({"step": 4})
    log.close()
    assert [record["step"] for record in records(path)] == [1, 2, 3, 4]
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_an_unwritable_path_never_raises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(MetricsLog(tmp_path / "gone" / "m.jsonl")) as log:
        log.append({"step": 1})
    assert "warning" in capsys.readouterr().err


# --- wandb ---


class FakeRun:
    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, Any], int]] = []
        self.finished = False
        self.broken = False

    def log(self, values: dict[str, Any], step: int) -> None:
        if self.broken:
            raise ConnectionError("the network is gone")
        self.logged.append((values, step))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for the wandb package that records how it is called."""
    seen = SimpleNamespace(run=FakeRun(), init=None, fail=None)

    class Settings(SimpleNamespace):
        model_fields = {"disable_code": None, "disable_git": None, "console": None}

    def init(**options: Any) -> FakeRun:
        if seen.fail is not None:
            raise seen.fail
        seen.init = options
        return seen.run

    module = ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]
    module.Settings = Settings  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return seen


def start(tmp_path: Path, mode: str, **config: Any) -> Any:
    return open_wandb(mode, project="p", entity="e", run_name="r", run_id="0123abcd", folder=tmp_path, config=config)


def test_disabled_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would raise
    assert start(tmp_path, "disabled") is None


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        start(tmp_path, mode)


def test_unknown_mode(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected one of disabled, offline, online"):
        start(tmp_path, "on")


def test_only_the_config_is_sent(tmp_path: Path, client: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RRS_CANARY", "canary-value")
    sink = start(tmp_path, "offline", lr=0.1, arch={"num_tokens": 4, "api_key": "k"}, wandb_api_key="k", password="k")
    assert client.init["config"] == {"lr": 0.1, "arch": {"num_tokens": 4}}
    assert (client.init["project"], client.init["entity"], client.init["name"]) == ("p", "e", "r")
    assert (client.init["id"], client.init["resume"]) == ("0123abcd", "allow")
    assert client.init["mode"] == "offline" and client.init["dir"] == str(tmp_path)
    assert vars(client.init["settings"]) == {"disable_code": True, "disable_git": True, "console": "off"}
    assert "canary" not in repr(client.init)
    with closing(MetricsLog(tmp_path / "m.jsonl", sink)) as log:
        log.append({"step": 3, "loss": float("nan"), "acc": torch.tensor(0.5), "nested": {"x": 1}})
    assert client.run.logged == [({"acc": 0.5}, 3)] and client.run.finished


def test_failures_of_the_client_never_stop_the_run(
    tmp_path: Path, client: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(MetricsLog(tmp_path / "m.jsonl", start(tmp_path, "online"))) as log:
        client.run.broken = True
        for step in (1, 2):
            log.append({"step": step, "a": 1.0})
    assert capsys.readouterr().err.count("wandb failed (ConnectionError") == 1
    assert len(records(tmp_path / "m.jsonl")) == 2
    client.fail = RuntimeError("no login")
    assert start(tmp_path, "online") is None
    assert "wandb did not start (RuntimeError: no login)" in capsys.readouterr().err


def test_a_resumed_run_is_one_run(
    sudoku4_folder: Path, tmp_path: Path, client: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every session of a run folder has the id of the first, another folder one of its own, begun in that second."""
    monkeypatch.setattr("training.records.provenance._now", lambda: "2026-01-01T00:00:00+00:00")
    ids = []
    for folder, last in (("a", 1), ("a", 2), ("b", 1)):
        train_here("trm_mlp", sudoku4_folder, tmp_path / folder, [f"max_steps={last}", "wandb.mode=offline"])
        ids.append(client.init["id"])
    assert ids[0] == ids[1] != ids[2] and all(len(name) == 16 for name in ids)


def test_secret_names() -> None:
    config = {
        "token": 1,
        "max_tokens": 2,
        "auth_token": 3,
        "API_KEY": 4,
        "key": 5,
        "db": {"secret": 6, "x": 7},
    }
    assert without_secrets(config) == {"token": 1, "max_tokens": 2, "key": 5, "db": {"x": 7}}
