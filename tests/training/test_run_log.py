"""The numbers that a run's summary gives to records, and settings that a person has written into."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.targets.records import SUMMARY
from tests.helpers import train_here
from training.run_log import summary_numbers
from training.settings.resolving import load_config_file


def values(summary: dict[str, Any]) -> dict[tuple[str, str | None], float]:
    return {number.key: number.value for number in summary_numbers(summary)}


def test_the_final_test_rate_is_the_headline() -> None:
    numbers = summary_numbers(SUMMARY)
    assert numbers[0].key == ("test exact_accuracy", "final") and numbers[0].numerator == 73
    found = values(SUMMARY)
    assert found["test exact_accuracy", "peak"] == 74 and found["eval/exact_accuracy", "peak"] == 80
    assert found["eval/exact_accuracy", "final"] == 70 and found["update of the peak", None] == 400
    assert found["updates", None] == 500 and found["training time", None] == 12.5


def test_what_was_not_measured_has_no_number() -> None:
    found = values(SUMMARY | {"test": None, "final": None, "best": None})
    assert list(found) == [("updates", None), ("parameters", None), ("training time", None)]
    assert ("test exact_accuracy", "initial") not in values(SUMMARY)


def test_a_share_without_counts_has_no_interval() -> None:
    (number, *_) = summary_numbers(SUMMARY | {"test": {"final": {"value": 0.25, "step": 3}}})
    assert (number.value, number.low, number.of, number.unit) == (0.25, None, None, None)


def test_the_best_trivial_predictor_stands_beside_tokens() -> None:
    tested = SUMMARY["test"]["final"] | {"accuracy": 0.9, "lm_loss": 0.5}
    baselines = {"a": {"accuracy": 0.25, "lm_loss": 1.5}, "b": {"accuracy": 0.5, "lm_loss": 1.75}}
    found = values(SUMMARY | {"test": {"final": tested}, "baselines": baselines})
    assert found["test token accuracy", "final"] == 0.9 and found["test token loss", "final"] == 0.5
    assert found["test token accuracy of the best trivial predictor, b", None] == 0.5
    assert found["test token loss of the best trivial predictor, a", None] == 1.5


def test_what_a_person_wrote_into_the_settings_is_kept(
    sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=2"])
    path = tmp_path / "all_config.yaml"
    written = path.read_text()
    path.write_text("# my note: do not lose\n" + written)
    (tmp_path / "summary.json").unlink()
    train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=2"])
    assert path.read_text() == "# my note: do not lose\n" + written, "the same settings stay as they are written"
    train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=3"])
    edited = ("# my note: do not lose\n" + written).encode()
    kept = tmp_path / f"all_config_{hashlib.sha256(edited).hexdigest()[:8]}.yaml"
    assert kept.read_bytes() == edited and load_config_file(path).max_steps == 3
    assert f"was edited, or written by another program: that one is now {kept.name}\n" in capsys.readouterr().err
    train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=4"])
    assert sorted(tmp_path.glob("all_config*")) == [path, kept], "our own gives way to the next"
    assert "was edited" not in capsys.readouterr().err
