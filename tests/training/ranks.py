"""Several ranks for a test: processes forked from one that has only imported, joined over gloo, one thread each.

A job is a function of `tests.training.rank_jobs` called as `job(world, **arguments)`; what it returns (tensors and
plain containers) comes back to the test, as does what it raises.
"""

import datetime
import io
import multiprocessing
import os
import socket
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from training.distributed import World

_JOBS = "tests.training.rank_jobs"


@dataclass
class Outcome:
    """How a job ended on one rank: a value, or the name and text of what it raised."""

    value: Any = None
    error: str | None = None
    message: str = ""
    trace: str = ""


@dataclass
class Rank:
    """A process at work."""

    process: Any
    answers: Connection

    def outcome(self, seconds: float = 120) -> Outcome:
        """Wait for the end of the job. Errors: `AssertionError` when it takes longer or the process dies."""
        assert self.answers.poll(seconds), f"no answer within {seconds} s"
        try:
            data = self.answers.recv_bytes()
        except EOFError:
            raise AssertionError(f"the process died with code {self.process.exitcode}") from None
        return Outcome(**torch.load(io.BytesIO(data), weights_only=True))


@contextmanager
def started_ranks(job: str, size: int = 2, timeout: float = 60, **arguments: Any) -> Iterator[list[Rank]]:
    """Run a job on `size` ranks whose collectives wait `timeout` seconds; what still runs at exit is killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_JOBS])
    with tempfile.TemporaryDirectory() as meeting:
        ranks = []
        for rank in range(size):
            receiving, sending = context.Pipe(duplex=False)
            given = (job, arguments, rank, size, timeout, str(Path(meeting) / "store"), sending)
            process = context.Process(target=_work, args=given, daemon=True)
            process.start()
            sending.close()
            ranks.append(Rank(process, receiving))
        try:
            yield ranks
        finally:
            for rank in ranks:
                rank.process.join(timeout=0.5)
                rank.process.kill()
                rank.process.join()


def run_ranks(job: str, size: int = 2, **arguments: Any) -> list[Any]:
    """The values a job returns, by rank. Errors: `AssertionError` with the traceback of a job that fails."""
    with started_ranks(job, size, **arguments) as ranks:
        outcomes = [rank.outcome() for rank in ranks]
    failed = [f"rank {rank}: {outcome.trace}" for rank, outcome in enumerate(outcomes) if outcome.error]
    assert not failed, "\n".join(failed)
    return [outcome.value for outcome in outcomes]


def _work(
    job: str, arguments: dict[str, Any], rank: int, size: int, timeout: float, store: str, answers: Connection
) -> None:
    from tests.training import rank_jobs

    torch.set_num_threads(1)
    try:
        # A file, not a port: nothing else on the machine can take it.
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=size,
            timeout=datetime.timedelta(seconds=timeout),
        )
        outcome = Outcome(getattr(rank_jobs, job)(World(rank, size, rank), **arguments))
    except BaseException as error:  # whatever it is, the test is to see it
        code = f"{error.code}" if isinstance(error, SystemExit) else str(error)
        outcome = Outcome(error=type(error).__name__, message=code, trace=traceback.format_exc())
    stream = io.BytesIO()
    torch.save(vars(outcome), stream)
    answers.send_bytes(stream.getvalue())
    # No tidy end: the other rank may be gone, and then the group's end would wait for it.
    os._exit(0)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def rank_environments(size: int = 2) -> list[dict[str, str]]:
    """What a launcher puts into the environment of each rank."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
