"""`key=value` arguments of scripts without Hydra, and what --help says of every setting."""

import shlex
import sys
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import MISSING, is_dataclass
from typing import Any

import yaml

from arguments import nearest_key, warn_of_two
from errors import UserError, say
from help_texts import keep_help
from options import IN_UTF8, is_utf8, settings_of
from training.settings.checks import check_ranges
from training.settings.merging import merge_into_schema, put
from training.settings.older_names import move_older_names, todays_name
from training.settings.schema import schema_keys


def parse_key_values(argv: Sequence[str], schema: type, *, description: str = "") -> Any:
    """Read `key=value` arguments into an instance of the dataclass `schema`.

    Text fields take the value as it is (no quoting needed; `null` where None is allowed); others are read as
    yaml, so lists are written `[a,b]`; a field of a nested dataclass is `outer.inner`. A leading `+` is
    accepted. `--help` or `-h` prints the fields, with the text in their metadata `help`, and exits 0. Errors:
    `UserError` for an unknown key (the nearest valid one is named), a bad value, a missing required field.
    """
    valid = schema_keys(schema)
    if any(text in ("-h", "--help") for text in argv):
        title = description or (schema.__doc__ or "").strip()
        text = "\n".join([title.strip(), "", "options (key=value):", *setting_lines(schema)])
        keep_help(f"{text}\n")
        say(*text.split("\n"))
        sys.exit(0)
    refuse_flags(argv, valid)
    raw: dict[str, Any] = {}
    older: dict[str, Any] = {}
    typed: dict[str, str] = {}
    for text in argv:
        refuse_undecoded(text)
        key, equals, value = text.lstrip("+").partition("=")
        if not equals or not key:
            first = next(iter(valid))
            raise UserError(f"cannot read '{text}': expected key=value such as {first}=VALUE; --help lists the keys")
        if (name := todays_name(key, valid)) is not None:
            older[key] = _read_value(key, value, valid.get(name, str | None))
            continue
        if key not in valid:
            raise UserError(f"unknown option '{key}' in '{text}': the nearest valid key is '{nearest_key(key, valid)}'")
        if is_dataclass(valid[key]):
            inner = next(name for name in valid if name.startswith(f"{key}."))
            raise UserError(f"cannot read '{text}': expected keys such as '{inner}'")
        if typed.get(key, value) != value:
            warn_of_two(key, typed[key], value)
        typed[key] = value
        put(raw, key, _read_value(key, value, valid[key]))
    move_older_names(raw, schema, older)
    options = merge_into_schema(raw, schema)
    check_ranges(options)
    return options


def refuse_undecoded(word: str) -> None:
    """Errors: `UserError` for a word of a command line that is no UTF-8, before anything quotes or parses it."""
    if not is_utf8(word):
        key, _, value = word.partition("=")
        raise UserError(f"option '{key}': found {value!r}, expected {IN_UTF8}")


def refuse_flags(argv: Sequence[str], keys: Collection[str]) -> None:
    """Errors: `UserError` with the right spelling of the first `--key value` or `--key=value`, as flags have it."""
    for position, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        key = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and key in keys:
            if not equals:
                following = argv[position + 1 : position + 2]
                value = following[0] if following and not following[0].startswith("-") else "VALUE"
            raise UserError(f"{flag!r} is written {key}={shlex.quote(value)} here")


def _read_value(key: str, value: str, kind: Any) -> Any:
    optional = type(None) in getattr(kind, "__args__", ())
    if not value.strip():  # as of a shell variable that is not set
        raise UserError(f"option '{key}': found nothing, expected a value{', or null for none' * optional}")
    if optional and value.lower() in ("null", "none", "~"):
        return None
    if kind is str or str in getattr(kind, "__args__", ()) and "list" not in str(kind):
        # OmegaConf reads ${...} as an interpolation, and nothing is there to be interpolated.
        if "${" in value:
            raise UserError(f"option '{key}': found {value!r}, expected a text or path")
        return value
    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(f"option '{key}': cannot read {value!r}") from None


def setting_lines(schema: type) -> list[str]:
    """Every setting with its default, range and meaning: those of a section after the plain ones, under a heading."""
    settings = {setting.key: setting for setting in settings_of(schema)}
    lines: list[str] = []
    for section in ("", *(key for key, setting in settings.items() if setting.is_section)):
        if section:
            lines += ["", f"  {section}.*: {settings[section].help}"]
        for key, setting in settings.items():
            if key.rpartition(".")[0] == section and not setting.is_section:
                default = "required" if setting.default is MISSING else f"default {_written(setting.default)}"
                said = "; ".join(filter(None, (default, setting.range.words, setting.help)))
                start, indent = f"  {key:<28} ", " " * 31
                lines += textwrap.wrap(
                    said, 120, initial_indent=start, subsequent_indent=indent, break_on_hyphens=False
                )
    return lines


def _written(value: Any) -> str:
    """A default as a command line has it."""
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)
