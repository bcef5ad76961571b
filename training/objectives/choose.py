"""From the settings `objective` to an objective: the one place, for every training script."""

from training.config import TrainConfig
from training.objectives.act_streaming import ACTStreaming
from training.objectives.base import Objective
from training.objectives.trajectory_perturbation import ROLLOUTS


def build_objective(config: TrainConfig) -> Objective:
    """The objective that `config.objective` names."""
    loss_type, slices = config.arch.loss.loss_type, config.accumulation_slices
    if config.objective.name == "act_streaming":
        return ACTStreaming(loss_type, slices)
    return ROLLOUTS[config.objective.rollout](config.objective, loss_type, slices)
