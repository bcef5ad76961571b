"""Validation while training, and the numbers of the end: what is evaluated on which rows."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from errors import UserError, printable, say
from models.act import Batch
from models.recursive_model import RecursiveModel
from models.registry import build_model
from training.evaluation.answering import AccuracyEvaluator, describe_rate, evaluate
from training.evaluation.baselines import (
    collapse_guards,
    label_counts,
    scored_rows,
    tripped_guards,
    trivial_baselines,
)
from training.evaluation.evaluators import OutputRecorder
from training.evaluation.robustness import RATES, measure_robustness, robustness_lines
from training.evaluation.row_outcomes import RowOutcomes, save_test_rows
from training.evaluation.summary_table import aligned, compute_point, summary_table
from training.inference import perturbed_starts
from training.inference.choose import build_inference
from training.initial_weights import InitialWeights, remake, weights_digest
from training.interrupt import Stoppable
from training.judges.judging import Judging
from training.records.metrics_log import read_metrics
from training.records.result_numbers import wilson_interval
from training.run import Run
from training.run_log import RunLog
from training.setup import EvalRows
from training.storage.atomic_file import warning_when_refused
from training.storage.weights import adopt_weights, load_weights

HEADLINE = "exact_accuracy"
ChosenRows = Sequence[tuple[EvalRows, np.ndarray]]


class Scoring:
    """Evaluates a run. All methods that evaluate are collective: every rank must call them.

    stop_asked: whether to stop, asked of all processes together before each batch; then `StopRequested`.
    """

    def __init__(self, run: Run, run_log: RunLog | None, stop_asked: Callable[[], bool] = lambda: False) -> None:
        self.run = run
        self.run_log = run_log
        self.stop_asked = stop_asked
        self.baselines: dict[str, dict[str, float]] = {}
        if run.step == 0 and run.initial is None:
            run.initial = InitialWeights(run.config.init_from, weights_digest(run.model))

    def _batches(self, rows: EvalRows, chosen: np.ndarray) -> Stoppable[Batch]:
        return Stoppable(rows.batches(chosen), self.stop_asked)

    def _score(
        self,
        rows_of: ChosenRows,
        model: Any,
        name: str,
        judging: Judging | None = None,
        outcomes: Sequence[RowOutcomes] | None = None,
    ) -> dict[str, float]:
        """Metrics over the chosen rows of all sets together.

        judging, outcomes: to be filled; of the latter there is one for each set.
        """
        run = self.run
        total = AccuracyEvaluator(run.config.arch.loss.loss_type)
        total.begin()
        for index, (rows, chosen) in enumerate(rows_of):
            accuracy = AccuracyEvaluator(run.config.arch.loss.loss_type)
            judges = {} if judging is None else judging.build(rows.puzzle_set, chosen)
            beside = [] if outcomes is None else [outcomes[index]]
            evaluate(
                model,
                self._batches(rows, chosen),
                run.inference,
                [accuracy, *beside, *(judge.evaluator for judge in judges.values())],
                run.world,
                description=name,
                show_progress=run.world.is_main,
            )
            total.add(accuracy)
            if judging is not None:
                judging.add(judges)
        return total.report()

    def _write_files(self, judging: Judging, when: str) -> None:
        """The files of evaluators: a folder for each and every time, named as officially."""
        folder = self.run.folder
        with warning_when_refused(folder.path):
            judging.files(lambda label: folder.judged(label, when), self.run.world)

    def validate(self, *, last: bool) -> bool:
        """Fast validation, then the full one if the gate opens; True when this step is the new best."""
        run = self.run
        if not any(len(rows.fast) for rows in run.evaluation_rows):
            return False
        if self.run_log is not None:
            self.run_log.event(run, "eval")
        model = run.evaluated_model
        fast_is_all = all(len(rows.fast) == len(rows.validation) for rows in run.evaluation_rows)
        full_ones = len(run.validation.history)
        judging = Judging(run.config.evaluators, lambda settings: full_ones % settings.interval == 0)
        fast_rows = [(rows, rows.fast) for rows in run.evaluation_rows]
        fast = self._score(fast_rows, model, "fast validation", judging if fast_is_all else None)
        self._require_baselines()
        record: dict[str, Any] = {"step": run.step} | run.compute_spent
        record |= {f"eval/fast/{key}": value for key, value in fast.items()}
        improved = False
        shown, kind = fast, "fast validation"
        if run.validation.wants_full(fast[HEADLINE], run.step, last=last) or fast_is_all:
            full = fast
            if not fast_is_all:
                all_rows = [(rows, rows.validation) for rows in run.evaluation_rows]
                full = self._score(all_rows, model, "validation", judging)
            for prefix in ("eval/validation/", "eval/"):
                record |= {prefix + key: value for key, value in (full | judging.metrics()).items()}
            self._write_files(judging, f"step_{run.step}")
            counts = int(full["exact_count"]), int(full["count"])
            improved = run.validation.note_full(full[HEADLINE], *counts, run.step)
            shown, kind = full, "validation"
            self._save_outputs(model)
            record |= self._robustness(model)
        record |= self._guards(fast["accuracy"])
        if self.run_log is not None:
            self.run_log.metrics.append(record)
            star = " (new best)" if improved else ""
            tqdm.write(
                f"update {run.step}: {kind} {describe_rate(shown)}, token accuracy {shown['accuracy']:.4f}{star}; "
                f"{run.passes_over_data:.2f} passes over the data{self._speed()}"
            )
            for line in judging.lines():
                tqdm.write(printable(line))
            self.run_log.event(run, "running")
        return improved

    def _speed(self) -> str:
        seconds = self.run.progress.train_seconds
        return f", {self.run.step * self.run.config.global_batch_size / seconds:.0f} rows/s" if seconds else ""

    def _robustness(self, model: RecursiveModel) -> dict[str, float]:
        """What `eval.during.sigma_grid` asks for: the fast rows from perturbed starts."""
        run = self.run
        row_sets = [self._batches(rows, rows.fast) for rows in run.evaluation_rows]
        return {
            f"eval/robust/{measured['sigma']:g}/{key}": measured[key]
            for measured in measure_robustness(
                model,
                row_sets,
                run.config.eval.during.sigma_grid,
                run.config.eval,
                run.world,
                show_progress=run.world.is_main,
            )
            for key in RATES
            if key in measured
        }

    def _save_outputs(self, model: RecursiveModel) -> None:
        """The outputs named in `eval_save_outputs`, of the validation rows: `step_N_all_preds.<rank>.npz`."""
        run = self.run
        if not run.config.eval_save_outputs:
            return
        path = run.folder.outputs(run.step, run.world.rank)
        total: OutputRecorder | None = None
        for rows in run.evaluation_rows:
            if len(rows.validation):
                inference = build_inference(run.config.eval, [rows.puzzle_set], run.config.seed, stepwise=True)
                recorder = OutputRecorder(run.config.eval_save_outputs, path.name, compressed=True)
                evaluate(model, self._batches(rows, rows.validation), inference, [recorder], run.world)
                if total is None:
                    total = recorder
                else:
                    total.add(recorder)
        if total is not None:
            with warning_when_refused(path):
                total.files(path.parent)

    def _require_baselines(self) -> None:
        """Trivial predictors on the validation rows, where there are any; printed once in a session."""
        run = self.run
        if self.baselines or not any(len(rows.fast) for rows in run.evaluation_rows):
            return
        of_sets = [scored_rows(rows.puzzle_set, rows.validation) for rows in run.evaluation_rows]
        inputs, labels = (np.concatenate(tokens) for tokens in zip(*of_sets, strict=True))
        counts = np.sum([label_counts(puzzle_set) for puzzle_set in run.source.sets], axis=0)
        task = run.evaluation_rows[-1].puzzle_set.metadata.task
        self.baselines = trivial_baselines(inputs, labels, counts, task)
        if self.run_log is not None:
            listed = ", ".join(
                f"{name} {value['accuracy']:.4f} (exact {value['exact_accuracy']:.4f})"
                for name, value in self.baselines.items()
            )
            tqdm.write(f"trivial baselines, token accuracy: {listed}")

    def _guards(self, accuracy: float) -> dict[str, float]:
        run = self.run
        settings = run.config.guards
        if settings.mode == "off":
            return {}
        best = max(value["accuracy"] for value in self.baselines.values())
        rows = next(rows for rows in run.evaluation_rows if len(rows.fast))
        batch = next(iter(rows.batches(rows.fast[:32])))
        guards = collapse_guards(run.evaluated_model, batch, run.inference, accuracy, best)
        tripped = tripped_guards(guards)
        if tripped and run.step >= settings.after_updates:
            message = f"update {run.step}: the model may have collapsed: {'; '.join(tripped)}"
            if settings.mode == "abort":
                raise UserError(f"{message}; guards.mode=warn goes on all the same")
            if run.world.is_main:
                say(f"warning: {message}", file=sys.stderr)
        return guards

    def final_results(self) -> dict[str, Any]:
        """Test numbers of the initial, the final and the best weights, on rows that chose none of them."""
        run = self.run
        self._require_baselines()  # a session that goes on after the last validation has none yet
        results: dict[str, Any] = {"baselines": self.baselines, "test": {}, "curve": self._curve()}
        if not run.evaluation_rows:
            return results
        results["final"] = run.validation.history[-1] if run.validation.history else None
        rows_of = [(rows, rows.test) for rows in run.evaluation_rows]
        if not any(len(chosen) for _, chosen in rows_of):
            return results
        outcomes: dict[str, list[RowOutcomes]] = {}

        def test(which: str, model: RecursiveModel, step: int) -> None:
            outcomes[which] = [RowOutcomes() for _ in rows_of]
            results["test"][which] = self._test(which, model, rows_of, step, outcomes[which])

        initial = self._initial_model()
        if initial is not None:
            test("initial", initial, 0)
        del initial  # a puzzle table may have gigabytes: beside the run's own there is one at a time
        test("final", run.evaluated_model, run.step)
        best = run.validation.best
        if best is not None and best.step == run.step:
            results["test"]["best"], outcomes["best"] = results["test"]["final"], outcomes["final"]
        elif best is not None and run.folder.best.exists():
            model = build_model(run.model.config).to("meta")
            adopt_weights(model, load_weights(run.folder.best, str(run.device)), source=run.folder.best)
            test("best", model, best.step)
        if self.run_log is not None:
            with warning_when_refused(run.folder.test_rows):
                save_test_rows(run.folder.test_rows, [rows.puzzle_set for rows in run.evaluation_rows], outcomes)
            record: dict[str, Any] = {"step": run.step} | run.compute_spent
            for which, values in results["test"].items():
                record |= {f"test/{which}/{key}": values[key] for key in ("value", "numerator", "denominator")}
            self.run_log.metrics.append(record)
        return results

    def _initial_model(self) -> RecursiveModel | None:
        """The weights that the run started from, or None, with one line, where they cannot be made again."""
        run = self.run
        model = None
        try:
            if run.initial is None:
                raise UserError("the run was begun by a version that did not note them")
            model = remake(run.initial, run.config, run.source.metadata, run.device)
        except UserError as error:
            say(f"warning: no test of the initial weights: {error}", file=sys.stderr)
        lacking = run.world.sum_numbers([float(model is None)], run.device)[0]
        return None if lacking else model

    def _curve(self) -> dict[str, Any]:
        """What training had cost at the best validation, as its log line says, and at the end. Rank 0 only."""
        run = self.run
        if self.run_log is None:
            return {}
        best = run.validation.best
        return {
            "best": None if best is None else self._logged_compute(best.step),
            "final": compute_point(run.step, run.compute_spent),
        }

    def _logged_compute(self, step: int) -> dict[str, float | None]:
        """The point of the logged curve at which update `step` was evaluated; nulls where the log lacks it.

        It does when the run goes on in another folder, or when the log was lost.
        """
        try:
            records = [line for line in read_metrics(self.run.folder.metrics) if line["step"] == step]
        except UserError as error:
            say(f"warning: {error}", file=sys.stderr)
            records = []
        evaluated = [line for line in records if "eval/fast/count" in line]
        return compute_point(step, evaluated[-1] if evaluated else {})

    def _test(
        self, which: str, model: Any, rows_of: ChosenRows, step: int, outcomes: Sequence[RowOutcomes]
    ) -> dict[str, Any]:
        judging = Judging(self.run.config.evaluators)
        values = self._score(rows_of, model, "test", judging, outcomes)
        self._write_files(judging, f"test_{which}")
        exact, count = int(values["exact_count"]), int(values["count"])
        settings = self.run.config.eval
        robustness = measure_robustness(
            model,
            [self._batches(rows, chosen) for rows, chosen in rows_of],
            perturbed_starts.Settings.of(settings).sigma,
            settings,
            self.run.world,
            show_progress=self.run.world.is_main,
        )
        return {
            "metric": f"test/{HEADLINE}",
            "value": values.get(HEADLINE),
            "numerator": exact,
            "denominator": count,
            "interval95": list(wilson_interval(exact, count)) if count else None,
            "step": step,
            "accuracy": values.get("accuracy"),
            "lm_loss": values.get("lm_loss"),
            "q_halt_accuracy": values.get("q_halt_accuracy"),
            "supervision_steps": settings.max_steps or self.run.model.config.halt_max_steps,
            "robustness": robustness or None,
            **({"judges": judging.reports()} if judging.judges else {}),
        }

    def print_summary(self, results: dict[str, Any]) -> None:
        """The table at the end: exact accuracy first, each rate with its denominator and interval."""
        run = self.run
        width = min(110, shutil.get_terminal_size().columns)
        say("-" * width)
        say(f"{run.step} updates, {run.progress.train_seconds:.0f} s of training")
        say(*aligned(summary_table(results, run.validation.best)))
        for which, tested in results["test"].items():
            if lines := robustness_lines(tested["robustness"]):
                say(*[f"test, {which}", *lines])
        say(f"everything is in {run.folder.path}")
        say(json.dumps({"run_folder": str(run.folder.path), "steps": run.step}))
