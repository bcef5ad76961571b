"""From the settings to an objective and its terms: the one place, for every training script."""

from errors import UserError
from models.recursive_model import RecursiveModel
from training.objectives.base import Objective
from training.objectives.flossing import Flossing
from training.rooms import OBJECTIVES, TERMS
from training.seeding import generator
from training.settings.schema import TrainConfig
from training.terms.base import WeightedTerm


def build_objective(config: TrainConfig) -> Objective:
    """The objective that `config.objective` names, with flossing around it where `config.floss` is on."""
    objective: Objective = OBJECTIVES.classes()[config.objective.name].build(config)
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
