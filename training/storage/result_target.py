"""Whether a result may be written to a path that a user names: said before the work, in one set of words."""

import os
import re
import shlex
from pathlib import Path

from dataset.plain_data import JsonError, read_json_object
from errors import UserError
from files import UnusableFile, check_target, reason_of
from training.storage.run_folder import FIXED_NAMES, STEP_FILE

EVALUATION, MEASUREMENT = "an evaluation", "a measurement"  # kinds of reports
_OF_EVALUATIONS = re.compile(r"(evaluation|predictions)(_.*)?\.(json|npz)")


def check_result_target(option: str, path: Path, kind: str | None) -> None:
    """Nothing is replaced but an earlier report of the same kind; no file is called like one of a run.

    Args:
        option: what names the path, as typed up to it: `--json `.
        kind: of the report; None for another result, whose writer looks at what is there.
    Errors: `UserError`, also where nothing could be written.
    """
    folder = path.absolute().parent
    try:
        check_target(path)
        if not folder.is_dir():
            raise UnusableFile(f"there is no such folder, make it with: mkdir -p {shlex.quote(str(folder))}", path)
        if not os.access(folder, os.W_OK):
            raise UnusableFile("its folder is not writable", path)
    except OSError as error:
        raise UserError(f"{option}{path} cannot be written: {reason_of(error)}; name another") from error
    of_evaluations = kind != EVALUATION and _OF_EVALUATIONS.fullmatch(path.name)
    if path.name in FIXED_NAMES or STEP_FILE.fullmatch(path.name) or of_evaluations:
        raise UserError(f"{option}{path}: so is a file of a run called; name another")
    if kind is not None and path.exists() and _kind(path) != kind:
        raise UserError(f"{option}{path} is there and is no report of {kind}; name another, or remove it")


def _kind(path: Path) -> str | None:
    try:
        report = read_json_object(path)
    except JsonError:
        return None
    if "checkpoint_sha256" in report:
        return EVALUATION
    return MEASUREMENT if isinstance(report.get("record"), dict) else None
