"""The one training loop. It knows batches, updates and boundaries; it never names an experiment.

Order at every boundary (the state between two batches): evaluate and save what is due at this step, stop if
asked or done, then train on the next batch. The end of a run is a boundary like any other.
"""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from dataset.source import START
from errors import UserError, say
from long_work import progress_bar
from training.batches import Batches
from training.best_archive import archive_best
from training.best_files import align_best, drop_spares, write_best
from training.interrupt import InterruptHandler, StopRequested
from training.run import Run, full_state
from training.run_log import RunLog
from training.storage.atomic_file import link_or_copy
from training.storage.checkpoint import CheckpointWriteError, keep_last, save_latest, save_weights
from training.update import UpdateResult, reads_late, require_finite, settle, train_on_batch


@dataclass
class Boundary:
    """What is due between two batches."""

    evaluate: bool
    save: bool
    stop: str | None  # `done`, `stopped`, or None to go on


class Loop:
    """Runs a `Run` to its end, or to the signal, update or hour at which it is to stop."""

    def __init__(self, run: Run, run_log: RunLog | None) -> None:
        self.run = run
        self.run_log = run_log
        self.interrupt = InterruptHandler()
        self.scoring = run.scoring(run, run_log, self._is_stop_asked)
        self.batches = Batches(run.source, run.device, run.world.slots(run.config.global_batch_size))
        self.deadline = None
        if run.config.max_hours is not None:
            self.deadline = time.monotonic() + 3600 * run.config.max_hours
        self.saved_step: int | None = None  # of the last save, also where it failed
        self.state_step = run.step if run.state_file is not None else None  # of the newest state on the disk
        self.evaluated_step = run.validation.last_fast_step
        self.boundary_step = run.step  # updates made at the last boundary
        # An evaluation that was stopped half-way is due when the run goes on.
        self.iteration_ended = run.progress.position == START | {"iteration": run.progress.position["iteration"]}
        self.stop_agreed = False
        self.unsettled: list[UpdateResult] = []
        self.refused: list[tuple[int, str]] = []  # by the disk: at which update, and what
        self.lr = 0.0  # of the last settled update

    def train(self) -> str:
        """Returns the outcome: `done` or `stopped` (to be continued by the same command)."""
        run = self.run
        if run.world.is_main:
            self._write(lambda: align_best(run))
        with self._progress_bar() as progress, self.batches:
            while True:
                boundary = self._boundary()
                if boundary.evaluate or boundary.save or boundary.stop:
                    self._settle(all_of_them=True)
                    require_finite(run)
                if boundary.evaluate:
                    progress.clear()
                    if not self._evaluate(last=False):
                        boundary.stop = "stopped"
                    elif run.validation.exhausted:
                        boundary.stop = boundary.stop or "done"
                if boundary.save or boundary.stop:
                    self._save()
                if boundary.stop == "done" and run.step != run.validation.last_full_step:
                    # The end is evaluated in full too, but after the save, so that a run that is made longer
                    # later goes on as if it had never stopped here.
                    if not self._evaluate(last=True, saved_before=True):
                        boundary.stop = "stopped"
                if boundary.stop:
                    return boundary.stop
                self.boundary_step = run.step
                self._train_batch(self.interrupt.requested or self._out_of_time())
                progress.update(run.step - self.boundary_step)
                self._describe(progress)

    def _train_batch(self, stop_requested: bool) -> list[UpdateResult]:
        run = self.run
        batch, following = self.batches.next(run.progress.position)
        results = train_on_batch(run, batch, stop_requested=stop_requested)
        self.unsettled += results
        self.iteration_ended = following["iteration"] != run.progress.position["iteration"]
        run.progress.position = following
        # A line of the log sums up all updates up to its own, so these must be settled before it is written.
        logged = self._crossed(run.config.log_interval, since=self.boundary_step)
        self._settle(all_of_them=logged or not reads_late(run))
        return results

    def _settle(self, *, all_of_them: bool) -> None:
        """Read the numbers of the updates made: of all, or of all but the last, which the device may still work on."""
        while len(self.unsettled) > (0 if all_of_them else 1):
            result = self.unsettled.pop(0)
            settle(self.run, result)
            self.stop_agreed = self.stop_agreed or result.stop_requested
            self.lr = result.lr
            if self.run_log is not None:
                self.run_log.update(self.run, result)

    def _boundary(self) -> Boundary:
        """What is due at this step. The same on every rank: it depends on the step and on summed flags only."""
        run, config = self.run, self.run.config
        done = run.is_complete
        stop = "done" if done else ("stopped" if self.stop_agreed else None)
        fresh = run.step != self.evaluated_step
        past_minimum = run.progress.position["iteration"] * run.source.epochs_per_iteration >= (
            config.min_eval_interval or 0
        )
        due = self.iteration_ended and past_minimum
        due = due or self._crossed(config.fast_eval_interval, since=self.evaluated_step or 0)
        save = self._crossed(config.checkpoint_interval, since=self.boundary_step) and run.step != self.saved_step
        evaluate = bool(fresh and run.step and due)
        return Boundary(evaluate, save or evaluate, stop)

    def _crossed(self, interval: int | None, *, since: int) -> bool:
        """Whether a multiple of `interval` updates lies after update `since`, up to this one."""
        return interval is not None and self.run.step // interval > since // interval

    def _is_stop_asked(self) -> bool:
        """Whether any process has received a signal to stop. Collective."""
        return bool(self.run.world.sum_numbers([float(self.interrupt.requested)])[0])

    def _out_of_time(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _evaluate(self, *, last: bool, saved_before: bool = False) -> bool:
        """Validate and write the weights; False where a signal came first: then nothing has become of it.

        `saved_before`: the state on the disk will not know of it.
        """
        run = self.run
        before = run.validation.state_dict()
        earlier_best = run.validation.best
        try:
            improved = self.scoring.validate(last=last)
        except StopRequested:
            run.validation.load_state_dict(before)
            return False
        self.evaluated_step = run.validation.last_fast_step = run.step
        written = True
        if run.world.is_main:
            weights = run.evaluated_model.state_dict()
            config = run.config
            kept = config.checkpoint_every_eval if self.iteration_ended else config.checkpoint_every_fast_eval
            if kept:
                self._write(lambda: save_weights(run.folder.step(run.step), weights))
                if run.config.keep_last is not None:
                    keep_last(run.folder.path, run.config.keep_last)
            if improved:
                written = self._write(lambda: write_best(run))
        if improved and run.world.sum_numbers([float(not written)], run.device)[0]:
            # best.pt still holds the earlier one, and the record must say what the file is.
            run.validation.best = earlier_best
        elif improved and saved_before and run.world.is_main:
            self._keep_best(None if earlier_best is None else earlier_best.step)
        return True

    def _keep_best(self, protected_step: int | None = None) -> None:
        """The newest state is the best one: keep it as such, and in the archive."""
        run = self.run
        if self.state_step != run.step:
            return
        self._write(lambda: link_or_copy(run.folder.latest_state, run.folder.best_state))
        if run.config.archive_best:
            self._write(lambda: archive_best(run, run.config.archive_keep, protected_step))

    def _save(self) -> None:
        """The full state; also as best_state where this step is the best. Collective."""
        run = self.run
        if run.step == self.saved_step:
            return
        state = full_state(run)
        self.saved_step = run.step
        if not run.world.is_main:
            return
        if not self._write(lambda: save_latest(run.folder.path, state)):
            return
        self.state_step = run.step
        self._write(lambda: drop_spares(run.folder))
        if self.run_log is not None:
            self.run_log.event(run, "running", last_ckpt=run.folder.latest_state.name)
        best = run.validation.best
        if best is not None and best.step == run.step:
            self._keep_best()

    def _write(self, action: Callable[[], object]) -> bool:
        """A disk that refuses costs a warning, not yet the run: the old files are intact. True when written.

        Errors: `FolderGone`: a run that can save nothing any more is not worth its time.
        """
        folder = self.run.folder
        folder.require_there()
        try:
            action()
        except (CheckpointWriteError, OSError) as error:
            folder.require_there()
            self.refused.append((self.run.step, str(error)))
            say(f"warning: {error}" + ("" if self.run.is_complete else "; training goes on"), file=sys.stderr)
            return False
        return True

    def finish(self) -> str:
        """The end of a run: final weights and state, test numbers of best and final, summary. Returns the outcome."""
        run = self.run
        if run.world.is_main:
            asked = run.config.evaluate_weights
            if asked not in (None, run.evaluated_weights):
                instead = f"the {run.evaluated_weights} weights are tested and exported"
                say(f"warning: evaluate_weights={asked}, but nothing was averaged yet: {instead}", file=sys.stderr)
            weights = run.evaluated_model.state_dict()
            self._write(lambda: save_weights(run.folder.final, weights))
            if self.state_step == run.step:
                self._write(lambda: link_or_copy(run.folder.latest_state, run.folder.final_state))
        try:
            results = self.scoring.final_results()
        except StopRequested:
            return "stopped"
        run_log = self.run_log
        if run_log is not None:
            if not self._refused_now:  # a run without its summary is not finished: the same command tries again
                self._write(lambda: run_log.summary(run, results))
            self.scoring.print_summary(results)
        return "done"

    @property
    def _refused_now(self) -> list[str]:
        """What the disk refused at the present update."""
        return [words for step, words in self.refused if step == self.run.step]

    def require_saved(self, outcome: str) -> None:
        """Errors: `UserError` when this session's end could not be saved, or not all that belongs to a run's end."""
        if self.state_step != self.run.step:
            there = "from the start" if self.state_step is None else f"from update {self.state_step}"
            raise UserError(
                f"{self.run.folder.path}: the state at update {self.run.step} could not be saved; once the disk "
                f"accepts it, the same command goes on {there}"
            )
        if outcome == "done" and self._refused_now:
            first, *more = self._refused_now
            raise UserError(
                f"{self.run.folder.path} holds the state at its end, update {self.run.step}, but not everything else: "
                f"{first}" + (f" (and {len(more)} more)" if more else "") + "; the same command then writes what lacks"
            )
        lost = self.run_log.metrics.num_held if self.run_log is not None else 0
        if lost:
            raise UserError(f"{self.run.folder.metrics} could not be written: its last {lost} lines are lost")

    def _progress_bar(self) -> Any:
        total = min(self.run.config.max_steps or self.run.planned_updates, self.run.planned_updates)
        return progress_bar(
            shown=self.run.world.is_main,
            total=total,
            initial=self.run.step,
            desc="train",
            unit="update",
            smoothing=0.05,
        )

    def _describe(self, progress: Any) -> None:
        sums = self.run.progress.metric_sums
        if not progress.disable and sums.get("normalizer"):
            words = {"loss": f"{sums['loss'] / sums['normalizer']:.3f}", "lr": f"{self.lr:.1e}"}
            progress.set_postfix(**words, passes=f"{self.run.passes_over_data:.2f}", refresh=False)


def run_training(run: Run) -> str:
    """Train, and leave everything in the run folder; returns `done` or `stopped`.

    Errors: `NonFiniteError`, after the status says `failed`.
    """
    with run.world.together():
        run_log = RunLog(run) if run.world.is_main else None
    outcome = "failed"
    with run_log.status if run_log is not None else nullcontext():
        try:
            loop = Loop(run, run_log)
            with loop.interrupt:
                ended = loop.train()
                if ended == "done":
                    ended = loop.finish()
            if run_log is not None:
                loop.require_saved(ended)
            outcome = ended
            if run_log is not None:
                run_log.event(run, outcome)
                if outcome == "stopped":
                    say(f"stopped at update {run.step}; the same command goes on from {run.folder.latest_state}")
        finally:
            if run_log is not None:
                run_log.close(run, outcome)
    return outcome
