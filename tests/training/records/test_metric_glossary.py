"""docs/metrics.md and the keys that runs write are the same set."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from errors import UserError
from scripts.render_glossary import BEGIN, rendered
from tests.helpers import ROOT, train_here
from training.records.metrics_log import read_metrics
from training.rooms import JUDGES

BOOKKEEPING = {"step", "event", "time"}
GRID = "eval.during.sigma_grid=[0,0.01]"
FLOSS = ["floss.mode=inter", "floss.k=2", "floss.rows=2"]
BY_JUDGES = "`eval/validation/"
SECTIONS = {
    "`train/": [""],
    BY_JUDGES: ["eval/", "eval/validation/"],
    "`eval/robust/": ["eval/robust/0/", "eval/robust/0.01/"],
    "`eval/": ["eval/", "eval/fast/", "eval/validation/"],
    "`guard/": [""],
    "`test/": ["test/initial/", "test/final/", "test/best/"],
}


def documented() -> set[str]:
    """Keys of the tables, expanded by the prefixes that their section names."""
    keys: list[str] = []
    for section in (ROOT / "docs" / "metrics.md").read_text().split("\n## ")[1:]:
        prefixes = next((value for start, value in SECTIONS.items() if section.startswith(start)), [])
        names = re.findall(r"^\| `([a-z_/]+)` \|", section, re.MULTILINE)
        assert names or not prefixes
        keys += [prefix + name for prefix in prefixes for name in names]
    assert len(keys) == len(set(keys)), "a key is defined twice"
    return set(keys)


def test_what_ideas_write_is_told_as_they_declare_it() -> None:
    """That they write it, and nothing else, is a matter of `tests/training/test_ideas_together.py`."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert rendered(page) == page, "python scripts/render_glossary.py writes it"
    assert "| `train/halt_entropy_loss` | `term.halt_entropy`: entropy" in page
    stale = page.replace("| `data/replay/queue` |", "| `data/replay/line` |")
    assert stale != page and rendered(stale) == page
    with pytest.raises(UserError, match="its marks"):
        rendered(page.replace(BEGIN, ""))


def of_judges(names: Iterable[str]) -> set[str]:
    """What these evaluators write in full validations."""
    return {
        prefix + metric
        for name in names
        for metric in JUDGES.settings_class(name).metrics
        for prefix in SECTIONS[BY_JUDGES]
    }


@pytest.mark.parametrize(("arch", "task"), [("hrm", "sudoku"), ("trm_att", "sudoku"), ("trm_att", "maze")])
def test_every_written_key_is_defined_and_every_defined_key_written(
    arch: str, task: str, sudoku6_folder: Path, maze6_folder: Path, tmp_path: Path
) -> None:
    options = ["max_steps=4", "fast_eval_interval=2", "grad_clip_norm=0.01", "force_full_eval_every=1", GRID, *FLOSS]
    data = {"sudoku": sudoku6_folder, "maze": maze6_folder}[task]
    assert train_here(arch, data, tmp_path / "run", options) == "done"
    written = {key for line in read_metrics(tmp_path / "run" / "metrics.jsonl") for key in line}
    expected = documented()
    if arch != "hrm":
        expected -= {"train/q_continue_loss"}
    expected -= of_judges({*JUDGES.names()} - {task})
    # A mean over valid paths, of which an untrained network draws none.
    undefined = {prefix + "excess_cells" for prefix in SECTIONS[BY_JUDGES]} if task == "maze" else set()
    assert written - BOOKKEEPING == expected - undefined
