"""What the benchmark measures of a run: steps beside their floor, operations, loader, memory, synchronisations."""

import itertools
import re
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from analysis.timing import Timing, seconds_of, timed
from models.act import Batch, act_step, initial_carry
from models.flops import step_flops
from models.products import Product, head_products, total_flops
from models.registry import count_parameters
from scripts.benchmark.setup import DataShape, synthetic_run
from scripts.benchmark.timing import floor_seconds, measure_products
from training.evaluation.answering import evaluating
from training.inference.fixed import OfficialInference
from training.records.provenance import peak_memory
from training.run import Run
from training.settings.schema import TrainConfig
from training.update import UpdateResult, reads_late, settle, train_on_batch

Record = dict[str, Any]
T = TypeVar("T")
Note = Callable[[str], object]  # told what is being measured

PHASES = 4  # notes per preset
WARM_UP_STEPS = 2  # the second update is the first that finds its optimizer state
_SIZES = ("seq_len", "total_len", "vocab_size", "hidden_size", "H_cycles", "L_cycles", "halt_max_steps")
_BATCHES = 4
_LOADER_BATCHES = 20
_FLOOR_PASSES = 4

# FLOP/s of dense bfloat16 products, from the vendors' data sheets. Full names: variants (PCIe, NVL, laptop) differ.
_DENSE_BFLOAT16_PEAK = {
    r"NVIDIA H100 80GB HBM3|NVIDIA H200": 989e12,
    r"NVIDIA A100-(SXM4|PCIE)-(40|80)GB|NVIDIA A100 80GB PCIe": 312e12,
    r"NVIDIA L40S": 362e12,
    r"NVIDIA RTX A6000": 155e12,
    r"NVIDIA GeForce RTX 4090": 165e12,
}


def peak_flops(gpu: str | None, dtype: torch.dtype) -> float | None:
    """The vendor's dense FLOP/s of a GPU by the name that torch reports; None where unknown, or not bfloat16."""
    if gpu is None or dtype != torch.bfloat16:
        return None
    return next((rate for name, rate in _DENSE_BFLOAT16_PEAK.items() if re.fullmatch(name, gpu)), None)


def measure_preset(
    config: TrainConfig, shape: DataShape, repeats: int, note: Note = lambda text: None, *, first: bool = True
) -> Record:
    """Everything about one preset, as docs/speed.md defines it. Errors: `UserError`.

    `first`: nothing large has run in this process. Only then does a CPU's peak memory say something: the resident peak
    cannot be set back, and what was freed is used again without growth.
    """
    peak_before = peak_memory()["rss_bytes"]
    with synthetic_run(config, shape) as run:
        on_cuda = run.device.type == "cuda"
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(run.device)
        note("warm-up")
        step = training_step(run, warm_up=WARM_UP_STEPS)
        # Before any product is timed: its operands would count.
        if on_cuda:
            peak: int | None = torch.cuda.max_memory_allocated(run.device)
        else:
            peak = peak_memory()["rss_bytes"] - peak_before if first else None
        note("training")
        training = measure_training(run, repeats)
        training["flop_counter"] = count_flops(run, step, training=True)
        note("evaluation")
        evaluation = measure_evaluation(run, repeats)
        evaluation["flop_counter"] = count_flops(run, lambda: _evaluation_step(run), training=False)
        note("loader")
        loader = timed(lambda: _next_batch(run), _LOADER_BATCHES, torch.device("cpu"))
        return describe(run) | {
            "training": training,
            "evaluation": evaluation,
            "loader": {
                "seconds": asdict(loader),
                "share": loader.median / (loader.median + training["seconds"]["median"]),
            },
            "peak_memory": {"kind": "cuda_allocated" if on_cuda else "resident_growth", "bytes": peak},
            "syncs_per_step": count_synchronizations(step) if on_cuda else None,
        }


