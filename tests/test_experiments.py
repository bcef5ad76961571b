"""Every registered run composes, trains, evaluates and saves at a size that a test can afford."""

from pathlib import Path

import pytest

from dataset.plain_data import read_json_object
from errors import UserError
from training.distributed import World
from training.settings.cli import CONFIG_DIR, compose_config
from training.start import train_in
from training.storage.run_folder import RunFolder

EXPERIMENTS = sorted(path.stem for path in (CONFIG_DIR / "experiment").glob("*.yaml"))
SMALL = [
    "global_batch_size=8",
    "epochs=2",
    "eval_interval=1",
    "max_steps=2",
    "fast_eval_interval=null",
    "validation_size=4",
    "max_test_rows=4",
    "device=cpu",
    "threads=1",
    "arch.hidden_size=16",
    "arch.num_heads=2",
    "arch.puzzle_emb_ndim=16",
    "arch.H_cycles=2",
    "arch.L_cycles=1",
    "arch.halt_max_steps=2",
]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_runs_in_small(name: str, sudoku4_folder: Path, maze6_folder: Path, tmp_path: Path) -> None:
    data = maze6_folder if "maze" in name else sudoku4_folder
    options = [f"+experiment={name}", f"data_paths=[{data}]", f"checkpoint_path={tmp_path}", *SMALL]
    config = compose_config(options)
    assert train_in(World(), config) == "done"
    folder = RunFolder(tmp_path)
    summary = read_json_object(folder.summary)
    assert summary["steps"] == 2
    assert summary["test"]["final"]["denominator"] == 4
    assert folder.best.exists() and folder.final.exists() and folder.latest_state.exists()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_header_says_what_to_expect(name: str) -> None:
    """Claim, data, command and hardware are written down before a run is made."""
    text = (CONFIG_DIR / "experiment" / f"{name}.yaml").read_text()
    header = [line for line in text.splitlines() if line.startswith("#")]
    for word in ("claim:", "data:", "command:", "hardware:"):
        assert any(word in line for line in header), f"{name}: no '{word}' in its header"
    assert any(f"+experiment={name}" in line for line in header)


@pytest.mark.parametrize("experiment", [[], ["+experiment=smoke"]])
def test_a_scale_needs_an_experiment_that_has_one(experiment: list[str]) -> None:
    with pytest.raises(UserError, match="'scale=' needs an experiment whose file names a scale"):
        compose_config([*experiment, "scale=cpu6x6"])
