"""How arms and runs are named: by network and objective, and by what sets them apart from the others."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from options import JUDGING, settings_of
from training.records.provenance import settings_sha256
from training.settings.schema import TrainConfig

_LABELLED = 3  # settings named in a label before the rest is counted
_MULTIPLES = {"global_batch_size": "batch", "updates": "updates"}
_OBJECTIVES = {"baseline_ce": "baseline", "single_perturbed_ce": "single", "multi_perturbed_ce": "multi"}
_JUDGING = {setting.key for setting in settings_of(TrainConfig) if setting.role == JUDGING}


def arm_labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label for each arm, no two alike: network and objective, and what sets apart arms that share them.

    Of those the first is what multiples of batch and updates are of: `TRM baseline`, `TRM baseline (4× batch)`.
    """
    short = [_short_label(of_arm) for of_arm in settings]
    labels = []
    for of_arm, label in zip(settings, short, strict=True):
        alike = [other for other, its in zip(settings, short, strict=True) if its == label]
        words = [_difference(name, of_arm.get(name), alike[0].get(name)) for name in apart(of_arm, alike)]
        different = shortened([word for word in words if word])
        labels.append(f"{label} ({different})" if different else label)
    # Settings beyond those that a label has room for.
    return told_apart(labels, settings)


def of_many_trajectories(label: str) -> bool:
    """Whether a label is of an arm with several perturbed trajectories a puzzle; reports of before say it at length."""
    return re.search(r"\bmulti(\d|_perturbed_ce)", label) is not None


def apart(settings: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the settings in which one of the groups stands apart: others differ, and most are not as it is.

    So of four arms the one that is like the others but for its rate is named by the rate alone, and they are not. What
    only judges a run is named where nothing else sets it apart, a planned length where the length does not say it.
    """
    names = []
    for name in dict.fromkeys(name for others in groups for name in others):
        alike = sum(others.get(name) == settings.get(name) for others in groups)
        if 2 * alike <= len(groups):
            names.append(name)
    if "updates" in names:
        names = [name for name in names if name != "epochs"]
    return [name for name in names if name not in _JUDGING] or names


def _difference(name: str, value: Any, first: Any) -> str:
    """`4× batch` where it is a multiple of what the first arm has, nothing where it is as that, else name and value."""
    if name not in _MULTIPLES or not all(type(number) is int and number > 0 for number in (value, first)):
        return f"{name}={value}"
    if value == first:
        return ""
    return f"{name}={value}" if value % first else f"{value // first}× {_MULTIPLES[name]}"


def _short_label(settings: Mapping[str, Any]) -> str:
    """Network and objective, as the registered runs name them: `HRM baseline`, `HRM multi4 loguniform`."""
    words = [str(settings.get("arch.name", "run")).upper()]
    name = settings.get("objective.name")
    if name is not None:
        number = settings.get("objective.num_trajectories") if name == "multi_perturbed_ce" else ""
        words.append(f"{_OBJECTIVES.get(name, name)}{number}")
    if str(name).endswith("perturbed_ce"):
        words.append(str(settings.get("objective.noise_sampling")))
    return " ".join(words)


def shortened(words: Sequence[str]) -> str:
    """The first words, and how many more there are: `lr=0.1, beta1=0.5, beta2=0.5, 2 more`."""
    rest = [f"{len(words) - _LABELLED} more"] if len(words) > _LABELLED else []
    return ", ".join([*words[:_LABELLED], *rest])


def told_apart(labels: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The labels, with some digits of the hash of its settings where two are alike."""
    return [
        label if labels.count(label) == 1 else f"{label} {settings_sha256(its_settings)[:6]}"
        for label, its_settings in zip(labels, settings, strict=True)
    ]


def names_of_folders(folders: Sequence[Path]) -> list[str]:
    """The names of folders; where two share one, all by their paths."""
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [folder.as_posix() for folder in folders]
