"""A grid file: runs of any scripts, written once with placeholders, checked whole before anything starts."""

import graphlib
import itertools
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arguments import nearest_key
from dataset.plain_data import read_yaml
from dataset.sudoku import BOXES, side
from errors import UserError
from training.settings.checks import shown
from training.storage.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
GRIDS = ROOT / "config" / "grid"
KINDS = ("confirmatory", "exploratory")
LOGS = "logs"

_GRID_KEYS = ("base", "out", "threads", "common", "earlier", "runs")
_RUN_KEYS = ("name", "kind", "for", "needs", "makes", "sizes", "command")
_EXPECTED = "expected a grid such as config/grid/step9_sigma_sweep.yaml"
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}")
_WHOLE_WORD = re.compile(r"(?<!\S)\{([A-Za-z_][A-Za-z0-9_]*)\}(?!\S)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")
_MOST_RUNS = 10_000


@dataclass(frozen=True)
class GridRun:
    """One run: `command` is what follows `python` in the suite's folder.

    finished_file: present when and only when the run has reached its end. form: its name before placeholders were
    filled in; runs of one form are alike, and so are their durations. sizes: (side, train, test) of the Sudokus that it
    makes, where a plan cannot make them itself.
    """

    name: str
    form: str
    kind: str
    needs: tuple[str, ...]
    command: tuple[str, ...]
    finished_file: Path
    sizes: tuple[int, int, int] | None = None

    @property
    def is_finished(self) -> bool:
        return os.path.isfile(self.finished_file)


@dataclass(frozen=True)
class Grid:
    """A checked grid. `out`: relative paths mean the suite's folder; `threads` of each run, None = by the machine.

    earlier: what makes that from which the runs start, and is started by hand only.
    """

    source: Path
    out: Path
    threads: int | None
    runs: tuple[GridRun, ...]
    earlier: tuple[GridRun, ...] = ()

    @property
    def by_name(self) -> dict[str, GridRun]:
        return {run.name: run for run in self.runs}


def find_grid(name: str) -> Path:
    """The file of that path, or of that name in config/grid. Errors: `UserError` naming those that exist."""
    for path in (Path(name), GRIDS / name, GRIDS / f"{name}.yaml"):
        if os.path.isfile(path):
            return path
    known = ", ".join(sorted(path.stem for path in GRIDS.glob("*.yaml")))
    raise UserError(f"{name}: there is no such grid file; expected a path, or one of config/grid: {known}")


def read_grid(path: Path, out: Path | None = None, texts: Mapping[str, str] | None = None) -> Grid:
    """Read and check a grid file; `out` replaces the file's own, `texts` those of `common` that have the same name.

    A grid with a `base` has all of that grid, with its own texts in place of the base's and its own runs before them.
    Errors: `UserError` in one line for an unknown key, a placeholder that does not exist, a name given twice, an
    unknown need, a circle of needs, a script that is not there.
    """
    raw = _mapping(read_yaml(path, _EXPECTED), _GRID_KEYS, str(path))
    common, entries = _common_and_runs(raw, path)
    earlier_path = path
    if "base" in raw:
        base_path = find_grid(_text(raw["base"], f"{path}: base"))
        base = _mapping(read_yaml(base_path, _EXPECTED), _GRID_KEYS[1:], str(base_path))  # a base has none itself
        base_common, base_entries = _common_and_runs(base, base_path)
        earlier_path = path if "earlier" in raw else base_path
        raw, common, entries = base | raw, base_common | common, entries + base_entries
    for name in texts or ():
        if name not in common:
            raise UserError(f"{path}: common has no {name!r} to set, the nearest is '{nearest_key(name, common)}'")
    common |= texts or {}
    if out is None:
        if "out" not in raw:
            raise UserError(f"{path}: it has no 'out', the folder of its runs; add it, or give --out DIR")
        out = Path(_text(raw["out"], f"{path}: out"))
    threads = raw.get("threads")
    if threads is not None and (type(threads) is not int or threads < 1):
        raise UserError(f"{path}: threads: found {threads!r}, expected a whole number from 1")
    _refuse_names(common, ("out", "name"), f"{path}: common")
    runs = _all_runs(entries, path, out, common)
    earlier = _all_runs(_entries(raw.get("earlier") or [], "earlier", earlier_path), path, out, common)
    _check_together(runs, str(path))
    _check_together([*earlier, *runs], str(path))
    return Grid(path, ROOT / out, threads, tuple(runs), tuple(earlier))


