"""How fast training is here, as a ratio to what this machine's matrix product reaches in the same process.

    python scripts/benchmark.py                          # small models on the CPU
    python scripts/benchmark.py --device cuda --full     # the published Sudoku shapes at batch 768, bfloat16

One JSON line per model: updates per second, closed-form FLOP/s, and `ratio` = FLOP/s of whole updates over FLOP/s
of the model's widest matrix product (same dtype, rows and threads). Seconds differ between machines; the ratio says how
much is lost to everything that is no matrix product. `--floor R` exits 1 below R.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from errors import exit_on_user_error
from models.act import Batch
from models.config import ModelConfig
from models.flops import step_flops
from models.registry import build_model
from training.devices import resolve_device, resolve_dtype
from training.objectives.act_streaming import ACTStreaming
from training.objectives.base import UpdateContext
from training.optim import AdamATan2, SparseSignSGD, merge_gathers

MODELS = {
    "trm_att": ModelConfig("trm", 81, 11, 1),
    "trm_mlp": ModelConfig("trm", 81, 11, 1, mlp_t=True, pos_encodings="none"),
    "hrm": ModelConfig(
        "hrm",
        81,
        11,
        1,
        puzzle_emb_len=0,
        H_cycles=2,
        L_cycles=2,
        H_layers=4,
        L_layers=4,
        no_ACT_continue=False,
    ),
}


def timed(action: Callable[[], None], repeats: int, device: torch.device) -> float:
    """Median seconds of one call, after two calls that do not count."""
    seconds = []
    for index in range(repeats + 2):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index >= 2:
            seconds.append(time.perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2]


def matmul_rate(config: ModelConfig, batch_size: int, device: torch.device, repeats: int) -> float:
    """FLOP/s of the gate/up product over all tokens of a batch."""
    rows, width = batch_size * config.total_len, 2 * config.swiglu_width(config.hidden_size)
    left = torch.randn(rows, config.hidden_size, device=device, dtype=config.dtype)
    right = torch.randn(config.hidden_size, width, device=device, dtype=config.dtype)

    def product() -> None:
        torch.mm(left, right)

    seconds = timed(product, repeats, device)
    return 2.0 * rows * config.hidden_size * width / seconds


def update_seconds(
    config: ModelConfig, batch_size: int, device: torch.device, repeats: int, compile_stacks: bool
) -> float:
    """Median seconds of one update: objective, backward, both optimizers."""
    model = build_model(config).to(device).train()
    if compile_stacks:
        model.compile_stacks()
    optimizer = AdamATan2(model.parameters(), lr=1e-4, weight_decay=1.0)
    assert model.puzzle_emb is not None
    sparse = SparseSignSGD(model.puzzle_emb.weights, lr=1e-4, weight_decay=1.0)
    objective = ACTStreaming("stablemax_cross_entropy")
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, config.vocab_size, (2, batch_size, config.seq_len), generator=generator)
    batch: Batch = {
        "inputs": tokens[0].int().to(device),
        "labels": tokens[1].int().to(device),
        "puzzle_identifiers": torch.zeros(batch_size, dtype=torch.int32, device=device),
    }
    context = UpdateContext(0, 0, slice(0, batch_size), batch_size)

    def update() -> None:
        for output in objective.outputs(model, batch, context):
            (output.loss_sum / batch_size).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        gathered = merge_gathers(model.puzzle_emb.take_gathers()) if model.puzzle_emb is not None else None
        if gathered is not None:
            sparse.step(*gathered)

    return timed(update, repeats, device)


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=sorted(MODELS))
    parser.add_argument("--full", action="store_true", help="published width 512 and batch 768")
    parser.add_argument("--batch-size", type=int, help="default 16, or 768 with --full")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float64"])
    parser.add_argument("--compile", action="store_true", help="compile the stacks")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--floor", type=float, default=0.0, help="exit 1 when a ratio is below")
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    dtype = resolve_dtype(arguments.dtype, device)
    batch_size = arguments.batch_size or (768 if arguments.full else 16)
    failed = False
    for name in arguments.models:
        config = replace(MODELS[name], dtype=dtype)
        if not arguments.full:
            config = replace(config, hidden_size=128, num_heads=4, puzzle_emb_ndim=128)
        reference = matmul_rate(config, batch_size, device, arguments.repeats)
        seconds = update_seconds(config, batch_size, device, arguments.repeats, arguments.compile)
        rate = batch_size * step_flops(config, training=True) / seconds
        failed = failed or rate / reference < arguments.floor
        row = {
            "model": name,
            "device": device.type,
            "dtype": str(dtype).removeprefix("torch."),
            "batch_size": batch_size,
            "threads": torch.get_num_threads(),
            "compiled": arguments.compile,
            "updates_per_second": round(1 / seconds, 4),
            "gflops_per_second": round(rate / 1e9, 2),
            "matmul_gflops_per_second": round(reference / 1e9, 2),
            "ratio": round(rate / reference, 4),
            "floor": arguments.floor,
        }
        print(json.dumps(row), flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
