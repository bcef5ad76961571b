"""From the settings `objective` and `floss` to an objective: the one place, for every training script."""

from training.objectives.act_streaming import ACTStreaming
from training.objectives.base import Objective
from training.objectives.flossing import Flossing
from training.objectives.trajectory_perturbation import KINDS_OF_ROLLOUT
from training.settings.schema import TrainConfig


def build_objective(config: TrainConfig) -> Objective:
    """The objective that `config.objective` names, with flossing around it where `config.floss` is on."""
    loss_type, slices = config.arch.loss.loss_type, config.accumulation_slices
    objective: Objective
    if config.objective.name == "act_streaming":
        objective = ACTStreaming(loss_type, slices)
    else:
        objective = KINDS_OF_ROLLOUT[config.objective.rollout](config.objective, loss_type, slices)
    return Flossing(objective, config.floss) if config.floss.in_use else objective
