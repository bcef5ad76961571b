"""One batch, learned by heart: every architecture reaches 100 % exact accuracy through the real update."""

from pathlib import Path

import pytest

from tests.helpers import tiny_config
from training.distributed import World
from training.evaluation.answering import AccuracyEvaluator, evaluate
from training.start import act_objective, build_run
from training.update import train_on_batch

OPTIONS = """
arch.hidden_size=32 arch.expansion=4 arch.halt_max_steps=2 global_batch_size=8
optimizer=adamw lr=3e-3 lr_warmup_steps=20 weight_decay=0.0 puzzle_emb_lr=1e-3
""".split()
# Rotary positions of a head of 16 channels must turn fast to tell 16 cells apart.
POSITIONS = {
    "trm_att": ["arch.pos_encodings=learned"],
    "trm_mlp": [],
    "hrm": ["arch.pos_encodings=rope", "arch.rope_theta=10"],
    "srm": [],
}
MOST_UPDATES = 1500


@pytest.mark.parametrize("arch", POSITIONS)
def test_one_batch_is_learned_exactly(arch: str, sudoku4_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(arch, sudoku4_folder, tmp_path / "run", [*OPTIONS, *POSITIONS[arch]])
    run = build_run(config, World(), act_objective(config))
    batch, _ = run.source.next(run.progress.position)
    assert len(batch["inputs"].unique(dim=0)) == 8

    def score() -> dict[str, float]:
        evaluator = AccuracyEvaluator(config.arch.loss.loss_type)
        evaluate(run.evaluated_model, [batch], run.inference, [evaluator], run.world)
        return evaluator.report()

    before = score()
    assert before["exact_accuracy"] == 0
    after = before
    while after["exact_accuracy"] < 1 and run.step < MOST_UPDATES:
        for _ in range(25):
            train_on_batch(run, batch, stop_requested=False)
        after = score()
    assert (after["exact_count"], after["count"]) == (8, 8), f"{after} after {run.step} updates"
    assert after["lm_loss"] < before["lm_loss"] / 2
