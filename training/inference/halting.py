"""Where a model stops by itself."""

from torch import Tensor

from models.recursive_model import RecursiveModel


def wants_to_halt(model: RecursiveModel, q_halt: Tensor, q_continue: Tensor) -> Tensor:
    """Where a model would stop by itself (bool, same shape): the rule of training, without exploration."""
    return q_halt > 0 if model.config.no_ACT_continue else q_halt > q_continue
