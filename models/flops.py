"""Closed-form floating-point operations of a supervision step, and the list of matrix products that they are.

For honest comparisons of compute, and for the benchmark, whose floor is the time of these products alone.
"""

from models.config import ModelConfig
from models.products import Product, linear_products
from models.srm_flops import srm_preparation_products, srm_step_flops, srm_step_products


def block_forward_flops(config: ModelConfig) -> float:
    """Forward operations of one block of TRM or HRM per token: 2 per weight, and 4 L D for attention over L tokens.

    Token mixing multiplies (L x w) matrices for each of D channels: 2 * 3 * w * D per token, w its SwiGLU width.
    """
    size, length = config.hidden_size, config.total_len
    swiglu = 2 * 3 * size * config.swiglu_width(size)
    if config.mlp_t:
        return swiglu + 2 * 3 * size * config.swiglu_width(length)
    return swiglu + 2 * 4 * size * size + 4 * length * size


def block_passes(config: ModelConfig, *, training: bool) -> tuple[int, int]:
    """How often a step of TRM or HRM passes through a block: forward, and backward (0 in evaluation).

    Backward are the sub-updates that carry gradients: TRM's last H cycle, the last update of each of HRM's stacks.
    Q-learning adds a second forward for its target.
    """
    L_updates = config.H_cycles * config.L_cycles
    if config.kind == "hrm":
        forward = config.L_layers * L_updates + config.H_layers * config.H_cycles
        backward = config.L_layers + config.H_layers
    else:
        forward = config.L_layers * (L_updates + config.H_cycles)
        backward = config.L_layers * (config.L_cycles + 1)
    if not training:
        return forward, 0
    return forward if config.no_ACT_continue else 2 * forward, backward


def step_flops(config: ModelConfig, *, training: bool) -> float:
    """Operations of one supervision step of one row (P+S tokens); embeddings and heads are left out.

    Training adds the backward pass (twice a forward) of the sub-updates that carry gradients, and for Q-learning
    a second forward for the target. What SRM does once for all rows of a step is in `preparation_products`.
    """
    if config.kind == "srm":
        return srm_step_flops(config, training=training)
    forward, backward = block_passes(config, training=training)
    return float(forward + 2 * backward) * block_forward_flops(config) * config.total_len


def step_products(config: ModelConfig, batch_size: int, *, training: bool) -> list[Product]:
    """Every matrix product of one supervision step of `batch_size` rows; their `flops` add up to `step_flops`.

    Training has, for each block that carries gradients, both gradients of every product: autograd skips none,
    because the input embeddings are trained and so the first block's input has a gradient too. (With
    `freeze_weights` there would be no weight gradients.) Embeddings are lookups and have no products; those of
    the heads are in `head_products`. The gradient of attention is that of its two products; kernels that make
    the scores anew in the backward pass multiply once more.
    """
    if config.kind == "srm":
        return srm_step_products(config, batch_size, training=training)
    forward, backward = block_passes(config, training=training)
    tokens = batch_size * config.total_len
    size, width = config.hidden_size, config.swiglu_width(config.hidden_size)
    products = []
    if config.mlp_t:
        channels, mixed = batch_size * size, config.swiglu_width(config.total_len)
        products += linear_products("mlp_t.gate_up_proj", channels, config.total_len, 2 * mixed, forward, backward)
        products += linear_products("mlp_t.down_proj", channels, mixed, config.total_len, forward, backward)
    else:
        products += linear_products("self_attn.qkv_proj", tokens, size, 3 * size, forward, backward)
        products += _attention(config, batch_size, forward, backward)
        products += linear_products("self_attn.o_proj", tokens, size, size, forward, backward)
    products += linear_products("mlp.gate_up_proj", tokens, size, 2 * width, forward, backward)
    products += linear_products("mlp.down_proj", tokens, width, size, forward, backward)
    return products


def head_products(config: ModelConfig, batch_size: int, *, training: bool) -> list[Product]:
    """The products of `lm_head` (on all P+S tokens) and `q_head` (on the first) in one supervision step.

    Below a percent of a step of the published models, and in no floor; a counter of operations sees them.
    """
    forward = 2 if training and not config.no_ACT_continue else 1
    backward = 1 if training else 0
    tokens, size = batch_size * config.total_len, config.hidden_size
    logits = linear_products("lm_head", tokens, size, config.vocab_size, forward, backward)
    return logits + linear_products("q_head", batch_size, size, 2, forward, backward)


def preparation_products(config: ModelConfig, *, training: bool) -> list[Product]:
    """The products that prepare the weights for one supervision step, whatever its number of rows; SRM only.

    In no floor and in no count of a row's operations; a counter sees them.
    """
    return srm_preparation_products(config, training=training) if config.kind == "srm" else []


def _attention(config: ModelConfig, batch_size: int, forward: int, backward: int) -> list[Product]:
    """q @ k.T and weights @ v per row and head, and two products each for their gradients."""
    batch, length = batch_size * config.num_heads, config.total_len
    head = config.hidden_size // config.num_heads
    products = [
        Product("attention scores", forward, batch, length, head, length, right_transposed=True),
        Product("attention values", forward, batch, length, length, head),
    ]
    if backward:
        # With respect to the weights g @ v.T, to v weights.T @ g, to q and k the score gradient s @ k and s.T @ q.
        for name, shape, left_transposed, right_transposed in (
            ("weights", (length, head, length), False, True),
            ("values", (length, length, head), True, False),
            ("queries", (length, length, head), False, False),
            ("keys", (length, length, head), True, False),
        ):
            products.append(
                Product(f"attention {name} gradient", backward, batch, *shape, left_transposed, right_transposed)
            )
    return products