def _all_runs(entries: Iterable[tuple[str, Any]], path: Path, out: Path, common: Mapping[str, str]) -> list[GridRun]:
    runs: list[GridRun] = []
    for where, entry in entries:
        for run in _runs_of(entry, where, out, common):
            runs.append(run)
            if len(runs) > _MOST_RUNS:
                raise UserError(f"{path}: more than {_MOST_RUNS:,} runs; cut it into several grids")
    return runs


def _entries(value: Any, key: str, path: Path) -> list[tuple[str, Any]]:
    """The entries of a list of runs, each after words for where it stands."""
    if not isinstance(value, list):
        raise UserError(f"{path}: {key}: found {shown(value)}, expected a list of runs")
    return [(f"{path}: {'run' if key == 'runs' else key} {number}", entry) for number, entry in enumerate(value, 1)]


def _common_and_runs(raw: Mapping[str, Any], path: Path) -> tuple[dict[str, str], list[tuple[str, Any]]]:
    """The shared texts of a grid file, and its runs, each after words for where it stands."""
    common = {
        key: _text(value, f"{path}: common.{key}")
        for key, value in _mapping(raw.get("common") or {}, None, f"{path}: common").items()
    }
    return common, _entries(raw.get("runs") or None, "runs", path)


def _runs_of(entry: Any, where: str, out: Path, common: Mapping[str, str]) -> Iterator[GridRun]:
    """The runs that one entry describes: one for each choice of the values in `for`."""
    fields = _mapping(entry, _RUN_KEYS, where)
    for key in ("name", "command"):
        if key not in fields:
            raise UserError(
                f"{where}: it has no {key!r}; expected name and command, and optionally "
                f"{', '.join(key for key in _RUN_KEYS if key not in ('name', 'command'))}"
            )
    form = _text(fields["name"], f"{where}: name")
    where = f"{where} ({form})"
    kind = fields.get("kind", "exploratory")
    if kind not in KINDS:
        raise UserError(f"{where}: kind: found {shown(kind)}, expected {' or '.join(KINDS)}")
    axes = _mapping(fields.get("for") or {}, None, f"{where}: for")
    _refuse_names(axes, ("out", "name", *common), f"{where}: for")
    values = [_texts(values, f"{where}: for.{key}") for key, values in axes.items()]
    needs = _texts(fields.get("needs") or [], f"{where}: needs")
    for chosen in itertools.product(*values):
        fixed = {"out": str(out), **dict(zip(axes, chosen, strict=True))}
        name = _Filler(fixed, common, where).text(form)
        if not _NAME.fullmatch(name) or name == LOGS:
            raise UserError(f"{where}: name: found {name!r}, expected letters, digits and . _ = + -, other than {LOGS}")
        filler = _Filler(fixed | {"name": name}, common, where)
        finished_by = _text(fields["makes"], f"{where}: makes") if "makes" in fields else None
        yield GridRun(
            name=name,
            form=form,
            kind=kind,
            needs=tuple(need for text in needs for need in filler.words(text)),
            command=_command(filler, _text(fields["command"], f"{where}: command"), where),
            finished_file=RunFolder(ROOT / out / name).summary
            if finished_by is None
            else ROOT / filler.text(finished_by),
            sizes=_sizes(fields["sizes"], where) if "sizes" in fields else None,
        )


def _sizes(value: Any, where: str) -> tuple[int, int, int]:
    keys = ("side", "train", "test")
    sizes = _mapping(value, keys, f"{where}: sizes")
    if sizes.keys() != set(keys) or not all(type(size) is int and size > 0 for size in sizes.values()):
        raise UserError(f"{where}: sizes: found {shown(value)}, expected {', '.join(keys)}, whole numbers from 1")
    length, train, test = (sizes[key] for key in keys)
    if length not in (known := sorted({side(box) for box in BOXES.values()})):
        raise UserError(f"{where}: sizes: side: found {length}, expected one of {', '.join(map(str, known))}")
    return length, train, test


