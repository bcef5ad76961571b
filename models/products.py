"""Matrix products of a supervision step: their shapes, how often they are made, and their operations.

Here are those of the blocks of TRM and HRM and of the heads; an architecture that is made of something else lists its
own beside its network (`models/srm.py`).
"""

from dataclasses import dataclass

import torch

from models.config import ModelConfig


@dataclass(frozen=True)
class Product:
    """`count` equal products of a step: `batch` pairs of matrices, (rows x inner) @ (inner x columns) each.

    Args:
        name: the parameter or the part of attention that it belongs to, and for gradients which one.
        left_transposed: the left operand lies in memory as (inner, rows), a weight gradient's `g.T @ x` for one.
        right_transposed: the right operand lies in memory as (columns, inner), as the weight of a linear map.
        left_shared: all pairs have one and the same left matrix, a weight.
    """

    name: str
    count: int
    batch: int
    rows: int
    inner: int
    columns: int
    left_transposed: bool = False
    right_transposed: bool = False
    left_shared: bool = False

    @property
    def flops(self) -> int:
        """Operations of all `count` products, a multiplication and an addition per term."""
        return 2 * self.count * self.batch * self.rows * self.inner * self.columns

    @property
    def shape(self) -> tuple[int, int, int, int, bool, bool, bool]:
        """What its time depends on: equal for products that only differ in name or count."""
        lies = self.left_transposed, self.right_transposed, self.left_shared
        return self.batch, self.rows, self.inner, self.columns, *lies


def total_flops(products: list[Product]) -> int:
    """Operations of a list of products."""
    return sum(product.flops for product in products)


def linear_products(
    name: str, rows: int, features_in: int, features_out: int, forward: int, backward: int
) -> list[Product]:
    """x @ W.T, and g @ W, g.T @ x for its gradients; W is stored as (out, in), x is (rows, in)."""
    products = [Product(name, forward, 1, rows, features_in, features_out, right_transposed=True)]
    if backward:
        weight = Product(f"{name} weight gradient", backward, 1, features_out, rows, features_in, left_transposed=True)
        products += [Product(f"{name} input gradient", backward, 1, rows, features_out, features_in), weight]
    return products


def products_from_left(
    name: str, batch: int, features_in: int, features_out: int, columns: int, forward: int, backward: int
) -> list[Product]:
    """W @ x for each of `batch` rows, and W.T @ g, g @ x.T for its gradients; x is (in, columns)."""
    products = [Product(name, forward, batch, features_out, features_in, columns, left_shared=True)]
    if backward:
        to_input = (batch, features_in, features_out, columns)
        to_weight = (batch, features_out, columns, features_in)
        products += [
            Product(f"{name} input gradient", backward, *to_input, left_transposed=True, left_shared=True),
            Product(f"{name} weight gradient", backward, *to_weight, right_transposed=True),
        ]
    return products


def block_forward_flops(config: ModelConfig) -> float:
    """Forward operations of one block of TRM or HRM per token: 2 per weight, and 4 L D for attention over L tokens.

    Token mixing multiplies (L x w) matrices for each of D channels: 2 * 3 * w * D per token, w its SwiGLU width.
    """
    size, length = config.hidden_size, config.total_len
    swiglu = 2 * 3 * size * config.swiglu_width(size)
    if config.mlp_t:
        return swiglu + 2 * 3 * size * config.swiglu_width(length)
    return swiglu + 2 * 4 * size * size + 4 * length * size


def block_products(config: ModelConfig, batch_size: int, forward: int, backward: int) -> list[Product]:
    """The products of `forward` passes through a block of TRM or HRM and of the gradients of `backward` of them.

    Both gradients of every product: autograd skips none, because the input embeddings are trained and so the first
    block's input has a gradient too. (With `freeze_weights` there would be no weight gradients.) The gradient of
    attention is that of its two products; kernels that make the scores anew in the backward pass multiply once more.
    Token mixing as on a CPU, where it is one product per row but for bfloat16.
    """
    tokens = batch_size * config.total_len
    size, width = config.hidden_size, config.swiglu_width(config.hidden_size)
    products = []
    if config.mlp_t:
        length, mixed = config.total_len, config.swiglu_width(config.total_len)
        for name, inner, outer in (("mlp_t.gate_up_proj", length, 2 * mixed), ("mlp_t.down_proj", mixed, length)):
            if config.dtype == torch.bfloat16:
                products += linear_products(name, batch_size * size, inner, outer, forward, backward)
            else:
                products += products_from_left(name, batch_size, inner, outer, size, forward, backward)
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
