"""The schema of every training run: plain dataclasses, one truth for yaml files, command lines, run folders.

Names without a note are the official TRM/HRM ones and mean what they mean there. A field carries its help, its range
and, where it does not shape the weights, its role (`options.py`); `training.settings.resolving.resolve` merges, checks
and completes a plain dictionary into a `TrainConfig`.
"""

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from models.config import Architecture, ModelConfig
from models.registry import MODELS
from options import (
    CONTROL,
    HUGE,
    JUDGING,
    MOST_CHANNELS,
    MOST_REPEATS,
    MOST_ROWS,
    Numbers,
    Range,
    Text,
    above_zero,
    anything,
    at_least,
    extended,
    finite,
    fraction,
    one_of,
    option,
    section,
    settings_of,
    text,
)
from training.projects import settings_classes
from training.rooms import HOOKS, INFERENCES, OBJECTIVES, STEPS, TERMS

DTYPES = ("auto", "float64", "float32", "bfloat16")
OBJECTIVE_NAMES = tuple(OBJECTIVES.classes())
MAX_RATE = 1e30  # larger ones overflow float32 inside the optimizers
rate = at_least(0, MAX_RATE)
below_one = Numbers(0, 1, high_open=True)
paths = Text("paths of dataset folders")


class NameOfRun(Text):
    """A name or a path below checkpoints/."""

    def refusal(self, value: Any) -> str | None:
        if value.startswith("/") or ".." in value.split("/"):
            return "a name inside checkpoints/; use checkpoint_path=DIR for another place"
        return super().refusal(value)


class Device(Range):
    words = "auto | cpu | mps | cuda | cuda:N"

    def refusal(self, value: Any) -> str | None:
        known = re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", value)
        return None if known else "one of: auto, cpu, mps, cuda, cuda:N"


@dataclass
class LossConfig:
    """Loss head."""

    name: str = option("act_loss", "the one head; officially losses@ACTLossHead", anything)
    loss_type: str = option(
        "stablemax_cross_entropy",
        "token loss; the first computes in float64, officially",
        one_of("stablemax_cross_entropy", "stablemax_cross_entropy_float32", "softmax_cross_entropy"),
    )


@dataclass
class _ArchConfig(Architecture):
    """Architecture. Defaults are TRM's; a model's own `Config` holds what differs for it, and what only it reads."""

    name: str = option("trm", f"{' | '.join(MODELS)}; the official class strings map to these", anything)
    loss: LossConfig = section(LossConfig, "loss head")
    forward_dtype: str | None = option(None, "official name of dtype; moved there, then null", anything)


@dataclass
class GuardConfig:
    """What happens when a run shows signs of a known fault (collapse, non-finite values)."""

    mode: str = option("warn", "what a guard does", one_of("warn", "abort", "off"))
    after_updates: int = option(1000, "updates before the first check", at_least(0))


@dataclass
class DuringConfig:
    """What a run measures while it trains, at every full validation."""

    sigma_grid: list[float] = option(
        [],
        "noise scales: accuracy from perturbed starts on the fast rows, by starts and site of eval.perturbed_starts",
        at_least(0),
    )


@dataclass
class AnswerConfig:
    """How rows are answered, in training and in evaluate.py. The defaults are the official evaluation."""

    max_steps: int | None = option(
        None, "supervision steps, more or fewer than in training; null = arch.halt_max_steps", at_least(1, MOST_REPEATS)
    )
    adaptive_halt: bool = option(False, "a row stops where q_halt says so, at the latest after max_steps", anything)


@dataclass
class _EvalConfig(AnswerConfig):
    """`eval.*` of a run."""

    during: DuringConfig = section(DuringConfig, "what a run measures at every full validation")


@dataclass
class _EvaluateConfig(AnswerConfig):
    """`eval.*` of evaluate.py."""


if TYPE_CHECKING:
    EvalConfig = _EvalConfig
    EvaluateConfig = _EvaluateConfig
else:
    EvalConfig = INFERENCES.section(_EvalConfig, lambda kind: kind.in_runs)
    EvaluateConfig = INFERENCES.section(_EvaluateConfig)


