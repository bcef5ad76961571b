"""Weights & Biases as a second, optional receiver of the metrics; `metrics.jsonl` stays the truth."""

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from errors import UserError, say

MODES = ("disabled", "offline", "online")
_SECRET = re.compile(r"(^|_)(api_?key|secret|password|passwd|credentials?|auth_token|access_token)$", re.IGNORECASE)
# Without these the client gathers source code, diff, host, environment of the job and console by itself.
_SETTINGS = {
    "disable_code": True,
    "disable_git": True,
    "save_code": False,
    "disable_job_creation": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "console": "off",
    "login_timeout": 30,
}


class WandbSink:
    """Sends records to a wandb run. The first failure is reported once; after it, nothing more is sent."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, record: Mapping[str, Any]) -> None:
        """Send one record at its own `step`; nested values are left to the local log."""
        values = {key: item for key, item in record.items() if isinstance(item, int | float | str) and key != "step"}
        self._call(lambda run: run.log(values, step=record["step"]))

    def close(self) -> None:
        """End the wandb run; a failure is a warning."""
        self._call(lambda run: run.finish())
        self._run = None

    def _call(self, action: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # a third-party client and the network: whatever it raises, the run goes on
            self._run = None
            say(f"warning: wandb failed ({_short(error)}); the run goes on, metrics stay local", file=sys.stderr)


def open_wandb(
    mode: str,
    *,
    project: str | None,
    entity: str | None = None,
    run_name: str | None,
    run_id: str,
    folder: Path | str,
    config: Mapping[str, Any],
) -> WandbSink | None:
    """Start a wandb run or go on with it; returns its sink, or None when `disabled` or the client fails (a warning).

    run_id: the wandb run's id; the sessions of a run that is resumed have the same one.

    Sent: the resolved config given here (entries named like secrets are left out) and the logged scalars. Not
    sent: the environment, source code, diff, console, host data. A key is wandb's own matter (its netrc or
    environment variable). Errors: `UserError` for an unknown mode, or a missing package while a mode other
    than `disabled` was asked for.
    """
    if mode not in MODES:
        raise UserError(f"wandb mode {mode!r}: expected one of {', '.join(MODES)}")
    if mode == "disabled":
        return None
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise UserError(
            f"wandb mode {mode!r} needs the package wandb: pip install wandb, or use mode disabled"
        ) from error
    try:
        run = wandb.init(
            project=project,
            entity=entity,
            name=run_name,
            id=run_id,
            resume="allow",
            dir=str(folder),
            config=without_secrets(config),
            mode=mode,
            settings=wandb.Settings(**_known_settings(wandb.Settings)),
        )
    except Exception as error:  # no login, no network, a changed client: none of them is a reason not to train
        say(f"warning: wandb did not start ({_short(error)}); metrics stay local", file=sys.stderr)
        return None
    return WandbSink(run)


def without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a nested config without entries whose name says that they are keys or passwords."""
    return {
        str(key): without_secrets(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if not _SECRET.search(str(key))
    }


def _known_settings(settings_class: Any) -> dict[str, Any]:
    """Those of our settings that the installed client knows; their names change between versions."""
    known = getattr(settings_class, "model_fields", None)
    return {key: value for key, value in _SETTINGS.items() if known is None or key in known}


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
