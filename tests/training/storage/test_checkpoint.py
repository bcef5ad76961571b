"""States on disk, with every fault injected that a disk, a kill or a stranger can produce."""

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from errors import UserError
from tests.helpers import temporaries
from tests.training.states import files_of, foreign_files, make_state
from training.storage import archive, atomic_file, checkpoint
from training.storage.archive import stored_digest
from training.storage.atomic_file import link_or_copy
from training.storage.checkpoint import (
    CheckpointWriteError,
    DamagedState,
    keep_last,
    load_newest,
    load_state,
    save_latest,
    save_state,
    save_weights,
)
from training.storage.rng_state import capture_rng, restore_rng
from training.storage.run_folder import sweep_temporaries

ROOT = Path(__file__).resolve().parents[3]


def assert_same(first: Any, second: Any) -> None:
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second


# --- a state round trip ---


def test_state_comes_back_bitwise(tmp_path: Path) -> None:
    save_state(tmp_path / "s.pt", make_state(3))
    assert_same(load_state(tmp_path / "s.pt"), make_state(3))
    assert files_of(tmp_path) == ["s.pt"]


def test_plain_torch_reads_it_and_sees_the_marker(tmp_path: Path) -> None:
    save_state(tmp_path / "s.pt", make_state(3))
    for mmap in (False, True):
        value = torch.load(tmp_path / "s.pt", weights_only=True, mmap=mmap)
        assert value["format"] == "rrs-state" and value["version"] == 1
        assert torch.equal(value["model"]["w"], make_state(3)["model"]["w"])
    assert zipfile.ZipFile(tmp_path / "s.pt").testzip() is None


def test_loaded_state_can_be_saved_again(tmp_path: Path) -> None:
    save_state(tmp_path / "s.pt", make_state(3))
    save_state(tmp_path / "s.pt", load_state(tmp_path / "s.pt"))
    assert_same(load_state(tmp_path / "s.pt"), make_state(3))


@pytest.mark.parametrize("bad", [np.float64(1.0), np.zeros(2), Path("x"), object(), range(3)])
def test_what_could_not_be_read_back_is_refused_by_name(tmp_path: Path, bad: Any) -> None:
    with pytest.raises(TypeError, match=r"state\['metrics'\]\[1\]"):
        save_state(tmp_path / "s.pt", {"metrics": [0.5, bad]})
    assert files_of(tmp_path) == []


def test_reserved_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reserved"):
        save_state(tmp_path / "s.pt", {"format": "other"})


# --- damage ---


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    save_state(tmp_path / "s.pt", {"w": torch.arange(40.0), "step": 1})
    sound = (tmp_path / "s.pt").read_bytes()
    draw = random.Random(0)
    # All of the two ends (headers, directory, checksum) byte by byte, and the middle at random.
    offsets = [
        *range(64),
        *range(len(sound) - 160, len(sound)),
        *(draw.randrange(len(sound)) for _ in range(500)),
    ]
    for offset in offsets:
        damaged = bytearray(sound)
        damaged[offset] ^= 1 << draw.randrange(8)
        (tmp_path / "d.pt").write_bytes(damaged)
        with pytest.raises(DamagedState, match="d.pt"):
            load_state(tmp_path / "d.pt")


def test_every_truncation_is_found(tmp_path: Path) -> None:
    save_state(tmp_path / "s.pt", {"w": torch.arange(40.0), "step": 1})
    sound = (tmp_path / "s.pt").read_bytes()
    for length in [
        *range(0, len(sound), 37),
        len(sound) - 1,
        len(sound) - 2,
        len(sound) - 22,
        len(sound) - 90,
    ]:
        (tmp_path / "d.pt").write_bytes(sound[:length])
        with pytest.raises(DamagedState, match="empty" if length == 0 else "damaged|checksum|torch archive"):
            load_state(tmp_path / "d.pt")
    (tmp_path / "d.pt").write_bytes(sound + b"\0")
    with pytest.raises(DamagedState):
        load_state(tmp_path / "d.pt")


def test_foreign_files_are_named_and_run_nothing(tmp_path: Path) -> None:
    for name, path in foreign_files(tmp_path).items():
        with pytest.raises(DamagedState) as caught:
            load_state(path)
        assert path.name in str(caught.value) and "\n" not in str(caught.value), name
    assert not (tmp_path / "owned").exists()