@dataclass
class _ObjectiveConfig:
    """How a batch becomes an update. What an objective reads beside the name is declared in its own file."""

    name: str = option(
        "act_streaming",
        "pretraining, or one on perturbed trajectories; found in `training/objectives/`",
        one_of(*OBJECTIVE_NAMES),
    )

    @property
    def in_use(self) -> bool:
        """Whether it is another objective than that of pretraining, which reads nothing here."""
        return self.name != "act_streaming"


@dataclass
class FlossConfig:
    """Gradient flossing: Lyapunov exponents of the model's inference are pushed towards a target. Off = no trace."""

    mode: str = option("off", "before training, during it, or both", one_of("off", "pre", "inter", "pre_inter"))
    weight: float = option(1.0, "of its gradient in an update; 0 = off", at_least(0))
    k: int = option(4, "exponents per puzzle", at_least(1, MOST_CHANNELS))
    target: float = option(0.0, "where they are pushed, nats per unit", finite)
    unit: str = option("step", "what exponents and window are counted in", one_of("step", "sub_update"))
    window: int = option(1, "units over which exponents are measured, with a graph", at_least(1, MOST_REPEATS))
    warmup: int = option(
        1, "supervision steps before the window in which tangents align, without a graph", at_least(0, MOST_REPEATS)
    )
    qr_interval: int = option(1, "sub-updates between two QRs", at_least(1, MOST_REPEATS))
    where: str = option(
        "all",
        "windows anywhere from the start, late (the last steps), or of failed rows (late, not solved at the end)",
        one_of("all", "late", "failed"),
    )
    rows: int | None = option(8, "the first so many slots of the batch; null = all", at_least(1, MOST_ROWS))
    every: int = option(1, "inter: at every so many-th update, beside the task's loss", at_least(1))
    pre_steps: int = option(100, "pre: first updates, which floss and do nothing else", at_least(0))
    clip: float | None = option(1.0, "norm to which its gradient is clipped, before the weight", above_zero)

    @property
    def in_use(self) -> bool:
        """Whether the run flosses at all: a weight of 0 is off."""
        return self.mode != "off" and self.weight != 0


@dataclass
class TermConfig:
    """Losses beside the objective's, found in `training/terms/`."""


@dataclass
class HookConfig:
    """Things around an update that are no loss, found in `training/hooks/`."""


@dataclass
class SourceConfig:
    """Where training batches come from."""

    steps: list[str] = option(
        [],
        "what is done with drawn rows, in this order; found in `dataset/steps/`",
        one_of(*STEPS.names()),
    )

    @property
    def in_use(self) -> bool:
        return bool(self.steps)


@dataclass
class StepConfig:
    """Settings of the steps that `source.steps` names."""


@dataclass
class WandbConfig:
    """Weights & Biases. No key here on purpose: wandb reads it from its own environment."""

    mode: str = option("disabled", "where metrics go beside metrics.jsonl", one_of("disabled", "offline", "online"))
    project: str | None = option(None, "null = project_name", text)
    entity: str | None = option(None, "team or user; null = wandb's own default", text)


