"""A run's folder whose settings, record or keys were changed: what evaluation reads of it before it answers."""

import contextlib
import copy
import io
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml

from dataset.puzzle_folder import open_puzzle_set
from tests.fuzz.byte_edits import BINARY, TEXT, damage
from tests.fuzz.engine import Case
from tests.fuzz.file_edits import misplace
from tests.fuzz.targets.restored import one_run
from tests.fuzz.tree_edits import edit_tree
from training.known_rows import Known, described, known_of
from training.settings.identity import config_to_dict, shaping_settings
from training.storage.checkpoint import save_weights
from training.storage.rng_state import capture_rng, restore_rng
from training.storage.weights_record import canonical_sha256, write_record
from training.trained_model import Checkpoint, open_checkpoint, recorded_metadata

CONFIG, RECORD, KEYS = "all_config.yaml", "weights.json", "training_puzzles.npy"


@dataclass(frozen=True)
class Opened:
    """What was read: the checkpoint, what it is of, and what its network knows of the test rows."""

    checkpoint: Checkpoint
    puzzles: Any
    known: Known


class RunRecord:
    """`open_checkpoint`, `recorded_metadata` and `known_of`."""

    name = "run_record"
    share = 2.0

    def prepare(self) -> None:
        if hasattr(self, "files"):
            return
        before = capture_rng()
        self.place = tempfile.TemporaryDirectory()
        place = Path(self.place.name)
        run = one_run(place / "data")
        run.folder.path = place / "run"
        run.folder.create()
        # Without the place of the temporary folder, so that every process makes the same files.
        run.config = replace(run.config, data_paths=["data"], run_name="run", checkpoint_path="run")
        (place / "run" / CONFIG).write_text(yaml.safe_dump(config_to_dict(run.config)))
        write_record(place / "run", described(run))
        save_weights(place / "run" / "best.pt", run.model.state_dict())
        self.rows = open_puzzle_set(place / "data", "test")
        self.files = {path.name: path.read_bytes() for path in (place / "run").iterdir()}
        self.sound = self._read(place / "run")
        restore_rng(before)

    def _read(self, folder: Path) -> Opened:
        with contextlib.redirect_stderr(io.StringIO()):
            checkpoint = open_checkpoint(folder / "best.pt", device="cpu")
        known = known_of(folder, self.rows, np.arange(self.rows.num_examples))
        return Opened(checkpoint, recorded_metadata(checkpoint), known)

    def case(self, rng: Random, folder: Path) -> Case:
        changes: list[str] = []
        sound = rng.random() < 0.03
        changed = rng.choice([CONFIG, CONFIG, RECORD, RECORD, KEYS])
        sealed = False
        for name, data in self.files.items():
            if name == changed and not sound:
                data, sealed = self._damaged(rng, name, data, changes)
            (folder / name).write_bytes(data)
        if not sound and rng.random() < 0.05:
            misplace(rng, folder / changed, changes)
        return Case(changes, lambda: self._read(folder), lambda got: self._wrong(got, sealed), must_read=sound)

    def _damaged(self, rng: Random, name: str, data: bytes, changes: list[str]) -> tuple[bytes, bool]:
        """The bytes of a changed file, and whether its checksum was made anew."""
        kind = rng.randrange(3)
        changes.append(name)
        if name == KEYS or kind == 0:
            return damage(rng, data, BINARY if name == KEYS else TEXT, changes), False
        if name == CONFIG:
            tree = edit_tree(rng, yaml.safe_load(data), changes)
            with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
                return yaml.safe_dump(tree).encode("utf-8", "surrogatepass"), False
            return b"{}", False
        tree = json.loads(data)
        content = edit_tree(rng, {key: copy.deepcopy(tree[key]) for key in tree if key != "sha256"}, changes)
        if not isinstance(content, dict) or kind == 1:
            return json.dumps(content, default=str).encode("utf-8", "surrogatepass"), False
        try:
            content = json.loads(json.dumps(content, default=str))
            return json.dumps({**content, "sha256": canonical_sha256(content)}).encode("utf-8", "surrogatepass"), True
        except (ValueError, RecursionError):
            return b"[]", False

    def _wrong(self, opened: Opened, sealed: bool) -> str | None:
        """A folder that is read has the settings, the task and the keys of the run, or says that it cannot tell."""
        if opened.checkpoint.record is None or sealed:
            return None
        if shaping_settings(opened.checkpoint.config) != shaping_settings(self.sound.checkpoint.config):
            return "settings that shape answers were changed in silence"
        if opened.checkpoint.config.validation_size != self.sound.checkpoint.config.validation_size:
            return "other rows are reported in silence"
        if opened.puzzles != self.sound.puzzles:
            return "the puzzles are others"
        if opened.known != self.sound.known and opened.known.training is not None:
            return f"it knows {opened.known}, not {self.sound.known}"
        return None
