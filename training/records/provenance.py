"""`provenance.json`: how a run was made, written when it starts and completed when it ends.

Recorded: command line, resolved config and its hash, commit and diff, data sets, versions, device, threads,
seeds, times, peak memory. Not recorded: host name, user name, environment; the home folder is written as `~`.
"""

import hashlib
import json
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dataset.plain_data import JsonError, read_json_object
from errors import UserError, say
from files import MAX_TEXT_BYTES, bounded_bytes, bounded_text
from training.records.result_numbers import dataset_hashes
from training.storage.atomic_file import warning_when_refused, write_json_atomically

SCHEMA_VERSION = 1
_ID_DIGITS = 16
ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("numpy", "hydra-core", "omegaconf", "einops", "scipy", "safetensors")
_DIFF_CHARACTERS = 200_000
_UNTRACKED_NAMES = 100
_GIT_SECONDS = 20
# These facts of a session change results (bits or numbers) when they change on resume.
_COMPARED = (
    "num_threads",
    "world_size",
    "device",
    "versions",
    "cpu",
    "gpu",
    "config_hash",
    "git.commit",
    "git.diff_sha256",
)


def settings_sha256(settings: Mapping[str, Any]) -> str:
    """SHA-256 of settings as canonical JSON (sorted keys), whatever the order of their entries."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def collect_provenance(
    config: Mapping[str, Any],
    *,
    start_step: int = 0,
    datasets: Mapping[str, Any] | Sequence[Any] | None = None,
    seeds: Mapping[str, int] | None = None,
    device: str | torch.device = "cpu",
    world_size: int = 1,
    argv: Sequence[str] | None = None,
    digest: str | None = None,
    root: Path = ROOT,
) -> dict[str, Any]:
    """Describe the session that starts now; `config` is resolved, `datasets` are fingerprints as given.

    `digest` stands in for the hash of the whole config, e.g. one that leaves run control out.
    """
    device = torch.device(device)
    return {
        "start_step": start_step,
        "end_step": None,
        "started_utc": _now(),
        "ended_utc": None,
        "outcome": None,
        "argv": recorded_command(argv, root),
        "config": without_home(config),
        "config_hash": digest or settings_sha256(config),
        "git": describe_git(root),
        "datasets": without_home(datasets),
        "seeds": dict(seeds or {}),
        "versions": _versions(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" and torch.cuda.is_available() else None,
        "num_threads": torch.get_num_threads(),
        "world_size": world_size,
        "peak_memory": None,
    }


def result_origin(device: str | torch.device = "cpu") -> dict[str, Any]:
    """What a result that comes from no run of its own says about where it comes from: command, commit, machine."""
    session = collect_provenance({}, device=device)
    return {
        "command": "python " + shlex.join(map(str, session["argv"])),
        "git": {key: value for key, value in session["git"].items() if key in ("commit", "dirty")},
        **{name: session[name] for name in ("cpu", "gpu", "num_threads", "versions")},
    }


class ProvenanceFile:
    """The file of one run: the first session at the top level, each one (also resumes) in `sessions`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.record: dict[str, Any] = {}

    def start(self, session: Mapping[str, Any], digest: Callable[[Mapping[str, Any]], str] | None = None) -> list[str]:
        """Add a session and write the file; returns what differs from the session before, one line each.

        digest: the hash of a config by today's rule, under which an earlier session's counts, whatever rule it knew.

        An earlier session that never ended (killed) stays recorded as such. An unreadable file is set aside
        under another name with a warning. Errors: none from the disk (a warning).
        """
        new = {"schema_version": SCHEMA_VERSION, "run_id": uuid.uuid4().hex[:_ID_DIGITS], **session, "sessions": []}
        self.record = self._earlier() or new
        sessions = self.record["sessions"]
        differences = session_differences(self._rehashed(sessions[-1], digest), session) if sessions else []
        if sessions:
            before = sessions[-1].get("datasets", self.record.get("datasets"))
            changed = other_data(before, session["datasets"])
            differences += [f"the data differ: {name} {old}, now {new}" for name, old, new in changed]
        # Configs and diffs are long and a run may be resumed many times, so only what changed is repeated.
        same_config = bool(sessions) and session["config_hash"] == self._rehashed(self.record, digest)["config_hash"]
        same_diff = bool(sessions) and session["git"]["diff_sha256"] == self.record["git"].get("diff_sha256")
        entry = {key: value for key, value in session.items() if key not in ("config", "git", "datasets")}
        entry["git"] = {key: value for key, value in session["git"].items() if key != "diff"}
        if sessions and not same_config:
            entry["config"] = session["config"]
        if sessions and session["datasets"] != self.record.get("datasets"):
            entry["datasets"] = session["datasets"]
        if sessions and not same_diff:
            entry["git"] = dict(session["git"])
        sessions.append(entry)
        self._write()
        return differences

    def _rehashed(
        self, session: Mapping[str, Any], digest: Callable[[Mapping[str, Any]], str] | None
    ) -> Mapping[str, Any]:
        config = session.get("config", self.record.get("config"))
        if digest is None or not isinstance(config, Mapping):
            return session
        try:
            return {**session, "config_hash": digest(config)}
        except UserError:  # settings that are refused today: the hash of their own time stays
            return session

    @property
    def run_id(self) -> str:
        """16 hex digits, the same in all sessions of the run.

        Runs that have none in their record, older ones: of how, when and from what commit they were begun.
        """
        first = {name: self.record.get(name) for name in ("started_utc", "argv", "config_hash", "git")}
        return str(self.record.get("run_id") or settings_sha256(first)[:_ID_DIGITS])

    def finish(self, *, end_step: int, outcome: str = "done") -> None:
        """Complete the present session: end, step, outcome (`done`, `stopped`, `failed`), peak memory."""
        ending = {"ended_utc": _now(), "end_step": end_step, "outcome": outcome, "peak_memory": peak_memory()}
        self.record["sessions"][-1].update(ending)
        self.record.update(ending)
        self._write()

    def _earlier(self) -> dict[str, Any] | None:
        if not os.path.lexists(self.path):  # a link in a loop does not "exist", and cannot be written over either
            return None
        try:
            record = read_json_object(self.path)
            sessions = record.get("sessions")
            if not isinstance(sessions, list) or not all(isinstance(session, dict) for session in sessions):
                raise JsonError("it has no list of sessions")
            if not isinstance(record.get("git"), dict) or not isinstance(record.get("config_hash"), str):
                raise JsonError("it lacks the commit or the config hash")
        except JsonError as error:
            aside = self.path.with_name(self.path.name + ".unreadable")
            os.replace(self.path, aside)
            say(f"warning: {self.path} is unreadable ({error}); kept as {aside.name}", file=sys.stderr)
            return None
        return record

    def _write(self) -> None:
        with warning_when_refused(self.path):
            write_json_atomically(self.path, self.record)


