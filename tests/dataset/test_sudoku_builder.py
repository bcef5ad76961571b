"""The builder end to end: structure, reproducibility, disjointness, refusals."""

import gzip
import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import dataset.build_sudoku_dataset as builder
import dataset.sudoku_collect as collect
import dataset.sudoku_collect_generated as generated
from dataset.puzzle_folder import PuzzleSet, open_puzzle_set, verify_checksums
from dataset.puzzle_metadata import read_identifiers
from dataset.sudoku import (
    BOXES,
    board_text,
    boards_from_tokens,
    has_conflict,
    is_solution,
    parse_board,
    random_symmetries,
)
from dataset.sudoku_solver import solve
from files import file_sha256
from tests.dataset.canonical_form import canonical_form
from tests.dataset.folders import sudoku_task
from tests.dataset.sudoku_reference import RAW_LIST
from training.settings.cli import compose_config

SCRIPT = Path(builder.__file__)
CSV_HEADER = "source,question,answer,rating\n"
Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    monkeypatch.chdir(tmp_path)

    def run(name: str, *words: object) -> Path:
        builder.main(["--output-dir", name, *map(str, words)])
        return tmp_path / name

    return run


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return gzip.open(RAW_LIST, "rt").read().split()[:400]


@pytest.fixture(scope="module")
def csv_rows(texts: list[str]) -> list[str]:
    solved = solve(np.array([parse_board(text) for text in texts]), (3, 3))
    return [
        f"royle,{text.replace('0', '.')},{board_text(answer)},{rating}\n"
        for text, answer, rating in zip(texts, solved.solutions, solved.ratings, strict=True)
    ]


def boards_of(root: Path, split: str) -> tuple[np.ndarray, np.ndarray, PuzzleSet]:
    opened = open_puzzle_set(root, split)
    return boards_from_tokens(opened.inputs), boards_from_tokens(opened.labels), opened


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        builder.main([str(word) for word in words])
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1, text
    return text


def check_split(root: Path, split: str, box: tuple[int, int], num_aug: int = 0) -> np.ndarray:
    boards, solutions, opened = boards_of(root, split)
    n = box[0] * box[1]
    metadata = opened.metadata
    assert (metadata.vocab_size, metadata.seq_len) == (n + 2, n * n)
    assert metadata.total_groups == metadata.total_puzzles == len(boards) // (1 + num_aug)
    assert is_solution(solutions, box).all()
    solved = solve(boards, box)
    assert solved.unique.all() and np.array_equal(solved.solutions, solutions)
    assert opened.group_indices.tolist() == list(range(0, len(boards) + 1, 1 + num_aug))
    assert opened.puzzle_indices.tolist() == list(range(len(boards) + 1))
    assert opened.ratings is not None
    if metadata.extra["rating"] == "search_nodes":
        assert opened.ratings[:: 1 + num_aug].tolist() == solved.ratings[:: 1 + num_aug].tolist()
    assert verify_checksums(root, split) == 6
    return boards


def test_generated_6x6_is_disjoint_up_to_symmetry_and_the_same_for_any_workers(build: Build) -> None:
    one = build("one", "--generate", "6x6", "--num-train", 300, "--test-size", 100, "--seed", 3)
    two = build("two", "--generate", "6x6", "--num-puzzles", 300, "--test-size", 100, "--seed", 3, "--num-workers", 2)
    assert digest(one) == digest(two)
    train, test = check_split(one, "train", (2, 3)), check_split(one, "test", (2, 3))
    forms = canonical_form(np.concatenate([train, test]), (2, 3))
    assert len(np.unique(forms, axis=0)) == 400
    metadata = json.loads((one / "train" / "dataset.json").read_text())
    assert metadata["augmentation"] == {"kind": "sudoku", "box": [2, 3]} and metadata["task"] == "sudoku"
    assert "--seed 3" in metadata["build"]["command"]
    assert read_identifiers(one) == ["<blank>"]
    notes = metadata["build"]["notes"]
    assert notes[-1] == "no training puzzle is, up to symmetry, among the first 4,093 that seed 3 tests on"
    other = build("other", "--generate", "6x6", "--num-train", 300, "--test-size", 100, "--seed", 4)
    assert not np.array_equal(boards_of(other, "train")[0], train)
    larger = build("larger", "--generate", "6x6", "--num-train", 350, "--test-size", 100, "--seed", 3)
    assert np.array_equal(boards_of(larger, "test")[0], test)
    assert np.array_equal(boards_of(larger, "train")[0][:300], train)


