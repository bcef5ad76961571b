"""What a person edits is never overwritten, by single figures as by bundles; one new file stands beside it."""

import hashlib
import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from analysis.figures.figure_files import save_picture
from analysis.figures.kept_edits import RECORD, place, put


def draw(folder: Path, height: float) -> None:
    figure, axes = plt.subplots(figsize=(2, 2))
    axes.plot([0, height])
    save_picture(figure, folder / "curve", caption=f"up to {height}", rows=[{"y": height}], numbers={"y": height})


@pytest.mark.parametrize("kind", ["png", "pdf", "svg", "csv", "json", "txt"])
def test_an_edited_picture_stays(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited, new = tmp_path / f"curve.{kind}", tmp_path / f"curve_new.{kind}"
    draw(tmp_path, 1)
    edited.write_text("mine")
    draw(tmp_path, 1)
    assert f"{edited} was edited and stays; there is nothing new for it" in capsys.readouterr().err
    assert edited.read_text() == "mine" and not new.exists()
    for height in (2, 3):
        draw(tmp_path, height)
        assert f"{edited} was edited and stays; the new one is {new.name}" in capsys.readouterr().err
        assert kind == "json" or json.loads((tmp_path / "curve.json").read_text()) == {"y": height}
    (tmp_path / "afresh").mkdir()
    draw(tmp_path / "afresh", 3)
    assert new.read_bytes() == (tmp_path / "afresh" / edited.name).read_bytes() and edited.read_text() == "mine"
    assert {path.name for path in tmp_path.glob("*_new*")} == {new.name}
    edited.unlink()
    draw(tmp_path, 3)
    assert edited.exists() and not new.exists()
    assert capsys.readouterr().err == f"{new} is removed: {edited.name} is what is new\n"


def test_there_is_one_new_file(tmp_path: Path) -> None:
    """A second one only beside an edited first one; each goes where it says nothing any more."""

    def texts() -> dict[str, str]:
        return {path.name: path.read_text() for path in sorted(tmp_path.glob("*.txt"))}

    path = tmp_path / "a.txt"
    path.write_text("before there was a record")
    put(path, b"1")
    assert texts() == {"a.txt": "before there was a record", "a_new.txt": "1"}
    (tmp_path / "a_new.txt").write_text("mine")
    put(path, b"2")
    put(path, b"3")
    assert texts() == {"a.txt": "before there was a record", "a_new.txt": "mine", "a_new2.txt": "3"}
    (tmp_path / "a_new.txt").unlink()
    put(path, b"4")
    assert texts() == {"a.txt": "before there was a record", "a_new.txt": "4"}
    path.unlink()
    put(path, b"5")
    path.write_text("mine")
    put(path, b"6")
    assert texts() == {"a.txt": "mine", "a_new.txt": "6"}
    put(path, b"5")  # of which the edited one was made
    assert texts() == {"a.txt": "mine"}


def test_a_bundle_leaves_no_stale_letter(tmp_path: Path) -> None:
    staged, out = tmp_path / "staged", tmp_path / "out"
    for folder in (staged, out):
        folder.mkdir()

    def make(text: str) -> dict[str, str]:
        put(staged / "letter.md", text.encode())
        place(staged, out)
        return {path.name: path.read_text() for path in sorted(out.glob("*.md"))}

    make("1")
    (out / "letter.md").write_text("mine")
    make("2")
    (out / "letter_new.md").write_text("mine too")
    assert make("3") == {"letter.md": "mine", "letter_new.md": "mine too", "letter_new2.md": "3"}
    (out / "letter_new.md").unlink()
    assert make("4") == {"letter.md": "mine", "letter_new.md": "4"}
    (out / "letter.md").unlink()
    assert make("5") == {"letter.md": "5"}


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