def test_a_newer_version_is_not_guessed_at(tmp_path: Path) -> None:
    archive.write_archive(tmp_path / "s.pt", {"format": "rrs-state", "version": 2})
    with pytest.raises(DamagedState, match="version 2"):
        load_state(tmp_path / "s.pt")


def test_objects_other_than_tensors_are_not_unpickled(tmp_path: Path) -> None:
    archive.write_archive(tmp_path / "s.pt", {"format": "rrs-state", "version": 1, "x": Path("p")})
    with pytest.raises(DamagedState, match="torch refuses"):
        load_state(tmp_path / "s.pt")


# --- latest and previous ---


def test_latest_and_previous(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_newest(tmp_path) is None
    for step in (1, 2, 3):
        assert save_latest(tmp_path, make_state(step)) == tmp_path / "latest_state.pt"
    assert files_of(tmp_path) == ["latest_state.pt", "previous_state.pt"]
    found = load_newest(tmp_path)
    assert found is not None and found[1] == tmp_path / "latest_state.pt"
    assert_same(found[0], make_state(3))
    assert load_state(tmp_path / "previous_state.pt")["step"] == 2
    assert capsys.readouterr().err == ""


def spoil(path: Path, how: str, folder: Path) -> None:
    data = path.read_bytes()
    path.unlink()  # not in place: best_state.pt may be the same file
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "flipped":
        middle = bytearray(data)
        middle[len(data) // 2] ^= 4
        path.write_bytes(middle)
    elif how == "foreign":
        torch.save({"w": torch.ones(3)}, path)
    elif how == "text":
        path.write_text("not a state")


FAULTS = ["truncated", "empty", "flipped", "foreign", "text", "missing"]


@pytest.mark.parametrize("how", FAULTS)
def test_damaged_latest_falls_back_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str) -> None:
    save_latest(tmp_path, make_state(1))
    save_latest(tmp_path, make_state(2))
    spoil(tmp_path / "latest_state.pt", how, tmp_path)
    found = load_newest(tmp_path)
    assert found is not None and found[0]["step"] == 1 and found[1].name == "previous_state.pt"
    warning = capsys.readouterr().err
    assert warning.startswith("warning: ") and "latest_state.pt" in warning and "previous_state.pt" in warning
    # The next save keeps the good previous one instead of the damaged file.
    save_latest(tmp_path, make_state(5))
    assert load_state(tmp_path / "latest_state.pt")["step"] == 5
    assert load_state(tmp_path / "previous_state.pt")["step"] == 1


def test_both_damaged_names_both_and_the_way_out(tmp_path: Path) -> None:
    for step in (1, 2):
        save_latest(tmp_path, make_state(step))
    save_state(tmp_path / "best_state.pt", make_state(1))
    spoil(tmp_path / "latest_state.pt", "flipped", tmp_path)
    spoil(tmp_path / "previous_state.pt", "empty", tmp_path)
    with pytest.raises(UserError, match="latest_state.pt.*previous_state.pt.*resume=.*best_state.pt.*checkpoint_path="):
        load_newest(tmp_path)


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "foreign", "text"])
def test_a_latest_damaged_by_others_does_not_push_out_the_good_one(tmp_path: Path, how: str) -> None:
    for step in (1, 2):
        save_latest(tmp_path, make_state(step))
    spoil(tmp_path / "latest_state.pt", how, tmp_path)
    save_latest(tmp_path, make_state(3))
    assert load_state(tmp_path / "previous_state.pt")["step"] == 1
    assert load_state(tmp_path / "latest_state.pt")["step"] == 3


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    for step in (1, 2):
        save_latest(tmp_path, make_state(step))
    link_or_copy(tmp_path / "latest_state.pt", tmp_path / "best_state.pt")
    assert load_state(tmp_path / "previous_state.pt")["step"] == 1
    assert load_state(tmp_path / "best_state.pt")["step"] == 2
    assert stored_digest(tmp_path / "best_state.pt") == stored_digest(tmp_path / "latest_state.pt") is not None
    assert files_of(tmp_path) == ["best_state.pt", "latest_state.pt", "previous_state.pt"]


def test_a_linked_state_survives_later_saves(tmp_path: Path) -> None:
    save_latest(tmp_path, make_state(1))
    link_or_copy(tmp_path / "latest_state.pt", tmp_path / "best_state.pt")
    link_or_copy(tmp_path / "latest_state.pt", tmp_path / "best_state.pt")  # again: already the same file
    assert (tmp_path / "best_state.pt").samefile(tmp_path / "latest_state.pt")
    for step in (2, 3):
        save_latest(tmp_path, make_state(step))
    assert load_state(tmp_path / "best_state.pt")["step"] == 1
    assert files_of(tmp_path) == ["best_state.pt", "latest_state.pt", "previous_state.pt"]


