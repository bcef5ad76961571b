"""Matrix products of SRM (`models/srm.py`) in closed form.

Of three kinds: those of each application of the map; the input's, once per supervision step and row; and the
preparation of the weights, once per supervision step however many rows there are.
"""

from models.config import ModelConfig
from models.products import Product, linear_products


def applications(config: ModelConfig, *, training: bool) -> tuple[int, int]:
    """How often a step applies the map: forward, and backward (0 in evaluation).

    Backward are the last L_cycles + 1. Q-learning applies the map as often again for its target.
    """
    forward = config.H_cycles * (config.L_cycles + 1)
    if not training:
        return forward, 0
    return forward if config.no_ACT_continue else 2 * forward, config.L_cycles + 1


def srm_step_flops(config: ModelConfig, *, training: bool) -> float:
    """Operations of one supervision step of one row; a backward pass is twice a forward one.

    Per application: a token matrix for each channel group and both products of the residual unit in each layer, and
    two rotations.
    """
    forward, backward = applications(config, training=training)
    size, length, width = config.hidden_size, config.total_len, config.swiglu_width(2 * config.hidden_size)
    layer = 2 * length * length * 2 * size + 2 * 2 * length * 2 * size * width
    application = config.L_layers * layer + 2 * 2 * length * size * size
    of_input = config.L_layers * 2 * length * size * width + 2 * length * size * 2 * size
    return float((forward + 2 * backward) * application + (3 if training else 1) * of_input)


def srm_step_products(config: ModelConfig, batch_size: int, *, training: bool) -> list[Product]:
    """Products of the applications and of the input in one supervision step of `batch_size` rows.

    All have both gradients, the first application too: its weighted states depend on the gains.
    """
    forward, backward = applications(config, training=training)
    layers, groups = config.L_layers, config.num_heads
    size, length, width = config.hidden_size, config.total_len, config.swiglu_width(2 * config.hidden_size)
    tokens = batch_size * length
    per_group = batch_size * 2 * size // groups
    products = [Product("token_mixing", layers * forward, groups, length, length, per_group)]
    products.append(Product("channel_mixing in", layers * forward, 1, tokens, 2 * size, width))
    products.append(Product("channel_mixing out", layers * forward, 1, tokens, width, 2 * size, right_transposed=True))
    products.append(Product("rotations", forward, 2, tokens, size, size))
    if backward:
        deep = layers * backward
        products += [
            Product("token_mixing input gradient", deep, groups, length, length, per_group, left_transposed=True),
            Product("token_mixing weight gradient", deep, groups, length, per_group, length, right_transposed=True),
            Product("channel_mixing in input gradient", deep, 1, tokens, width, 2 * size, right_transposed=True),
            Product("channel_mixing in weight gradient", deep, 1, 2 * size, tokens, width, left_transposed=True),
            Product("channel_mixing out input gradient", deep, 1, tokens, 2 * size, width),
            Product("channel_mixing out weight gradient", deep, 1, 2 * size, tokens, width, left_transposed=True),
            Product("rotations input gradient", backward, 2, tokens, size, size, right_transposed=True),
            Product("rotations weight gradient", backward, 2, size, tokens, size, left_transposed=True),
        ]
    once = 1 if training else 0
    products += linear_products("layer input_proj", tokens, size, width, layers, layers * once)
    return products + linear_products("input_proj", tokens, size, 2 * size, 1, once)


def srm_preparation_products(config: ModelConfig, *, training: bool) -> list[Product]:
    """Products in the preparation of the weights for one supervision step, whatever the number of rows.

    The Gram matrices of the almost-orthogonal weights, two gradients of each, and the two products in the gradient of
    the inverse behind the rotations. The inverse itself, of two D x D matrices, is no product.
    """
    layers, groups, length = config.L_layers, config.num_heads, config.total_len
    size, width = config.hidden_size, config.swiglu_width(2 * config.hidden_size)
    products = [
        *_gram("token_mixing", layers, groups, length, length, training=training),
        *_gram("channel_mixing", layers, 1, 2 * size, width, training=training),
    ]
    if training:
        products.append(Product("rotations inverse gradient", 2, 2, size, size, size))
    return products


def _gram(name: str, count: int, batch: int, rows: int, columns: int, *, training: bool) -> list[Product]:
    """W.T @ W of W (rows, columns) or, when W is wider than tall, W @ W.T; and the gradients of both operands."""
    tall = rows >= columns
    narrow, wide = min(rows, columns), max(rows, columns)
    products = [Product(f"{name} gram", count, batch, narrow, wide, narrow, tall, not tall)]
    if training:
        shape = (wide, narrow, narrow) if tall else (narrow, narrow, wide)
        products.append(Product(f"{name} gram gradient", count, batch, *shape))
        products.append(Product(f"{name} gram other gradient", count, batch, *shape, not tall, tall))
    return products