def describe(run: Run) -> Record:
    """What was measured: sizes, arithmetic, optimizer."""
    model = run.model.config
    return {
        "device": run.device.type,
        "gpu": torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else None,
        "dtype": str(model.dtype).removeprefix("torch."),
        "compiled": run.model.is_compiled,
        "threads": torch.get_num_threads(),
        "batch_size": run.config.global_batch_size,
        "accumulation_slices": run.config.accumulation_slices,
        **{name: getattr(model, name) for name in _SIZES},
        "num_params": count_parameters(run.model),
        "optimizer": run.config.optimizer,
        "ema": run.ema is not None,
    }


def training_step(run: Run, warm_up: int = 0) -> Callable[[], object]:
    """A call makes one update, by the code that the loop calls, on the next of a few batches kept on the device.

    As in the loop, its numbers are read at once, or on CUDA when the next update is queued. `warm_up` calls are made.
    """
    batches = itertools.cycle([_on_device(run, _next_batch(run)) for _ in range(_BATCHES)])
    unsettled: list[UpdateResult] = []

    def step() -> None:
        unsettled.extend(train_on_batch(run, next(batches), stop_requested=False))
        while len(unsettled) > reads_late(run):
            settle(run, unsettled.pop(0))

    for _ in range(warm_up):
        step()
    return step


def updates_per_sample(device: torch.device) -> int:
    """Updates between two looks at the clock, which wait for the device; in training its host runs ahead of it."""
    return 8 if device.type == "cuda" else 1


def measure_training(run: Run, repeats: int) -> Record:
    """Whole updates beside the floor of their products; the caller has warmed up."""
    step, updates, dtype = training_step(run), updates_per_sample(run.device), run.model.config.dtype

    def sample() -> float:
        return seconds_of(step, run.device, updates)

    seconds, floor = beside_floor(products_of(run, training=True), dtype, run.device, sample, repeats, repeats)
    return _rates(run, Timing.of(seconds), floor, training=True, steps=1)


