"""The schema of every training run: plain dataclasses, one truth for yaml files, command lines, run folders.

Names without a note are the official TRM/HRM ones and mean what they mean there. The classes hold no logic;
`training.settings.resolving.resolve` merges, checks and completes a plain dictionary into a `TrainConfig`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints


@dataclass
class LossConfig:
    """Loss head."""

    name: str = "act_loss"  # one head; the official string losses@ACTLossHead maps to it
    loss_type: str = "stablemax_cross_entropy"  # | stablemax_cross_entropy_float32 | softmax_cross_entropy


@dataclass
class ArchConfig:
    """Architecture. Defaults are TRM's; `resolving.ARCH_DEFAULTS` holds what differs for HRM and SRM."""

    name: str = "trm"  # trm | hrm | srm; the official class strings map to these
    loss: LossConfig = field(default_factory=LossConfig)
    halt_exploration_prob: float = 0.1  # probability per row and step of a minimum number of steps
    halt_max_steps: int = 16  # supervision steps at most; evaluation takes all of them unless eval.* says otherwise
    H_cycles: int = 3
    L_cycles: int = 6
    H_layers: int = 0  # ignored by trm, whose one stack has L_layers blocks
    L_layers: int = 2
    hidden_size: int = 512
    num_heads: int = 8
    expansion: float = 4.0  # SwiGLU width is round(expansion * width * 2/3), rounded up to swiglu_multiple
    swiglu_multiple: int = 256  # not an official option: the official code has this number written in
    puzzle_emb_ndim: int = 512  # values per puzzle identifier; hidden_size when not given, 0 = no table
    puzzle_emb_len: int = 16  # prefix slots; 0 = ceil(puzzle_emb_ndim / hidden_size)
    pos_encodings: str = "rope"  # rope | learned | none
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    forward_dtype: str | None = None  # official name of TrainConfig.dtype; moved there, then null
    mlp_t: bool = False  # mix tokens by an MLP over the sequence axis instead of attention
    no_ACT_continue: bool = True  # halt on q_halt > 0, with no second forward pass for a continue target
    alpha: float = 0.5  # srm: weight of the new state in an application of its map, above 0 and at most 1
    kappa: float = 0.9  # srm: bound of the joint gain, 0.85 to 0.95; a map contracts by 1 - alpha + alpha * kappa


@dataclass
class GuardConfig:
    """What happens when a run shows signs of a known fault (collapse, non-finite values)."""

    mode: str = "warn"  # warn | abort | off
    after_updates: int = 1000  # updates before the first check


@dataclass
class EvalConfig:
    """How evaluation answers rows, in training and in evaluate.py. The defaults are the official evaluation."""

    max_steps: int | None = field(
        default=None, metadata={"help": "supervision steps, more or fewer than in training; null = arch.halt_max_steps"}
    )
    adaptive_halt: bool = field(
        default=False, metadata={"help": "a row stops where q_halt says so, at the latest after max_steps"}
    )
    vote: int = field(
        default=1, metadata={"help": "symmetric views of each Sudoku whose answers vote; 1 = the puzzle alone"}
    )
    sigma: list[float] = field(
        default_factory=list,
        metadata={"help": "noise scales: also report accuracy from perturbed starts; a run does at its end"},
    )
    sigma_grid: list[float] = field(
        default_factory=list, metadata={"help": "in a run, the same at every full validation, on the fast rows"}
    )
    site: str = field(default="both", metadata={"help": "z_H | z_L | both: what is perturbed"})
    rollouts: int = field(default=4, metadata={"help": "perturbed starts of each row and noise scale"})


@dataclass
class EvaluateConfig(EvalConfig):
    """`eval.*` of evaluate.py: those of a run, and stochastic rollouts, which have no part in a run."""

    sigma: list[float] = field(
        default_factory=list,
        metadata={
            "help": "a number: stochastic rollouts, noise of this scale at every supervision step; a list: also report "
            "accuracy from perturbed starts of these scales"
        },
    )
    rollouts: int = field(
        default=4, metadata={"help": "stochastic rollouts of each row, or perturbed starts of each row and noise scale"}
    )
    inference: str | None = field(
        default=None,
        metadata={"help": "stochastic_rollouts | perturbed_starts; null = by eval.sigma, a number or a list"},
    )
    noise_seed: int = field(default=0, metadata={"help": "seed of the noise of stochastic rollouts"})
    clean_first: bool = field(default=False, metadata={"help": "the first stochastic rollout has no noise"})
    judged_steps: list[int] = field(
        default_factory=list,
        metadata={"help": "steps after which stochastic rollouts are judged; default: max_steps, its half and quarter"},
    )
    stability_sizes: list[float] = field(
        default_factory=lambda: [1e-3],
        metadata={"help": "sizes d0 / |z| of the probes of a rollout's stability; the first one selects; [] = none"},
    )
    stability_steps: int = field(default=4, metadata={"help": "supervision steps that a probe is followed for"})
    stability_directions: int = field(default=2, metadata={"help": "probes of each rollout and size"})


