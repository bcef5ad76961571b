import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataset import puzzle_folder
from dataset.puzzle_folder import (
    ARRAYS,
    OF_EXAMPLES,
    fingerprint,
    open_puzzle_set,
    open_puzzle_sets,
    verify_checksums,
    write_puzzle_folder,
)
from dataset.puzzle_metadata import PuzzleFolder, PuzzleMetadata, read_identifiers, read_metadata
from errors import UserError
from files import file_sha256
from tests.dataset.folders import edit_metadata, make_folder, sudoku_task

OFFICIAL_TRM_FIELDS = {
    "pad_id",
    "ignore_label_id",
    "blank_identifier_id",
    "vocab_size",
    "seq_len",
    "num_puzzle_identifiers",
    "total_groups",
    "mean_puzzle_examples",
    "total_puzzles",
    "sets",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_folder(tmp_path / "data", puzzles_per_group=[2, 1, 3], examples_per_puzzle=[1, 2, 1, 1, 3, 1])
    return tmp_path / "data"


def refused(root: Path, *words: str, split: str = "train") -> str:
    """The folder is refused in one line that names it, the reason and the command that mends it."""
    with pytest.raises(UserError) as caught:
        open_puzzle_set(root, split)
    message = str(caught.value)
    assert "\n" not in message and str(root) in message
    assert "dataset/build_sudoku_dataset.py --output-dir" in message
    for word in words:
        assert word in message, message
    return message


def arrays_for(count: int, length: int = 16) -> dict[str, np.ndarray]:
    return {
        "inputs": np.ones((count, length)),
        "labels": np.full((count, length), 2),
        "puzzle_identifiers": np.zeros(count),
        "puzzle_indices": np.arange(count + 1),
        "group_indices": np.arange(count + 1),
    }


def metadata_for(count: int, **changes: object) -> PuzzleMetadata:
    base = PuzzleMetadata(seq_len=16, vocab_size=6, total_groups=count, total_puzzles=count)
    return replace(base, **changes)  # type: ignore[arg-type]


def test_round_trip(tmp_path: Path) -> None:
    arrays = arrays_for(5)
    arrays["inputs"] = np.random.default_rng(1).integers(0, 6, (5, 16))
    arrays["ratings"] = np.array([3, 0, 100_000, 7, 1])
    arrays["answer_counts"] = np.array([1, 2, 2**62 + 1, 3, 1])
    metadata = metadata_for(5, extra={"task": "sudoku", "augmentation": {"kind": "sudoku", "box": [2, 2]}})
    write_puzzle_folder(tmp_path, "test", metadata=metadata, arrays=arrays)
    opened = open_puzzle_set(tmp_path, "test")
    for name, array in arrays.items():
        assert np.array_equal(getattr(opened, name), array), name
    assert opened.inputs.dtype == np.uint8 and opened.ratings is not None and opened.ratings.dtype == np.int32
    assert opened.metadata.task == sudoku_task((2, 2)) and opened.metadata.extra["task"] == "sudoku"
    assert replace(opened.metadata, extra={}) == replace(metadata, extra={})
    assert verify_checksums(tmp_path, "test") == 7


def test_official_code_finds_its_fields_and_types(folder: Path) -> None:
    data = json.loads((folder / "train" / "dataset.json").read_text())
    assert set(data) >= OFFICIAL_TRM_FIELDS
    assert all(type(data[key]) is int for key in OFFICIAL_TRM_FIELDS - {"sets", "mean_puzzle_examples"})
    dtypes = {
        name: np.load(folder / "train" / f"all__{name}.npy", allow_pickle=False).dtype for name in puzzle_folder.ARRAYS
    }
    assert dtypes == {
        "inputs": np.uint8,
        "labels": np.uint8,
        "puzzle_identifiers": np.int32,
        "puzzle_indices": np.int32,
        "group_indices": np.int32,
    }
    assert read_identifiers(folder) == ["<blank>"]


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_folder(tmp_path / name, puzzles_per_group=[2, 1], examples_per_puzzle=[1, 2, 1])
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64, ">i4"])
def test_hrm_folder(tmp_path: Path, dtype: str) -> None:
    """As HRM's builder writes it: no total_puzzles, and here also with wider integers."""
    count, groups = 12, 3
    split = tmp_path / "train"
    split.mkdir()
    for name, array in arrays_for(count).items():
        stored = dtype if name in ("inputs", "labels") else np.int32
        np.save(split / f"all__{name}.npy", array.astype(stored))
    np.save(split / "all__group_indices.npy", np.arange(0, count + 1, count // groups, dtype=np.int32))
    (split / "dataset.json").write_text(
        '{"pad_id":0,"ignore_label_id":0,"blank_identifier_id":0,"vocab_size":6,"seq_len":16,'
        '"num_puzzle_identifiers":1,"total_groups":3,"mean_puzzle_examples":1.0,"sets":["all"]}'
    )
    (tmp_path / "identifiers.json").write_text('["<blank>"]')
    opened = open_puzzle_set(tmp_path, "train")
    assert opened.metadata.total_puzzles == count and opened.group_indices.tolist() == [0, 4, 8, 12]
    assert opened.inputs.dtype == np.dtype(dtype) and verify_checksums(tmp_path, "train") == 0
    # The official Sudoku and Maze builders of TRM store the number of groups instead.
    edit_metadata(split, total_puzzles=groups)
    assert open_puzzle_set(tmp_path, "train").metadata.total_puzzles == groups


def test_ignored_labels_outside_the_vocabulary(tmp_path: Path) -> None:
    arrays = arrays_for(3)
    arrays["labels"] = arrays["labels"].copy()
    arrays["labels"][1, 4] = 255
    write_puzzle_folder(tmp_path, "train", metadata=metadata_for(3, ignore_label_id=255), arrays=arrays)
    edit_metadata(tmp_path / "train", ignore_label_id=None)
    refused(tmp_path, "all__labels.npy", "255", "row 1")


def test_several_sets(tmp_path: Path) -> None:
    metadata = metadata_for(5, sets=("all", "concept"))
    write_puzzle_folder(tmp_path, "train", metadata=metadata, arrays=arrays_for(2))
    write_puzzle_folder(tmp_path, "train", metadata=metadata, arrays=arrays_for(3), set_name="concept")
    assert open_puzzle_set(tmp_path, "train", "concept").num_examples == 3
    assert verify_checksums(tmp_path, "train") == 10
    with pytest.raises(UserError, match="'all', 'concept'"):
        open_puzzle_set(tmp_path, "train", "other")


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": np.full((4, 16), 6)},
        {"inputs": np.full((4, 16), 256)},
        {"labels": np.ones((3, 16))},
        {"puzzle_indices": np.array([0, 2, 1, 3, 4])},
        {"puzzle_identifiers": np.array([0, 0, 0, 1])},
    ],
)
def test_contradictions_are_not_written(tmp_path: Path, changes: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError):
        write_puzzle_folder(tmp_path, "train", metadata=metadata_for(4), arrays={**arrays_for(4), **changes})