def test_a_larger_test_set_takes_no_puzzle_that_was_trained_on(build: Build) -> None:
    """Of one seed: training sets of any size against test sets of any size, up to symmetry."""
    train = check_split(build("long", "--generate", "6x6", "--num-train", 400, "--test-size", 1), "train", (2, 3))
    larger = build("wide", "--generate", "6x6", "--num-train", 5, "--test-size", 1500)
    test = check_split(larger, "test", (2, 3))
    assert len(np.unique(canonical_form(np.concatenate([train, test]), (2, 3)), axis=0)) == 1900
    assert np.array_equal(check_split(larger, "train", (2, 3)), train[:5])


def test_split_by_solution_class_no_solution_is_on_both_sides(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    """Up to symmetry, by enumeration; split by puzzle most of them are. Other seeds hold out other classes."""

    def classes(name: str, *words: object) -> list[set[bytes]]:
        folder = build(name, "--generate", "6x6", "--num-train", 150, "--test-size", 60, *words)
        boards = [boards_of(folder, split)[1].astype(np.uint8) for split in ("train", "test")]
        return [{form.tobytes() for form in canonical_form(each, (2, 3))} for each in boards]

    by = ("--split-by", "solution-class")
    train, test = classes("by_class", *by)
    assert len(train) > 20 and len(test) > 3 and not train & test
    said = f"solutions are of {len(train)} classes in train and {len(test)} others in test"
    assert said in capsys.readouterr().out
    of_puzzles = classes("by_puzzle")
    assert len(of_puzzles[0] & of_puzzles[1]) > 20
    assert classes("other_seed", *by, "--seed", 1)[1] != test
    assert classes("larger_test", *by, "--test-size", 90)[0] == train


@pytest.mark.parametrize(
    ("words", "digest"),
    [
        (("6x6", "--test-size", 60), "d82061fb9b1d783b"),
        (("6x6", "--test-size", 60, "--num-clues", 20, "--seed", 1), "6c55bab4b0341e3b"),
        (("9x9", "--test-size", 3), "410713724740c628"),
        (("4x4",), "9d59a5aacee44b87"),
    ],
    ids=str,
)
def test_test_sets_of_a_seed_are_what_they_always_were(build: Build, words: tuple[object, ...], digest: str) -> None:
    """Recorded from the builder whose training puzzles were the next ones of the same stream."""
    folder = build("one", "--generate", *words, "--num-train", 4) / "test"
    assert file_sha256(folder / "all__inputs.npy")[:16] == digest


def test_generated_4x4_and_9x9(
    build: Build, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = build("small", "--generate", "4x4")
    assert "smoke tests only" in capsys.readouterr().out
    boards = [check_split(small, split, (2, 2)) for split in ("train", "test")]
    assert len(np.unique(canonical_form(np.concatenate(boards), (2, 2)), axis=0)) == 36
    monkeypatch.setattr(generated, "_GENERATE_CHUNK", {4: 64, 6: 64, 9: 16})
    large = build("large", "--generate", "9x9", "--num-train", 10, "--test-size", 5, "--num-clues", 32)
    for split, count in (("train", 10), ("test", 5)):
        boards_9x9 = check_split(large, split, (3, 3))
        assert len(boards_9x9) == count and ((boards_9x9 != 0).sum(axis=1) == 32).all()


def test_list_splits_are_seeded_disjoint_and_solved_only_where_needed(
    build: Build, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "list.txt"
    path.write_text("\n".join([*texts, *texts[:5]]))
    monkeypatch.setattr(collect, "_SOLVE_CHUNK", 64)
    one = build("one", "--input-file", path)
    two = build("two", "--input-file", path, "--num-workers", 2)
    assert digest(one) == digest(two)
    train, test = check_split(one, "train", (3, 3)), check_split(one, "test", (3, 3))
    assert {board_text(board, "0") for board in [*train, *test]} == set(texts)
    assert (len(train), len(test)) == (320, 80)

    solved_boards = []
    solve_all = collect.solve_all

    def counting(boards: np.ndarray, *rest: object) -> object:
        solved_boards.append(len(boards))
        return solve_all(boards, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(collect, "solve_all", counting)
    few = build("few", "--input-file", path, "--subsample-size", 30, "--test-size", 10)
    assert solved_boards == [10, 30]
    assert np.array_equal(boards_of(few, "test")[0], test[:10])
    hard = build("hard", "--input-file", path, "--num-train", 20, "--min-difficulty", 5)
    for split in ("train", "test"):
        ratings = open_puzzle_set(hard, split).ratings
        assert ratings is not None and ratings.min() >= 5


def test_training_puzzles_of_a_list_come_from_the_other_end(build: Build, texts: list[str], tmp_path: Path) -> None:
    """So a larger test set of the same seed takes none of them while others are left."""
    path = tmp_path / "list.txt"
    path.write_text("\n".join(texts))
    train = boards_of(build("one", "--input-file", path, "--num-train", 40, "--test-size", 20), "train")[0]
    larger = build("two", "--input-file", path, "--num-train", 40, "--test-size", 300)
    assert np.array_equal(boards_of(larger, "train")[0], train) and len(boards_of(larger, "test")[0]) == 300
    assert not {board.tobytes() for board in boards_of(larger, "test")[0]} & {board.tobytes() for board in train}


@pytest.mark.parametrize("form", ["list", "csv", "two csv"])
@pytest.mark.parametrize("seed", range(3))
def test_puzzles_equal_up_to_symmetry_go_to_one_side(
    build: Build, csv_rows: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, seed: int
) -> None:
    """60 puzzles, each with an image under some symmetry, shuffled."""
    pairs = [row.split(",")[1:3] for row in csv_rows[:60]]
    boards, solutions = (np.array([parse_board(pair[part]) for pair in pairs]) for part in (0, 1))
    symmetries = random_symmetries(60, (3, 3), np.random.default_rng(seed))
    images = symmetries.apply(boards), symmetries.apply(solutions)
    boards, solutions = np.concatenate([boards, images[0]]), np.concatenate([solutions, images[1]])
    order = np.random.default_rng(seed).permutation(120)
    rows = [f"x,{board_text(boards[row])},{board_text(solutions[row])},3\n" for row in order]
    if form == "list":
        path = tmp_path / "list.txt"
        path.write_text("".join(row.split(",")[1] + "\n" for row in rows))
        words = ["--input-file", path]
    elif form == "csv":
        path = tmp_path / "mine.csv"
        path.write_text(CSV_HEADER + "".join(rows))
        words = ["--input-file", path]
    else:
        (tmp_path / "train.csv").write_text(CSV_HEADER + "".join(rows[40:]))
        (tmp_path / "test.csv").write_text(CSV_HEADER + "".join(rows[:40]))
        words = ["--input-dir", tmp_path]
    root = build("one", *words, "--seed", seed)
    train, test = boards_of(root, "train")[0], boards_of(root, "test")[0]
    number = {board.tobytes(): row % 60 for row, board in enumerate(boards.astype(np.uint8))}
    sides = [{number[board.tobytes()] for board in part} for part in (train, test)]
    assert not sides[0] & sides[1]
    if form == "two csv":
        in_test = {row % 60 for row in order[:40]}
        dropped = sum(row % 60 in in_test for row in order[40:])
        said = f"{dropped} puzzles were dropped from train: up to symmetry they are in test"
        assert len(test) == 40 and len(train) == 80 - dropped
    else:
        said = "60 puzzles are equal to another up to symmetry and stand on the same side"
        assert (len(train), len(test)) == (96, 24)
    assert f"note: {said}" in capsys.readouterr().out
    for split in ("train", "test"):
        assert said in json.loads((root / split / "dataset.json").read_text())["build"]["notes"]


def test_what_whole_classes_cannot_give_is_said(
    build: Build, texts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pairs only: no test set of 5. And a list that is one puzzle in several shapes has no two sides."""
    path = tmp_path / "list.txt"
    swapped = str.maketrans("12", "21")
    path.write_text("".join(f"{text}\n{text.translate(swapped)}\n" for text in texts[:20]))
    root = build("one", "--input-file", path, "--test-size", 5)
    assert len(boards_of(root, "test")[0]) == 4 and "5 puzzles to test on were asked for, 4" in capsys.readouterr().out
    root = build("two", "--input-file", path, "--test-size", 1)
    assert len(boards_of(root, "test")[0]) == 2
    path.write_text(f"{texts[0]}\n{texts[0].translate(swapped)}\n")
    assert "1 classes of puzzles equal up to symmetry" in refused(capsys, "--input-file", path, "--output-dir", "three")


def test_one_question_with_two_answers_is_refused_by_line(
    tmp_path: Path, csv_rows: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = csv_rows[0].split(",")[2]
    swap = str.maketrans("12", "21")
    question = "".join("." if digit in "12" else digit for digit in answer)
    rows = [f"x,{question},{answer},1\n", *csv_rows[1:9], f"x,{question},{answer.translate(swap)},1\n"]
    (tmp_path / "mine.csv").write_text(CSV_HEADER + "".join(rows))
    message = refused(capsys, "--input-file", "mine.csv", "--output-dir", "out")
    assert "mine.csv:11: has another answer to the question of mine.csv:2" in message
    (tmp_path / "train.csv").write_text(CSV_HEADER + "".join(rows[:-1]))
    (tmp_path / "test.csv").write_text(CSV_HEADER + rows[-1])
    message = refused(capsys, "--input-dir", ".", "--output-dir", "out")
    assert "train.csv:2: has another answer to the question of test.csv:2" in message
    assert not (tmp_path / "out").exists()


def test_kaggle_columns_are_rated_by_search(
    build: Build, tmp_path: Path, csv_rows: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row.split(",") for row in csv_rows[:30]]
    (tmp_path / "sudoku.csv").write_text("quizzes,solutions\r" + "\r".join(f"{q},{a}" for _, q, a, _ in rows))
    root = build("one", "--input-file", "sudoku.csv")
    assert "no column 'rating': ratings are counted by search" in capsys.readouterr().out
    check_split(root, "train", (3, 3))
    assert json.loads((root / "train" / "dataset.json").read_text())["rating"] == "search_nodes"
    for words, expected in ((["--rating", "published"], "give --rating search"), (["--min-difficulty", 2], "a list")):
        assert expected in refused(capsys, "--input-file", "sudoku.csv", *words, "--output-dir", "out")


def test_lists_of_any_line_end_are_read_whole(build: Build, tmp_path: Path, texts: list[str]) -> None:
    (tmp_path / "unix.txt").write_text("\n".join(texts[:6]))
    (tmp_path / "mac.txt").write_bytes("\r".join(texts[6:12]).encode())
    root = build("one", "--input-file", "unix.txt", "mac.txt")
    kept = {board_text(board, "0") for split in ("train", "test") for board in boards_of(root, split)[0]}
    assert kept == set(texts[:12])


def test_unsolvable_and_ambiguous_lines_are_refused_by_number(
    build: Build, texts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "list.txt"
    solution = board_text(solve(parse_board(texts[0])[None], (3, 3)).solutions[0])
    several = "." * 60 + solution[60:]
    board = parse_board(texts[1])
    answer = solve(board[None], (3, 3)).solutions[0]
    for cell in np.flatnonzero(board == 0):  # one wrong clue that contradicts no given
        wrong = board.copy()
        wrong[cell] = answer[cell] % 9 + 1
        if not has_conflict(wrong[None], (3, 3))[0]:
            break
    for line, expected in ((several, "more than one solution"), (board_text(wrong), "no solution")):
        path.write_text("\n".join([*texts[:10], line, line + " again"]))
        message = refused(capsys, "--input-file", path, "--output-dir", "out")
        assert f"{path}:11:" in message and expected in message
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_stored_augmentation_has_the_official_structure(build: Build, tmp_path: Path, texts: list[str]) -> None:
    path = tmp_path / "list.txt"
    path.write_text("\n".join(texts[:30]))
    plain = build("plain", "--input-file", path, "--test-size", 5)
    root = build("aug", "--input-file", path, "--test-size", 5, "--num_aug=20")
    boards = check_split(root, "train", (3, 3), num_aug=20)
    check_split(root, "test", (3, 3))
    assert np.array_equal(boards[::21], boards_of(plain, "train")[0])
    assert json.loads((root / "train" / "dataset.json").read_text())["augmentation"] is None
    assert len(np.unique(boards, axis=0)) == len(boards)
    ratings = open_puzzle_set(root, "train").ratings
    assert ratings is not None
    assert (ratings.reshape(-1, 21) == ratings[::21, None]).all()


def test_augmented_copies_are_equivalent_to_their_puzzle_and_depend_on_its_number_only() -> None:
    made = generated.generate((2, 3), 1, np.arange(5))
    boards, solutions = builder.augmented_copies(made.boards, made.solutions, (2, 3), 8, seed=2)
    forms = canonical_form(made.boards, (2, 3))
    assert np.array_equal(canonical_form(boards, (2, 3)), np.repeat(forms, 9, axis=0))
    assert is_solution(solutions, (2, 3)).all() and ((boards == 0) | (boards == solutions)).all()
    fewer, _ = builder.augmented_copies(made.boards[:3], made.solutions[:3], (2, 3), 8, seed=2)
    assert np.array_equal(fewer, boards[:27])


def test_published_sets_are_deduplicated(
    build: Build, tmp_path: Path, csv_rows: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "train.csv").write_text(CSV_HEADER + "".join(csv_rows[:60] + csv_rows[:3]))
    (folder / "test.csv.gz").write_bytes(gzip.compress((CSV_HEADER + "".join(csv_rows[50:80])).encode()))
    root = build("one", "--input-dir", folder)
    assert "13 puzzles were dropped" in capsys.readouterr().out
    train, test = check_split(root, "train", (3, 3)), check_split(root, "test", (3, 3))
    assert (len(train), len(test)) == (50, 30)
    assert not {board.tobytes() for board in train} & {board.tobytes() for board in test}
    metadata = json.loads((root / "train" / "dataset.json").read_text())
    assert metadata["augmentation"] is None and metadata["rating"] == "published"
    named = build("two", "--input-file", folder / "train.csv", folder / "test.csv.gz", "--rating", "search")
    assert np.array_equal(boards_of(named, "train")[0], train)
    check_split(named, "train", (3, 3))
    # The recorded command names what it was built from, as if the files had been named.
    commands = [json.loads((made / "test/dataset.json").read_text())["build"]["command"] for made in (root, named)]
    by_name = "python dataset/build_sudoku_dataset.py --input-file train.csv test.csv.gz --num-aug 0"
    assert commands == [f"{by_name} --seed 0", f"{by_name} --rating search --seed 0"]
    some = build("three", "--input-dir", folder, "--subsample-size", 20, "--test-size", 9, "--num-aug", 2)
    assert (len(boards_of(some, "train")[0]), len(boards_of(some, "test")[0])) == (60, 9)
    assert {b.tobytes() for b in boards_of(some, "train")[0][::3]} <= {b.tobytes() for b in train}
    hard = build("four", "--input-dir", folder, "--min-difficulty", 3)
    ratings = open_puzzle_set(hard, "train").ratings
    assert ratings is not None and ratings.min() >= 3


def test_a_single_csv_is_split(
    build: Build, tmp_path: Path, csv_rows: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    again = [row.rsplit(",", 1)[0] + f",{900 + at}\n" for at, row in enumerate(csv_rows[:4])]
    (tmp_path / "mine.csv").write_text(CSV_HEADER + "".join(csv_rows[:50] + csv_rows[:10] + again))
    root = build("one", "--input-file", "mine.csv", "--augmentation", "on-the-fly")
    said = "note: 14 repeated puzzles were dropped, 4 of them with another rating than the first one, which is kept\n"
    assert said in capsys.readouterr().out
    build("searched", "--input-file", "mine.csv", "--rating", "search")
    assert "note: 14 repeated puzzles were dropped\n" in capsys.readouterr().out
    train, test = check_split(root, "train", (3, 3)), check_split(root, "test", (3, 3))
    assert (len(train), len(test)) == (40, 10)
    assert len(np.unique(np.concatenate([train, test]), axis=0)) == 50
    assert open_puzzle_set(root, "train").metadata.task.augmentation == sudoku_task((3, 3)).augmentation


def test_a_published_puzzle_with_several_solutions_is_refused_when_searched(
    tmp_path: Path, csv_rows: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = csv_rows[0].split(",")[2]
    several = f"x,{'.' * 60}{answer[60:]},{answer},0\n"
    (tmp_path / "mine.csv").write_text(CSV_HEADER + "".join(csv_rows[:20]) + several)
    message = refused(capsys, "--input-file", "mine.csv", "--rating", "search", "--output-dir", "out")
    assert "mine.csv:22:" in message and "more than one" in message


def test_bad_requests_are_one_line_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], texts: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("\n".join(texts[:10]))
    (tmp_path / "mine.csv").write_text("a,b\n")
    monkeypatch.setattr(generated, "_GENERATE_CHUNK", {4: 2048, 6: 2048, 9: 4096})
    cases = {
        ("--generate", "6x6", "--num-clues", 7): "8 to 35",
        ("--generate", "6x6", "--num-clues", 36): "8 to 35",
        ("--generate", "4x4", "--num-train", 30, "--test-size", 12): "36",
        ("--generate", "4x4", "--num-train", 36): "36",
        ("--generate", "4x4", "--num-clues", 6, "--min-difficulty", 5): "only 0 of",
        ("--generate", "5x5"): "invalid choice",
        ("--generate", "6x6", "--input-file", "list.txt"): "two sources",
        ("--num-clues", 20): "--generate",
        ("--split-by", "solution-class"): "--generate",
        ("--generate", "4x4", "--split-by", "solution-class"): "only 2 solutions up to symmetry",
        ("--generate", "6x6", "--num-aug", 3, "--augmentation", "on-the-fly"): "--num-aug is 3",
        ("--input-file", "list.txt", "mine.csv"): "each kind",
        ("--input-file", "list.txt", "./list.txt"): "twice",
        ("--input-file", "list.txt", "--test-size", 10): "--test-size 10",
        ("--input-file", "list.txt", "--min-difficulty", 99999): "--min-difficulty",
        ("--input-file", "list.txt", "--rating", "published"): "--rating",
        ("--input-file", "absent.txt"): "absent.txt",
        ("--input-file", "mine.csv"): "header",
        ("--input-dir", "nowhere"): "train.csv",
        ("--sub-sample-size", 5): "unknown flag '--sub-sample-size', the nearest is --subsample-size",
        ("--input-dir", ""): "argument --input-dir: found an empty text, expected a path or a name",
        ("--generate", "4x4", "--source-repo", "foo/bar"): "--generate and --source-repo name two sources",
        ("--input-file", "list.txt", "--source-repo", "foo/bar"): "two sources",
        ("--seed", -1): "whole number",
        ("--subsample-size", 0): "whole number",
    }
    for words, expected in cases.items():
        assert expected in refused(capsys, *words, "--output-dir", "out"), words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.txt", "mine.csv"]


def test_an_empty_place_is_not_the_default_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for empty in ("", " "):
        assert "--output-dir: found an empty text" in refused(capsys, "--generate", "4x4", "--output-dir", empty)
    assert "--output-dir: found an empty text" in refused(capsys, "--generate", "4x4", "--output-dir=")
    assert list(tmp_path.iterdir()) == []


def test_files_may_be_named_by_one_flag_or_by_several(build: Build, tmp_path: Path, texts: list[str]) -> None:
    for name, some in (("a.txt", texts[:30]), ("b.txt", texts[30:60])):
        (tmp_path / name).write_text("\n".join(some))
    one = build("one", "--input-file", "a.txt", "b.txt")
    two = build("two", "--input-file", "a.txt", "--input-file", "b.txt")
    assert digest(one) == digest(two) and sum(len(boards_of(two, split)[0]) for split in ("train", "test")) == 60


def test_two_files_of_one_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the data set says what it was made of, one would stand for the other."""
    monkeypatch.chdir(tmp_path)
    for name, some in (("a", texts[:30]), ("b", texts[30:60])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "list.txt").write_text("\n".join(some))
    said = refused(capsys, "--input-file", "a/list.txt", "b/list.txt", "--output-dir", "out")
    assert "a/list.txt and b/list.txt have one name" in said and not (tmp_path / "out").exists()


def test_puzzles_that_are_not_there_to_test_on_are_noted(build: Build, tmp_path: Path, csv_rows: list[str]) -> None:
    (tmp_path / "train.csv").write_text(CSV_HEADER + "".join(csv_rows[:20]))
    (tmp_path / "test.csv").write_text(CSV_HEADER + "".join(csv_rows[20:30]))
    root = build("out", "--input-dir", ".", "--test-size", 50)
    assert len(boards_of(root, "test")[0]) == 10
    notes = json.loads((root / "test" / "dataset.json").read_text())["build"]["notes"]
    assert "50 puzzles to test on were asked for, 10 are there" in notes


def test_nothing_is_overwritten_unasked(build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = build("one", "--generate", "4x4")
    before = digest(root)
    message = refused(capsys, "--generate", "4x4", "--seed", 1, "--output-dir", "one")
    assert "--overwrite" in message and digest(root) == before
    build("one", "--generate", "4x4", "--seed", 1, "--overwrite")
    assert digest(root) != before
    build("one", "--generate", "4x4", "--overwrite")
    assert digest(root) == before


@pytest.mark.parametrize("how", [[str(SCRIPT)], ["-m", "dataset.build_sudoku_dataset"]])
def test_runs_as_file_and_as_module_from_elsewhere(tmp_path: Path, how: list[str]) -> None:
    cwd = SCRIPT.parents[1] if how[0] == "-m" else tmp_path
    help_text = subprocess.run([sys.executable, *how, "--help"], cwd=cwd, capture_output=True, text=True)
    assert help_text.returncode == 0 and "--subsample-size" in help_text.stdout
    wrong = subprocess.run([sys.executable, *how, "--no-such"], cwd=cwd, capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "Traceback" not in wrong.stderr
    out = tmp_path / "out"
    words = ["--input-file", "dataset/raw/royle_17clue.txt.gz", "--subsample-size", "20", "--test-size", "5"]
    done = subprocess.run(
        [sys.executable, *how, *words, "--output_dir", str(out)], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "next: python pretrain.py" in done.stdout
    assert len(boards_of(out, "train")[0]) == 20
    assert open_puzzle_set(out, "train").metadata.task.augmentation == sudoku_task(BOXES["9x9"]).augmentation


def test_the_next_command_names_the_folder(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--generate 4x4 --num-clues 7 --num-train 8 --test-size 4".split()
    for name in ("d", "sp ace,x", "it's", "back\\'slash", "null", "a=b", "[x]", "data/plain", "1e5", "ä"):
        build(name, *options)
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("next: "))
        words = shlex.split(line.removeprefix("next: "))
        assert words[:2] == ["python", "pretrain.py"]
        assert compose_config(words[2:], require_data=False).data_paths == [name], line