@dataclass
class ObjectiveConfig:
    """How a batch becomes an update. All but the name are read by the objectives on perturbed trajectories only."""

    name: str = "act_streaming"  # | baseline_ce | single_perturbed_ce | multi_perturbed_ce
    rollout: str = "parallel_fixed"  # | serial_act | act_mask
    num_trajectories: int = 1  # K per puzzle, the clean one of multi_perturbed_ce included
    perturb: str = "both"  # z_H | z_L | both, and as controls input | weights
    noise_sampling: str = "fixed"  # fixed | loguniform | mixture
    sigma: float = 1e-3  # of fixed and mixture
    sigma_min: float = 3e-5  # ends of loguniform
    sigma_max: float = 3e-3
    p_clean: float = 0.5  # of mixture: probability that a trajectory is not perturbed
    clean_warmup_steps: int = 0  # updates without perturbation at the start
    sigma_ramp_steps: int = 0  # further updates over which every sigma grows from 0 to its value
    mask_normalize: str = "trajectory"  # of serial_act and act_mask: | valid_steps


@dataclass
class FlossConfig:
    """Gradient flossing: Lyapunov exponents of the model's inference are pushed towards a target. Off = no trace."""

    mode: str = "off"  # | pre (before training) | inter (during it) | pre_inter
    weight: float = 1.0  # of its gradient in an update; 0 = off
    k: int = 4  # exponents per puzzle
    target: float = 0.0  # nats per unit
    unit: str = "step"  # | sub_update: what exponents and window are counted in
    window: int = 1  # units over which exponents are measured, with a graph
    warmup: int = 1  # supervision steps before the window in which tangents align, without a graph
    qr_interval: int = 1  # sub-updates between two QRs
    where: str = "all"  # anywhere from the start | late (the last steps) | failed (late, rows not solved at the end)
    rows: int | None = 8  # the first so many slots of the batch; null = all
    every: int = 1  # inter: at every so many-th update, beside the task's loss
    pre_steps: int = 100  # pre: first updates, which floss and do nothing else
    clip: float | None = 1.0  # norm to which its gradient is clipped, before the weight


@dataclass
class CollatzConfig:
    """A function V(n) that is to decrease along Collatz orbits; read by nothing else. `epochs` are updates then."""

    preset: str | None = None  # faithful (the source experiment) | orbit; null = no Collatz run
    lookahead: int = 10  # valuations that V sees
    layers: list[int] = field(default_factory=lambda: [128, 128, 128])  # hidden widths

    # -- loss
    margin: float = 0.05  # by which V is to decrease
    growth_weight: float = 10.0  # of a step with T(n) > n, as a multiple of another step's
    decay_weight: float = 1.0  # of every step
    use_t4: bool = False  # V(T^4 n) below V(n) too, with half the weight
    use_t8: bool = False  # V(T^8 n) with a fifth
    target_type: str = "fixed"  # | adaptive: the drift coefficient of the anchor is learned
    decay_start: int = 1000  # updates with the full anchor
    decay_len: int = 5000  # updates over which it falls to a thousandth
    min_anchor: float = 0.0  # share of the anchor that does not fall
    tau_start: float = 0.2  # of preset orbit: where its loss is half a violation, in nats; at the start and at the end
    tau_end: float = 0.01

    # -- data of preset faithful
    hard_ratio: float = 0.25  # share of the batch from the orbits of hard seeds
    max_bits: int = 128
    curriculum: bool = False  # the hard seeds join one after the other
    start_seeds: int = 30  # those there from the start
    ramp_len: int = 25000  # updates until all have joined
    empty_pool: str = "reserved-seed"  # | random: what stands in for the pool while it is empty
    mine_negatives: bool = False  # numbers on which V decreases least join the pool
    mine_interval: int = 5000  # updates
    mine_count: int = 50
    mine_start_epoch: int = 0
    # -- data of preset orbit
    segment_steps: int = 32  # steps of one row of the batch
    fewest_bits: int = 200  # of the starts
    most_bits: int = 256
    # -- of both
    decontaminate: bool = False  # steps on test orbits are not trained on
    legacy_lr_plateau: bool = False  # the rate is halved when single losses set no record, as in the source

    # -- evaluation
    eval_csv: str | None = None  # of projects/collatz/build_eval.py
    eval_interval: int = 5000  # updates between full evaluations
    quick_eval_interval: int = 1000  # updates between quick ones
    test_starts: int = 200  # orbits of the on-orbit sample, never trained on
    validation_starts: int = 40  # likewise of the sample that chooses the best checkpoint


@dataclass
class WandbConfig:
    """Weights & Biases. No key here on purpose: wandb reads it from its own environment."""

    mode: str = "disabled"  # disabled | offline | online
    project: str | None = None  # null = project_name
    entity: str | None = None


