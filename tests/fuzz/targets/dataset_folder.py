"""Dataset folders: `dataset.json`, every array, names, ratings; opened, verified, drawn from, evaluated."""

import contextlib
import hashlib
import io
import json
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from dataset.build_mini_arc_dataset import main as build_mini_arc
from dataset.content_sums import content_sums
from dataset.eval_batches import EvalBatches, test_rows, validation_rows
from dataset.puzzle_folder import (
    ARRAYS,
    PuzzleSet,
    fingerprint,
    open_puzzle_set,
    verify_checksums,
)
from dataset.puzzle_metadata import read_metadata
from dataset.puzzle_source import PuzzleSource
from dataset.source import START
from tests.dataset.folders import make_folder
from tests.fuzz.array_edits import edit_array, npy_bytes
from tests.fuzz.byte_edits import BINARY, TEXT, damage
from tests.fuzz.engine import Case
from tests.fuzz.file_edits import misplace, write_files
from tests.fuzz.tree_edits import edit_tree, json_bytes

Files = dict[str, bytes]
BATCH = 4


@dataclass
class Opened:
    """All that reading a folder gave."""

    sets: dict[str, list[PuzzleSet]]
    verified: dict[str, int]
    train: list[dict[str, torch.Tensor]]
    evaluated: list[list[dict[str, torch.Tensor]]]
    rows: list[np.ndarray]


class DatasetFolder:
    """Folders of one puzzle a group with symmetries and ratings; of groups; of the official HRM form; of mini-ARC."""

    name = "dataset"
    share = 6.0

    def prepare(self) -> None:
        if hasattr(self, "bases"):
            return
        self.bases = [_single(), _grouped(), _official(), _mini_arc()]

    def case(self, rng: Random, folder: Path) -> Case:
        base = rng.choice(self.bases)
        changes: list[str] = []
        root = folder / "data"
        files = dict(base)
        sound = rng.random() < 0.02
        misplaced: list[str] = []
        for name in rng.sample(sorted(files), 0 if sound else rng.choice([1, 1, 1, 2])):
            changes.append(name)
            if rng.random() < 0.06:
                misplaced.append(name)
            else:
                files[name] = _damaged(rng, name, files, folder, changes)
        if not sound and rng.random() < 0.45:
            _seal(files, changes)
        write_files(root, files)
        for name in misplaced:
            misplace(rng, root / name, changes)
        return Case(changes, lambda: read(root), lambda opened: judge(opened, root, base), must_read=sound)


def read(root: Path) -> Opened:
    """Everything that a run does with a folder."""
    sets = {
        split: [open_puzzle_set(root, split, name) for name in read_metadata(root, split).sets]
        for split in ("train", "test")
    }
    source = PuzzleSource(sets["train"], seed=3, global_batch_size=BATCH, epochs_per_iteration=4)
    position, train = dict(START), []
    for _ in range(3):
        batch, position = source.next(position)
        train.append(batch)
    source.fingerprint()
    rows = [test_rows(puzzle_set, 4) for puzzle_set in sets["test"]]
    evaluated = [list(EvalBatches(each, chosen, BATCH)) for each, chosen in zip(sets["test"], rows, strict=True)]
    for puzzle_set in sets["test"]:
        validation_rows(puzzle_set, 4)
        fingerprint(puzzle_set.root, puzzle_set.split)
    content_sums([*sets["train"], *sets["test"]])
    verified = {split: verify_checksums(root, split) for split in sets}
    return Opened(sets, verified, train, evaluated, rows)


def judge(opened: Opened, root: Path, base: Files) -> str | None:
    """Compare with the files as plain NumPy and JSON read them, and with the sound ones under a checksum."""
    for split, sets in opened.sets.items():
        text = json.loads((root / split / "dataset.json").read_text("utf-8"))
        sums = text.get("sha256", {})
        if opened.verified[split] != len(sums):
            return f"{opened.verified[split]} checksums were verified, {len(sums)} are there"
        for puzzle_set in sets:
            arrays = {name: _plain_array(root / split / f"{puzzle_set.set_name}__{name}.npy") for name in ARRAYS}
            wrong = _wrong_set(puzzle_set, arrays, text) or _unlike_base(root, split, sums, base)
            if wrong:
                return f"{split}/{puzzle_set.set_name}: {wrong}"
    return _wrong_train(opened) or _wrong_evaluation(opened)


