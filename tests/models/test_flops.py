"""The closed form and the list of products against torch's counter and every product that torch is asked for.

The counter sees matrix products but not a CPU's fused attention, so attention runs on its mathematical form here
(the published path in bfloat16 on a CPU has explicit products anyway).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from models.act import act_step, initial_carry
from models.config import ModelConfig
from models.flops import step_flops
from models.losses import act_loss
from models.products import Product, head_products, total_flops
from models.registry import MODELS, build_model
from models.srm import SRMConfig

BATCH_SIZE = 3
SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_heads": 4, "puzzle_emb_ndim": 32, "puzzle_emb_len": 2, "swiglu_multiple": 16,
}  # fmt: skip
SRM: dict[str, Any] = SMALL | {"pos_encodings": "none"}
CONFIGS = {
    "trm_mlp": ModelConfig("trm", 9, 7, 1, mlp_t=True, pos_encodings="none", H_cycles=2, L_cycles=3, **SMALL),
    "trm_att": ModelConfig("trm", 9, 7, 1, H_cycles=3, L_cycles=2, **SMALL),
    "trm_learned": ModelConfig("trm", 9, 7, 1, H_cycles=1, L_cycles=1, pos_encodings="learned", **SMALL),
    "trm_no_table": ModelConfig("trm", 9, 7, 1, H_cycles=1, L_cycles=2, **(SMALL | {"puzzle_emb_ndim": 0})),
    "trm_continue": ModelConfig("trm", 9, 7, 1, H_cycles=2, L_cycles=1, no_ACT_continue=False, **SMALL),
    "hrm": ModelConfig("hrm", 9, 7, 1, H_cycles=2, L_cycles=2, H_layers=3, L_layers=2, no_ACT_continue=False, **SMALL),
    "srm": SRMConfig("srm", 9, 7, 1, H_cycles=2, L_cycles=3, **SRM),
    "srm_wide": SRMConfig("srm", 9, 7, 1, H_cycles=3, L_cycles=1, expansion=0.5, **SRM),
    "srm_continue": SRMConfig("srm", 9, 7, 1, H_cycles=1, L_cycles=2, no_ACT_continue=False, **SRM),
}
EVERY_CONFIG = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())

PUBLISHED = {
    "trm_att": ModelConfig("trm", 81, 11, 1),
    "trm_mlp": ModelConfig("trm", 81, 11, 1, mlp_t=True, pos_encodings="none"),
    "hrm": ModelConfig(
        "hrm", 81, 11, 1, puzzle_emb_len=0, H_cycles=2, L_cycles=2, H_layers=4, L_layers=4, no_ACT_continue=False
    ),
}  # fmt: skip


def one_step(config: ModelConfig, *, training: bool) -> None:
    """What the loop and the evaluation do in one supervision step, without the optimizers."""
    model = build_model(config).train(training)
    batch = {
        "inputs": torch.ones(BATCH_SIZE, config.seq_len, dtype=torch.int32),
        "labels": torch.ones(BATCH_SIZE, config.seq_len, dtype=torch.int32),
        "puzzle_identifiers": torch.zeros(BATCH_SIZE, dtype=torch.int32),
    }
    with torch.set_grad_enabled(training):
        carry, outputs = act_step(model, initial_carry(model, batch), batch, training=training)
    if training:
        loss, _ = act_loss(outputs, batch["labels"], carry["halted"], carry["steps"], "softmax_cross_entropy")
        loss.backward()


def every_product(config: ModelConfig, *, training: bool) -> list[Product]:
    return (
        MODELS[config.kind].step_products(config, BATCH_SIZE, training=training)
        + head_products(config, BATCH_SIZE, training=training)
        + MODELS[config.kind].preparation_products(config, training=training)
    )


class ProductRecorder(TorchDispatchMode):
    """Counts (batch, {rows, columns}, inner) of every matrix product.

    Unordered, since a gradient may be computed as the transpose of its product. A batch of left operands times one
    expanded right operand is one product of all their rows. `layouts` counts those of single products as they are,
    with which operands lie transposed in memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[Any] = Counter()
        self.layouts: Counter[Any] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "bmm", "addmm", "baddbmm"):
            left, right = args[1:3] if "add" in name else args[:2]
            batch = left.shape[0] if left.ndim == 3 else 1
            rows, inner = left.shape[-2:]
            if batch > 1 and right.stride(0) == 0:
                batch, rows = 1, batch * rows
            self.seen[batch, frozenset((rows, right.shape[-1])), inner] += 1
            if left.ndim == 2:
                transposed = (not part.is_contiguous() and part.t().is_contiguous() for part in (left, right))
                self.layouts[1, rows, inner, right.shape[1], *transposed, False] += 1
        return func(*args, **(kwargs or {}))


