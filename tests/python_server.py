"""Python processes that begin with what others wrote already imported, for tests that start many.

Starting Python and importing torch takes two seconds of a core each time. A server imports once and forks for each
process; the child is started as `python FILE`, `python -m MODULE` or `python -c CODE` would be, and imports the suite
itself. To a shell script or a launcher the server's `python` stands for the interpreter:

    PYTHON=<server.python> bash scripts/quickstart.sh
"""

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

OTHERS = (
    *("torch", "torch._dynamo", "torch.distributed", "numpy", "yaml", "hydra", "omegaconf", "tqdm", "einops"),
    *("scipy.stats", "scipy.sparse.csgraph", "matplotlib.pyplot", "safetensors.torch"),
)
# The interpreter that is none: gives its words, its place, its variables and its three streams to the server, passes
# signals on, and ends as the child did. Whatever else an interpreter is asked for goes to the real one.
CLIENT = """#!{real} -IS
import json, os, signal, socket, sys
words = sys.argv[1:]
if not words or words[0].startswith("-") and words[0] not in ("-c", "-m"):
    os.execv({real!r}, [{real!r}, *words])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
job = {{"words": words, "cwd": os.getcwd(), "env": dict(os.environ), "python": sys.argv[0]}}
socket.send_fds(server, [b"x"], [0, 1, 2])
server.sendall(json.dumps(job).encode() + b"\\n")
answers = server.makefile()
child = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: os.kill(child, number))
code = int(answers.readline())
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


class PythonServer:
    """A server, and the file that stands for its interpreter; to be used in a `with`."""

    def __init__(self, preloaded: Sequence[str] = OTHERS, **variables: str) -> None:
        """variables: of its environment, besides those of this process."""
        self._folder = tempfile.TemporaryDirectory()  # its name is short, as that of a socket must be
        self.python = Path(self._folder.name, "python")
        self._address = Path(self._folder.name, "socket")
        self._preloaded = preloaded
        self._env = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"} | variables

    def __enter__(self) -> "PythonServer":
        words = [sys.executable, str(Path(__file__)), str(self._address), *self._preloaded]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, env=self._env, text=True)
        assert self._process.stdout is not None and self._process.stdout.readline() == "ready\n"
        self.python.write_text(CLIENT.format(real=sys.executable, address=str(self._address)))
        self.python.chmod(0o755)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.communicate()
        self._folder.cleanup()

    @property
    def process_id(self) -> int:
        return self._process.pid

    def run(self, words: Sequence[str], output: Path, cwd: Path, env: Mapping[str, str]) -> int:
        """Exit code of one process, without the file that stands for the interpreter.

        What it prints goes to `output`, the names of the modules that it has imported to `output`.imported, one a line.
        """
        job = {"words": list(words), "cwd": str(cwd), "env": dict(env), "python": str(self.python)}
        with socket.socket(socket.AF_UNIX) as server, output.open("wb") as out:
            server.connect(str(self._address))
            socket.send_fds(server, [b"x"], [out.fileno()] * 3)
            server.sendall(json.dumps(job | {"imported": f"{output}.imported"}).encode() + b"\n")
            return int(server.makefile().read().split()[1])


def serve(address: str) -> NoReturn:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)
    print("ready", flush=True)
    signal.signal(signal.SIGCHLD, reap)
    while True:
        client, _ = listening.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listening.close()
            answer(client)
        client.close()


def reap(number: int, frame: FrameType | None) -> None:
    """Wait for the forks that have answered, so that the seconds they took are counted."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def answer(client: socket.socket) -> NoReturn:
    """Start what one client asks for, say its process, wait, say its exit code; negative = the signal that ended it."""
    _, streams, _, _ = socket.recv_fds(client, 1, 3)
    job = json.loads(client.makefile().readline())
    child = os.fork()
    if child == 0:
        client.close()
        for place, stream in enumerate(streams):
            os.dup2(stream, place)
            os.close(stream)
        run(job)
    client.sendall(f"{child}\n".encode())
    threading.Thread(target=end_with, args=(client, child), daemon=True).start()
    for stream in streams:
        os.close(stream)
    # The server's own streams would keep open a pipe that a reader waits for.
    for place in (0, 1, 2):
        os.close(place)
    client.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())
    os._exit(0)


def end_with(client: socket.socket, child: int) -> None:
    """A client says nothing more: the end of its words is its own, and no child outlives it."""
    if not client.recv(1):
        os.kill(child, signal.SIGTERM)


def run(job: dict[str, Any]) -> NoReturn:
    """Be the Python that was asked for."""
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    sys.executable, words = job["python"], job["words"]
    sys.orig_argv = [sys.executable, *words]
    sys.pycache_prefix = job["env"].get("PYTHONPYCACHEPREFIX")
    sys.path[:0] = [path for path in job["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
    before, code = set(sys.modules), 1
    try:
        if words[0] in ("-c", "-m"):
            option, name, *rest = words
            sys.path.insert(0, os.getcwd())
            sys.argv = [option, *rest]
            if option == "-c":
                exec(compile(name, "<string>", "exec"), {"__name__": "__main__"})
            else:
                runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
        code = 0
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    threading._shutdown()  # type: ignore[attr-defined]
    sys.stdout.flush()
    sys.stderr.flush()
    if "imported" in job:
        Path(job["imported"]).write_text("\n".join(set(sys.modules) - before))
    os._exit(code)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("modules", nargs="*")
    options = parser.parse_args()
    del sys.path[0]
    for module in options.modules:
        importlib.import_module(module)
    multiprocessing.set_executable(sys.executable)  # its processes inherit more than three streams
    serve(options.address)
