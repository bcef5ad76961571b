"""Signals: noted, then obeyed at a boundary; a second Ctrl-C aborts."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from training.interrupt import InterruptHandler

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    with InterruptHandler() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), number)
        assert interrupt.requested and interrupt.signal_name == number.name
    assert capfd.readouterr().err.count("finishing this batch, then saving (Ctrl-C again aborts)") == 1
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == before


def test_the_second_ctrl_c_aborts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), InterruptHandler() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second signal did not abort")
    assert signal.getsignal(signal.SIGINT) == before


def test_ctrl_c_after_sigterm_aborts_and_repeated_sigterm_does_not() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), InterruptHandler():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        reached.append(True)
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(False)
    assert reached == [True]


def test_the_launchers_copy_of_one_ctrl_c_is_not_a_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    now, reached = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with pytest.raises(KeyboardInterrupt), InterruptHandler() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        now[0] += 0.2
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(interrupt.requested)
        now[0] += 5
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(False)
    assert reached == [True]


def test_outside_the_main_thread_nothing_is_installed() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with InterruptHandler() as interrupt:
            seen.append((interrupt.requested, signal.getsignal(signal.SIGINT) == before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, True)]


def test_handlers_are_put_back_after_an_exception() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="x"), InterruptHandler():
        raise ValueError("x")
    assert signal.getsignal(signal.SIGTERM) == before


PROGRAM = """
import sys, time
sys.path.insert(0, {root!r})
from training.interrupt import InterruptHandler
with InterruptHandler() as interrupt:
    print("ready", flush=True)
    while not interrupt.requested:
        time.sleep(0.01)
print("saved", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_ends_with_code_zero(number: signal.Signals) -> None:
    command = [sys.executable, "-c", PROGRAM.format(root=str(ROOT))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    output, notice = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "saved\n") and number.name in notice
