"""`evaluators` of the settings: a list of names, or of names with options. What they name is in `training/judges/`.

null                                    those that the task of the rows names (`task.judges()`)
[]                                      none beside accuracy
[sudoku]                                `{name: sudoku}` says the same
[{name: sudoku, interval: 4, prefix: rules/}]
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from errors import UserError
from training.rooms import JUDGES
from training.settings.checks import check_ranges, shown
from training.settings.merging import merge_into_schema

Entries = Sequence[Any] | None
# How official settings spell names; ours are the part before the @.
OFFICIAL = {"arc": "arc@ARC"}
# Official evaluators that are not here yet: settings may name them, runs may not.
AWAITED = {"arc": "ARC scoring is not part of this suite yet"}


def listed(entries: Entries) -> list[dict[str, Any]] | None:
    """The list in one form: `{name: NAME}` with the official spelling, and the options that are not at their default.

    Errors: `UserError` for an unknown name or option, and for two entries of one name and prefix.
    """
    if entries is None:
        return None
    found = [_listed(entry) for entry in entries]
    labels = [_label(entry) for entry in found]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise UserError(f"option 'evaluators': found {twice} twice, expected each once, or with prefixes that differ")
    return found


def judge_settings(entries: Sequence[Any]) -> dict[str, Any]:
    """The settings of each evaluator, by what reports call it. Errors: `UserError`, also for what is not here yet."""
    refuse_awaited(entries)
    return {_label(entry): _settings(_name(entry), _options(entry)) for entry in listed(entries) or ()}


def refuse_awaited(entries: Entries) -> None:
    """Errors: `UserError` for official evaluators that do not exist here: nothing is left out in silence."""
    found = listed(entries) or ()
    for name in map(_name, found):
        if name not in JUDGES.names():
            raise UserError(f"evaluators={found}: {AWAITED[name]}; use evaluators=[] (accuracy is always evaluated)")


def name_parts(entries: Entries) -> list[str]:
    """What the names of results say of a list: nothing where it is null."""
    found = listed(entries)
    if found is None:
        return []
    return [_label(entry).replace("/", ".") for entry in found] or ["accuracy"]


def _listed(entry: Any) -> dict[str, Any]:
    given = {"name": entry} if isinstance(entry, str) else entry
    names = sorted({*JUDGES.names(), *AWAITED})
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str) or _name(given) not in names:
        raise UserError(
            f"option 'evaluators': found {shown(entry)}, expected a list of names, or of {{name: NAME}} with options; "
            f"names: {', '.join(names)}"
        )
    name, options = _name(given), _options(given)
    if name in JUDGES.names():
        settings, plain = _settings(name, options), JUDGES.settings_class(name)()
        values = {item.name: getattr(settings, item.name) for item in fields(settings)}
        options = {key: value for key, value in values.items() if value != getattr(plain, key)}
    return {"name": OFFICIAL.get(name, name), **options}


def _name(entry: Mapping[str, Any]) -> str:
    return next((name for name, official in OFFICIAL.items() if official == entry["name"]), str(entry["name"]))


def _options(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "name"}


def _label(entry: Mapping[str, Any]) -> str:
    return f"{entry.get('prefix', '')}{_name(entry)}"


def _settings(name: str, options: Mapping[str, Any]) -> Any:
    try:
        settings = merge_into_schema(options, JUDGES.settings_class(name))
        check_ranges(settings)
    except UserError as error:
        raise UserError(f"evaluators, {name}: {error}") from None
    return settings
