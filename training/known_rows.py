"""What a run's network knows of the rows that judge it: puzzles that it was trained on, rows that chose its checkpoint.

Both are kept with the run, in `training_puzzles.npy` (sorted uint64 keys, one for all puzzles that are equal up to a
symmetry of the task) and in `weights.json` (hashes of rows), since data can be built anew while weights stay.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataset.eval_batches import row_hashes
from dataset.puzzle_folder import PuzzleSet, fingerprint
from dataset.puzzle_metadata import PuzzleMetadata
from dataset.safe_files import map_array, read_array_header
from dataset.tasks.base import PuzzleTask
from errors import UserError, say
from files import file_sha256
from training.devices import dtype_name
from training.run import Run
from training.settings.identity import schema_fingerprint, shaping_settings, with_defaults
from training.settings.resolving import load_config_file
from training.setup import EvalRows, open_evaluation_rows
from training.storage.atomic_file import write_atomically
from training.storage.run_folder import ALL_CONFIG, TRAINING_PUZZLES, WEIGHTS_RECORD, compare_run_identity
from training.storage.weights_record import WeightsRecord, canonical_sha256, read_record

_SHOWN = 4  # differences listed before the rest is counted

# Keys that symmetries do not change take a quarter of a millisecond each; of more puzzles equal rows alone are found.
MOST_UP_TO_SYMMETRY = 500_000
_CHUNK = 1 << 13
Places = Sequence[tuple[PuzzleSet, np.ndarray]]  # rows of sets


@dataclass(frozen=True)
class Known:
    """How many of some rows a network knows. training: trained on; None = nothing is kept to tell it by.

    up_to_symmetry: or on an image of them under a symmetry. chose: validated, and so chose a checkpoint.
    at_least: the weights that the run began with were trained on puzzles that are not kept.
    """

    rows: int
    training: int | None
    up_to_symmetry: bool
    chose: int
    at_least: bool = False

    def report(self) -> dict[str, Any]:
        return vars(self)

    def lines(self, kind: str) -> list[str]:
        """For people; nothing where there is nothing to say."""
        symmetry = ", up to symmetry" if self.up_to_symmetry else ""
        number = "none" if self.training == 0 else f"{self.training}"
        are = "is a training puzzle" if self.training in (0, 1) else "are training puzzles"
        of, more = "network", ""
        if self.at_least:
            of, more = "run", "; what the weights that it began with were trained on is not kept"
        said = []
        if self.training is not None:
            said.append(f"  {number} of {self.rows} {kind} rows {are} of this {of}{symmetry}{more}")
        if kind != "validation" and self.chose:
            said.append(f"  {self.chose} of {self.rows} {kind} rows chose the best checkpoint of this run")
        return said


def known_of(folder: Path, puzzle_set: PuzzleSet, rows: np.ndarray) -> Known:
    """What the network whose weights lie in `folder` knows of some rows. Errors: `UserError` for damaged files."""
    record = read_record(folder)
    chose = 0
    if record is not None and record.rows is not None:
        chose = int(np.isin(row_hashes(puzzle_set)[rows], _that_chose(record)).sum())
    task = puzzle_set.metadata.task
    stored = None if record is None else _stored_keys(folder, record)
    if record is None or record.training is None or stored is None or record.training["task"] != str(task):
        return Known(len(rows), None, False, chose)
    symmetric = bool(record.training["up_to_symmetry"])
    keys = _keys(task, [(puzzle_set, rows)], up_to_symmetry=symmetric)
    complete = record.training.get("complete", True)
    return Known(len(rows), int(np.isin(keys, stored).sum()), symmetric and task.augments, chose, not complete)


def described(run: Run) -> WeightsRecord:
    """The record of the session that starts; `training_puzzles.npy` is written. Rank 0.

    What was known of earlier sessions, and of the weights that the run started from, stays. To be asked before the
    folder's settings are written anew. Errors: `OSError`, `UserError` for a damaged record.
    """
    earlier = read_record(run.folder.path)
    settings = shaping_settings(run.config)
    weights: Mapping[str, Mapping[str, Any]] = {} if earlier is None else earlier.weights
    if earlier is not None and canonical_sha256(settings) != canonical_sha256(earlier.settings):
        # The state agreed: only settings that did not exist then have come in, at their defaults.
        renewed = {"settings": canonical_sha256(settings)}
        weights = {key: {**value, **(renewed if earlier.knows(key) else {})} for key, value in weights.items()}
    layers = run.model.compute_dtype
    states = getattr(getattr(run.model, "config", None), "carry_dtype", layers)
    sets = list(getattr(run.source, "sets", ()))
    return WeightsRecord(
        schema=schema_fingerprint(),
        settings=settings,
        computes_in={"layers": dtype_name(layers), "states": dtype_name(states)},
        puzzles=_puzzles(run.source.metadata) if sets else None,
        rows=_rows(run) if sets else None,
        training=_training(run, earlier) if sets else None,
        weights=weights,
    )


def _puzzles(metadata: PuzzleMetadata) -> dict[str, Any]:
    task = metadata.task
    shape = {name: getattr(metadata, name) for name in ("seq_len", "vocab_size", "pad_id")}
    return {"task": task.name, **shape, "augmentation": task.augmentation}


def refuse_rows_that_chose(run: Run) -> None:
    """Errors: `UserError` where rows that chose the best checkpoint so far would be reported as test rows."""
    if run.state_file is None or not run.validation.history:
        return
    chose = _chose_before(run)
    now = sum(int(np.isin(hashes, chose).sum()) for hashes in _validated(run.evaluation_rows, rest=True))
    if now:
        data = ", ".join(run.config.data_paths_test or run.config.data_paths)
        raise UserError(
            f"validation_size={run.config.validation_size} of {data} would make test rows of {now} rows that have "
            f"chosen the best checkpoint so far: keep the validation of {run.state_file.parent}, or start a new run "
            "with another checkpoint_path"
        )


def other_validation(run: Run) -> str | None:
    """In words: the rows that validated last and those that validate now; None where they are the same, or unknown."""
    if run.state_file is None or not run.evaluation_rows:
        return None
    before, now = _chose_before(run, "validation"), np.concatenate([*_validated(run.evaluation_rows)])
    if not len(before) or np.array_equal(np.unique(before), np.unique(now)):
        return None
    same = int(np.isin(now, before).sum())
    return f"validation rows {len(before)} -> {len(now)}, {same} of them the same"


def warn_of_known_rows(run: Run, weights: Path) -> None:
    """Say how many test rows of a run chose the weights that it starts from, or trained them."""
    record = read_record(weights.parent)
    if record is None or record.rows is None or not run.world.is_main:
        return
    for rows in run.evaluation_rows:
        rest = np.setdiff1d(np.arange(rows.puzzle_set.num_examples), rows.validation)
        known = known_of(weights.parent, rows.puzzle_set, rest)
        if known.training:
            symmetry = ", up to symmetry" if known.up_to_symmetry else ""
            say(
                f"warning: {known.training} of {known.rows} test rows of {rows.puzzle_set.root} are training puzzles "
                f"of {weights}{symmetry}: these data are not those that it was trained on, or were built anew",
                file=sys.stderr,
            )
    chose = _that_chose(record)
    count = sum(int(np.isin(hashes, chose).sum()) for hashes in _validated(run.evaluation_rows, rest=True))
    if count:
        size = record.rows.get("validation_size")
        say(
            f"warning: {count} test rows were validation rows of {weights.parent}, and may have chosen {weights.name}; "
            f"validation_size={size} leaves them out, as there",
            file=sys.stderr,
        )


def warn_of_another_network(run: Run, weights: Path) -> None:
    """Say where weights that a run starts from were made with other settings of the network, or nothing tells.

    They may be meant to go on otherwise, with more cycles for instance; that they fit says nothing of it.
    """
    if not run.world.is_main:
        return
    record = read_record(weights.parent)
    if record is None or not record.knows(file_sha256(weights)):
        why = f"no {WEIGHTS_RECORD} beside it" if record is None else f"{WEIGHTS_RECORD} does not know its bytes"
        say(f"warning: {weights}: {why}, which would say what settings it was made with", file=sys.stderr)
        return
    now, before = shaping_settings(run.config), dict(record.settings)
    both = with_defaults(before, now), with_defaults(now, before)
    changed = compare_run_identity(*({k: v for k, v in each.items() if k.startswith("arch.")} for each in both))
    if changed:
        rest = len(changed) - _SHOWN
        listed = "; ".join(changed[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")
        say(f"warning: {weights} was made with another network than this run's: {listed}", file=sys.stderr)


def _validated(rows_of: Iterable[EvalRows], *, rest: bool = False) -> Iterator[np.ndarray]:
    """Of each set: hashes of its validation rows, or of all the rest, which is reported sooner or later."""
    for rows in rows_of:
        hashes = row_hashes(rows.puzzle_set)
        yield np.delete(hashes, rows.validation) if rest else hashes[rows.validation]


def _that_chose(record: WeightsRecord, *names: str) -> np.ndarray:
    listed = [text for name in names or ("validation", "earlier") for text in (record.rows or {}).get(name, ())]
    return np.array([int(text, 16) for text in listed], np.uint64)


def _chose_before(run: Run, *names: str) -> np.ndarray:
    """Hashes of the rows that validated before this session; with "validation", of those that did last."""
    assert run.state_file is not None
    record = read_record(run.state_file.parent)
    if record is not None and record.rows is not None:
        return _that_chose(record, *names)
    nothing = np.zeros(0, np.uint64)
    try:  # of a folder without a record: what its settings say
        before = load_config_file(run.state_file.parent / ALL_CONFIG)
        earlier = replace(before, eval_batch_size=1, fast_validation_size=0)
        return np.concatenate([nothing, *_validated(open_evaluation_rows(earlier, verify=False))])
    except UserError:  # gone, or of another kind: nothing can be said
        return nothing


def _rows(run: Run) -> dict[str, Any]:
    sets = [rows.puzzle_set for rows in run.evaluation_rows]
    now = np.concatenate([np.zeros(0, np.uint64), *_validated(run.evaluation_rows)])
    before = _chose_before(run) if run.state_file is not None else np.zeros(0, np.uint64)
    return {
        "validation_size": run.config.validation_size,
        "data": list(dict.fromkeys(fingerprint(each.folder, each.split) for each in sets)),
        "data_sha256": {name: sha256 for name, (_, sha256) in run.data_sums.items()},
        "validation": [f"{value:016x}" for value in now.tolist()],
        "earlier": [f"{value:016x}" for value in np.setdiff1d(before, now).tolist()],
    }


def _training(run: Run, earlier: WeightsRecord | None) -> dict[str, Any]:
    """What `weights.json` says of the keys of the training puzzles; made where they are not there, once for a run."""
    folder = run.folder.path
    if earlier is not None and earlier.training is not None and (folder / TRAINING_PUZZLES).exists():
        return dict(earlier.training)
    places = run.source.trained_rows()
    task: PuzzleTask = run.source.metadata.task
    symmetric = sum(len(rows) for _, rows in places) <= MOST_UP_TO_SYMMETRY
    form = {"task": str(task), "up_to_symmetry": symmetric}
    keys, complete = [_keys(task, places, up_to_symmetry=symmetric)], True
    above = _came_from(run)
    if above is not None:
        inherited, stored = read_record(above), None
        if inherited is not None and inherited.training is not None:
            if {name: inherited.training.get(name) for name in form} == form:
                stored, complete = _stored_keys(above, inherited), inherited.training.get("complete", True)
        keys += [] if stored is None else [stored]
        complete &= stored is not None
    merged = np.unique(np.concatenate(keys))
    path = folder / TRAINING_PUZZLES
    write_atomically(path, partial(np.save, arr=merged, allow_pickle=False))
    made = {"sha256": file_sha256(path), "puzzles": len(merged), **form, "complete": complete}
    if earlier is not None and earlier.training is not None and earlier.training["sha256"] != made["sha256"]:
        made["complete"] = False  # the keys that were there are gone, and were others
    if not made["complete"]:
        say(
            "warning: what the weights that this run began with were trained on is not kept, so nothing can say which "
            "test rows they know",
            file=sys.stderr,
        )
    return made


def _came_from(run: Run) -> Path | None:
    """The folder, not the run's own, of the state that goes on, or else of the weights that the run began with."""
    own, state = run.folder.path.resolve(), run.state_file
    if state is not None and state.parent.resolve() != own:
        return state.parent
    began = run.config.init_from or (None if run.initial is None else run.initial.init_from)
    folder = None if began is None else Path(os.path.expanduser(began)).parent
    return None if folder is None or folder.resolve() == own else folder


def _stored_keys(folder: Path, record: WeightsRecord) -> np.ndarray | None:
    """The keys of a folder's training puzzles, None where they are not kept. Errors: `UserError` for damaged ones."""
    path = folder / TRAINING_PUZZLES
    if record.training is None or not path.exists():
        return None
    mend = "remove it to go on without knowing which rows are training puzzles"
    header = read_array_header(path, mend)
    if header.dtype != np.uint64 or len(header.shape) != 1 or file_sha256(path) != record.training.get("sha256"):
        raise UserError(f"{path} does not hold the keys that were written (SHA-256 differs); {mend}")
    return map_array(header, mend)


def _keys(task: PuzzleTask, places: Places, *, up_to_symmetry: bool) -> np.ndarray:
    """One uint64 key for each row, by its input."""
    keys = [np.zeros(0, np.uint64)]
    for puzzle_set, rows in places:
        for start in range(0, len(rows), _CHUNK):
            inputs = puzzle_set.read_rows(rows[start : start + _CHUNK])[0]
            keys.append(task.equivalence_keys(inputs) if up_to_symmetry else PuzzleTask.equivalence_keys(task, inputs))
    return np.concatenate(keys)