def measure_evaluation(run: Run, repeats: int) -> Record:
    """Official inference of a batch, per supervision step. Half as many repeats: each takes `halt_max_steps` steps."""
    steps, dtype, model = run.model.config.halt_max_steps, run.model.config.dtype, run.evaluated_model
    batch, products = _on_device(run, _next_batch(run)), products_of(run, training=False)

    def sample() -> float:
        return seconds_of(lambda: OfficialInference().predict(model, batch), run.device) / steps

    with evaluating(model):
        sample()
        seconds, floor = beside_floor(products, dtype, run.device, sample, max(1, repeats // 2), repeats)
    return _rates(run, Timing.of(seconds), floor, training=False, steps=steps)


def products_of(run: Run, *, training: bool) -> list[Product]:
    """The products of a step as this run makes it: training cuts a batch into its accumulation slices."""
    slices = run.config.accumulation_slices if training else 1
    size = run.config.global_batch_size // slices
    products = run.model.step_products(run.model.config, size, training=training)
    return [replace(product, count=product.count * slices) for product in products]


def beside_floor(
    products: list[Product],
    dtype: torch.dtype,
    device: torch.device,
    sample: Callable[[], T],
    samples: int,
    repeats: int,
) -> tuple[list[T], Record]:
    """What `sample` gave, and the floor: passes over its products made in turn with the samples, median of each.

    A machine that slows down slows both.
    """
    sampled = []
    passes = [measure_products(products, dtype, device, repeats)]
    for turns in np.array_split(range(samples), min(samples, _FLOOR_PASSES - 1)):
        sampled += [sample() for _ in turns]
        passes.append(measure_products(products, dtype, device, repeats))
    typical = {shape: float(np.median([measured[shape] for measured in passes])) for shape in passes[0]}
    floor = {
        "floor_seconds": floor_seconds(products, typical),
        "floor_passes_seconds": [floor_seconds(products, measured) for measured in passes],
        "products": [
            asdict(product) | {"flops": product.flops, "seconds": typical[product.shape]} for product in products
        ],
    }
    return sampled, floor


def _rates(run: Run, timing: Timing, floor: Record, *, training: bool, steps: int) -> Record:
    batch_size = run.config.global_batch_size
    flops = batch_size * step_flops(run.model.config, training=training)
    gpu = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else None
    peak = peak_flops(gpu, run.model.config.dtype)
    return {
        "seconds": asdict(timing),
        "rows_per_second": batch_size / (steps * timing.median),
        "flops": flops,
        "flops_per_second": flops / timing.median,
        "products_flops_per_second": flops / floor["floor_seconds"],
        "share_of_peak": None if peak is None else flops / timing.median / peak,
        "ratio": floor["floor_seconds"] / timing.median,
        **floor,
    }


def count_flops(run: Run, step: Callable[[], object], *, training: bool) -> Record:
    """Operations of a step as torch counts them, and what makes them differ from the closed form.

    `unexplained` is 0 where counter = step + heads + preparation + optimizer - attention + attention_counted,
    `attention` being the closed form's share.
    """
    optimizer = 0
    # What is compiled would be one opaque operation to the counter.
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter, ExitStack() as hooks:

        def add(sign: int) -> None:
            nonlocal optimizer
            optimizer += sign * counter.get_total_flops()

        if run.dense is not None:
            hooks.callback(run.dense.register_step_pre_hook(lambda *_: add(-1)).remove)
            hooks.callback(run.dense.register_step_post_hook(lambda *_: add(1)).remove)
        step()
    config, batch_size = run.model.config, run.config.global_batch_size
    counted = counter.get_flop_counts()["Global"]
    attention = sum(
        product.flops for product in products_of(run, training=training) if product.name.startswith("attention")
    )
    # Batched products of another kind exist where there is no attention.
    attention_counted = (
        0
        if config.mlp_t or config.kind == "srm"
        else sum(flops for operation, flops in counted.items() if _is_attention(str(operation)))
    )
    step_total = int(batch_size * step_flops(config, training=training))
    heads = total_flops(head_products(config, batch_size, training=training))
    slices = run.config.accumulation_slices if training else 1
    preparation = slices * total_flops(run.model.preparation_products(config, training=training))
    total = counter.get_total_flops()
    return {
        "counter": total,
        "heads": heads,
        "preparation": preparation,
        "optimizer": optimizer,
        "attention": attention,
        "attention_counted": attention_counted,
        "unexplained": total - (step_total + heads + preparation + optimizer - attention + attention_counted),
        "explanation": _explanation(attention, attention_counted, optimizer, preparation),
    }


def _is_attention(operation: str) -> bool:
    return "attention" in operation or operation.rsplit(".", 1)[-1] in ("bmm", "baddbmm")


def _explanation(attention: int, counted: int, optimizer: int, preparation: int) -> str:
    seen = ["the counter also sees the heads"]
    if preparation:
        seen.append("the preparation of the weights")
    if optimizer:
        seen.append("the optimizer's products")
    if counted > attention:
        seen.append("scores that the attention kernel makes anew in its backward pass")
    unseen = "; it does not see this device's fused attention" if counted < attention else ""
    return ", ".join(seen) + unseen


def count_synchronizations(step: Callable[[], object]) -> int:
    """How often a step makes the host wait for the CUDA device, as far as torch's debug mode notices."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    # The mode itself also warns, that it is a prototype.
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def _evaluation_step(run: Run) -> None:
    batch = _on_device(run, _next_batch(run))
    model = run.evaluated_model
    with evaluating(model), torch.no_grad():
        act_step(model, initial_carry(model, batch), batch, training=False)


def _next_batch(run: Run) -> Batch:
    batch, run.progress.position = run.source.next(run.progress.position)
    return batch


def _on_device(run: Run, batch: Batch) -> Batch:
    return {key: leaf.to(run.device) for key, leaf in batch.items()}
