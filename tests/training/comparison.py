"""How far two recorded updates are apart, and the data on which they are compared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dataset.build_maze_dataset import main as build_mazes
from dataset.build_mini_arc_dataset import main as build_mini_arc
from tests.dataset.folders import make_folder

Q_LOSSES = ("q_halt_loss", "q_continue_loss")
# Whole numbers: they have to be the same.
COUNTS = ("count", "exact_accuracy", "q_halt_accuracy", "steps", "normalizer")


def puzzle_folder(root: Path) -> Path:
    """4x4 boards of 7 identifiers, symmetries drawn on the fly: a batch of 40 repeats every identifier."""
    groups, examples = [2] * 26 + [1] * 8, [1, 2] * 30
    for split in ("train", "test"):
        make_folder(
            root,
            split=split,
            puzzles_per_group=groups,
            examples_per_puzzle=examples,
            on_the_fly=True,
            num_identifiers=7,
            seed=len(split),
        )
    return root


def maze_folder(root: Path) -> Path:
    """6x6 mazes, symmetries drawn on the fly."""
    words = ["--generate", "6", "--num-train", "60", "--test-size", "60", "--output-dir", str(root)]
    build_mazes(words)
    return root


def mini_arc_folder(root: Path) -> Path:
    """Mini-ARC of 63 rules on a canvas of 5x5, pairs drawn on the fly."""
    build_mini_arc(["--tier", "G", "--canvas", "5", "--test-pairs", "2", "--output-dir", str(root)])
    return root


# Of each task a folder in which one update of it is compared.
FOLDERS: dict[str, Callable[[Path], Path]] = {"sudoku": puzzle_folder, "maze": maze_folder, "mini_arc": mini_arc_folder}


def relative_difference(first: torch.Tensor, second: torch.Tensor) -> float:
    """Largest difference over the largest entry of `first`; 0 when both are zero everywhere."""
    assert first.shape == second.shape and first.dtype == second.dtype
    scale = float(first.abs().max())
    difference = float((first - second).abs().max())
    return difference / scale if scale else difference


def update_differences(first: dict[str, Any], second: dict[str, Any]) -> dict[str, float]:
    """Relative differences of two recorded updates by kind; what must be equal is asserted here."""
    worst = {}
    for kind in ("gradients", "weights", "ema"):
        assert first[kind].keys() == second[kind].keys()
        pairs = ((tensor, second[kind][name]) for name, tensor in first[kind].items())
        worst[kind] = max(relative_difference(a, b) for a, b in pairs)
    assert torch.equal(first["ids"], second["ids"])
    for kind in ("rows", "table"):
        worst[kind] = relative_difference(first[kind], second[kind])
    for name in ("steps", "halted", "inputs", "labels", "puzzle_identifiers"):
        assert torch.equal(first["carry"][name], second["carry"][name]), name
    worst["states"] = max(relative_difference(first["carry"][name], second["carry"][name]) for name in ("z_H", "z_L"))
    assert first["metrics"].keys() == second["metrics"].keys()
    for name in COUNTS:
        assert first["metrics"][name] == second["metrics"][name], name
    for kind, names in {"losses": ("loss",), "lm_loss": ("lm_loss",), "q_losses": Q_LOSSES}.items():
        values = [(first["metrics"][n], second["metrics"][n]) for n in names if n in first["metrics"]]
        worst[kind] = max(abs(a - b) / abs(a) for a, b in values)
    worst["grad_norm"] = abs(first["grad_norm"] - second["grad_norm"]) / first["grad_norm"]
    for name in ("step", "position"):
        assert first[name] == second[name]
    return worst


def assert_same_update(first: dict[str, Any], second: dict[str, Any]) -> dict[str, float]:
    """Two updates from one state agree up to the order of sums in float64; returns the differences."""
    worst = update_differences(first, second)
    # q is float32 by contract, and so are its losses and the total of all losses.
    loose = {"q_losses": 1e-6, "losses": 1e-6}
    too_far = {kind: value for kind, value in worst.items() if not value <= loose.get(kind, 1e-10)}
    assert not too_far, f"update {first['step']}: {too_far}"
    return worst


def largest(differences: list[dict[str, float]]) -> dict[str, float]:
    """The largest difference of each kind."""
    return {kind: max(each[kind] for each in differences) for kind in differences[0]}