@dataclass
class TrainConfig:
    """One training run."""

    arch: ArchConfig = field(default_factory=ArchConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    floss: FlossConfig = field(default_factory=FlossConfig)
    collatz: CollatzConfig = field(default_factory=CollatzConfig)

    # -- data
    data_paths: list[str] = field(default_factory=list)  # dataset folders
    data_paths_test: list[str] = field(default_factory=list)  # empty = data_paths
    data_path: str | None = None  # HRM's name of data_paths=[X]; moved there, then null
    evaluators: list[Any] = field(default_factory=list)  # [{name: arc@ARC}]

    # -- length
    global_batch_size: int = 768  # rows per update, over all processes
    epochs: int = 100000  # passes over the groups; sets the planned number of updates
    eval_interval: int | None = 10000  # epochs between evaluations; null = one at the end
    checkpoint_every_eval: bool = True  # write step_N at every evaluation of eval_interval, not only at the end
    checkpoint_every_fast_eval: bool = False  # not in the official code: likewise at those of fast_eval_interval

    # -- optimization
    lr: float = 1e-4
    lr_min_ratio: float = 1.0  # end of the cosine as a fraction of lr; 1 = constant
    lr_warmup_steps: int = 2000  # updates
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    puzzle_emb_weight_decay: float = 0.1
    puzzle_emb_lr: float = 1e-2
    seed: int = 0
    min_eval_interval: int | None = 0  # epochs before the first evaluation
    eval_save_outputs: list[str] = field(default_factory=list)
    ema: bool = False
    ema_rate: float = 0.999
    freeze_weights: bool = False  # train the puzzle table only

    # -- names
    project_name: str | None = None  # null = <Data folder>-ACT-torch
    run_name: str | None = None  # null = <arch>-<hash of the settings>: the same command finds its own folder
    load_checkpoint: str | None = None  # official name of init_from; moved there, then null
    checkpoint_path: str | None = None  # run folder; null = checkpoints/<project_name>/<run_name>

    # -- not in the official code: run control
    max_steps: int | None = None  # stop after so many updates
    max_hours: float | None = None  # stop (and save) after so many hours of this process
    resume: str = "auto"  # auto | never | must | FILE (a full state)
    init_from: str | None = None  # weights to start from, at update 0
    checkpoint_interval: int | None = 1000  # updates between saves of latest_state.pt; null = at evaluations only
    keep_last: int | None = None  # step_N files kept; null = all
    archive_best: bool = True  # keep best/step_N/ with all that explains the best checkpoint
    archive_keep: int = 1  # newest archives kept

    # -- not in the official code: training
    optimizer: str = "adam_atan2"  # adam_atan2 | adamw | muon (matrices of the stacks; adamw for the rest)
    grad_clip_norm: float | None = None
    accumulation_slices: int = 1  # slices of the batch whose gradients are summed before one update
    augment: str = "auto"  # auto | stored | on_the_fly | none
    device: str = "auto"  # auto | cpu | mps | cuda | cuda:N
    dtype: str = "auto"  # auto | float64 | float32 | bfloat16: activations
    # The same names: z_H and z_L. auto = dtype, with an objective other than act_streaming float32: bfloat16 would
    # round small perturbations away.
    state_dtype: str = "auto"
    compile: bool | None = None  # null = on CUDA, unless the variable DISABLE_COMPILE is set (officially named)
    threads: int | None = None  # CPU threads; null = torch's own choice
    collective_timeout_seconds: float = 600.0  # a process that waits longer for the others fails

    # -- not in the official code: evaluation
    eval_batch_size: int | None = None  # null = global_batch_size
    fast_validation_size: int = 256  # the part of the validation rows that a fast evaluation looks at
    validation_size: int = 1024  # test rows that choose the best checkpoint and are never reported
    max_test_rows: int | None = None  # null = all the rest
    fast_eval_interval: int | None = None  # updates between evaluations on the validation rows only
    fast_eval_delta: float = 0.0  # gain of exact accuracy that triggers a full evaluation
    force_full_eval_every: int = 4  # a full evaluation at the latest after so many fast ones
    early_stop_patience: int | None = None  # evaluations without a better one
    eval: EvalConfig = field(default_factory=EvalConfig)  # how rows are answered

    # -- not in the official code: reports
    log_interval: int = 10  # updates between lines of metrics.jsonl
    status_interval_seconds: float = 60.0  # between writes of status.json
    guards: GuardConfig = field(default_factory=GuardConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)


def schema_keys(schema: type) -> dict[str, Any]:
    """Every dotted key of a dataclass with its type, inner nodes (themselves dataclasses) included."""
    return dict(_walk(schema, ""))


def _walk(schema: type, prefix: str) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(schema)
    for item in fields(schema):
        kind = hints[item.name]
        yield prefix + item.name, kind
        if is_dataclass(kind) and isinstance(kind, type):
            yield from _walk(kind, f"{prefix}{item.name}.")
