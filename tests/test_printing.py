"""What was written by others reaches the terminal as text that moves nothing: no cursor, no colour, no extra line."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from errors import MAX_MESSAGE, UserError, exit_on_user_error, printable, say
from tests.helpers import ROOT, tiny_config, train_here
from training.evaluation.summary_table import aligned
from training.settings.identity import config_to_dict
from training.settings.resolving import resolve
from training.storage.checkpoint import load_state, save_state

# Clears the screen, sets the window's title, reverses the text, forges a line, is no character at all.
HOSTILE = "a\x1b[2J\x1b]0;title\x07\u202egnp.exe\rerror: \nerror: forged\x00\udcff\u2028b"


def assert_harmless(text: str) -> None:
    assert text.isprintable() and "\\x1b" in text and "\\u202e" in text and "\\udcff" in text


def test_lines_are_printed_as_they_read(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE, "plain ä 日 ✓")
    first, second = capsys.readouterr().out.splitlines()
    assert_harmless(first)
    assert second == "plain ä 日 ✓"
    say(HOSTILE, file=sys.stderr)
    (line,) = capsys.readouterr().err.splitlines()
    assert_harmless(line)


def test_cells_of_tables_are_of_one_width() -> None:
    first, second = aligned([[HOSTILE, "1"], ["b", "22"]], left=1)
    assert_harmless(first)
    assert len(first) == len(second) == len(printable(HOSTILE)) + 4


def test_an_error_is_one_line_of_bounded_length() -> None:
    assert "\\x1b" in str(UserError(HOSTILE)) and str(UserError(HOSTILE)).isprintable()
    assert len(str(UserError(HOSTILE * 10_000))) <= MAX_MESSAGE


def test_a_terminal_without_the_character_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", errors="strict"))

    @exit_on_user_error
    def main() -> None:
        say("ε ✓")
        sys.stdout.flush()

    main()
    assert raw.getvalue() == b"\\u03b5 \\u2713\n"


def test_words_of_a_state(sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`threads` and `torch` are compared and shown when a run goes on."""
    run = tmp_path / "run"
    train_here("trm_mlp", sudoku6_folder, run, ["max_steps=2"])
    state = load_state(run / "latest_state.pt") | {"threads": HOSTILE, "torch": HOSTILE}
    save_state(run / "latest_state.pt", state)
    capsys.readouterr()
    train_here("trm_mlp", sudoku6_folder, run, ["max_steps=4"])
    (line,) = [line for line in capsys.readouterr().err.split("\n") if "since the state was saved" in line]
    assert_harmless(line)
    assert line.count("\\x1b[2J") == 2


def test_names_of_folders(sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / HOSTILE.replace("\0", "").replace("\n", "").replace("/", "")
    run.mkdir()
    train_here("trm_mlp", sudoku6_folder, tmp_path / "run", ["max_steps=2"])
    for file in (tmp_path / "run").iterdir():
        if file.is_file():
            os.link(file, run / file.name)
    script = ROOT / "analysis" / "arms" / "training_curve.py"
    words = [sys.executable, str(script), str(run)]
    made = subprocess.run(words, capture_output=True)
    printed = (made.stdout + made.stderr).decode()
    assert "\\x1b[2J" in printed and all(line.isprintable() for line in printed.split("\n"))
    assert made.returncode == 0 and len(list((run / "figures").glob("training_curve.*"))) == 6


def test_names_that_settings_cannot_hold_are_refused(tmp_path: Path) -> None:
    """A yaml file has no way to write them, so the folder could never be evaluated."""
    config = config_to_dict(tiny_config("trm_mlp", tmp_path, tmp_path)) | {"checkpoint_path": "n\udcff"}
    with pytest.raises(UserError, match=r"'checkpoint_path'.*\\udcff.*UTF-8"):
        resolve(config, require_data=False)
