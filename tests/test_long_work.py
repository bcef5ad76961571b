"""Progress of long work: a bar on a terminal, a line a minute elsewhere, nothing of short work."""

import io
import sys

import pytest
import tqdm.std

from long_work import progress_bar


class Clock:
    """A clock that goes on by itself while work is done."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tqdm.std, "time", clock)
    return clock


def shown(items: int, seconds: float, clock: Clock, capsys: pytest.CaptureFixture[str], **options: object) -> list[str]:
    for _ in progress_bar(range(items), desc="work", unit="row", **options):
        clock.now += seconds
    captured = capsys.readouterr()
    assert captured.out == "" and "\r" not in captured.err
    return captured.err.splitlines()


def test_a_line_a_minute(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """200 items of 2 seconds: 400 seconds, so six whole minutes are said, each with what is left."""
    lines = shown(200, 2.0, clock, capsys)
    assert len(lines) == 6
    assert [line.split("|")[0] for line in lines] == [f"work:  {percent}%" for percent in (15, 30, 45, 60, 75, 90)]
    assert "60/200 [02:00<04:40" in lines[1] and all(len(line) <= 100 for line in lines)


def test_short_work_is_silent(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(59, 1.0, clock, capsys) == []


def test_other_processes_are_silent(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(200, 2.0, clock, capsys, shown=False) == []


def test_each_item_of_slow_work_is_told(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Items that take longer than a minute: a line for each, however many were quick before."""
    bar = progress_bar(total=103, desc="work")
    for _ in range(100):
        bar.update()
    for _ in range(3):
        clock.now += 300
        bar.update()
    bar.close()
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = progress_bar(range(3), desc="work")
    assert list(bar) == [0, 1, 2] and "\r" in terminal.getvalue() and "work" in terminal.getvalue()
