"""Whether results may be written where there are some: of the same inputs and options they are made anew, else not."""

import fcntl
import os
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.figures.figure_files import make_folder
from analysis.figures.kept_edits import unedited
from dataset.plain_data import JsonError, read_json_object
from errors import UserError, say, writing
from files import file_sha256, open_folder
from training.storage.atomic_file import write_json_atomically

_MOST_HELD = 8  # a command writes to two or three folders; more come from tests, many commands in one process
_held: dict[tuple[int, int], int] = {}  # device and inode of a folder -> descriptor
MADE_OF = ".made_of.json"  # name of results -> inputs ("of") and options ("with") that they were made of


def results_folder(
    folder: Path,
    names: Sequence[str],
    inputs: Sequence[Path] | None,
    options: Mapping[str, Any] | None = None,
    *,
    flag: str = "--out",
    grow: Collection[str] = (),
    script: str = "",
    wait: bool = False,
) -> Path:
    """The folder, made if need be, for results called `names` that are made of these files or folders.

    The folder is this process's until it ends: of two commands that measure into one folder at once, the last to end
    would replace what the other has written.

    Results that a script wrote there are made anew only of the same inputs with the same options; what a person has
    edited is for `kept_edits` to keep. What they are made of is noted in `.made_of.json`.

    Args:
        inputs: None where the results of whatever is noted are drawn again.
        options: by flag, with its value: those that make other results of the same inputs.
        flag: the one that names the folder. grow: options of which results may be made anew with a larger number, or
            with further words beside those of before; this is said. script: the file of the one that asks; two may
            call their results alike. wait: for another command to let the folder go.
    Errors: `UserError` where results of such a name are there that are of others, naming what differs; where another
        command is at work.
    """
    note = folder / MADE_OF
    _hold(make_folder(folder), flag, wait)
    try:
        noted = read_json_object(note) if note.exists() else {}
    except JsonError as error:
        raise UserError(f"{note}: {error}; name another {flag}, or move {folder} away") from error
    now = _Origin(
        # Relative, so that folders can be moved together.
        None if inputs is None else [os.path.relpath(path.absolute(), folder.absolute()) for path in inputs],
        {name: _in_words(value) for name, value in (options or {}).items()},
        Path(script).name,
        {} if inputs is None else _contents(inputs, folder),
    )
    there = {name: paths for name in names if (paths := unedited(folder, name))}
    for name, paths in there.items():
        earlier = _Origin.read(noted.get(name, noted.get(names[0])))
        differs = "is there, and nothing says of what" if earlier is None else now.apart(earlier, grow)
        if differs:
            every = shlex.join(str(path) for paths in there.values() for path in paths)
            raise UserError(f"{paths[0]} {differs}: name another {flag}, or remove what is there: rm {every}")
        if earlier is not None and (grown := now.apart(earlier)):
            say(f"{paths[0]} {grown}: it is made anew", file=sys.stderr)
        elif earlier is not None and (changed := now.changed_since(earlier)):
            say(f"{paths[0]} was made of {changed} as it was then: it is made anew", file=sys.stderr)
    for name in names:
        earlier = _Origin.read(noted.get(name, noted.get(names[0])))
        of = now.inputs if now.inputs is not None or earlier is None else earlier.inputs
        contents = earlier.contents if now.inputs is None and earlier is not None else now.contents
        noted[name] = {"of": of or [], "with": now.options, "by": now.script, "contents": dict(contents)}
    with writing(note, f"name another {flag}"):
        write_json_atomically(note, noted, durable=False)
    return folder


def let_go(folder: Path) -> None:
    """Leave a folder of results to others until this process asks for it again, as where they measure into it too."""
    status = folder.stat()
    descriptor = _held.pop((status.st_dev, status.st_ino), None)
    if descriptor is not None:
        os.close(descriptor)


def _hold(folder: Path, flag: str, wait: bool) -> None:
    """Lock the folder until the process ends. Errors: `UserError` where another process holds it."""
    try:
        descriptor = open_folder(folder)
    except OSError:  # whoever writes to it says so
        return
    status = os.fstat(descriptor)
    place = status.st_dev, status.st_ino
    if place in _held:
        os.close(descriptor)
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(
            f"{folder} is in use by another command: give this one again when that has ended, or name another {flag}"
        ) from error
    except OSError:  # a file system without locks
        os.close(descriptor)
        return
    _held[place] = descriptor
    if len(_held) > _MOST_HELD:
        os.close(_held.pop(next(iter(_held))))


@dataclass(frozen=True)
class _Origin:
    """What results are made of. inputs: seen from their folder; options: words by flag, empty where not given.

    script: the name of what made them; empty where a note does not say. contents: SHA-256 of those inputs that are
    files, by their names in `inputs`.
    """

    inputs: list[str] | None
    options: dict[str, str]
    script: str = ""
    contents: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, entry: Any) -> "_Origin | None":
        """Of a note; None where there is none. An older one is a list, of inputs and `--flag=word`."""
        if isinstance(entry, dict) and isinstance(entry.get("of"), list) and isinstance(entry.get("with"), dict):
            options = {str(key): str(value) for key, value in entry["with"].items()}
            contents = entry.get("contents")
            known = {str(k): str(v) for k, v in contents.items()} if isinstance(contents, dict) else {}
            return cls(list(map(str, entry["of"])), options, str(entry.get("by", "")), known)
        if isinstance(entry, list):
            words = [str(word).partition("=") for word in entry]
            options = {flag: value for flag, equals, value in words if equals and flag.startswith("--")}
            return cls([str(word) for word in entry if str(word).partition("=")[0] not in options], options)
        return None

    def changed_since(self, earlier: "_Origin") -> str:
        """Inputs of the same names that hold something else now, as words; empty where none does."""
        return ", ".join(name for name, digest in self.contents.items() if earlier.contents.get(name, digest) != digest)

    def apart(self, earlier: "_Origin", grow: Collection[str] = ()) -> str:
        """What differs, in words; empty where nothing does. An option that only one of them has is no difference."""
        if self.script and earlier.script and self.script != earlier.script:
            return f"was made by {earlier.script}, now {self.script}"
        if self.inputs is not None and self.inputs != earlier.inputs:
            found, expected = (", ".join(inputs or []) for inputs in (earlier.inputs, self.inputs))
            return f"was made of {found}, now {expected} (seen from its folder)"
        for flag, value in self.options.items():
            before = earlier.options.get(flag, value)
            if before != value and not (flag in grow and _is_more(before, value)):
                return f"was made with {flag} {before or '(not given)'}, now {value or '(not given)'}"
        return ""


def _contents(inputs: Sequence[Path], folder: Path) -> dict[str, str]:
    files = [path for path in inputs if path.is_file()]
    return {os.path.relpath(path.absolute(), folder.absolute()): file_sha256(path) for path in files}


def _in_words(value: Any) -> str:
    words = value if isinstance(value, list | tuple) else [] if value is None else [value]
    return " ".join(map(str, words))


def _is_more(before: str, now: str) -> bool:
    """Whether `now` has all words of `before`, or is a larger whole number."""
    if before.isdigit() and now.isdigit():
        return int(now) > int(before)
    return set(before.split()) <= set(now.split())
