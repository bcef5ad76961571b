"""What the source says of settings, as claims on pairs of arms that differ in those settings only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Settings = Mapping[str, Any]
IsPair = Callable[[Settings, Settings], bool]


@dataclass(frozen=True)
class Claim:
    """A finding on pairs of arms. worse: whether it says that the second of a pair is worse, or else better.

    keys: the settings in which a pair may differ. is_pair: of (first, second), given that they differ in these only.
    """

    name: str
    claim: str
    source: str
    keys: frozenset[str]
    is_pair: IsPair
    worse: bool
    metrics: tuple[str, ...] = ("orbits", "pass", "on_orbit")


_MINING = frozenset(f"collatz.mine_{name}" for name in ("negatives", "interval", "count", "start_epoch"))


def changes(key: str, before: object, after: object) -> IsPair:
    return lambda first, second: first[key] == before and second[key] == after


def _rises(key: str) -> IsPair:
    return lambda first, second: first[key] < second[key]


def _falls(key: str) -> IsPair:
    return lambda first, second: first[key] > second[key]


def _gentler(first: Settings, second: Settings) -> bool:
    return bool(
        first["collatz.mine_negatives"]
        and second["collatz.mine_negatives"]
        and second["collatz.mine_count"] <= first["collatz.mine_count"]
        and second["collatz.mine_interval"] >= first["collatz.mine_interval"]
        and second["collatz.mine_start_epoch"] >= first["collatz.mine_start_epoch"]
    )


def _weights(settings: Settings) -> int:
    widths = settings["collatz.layers"]
    return int(sum(a * b for a, b in zip(widths, [*widths[1:], 1], strict=True)))


_LOOKAHEAD = frozenset({"collatz.lookahead"})
RATE = frozenset({"collatz.legacy_lr_plateau", "lr_min_ratio"})
CLAIMS = (
    Claim("mining", "mining hurts", "source, runs 3 and 5: 80 and 64 violations of 429, 95.68 and 97.22 % passed",
          _MINING, changes("collatz.mine_negatives", False, True), worse=True),
    Claim("gentler_mining", "mining fewer numbers, less often or later hurts less", "the source's idea to try", _MINING,
          _gentler, worse=False),
    Claim("lookahead", "a longer lookahead helps", "source, runs 5 and 6, lookahead 10 and 20: 64 and 58 violations",
          _LOOKAHEAD, _rises("collatz.lookahead"), worse=False),
    Claim("ramp", "a faster curriculum helps", "source, runs 2 and 3, ramp 100,000 and 50,000: 87 and 80 violations",
          frozenset({"collatz.ramp_len"}), _falls("collatz.ramp_len"), worse=False),
    Claim("adaptive", "an adaptive target helps", "the source's idea to try", frozenset({"collatz.target_type"}),
          changes("collatz.target_type", "fixed", "adaptive"), worse=False),
    Claim("smaller", "a smaller network helps", "the source's idea to try: the present one may overfit",
          frozenset({"collatz.layers"}), lambda first, second: _weights(first) > _weights(second), worse=False),
    Claim("test_orbits", "the five orbits come out better because they are trained on",
          "not the source's: 49 training seeds share most states of four of the five", frozenset(
              {"collatz.decontaminate", "collatz.empty_pool"}),
          changes("collatz.decontaminate", False, True), worse=True, metrics=("orbits",)),
)  # fmt: skip
