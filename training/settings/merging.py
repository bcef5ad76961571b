"""From a plain container to a dataclass: unknown keys with their nearest, values of another type, in one line."""

import functools
import math
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from arguments import nearest_key
from errors import UserError
from options import HUGE
from training.settings.checks import shown
from training.settings.schema import schema_keys

_TRUTH_WORDS = ("true", "false", "yes", "no", "on", "off", "y", "n", "1", "0")


def _type_name(kind: Any) -> str:
    if isinstance(kind, type) and not getattr(kind, "__args__", None):
        return kind.__name__
    return str(kind).replace("typing.", "").replace(" | None", " or null")


def _bad_value(key: str, found: Any, kind: Any) -> UserError:
    return UserError(f"option '{key}': found {shown(found)}, expected {_type_name(kind)}")


def merge_into_schema(raw: Mapping[Any, Any], schema: type) -> Any:
    """Merge a plain container into the dataclass `schema` and return its instance.

    Errors: `UserError` for an unknown key (the nearest valid one is named) and for a value of another type.
    """
    valid = schema_keys(schema)
    _check_keys(raw, "", valid)
    try:
        return OmegaConf.to_object(OmegaConf.merge(_structured(schema), _changed(raw, _defaults(schema), "", valid)))
    except OmegaConfBaseException as error:
        key = (getattr(error, "full_key", None) or "").split("[", 1)[0]
        if key not in valid:
            reason = (str(error).splitlines() or [""])[0]
            raise UserError(f"unreadable settings: {reason}") from None
        found = look_up(raw, key)
        if found is ABSENT:
            raise UserError(f"option '{key}' is required: give {key}=VALUE") from None
        raise _bad_value(key, found, valid[key]) from None
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise UserError(f"unreadable settings: {type(error).__name__}: {error}") from None


@functools.cache
def _structured(schema: type) -> Any:
    """The schema as OmegaConf sees it, made once: that takes more than half of a merge, which works on a copy of it."""
    return OmegaConf.structured(schema)


@functools.cache
def _defaults(schema: type) -> Any:
    return OmegaConf.to_container(_structured(schema))


def _changed(raw: Mapping[Any, Any], defaults: Any, prefix: str, valid: Mapping[str, Any]) -> dict[Any, Any]:
    """What `raw` says beside the defaults: most of a merge is spent on nodes for values that stay as they are."""
    changed = {}
    for name, value in raw.items():
        if is_dataclass(valid[f"{prefix}{name}"]) and isinstance(defaults[name], dict):
            if inside := _changed(value, defaults[name], f"{prefix}{name}.", valid):
                changed[name] = inside
        # By text: 1, 1.0 and True are equal, as 0.0 and -0.0 are.
        elif type(value) is not type(defaults[name]) or repr(value) != repr(defaults[name]):
            changed[name] = value
    return changed


ABSENT = object()


def look_up(raw: Any, key: str) -> Any:
    """What stands under a dotted key in nested containers; `ABSENT` where nothing does."""
    for part in key.split("."):
        if not isinstance(raw, Mapping) or part not in raw:
            return ABSENT
        raw = raw[part]
    return raw


def put(raw: dict[Any, Any], key: str, value: Any) -> None:
    """Set what stands under a dotted key, and make the containers above it.

    Errors: `UserError` where one of these is something else.
    """
    *parents, leaf = key.split(".")
    for parent in parents:
        raw = raw.setdefault(parent, {})
        if not isinstance(raw, dict):
            raise UserError(f"option '{key.rpartition('.')[0]}': found {shown(raw)}, expected keys such as '{key}'")
    raw[leaf] = value


def _check_keys(raw: Mapping[Any, Any], prefix: str, valid: Mapping[str, Any]) -> None:
    for name, value in raw.items():
        key = f"{prefix}{name}"
        if key not in valid or not isinstance(name, str):
            raise UserError(f"unknown option '{key}': the nearest valid key is '{nearest_key(key, valid)}'")
        kind = valid[key]
        if is_dataclass(kind):
            if not isinstance(value, Mapping):
                inner = next(name for name in valid if name.startswith(f"{key}."))
                raise UserError(f"option '{key}': found {shown(value)}, expected keys such as '{inner}'")
            _check_keys(value, f"{key}.", valid)
        elif _is_markup(value) or (isinstance(value, list | tuple) and any(map(_is_markup, value))):
            raise _bad_value(key, value, kind)
        elif kind == list[str] and isinstance(value, list | tuple):
            if not all(isinstance(item, str) for item in value):
                raise _bad_value(key, value, kind)
        elif "bool" in _type_name(kind).split() and not (value is None or _is_truth(value)):
            # OmegaConf would take any number but 0 for true.
            raise _bad_value(key, value, kind)
        elif isinstance(value, int) and abs(value) >= HUGE:
            raise UserError(f"option '{key}': found {shown(value)}, expected an integer below 2^63")
        elif isinstance(value, float) and "int" in _type_name(kind).split():
            # OmegaConf would cut 1.5 down to 1.
            if not math.isfinite(value) or value != int(value):
                raise _bad_value(key, value, kind)


def _is_truth(value: Any) -> bool:
    return value in (True, False) or (isinstance(value, str) and value.lower() in _TRUTH_WORDS)


def _is_markup(value: Any) -> bool:
    # OmegaConf would pass over a missing-value mark, and look up an interpolation (the environment, for one).
    return isinstance(value, str) and (value == "???" or "${" in value)
