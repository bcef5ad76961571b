"""Flags made from settings: their type, choices and help are those of the setting's field."""

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from errors import UserError
from options import Choices, Setting, settings_of
from training.settings.schema import TrainConfig


def destination(flag: str) -> str:
    """`--batch-size` as the name under which argparse keeps its value."""
    return flag.removeprefix("--").replace("-", "_")


def state_file(given: str) -> Path:
    """The file that `--resume-state` names. Errors: `UserError` where there is none, whatever the name."""
    path = Path(os.path.expanduser(given))
    if not os.path.isfile(path):
        raise UserError(f"--resume-state {given}: there is no such file; name a state such as RUN/latest_state.pt")
    return path


def add_setting_flags(
    parser: argparse.ArgumentParser,
    title: str,
    flags: Mapping[str, str],
    *,
    differs: Mapping[str, Mapping[str, Any]] | None = None,
    defaults: Mapping[str, str] | None = None,
) -> argparse._ArgumentGroup:
    """Add a group of flags that set settings: their type, choices and help are those of the setting's field.

    flags: each with the dotted key it sets. differs: by flag, what argparse is told instead. defaults: by key, what
    help says of the value without the flag.
    """
    settings = {setting.key: setting for setting in settings_of(TrainConfig)}
    group = parser.add_argument_group(title)
    for flag, key in flags.items():
        own = (differs or {}).get(flag, {})
        keywords = {**_keywords(settings[key]), **own}
        said = (defaults or {}).get(key, "" if own.get("default") is None else own["default"])
        keywords["help"] = (keywords["help"] + (f" ({said})" if said else "")).replace("%", "%%")
        if keywords.get("choices") or keywords.get("action"):
            keywords.pop("metavar", None)
        if keywords.get("action"):
            keywords.pop("type", None)
        group.add_argument(flag, **keywords)
    return group


def _keywords(setting: Setting) -> dict[str, Any]:
    kinds = set(getattr(setting.kind, "__args__", ())) | {setting.kind}
    words = {"help": setting.help}
    if bool in kinds:
        return words | {"action": argparse.BooleanOptionalAction}
    if isinstance(setting.range, Choices):
        return words | {"choices": setting.range.names}
    for kind, metavar in ((int, "N"), (float, "X")):
        if kind in kinds:
            return words | {"type": kind, "metavar": metavar}
    return words | {"metavar": "TEXT"}


def in_flags(error: UserError, flags: Mapping[str, str]) -> UserError:
    """The same message with flags where it names options: `--batch-size: found 0` for `option 'global_batch_size'`.

    flags: by key, or by text such as `resume=FILE`. A key that is a plain word (`seed`) counts as a quoted option only.
    """
    words = [rf"(?<=option '){key}(?=')" for key in flags if key.isalpha()]
    keys = [re.escape(key) + r"(?!\w)" * key[-1].isalnum() for key in sorted(flags, key=len)[::-1] if not key.isalpha()]
    names = "|".join([*keys, *words])
    text = re.sub(rf"(?<![\w./-])(?:settings\.)?({names})", lambda match: flags[match[1]], str(error))
    return UserError(re.sub(r"option '(--[\w-]+)'", r"\1", text))
