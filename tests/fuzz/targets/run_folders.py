"""A run folder in which something else stands under the names that a run writes: links, pipes, devices, folders.

Whatever is written, nothing outside the folder changes, no pipe is waited for, and what was no file stays what it was.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

from errors import UserError
from tests.fuzz.engine import Case
from training.records.metrics_log import MetricsLog
from training.records.status import StatusWriter
from training.storage.atomic_file import link_or_copy, write_bytes_atomically, write_json_atomically
from training.storage.checkpoint import CheckpointWriteError, load_newest, save_latest, save_weights
from training.storage.run_folder import RunFolder, sweep_temporaries

PRECIOUS = b"somebody's only copy\n"
NAMES = (
    ".lock", "latest_state.pt", "previous_state.pt", "best.pt", "final.safetensors", "status.json", "metrics.jsonl",
    "summary.json", ".latest_state.pt.4711.tmp", ".status.json.0123456789abcdef.tmp",
)  # fmt: skip


def _write_all(run: Path) -> None:
    """What a run does in its folder, each refusal as a run takes it."""
    folder = RunFolder(run)
    folder.create()
    with folder.lock(wait_seconds=0):
        sweep_temporaries(run)
        try:
            load_newest(run)
        except UserError:
            pass
        state = {"step": 1, "w": torch.zeros(3)}
        log = MetricsLog(folder.metrics)
        writers: list[Callable[[], object]] = [
            lambda: save_latest(run, state),
            lambda: save_weights(folder.best, {"w": torch.zeros(3)}),
            lambda: save_weights(run / "final.safetensors", {"w": torch.zeros(3)}),
            lambda: write_json_atomically(folder.summary, {"steps": 1}),
            lambda: link_or_copy(folder.latest_state, folder.final_state),
            lambda: write_bytes_atomically(folder.all_config, b"seed: 0\n"),
            lambda: StatusWriter(folder.status).event(state="failed"),
            lambda: log.truncate_to_step(1),
            lambda: log.append({"step": 1}),
            log.close,
        ]
        for write in writers:
            try:
                write()
            except (CheckpointWriteError, OSError, UserError):
                continue


def _kind(path: Path) -> tuple[int, int] | None:
    """Which thing is at a name, where it is no regular file and no link to one or to nothing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return None if stat.S_ISREG(status.st_mode) else (status.st_ino, stat.S_IFMT(status.st_mode))


class RunFolders:
    """Every writer of a run folder, onto names that are taken."""

    name = "run_folders"
    share = 2.0

    def prepare(self) -> None:
        """There are no sound inputs."""

    def case(self, rng: Random, folder: Path) -> Case:
        changes: list[str] = []
        outside, run = folder / "outside", folder / "run"
        outside.mkdir()
        real = run
        if rng.random() < 0.2:  # a folder may be a link: to another disk, say
            real = folder / "elsewhere"
            run.symlink_to(real)
            changes.append("the run folder is a link")
        real.mkdir()
        (outside / "file").write_bytes(PRECIOUS)
        (outside / "folder").mkdir()
        for name in rng.sample(NAMES, rng.randint(1, 4)):
            changes.append(self._take(rng, real / name, outside))
        taken = {name: _kind(real / name) for name in NAMES}

        def judge(_: Any) -> str | None:
            if (outside / "file").read_bytes() != PRECIOUS or list((outside / "folder").iterdir()):
                return "something outside the run folder was written to"
            if sorted(path.name for path in outside.iterdir()) != ["file", "folder"]:
                return "something was made outside the run folder"
            for name, kind in taken.items():
                if kind is not None and _kind(real / name) != kind:
                    return f"{name}, which was no file, was replaced"
            return None

        def read() -> None:
            try:
                _write_all(run)
            finally:
                wrong = judge(None)
                assert wrong is None, wrong

        return Case(changes, read, judge)

    @staticmethod
    def _take(rng: Random, path: Path, outside: Path) -> str:
        kind = rng.choice(["link", "dangling", "hard link", "pipe", "folder", "device", "to folder", "loop", "file"])
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "hard link":
            os.link(outside / "file", path)
        elif kind == "file":
            path.write_bytes(rng.choice([PRECIOUS, b"", b"4711\n", b"\0" * 100]))
        else:
            targets = {"link": outside / "file", "dangling": outside / "new", "to folder": outside / "folder"}
            targets |= {"device": Path(rng.choice(["/dev/zero", "/dev/null"])), "loop": path}
            path.symlink_to(targets[kind])
        return f"{path.name}: {kind}"
