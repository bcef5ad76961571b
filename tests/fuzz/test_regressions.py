"""Inputs on which a reader once failed, each as small as it could be made."""

import copy
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dataset.published_files import resolve_input
from dataset.puzzle_metadata import read_metadata
from errors import MAX_MESSAGE, UserError
from scripts.check_parity import check_file, read_golden
from scripts.record_sources import gathered
from tests.fuzz.targets.golden import Golden
from tests.fuzz.targets.records import LINES, PROVENANCE, SESSION, SUMMARY
from tests.fuzz.targets.restored import Restored
from tests.fuzz.targets.states import state
from tests.fuzz.targets.weights import tensors, torch_bytes
from training.records.metrics_log import MetricsLog, read_metrics
from training.records.provenance import ProvenanceFile
from training.run import restore
from training.settings.cli import check_command_line
from training.settings.identity import config_to_dict
from training.settings.resolving import load_config_file, resolve
from training.storage.archive import stored_digest
from training.storage.checkpoint import DamagedState, load_state, save_state
from training.storage.rng_state import capture_rng, restore_rng
from training.storage.start_decision import decide_start
from training.storage.weights import load_weights
from training.trained_model import open_checkpoint


def test_a_message_shows_control_characters_as_escapes_and_is_bounded() -> None:
    message = str(UserError("found \x1b[2J\u202e and\nmore" + "x" * 9000 + "; mend it"))
    assert message.isprintable() and "\\x1b[2J" in message and "\\u202e" in message
    assert len(message) <= MAX_MESSAGE and message.endswith("; mend it")


def test_a_state_said_to_span_several_disks(tmp_path: Path) -> None:
    """zipfile raises `BadZipFile` where it is only asked whether a file is a zip."""
    path = tmp_path / "latest_state.pt"
    save_state(path, state(0))
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x06\x07")  # the zip64 locator: disk, offset, number of disks
    data[place + 16 : place + 20] = struct.pack("<I", 7)
    path.write_bytes(bytes(data[:-3]))
    with pytest.raises(DamagedState):
        load_state(path)
    assert stored_digest(path) is None


def test_weights_behind_a_damaged_copy_of_themselves(tmp_path: Path) -> None:
    """Python checked the CRCs of the second archive in the file, torch loaded the first."""
    path = tmp_path / "step_1"
    data = bytearray(torch_bytes({"a": torch.arange(100.0)}, zipped=True))
    sound = bytes(data)
    place = sound.index(torch.arange(100.0).numpy().tobytes())
    data[place + 7] ^= 1
    path.write_bytes(bytes(data) + sound)
    with pytest.raises(UserError):
        load_weights(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda old: old / 0,
        lambda old: old.long(),
        lambda old: old > 0,
        lambda old: old + 1j,
        lambda old: old.to_sparse(),
        lambda old: old.to("meta"),
        lambda old: torch.zeros(1).expand(2**40),
    ],
    ids=["infinite", "integer", "bool", "complex", "sparse", "meta", "expanded"],
)
def test_weights_that_are_no_numbers_of_a_network(
    change: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    """Integers, truth values and infinities were copied into the model; the others raised while copying."""
    weights = tensors(1)
    weights["H_init"] = change(weights["H_init"])
    path = tmp_path / "step_1"
    path.write_bytes(torch_bytes(weights, zipped=True))
    with pytest.raises(UserError, match="H_init"):
        load_weights(path)


def test_torch_advice_to_load_without_protection_is_not_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "step_1"
    path.write_bytes(torch_bytes({"a": Path("x")}, zipped=True))
    with pytest.raises(UserError) as refused:
        load_weights(path)
    assert "Unsupported global" in str(refused.value) and "weights_only" not in str(refused.value)


def config_file(folder: Path, text: str) -> Path:
    path = folder / "all_config.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("seed: 1\nseed: 2\n", "twice"),
        ("arch: {L_cycles: 1, L_cycles: 2}\n", "twice"),
        ("seed: " + "9" * 4000 + "\n", "seed"),
        ("seed: 0x" + "f" * 6000 + "\n", "seed"),
        ("epochs: 1" + "0" * 400 + "\n", "epochs"),
        ("ema: 2\n", "ema"),
        ("ema: '2'\n", "ema"),
        ("compile: 2147483648\n", "compile"),
        ("eval: {perturbed_starts: {sigma: [[]]}}\n", "eval.perturbed_starts.sigma"),
        ("data_paths: [[x]]\n", "data_paths"),
        ("x: " + "[" * 3000, "maximum nesting depth"),
        ("x: " + "[" * 900, "is nested deeper than"),
        ("x" * 1_100_000, "MiB"),
    ],
)
def test_config_files(text: str, sign: str, tmp_path: Path) -> None:
    """Taken silently (a doubled key, 2 as true), raised (numbers of thousands of digits), or took many seconds."""
    with pytest.raises(UserError, match=sign):
        load_config_file(config_file(tmp_path, text))