@dataclass
class _TrainConfig:
    """One training run."""

    arch: _ArchConfig = section(_ArchConfig, "the network")
    objective: _ObjectiveConfig = section(_ObjectiveConfig, "how a batch becomes an update")
    floss: FlossConfig = section(FlossConfig, "gradient flossing")
    term: TermConfig = section(TermConfig, "losses beside the objective's")
    hook: HookConfig = section(HookConfig, "what happens around an update")
    source: SourceConfig = section(SourceConfig, "where batches come from")
    step: StepConfig = section(StepConfig, "what the steps of the source read")

    # -- data
    data_paths: list[str] = option([], "dataset folders", paths)
    data_paths_test: list[str] = option(
        [], "folders whose test rows are judged; empty = data_paths", paths, role=JUDGING
    )
    data_path: str | None = option(None, "HRM's name of data_paths=[X]; moved there, then null", anything, role=CONTROL)
    evaluators: list[Any] | None = option(
        None,
        "what is judged beside accuracy, found in `training/judges/`: names, or {name: NAME} with options; null = what "
        "the task of the rows names, [] = nothing",
        anything,
        role=JUDGING,
    )

    # -- length
    global_batch_size: int = option(768, "rows per update, over all processes", at_least(1, MOST_ROWS))
    epochs: int = option(100000, "passes over the groups; sets the planned number of updates", at_least(1))
    eval_interval: int | None = option(10000, "epochs between evaluations; null = one at the end", at_least(1))
    checkpoint_every_eval: bool = option(
        True, "write step_N at every evaluation of eval_interval, not only at the end", anything, role=CONTROL
    )
    checkpoint_every_fast_eval: bool = option(
        False, "likewise at those of fast_eval_interval (not an official option)", anything, role=CONTROL
    )

    # -- optimization
    lr: float = option(1e-4, "learning rate", rate)
    lr_min_ratio: float = option(1.0, "end of the cosine as a fraction of lr; 1 = constant", fraction)
    lr_warmup_steps: int = option(2000, "updates over which the rates grow from 0", at_least(0))
    beta1: float = option(0.9, "decay of the first moment", below_one)
    beta2: float = option(0.95, "decay of the second moment", below_one)
    weight_decay: float = option(0.1, "decoupled, of all weights but the puzzle table", rate)
    puzzle_emb_weight_decay: float = option(0.1, "of the puzzle table", rate)
    puzzle_emb_lr: float = option(1e-2, "learning rate of the puzzle table", rate)
    seed: int = option(0, "of weights, data order, exploration and noise", Numbers(0, HUGE - 1))
    min_eval_interval: int | None = option(0, "epochs before the first evaluation", at_least(0), role=JUDGING)
    eval_save_outputs: list[str] = option([], "fields of predictions that are saved", anything, role=CONTROL)
    ema: bool = option(False, "evaluate and export an average of the weights", anything)
    ema_rate: float = option(0.999, "decay of that average per update", fraction)
    evaluate_weights: str | None = option(
        None,
        "which weights are evaluated and exported; null = ema where it is on, else raw",
        one_of("raw", "ema", "swa"),
        role=JUDGING,
    )
    freeze_weights: bool = option(False, "train the puzzle table only", anything)

    # -- names
    project_name: str | None = option(None, "null = <Data folder>-ACT-torch", NameOfRun(), role=CONTROL)
    run_name: str | None = option(
        None, "null = <arch>-<hash of the settings>: the same command finds its own folder", NameOfRun(), role=CONTROL
    )
    load_checkpoint: str | None = option(
        None, "official name of init_from; moved there, then null", anything, role=CONTROL
    )
    checkpoint_path: str | None = option(
        None, "run folder; null = checkpoints/<project_name>/<run_name>", text, role=CONTROL
    )

    # -- not in the official code: run control
    max_steps: int | None = option(None, "stop after so many updates", at_least(1), role=CONTROL)
    max_hours: float | None = option(
        None, "stop (and save) after so many hours of this process", above_zero, role=CONTROL
    )
    resume: str = option("auto", "auto | never | must | FILE (a full state)", text, role=CONTROL)
    init_from: str | None = option(None, "weights to start from, at update 0", text, role=CONTROL)
    checkpoint_interval: int | None = option(
        1000, "updates between saves of latest_state.pt; null = at evaluations only", at_least(1), role=CONTROL
    )
    keep_last: int | None = option(None, "step_N files kept; null = all", at_least(1), role=CONTROL)
    archive_best: bool = option(
        True, "keep best/step_N/ with all that explains the best checkpoint", anything, role=CONTROL
    )
    archive_keep: int = option(1, "newest archives kept", at_least(1), role=CONTROL)

    # -- not in the official code: training
    optimizer: str = option(
        "adam_atan2", "muon: of the stacks' matrices, adamw for the rest", one_of("adam_atan2", "adamw", "muon")
    )
    grad_clip_norm: float | None = option(None, "norm to which gradients are clipped; null = never", above_zero)
    accumulation_slices: int = option(
        1, "slices of the batch whose gradients are summed before one update", at_least(1, MOST_ROWS), role=CONTROL
    )
    augment: str = option(
        "auto", "symmetric views: the stored ones, or drawn anew", one_of("auto", "stored", "on_the_fly", "none")
    )
    device: str = option("auto", "where the network is; auto = a GPU where there is one", Device(), role=CONTROL)
    dtype: str = option("auto", "of activations", one_of(*DTYPES))
    state_dtype: str = option(
        "auto",
        "of z_H and z_L; auto = dtype, with an objective other than act_streaming float32, as bfloat16 would round "
        "small perturbations away",
        one_of(*DTYPES),
    )
    compile: bool | None = option(
        None,
        "of the stacks; null or auto = on CUDA, and on a CPU in float32 where a C++ compiler works and the planned "
        "updates repay it, unless the variable DISABLE_COMPILE is set (officially named)",
        anything,
        role=CONTROL,
    )
    compile_mode: str = option(
        "default",
        "what torch.compile tries; reduce-overhead: CUDA graphs, for small networks",
        one_of("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
        role=CONTROL,
    )
    threads: int | None = option(None, "CPU threads; null = torch's own choice", at_least(1, 1_024), role=CONTROL)
    collective_timeout_seconds: float = option(
        600.0, "a process that waits longer for the others fails", above_zero, role=CONTROL
    )

    # -- not in the official code: evaluation
    eval_batch_size: int | None = option(None, "null = global_batch_size", at_least(1, MOST_ROWS), role=CONTROL)
    fast_validation_size: int = option(
        256, "validation rows that a fast evaluation looks at", at_least(0), role=JUDGING
    )
    validation_size: int = option(
        1024, "test rows that choose the best checkpoint and are never reported", at_least(0), role=JUDGING
    )
    max_test_rows: int | None = option(None, "null = all the rest", at_least(1), role=JUDGING)
    fast_eval_interval: int | None = option(
        None, "updates between evaluations on the validation rows only", at_least(1), role=JUDGING
    )
    fast_eval_delta: float = option(
        0.0, "gain of exact accuracy that triggers a full evaluation", at_least(0), role=JUDGING
    )
    force_full_eval_every: int = option(
        4, "a full evaluation at the latest after so many fast ones", at_least(1), role=JUDGING
    )
    early_stop_patience: int | None = option(
        None, "evaluations without a better one after which a run ends", at_least(1), role=JUDGING
    )
    eval: EvalConfig = section(EvalConfig, "how rows are answered", role=JUDGING)

    # -- not in the official code: reports
    log_interval: int = option(10, "updates between lines of metrics.jsonl", at_least(1), role=CONTROL)
    status_interval_seconds: float = option(60.0, "between writes of status.json", at_least(0), role=CONTROL)
    guards: GuardConfig = section(GuardConfig, "signs of known faults", role=JUDGING)
    wandb: WandbConfig = section(WandbConfig, "Weights & Biases", role=CONTROL)


def _fields_of_objectives() -> list[tuple[str, Any, Any]]:
    """What objectives read, each setting once."""
    kinds = dict.fromkeys(OBJECTIVES.classes().values())
    return [
        (item.name, item.type, option(item.default, item.metadata["help"], item.metadata["range"]))
        for kind in kinds
        for item in fields(kind)
    ]


def _fields_of_single_models() -> list[tuple[str, Any, Any]]:
    """What only one model's `Config` has, such as srm's alpha."""
    shared = {item.name for item in fields(ModelConfig)}
    configs = dict.fromkeys(model.Config for model in MODELS.values())
    return [
        (item.name, item.type, option(item.default, item.metadata["help"], item.metadata["range"]))
        for config in configs
        for item in fields(config)
        if item.name not in shared
    ]


if TYPE_CHECKING:
    ArchConfig = _ArchConfig

    class ObjectiveConfig(_ObjectiveConfig):
        """What objectives read is known at run time only."""

        def __init__(self, name: str = "", **settings: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    @dataclass
    class TrainConfig(_TrainConfig):
        objective: ObjectiveConfig = section(ObjectiveConfig, "")
else:
    # What models, projects, terms and hooks bring, each from its own file or folder.
    ArchConfig = extended(_ArchConfig, __name__, _fields_of_single_models())
    ObjectiveConfig = extended(_ObjectiveConfig, __name__, _fields_of_objectives())
    _found = [("arch", ArchConfig, "the network"), ("objective", ObjectiveConfig, "how a batch becomes an update")]
    for room, base in ((TERMS, TermConfig), (HOOKS, HookConfig), (STEPS, StepConfig)):
        _found.append((room.key, room.section(base), base.__doc__))
    _found += [(name, kind, kind.__doc__) for name, kind in settings_classes().items()]
    TrainConfig = extended(
        _TrainConfig,
        __name__,
        [(name, kind, section(kind, help)) for name, kind, help in _found],
    )


def schema_keys(schema: type) -> dict[str, Any]:
    """Every dotted key of a dataclass with its type, inner nodes (themselves dataclasses) included."""
    return {setting.key: setting.kind for setting in settings_of(schema)}
