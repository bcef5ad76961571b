"""Tiny runs, in this process, in a fresh one, or forked from one that has only imported; comparing them."""

import copy
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from training.records.metrics_log import read_metrics
from training.settings.cli import compose_config
from training.settings.identity import config_to_dict
from training.settings.resolving import resolve
from training.settings.schema import TrainConfig
from training.start import train
from training.storage.checkpoint import load_state

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURES = ("trm_att", "trm_mlp", "hrm", "srm")

_ARCH = {
    "trm_att": ["arch=trm", "arch.puzzle_emb_len=2"],
    "trm_mlp": ["arch=trm", "arch.mlp_t=True", "arch.pos_encodings=none", "arch.puzzle_emb_len=2"],
    "hrm": ["arch=hrm", "arch.H_layers=1"],
    "srm": ["arch=srm", "arch.puzzle_emb_len=2"],
}
# Seconds on one core; nothing is switched off that a real run has on.
_TINY = """
arch.H_cycles=2 arch.L_cycles=2 arch.L_layers=1 arch.hidden_size=16 arch.num_heads=2 arch.expansion=2
arch.swiglu_multiple=1 arch.halt_max_steps=4 arch.halt_exploration_prob=0.5
global_batch_size=8 epochs=4 eval_interval=1 lr=1e-3 lr_warmup_steps=4 puzzle_emb_lr=1e-2 weight_decay=0.1
ema=True ema_rate=0.9 device=cpu dtype=float32 threads=1 validation_size=8 fast_validation_size=4
max_test_rows=8 checkpoint_interval=1000 log_interval=1
""".split()


def tiny_overrides(arch: str, data: Path | str | None = None, folder: Path | str | None = None) -> list[str]:
    """Command line of a tiny run of one of `ARCHITECTURES`; later options win over these.

    With 64 train puzzles an epoch has 8 updates and the run 32, evaluated after each epoch.
    """
    overrides = [*_ARCH[arch], *_TINY]
    if data is not None:
        overrides.append(f"data_paths=[{data}]")
    if folder is not None:
        overrides.append(f"checkpoint_path={folder}")
    return overrides


def merged(*parts: Iterable[str]) -> list[str]:
    """Overrides with each key once, the last value winning (Hydra refuses a key given twice)."""
    values: dict[str, str] = {}
    for override in (item for part in parts for item in part):
        key, _, value = override.lstrip("+").partition("=")
        values[key] = value
    return [f"{key}={value}" for key, value in values.items()]


def tiny_config(arch: str, data: Path | str, folder: Path | str, options: Sequence[str] = ()) -> TrainConfig:
    """The resolved config of `tiny_overrides` with further options; Hydra composes once per architecture."""
    raw = copy.deepcopy(_composed(arch))
    parser = OverridesParser.create()
    for override in merged([f"data_paths=[{data}]", f"checkpoint_path={folder}"], options):
        *parents, leaf = override.partition("=")[0].split(".")
        node = raw
        for parent in parents:
            node = node[parent]
        node[leaf] = parser.parse_override(override).value()
    return resolve(raw)


def compose_tiny_configs() -> None:
    """What `tiny_config` needs of Hydra, so that processes forked from this one have it."""
    for arch in ARCHITECTURES:
        _composed(arch)


@functools.lru_cache
def _composed(arch: str) -> dict[str, Any]:
    raw = config_to_dict(compose_config(tiny_overrides(arch), require_data=False))
    return raw | {"run_name": None, "project_name": None, "checkpoint_path": None}


def train_here(arch: str, data: Path | str, folder: Path | str, options: Sequence[str] = ()) -> str:
    """Train in this process; returns `done` or `stopped`."""
    return train(tiny_config(arch, data, folder, options))


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith("RRS_TEST_")}
    return own | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | dict(extra or {})