# --- killed at any point of a save ---

SAVER = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
import torch
from training.storage.checkpoint import save_latest
print("ready", flush=True)
step = int(sys.argv[2])
save_latest(Path(sys.argv[1]), {{"step": step, "w": torch.full((1000,), float(step))}})
"""


def start_saver(folder: Path, step: int, sleep: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "RRS_TEST_SLEEP_IN_SAVE": sleep, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SAVER.format(root=str(ROOT)), str(folder), str(step)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_killed_between_write_and_rename(tmp_path: Path) -> None:
    save_latest(tmp_path, {"step": 1, "w": torch.ones(1000)})
    saver = start_saver(tmp_path, 2, "60")
    while not temporaries(tmp_path) and saver.poll() is None:
        time.sleep(0.01)
    time.sleep(0.2)
    saver.send_signal(signal.SIGKILL)
    saver.wait()
    (temporary,) = temporaries(tmp_path)
    found = load_newest(tmp_path)
    assert found is not None and found[0]["step"] == 1
    assert [path.name for path in sweep_temporaries(tmp_path)] == [temporary.name]
    assert sweep_temporaries(tmp_path) == []


class Killed(BaseException):
    """Stands for SIGKILL in this process: nothing after it may run, so clean-up is disabled too."""


def test_a_good_state_exists_between_any_two_system_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a save before its n-th file system call, for every n, and look at what a successor would find."""
    names = ["link", "replace", "fsync", "unlink", "open"]
    real = {name: getattr(os, name) for name in names}
    stopped_at = 0
    while True:
        folder = tmp_path / str(stopped_at)
        folder.mkdir()
        for step in (1, 2):
            save_latest(folder, make_state(step))
        count = 0

        def counted(name: str) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                if count >= stopped_at:  # noqa: B023
                    count = 10**9
                    raise Killed
                count += 1
                return real[name](*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(os, name, counted(name))
            try:
                save_latest(folder, make_state(3))
                finished = True
            except Killed:
                finished = False
        found = load_newest(folder)
        assert found is not None
        assert found[0]["step"] in (2, 3)
        assert_same(found[0], make_state(found[0]["step"]))
        sweep_temporaries(folder)
        assert set(files_of(folder)) <= {"latest_state.pt", "previous_state.pt"}
        if finished:
            break
        stopped_at += 1
    assert stopped_at >= 6


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    draw = random.Random(1)
    save_latest(tmp_path, {"step": 0, "w": torch.zeros(1000)})
    last = 0
    for step in range(1, 11):
        saver = start_saver(tmp_path, step, "0.05")
        assert saver.stdout is not None and saver.stdout.readline() == "ready\n"
        time.sleep(draw.random() * 0.2)
        saver.send_signal(signal.SIGKILL)
        saver.wait()
        found = load_newest(tmp_path)
        assert found is not None and found[0]["step"] >= last
        last = found[0]["step"]
        assert torch.equal(found[0]["w"], torch.full((1000,), float(last)))
        sweep_temporaries(tmp_path)
        assert set(files_of(tmp_path)) <= {"latest_state.pt", "previous_state.pt"}


def test_sweep_takes_only_our_temporaries(tmp_path: Path) -> None:
    ours = [".latest_state.pt.12.tmp", ".previous_state.pt.1.tmp", ".step_40.7.tmp", ".metrics.jsonl.3.tmp"]
    others = [
        ".latest_state.pt.tmp",
        ".notes.txt.12.tmp",
        "latest_state.pt.12.tmp",
        ".lock",
        "x.tmp",
        ".step_x.7.tmp",
    ]
    for name in ours + others:
        (tmp_path / name).write_text("x")
    assert sorted(path.name for path in sweep_temporaries(tmp_path)) == sorted(ours)
    assert files_of(tmp_path) == sorted(others)
    assert sweep_temporaries(tmp_path / "absent") == []


def test_ctrl_c_inside_a_save_is_a_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised through torch's writer it would be another error; the old state is whole and nothing is left over."""
    save_latest(tmp_path, make_state(1))
    write, calls = archive._HashingWriter.write, 0

    def pressed_in_the_middle(self: Any, data: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return write(self, data)

    monkeypatch.setattr(archive._HashingWriter, "write", pressed_in_the_middle)
    # A shell starts background jobs with Ctrl-C ignored, and the tests may be one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            save_latest(tmp_path, make_state(2))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls > 3
    assert files_of(tmp_path) == ["latest_state.pt"]
    found = load_newest(tmp_path)
    assert found is not None and found[0]["step"] == 1


# --- the disk refuses ---


def assert_untouched(folder: Path) -> None:
    assert files_of(folder) == ["latest_state.pt", "previous_state.pt"]
    assert load_state(folder / "latest_state.pt")["step"] == 2
    assert load_state(folder / "previous_state.pt")["step"] == 1


@pytest.fixture
def two_saves(tmp_path: Path) -> Path:
    for step in (1, 2):
        save_latest(tmp_path, make_state(step))
    return tmp_path


def test_file_size_limit(two_saves: Path) -> None:
    """A real refusal by the kernel (EFBIG), in the middle of torch's writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        for _ in range(2):
            with pytest.raises(CheckpointWriteError, match="latest_state.pt.*too large"):
                save_latest(two_saves, {"step": 3, "w": torch.randn(50_000)})
        with pytest.raises(CheckpointWriteError, match="step_3"):
            save_weights(two_saves / "step_3", {"w": torch.randn(50_000)})
        with pytest.raises(CheckpointWriteError, match=r"w\.safetensors"):
            save_weights(two_saves / "w.safetensors", {"w": torch.randn(50_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_untouched(two_saves)
    save_latest(two_saves, make_state(3))  # room again
    assert load_state(two_saves / "previous_state.pt")["step"] == 2


def test_hook_makes_writes_fail(two_saves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RRS_TEST_SAVE_FAILURE", "enospc")
    with pytest.raises(CheckpointWriteError, match="No space left"):
        save_latest(two_saves, make_state(3))
    assert_untouched(two_saves)


def test_too_little_space_is_seen_before_writing(two_saves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(two_saves)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(CheckpointWriteError, match="1.0 MB free"):
        save_latest(two_saves, make_state(3))
    assert_untouched(two_saves)


@pytest.mark.parametrize("call", ["fsync", "link", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_failing_system_call(two_saves: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(CheckpointWriteError, match="could not write"):
            save_latest(two_saves, make_state(3))
    assert_untouched(two_saves)


def test_a_missing_folder_is_a_write_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointWriteError):
        save_state(tmp_path / "gone" / "s.pt", make_state(1))


# --- random generators ---


def draw_from_all() -> list[Any]:
    legacy = np.random  # the global generator that libraries use
    return [random.random(), random.gauss(0, 1), legacy.rand(), legacy.randn(), torch.rand(3).tolist()]  # noqa: NPY002


def test_rng_goes_on_where_it_was(tmp_path: Path) -> None:
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)
    draw_from_all()  # leaves half of a Gaussian pair in both libraries
    save_state(tmp_path / "s.pt", {"rng": capture_rng()})
    expected = [draw_from_all() for _ in range(3)]
    restore_rng(load_state(tmp_path / "s.pt")["rng"])
    assert [draw_from_all() for _ in range(3)] == expected


# --- files of steps ---


def test_keep_last_sorts_by_number(tmp_path: Path) -> None:
    names = [f"step_{n}" for n in (9, 10, 100, 1000, 99)] + ["best.pt", "final.pt", "latest_state.pt"]
    others = ["step_x", "step_10_all_preds.0", "step_5.bak"]
    for name in names + others:
        (tmp_path / name).write_text("x")
    assert keep_last(tmp_path, 0) == []
    removed = keep_last(tmp_path, 2)
    assert sorted(path.name for path in removed) == ["step_10", "step_9", "step_99"]
    assert files_of(tmp_path) == sorted(["step_100", "step_1000", "best.pt", "final.pt", "latest_state.pt", *others])
    assert keep_last(tmp_path, 5) == []


def test_the_hooks_are_off_by_default() -> None:
    assert atomic_file.SLEEP_HOOK not in os.environ and archive.FAILURE_HOOK not in os.environ
    assert checkpoint.VERSION == 1


@pytest.mark.parametrize("seconds", ["abc", "-1", "nan", "inf", "1e9", " ", "²"])
def test_a_hook_that_is_no_number_costs_no_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    monkeypatch.setenv(atomic_file.SLEEP_HOOK, seconds)
    atomic_file.write_bytes_atomically(tmp_path / "state", b"all of it")
    assert (tmp_path / "state").read_bytes() == b"all of it"
