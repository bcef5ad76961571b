"""How far a run has come: what is counted while it trains, saved with its state and read by every record of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from dataset.source import START, Position


@dataclass
class Progress:
    """The counters of a run. Each is an entry of the full state under its own name: a new one is a field here."""

    step: int = 0  # updates made
    position: Position = field(default_factory=lambda: dict(START))  # of the next batch
    samples_seen: int = 0  # supervision steps with a gradient, of rows
    extra_passes: int = 0  # supervision steps beside them without one, of rows
    clip_events: int = 0  # updates whose gradient was clipped
    train_seconds: float = 0.0  # of this process, over all sessions, without evaluation and saving
    metric_sums: dict[str, float] = field(default_factory=dict)  # since the last line of the log

    def state_dict(self) -> dict[str, Any]:
        """The counters by name, in containers of their own."""
        values = {counter.name: getattr(self, counter.name) for counter in fields(self)}
        return {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The counters of a full state that `unfit_entry` accepts; its other entries are left alone."""
        progress = cls()
        for counter in fields(cls):
            value = state[counter.name]
            setattr(progress, counter.name, dict(value) if isinstance(value, Mapping) else value)
        return progress

    @classmethod
    def unfit_entry(cls, state: Mapping[str, Any]) -> tuple[str, str] | None:
        """The first counter that a state lacks or holds in another form, and what was expected; None when all fit."""
        for counter in fields(cls):
            fits, expected = _FORMS[counter.type]
            if not fits(state.get(counter.name)):
                return counter.name, expected
        return None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _are_counts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_count(count) for count in value.values())


def _is_duration(value: Any) -> bool:
    return type(value) is float and 0 <= value < float("inf")


def _are_sums(value: Any) -> bool:
    return isinstance(value, Mapping) and all(type(number) is float for number in value.values())


_FORMS: dict[Any, tuple[Any, str]] = {
    int: (_is_count, "a count"),
    float: (_is_duration, "seconds"),
    Position: (_are_counts, "counts"),
    dict[str, float]: (_are_sums, "numbers"),
}
