"""Older spellings of settings, which command lines and files of runs may still have: one table to today's names.

They are not taught: `--help` and documents have today's names only. A setting enters the hash of a run under its first
name (`first_name`), so that a new one renames no run.
"""

from collections.abc import Mapping
from typing import Any

from errors import UserError
from training.settings.checks import shown
from training.settings.merging import ABSENT, look_up, put
from training.settings.schema import schema_keys

OLDER_NAMES = {
    "eval.vote": "eval.vote.views",
    "eval.sigma": "eval.perturbed_starts.sigma",
    "eval.rollouts": "eval.perturbed_starts.starts",
    "eval.site": "eval.perturbed_starts.site",
    "eval.sigma_grid": "eval.during.sigma_grid",
    "eval.noise_seed": "eval.stochastic_rollouts.noise_seed",
    "eval.clean_first": "eval.stochastic_rollouts.clean_first",
    "eval.judged_steps": "eval.stochastic_rollouts.judged_steps",
    "eval.stability_sizes": "eval.stochastic_rollouts.probes.sizes",
    "eval.stability_steps": "eval.stochastic_rollouts.probes.steps",
    "eval.stability_directions": "eval.stochastic_rollouts.probes.directions",
}
# Three names stood for one thing or the other: for these where stochastic rollouts were asked for, by a number as
# eval.sigma or by eval.inference.
OF_ROLLOUTS = {
    "eval.sigma": "eval.stochastic_rollouts.sigma",
    "eval.rollouts": "eval.stochastic_rollouts.rollouts",
    "eval.site": "eval.stochastic_rollouts.site",
}
INFERENCE = "eval.inference"
INFERENCES = {
    "stochastic_rollouts": "a noise scale: eval.stochastic_rollouts.sigma=0.3",
    "perturbed_starts": "noise scales: eval.perturbed_starts.sigma=[0.1,0.3]",
}
# What the other stability_* meant where the sizes were not given.
PROBED = ("eval.stochastic_rollouts.probes.sizes", [1e-3])

_FIRST_NAMES = {today: older for older, today in OLDER_NAMES.items()}


def first_name(key: str) -> str:
    """The name under which a setting came into being."""
    return _FIRST_NAMES.get(key, key)


def todays_name(key: str, valid: Mapping[str, Any]) -> str | None:
    """Today's name of an older one, for reading its value; None for a key that is none, or not of the schema `valid`.

    Which of two it is may depend on other settings: `move_older_names` knows.
    """
    if key == INFERENCE and OF_ROLLOUTS["eval.sigma"] in valid:
        return key
    name = OLDER_NAMES.get(key)
    return name if name in valid else None


def move_older_names(raw: dict[Any, Any], schema: type, given: Mapping[str, Any] | None = None) -> None:
    """Move what stands under older names in the nested `raw` to today's, in place.

    given: values by older name that could not stand in `raw` beside today's (`eval.vote` is a section there).
    Errors: `UserError` where an older name and today's have different values, and where `eval.inference` is unclear.
    """
    valid = schema_keys(schema)
    older = {**_taken_out(raw, valid), **(given or {})}
    rollouts = OF_ROLLOUTS["eval.sigma"] in valid and _asks_for_rollouts(older, raw)
    inference = older.pop(INFERENCE, None)
    for name, value in older.items():
        key = OF_ROLLOUTS.get(name, OLDER_NAMES[name]) if rollouts else OLDER_NAMES[name]
        if name == "eval.sigma" and rollouts:
            value = _one_scale(value)
        elif name == "eval.sigma" and inference == "perturbed_starts" and _is_number(value):
            value = [value]
        refuse_difference(name, value, key, look_up(raw, key))
        put(raw, key, value)
    if inference is not None and look_up(raw, f"eval.{inference}.sigma") in (ABSENT, None, []):
        raise UserError(f"option '{INFERENCE}': {inference} needs {INFERENCES[inference]}")
    probes = [name for name in ("eval.stability_steps", "eval.stability_directions") if name in older]
    if probes and look_up(raw, PROBED[0]) is ABSENT:
        put(raw, *PROBED)


def refuse_difference(older: str, value: Any, key: str, found: Any) -> None:
    """Errors: `UserError` where today's name has another value than the older one; absent is no other."""
    if found is not ABSENT and _plain(found) != _plain(value):
        raise UserError(f"{older}={shown(value)} and {key}={shown(found)} say different things: give {key} only")


def _taken_out(raw: dict[Any, Any], valid: Mapping[str, Any]) -> dict[str, Any]:
    """What stands under older names of the schema. A mapping there is a section, such as eval.vote."""
    found = {}
    for name in (*OLDER_NAMES, INFERENCE):
        value = look_up(raw, name) if todays_name(name, valid) is not None else ABSENT
        if value is not ABSENT and not isinstance(value, Mapping):
            *parents, leaf = name.split(".")
            node = raw
            for parent in parents:
                node = node[parent]
            found[name] = node.pop(leaf)
    return found


def _asks_for_rollouts(older: Mapping[str, Any], raw: Mapping[Any, Any]) -> bool:
    inference = older.get(INFERENCE)
    if inference is not None:
        if inference not in list(INFERENCES):
            raise UserError(f"option '{INFERENCE}': found {shown(inference)}, expected one of: {', '.join(INFERENCES)}")
        return inference == "stochastic_rollouts"
    if "eval.sigma" in older:
        return _is_number(older["eval.sigma"])
    return look_up(raw, OF_ROLLOUTS["eval.sigma"]) not in (ABSENT, None)


def _one_scale(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return value
    if len(value) != 1:
        scales = ", ".join(map(str, value)) or "none"
        raise UserError(
            f"option 'eval.sigma': found {scales[:100]}, expected one noise scale for stochastic rollouts, such as 0.3"
        )
    return value[0]


def _is_number(value: Any) -> bool:
    number = _plain(value)
    return isinstance(number, int | float) and not isinstance(number, bool)


def _plain(value: Any) -> Any:
    """For comparison: texts that are numbers, as yaml leaves 1e-3, as numbers."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