def _plain_array(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers in the words of Python 2, which are sound
        array: np.ndarray = np.load(path, allow_pickle=False)
    return array


def _wrong_set(puzzle_set: PuzzleSet, arrays: dict[str, np.ndarray], text: dict[str, Any]) -> str | None:
    metadata = puzzle_set.metadata
    for name in ("seq_len", "vocab_size", "pad_id", "ignore_label_id", "blank_identifier_id"):
        value = getattr(metadata, name)
        if value != text[name] or not (value is None or type(value) is int):
            return f"{name} is {value!r}, the file says {text[name]!r}"
    for name, array in arrays.items():
        if not np.array_equal(getattr(puzzle_set, name), array):
            return f"{name} differs from the file"
    inputs, labels = arrays["inputs"].astype(object), arrays["labels"].astype(object)
    count, length = inputs.shape
    if labels.shape != inputs.shape or length != metadata.seq_len:
        return "shapes of inputs and labels"
    if inputs.min() < 0 or inputs.max() >= metadata.vocab_size:
        return "an input is no token"
    asked = labels[labels != metadata.ignore_label_id]
    if asked.size and (asked.min() < 0 or asked.max() >= metadata.vocab_size):
        return "a label is no token"
    puzzles, groups = arrays["puzzle_indices"].astype(object), arrays["group_indices"].astype(object)
    if puzzles[0] != 0 or puzzles[-1] != count or (puzzles[1:] < puzzles[:-1]).any():
        return "puzzle_indices"
    if groups[0] != 0 or groups[-1] != len(puzzles) - 1 or (groups[1:] <= groups[:-1]).any():
        return "group_indices"
    identifiers = arrays["puzzle_identifiers"].astype(object)
    if len(identifiers) != len(puzzles) - 1 or not all(0 <= i < text["num_puzzle_identifiers"] for i in identifiers):
        return "puzzle_identifiers"
    if puzzle_set.ratings is not None and puzzle_set.ratings.shape != (count,):
        return "ratings"
    if puzzle_set.descriptors is not None:
        path = puzzle_set.root / puzzle_set.split / f"{puzzle_set.set_name}__descriptors.npy"
        if (
            not np.array_equal(puzzle_set.descriptors, _plain_array(path))
            or len(puzzle_set.descriptors) != len(puzzles) - 1
        ):
            return "descriptors differ from the file"
    return None


def _unlike_base(root: Path, split: str, sums: dict[str, str], base: Files) -> str | None:
    """Under a checksum that is still the original one, the array must be the original one."""
    original = json.loads(base[f"{split}/dataset.json"]).get("sha256", {})
    for name, digest in sums.items():
        if original.get(name) == digest and (root / split / name).read_bytes() != base[f"{split}/{name}"]:
            return f"{name} was verified, but its bytes have changed"
    return None


def _wrong_train(opened: Opened) -> str | None:
    metadata = opened.sets["train"][0].metadata
    stored = {
        (tuple(row), tuple(label))
        for puzzle_set in opened.sets["train"]
        for row, label in zip(puzzle_set.inputs.tolist(), puzzle_set.labels.tolist(), strict=True)
    }
    for batch in opened.train:
        inputs, labels, ids = (batch[key] for key in ("inputs", "labels", "puzzle_identifiers"))
        if inputs.shape != (BATCH, metadata.seq_len) or labels.shape != inputs.shape or ids.shape != (BATCH,):
            return "a train batch has another shape"
        if inputs.min() < 0 or inputs.max() >= metadata.vocab_size:
            return "a train batch holds no token"
        if ((labels != -100) & ((labels < 0) | (labels >= metadata.vocab_size))).any():
            return "a train batch holds no label"
        if ids.min() < 0 or ids.max() >= metadata.num_puzzle_identifiers:
            return "a train batch holds no identifier"
        if any(puzzle_set.metadata.task.augmentation for puzzle_set in opened.sets["train"]):
            continue
        back = labels.clone()
        if metadata.ignore_label_id is not None:
            back[back == -100] = metadata.ignore_label_id
        for row, label in zip(inputs.tolist(), back.tolist(), strict=True):
            if (tuple(row), tuple(label)) not in stored:
                return "a train row is none of the stored ones"
    return None


def _wrong_evaluation(opened: Opened) -> str | None:
    for puzzle_set, rows, batches in zip(opened.sets["test"], opened.rows, opened.evaluated, strict=True):
        seen = torch.cat([batch["row"] for batch in batches]) if batches else torch.zeros(0, dtype=torch.int64)
        if seen[seen >= 0].tolist() != rows.tolist():
            return "evaluation visits other rows"
        for batch in batches:
            for row, tokens, label in zip(batch["row"], batch["inputs"], batch["labels"], strict=True):
                if row < 0:
                    if (tokens != puzzle_set.metadata.pad_id).any() or (label != -100).any():
                        return "padding is not padding"
                    continue
                expected = puzzle_set.labels[int(row)].astype(np.int64)
                if puzzle_set.metadata.ignore_label_id is not None:
                    expected[expected == puzzle_set.metadata.ignore_label_id] = -100
                if tokens.tolist() != puzzle_set.inputs[int(row)].tolist() or label.tolist() != expected.tolist():
                    return f"evaluation gives other tokens in row {int(row)}"
    return None


def _damaged(rng: Random, name: str, files: Files, folder: Path, changes: list[str]) -> bytes:
    data = files[name]
    if name.endswith(".json"):
        if rng.random() < 0.7:
            return json_bytes(rng, edit_tree(rng, json.loads(data), changes), changes)
        return damage(rng, data, TEXT, changes)
    donor = files[rng.choice(sorted(files))]
    if rng.random() < 0.6:
        return edit_array(rng, data, folder, changes)
    return damage(rng, data, BINARY, changes, donor)


def _seal(files: Files, changes: list[str]) -> None:
    """Checksums that fit the damaged files: only the content itself can now give the damage away."""
    for split in ("train", "test"):
        try:
            text = json.loads(files[f"{split}/dataset.json"])
            sums = text["sha256"]
            names = [name for name in sums if f"{split}/{name}" in files]
        except (ValueError, KeyError, TypeError):
            continue
        except RecursionError:
            continue
        if isinstance(sums, dict):
            sums.update({name: hashlib.sha256(files[f"{split}/{name}"]).hexdigest() for name in names})
            files[f"{split}/dataset.json"] = json.dumps(text).encode("utf-8", "surrogatepass")
    changes.append("checksums made to fit")


def _mini_arc() -> Files:
    """Fresh pairs by the stored descriptors."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "data"
        with contextlib.redirect_stdout(io.StringIO()):
            build_mini_arc(["--train-pairs", "1", "--test-pairs", "1", "--output-dir", str(root)])
        files = _files_of(root)
    return {name: data for name, data in files.items() if not name.startswith("held_out_")}


def _files_of(root: Path) -> Files:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _single() -> Files:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for split, count, seed in (("train", 12, 1), ("test", 10, 2)):
            make_folder(
                root,
                split=split,
                puzzles_per_group=[1] * count,
                examples_per_puzzle=[1] * count,
                on_the_fly=True,
                seed=seed,
            )
        files = _files_of(root)
    for split, count in (("train", 12), ("test", 10)):
        ratings = npy_bytes(np.arange(count, dtype=np.int32))
        files[f"{split}/all__ratings.npy"] = ratings
        text = json.loads(files[f"{split}/dataset.json"])
        text["sha256"]["all__ratings.npy"] = hashlib.sha256(ratings).hexdigest()
        files[f"{split}/dataset.json"] = json.dumps(text, indent=2).encode()
    return files


def _grouped() -> Files:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for split, seed in (("train", 3), ("test", 4)):
            make_folder(
                root,
                split=split,
                puzzles_per_group=[2, 1, 3],
                examples_per_puzzle=[1, 3, 2, 1, 4, 2],
                num_identifiers=4,
                seed=seed,
            )
        return _files_of(root)


def _official() -> Files:
    """As HRM's builders write: wider integers, no sums, no `total_puzzles`, no further keys."""
    files = _grouped()
    for split in ("train", "test"):
        text = json.loads(files[f"{split}/dataset.json"])
        for key in ("sha256", "augmentation", "task", "total_puzzles"):
            text.pop(key, None)
        files[f"{split}/dataset.json"] = json.dumps(text).encode()
        for name in ARRAYS:
            key = f"{split}/all__{name}.npy"
            with tempfile.TemporaryFile() as file:
                file.write(files[key])
                file.seek(0)
                array = np.load(file)
            files[key] = npy_bytes(array.astype(np.int64 if name in ("inputs", "labels") else np.int32))
    del files["identifiers.json"]
    return files