# no data, another kind of data


def test_missing_places(tmp_path: Path, folder: Path) -> None:
    refused(tmp_path / "nowhere", "no data here")
    refused(tmp_path / "search-6x6", "python dataset/build_sudoku_dataset.py --output-dir")
    for name, builder in (("maze-30x30-hard-1k", "build_maze_dataset.py"), ("arc1concept", "build_arc_dataset.py")):
        with pytest.raises(UserError, match=f"no data here; .*dataset/{builder}"):
            open_puzzle_set(tmp_path / name, "train")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is empty")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "is a file")
    refused(folder, "no 'test' folder", split="test")
    (folder / "test").mkdir()
    refused(folder, "half-built", split="test")
    with pytest.raises(UserError, match="name of a split"):
        open_puzzle_set(folder, "../train")
    with pytest.raises(UserError):
        open_puzzle_set(str(folder) + "\0", "train")
    with pytest.raises(UserError):
        open_puzzle_set(folder / ("x" * 300), "train")


@pytest.mark.parametrize("name", puzzle_folder.ARRAYS)
def test_missing_array(folder: Path, name: str) -> None:
    (folder / "train" / f"all__{name}.npy").unlink()
    refused(folder, f"all__{name}.npy", "no such file")


def test_a_pipe_is_not_opened(folder: Path) -> None:
    path = folder / "train" / "all__inputs.npy"
    path.unlink()
    os.mkfifo(path)
    refused(folder, "not a regular file")


# damaged arrays


@pytest.mark.parametrize("name", puzzle_folder.ARRAYS)
@pytest.mark.parametrize("keep", [0, 5, 40, 127, -1])
def test_truncated_array(folder: Path, name: str, keep: int) -> None:
    path = folder / "train" / f"all__{name}.npy"
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, path.name)


