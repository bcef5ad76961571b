"""Closed-form floating-point operations of a supervision step, for honest comparisons of compute."""

from models.config import ModelConfig


def block_forward_flops(config: ModelConfig) -> float:
    """Forward operations of one block per token: 2 per weight, and 4 L D for attention over L tokens.

    Token mixing multiplies (L x w) matrices for each of D channels: 2 * 3 * w * D per token, w its SwiGLU width.
    """
    size, length = config.hidden_size, config.total_len
    swiglu = 2 * 3 * size * config.swiglu_width(size)
    if config.mlp_t:
        return swiglu + 2 * 3 * size * config.swiglu_width(length)
    return swiglu + 2 * 4 * size * size + 4 * length * size


def step_flops(config: ModelConfig, *, training: bool) -> float:
    """Operations of one supervision step of one row (P+S tokens); embeddings and heads are left out.

    Training adds the backward pass (twice a forward) of the sub-updates that carry gradients, and for Q-learning
    a second forward for the target.
    """
    L_updates = config.H_cycles * config.L_cycles
    if config.kind == "hrm":
        forward_blocks = config.L_layers * L_updates + config.H_layers * config.H_cycles
        gradient_blocks = config.L_layers + config.H_layers
    else:
        forward_blocks = config.L_layers * (L_updates + config.H_cycles)
        gradient_blocks = config.L_layers * (config.L_cycles + 1)
    blocks = float(forward_blocks)
    if training:
        blocks += 2 * gradient_blocks
        if not config.no_ACT_continue:
            blocks += forward_blocks
    return blocks * block_forward_flops(config) * config.total_len
