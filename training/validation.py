"""When to evaluate fully, what is best so far, when to give up: decisions, without any evaluation in them."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Best:
    """The best full validation so far."""

    value: float
    step: int
    numerator: int
    denominator: int


@dataclass
class ValidationRecord:
    """Gate, best value and patience of a run. Plain values, saved with the state.

    A full validation follows a fast one when that improves on the *best* fast value by more than `delta`
    (not on the previous one: after a bad value any value would), at the latest after `force_every` fast
    ones, and always the first and the last time.
    """

    delta: float = 0.0
    force_every: int = 4
    patience: int | None = None
    best: Best | None = None
    best_fast: float | None = None
    fast_since_full: int = 0
    full_without_gain: int = 0
    last_fast_step: int | None = None
    last_full_step: int | None = None
    history: list[dict[str, float]] = field(default_factory=list)

    def wants_full(self, fast_value: float, step: int, *, last: bool = False) -> bool:
        """Note a fast value; True when a full validation is due now."""
        first = self.best_fast is None
        improved = self.best_fast is None or fast_value > self.best_fast + self.delta
        if improved:
            self.best_fast = fast_value
        self.last_fast_step = step
        self.fast_since_full += 1
        return first or last or improved or self.fast_since_full >= self.force_every

    def note_full(self, value: float, numerator: int, denominator: int, step: int) -> bool:
        """Note a full value; True when it is a new best. Ties keep the earlier checkpoint."""
        self.fast_since_full = 0
        self.last_full_step = step
        self.history.append({"step": step, "value": value, "numerator": numerator, "denominator": denominator})
        if self.best is not None and value <= self.best.value:
            self.full_without_gain += 1
            return False
        self.best = Best(value, step, numerator, denominator)
        self.full_without_gain = 0
        return True

    @property
    def exhausted(self) -> bool:
        """Early stop: `patience` full validations in a row brought no gain."""
        return self.patience is not None and self.full_without_gain >= self.patience

    def state_dict(self) -> dict[str, Any]:
        kept = asdict(self)
        return {key: kept[key] for key in kept if key not in ("delta", "force_every", "patience")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key, value in state.items():
            setattr(self, key, Best(**value) if key == "best" and value is not None else value)
