"""The record of what a script wrote names nothing outside its folder."""

import hashlib
import json
from pathlib import Path

import pytest

from analysis.figures.kept_edits import RECORD, place


@pytest.mark.parametrize("how", ["absolute", "above", "link"])
def test_nothing_outside_the_folder_is_removed(how: str, tmp_path: Path) -> None:
    victim, folder, staged = tmp_path / "elsewhere" / "mine.txt", tmp_path / "out", tmp_path / "staged"
    for made in (victim.parent, folder, staged):
        made.mkdir()
    victim.write_text("mine")
    (staged / "letter.md").write_text("Dear reader")
    (folder / "figures").symlink_to(victim.parent)
    name = {"absolute": str(victim), "above": "../elsewhere/mine.txt", "link": "figures/mine.txt"}[how]
    (folder / RECORD).write_text(json.dumps({name: hashlib.sha256(b"mine").hexdigest()}))
    place(staged, folder)
    assert victim.read_text() == "mine" and (folder / "letter.md").read_text() == "Dear reader"
