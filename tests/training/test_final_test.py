"""The test at the end of a run: what it needs in memory beside the run, and that the run is as it was afterwards."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.dataset.folders import make_folder
from tests.helpers import differences, train_here
from training import scoring
from training.evaluation.answering import evaluate
from training.run import full_state
from training.scoring import Scoring

IDENTIFIERS = 60_000
TABLE_BYTES = IDENTIFIERS * 16 * 4
# The best weights are earlier ones than the final ones; both are tested, and those of the start.
OPTIONS = ["max_steps=8", "fast_eval_interval=3", "fast_validation_size=8", "guards.mode=off"]
FINAL_RESULTS = Scoring.final_results


def peak_bytes(action: Callable[[], object]) -> int:
    """The most bytes allocated on the CPU at once during `action`, beyond what there was before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        action()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    found = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(found, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.fixture(scope="module")
def many_identifiers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data whose puzzle table is larger than everything else of a tiny run together."""
    root = tmp_path_factory.mktemp("data") / "many"
    for split in ("train", "test"):
        make_folder(
            root, split=split, puzzles_per_group=[1] * 40, examples_per_puzzle=[1] * 40, num_identifiers=IDENTIFIERS
        )
    return root


@pytest.fixture
def at_end(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Scoring], object]], None]:
    """Has runs call a function before their final test, which stays as it is."""

    def call(action: Callable[[Scoring], object]) -> None:
        def watched(own: Scoring) -> Any:
            action(own)
            return FINAL_RESULTS(own)

        monkeypatch.setattr(Scoring, "final_results", watched)

    return call


def test_peak_bytes_sees_what_is_alive_at_once() -> None:
    def one_by_one() -> None:
        for _ in range(3):
            torch.ones(IDENTIFIERS, 16)

    assert TABLE_BYTES <= peak_bytes(one_by_one) < 1.1 * TABLE_BYTES
    assert 3 * TABLE_BYTES <= peak_bytes(lambda: [torch.ones(IDENTIFIERS, 16) for _ in range(3)]) < 3.1 * TABLE_BYTES


@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_one_more_puzzle_table_at_a_time(
    given: bool, ema: bool, many_identifiers: Path, tmp_path: Path, at_end: Callable[..., None]
) -> None:
    """Initial weights from the seed or a file, best weights from `best.pt`; the run's own bits stay."""
    options = [*OPTIONS, f"ema={ema}"]
    if given:
        train_here("trm_att", many_identifiers, tmp_path / "start", [*OPTIONS, "max_steps=1"])
        options.append(f"init_from={tmp_path / 'start' / 'final.pt'}")
    peaks: list[int] = []

    def measure(own: Scoring) -> None:
        before = copy.deepcopy(full_state(own.run))
        results: list[Any] = []
        peaks.append(peak_bytes(lambda: results.append(FINAL_RESULTS(own))))
        assert results[0]["test"].keys() == {"initial", "best", "final"}
        assert results[0]["test"]["best"]["step"] < own.run.step
        assert differences(before, full_state(own.run)) == []

    at_end(measure)
    train_here("trm_att", many_identifiers, tmp_path / "run", options)
    assert len(peaks) == 1 and TABLE_BYTES <= peaks[0] < 1.5 * TABLE_BYTES, peaks[0] / TABLE_BYTES


@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_failing_test_leaves_the_run_as_it_was(
    which: int, many_identifiers: Path, tmp_path: Path, at_end: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation of the initial, the final or the best weights raises after it has begun."""

    def fail(own: Scoring) -> None:
        before, calls = copy.deepcopy(full_state(own.run)), []

        def failing(*args: Any, **kwargs: Any) -> dict[str, float]:
            calls.append(1)
            result = evaluate(*args, **kwargs)
            if len(calls) == which:
                raise RuntimeError("the device was lost")
            return result

        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="the device was lost"):
            patch.setattr(scoring, "evaluate", failing)
            FINAL_RESULTS(own)
        assert differences(before, full_state(own.run)) == []
        assert own.run.model.training and all(p.requires_grad for p in own.run.model.parameters())

    at_end(fail)
    train_here("trm_att", many_identifiers, tmp_path / "run", OPTIONS)
