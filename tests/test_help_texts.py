"""Kept help: given again only where it is still what would be made, whatever happened to its file or its origin."""

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

import help_texts

TEXT = "usage: a.py\n\n  --σ  noise\n"


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite of one script and one package, of which --help was asked."""
    (tmp_path / "config" / "arch").mkdir(parents=True)
    (tmp_path / "inside").mkdir()
    for name in ("a.py", "inside/__init__.py", "inside/b.py", "config/c.yaml"):
        (tmp_path / name).write_text("1\n")
    main = ModuleType("__main__")
    main.__file__ = str(tmp_path / "a.py")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(help_texts, "ROOT", tmp_path)
    monkeypatch.setattr(help_texts, "_asked", None)
    monkeypatch.setattr(sys, "argv", ["a.py", "--help"])
    monkeypatch.setattr(sys, "pycache_prefix", None)
    return tmp_path


def given(capsys: pytest.CaptureFixture[str]) -> str | None:
    """What is printed at once; None where it must be made."""
    try:
        help_texts.answer_help()
    except SystemExit as leaving:
        assert leaving.code == 0
        return capsys.readouterr().out
    return None


def kept_file(suite: Path) -> Path:
    (file,) = (suite / "__pycache__").iterdir()
    return file


def test_a_text_is_given_again(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert given(capsys) is None
    help_texts.keep_help(TEXT)
    assert given(capsys) == given(capsys) == TEXT and kept_file(suite).suffix == ".help"


@pytest.mark.parametrize(
    "name", ["a.py", "inside/b.py", "config/c.yaml", "new.py", "inside/new.py", "config/arch/new.yaml"]
)
def test_another_origin_makes_it_anew(name: str, suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given(capsys)
    help_texts.keep_help(TEXT)
    file = suite / name
    before = file.read_text() if file.exists() else None
    file.write_text("2\n")
    assert given(capsys) is None
    file.unlink() if before is None else file.write_text(before)
    assert given(capsys) == TEXT


def test_another_width_makes_it_anew(
    suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    given(capsys)
    help_texts.keep_help(TEXT)
    monkeypatch.setenv("COLUMNS", "81")
    assert given(capsys) is None


def test_a_change_while_it_is_made_keeps_nothing(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given(capsys)
    (suite / "inside" / "b.py").write_text("2\n")
    help_texts.keep_help(TEXT)
    assert not (suite / "__pycache__").exists()


def test_no_damage_is_ever_printed(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given(capsys)
    help_texts.keep_help(TEXT)
    whole = kept_file(suite).read_bytes()
    for place in range(len(whole)):
        kept_file(suite).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert given(capsys) is None
        kept_file(suite).write_bytes(whole[:place])
        assert given(capsys) is None


@pytest.mark.parametrize("in_the_way", ["file", "pipe", "link"])
def test_what_cannot_be_kept_is_no_fault(in_the_way: str, suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = suite / "__pycache__"
    if in_the_way == "file":
        place.write_text("")
    else:
        given(capsys)
        help_texts.keep_help(TEXT)
        file = kept_file(suite)
        file.unlink()
        if in_the_way == "pipe":
            os.mkfifo(file)
        else:
            file.symlink_to(suite / "nowhere")
    assert given(capsys) is None
    help_texts.keep_help(TEXT)
    assert not (suite / "nowhere").exists()
    assert given(capsys) == (None if in_the_way == "file" else TEXT)


def test_only_the_started_script_is_answered(
    suite: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A program of others that imports a script has a --help of its own."""
    given(capsys)
    help_texts.keep_help(TEXT)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tmp_path_factory.mktemp("other") / "a.py"))
    assert given(capsys) is None
