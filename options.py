"""How a setting is declared: its default, what it means and which values it may have, in one place.

    lr: float = option(1e-4, "learning rate", at_least(0))
    mode: str = option("off", "when exponents are pushed", one_of("off", "pre", "inter"))
    floss: FlossConfig = section(FlossConfig, "gradient flossing")

Checks, `--help`, the flags of scripts and a run's identity are read off these fields. A field without a range is a
mistake that `Setting.range` raises, so that a new setting cannot be open by neglect; `anything` says that it is meant.
"""

import copy
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, make_dataclass
from typing import Any, get_type_hints

HUGE = 2**63
# Counts that multiply what is computed or held: a larger one is a slip of the keyboard or a hostile file, and would end
# in no answer or no memory.
MOST_REPEATS, MOST_LAYERS, MOST_CHANNELS, MOST_ROWS = 100_000, 1_024, 1 << 17, 1 << 24
# Of a setting that decides nothing of what is computed (where a run is placed, when it stops), and of one that decides
# only how it is judged.
CONTROL, JUDGING = "control", "judging"
REQUIRED = MISSING


class Range:
    """Which values a setting may have; here whatever the type of the field admits."""

    def refusal(self, value: Any) -> str | None:
        """None for a value in range, else what was expected, in words. Called for each item of a list."""
        return None

    @property
    def words(self) -> str:
        """The range as `--help` shows it, empty where there is nothing to say."""
        return ""


@dataclass(frozen=True)
class Numbers(Range):
    """From `low` to `high`, which belong to the range unless they are open. Never NaN or infinite."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def refusal(self, value: Any) -> str | None:
        if not isinstance(value, int | float):
            return "a number"
        if isinstance(value, int) and abs(value) >= HUGE:
            return "an integer below 2^63"
        if not math.isfinite(value):
            return "a finite number"
        low = value > self.low if self.low_open else value >= self.low
        high = value < self.high if self.high_open else value <= self.high
        return None if low and high else self.words

    @property
    def words(self) -> str:
        if self.high == math.inf:
            if self.low == 0:
                return "a number above 0" if self.low_open else "0 or more"
            return "a finite number" if self.low == -math.inf else f"at least {_short(self.low)}"
        low = f"above {_short(self.low)}" if self.low_open else f"from {_short(self.low)}"
        join = " and at most" if self.low_open else " to"
        high = "2^63 - 1" if self.high == HUGE - 1 else _short(self.high)
        return f"a number {low}{join}{' below' if self.high_open else ''} {high}"


def _short(number: float) -> str:
    return f"{number:.0f}" if float(number).is_integer() and abs(number) < 1e9 else f"{number:g}"


@dataclass(frozen=True)
class Choices(Range):
    """One of these names."""

    names: tuple[str, ...]

    def refusal(self, value: Any) -> str | None:
        return None if value in self.names else f"one of: {', '.join(self.names)}"

    @property
    def words(self) -> str:
        return " | ".join(self.names)


IN_UTF8 = "a text in UTF-8, which settings are written in; rename what it names"


def is_utf8(text: str) -> bool:
    """False where a command line or a folder had bytes that are no UTF-8, which Python keeps as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


@dataclass(frozen=True)
class Text(Range):
    """A visible text on one line."""

    expected: str = "a name or path of at least one visible character on one line"

    def refusal(self, value: Any) -> str | None:
        if not isinstance(value, str):
            return self.expected
        if not is_utf8(value):
            return IN_UTF8
        return None if value.strip() and not {"\0", "\n"} & set(value) else self.expected


anything = Range()
text = Text()
finite = Numbers()
above_zero = Numbers(0, low_open=True)
fraction = Numbers(0, 1)


def at_least(low: float, high: float = math.inf) -> Numbers:
    """Numbers from `low`, or from `low` to `high`."""
    return Numbers(low, high)


def one_of(*names: str) -> Choices:
    return Choices(names)


def option(default: Any, help: str, range: Range, *, role: str | None = None) -> Any:
    """A setting with its default, its meaning, its range and (`CONTROL`, `JUDGING`) what it does not decide.

    None as a default admits null; it is in every range. A list is in a range when all of its items are. A setting
    that must be given has `REQUIRED` for its default.
    """
    metadata = {"help": help, "range": range, "role": role}
    if default is REQUIRED:
        return field(metadata=metadata)
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(schema: type, help: str, *, role: str | None = None) -> Any:
    """A field that holds the settings `schema`; `role` holds for all of them."""
    return field(default_factory=schema, metadata={"help": help, "role": role})


def with_default(schema: type, name: str, default: Any) -> Any:
    """The setting `name` of `schema` with another default, for a class that inherits it."""
    inherited = next(item for item in fields(schema) if item.name == name)
    return field(default=default, metadata=inherited.metadata)


def extended(schema: type, module: str, additions: Sequence[tuple[str, Any, Any]]) -> type:
    """`schema` with further fields (name, type, `option` or `section`), under the same name."""
    made = make_dataclass(schema.__name__.lstrip("_"), list(additions), bases=(schema,))
    made.__module__, made.__doc__ = module, schema.__doc__
    return made


@dataclass(frozen=True)
class Setting:
    """One setting of a schema: `key` is dotted, `kind` its type, `default` None for a section."""

    key: str
    kind: Any
    help: str
    default: Any
    role: str | None
    field: Field

    @property
    def range(self) -> Range:
        """Errors: `TypeError` for a field that declares none."""
        declared = self.field.metadata.get("range")
        if not isinstance(declared, Range):
            raise TypeError(f"setting {self.key} declares no range")
        return declared

    @property
    def is_section(self) -> bool:
        return is_dataclass(self.kind)

    def refusal(self, value: Any) -> str | None:
        """What was expected instead of `value`, None where it may be so."""
        if value is None:
            return None
        items = value if isinstance(value, list | tuple) else [value]
        return next((words for words in map(self.range.refusal, items) if words is not None), None)


@functools.cache
def _kinds(schema: type) -> dict[str, Any]:
    """Types of the fields by name; a schema is walked many times, and its annotations are looked up once."""
    return get_type_hints(schema)


def settings_of(schema: type, prefix: str = "", role: str | None = None) -> Iterator[Setting]:
    """Every setting of a schema, sections included (before what they hold), in the order of declaration."""
    kinds = _kinds(schema)
    for item in fields(schema):
        kind = kinds[item.name]
        own_role = role or item.metadata.get("role")
        default = None
        if not is_dataclass(kind):
            default = item.default if item.default_factory is MISSING else item.default_factory()
        key = prefix + item.name
        yield Setting(key, kind, item.metadata.get("help", ""), default, own_role, item)
        if is_dataclass(kind) and isinstance(kind, type):
            yield from settings_of(kind, f"{key}.", own_role)
