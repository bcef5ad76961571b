"""Closed-form floating-point operations of a supervision step, for honest comparisons of compute.

Each architecture knows its own, and the list of matrix products that they are; its name is taken from the config.
"""

from models.config import ModelConfig
from models.registry import MODELS


def step_flops(config: ModelConfig, *, training: bool) -> float:
    """Operations of one supervision step of one row (P+S tokens); embeddings and heads are left out.

    Training adds the backward pass (twice a forward) of the sub-updates that carry gradients, and for Q-learning
    a second forward for the target. What is done once for all rows of a step is in the model's `preparation_products`.
    """
    return MODELS[config.kind].step_flops(config, training=training)