def start_pretrain(args: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """`python pretrain.py ARGS` as a fresh process with captured output (about 4 s until it trains)."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "pretrain.py"), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(env),
    )


def run_pretrain(
    args: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """`python pretrain.py ARGS` as a fresh process, to its end."""
    process = start_pretrain(args, env)
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@dataclass
class ForkedPretrain:
    """A `pretrain.py` process started by a `PretrainServer`."""

    pid: int
    server: "PretrainServer"
    stdout_path: Path
    stderr_path: Path

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Exit code; negative = the signal that ended it."""
        return int(self.server.request({"wait": self.pid})["code"])

    @property
    def stdout(self) -> str:
        return self.stdout_path.read_text()

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text()


class PretrainServer:
    """Forks `pretrain.py` processes from one that has imported everything, read the settings and computed nothing.

    Each is a process of its own from its first tensor on, started in hundredths of a second.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers", "serve"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(None),
        )

    def request(self, message: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert isinstance(answer, dict)
        return answer

    def start(self, args: Sequence[str], output: Path, env: Mapping[str, str] | None = None) -> ForkedPretrain:
        """Start `pretrain.py ARGS`; its output goes to `output`.out and `output`.err."""
        paths = [output.with_name(output.name + suffix) for suffix in (".out", ".err")]
        message = {"args": list(args), "env": dict(env or {}), "outputs": [str(path) for path in paths]}
        return ForkedPretrain(int(self.request(message)["pid"]), self, *paths)

    def run(
        self, args: Sequence[str], output: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Start, wait, collect."""
        process = self.start(args, output, env)
        code = process.wait()
        return subprocess.CompletedProcess(list(args), code, process.stdout, process.stderr)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


def serve() -> None:
    """The server's side: one JSON request per line on stdin, one JSON answer per line on stdout."""
    import scipy.stats  # noqa: F401 - what a run imports late, imported once here
    import torch._dynamo  # noqa: F401 - by the first optimizer step

    compose_config(tiny_overrides("trm_att"), require_data=False)  # what the schema is made into, once for all
    for line in sys.stdin:
        message = json.loads(line)
        if "wait" in message:
            _, status = os.waitpid(message["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        else:
            answer = {"pid": _fork(message)}
        print(json.dumps(answer), flush=True)


def _fork(message: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    from pretrain import pretrain
    from training.settings.cli import hydra_entry

    code = 1
    try:
        for descriptor, path in zip((1, 2), message["outputs"], strict=True):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(message["env"])
        if "RRS_TEST_START_STOPPED" in message["env"]:
            # Until a SIGCONT, so that limits can be set from outside.
            os.kill(os.getpid(), signal.SIGSTOP)
        sys.argv = [str(ROOT / "pretrain.py"), *message["args"]]
        hydra_entry("cfg_pretrain", pretrain)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait_until(condition: Any, seconds: float = 60) -> None:
    """Poll `condition()` until it is true. Errors: `AssertionError` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def differences(first: Any, second: Any, name: str = "state", ignore: Sequence[str] = ()) -> list[str]:
    """Paths at which two nested containers differ; tensors by `torch.equal`, dtype and shape included."""
    if name.rsplit(".", 1)[-1] in ignore:
        return []
    if isinstance(first, torch.Tensor) or isinstance(second, torch.Tensor):
        both = isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)
        same = both and first.dtype == second.dtype and torch.equal(first, second)
        return [] if same else [name]
    if type(first) is not type(second):
        return [f"{name}: {first!r} != {second!r}"]
    if isinstance(first, dict):
        found = [f"{name}.{key}: only in one" for key in first.keys() ^ second.keys()]
        for key in first.keys() & second.keys():
            found += differences(first[key], second[key], f"{name}.{key}", ignore)
        return sorted(found)
    if isinstance(first, list | tuple):
        if len(first) != len(second):
            return [f"{name}: lengths {len(first)} != {len(second)}"]
        pairs = enumerate(zip(first, second, strict=True))
        return [path for i, (a, b) in pairs for path in differences(a, b, f"{name}.{i}", ignore)]
    same = first == second or (first != first and second != second)
    return [] if same else [f"{name}: {first!r} != {second!r}"]


def read_state(folder: Path) -> dict[str, Any]:
    """The newest full state of a run folder."""
    return load_state(folder / "latest_state.pt")


def assert_same_state(first: Path, second: Path, ignore: Sequence[str] = ("train_seconds",)) -> None:
    """The newest states of two run folders are equal, every tensor bit for bit."""
    assert differences(read_state(first), read_state(second), ignore=ignore) == []


def logged(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without `train/seconds`, the one value in which equal runs differ."""
    lines = read_metrics(folder / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key != "train/seconds"} for line in lines]


def logged_training(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that updates wrote, as `logged` gives them."""
    return [line for line in logged(folder) if "train/grad_norm" in line]


def newest_report(run: Path, name: str | None = None) -> dict[str, Any]:
    """What evaluate.py wrote last beside the weights of a run, which must be called evaluation_NAME.json."""
    path = max(run.glob("evaluation_*.json"), key=lambda path: path.stat().st_mtime_ns)
    assert name is None or path.name == f"evaluation_{name}.json"
    report = json.loads(path.read_text())
    assert isinstance(report, dict)
    return report


def temporaries(folder: Path) -> list[Path]:
    """Temporary files that are left in a folder."""
    return sorted(path for path in folder.rglob(".*") if path.name.endswith(".tmp"))


if __name__ == "__main__" and sys.argv[1:] == ["serve"]:
    serve()


def changed_flags(flags: Sequence[str], changes: Sequence[str]) -> list[str]:
    """Flags of one value each, with changes in place of what they change: of a value given twice that is said."""
    kept = list(flags)
    for flag in changes:
        if flag.startswith("--") and flag in kept:
            place = kept.index(flag)
            del kept[place : place + 2]
    return [*kept, *changes]


def refused_line(
    capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], object], words: Iterable[object]
) -> str:
    """The one line with which a script refuses its arguments, exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        main([str(word) for word in words])
    assert leaving.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]
