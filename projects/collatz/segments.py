"""Training data along orbits: random starts of 200 bits and more, walked down, cut into segments of consecutive states.

A segment of S + 1 states gives S steps for S + 1 passes of a network. The starts never repeat, so neither do the data;
towards their ends orbits pass all smaller sizes. A batch is a pure function of (seed, position).
"""

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from dataset.source import Position
from dataset.stream import stream
from projects.collatz.kept_out import KeptOut
from projects.collatz.limbs import LIMB_BITS, from_limbs, random_odd_numbers
from projects.collatz.settings import CollatzConfig
from projects.collatz.walk import Batch, DrawnSource, Walk, walk

_STARTS, _QUICK = 21, 22  # independent streams of one seed
SEGMENTS_PER_START = 16


class SegmentSource(DrawnSource):
    """Batches with `logs` (B, S+1+L), `residues` (B, S+1), `valuations` (B, S+L), `kept` (B, S) bool by step.

    B segments of S steps each. A step is kept out where it starts at 1 (the orbit has ended) and, with
    `decontaminate`, where either end lies on a test orbit.
    `overlap` and `drawn` are steps, on a test orbit where one of their ends is.
    """

    data = "collatz orbit segments"

    def __init__(self, settings: CollatzConfig, batch_size: int, seed: int, kept_out: KeptOut) -> None:
        super().__init__(settings, batch_size, seed, kept_out)
        # A block is a whole number of batches: so many starts give SEGMENTS_PER_START segments each.
        self._block_starts = batch_size * max(1, 128 // batch_size)
        self._batches = self._block_starts * SEGMENTS_PER_START // batch_size
        self._block: tuple[int, dict[str, np.ndarray]] | None = None

    def next(self, position: Position) -> tuple[Batch, Position]:
        epoch = position["iteration"]
        number, index = divmod(epoch, self._batches)
        if self._block is None or self._block[0] != number:
            self._block = number, self._make(number)
        rows = slice(index * self.total_groups, (index + 1) * self.total_groups)
        arrays = {name: array[rows] for name, array in self._block[1].items()}
        tested, going = arrays.pop("tested"), arrays.pop("going")
        self.overlap += int((tested & going).sum())
        self.drawn += int(going.sum())
        nothing = np.empty((0, 0))
        walked = Walk(arrays.pop("logs"), arrays.pop("residues"), arrays.pop("valuations"), nothing, nothing)
        return walked.batch(**arrays), {"iteration": epoch + 1, "batch": 0, "cursor": 0}

    def starts(self, number: int) -> list[int]:
        """The starts of a block."""
        return from_limbs(self._random(self._block_starts, stream(self.seed, _STARTS, number, 0)))

    def random_rows(self, epoch: int, count: int) -> Batch:
        """`count` random numbers as the starts are, drawn apart from them: for a quick look at the network."""
        limbs = self._random(count, stream(self.seed, _QUICK, epoch, 0))
        return walk(limbs, 2, self.settings.lookahead, self._kept_out, window_logs=True).batch()

    def _random(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """(limbs, count) odd numbers."""
        settings = self.settings
        bits = generator.integers(settings.fewest_bits, settings.most_bits + 1, size=count)
        return random_odd_numbers(bits - 1, -(-settings.most_bits // LIMB_BITS), generator)

    def _make(self, number: int) -> dict[str, np.ndarray]:
        """All segments of a block, in random order."""
        settings = self.settings
        generator = stream(self.seed, _STARTS, number, 0)
        limbs = self._random(self._block_starts, generator)
        steps, lookahead = settings.segment_steps, settings.lookahead
        walked = walk(limbs, steps * SEGMENTS_PER_START + 1, lookahead, self._kept_out, window_logs=True)
        tested = walked.on_test_orbit[:, :-1] | walked.on_test_orbit[:, 1:]
        going = ~walked.at_one[:, :-1]
        kept = going & ~tested if settings.decontaminate else going
        widths = {"logs": steps + 1 + lookahead, "residues": steps + 1, "valuations": steps + lookahead}
        arrays = {"logs": walked.logs, "residues": walked.residues, "valuations": walked.valuations}
        of_steps = {"kept": kept, "tested": tested, "going": going}
        widths, arrays = widths | dict.fromkeys(of_steps, steps), arrays | of_steps
        order = generator.permutation(self._block_starts * SEGMENTS_PER_START)
        return {
            name: sliding_window_view(array, widths[name], axis=1)[:, ::steps].reshape(-1, widths[name])[order]
            for name, array in arrays.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """The counts: beside them the position is all there is."""
        return self._counted_state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Errors: `ValueError` for anything but counts."""
        if state := self._take_counts(state):
            raise ValueError(f"the state's source holds {sorted(state)}, but orbit segments keep none")
