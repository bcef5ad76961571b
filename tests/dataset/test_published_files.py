"""Where files of puzzles are looked for, and what is said when they cannot be had."""

from pathlib import Path

import pytest

import dataset.published_files as sources
from errors import UserError
from tests.dataset.sudoku_reference import RAW_LIST


def test_inputs_resolve_below_the_root_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sources.resolve_input("dataset/raw/royle_17clue.txt.gz") == RAW_LIST
    (tmp_path / "mine.txt").write_text("")
    assert sources.resolve_input("mine.txt") == Path("mine.txt")
    with pytest.raises(UserError, match="no such file"):
        sources.resolve_input("absent.txt")


def test_unreachable_repository_names_the_files_to_place(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def unreachable(*args: object, **kwargs: object) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(hub, "hf_hub_download", unreachable)
    with pytest.raises(UserError, match=r"train\.csv and test\.csv .* by hand .*--input-dir"):
        sources.fetch_published("someone/something", "--generate 6x6")
