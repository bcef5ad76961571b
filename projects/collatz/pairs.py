"""Training data of the source experiment: random numbers of all sizes and hard ones, each with its next states.

A batch is a pure function of (seed, epoch), but for mined numbers: those are chosen by the network as it is at that
epoch, through `feedback`, and are the source's state. One epoch is one update, as in the source.

Source: sampler, curriculum and mining of the learned-Lyapunov experiment.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from dataset.source import Position
from dataset.stream import stream
from errors import UserError
from projects.collatz.decrease import further_states
from projects.collatz.hard_pool import Entries, HardPool, active_seeds, draw
from projects.collatz.kept_out import KeptOut
from projects.collatz.limbs import LIMB_BITS, from_limbs, random_odd_numbers, resized
from projects.collatz.settings import CollatzConfig
from projects.collatz.walk import Batch, DrawnSource, walk

MINED_SAMPLES = 5000
_BATCH, _MINING, _QUICK = 11, 12, 13  # independent streams of one seed
# Updates prepared together: long arrays cost little more than short ones.
_AHEAD = 8

Feedback = Callable[[Batch], Tensor]


class PairSource(DrawnSource):
    """Batches with `logs`, `residues`, `valuations` (see `Walk`), `hard` (B,) bool and `kept` (B,) bool.

    A row with `kept` false has a state on a test orbit, and `decontaminate` is on.
    logs: format of the logarithms, float32 for a device that has no float64.
    feedback: margins V(n) - V(T(n)) (B,) of a batch under the network as it is; needed for mining.
    `overlap` and `drawn` are rows.
    """

    data = "collatz pairs"

    def __init__(
        self,
        settings: CollatzConfig,
        batch_size: int,
        seed: int,
        kept_out: KeptOut,
        feedback: Feedback | None = None,
        logs: type[np.floating[Any]] = np.float64,
    ) -> None:
        super().__init__(settings, batch_size, seed, kept_out)
        self.feedback, self._logs = feedback, logs
        furthest = max([1, *(ahead for ahead, _ in further_states(settings))])
        self._states = furthest + 1
        self.pool = HardPool(kept_out, decontaminate=settings.decontaminate, successors=furthest)
        self._ready: dict[int, tuple[Batch, int]] = {}  # with how many rows have a state on a test orbit
        self._mined_at: int | None = None

    def next(self, position: Position) -> tuple[Batch, Position]:
        epoch = position["iteration"]
        if self._mines_at(epoch) and self._mined_at != epoch:
            self._mine(epoch)
        if epoch not in self._ready:
            self._ready = self._prepare(epoch)
        batch, overlap = self._ready.pop(epoch)
        self.overlap, self.drawn = self.overlap + overlap, self.drawn + self.total_groups
        return batch, {"iteration": epoch + 1, "batch": 0, "cursor": 0}

    def random_rows(self, epoch: int, count: int) -> Batch:
        """`count` random numbers as in training, drawn apart from it: for a quick look at the network."""
        generator = stream(self.seed, _QUICK, epoch, 0)
        return self._walk(self._random(count, generator)).batch()

    def _prepare(self, first: int) -> dict[int, tuple[Batch, int]]:
        """The batches from `first` on, up to the next mining."""
        epochs = [first]
        while len(epochs) < _AHEAD and not self._mines_at(epochs[-1] + 1):
            epochs.append(epochs[-1] + 1)
        drawn = [self._draw(epoch, self.total_groups, self.settings.hard_ratio, _BATCH) for epoch in epochs]
        longest = max(len(limbs) for limbs, _ in drawn)
        limbs = np.concatenate([resized(numbers, longest) for numbers, _ in drawn], axis=1)
        walked = self._walk(limbs)
        overlap = walked.on_test_orbit.any(axis=1)
        kept = ~overlap if self.settings.decontaminate else np.ones(len(overlap), bool)
        whole = walked.batch(hard=np.concatenate([hard for _, hard in drawn]), kept=kept)
        size = self.total_groups
        places = {epoch: slice(i * size, (i + 1) * size) for i, epoch in enumerate(epochs)}
        return {
            epoch: ({name: leaf[place] for name, leaf in whole.items()}, int(overlap[place].sum()))
            for epoch, place in places.items()
        }

    def _walk(self, limbs: np.ndarray) -> Any:
        walked = walk(limbs, self._states, self.settings.lookahead, self._kept_out, window_logs=False)
        return replace(walked, logs=walked.logs.astype(self._logs, copy=False))

    def _draw(self, epoch: int, size: int, hard_ratio: float, kind: int) -> tuple[np.ndarray, np.ndarray]:
        """(limbs, size) numbers, random ones first, and which of them are hard."""
        generator = stream(self.seed, kind, epoch, 0)
        num_hard = int(size * hard_ratio)
        entries = self._entries(epoch)
        if entries is None:
            return self._random(size, generator), np.zeros(size, bool)
        easy = self._random(size - num_hard, generator)
        hard = draw(entries, num_hard, generator, len(easy))
        longest = max(len(easy), len(hard))
        limbs = np.concatenate([resized(easy, longest), resized(hard, longest)], axis=1)
        return limbs, np.arange(size) >= size - num_hard

    def _entries(self, epoch: int) -> Entries | None:
        settings = self.settings
        active = active_seeds(
            epoch, curriculum=settings.curriculum, start_seeds=settings.start_seeds, ramp_len=settings.ramp_len
        )
        entries = self.pool.entries(active)
        if entries is None and settings.empty_pool == "reserved-seed":
            entries = self.pool.reserved()
        return entries

    def _random(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """(limbs, count): k uniform in 2..max_bits - 4, then uniform in [2^k, 2^(k+1)), made odd."""
        top_bits = generator.integers(2, self.settings.max_bits - 3, size=count)
        return random_odd_numbers(top_bits, (self.settings.max_bits - 4) // LIMB_BITS + 1, generator)

    def _mines_at(self, epoch: int) -> bool:
        settings = self.settings
        if not settings.mine_negatives or epoch == 0 or epoch % settings.mine_interval:
            return False
        return epoch >= settings.mine_start_epoch

    def _mine(self, epoch: int) -> None:
        """The numbers on which the network decreases least join the pool."""
        if self.feedback is None:
            raise ValueError("mining needs feedback: the margins of the network")
        limbs, _ = self._draw(epoch, MINED_SAMPLES, 0.5, _MINING)
        walked = self._walk(limbs)
        margins = self.feedback(walked.batch()).cpu().double().numpy()
        if self.settings.decontaminate:
            margins = np.where(walked.on_test_orbit.any(axis=1), np.inf, margins)
        worst = np.argsort(margins, kind="stable")[: self.settings.mine_count]
        self.pool.add(from_limbs(limbs[:, worst]))
        self._mined_at, self._ready = epoch, {}

    def state_dict(self) -> dict[str, Any]:
        """The mined numbers, as decimal text, when they were last mined, and the counts."""
        mined = [str(number) for number in self.pool.mined]
        return {"mined": mined, "mined_at": self._mined_at, **self._counted_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Errors: `UserError` for anything but what `state_dict` gives."""
        try:
            state = self._take_counts(state)
        except ValueError as error:
            raise UserError(f"{error}; use another state") from None
        mined, mined_at = state.get("mined"), state.get("mined_at")
        texts = isinstance(mined, list) and all(
            isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 400 and int(text) % 2
            for text in mined
        )
        if not texts or state.keys() != {"mined", "mined_at"} or not (mined_at is None or type(mined_at) is int):
            raise UserError("the state's source holds no list of mined odd numbers; use another state")
        assert isinstance(mined, list)
        self.pool.restore([int(text) for text in mined])
        self._mined_at, self._ready = mined_at, {}
