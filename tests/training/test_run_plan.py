"""The plan of a run counts what the run then does."""

import re
from pathlib import Path

import pytest

from tests.helpers import logged, tiny_config, train_here
from training.run_plan import plan_lines

TIMES = (
    "max_steps=4 fast_eval_interval=100", "max_steps=4 fast_eval_interval=4", "max_steps=7 fast_eval_interval=2",
    "epochs=3 fast_eval_interval=4 eval_interval=1",
)  # fmt: skip


@pytest.mark.parametrize("times", TIMES)
def test_evaluations_are_those_that_the_run_makes(times: str, sudoku6_folder: Path, tmp_path: Path) -> None:
    options = ["eval_interval=null", "eval.during.sigma_grid=[0.1,0.2]", "force_full_eval_every=1", *times.split()]
    plan = "\n".join(plan_lines(tiny_config("trm_att", sudoku6_folder, tmp_path / "run", options)))
    train_here("trm_att", sudoku6_folder, tmp_path / "run", options)
    made = [line for line in logged(tmp_path / "run") if "eval/validation/count" in line]
    assert made and all("eval/robust/0.2/exact_accuracy" in line for line in made)
    assert re.search(rf"^evaluation   {len(made)} times on ", plan, re.MULTILINE), plan
    again = plan_lines(tiny_config("trm_att", sudoku6_folder, tmp_path / "run", options))
    assert re.search(r"^evaluation   0 times on ", "\n".join(again), re.MULTILINE)
