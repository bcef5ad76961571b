"""Evaluation of a Collatz run while it trains, and at its end beside the closed forms. It owns its data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from errors import say
from projects.collatz.closed_forms import SMALLEST_MARGIN
from projects.collatz.decrease import pair_margins
from projects.collatz.eval_file import EvalRows
from projects.collatz.evaluation import not_multiples_of_3, rates
from projects.collatz.evaluation_report import HEADLINE, SCHEMA_VERSION, full_report, report_table, validation_states
from projects.collatz.judge import NetworkJudge
from projects.collatz.log_lines import log_lines
from projects.collatz.settings import collatz_of
from projects.collatz.syracuse import TEST_STARTS, orbit
from projects.collatz.value_networks import CollatzValue
from projects.collatz.windows import Windows, orbit_windows, windows_of
from training.evaluation.answering import evaluating
from training.interrupt import Stoppable
from training.records.result_numbers import wilson_interval
from training.run import Run
from training.run_log import RunLog
from training.storage.atomic_file import warning_when_refused, write_json_atomically
from training.storage.weights import load_weights
from training.update import mean_metrics

REPORT = "evaluation.json"
QUICK_NUMBERS = 1000
_RATES = ("rows", "violations", "pass", "weighted_pass", "growth_pass", "growth_weighted_pass", "free_pass")


class CollatzScoring:
    """Quick looks and full evaluations at their own intervals, and the report of the end.

    The on-orbit validation states choose the best checkpoint; the evaluation file, the reported orbits and the on-orbit
    test states do not. Every process computes all of it, alike.

    Args:
        rows: of the evaluation file, None without one.
    """

    headline = "eval/validation/pass"

    def __init__(
        self,
        run: Run,
        run_log: RunLog | None,
        stop_asked: Callable[[], bool] = lambda: False,
        rows: EvalRows | None = None,
    ) -> None:
        self.run, self.run_log, self.stop_asked, self.rows = run, run_log, stop_asked, rows
        self._windows: dict[str, list[Windows]] = {}

    def validate(self, *, last: bool) -> bool:
        """What is due at this step; True when it is the new best."""
        run, settings = self.run, collatz_of(self.run.config)
        full = last or run.step % settings.eval_interval == 0
        quick = last or run.step % settings.quick_eval_interval == 0
        if not full and not quick:
            return False
        if self.run_log is not None:
            self.run_log.event(run, "eval")
        network = run.evaluated_model
        assert isinstance(network, CollatzValue)
        with evaluating(network):
            quick_record = self._quick(network) if quick else {}
            full_record = self._full(NetworkJudge("V", network)) if full else {}
        record: dict[str, Any] = {"step": run.step} | run.compute_spent | quick_record | full_record
        improved = False
        if full:
            count, bad = record["eval/validation/count"], record["eval/validation/violations"]
            improved = run.validation.note_full(record[self.headline], count - bad, count, run.step)
        if self.run_log is not None:
            self.run_log.metrics.append(record)
            tqdm.write("\n".join(log_lines(record, self._loss(self.run_log), improved=improved)))
            self.run_log.event(run, "running")
        return improved

    def _loss(self, run_log: RunLog) -> float | None:
        """Mean over the updates since the last line of the log, or over those of that line."""
        return (mean_metrics(self.run.progress.metric_sums) or run_log.means).get("train/loss")

    def _quick(self, network: CollatzValue) -> dict[str, Any]:
        """The orbit of 27, and fresh random numbers of the distribution that is trained on."""
        source: Any = self.run.source
        batch = source.random_rows(self.run.step, QUICK_NUMBERS)
        margins = pair_margins(network, {name: leaf.to(self.run.device) for name, leaf in batch.items()})
        along = NetworkJudge("V", network).violations(orbit_windows(orbit(27), network.lookahead))
        return {
            "eval/quick/count": QUICK_NUMBERS,
            "eval/quick/pass": float((margins >= SMALLEST_MARGIN).cpu().double().mean()),
            "eval/quick/orbit_27_violations": int(along.sum()),
        }

    def _full(self, judge: NetworkJudge) -> dict[str, Any]:
        lookahead = judge.network.lookahead
        result: dict[str, Any] = {}
        states = self._of(
            "validation", lambda: validation_states(collatz_of(self.run.config).validation_starts), lookahead
        )
        violations = np.concatenate([judge.violations(windows) for windows in self._stoppable(states)])
        result |= {
            "eval/validation/count": len(violations),
            "eval/validation/violations": int(violations.sum()),
            self.headline: 1 - float(violations.mean()),
        }
        total = 0
        for start in TEST_STARTS:
            margins = judge.margins(orbit_windows(orbit(start), lookahead))
            bad = margins[margins < SMALLEST_MARGIN]
            total += len(bad)
            result[f"eval/orbits/{start}/violations"] = len(bad)
            if len(bad):
                result[f"eval/orbits/{start}/worst_margin"] = float(bad.min())
        result["eval/orbits/violations"] = total
        if self.rows is not None:
            rows = self.rows
            blocks = self._of("csv", lambda: rows.numbers, lookahead)
            margins = np.concatenate([judge.margins(windows) for windows in self._stoppable(blocks)])
            free = not_multiples_of_3(rows.numbers)
            file_rates = rates(margins < SMALLEST_MARGIN, rows.is_growth, rows.weights, free)
            result |= {f"eval/csv/{key}": file_rates[key] for key in _RATES if file_rates[key] is not None}
            low, middle = np.quantile(margins, [0.05, 0.5])
            spread = {"mean": margins.mean(), "median": middle, "p5": low, "min": margins.min()}
            result |= {f"eval/csv/margin_{key}": float(value) for key, value in spread.items()}
        return result

    def _stoppable(self, windows: list[Windows]) -> Stoppable[Windows]:
        return Stoppable(windows, self.stop_asked)

    def _of(self, name: str, numbers: Any, lookahead: int) -> list[Windows]:
        """Windows of a set of numbers, made once."""
        if name not in self._windows:
            self._windows[name] = list(windows_of(numbers(), lookahead))
        return self._windows[name]

    def final_results(self) -> dict[str, Any]:
        """The report of the final and the best weights beside the closed forms; `evaluation.json` holds all of it."""
        run = self.run
        self._windows = {}
        network = run.evaluated_model
        assert isinstance(network, CollatzValue)
        weights = {"final": (network, run.step)}
        best = run.validation.best
        if best is not None and best.step != run.step and run.folder.best.exists():
            other = NetworkJudge.float64("V_best", network).network.to(network.compute_dtype)
            other.load_state_dict(load_weights(run.folder.best))
            weights["best"] = (other, best.step)
        report = full_report(
            [NetworkJudge.float64(f"V_{which}", of_moment) for which, (of_moment, _) in weights.items()],
            collatz_of(run.config).lookahead,
            self.rows,
            test_starts=collatz_of(run.config).test_starts,
            networks32=[NetworkJudge(f"V_{which}", of_moment.eval()) for which, (of_moment, _) in weights.items()],
        )
        tests = {which: self._test(report[f"V_{which}"], step) for which, (_, step) in weights.items()}
        if best is not None and best.step == run.step:
            tests["best"] = tests["final"]
        source: Any = run.source
        overlap = {"rows_on_test_orbits": source.overlap, "rows_prepared": source.drawn}
        if self.run_log is not None:
            path = run.folder.path / REPORT
            with warning_when_refused(path):
                write_json_atomically(path, {"schema_version": SCHEMA_VERSION, **report})
            record: dict[str, Any] = {"step": run.step} | run.compute_spent
            for which, values in tests.items():
                record |= {f"test/{which}/{key}": values[key] for key in ("value", "numerator", "denominator")}
            self.run_log.metrics.append(record)
        self._report = report, [f"V_{which}" for which in weights]
        return {"test": tests, "overlap": overlap, "report": REPORT}

    @staticmethod
    def _test(entry: dict[str, Any], step: int) -> dict[str, Any]:
        on_orbit = entry[HEADLINE]
        passed = on_orbit["steps"] - on_orbit["violations"]
        return {
            "metric": "test/on_orbit/pass",
            "value": passed / on_orbit["steps"],
            "numerator": passed,
            "denominator": on_orbit["steps"],
            "interval95": list(wilson_interval(passed, on_orbit["steps"])),
            "step": step,
            "orbit_violations": {start: count["violations"] for start, count in entry["orbits"].items()},
            "fresh_violations": sum(count["violations"] for count in entry["fresh"].values()),
            **{key: entry[key] for key in _RATES},
            "float32": entry["float32"],
        }

    def print_summary(self, results: dict[str, Any]) -> None:
        """The table at the end, and how much of the training data lay on test orbits."""
        run = self.run
        report, networks = self._report
        say(f"{run.step} updates, {run.progress.train_seconds:.0f} s of training")
        say(*report_table(report, networks).split("\n"))
        say(*overlap_line(results["overlap"], collatz_of(run.config).decontaminate).split("\n"))
        say(f"everything is in {run.folder.path}")
        say(json.dumps({"run_folder": str(Path(run.folder.path)), "steps": run.step}))


def overlap_line(overlap: dict[str, int], decontaminate: bool) -> str:
    """How many of the rows that were drawn had a state on a test orbit."""
    rows, drawn = overlap["rows_on_test_orbits"], overlap["rows_prepared"]
    share = f" ({100 * rows / drawn:.2f} %)" if drawn else ""
    fate = "kept out of training" if decontaminate else "trained on; --decontaminate keeps them out"
    return f"split by orbit: {rows:,} of {drawn:,} rows{share} had a state on a test orbit: {fate}"