def test_lengthened_array(folder: Path) -> None:
    with open(folder / "train" / "all__labels.npy", "ab") as handle:
        handle.write(b"\0")
    refused(folder, "all__labels.npy", "bytes")


@pytest.mark.parametrize("name", puzzle_folder.ARRAYS)
@pytest.mark.parametrize("dtype", ["f4", "bool", "c16", "S4", "M8[s]", [("a", "u1")]])
def test_wrong_dtype(folder: Path, name: str, dtype: object) -> None:
    path = folder / "train" / f"all__{name}.npy"
    shape = np.load(path, allow_pickle=False).shape
    np.save(path, np.zeros(shape, dtype=dtype))
    refused(folder, path.name, "expected integers")


class Payload:
    """Unpickling it would leave a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_pickle_payload_is_never_executed(folder: Path, tmp_path: Path) -> None:
    path, trace = folder / "train" / "all__inputs.npy", tmp_path / "executed"
    objects = np.empty((9, 16), dtype=object)
    objects[0, 0] = Payload(trace)
    np.save(path, objects, allow_pickle=True)
    refused(folder, "all__inputs.npy", "expected integers")
    path.write_bytes(pickle.dumps(Payload(trace)))
    refused(folder, "all__inputs.npy", "not a readable .npy file")
    assert not trace.exists()
    np.load(path, allow_pickle=True)
    assert trace.exists(), "the payload of this test does nothing, so it shows nothing"


def write_header(path: Path, header: str, version: bytes = b"\x01\x00") -> None:
    text = header.encode("latin1") + b"\n"
    size = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    path.write_bytes(b"\x93NUMPY" + version + size + text + bytes(64))


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 16)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 4000 + ", " + "9" * 4000 + ")}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 16)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (True, 16)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': ()}",
        "{'descr': '|u1', 'fortran_order': True, 'shape': (4, 16)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 4, 4)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 1, 1, 1, 1, 64)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 16)}",
        "{'descr': '|u1', 'fortran_order': False}",
        "{'descr': 'nonsense', 'fortran_order': False, 'shape': (4, 16)}",
        "{'descr': ('|u1', (2,)), 'fortran_order': False, 'shape': (2, 16)}",
        "(" * 5000,
        "__import__('os').abort()",
        "{'descr': '|u1'",
        "",
    ],
)
@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x09"])
def test_hostile_header(folder: Path, header: str, version: bytes) -> None:
    path = folder / "train" / "all__inputs.npy"
    write_header(path, header, version)
    refused(folder, path.name)
    write_header(folder / "train" / "all__puzzle_indices.npy", header, version)
    refused(folder, "all__puzzle_indices.npy")


def test_header_longer_than_the_file(folder: Path) -> None:
    path = folder / "train" / "all__inputs.npy"
    path.write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{")
    refused(folder, path.name, "not a readable .npy file")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("puzzle_indices", [1, 1, 3, 4, 5, 8, 9]),
        ("puzzle_indices", [0, 3, 1, 4, 5, 8, 9]),
        ("puzzle_indices", [0, 1, 3, 4, 5, 8, 10]),
        ("puzzle_indices", [0, -1, 3, 4, 5, 8, 9]),
        ("puzzle_indices", [0, 1, 3, 4, 50, 8, 9]),
        ("puzzle_indices", [0, 9]),
        ("puzzle_indices", [0]),
        ("group_indices", [0, 2, 2, 6]),
        ("group_indices", [0, 2, 3, 5]),
        ("group_indices", [0, 2, 3, 4, 6]),
        ("group_indices", [0, 6]),
        ("puzzle_identifiers", [0, 0, 0, 0, 0, 1]),
        ("puzzle_identifiers", [0, 0, -1, 0, 0, 0]),
        ("puzzle_identifiers", [0, 0, 0]),
    ],
)
def test_inconsistent_indices(folder: Path, name: str, values: list[int]) -> None:
    np.save(folder / "train" / f"all__{name}.npy", np.array(values, dtype=np.int32))
    refused(folder)


def test_huge_unsigned_offsets(folder: Path) -> None:
    offsets = np.array([0, 2**64 - 1, 3, 4, 5, 8, 9], dtype=np.uint64)
    np.save(folder / "train" / "all__puzzle_indices.npy", offsets)
    refused(folder, "all__puzzle_indices.npy")


@pytest.mark.parametrize(("name", "token"), [("inputs", 6), ("labels", 6), ("inputs", 255), ("labels", -1)])
@pytest.mark.parametrize("lazy", [False, True])
def test_tokens_outside_the_vocabulary(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, token: int, lazy: bool
) -> None:
    """Refused on opening; of arrays too large for that, when the row is read."""
    path = folder / "train" / f"all__{name}.npy"
    tokens = np.load(path, allow_pickle=False).astype(np.int32)
    tokens[7, 3] = token
    np.save(path, tokens)
    if not lazy:
        refused(folder, path.name, str(token), "row 7")
        return
    monkeypatch.setattr(puzzle_folder, "FULL_CHECK_BYTES", 0)
    edit_metadata(folder / "train", sha256=...)
    opened = open_puzzle_set(folder, "train")
    opened.read_rows(np.array([0, 6, 8]))
    with pytest.raises(UserError, match=path.name):
        opened.read_rows(np.array([8, 7]))


def test_ratings_must_fit(folder: Path) -> None:
    path = folder / "train" / "all__ratings.npy"
    np.save(path, np.zeros(4, dtype=np.int32))
    refused(folder, path.name, "expected (9,)")
    np.save(path, np.full(9, 2**40))
    refused(folder, path.name, "32 bits")
    path.unlink()
    path = folder / "train" / "all__answer_counts.npy"
    edit_metadata(folder / "train", sha256=...)
    np.save(path, np.full(9, 2**40))
    counts = open_puzzle_set(folder, "train").answer_counts
    assert counts is not None and counts.tolist() == [2**40] * 9
    np.save(path, np.full(9, 2**63, np.uint64))
    refused(folder, path.name, "64 bits")


# damaged JSON


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "7", "[" * 100_000, '{"a":' * 100_000, "[" * 500 + "]" * 500, "\ufeff{}",
        '{"seq_len": NaN}', '{"seq_len": 1e999}', '{"seq_len": ' + "9" * 5000 + "}", "\x00",
        '{"pad_id": 0, "pad_id": 1}',
    ],
)  # fmt: skip
def test_broken_metadata(folder: Path, text: str) -> None:
    (folder / "train" / "dataset.json").write_text(text, encoding="utf-8")
    refused(folder, "dataset.json")


def test_metadata_in_another_encoding(folder: Path) -> None:
    path = folder / "train" / "dataset.json"
    path.write_bytes(path.read_text().encode("utf-16"))
    refused(folder, "dataset.json")


def test_not_a_number_among_good_fields(folder: Path) -> None:
    path = folder / "train" / "dataset.json"
    path.write_text(path.read_text().replace("1.5", "NaN"))
    refused(folder, "NaN")


def test_oversized_json(folder: Path) -> None:
    path = folder / "train" / "dataset.json"
    path.write_text(path.read_text() + " " * (1 << 20))
    refused(folder, "dataset.json", "expected at most 1,048,576")


WRONG_FIELDS = {
    "seq_len": [..., None, "16", 16.0, True, 0, -1, 17, 10**400, [16]],
    "vocab_size": [..., None, "6", 0, True, 2, 1 << 40],
    "pad_id": [..., None, -1, 6, False],
    "ignore_label_id": [..., "0", 0.0, True, 1 << 60],
    "blank_identifier_id": [..., None, 1, -1],
    "num_puzzle_identifiers": [..., None, 0, 2, 1 << 40, "1"],
    "total_groups": [..., None, 0, 2, 4, "3", 3.0],
    "mean_puzzle_examples": [..., None, 0, -1.5, "1.5", True, 1e300, 50, [1.5]],
    "total_puzzles": [None, 0, 5, "6", 6.0, 10**30],
    "sets": [..., None, [], "all", ["all", "all"], [1], ["../all"], ["/etc/x"], ["none"], {"all": 1},
             [str(i) for i in range(100)]],
    "augmentation": [1, "sudoku", {}, {"kind": "maze", "box": [2, 2]}, {"kind": "sudoku"},
                     {"kind": "sudoku", "box": [2]}, {"kind": "sudoku", "box": [2, 3]},
                     {"kind": "sudoku", "box": [True, 4]}, {"kind": "sudoku", "box": [2.0, 2]}],
    "sha256": [[], {"all__inputs.npy": 5}, {"../x": "0" * 64}, {"all__inputs.npy": "zz"}],
}  # fmt: skip


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG_FIELDS.items() for value in values])
def test_wrong_field(folder: Path, key: str, value: object) -> None:
    edit_metadata(folder / "train", **{key: value})
    refused(folder)


@pytest.mark.parametrize("names", [[], ["<blank>", "more"], {"0": "<blank>"}, ["<blank>", 1], [None]])
def test_wrong_identifiers(folder: Path, names: object) -> None:
    (folder / "identifiers.json").write_text(json.dumps(names))
    refused(folder, "identifiers.json")


# checksums and fingerprints


@pytest.mark.parametrize("name", [*ARRAYS, *OF_EXAMPLES])
def test_a_flipped_bit_is_noticed_by_whoever_opens_the_set(folder: Path, name: str) -> None:
    """Also where it gives another good value, and in a file that is gone or was put there since."""
    path = folder / "train" / f"all__{name}.npy"
    for further in OF_EXAMPLES:
        np.save(folder / "train" / f"all__{further}.npy", np.arange(9, dtype=np.int32))
    sums = {file.name: file_sha256(file) for file in (folder / "train").glob("*.npy")}
    edit_metadata(folder / "train", sha256=sums)
    sound = open_puzzle_set(folder, "train")
    assert verify_checksums(folder, "train") == 7
    data = bytearray(path.read_bytes())
    data[-1 if name in ("inputs", "labels") else -4] ^= 1
    path.write_bytes(data)
    refused(folder, path.name)
    if name in ("inputs", "labels", *OF_EXAMPLES):
        refused(folder, path.name, "SHA-256 differs")
        assert open_puzzle_set(folder, "train", verify=False).num_examples == sound.num_examples
    path.unlink()
    refused(folder, path.name)


def test_a_file_that_nobody_built_is_refused(folder: Path) -> None:
    np.save(folder / "train" / "all__ratings.npy", np.arange(9, dtype=np.int32))
    refused(folder, "all__ratings.npy", "none of the files that were built")
    edit_metadata(folder / "train", sha256=...)
    assert open_puzzle_set(folder, "train").ratings is not None, "a folder without sums is read with what it has"


def test_one_folder_under_two_names_is_refused(folder: Path, tmp_path: Path) -> None:
    """Its rows would count twice, in training and in every rate."""
    other = tmp_path / "other name"
    other.symlink_to(folder)
    for names in ([folder, folder], [str(folder), f"{folder}/../{folder.name}"], [folder, other]):
        with pytest.raises(UserError, match="are one data folder, whose rows would count twice; name it once"):
            open_puzzle_sets(names, "train")
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    assert len(open_puzzle_sets([folder, copied], "train")) == 2 * len(open_puzzle_sets([folder], "train"))


def test_each_file_is_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []

    def noted(path: Path) -> str:
        hashed.append(path)
        return file_sha256(path)

    monkeypatch.setattr(puzzle_folder, "file_sha256", noted)
    opened = PuzzleFolder(folder)
    for _ in range(2):
        open_puzzle_set(opened, "train")
    assert sorted(path.name for path in hashed) == sorted(f"all__{name}.npy" for name in ARRAYS)
    assert verify_checksums(opened, "train") == len(hashed) == 5


def test_fingerprint_follows_content(folder: Path, tmp_path: Path) -> None:
    first = fingerprint(folder, "train")
    os.rename(folder, tmp_path / "moved")
    assert fingerprint(tmp_path / "moved", "train") == first
    edit_metadata(tmp_path / "moved" / "train", build={"command": "another"})
    assert fingerprint(tmp_path / "moved", "train") == first
    make_folder(tmp_path / "other", puzzles_per_group=[2, 1, 3], examples_per_puzzle=[1, 2, 1, 1, 3, 1], seed=1)
    assert fingerprint(tmp_path / "other", "train") != first
    # Without stored checksums the arrays themselves count.
    for name in ("moved", "other"):
        edit_metadata(tmp_path / name / "train", sha256=...)
    assert fingerprint(tmp_path / "moved", "train") != fingerprint(tmp_path / "other", "train")


def test_read_metadata_needs_no_arrays_when_complete(folder: Path) -> None:
    for path in (folder / "train").glob("*.npy"):
        path.unlink()
    assert read_metadata(folder, "train").total_puzzles == 6
    edit_metadata(folder / "train", total_puzzles=...)
    with pytest.raises(UserError, match="all__puzzle_indices.npy"):
        read_metadata(folder, "train")
