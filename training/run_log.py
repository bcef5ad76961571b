"""What a run tells its folder: metrics.jsonl, status.json, provenance.json, summary.json. Rank 0 only."""

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dataset.plain_data import read_yaml
from errors import UserError, say, writing
from files import MAX_TEXT_BYTES, bounded_bytes
from models.registry import count_parameters
from training.known_rows import described
from training.records.metrics_log import MetricsLog, read_metrics
from training.records.provenance import ProvenanceFile, collect_provenance
from training.records.result_numbers import Number, judged_rates, rate, record_entry
from training.records.status import StatusWriter
from training.records.wandb_sink import open_wandb
from training.run import Run
from training.settings.identity import config_hash, config_to_dict
from training.settings.resolving import resolve
from training.storage.atomic_file import link_or_copy, write_bytes_atomically, write_json_atomically
from training.storage.weights_record import write_record
from training.update import UpdateResult, mean_metrics

# `run.warn_about_arithmetic` compares these with what the state says, whoever wrote it.
TOLD_WITH_THE_STATE = ("num_threads", "world_size", "versions.torch")


class RunLog:
    """The writers of one session of a run. `means`: training metrics of the last line of metrics.jsonl."""

    def __init__(self, run: Run) -> None:
        self.means: dict[str, float] = {}
        config = run.config
        plain = config_to_dict(config)
        if run.initial is not None:
            plain["init_from"] = run.initial.init_from  # of its own beginning, whatever the command of today says
        text = OmegaConf.to_yaml(OmegaConf.create(plain))
        with writing(run.folder.all_config, "free some space, or name another checkpoint_path"):
            record = described(run)
            _write_settings(run.folder.all_config, text)
            write_record(run.folder.path, record)
        self.provenance = ProvenanceFile(run.folder.provenance)
        session = collect_provenance(
            plain,
            start_step=run.step,
            datasets=run.source.fingerprint() | run.judged_on,
            seeds={"seed": config.seed},
            device=run.device,
            world_size=run.world.size,
            digest=config_hash(config),
        )
        for difference in self.provenance.start(session, lambda plain: config_hash(resolve(plain, require_data=False))):
            if difference.startswith(TOLD_WITH_THE_STATE):
                continue
            say(f"warning: since the last session {difference}", file=sys.stderr)
        sink = open_wandb(
            config.wandb.mode,
            project=config.wandb.project or config.project_name,
            entity=config.wandb.entity,
            run_name=config.run_name,
            run_id=self.provenance.run_id,
            folder=run.folder.path,
            config=plain,
        )
        self.metrics = MetricsLog(run.folder.metrics, sink=sink)
        dropped = self.metrics.truncate_to_step(run.step)
        if dropped:
            say(f"{run.folder.metrics.name}: dropped {dropped} lines written after update {run.step}")
        state = run.state_file
        own_state = state is not None and state.parent == run.folder.path
        lost = _lost_beginning(run, self.provenance.record["sessions"], own_state=own_state)
        if lost:
            say(f"warning: {run.folder.path}: {' and '.join(lost)}: not all of this run is told there", file=sys.stderr)
        self.status = StatusWriter(
            run.folder.status,
            interval_seconds=config.status_interval_seconds,
            run_id=run.folder.path.name,
            config_hash=config_hash(config),
            git_sha=session["git"].get("commit"),
            total_steps=run.planned_updates if config.max_steps is None else config.max_steps,
            global_step=run.step,
            last_ckpt=state.name if state is not None and own_state else None,
        )

    def update(self, run: Run, result: UpdateResult) -> None:
        """After each update: status when due, a line of metrics every `log_interval` updates."""
        if result.clipped:
            self.metrics.append({"step": result.step, "event": "clip", "train/grad_norm": result.grad_norm})
        if result.step % run.config.log_interval == 0:
            record: dict[str, Any] = {
                "step": result.step,
                "train/lr": result.lr,
                "train/grad_norm": result.grad_norm,
            }
            self.means = mean_metrics(run.progress.metric_sums)
            record |= run.compute_spent | self.means | run.source.numbers()
            self.metrics.append(record)
            run.progress.metric_sums = {}
        self.status.update(**self._status_fields(run), lr=result.lr, grad_norm=result.grad_norm)

    def event(self, run: Run, state: str, **fields: Any) -> None:
        """A moment worth seeing from outside: evaluation, save, end."""
        self.status.event(state=state, **self._status_fields(run), **fields)

    @staticmethod
    def _status_fields(run: Run) -> dict[str, Any]:
        best = run.validation.best
        interval = run.config.fast_eval_interval
        next_fast = None if interval is None else (run.step // interval + 1) * interval
        return {
            "global_step": run.step,
            "update_step": run.step,
            "micro_step": run.step * run.config.accumulation_slices,
            "epoch": run.passes_over_data,
            "samples_seen": run.progress.samples_seen,
            "clip_events": run.progress.clip_events,
            "last_fast_eval_step": run.validation.last_fast_step,
            "last_full_eval_step": run.validation.last_full_step,
            "next_fast_eval_step": next_fast,
            "best": None if best is None else {"metric": run.headline, "value": best.value, "step": best.step},
        }

    def summary(self, run: Run, results: dict[str, Any]) -> None:
        """`summary.json`: peak and final, with numerators and denominators."""
        best = run.validation.best
        record: dict[str, Any] = {
            "steps": run.step,
            "planned_steps": run.planned_updates,
            "samples_seen": run.progress.samples_seen,
            "num_params": count_parameters(run.model),
            "train_seconds": run.progress.train_seconds,
            "best": None if best is None else {"metric": run.headline, **asdict(best)},
            "threads": torch.get_num_threads(),
            "world_size": run.world.size,
        }
        everything = record | results
        write_json_atomically(run.folder.summary, everything | record_entry(summary_numbers(everything)))

    def close(self, run: Run, outcome: str) -> None:
        if run.folder.is_there:
            self.provenance.finish(end_step=run.step, outcome=outcome)
        self.metrics.close()


def summary_numbers(summary: Mapping[str, Any]) -> list[Number]:
    """For the records of results: test rates, final first, then those of validation, beside the trivial predictors."""
    tests, measured = summary.get("test") or {}, []
    moments = {"final": tests.get("final"), "peak": tests.get("best"), "initial": tests.get("initial")}
    for moment, tested in moments.items():
        measured += _measured("test exact_accuracy", tested, moment)
        measured += judged_rates((tested or {}).get("judges", {}), moment, "test ")
    best, final = summary["best"] or {}, moments["final"] or {}
    for moment, judged in (("final", summary.get("final")), ("peak", best)):
        measured += _measured(best.get("metric", "exact_accuracy"), judged, moment)
    trivial = {name: values for name, values in (summary.get("baselines") or {}).items() if isinstance(values, Mapping)}
    for key, words, choose in (("accuracy", "test token accuracy", max), ("lm_loss", "test token loss", min)):
        known = {name: values[key] for name, values in trivial.items() if isinstance(values.get(key), float)}
        if isinstance(final.get(key), float):
            measured.append(Number(words, final[key], moment="final"))
            name = choose(known, key=lambda name: known[name], default=None)
            measured += [] if name is None else [Number(f"{words} of the best trivial predictor, {name}", known[name])]
    if best.get("step") is not None:
        measured.append(Number("update of the peak", best["step"]))
    return [
        *measured,
        Number("updates", summary["steps"]),
        Number("parameters", summary["num_params"]),
        Number("training time", summary["train_seconds"], unit="seconds"),
    ]


def _lost_beginning(run: Run, sessions: Sequence[Mapping[str, Any]], *, own_state: bool) -> list[str]:
    """What the log and the sessions lack of the updates that a run's state knows were made in its folder, in words.

    sessions: of provenance.json, the present one included. Where the state of another folder went on here, the log
    begins there. A validation of another value is of another run.
    """
    begun = sessions[0].get("start_step") if len(sessions) > 1 else (0 if own_state else run.step)
    begun = begun if type(begun) is int else 0
    history = ((entry["step"], entry["value"]) for entry in run.validation.history)
    validated = {step: value for step, value in history if step > begun and value == value}
    # Nothing summed up for the next line: there is one of this very update.
    lines = {run.step} if run.step > begun and not run.progress.metric_sums else set()
    path = run.folder.metrics
    for record in read_metrics(path) if (lines or validated) and os.path.lexists(path) else ():
        step = record["step"]
        if step in validated and record.get(run.headline) == validated[step]:
            del validated[step]
        if "train/lr" in record:
            lines.discard(step)
    lacking = lines | validated.keys()
    lost = []
    if lacking:
        first, more = sorted(lacking)[:3], len(lacking) - 3
        listed = ", ".join(map(str, first)) + (f" and {more} more" if more > 0 else "")
        lost.append(f"{path.name} lacks what was logged at updates {listed}")
    if own_state and len(sessions) == 1 and run.step:
        lost.append(f"{run.folder.provenance.name} lacks the sessions up to update {run.step}")
    return lost


def _measured(name: str, judged: Mapping[str, Any] | None, moment: str) -> list[Number]:
    """A rate where the counts are known, else the bare share; none of what was not judged."""
    if not judged or judged.get("value") is None:
        return []
    if judged.get("denominator"):
        return [rate(name, judged["numerator"], judged["denominator"], moment)]
    return [Number(name, judged["value"], moment=moment)]


def _write_settings(path: Path, text: str) -> None:
    """Write the settings of this session. What a person wrote into the file that is there is kept, comments too.

    It stays as it is where it says the same, else it is kept under another name, which is said. Errors: `OSError`.
    """
    if os.path.lexists(path):
        present = bounded_bytes(path, MAX_TEXT_BYTES)
        try:
            before = read_yaml(path, "expected settings")
            if before == OmegaConf.to_container(OmegaConf.create(text)):
                return
            is_ours = OmegaConf.to_yaml(OmegaConf.create(before)).encode() == present
        except (UserError, OmegaConfBaseException):  # no settings at all
            is_ours = False
        if not is_ours:
            kept = path.with_stem(f"{path.stem}_{hashlib.sha256(present).hexdigest()[:8]}")
            link_or_copy(path, kept)
            say(f"{path} was edited, or written by another program: that one is now {kept.name}", file=sys.stderr)
    write_bytes_atomically(path, text.encode())