def test_truth_values_in_words_are_still_read(tmp_path: Path) -> None:
    plain = config_to_dict(resolve({}, require_data=False))
    for word, value in (("true", True), ("'no'", False), ("1", True), ("off", False)):
        text = yaml.safe_dump({**plain, "ema": "WORD"}).replace("WORD", word)
        assert load_config_file(config_file(tmp_path, text)).ema is value


def readers(folder: Path) -> dict[str, Callable[[], Any]]:
    return {
        "all_config.yaml": lambda: load_config_file(folder / "all_config.yaml"),
        "metrics.jsonl": lambda: list(read_metrics(folder / "metrics.jsonl")),
        "provenance.json": lambda: gathered([folder]),
    }


@pytest.mark.parametrize("name", ["all_config.yaml", "metrics.jsonl", "provenance.json"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_pipes_and_devices_are_neither_waited_for_nor_read(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(UserError):
        readers(tmp_path)[name]()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("provenance.json", {"world_size": "\0"}),
        ("provenance.json", {"argv": 3}),
        ("provenance.json", {"config": {"seed": "x"}}),
        ("summary.json", {"record": 5}),
        ("summary.json", {"record": {"numbers": [{"name": "a", "value": 150, "of": 10, "unit": "%"}]}}),
        ("summary.json", {"record": {"numbers": [{"name": "a", "value": "x"}]}}),
        ("summary.json", {"record": {"numbers": [{"name": "a", "value": 10**400}]}}),
        ("summary.json", {"record": {"numbers": [{"name": "a", "value": 1}], "needs": [1]}}),
        ("summary.json", {"train_seconds": "x"}),
    ],
)
def test_records_of_a_wrong_kind(name: str, change: dict[str, Any], tmp_path: Path) -> None:
    """They raised while the row was made, or put an impossible rate into it."""
    records: dict[str, dict[str, Any]] = {"provenance.json": PROVENANCE, "summary.json": SUMMARY}
    changed = records[name] = {**records[name], **change}
    if name == "provenance.json":  # the numbers are of its last session
        changed["sessions"] = [{**session, **change} for session in PROVENANCE["sessions"]]
    for file, record in records.items():
        (tmp_path / file).write_text(json.dumps(record))
    log = "".join(json.dumps(line) + "\n" for line in LINES)
    (tmp_path / "metrics.jsonl").write_text(log)
    with pytest.raises(UserError):
        gathered([tmp_path])


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({**PROVENANCE, "config": {"name": "\ud800"}}),
        json.dumps(PROVENANCE).replace('"num_threads": 2', '"num_threads": 1e999'),
        json.dumps({**PROVENANCE, "sessions": [1]}),
        json.dumps({key: value for key, value in PROVENANCE.items() if key != "config_hash"}),
        '{"sessions": [], "sessions": []}',
    ],
    ids=["half a surrogate", "infinity", "session is a number", "no hash", "doubled key"],
)
def test_a_run_goes_on_beside_an_unreadable_provenance(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Read leniently, it could not be written again: the resumed run ended in a traceback."""
    path = tmp_path / "provenance.json"
    path.write_text(text)
    ProvenanceFile(path).start({**SESSION, "start_step": 3})
    assert json.loads(path.read_text())["sessions"][-1]["start_step"] == 3
    assert "unreadable" in capsys.readouterr().err
    assert (tmp_path / "provenance.json.unreadable").read_text() == text


@pytest.mark.parametrize("rows", [-3, 0, 0.5, 2**53 - 1, 1e300])
def test_evaluations_over_no_number_of_rows(rows: float, tmp_path: Path) -> None:
    """Below zero, or more than a float counts, raised when the record asked whether the curve had become flat."""
    (tmp_path / "provenance.json").write_text(json.dumps(PROVENANCE))
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    lines = [{**line, "eval/count": rows} for line in LINES]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert gathered([tmp_path])


def test_lines_of_a_log_that_are_no_strict_json_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 1, "a": NaN}\n{"step": 2, "a": 1e999}\n{"step": 3, "step": 4}\n{"step": 5}\n{"step": -6}\n'
    )
    assert list(read_metrics(path)) == [{"step": 5}]
    assert MetricsLog(path).truncate_to_step(5) == 4
    assert path.read_bytes() == b'{"step": 5}\n'


def golden_file(path: Path, **members: bytes) -> Path:
    base = Golden()
    base.prepare()
    with (
        zipfile.ZipFile(io.BytesIO(base.bytes)) as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for info in old.infolist():
            data = members.get(info.filename.removesuffix(".npy"), old.read(info))
            new.writestr(info.filename, data)
    return path


def config_member(**changes: Any) -> bytes:
    from tests.fuzz.array_edits import npy_bytes
    from tests.fuzz.targets.golden import CONFIG

    return npy_bytes(np.array(json.dumps({**CONFIG, **changes})))


@pytest.mark.parametrize(
    "changes",
    [
        {"H_cycles": 10**9},
        {"seq_len": 10**8},
        {"vocab_size": 10**9},
        {"num_puzzle_identifiers": 10**9},
        {"expansion": 1e9},
        {"L_layers": 10**6},
        {"hidden_size": "8"},
        {"num_heads": 0},
        {"rope_theta": "x"},
        {"mlp_t": 1},
        {"forward_dtype": []},
        {"kind": []},
    ],
    ids=str,
)
def test_golden_configs_beyond_their_weights(changes: dict[str, Any], tmp_path: Path) -> None:
    """They allocated without end, ran without end, or raised."""
    with pytest.raises(UserError):
        check_file(golden_file(tmp_path / "x.npz", config=config_member(**changes)))


def test_golden_members_that_no_reader_expects(tmp_path: Path) -> None:
    with_nul = b"\x93NUMPY\x01\x00" + struct.pack("<H", 101) + b"\0" * 100 + b"\n"
    huge_shape = b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 30 + b",)}\n"
    for member in (
        with_nul,
        b"\x93NUMPY\x01\x00" + struct.pack("<H", len(huge_shape)) + huge_shape,
        b"no array",
        bytes(100 << 20),
    ):
        with pytest.raises(UserError):
            read_golden(golden_file(tmp_path / "x.npz", **{"batch/inputs": member}))


@pytest.fixture(scope="module")
def restored() -> Restored:
    target = Restored()
    target.prepare()
    return target


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("carry",), ...),
        (("carry", "z_L"), ...),
        (("carry", "steps"), torch.zeros(3, dtype=torch.int32)),
        (("model", "H_init"), torch.zeros(8, dtype=torch.float64)),
        (("optimizer", "state", 1, "exp_avg"), torch.zeros(2, 3)),
        (("optimizer", "param_groups"), "x"),
        (("validation", "wants_full"), 1),
        (("validation", "fast_since_full"), "2"),
        (("position", "batch"), -1),
        (("step",), True),
        (("hooks",), {"a": 1}),
        (("metric_sums",), None),
        (("rng", "torch"), ...),
        (("rng", "numpy", "position"), 10**30),
        (("identity", "settings", "lr"), torch.zeros(2)),
        (("compiled",), "yes"),
    ],
    ids=str,
)
def test_sound_states_that_no_run_saved(path: tuple[Any, ...], value: Any, restored: Restored, tmp_path: Path) -> None:
    """They raised while the run took them over, at the next update, or never."""
    changed = copy.deepcopy(restored.state)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    if value is ...:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    before = capture_rng()
    try:
        with pytest.raises(UserError):
            restore(restored.run, changed, "latest_state.pt")
    finally:
        restore_rng(before)


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-this-name/x", "a\0b"], ids=["long", "home", "NUL"])
@pytest.mark.parametrize(
    "read",
    [
        load_weights,
        lambda name: load_state(Path(name)),
        lambda name: read_golden(Path(name)),
        open_checkpoint,
        resolve_input,
        lambda name: decide_start(Path("nowhere"), resume=name),
        lambda name: decide_start(Path("nowhere"), init_from=name),
        lambda name: check_command_line(["data_paths=[x]", "--config-dir", name]),
        lambda name: check_command_line(["data_paths=[x]", "--config-name", name]),
        lambda name: gathered([Path(name)]),
        lambda name: read_metadata(name, "train"),
    ],
    ids=range(11),
)
def test_names_that_no_file_can_have(name: str, read: Callable[[str], Any]) -> None:
    """Whether such a file exists cannot be asked with pathlib without an error of another kind."""
    with pytest.raises(UserError):
        read(name)
