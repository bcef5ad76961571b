"""Imports point one way, and the drawn picture shows those that there are."""

import ast
import sys
from pathlib import Path

import pytest

from scripts.draw_architecture import ROOT, Import, as_text, direct, draw, points_backwards, suite_imports

PICTURES = ROOT / "docs" / "pictures"


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    return suite_imports()


@pytest.mark.parametrize(
    ("source", "target", "backwards"),
    [
        ("pretrain.py", "training/start.py", False),
        ("training/start.py", "pretrain.py", True),
        ("training/loop.py", "models/act.py", False),
        ("models/act.py", "training/loop.py", True),
        ("dynamics/rollout.py", "models/act.py", True),
        ("models/act.py", "errors.py", False),
        ("training/loop.py", "projects/collatz/setup.py", True),
        ("training/loop.py", "training/storage/archive.py", False),
        ("training/storage/archive.py", "training/loop.py", False),
        ("training/storage/archive.py", "training/settings/cli.py", True),
        ("training/settings/cli.py", "training/storage/archive.py", False),
        ("projects/collatz/setup.py", "projects/collatz/report/arms.py", False),
        ("projects/collatz/setup.py", "projects/flossing_toy/cells.py", True),
        ("analysis/spectra/spectrum_files.py", "analysis/figures/figure_files.py", False),
    ],
)
def test_which_way_is_backwards(source: str, target: str, backwards: bool) -> None:
    assert points_backwards(Import(Path(source), Path(target))) == backwards


def test_imports_are_found(tmp_path: Path) -> None:
    """Of modules and of names, at the top and inside functions; packages from elsewhere are none of ours."""
    (tmp_path / "training").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "act.py").write_text("")
    (tmp_path / "models" / "trm.py").write_text("import torch\n\n\ndef late():\n    import training.run\n")
    (tmp_path / "training" / "run.py").write_text("from models import act\nfrom models.trm import late\n")
    assert [str(item) for item in suite_imports(tmp_path)] == [
        "models/trm.py -> training/run.py",
        "training/run.py -> models/act.py",
        "training/run.py -> models/trm.py",
    ]


def test_imports_point_one_way(imports: list[Import]) -> None:
    assert len(imports) > 500
    assert [str(item) for item in imports if points_backwards(item)] == []


def test_dynamics_imports_torch_only() -> None:
    imported = set()
    for path in (ROOT / "dynamics").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    assert imported - sys.stdlib_module_names == {"torch", "dynamics"}


def test_an_arrow_that_two_others_say_is_left_out() -> None:
    assert direct({("a", "b"), ("b", "c"), ("a", "c"), ("a", "d")}) == {("a", "b"), ("b", "c"), ("a", "d")}


def test_the_picture_is_drawn_and_the_shown_one_is_fresh(imports: list[Import]) -> None:
    figure = draw(imports)
    words = {text.get_text() for text in figure.axes[0].texts}
    assert {"training", "settings", "dynamics", "projects"} <= words
    assert (PICTURES / "architecture.png").is_file()
    assert (PICTURES / "architecture.txt").read_text() == as_text(imports) + "\n", "run scripts/draw_architecture.py"
