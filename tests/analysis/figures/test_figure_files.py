"""Saved figures: the same bytes for the same picture, no dates, numbers beside them."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from analysis.figures.figure_files import (
    make_folder,
    save_caption,
    save_csv,
    save_figure,
    save_json,
    share_axis,
)
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


@pytest.mark.parametrize(
    ("values", "whole", "ends"),
    [([0.0, 0.5], False, (0, None)), ([0.5, 1.0], False, (None, 1)), ([0.0, 0.0], False, (0, None)),
     ([0.4, 0.5], True, (0, 1)), ([0.4, 0.5], False, (None, None))],
)  # fmt: skip
def test_shares_end_at_0_and_at_100_percent(
    values: list[float], whole: bool, ends: tuple[float | None, float | None]
) -> None:
    """An end beyond is moved there, another stays where the values put it; what lies on it is drawn whole."""
    figure, axes = plt.subplots()
    (line,) = axes.plot(values)
    before = axes.get_ylim()
    share_axis(axes, whole=whole)
    assert axes.get_ylim() == tuple(old if end is None else end for old, end in zip(before, ends, strict=True))
    assert (
        not line.get_clip_on()
        and not line.get_in_layout()
        and axes.yaxis.get_major_formatter()(0.25) in ("25%", "25.0%")
    )
    plt.close(figure)


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
