"""From the settings to an objective and its terms: the one place, for every training script."""

from errors import UserError
from models.recursive_model import RecursiveModel
from training.objectives.act_streaming import ACTStreaming
from training.objectives.base import Objective
from training.objectives.flossing import Flossing
from training.objectives.trajectory_perturbation import KINDS_OF_ROLLOUT
from training.rooms import TERMS
from training.seeding import generator
from training.settings.schema import TrainConfig
from training.terms.base import WeightedTerm


def build_objective(config: TrainConfig) -> Objective:
    """The objective that `config.objective` names, with flossing around it where `config.floss` is on."""
    loss_type, slices = config.arch.loss.loss_type, config.accumulation_slices
    objective: Objective
    if config.objective.name == "act_streaming":
        objective = ACTStreaming(loss_type, slices)
    else:
        objective = KINDS_OF_ROLLOUT[config.objective.rollout](config.objective, loss_type, slices)
    return Flossing(objective, config.floss) if config.floss.in_use else objective


def give_terms(objective: Objective, config: TrainConfig, model: RecursiveModel) -> None:
    """Add the terms that are on to an objective; their modules on the model's device.

    Errors: `UserError` where it would ignore them.
    """
    terms = []
    for name, settings in TERMS.in_use(config.term):
        term = settings.build(model.config, generator(config.seed, f"term/{name}", 0))
        if term.module is not None:
            term.module.to(model.H_init.device)
        terms.append(WeightedTerm(name, settings.weight, term))
    if terms and not objective.takes_terms:
        raise UserError(f"option 'term.{terms[0].name}.weight': objective {objective.name} takes no term, expected 0")
    objective.terms = terms
