"""Saved figures: the same bytes for the same picture, no dates, numbers beside them."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from analysis.figures.figure_files import make_folder, save_caption, save_csv, save_figure, save_json
from errors import UserError


def saved(stem: Path) -> dict[str, bytes]:
    figure, axes = plt.subplots(figsize=(2, 2))
    axes.plot([0, 1], [0, 1], label="text")
    axes.legend()
    paths = save_figure(figure, stem)
    plt.close(figure)
    return {path.suffix: path.read_bytes() for path in paths}


def test_equal_pictures_are_equal_files(tmp_path: Path) -> None:
    first, second = saved(tmp_path / "a"), saved(tmp_path / "b")
    assert first == second and first.keys() == {".png", ".pdf", ".svg"}
    assert first[".png"].startswith(b"\x89PNG") and first[".pdf"].startswith(b"%PDF") and b"<svg" in first[".svg"]
    for data in first.values():
        for word in (b"CreationDate", b"dc:date", b"Software", b"matplotlib.org"):
            assert word not in data


def test_tables_and_words(tmp_path: Path) -> None:
    rows = [{"step": 1, "a": 0.5}, {"step": 2, "b": None}]
    assert save_csv(rows, tmp_path / "t.csv").read_text() == "step,a,b\n1,0.5,\n2,,\n"
    assert json.loads(save_json({"x": [1, None]}, tmp_path / "t.json").read_text()) == {"x": [1, None]}
    assert save_caption(" words\n\n", tmp_path / "t.txt").read_text() == "words\n"
    nonfinite = {"x": [float("nan"), float("inf"), np.float32("-inf"), torch.tensor(float("nan"))]}
    assert json.loads(save_json(nonfinite, tmp_path / "t.json").read_text()) == {"x": [None] * 4}


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        make_folder(tmp_path / "figures")
    with pytest.raises(UserError, match="cannot be written"):
        save_caption("words", tmp_path / "nowhere" / "t.txt")
