"""The section `collatz` of the settings: what a run of a learned Lyapunov function reads, with ranges."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from errors import UserError
from options import (
    JUDGING,
    MOST_REPEATS,
    MOST_ROWS,
    Range,
    above_zero,
    anything,
    at_least,
    fraction,
    one_of,
    option,
)
from projects.collatz.hard_pool import TRAINING_SEEDS
from training.projects import ProjectSettings

if TYPE_CHECKING:
    from training.settings.schema import TrainConfig

MOST_LOOKAHEAD = 1000
MOST_LAYERS, WIDEST_LAYER = 64, 65536
MOST_BITS = 4096
bits = at_least(8, MOST_BITS)


class Widths(Range):
    """Of one hidden layer; how many there may be is said of the whole list."""

    words = f"1 to {MOST_LAYERS} widths from 1 to {WIDEST_LAYER}, such as 256,128,64"

    def refusal(self, value: Any) -> str | None:
        return None if 1 <= value <= WIDEST_LAYER else self.words


@dataclass
class CollatzConfig(ProjectSettings):
    """A function V(n) that is to decrease along Collatz orbits; read by nothing else. `epochs` are updates then."""

    preset: str | None = option(
        None,
        "faithful: the source experiment; orbit: a better system; unset = no Collatz run",
        one_of("faithful", "orbit"),
    )
    lookahead: int = option(10, "steps that V sees", at_least(1, MOST_LOOKAHEAD))
    layers: list[int] = option([128, 128, 128], "hidden widths", Widths())

    # -- loss
    margin: float = option(0.05, "by which V is to decrease", at_least(0))
    growth_weight: float = option(10.0, "of steps with T(n) > n, as a multiple of another step's", at_least(0))
    decay_weight: float = option(1.0, "of every step", at_least(0))
    use_t4: bool = option(False, "V(T^4 n) must be below V(n) too, with half the weight", anything)
    use_t8: bool = option(False, "V(T^8 n) likewise, with a fifth", anything)
    target_type: str = option(
        "fixed", "of the anchor ln n + beta drift: beta 0.35, or learned", one_of("fixed", "adaptive")
    )
    decay_start: int = option(1000, "updates with the full anchor", at_least(0))
    decay_len: int = option(5000, "updates over which it falls to a thousandth", at_least(0))
    min_anchor: float = option(0.0, "share of it that stays", fraction)
    tau_start: float = option(0.2, "excess at which orbit's loss is one half, in nats, at the start", above_zero)
    tau_end: float = option(0.01, "the same at the end", above_zero)

    # -- data of preset faithful
    hard_ratio: float = option(0.25, "share of the batch from the orbits of hard seeds", fraction)
    max_bits: int = option(128, "of random numbers", bits)
    curriculum: bool = option(False, "hard seeds join one after the other", anything)
    start_seeds: int = option(30, "those there from the start", at_least(0, len(TRAINING_SEEDS)))
    ramp_len: int = option(25000, "updates until all have joined", at_least(1))
    empty_pool: str = option(
        "reserved-seed",
        "hard rows while there is no hard seed: the orbit of 27, a test orbit, as in the source, or random numbers",
        one_of("reserved-seed", "random"),
    )
    mine_negatives: bool = option(False, "numbers on which V decreases least join the pool", anything)
    mine_interval: int = option(5000, "updates between minings", at_least(1))
    mine_count: int = option(50, "numbers mined each time", at_least(1, MOST_ROWS))
    mine_start_epoch: int = option(0, "no mining before so many updates", at_least(0))
    # -- data of preset orbit
    segment_steps: int = option(32, "steps of one row of orbit's batch", at_least(1, MOST_REPEATS))
    fewest_bits: int = option(200, "of orbit's starts", bits)
    most_bits: int = option(256, "of orbit's starts", bits)
    # -- of both
    decontaminate: bool = option(False, "keep states on test orbits out of training", anything)
    legacy_lr_plateau: bool = option(
        False, "halve the rate when single losses set no record, as in the source", anything
    )

    # -- evaluation
    eval_csv: str | None = option(None, "rows to judge, of projects/collatz/build_eval.py", anything, role=JUDGING)
    eval_interval: int = option(5000, "updates between full evaluations", at_least(1), role=JUDGING)
    quick_eval_interval: int = option(1000, "updates between quick ones", at_least(1), role=JUDGING)
    # The sizes of the samples do shape the data, which leave their orbits out.
    test_starts: int = option(
        200, "orbits of the on-orbit sample that is reported, never trained on", at_least(1, MOST_ROWS)
    )
    validation_starts: int = option(
        40, "likewise of the sample that chooses the best checkpoint", at_least(1, MOST_ROWS)
    )

    unread = frozenset(
        "arch objective floss term hook source step eval guards data_paths data_paths_test data_path evaluators "
        "augment puzzle_emb_lr puzzle_emb_weight_decay freeze_weights eval_batch_size eval_save_outputs "
        "fast_validation_size validation_size max_test_rows fast_eval_delta force_full_eval_every state_dtype".split()
    )
    project_name = "Collatz-ACT-torch"
    command = "python collatz.py"

    @property
    def in_use(self) -> bool:
        return self.preset is not None

    @property
    def epochs_shape_weights(self) -> bool:
        return self.preset == "orbit"  # tau falls from its start to its end over all of them

    @property
    def run_kind(self) -> str:
        return f"collatz-{self.preset}"

    @property
    def float64(self) -> str | None:
        # The source's V is a network's output in float32. Of orbit's, two large ones differ by less than float32 tells.
        return "preset orbit adds ln n to V" if self.preset == "orbit" else None

    def check(self, config: "TrainConfig") -> None:
        if not 1 <= len(self.layers) <= MOST_LAYERS:
            _fail("layers", self.layers, Widths.words)
        if not self.fewest_bits <= self.most_bits:
            _fail("fewest_bits", self.fewest_bits, f"8 to most_bits={self.most_bits}, itself at most {MOST_BITS}")
        if self.preset == "orbit" and self.segment_steps < (8 if self.use_t8 else 4):
            _fail("segment_steps", self.segment_steps, "at least 4, or 8 with use_t8")
        full, quick = self.eval_interval, self.quick_eval_interval
        if full % quick and quick % full:
            _fail("eval_interval", full, f"a multiple or a divisor of quick_eval_interval={quick}")
        if self.legacy_lr_plateau and config.lr_min_ratio != 1.0:
            _fail("legacy_lr_plateau", True, f"a constant rate to lower, found lr_min_ratio={config.lr_min_ratio:g}")


Settings = CollatzConfig


def collatz_of(config: "TrainConfig") -> CollatzConfig:
    """The section of a Collatz run."""
    section: CollatzConfig = getattr(config, "collatz")  # noqa: B009  the section is there when the project is
    return section


def _fail(key: str, value: Any, expected: str) -> None:
    raise UserError(f"option 'collatz.{key}': found {value!r}, expected {expected}")