@EVERY_CONFIG
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_the_counter_sees_the_closed_form_and_the_heads(config: ModelConfig, training: bool) -> None:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        one_step(config, training=training)
    others = head_products(config, BATCH_SIZE, training=training) + MODELS[config.kind].preparation_products(
        config, training=training
    )
    assert counter.get_total_flops() - total_flops(others) == BATCH_SIZE * step_flops(config, training=training)


@EVERY_CONFIG
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_the_listed_products_are_those_that_torch_is_asked_for(config: ModelConfig, training: bool) -> None:
    with ProductRecorder() as recorder, sdpa_kernel(SDPBackend.MATH):
        one_step(config, training=training)
    listed: Counter[Any] = Counter()
    for product in every_product(config, training=training):
        listed[product.batch, frozenset((product.rows, product.columns)), product.inner] += product.count
    assert recorder.seen == listed


@pytest.mark.parametrize("name", ["trm_att", "trm_mlp", "hrm", "srm", "srm_wide"])
def test_operands_of_the_linear_maps_lie_in_memory_as_listed(name: str) -> None:
    with ProductRecorder() as recorder:
        one_step(CONFIGS[name], training=True)
    listed: Counter[Any] = Counter()
    for product in every_product(CONFIGS[name], training=True):
        if product.batch == 1:
            listed[product.shape] += product.count
    assert recorder.layouts == listed


@pytest.mark.parametrize("name", ["trm_att", "trm_mlp", "hrm", "srm"])
def test_bfloat16_on_a_cpu_has_the_same_products(name: str) -> None:
    config = replace(CONFIGS[name], dtype=torch.bfloat16)
    with FlopCounterMode(display=False) as counter:
        one_step(config, training=True)
    assert counter.get_total_flops() == total_flops(every_product(config, training=True))


@pytest.mark.parametrize("config", [*CONFIGS.values(), *PUBLISHED.values()])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("batch_size", [1, 8, 768])
def test_the_products_of_a_step_add_up_to_the_closed_form(config: ModelConfig, training: bool, batch_size: int) -> None:
    products = MODELS[config.kind].step_products(config, batch_size, training=training)
    assert total_flops(products) == batch_size * step_flops(config, training=training)
    assert len({product.name for product in products}) == len(products)


def test_the_three_products_of_a_linear_map() -> None:
    """x @ W.T with W stored (out, in); g @ W; g.T @ x."""
    rows, size = 2 * 97, 512
    products = {
        product.name: product for product in MODELS["trm"].step_products(PUBLISHED["trm_att"], 2, training=True)
    }
    forward = products["self_attn.qkv_proj"]
    assert forward == Product("self_attn.qkv_proj", 42, 1, rows, size, 3 * size, False, True)
    to_input = products["self_attn.qkv_proj input gradient"]
    assert to_input.shape == (1, rows, 3 * size, size, False, False, False) and to_input.count == 14
    to_weight = products["self_attn.qkv_proj weight gradient"]
    assert to_weight.shape == (1, 3 * size, rows, size, True, False, False) and to_weight.count == 14


def test_training_costs_of_the_published_models() -> None:
    """TRM: n(H+2)(L+1) forward passes through n blocks; HRM: 64 (forward 24, backward 2 x 8, target 24)."""
    for name in ("trm_att", "trm_mlp"):
        assert MODELS["trm"].passes(PUBLISHED[name], training=True) == (2 * 3 * 7, 2 * 7)
        forward = step_flops(PUBLISHED[name], training=False) / (2 * 3 * 7)
        assert step_flops(PUBLISHED[name], training=True) == forward * 2 * (3 + 2) * (6 + 1)
    assert MODELS["hrm"].passes(PUBLISHED["hrm"], training=False) == (24, 0)
    assert MODELS["hrm"].passes(PUBLISHED["hrm"], training=True) == (48, 8)
    forward = step_flops(PUBLISHED["hrm"], training=False) / 24
    assert step_flops(PUBLISHED["hrm"], training=True) == pytest.approx(64 * forward)


def test_operations_of_a_block_by_hand() -> None:
    """D 512, L 97; terms per token: SwiGLU 3 x 1536 x 512, qkv and output 4 x 512 x 512, attention 2 x 97 x 512."""
    per_token = 2 * (3 * 1536 * 512 + 4 * 512 * 512 + 2 * 97 * 512)
    assert step_flops(PUBLISHED["trm_att"], training=False) == 42 * 97 * per_token
    # Token mixing: its SwiGLU over 97 tokens has width 512 (259 rounded up), once per channel.
    per_row = 97 * 2 * 3 * 1536 * 512 + 512 * 2 * 3 * 512 * 97
    assert step_flops(PUBLISHED["trm_mlp"], training=False) == 42 * per_row