class _Filler:
    """Puts values in the place of placeholders: `fixed` as they are, those of `common` filled in themselves."""

    def __init__(self, fixed: Mapping[str, str], common: Mapping[str, str], where: str) -> None:
        self.fixed, self.common, self.where = fixed, common, where

    def text(self, text: str, within: tuple[str, ...] = ()) -> str:
        """`text` with every {name} replaced; {{ and }} stand for braces."""

        def replace(match: re.Match[str]) -> str:
            if match[1] is None:
                return match[0][0]
            if match[1] in self.fixed:
                return self.fixed[match[1]]
            return self.text(self._common(match[1], within), (*within, match[1]))

        return _PLACEHOLDER.sub(replace, text)

    def words(self, text: str) -> list[str]:
        """`text` cut into words as a shell does, then filled in: a value with spaces stays one word.

        A word that is nothing but {name}, without quotes and with a name of `common`, becomes the words of that text.
        """
        try:
            words = shlex.split(self._with_whole_words(text))
        except ValueError as error:
            raise UserError(
                f"{self.where}: {text[:80]!r} cannot be cut into words ({error}), expected a command as in a shell"
            ) from None
        return [self.text(word) for word in words]

    def _with_whole_words(self, text: str, within: tuple[str, ...] = ()) -> str:
        def replace(match: re.Match[str]) -> str:
            if match[1] in self.fixed:
                return match[0]
            return self._with_whole_words(self._common(match[1], within), (*within, match[1]))

        return _WHOLE_WORD.sub(replace, text)

    def _common(self, name: str, within: tuple[str, ...]) -> str:
        if name in within:
            raise UserError(f"{self.where}: common.{name} contains itself ({' -> '.join((*within, name))})")
        if name not in self.common:
            known = [*self.fixed, *self.common]
            raise UserError(
                f"{self.where}: there is no placeholder {{{name}}}: the nearest is "
                f"{{{nearest_key(name, known)}}}; for a brace itself write {{{{"
            )
        return self.common[name]


def _command(filler: _Filler, text: str, where: str) -> tuple[str, ...]:
    words = filler.words(text)
    script = words[0] if words else ""
    if script != "-m" and not (script.endswith(".py") and os.path.isfile(ROOT / script)):
        raise UserError(
            f"{where}: command: found {script!r} first, expected a script of the suite such as "
            "pretrain.py, or -m MODULE: what follows `python`"
        )
    return tuple(words)


def _check_together(runs: list[GridRun], where: str) -> None:
    """Names and files once each, needs that exist, no circle."""
    seen: dict[str, GridRun] = {}
    files: dict[Path, str] = {}
    for run in runs:
        if run.name in seen:
            hint = "; put every placeholder of 'for' into the name" if seen[run.name].form == run.form else ""
            raise UserError(f"{where}: the name {run.name} is given twice{hint}")
        seen[run.name] = run
        other = files.setdefault(run.finished_file, run.name)
        if other != run.name:
            raise UserError(f"{where}: {run.name} makes the same file as {other}: {run.finished_file}")
    for run in runs:
        for need in run.needs:
            if need not in seen:
                raise UserError(
                    f"{where}: {run.name} needs {need!r}, which is no run of this grid; the nearest is "
                    f"{nearest_key(need, seen)!r}"
                )
    try:
        graphlib.TopologicalSorter({run.name: run.needs for run in runs}).prepare()
    except graphlib.CycleError as error:
        raise UserError(f"{where}: these runs wait for each other: {' -> '.join(reversed(error.args[1]))}") from None


def _mapping(value: Any, valid: Iterable[str] | None, where: str) -> dict[str, Any]:
    """A mapping with text keys, all of them `valid` where given."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{where}: found {shown(value)}, expected a mapping of names; {_EXPECTED}")
    names = None if valid is None else tuple(valid)
    for key in value:
        if names is not None and key not in names:
            raise UserError(f"{where}: unknown key {key!r}, the nearest valid key is '{nearest_key(key, names)}'")
    return value


def _refuse_names(mapping: Mapping[str, Any], taken: Iterable[str], where: str) -> None:
    """Names of placeholders that could not be written in braces, or that already mean something."""
    for key in mapping:
        if key in taken or not _PLACEHOLDER.fullmatch(f"{{{key}}}"):
            reason = "it already has a meaning" if key in taken else "expected letters, digits and _"
            raise UserError(f"{where}: {key!r} cannot be the name of a placeholder: {reason}")


def _text(value: Any, where: str) -> str:
    if isinstance(value, str | int | float):
        return str(value)
    raise UserError(f"{where}: found {shown(value)}, expected a text; quote it where yaml reads something else")


def _texts(value: Any, where: str) -> list[str]:
    """A list of texts, or a single one."""
    if isinstance(value, list):
        return [_text(item, where) for item in value]
    return [_text(value, where)]