def session_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed between two sessions and may change numbers, e.g. `num_threads: 2, now 1`."""
    differences = []
    for name in _COMPARED:
        first, second = _nested(before, name), _nested(now, name)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            names = sorted(first.keys() | second.keys())
            pairs = [(f"{name}.{key}", first.get(key), second.get(key)) for key in names]
        else:
            pairs = [(name, first, second)]
        differences += [f"{key}: {_brief(old)}, now {_brief(new)}" for key, old, new in pairs if old != new]
    return differences


def other_data(first: Any, second: Any) -> list[tuple[str, str, str]]:
    """Data of one name, to train on or to judge by, whose hashes differ between two fingerprints: name and both."""
    if not isinstance(first, Mapping) or not isinstance(second, Mapping):
        return []
    pairs = (
        (name, dataset_hashes(first[name]), dataset_hashes(second[name])) for name in sorted(first.keys() & second)
    )
    return [
        (name, ", ".join(map(_brief, hashes)), ", ".join(map(_brief, others)))
        for name, hashes, others in pairs
        if hashes != others
    ]


def describe_git(root: Path = ROOT) -> dict[str, Any]:
    """Commit, whether the tree differs from it, and the difference (bounded; its hash is of the whole).

    All null with a `note` when there is no git, no repository, or `root` merely lies inside another project's
    repository.
    """
    nothing = {"commit": None, "dirty": None, "diff": None, "diff_sha256": None, "untracked": None}
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None:
        return {**nothing, "note": "no git repository, or git is not installed"}
    if Path(top.strip()).resolve() != root.resolve():
        return {**nothing, "note": "the project lies inside another repository"}
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    diff = _git(root, "diff", "--no-color", "--no-ext-diff", *(["HEAD"] if commit else [])) or ""
    untracked = (_git(root, "ls-files", "--others", "--exclude-standard") or "").splitlines()
    shortened = diff[:_DIFF_CHARACTERS] + ("\n[cut]\n" if len(diff) > _DIFF_CHARACTERS else "")
    return {
        "commit": commit.strip() if commit else None,
        "dirty": bool(diff),
        "diff": shortened or None,
        "diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if diff else None,
        "untracked": untracked[:_UNTRACKED_NAMES],
        "note": None if commit else "no commit yet",
    }


def peak_memory() -> dict[str, int]:
    """Largest resident set of this process and, with CUDA, largest allocation on the device; bytes."""
    memory = {"rss_bytes": _largest_resident_bytes()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        memory["cuda_bytes"] = torch.cuda.max_memory_allocated()
    return memory


def _largest_resident_bytes() -> int:
    """Of this program. On Linux `ru_maxrss` starts at the size of the process that started it, `VmHWM` does not."""
    try:
        peak_line = re.search(r"^VmHWM:\s*(\d+) kB$", bounded_text("/proc/self/status"), re.MULTILINE)
    except OSError:  # no Linux, or no /proc
        peak_line = None
    if peak_line:
        return int(peak_line[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def recorded_command(argv: Sequence[str] | None = None, root: Path = ROOT) -> list[str]:
    """The command as records keep it, with no folder of this machine; argv: None = as typed."""
    recorded: list[str] = without_home(_portable(list(_typed_command() if argv is None else argv), root))
    return recorded


def _typed_command() -> list[str]:
    """The script and its arguments as typed: entry scripts may rewrite `sys.argv` for the config system."""
    script = sys.argv[0]
    if script in sys.orig_argv:
        return sys.orig_argv[sys.orig_argv.index(script) :]
    return list(sys.argv)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", errors="replace")


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def _cpu_model() -> str:
    try:
        for line in bounded_bytes("/proc/cpuinfo", MAX_TEXT_BYTES).decode(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the portable, coarser name below
    return platform.processor() or platform.machine()


def _nested(record: Mapping[str, Any], name: str) -> Any:
    value: Any = record
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _brief(value: Any) -> Any:
    """A hash by its beginning, anything else as it is."""
    return value[:12] if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{40,64}", value) else value


def _portable(argv: list[str], root: Path) -> list[str]:
    """The command line with its script named from the project's folder."""
    if argv and Path(argv[0]).is_absolute() and Path(argv[0]).is_relative_to(root):
        return [str(Path(argv[0]).relative_to(root)), *argv[1:]]
    return argv


def without_home(value: Any) -> Any:
    """The value with `~` for the home folder wherever a path in it begins with that, in plain containers."""
    if isinstance(value, Mapping):
        return {str(key): without_home(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_home(item) for item in value]
    if isinstance(value, str):
        home = os.path.expanduser("~").rstrip("/")
        # In containers it may be /, empty, or unknown: then nothing of a path is one's own.
        begun, ended = r"(?<![\w.~/-])", r"(?=[/\s'\",\])}]|$)"
        return re.sub(f"{begun}{re.escape(home)}{ended}", "~", value) if os.path.isabs(home) else value
    return value if isinstance(value, int | float | None) else str(value)
