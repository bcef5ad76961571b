"""docs/metrics.md and the keys that runs write are the same set."""

import re
from pathlib import Path

import pytest

from errors import UserError
from scripts.render_glossary import BEGIN, rendered
from tests.helpers import ROOT, train_here
from training.records.metrics_log import read_metrics

BOOKKEEPING = {"step", "event", "time"}
GRID = "eval.during.sigma_grid=[0,0.01]"
FLOSS = ["floss.mode=inter", "floss.k=2", "floss.rows=2"]
SECTIONS = {
    "`train/": [""],
    "`eval/validation/": ["eval/", "eval/validation/"],
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


@pytest.mark.parametrize("arch", ["hrm", "trm_att"])
def test_every_written_key_is_defined_and_every_defined_key_written(
    arch: str, sudoku6_folder: Path, tmp_path: Path
) -> None:
    options = ["max_steps=4", "fast_eval_interval=2", "grad_clip_norm=0.01", "force_full_eval_every=1", GRID, *FLOSS]
    assert train_here(arch, sudoku6_folder, tmp_path / "run", options) == "done"
    written = {key for line in read_metrics(tmp_path / "run" / "metrics.jsonl") for key in line}
    expected = documented()
    if arch != "hrm":
        expected -= {"train/q_continue_loss"}
    assert written - BOOKKEEPING == expected
