"""Closed-form floating-point operations of a supervision step, and the list of matrix products that they are.

For honest comparisons of compute, and for the benchmark, whose floor is the time of these products alone. Each
architecture knows its own; these functions take its name from the config.
"""

from models.config import ModelConfig
from models.products import Product
from models.registry import MODELS


def step_flops(config: ModelConfig, *, training: bool) -> float:
    """Operations of one supervision step of one row (P+S tokens); embeddings and heads are left out.

    Training adds the backward pass (twice a forward) of the sub-updates that carry gradients, and for Q-learning
    a second forward for the target. What is done once for all rows of a step is in `preparation_products`.
    """
    return MODELS[config.kind].step_flops(config, training=training)


def step_products(config: ModelConfig, batch_size: int, *, training: bool) -> list[Product]:
    """Every matrix product of one supervision step of `batch_size` rows; their `flops` add up to `step_flops`.

    Embeddings are lookups and have no products; those of the heads are in `models.products.head_products`.
    """
    return MODELS[config.kind].step_products(config, batch_size, training=training)


def preparation_products(config: ModelConfig, *, training: bool) -> list[Product]:
    """The products that prepare the weights for one supervision step, whatever its number of rows; most have none.

    In no floor and in no count of a row's operations; a counter sees them.
    """
    return MODELS[config.kind].preparation_products(config, training=training)
