"""Command lines of Hydra scripts: argv is checked before Hydra sees it, then composed.

Every mistake in a command line ends as one line on stderr that names the key, what was found and the nearest
valid key, with exit code 2. Official TRM and HRM commands work unchanged: a `+` before an existing option is
accepted, and `data_path=X` alone selects HRM.
"""

import itertools
import os
import re
import sys
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra import compose, initialize_config_dir
from hydra import main as hydra_main
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from arguments import nearest_key
from errors import UserError, exit_on_user_error, say
from help_texts import keep_help
from options import settings_of
from training.settings.checks import value_of
from training.settings.identity import sweep_run_name
from training.settings.key_values import refuse_flags, refuse_undecoded, setting_lines
from training.settings.older_names import refuse_difference, todays_name
from training.settings.resolving import load_config_file, resolve
from training.settings.schema import TrainConfig, schema_keys
from training.storage.run_folder import ALL_CONFIG

CONFIG_DIR = Path(__file__).resolve().parents[2] / "config"
HELP = "python pretrain.py --help lists the options"
_LISTED = 8  # choices of a group that a message lists
HELP_OF_GROUPS = "python pretrain.py --help lists all at its end"

# What composition can raise on odd input: Hydra's and OmegaConf's own, those of a config file's yaml and
# of reading it, and the plain Python errors of their grammar functions (`range(a)`, `int(x)`).
_COMPOSE_ERRORS = (
    HydraException,
    OmegaConfBaseException,
    yaml.YAMLError,
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    ArithmeticError,
    RecursionError,
)


@dataclass(frozen=True)
class CommandLine:
    """A checked command line: `argv` is what Hydra gets; `notes` are lines for the user, `help` what was asked for."""

    argv: list[str]
    overrides: list[str]
    notes: list[str]
    help: str | None = None


def _one_line(error: BaseException) -> str:
    text = str(error).split("Check that it's in your config search path")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip() and "hydra.cc" not in line]
    return " ".join(lines)[:400] or type(error).__name__


class _Groups:
    """The config groups (folders) in the search path, with the choices (files) of each."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.choices: dict[str, list[str]] = {}
        for folder in folders:
            for file in sorted(folder.glob("*/**/*.yaml")):
                group, _, _ = file.relative_to(folder).as_posix().partition("/")
                choice = file.relative_to(folder / group).as_posix()[: -len(".yaml")]
                self.choices.setdefault(group, []).append(choice)

    def check(self, group: str, choice: Any) -> None:
        names = choice if isinstance(choice, list) else [choice]
        for name in names:
            if name not in self.choices[group]:
                known = list(dict.fromkeys(self.choices[group]))
                told = f"available are {', '.join(known)}"
                if len(known) > _LISTED:
                    told = f"the nearest is {nearest_key(str(name), known)}; {HELP_OF_GROUPS}"
                raise UserError(f"unknown choice {group}={name}: {told}")


def check_command_line(argv: Sequence[str], config_name: str = "cfg_pretrain") -> CommandLine:
    """Check and rewrite the arguments (without the program's name) of a Hydra entry script.

    Returns the arguments for Hydra. Errors: `UserError`, one line, for an unreadable override, an unknown key
    (also after `+`, `++`, `~`), an unknown group choice, a bad value or an impossible combination.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        refuse_flags(argv, [*_Groups([CONFIG_DIR]).choices, *schema_keys(TrainConfig)])
        raise UserError(f"{message}: expected key=value pairs and Hydra's flags; {HELP}")

    parser.error = refuse  # type: ignore[method-assign]
    argv = list(argv)
    args = parser.parse_intermixed_args(argv)
    if args.experimental_rerun is not None:
        raise UserError("--experimental-rerun is refused: it would unpickle a file; give the options instead")
    flags = list(argv)
    for text in args.overrides:
        flags.remove(text)
    if args.shell_completion or args.hydra_help:
        return CommandLine(argv, args.overrides, [])

    folders = [_folder("--config-path", args.config_path, CONFIG_DIR)]
    if args.config_path is not None:
        # Hydra would look beside this file.
        flags += ["--config-path", str(folders[0])]
    if args.config_dir is not None:
        folders.append(_folder("--config-dir", args.config_dir, CONFIG_DIR))
    config_name = (args.config_name or config_name).removesuffix(".yaml")

    multirun = args.multirun or any(text.lstrip("+") == "hydra.mode=MULTIRUN" for text in args.overrides)
    groups = _Groups(folders)
    overrides, notes = _rewrite(args.overrides, groups, multirun=multirun)
    inspects = bool(args.cfg or args.info or args.help)
    if args.resolve and not (args.cfg or args.help):
        raise UserError("--resolve prints nothing by itself: use it with --cfg job")
    if sum(map(bool, (args.run, args.multirun, args.cfg, args.info))) > 1:
        raise UserError("only one of --run, --multirun, --cfg and --info can be given")
    first = _first_choices(overrides)
    raw = _compose(config_name, first, folders)
    # Resolvers such as ${hydra:job.num} have a value inside the job only.
    if not any("${hydra:" in text for text in first):
        _to_config(raw, require_data=not inspects)
        if multirun:
            _refuse_shared_folders(config_name, overrides, folders, raw)
    header = (sys.modules["__main__"].__doc__ or "") if args.help else ""
    choices = {group: names for group, names in groups.choices.items() if group != "grid"}  # of scripts/run_grid.py
    text = hydra_help(TrainConfig, header, choices) if args.help else None
    return CommandLine([*flags, *overrides], overrides, notes, text)


def _folder(flag: str, given: str | None, default: Path) -> Path:
    if given is None:
        return default
    for folder in (Path(given), default.parent / given):
        if os.path.isdir(folder):
            return folder.resolve()
    raise UserError(f"{flag} {given}: no such folder")


def _rewrite(texts: Sequence[str], groups: _Groups, *, multirun: bool) -> tuple[list[str], list[str]]:
    """Check each override and bring it to the form that Hydra accepts. Returns (overrides, notes)."""
    valid = schema_keys(TrainConfig)
    parsed = [_parse(text) for text in texts]
    rewritten: list[str] = []
    for text, override in zip(texts, parsed, strict=True):
        key = override.key_or_group
        if override.is_sweep_override() and not multirun:
            raise UserError(f"'{text}' lists several values: add -m for one run each, or quote: '{key}=\"...\"'")
        if key.startswith(("hydra.", "hydra/")):
            rewritten.append(text)
        elif override.package is not None:
            raise UserError(f"'{text}': no option takes a package ('@'); {HELP}")
        elif key in groups.choices:
            rewritten.append(_group_override(override, groups))
        elif (name := todays_name(key, valid)) is not None and override.type != OverrideType.DEL:
            _refuse_another(override, [other for other in parsed if other.key_or_group == name])
            rewritten.append(f"++{name}={override.get_value_string()}")
            if key not in valid:  # an experiment's file may have the older name, and is overridden too
                rewritten.append(f"++{key}=${{{name}}}")
        elif key not in valid:
            nearest = nearest_key(key, [*groups.choices, *valid])
            raise UserError(f"unknown option '{key}' in '{text}': the nearest valid key is '{nearest}'; {HELP}")
        elif override.type == OverrideType.DEL:
            rewritten.append(text)
        else:
            if multirun and key in ("run_name", "checkpoint_path") and not override.is_sweep_override():
                if "${" not in text:
                    example = f"'{key}=name-${{seed}}'"
                    raise UserError(
                        f"'{text}' would put every run of a sweep in one folder: leave it out, or {example}"
                    )
            rewritten.append(f"++{key}={override.get_value_string()}")
    notes = []
    given = {override.key_or_group for override in parsed if override.type != OverrideType.DEL}
    alias = next((o for o in parsed if o.key_or_group == "data_path" and not o.is_delete()), None)
    if alias is not None and alias.value() is not None:
        if "data_paths" not in given:
            # Not the value itself: so a preset's data_paths is replaced, and a sweep over data_path works.
            rewritten.append("++data_paths=['${data_path}']")
        if not given & {"arch", "arch.name", "experiment"}:
            rewritten.append("arch=hrm_v1")
            notes.append("data_path without an architecture: arch=hrm_v1, as in the HRM code (TRM: add arch=trm)")
    return rewritten, notes


def _refuse_another(older: Override, today: Sequence[Override]) -> None:
    """Refuse an override of an older name beside one of today's with another value."""
    for other in today:
        if older.get_value_string() != other.get_value_string() and other.type != OverrideType.DEL:
            refuse_difference(older.key_or_group, older.value(), other.key_or_group, other.value())


def _parse(text: str) -> Override:
    refuse_undecoded(text)
    key, equals, value = text.partition("=")
    key = key.strip("+~ ")
    try:
        override = OverridesParser.create().parse_overrides([text])[0]
    except _COMPOSE_ERRORS:
        override = None
    if override is not None and override.key_or_group:
        return override
    if equals and key:
        raise UserError(f"cannot read '{text}': a value with special characters is quoted, {key}='\"{value}\"'")
    example = f"'{nearest_key(key, schema_keys(TrainConfig))}=VALUE'" if key else "'lr=1e-4'"
    raise UserError(f"cannot read '{text}': expected key=value such as {example}; {HELP}")


def _group_override(override: Override, groups: _Groups) -> str:
    group = override.key_or_group
    if override.type == OverrideType.DEL:
        raise UserError(f"'{override.input_line}': {group} cannot be removed, only chosen")
    value = override.value()
    if override.is_sweep_override():
        if override.is_choice_sweep() and hasattr(value, "list"):
            for choice in override.sweep_iterator():
                groups.check(group, getattr(choice, "text", choice))
    else:
        groups.check(group, value)
    # experiment has no default to change, so Hydra wants a + there, and none before the others.
    plus = "+" if group == "experiment" else ""
    return f"{plus}{group}={override.get_value_string()}"


def _first_choices(texts: Sequence[str]) -> list[str]:
    """The overrides of a sweep's first run; kinds whose values only Hydra knows are left out."""
    first = []
    for text in texts:
        override = _parse(text)
        if not override.is_sweep_override():
            first.append(text)
            continue
        try:
            first.append(f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}")
        except (HydraException, StopIteration):
            continue
    return first


def _refuse_shared_folders(
    config_name: str, overrides: Sequence[str], folders: Sequence[Path], first: DictConfig
) -> None:
    """Errors: `UserError` where two runs of a sweep that is named have one folder: the second would replace the first.

    first: the settings of the first run. Names that the suite gives differ by themselves.
    """
    key = next((key for key in ("checkpoint_path", "run_name") if first.get(key) is not None), None)
    if key is None:
        return
    try:
        choices = [
            [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
            if override.is_sweep_override()
            else [text]
            for text, override in zip(overrides, map(_parse, overrides), strict=True)
        ]
    except HydraException:  # of a kind whose values only Hydra knows
        return
    swept_in: dict[str, list[str]] = {}
    for run in itertools.product(*choices):
        config = _to_config(_compose(config_name, run, folders), require_data=False)
        swept = [text.lstrip("+") for text, values in zip(run, choices, strict=True) if len(values) > 1]
        other = swept_in.setdefault(os.path.abspath(str(config.checkpoint_path)), swept)
        if other != swept:
            raise UserError(
                f"{config.checkpoint_path} would hold two runs of this sweep, {' '.join(other)} and {' '.join(swept)}: "
                f"name all that is swept in {key}, as in '{key}=name-${{seed}}-${{lr}}', or leave it out"
            )


def _compose(config_name: str, overrides: Sequence[str], folders: Sequence[Path]) -> DictConfig:
    # Only the first folder is searched for the primary config.
    ordered = sorted(folders, key=lambda folder: not os.path.isfile(folder / f"{config_name}.yaml"))
    extra = [f"hydra.searchpath=['file://{folder}']" for folder in ordered[1:]]
    try:
        with initialize_config_dir(config_dir=str(ordered[0]), version_base=None):
            return compose(config_name=config_name, overrides=[*extra, *overrides])
    except _COMPOSE_ERRORS as error:
        message = _one_line(error)
        if match := re.match(r"Could not override '(\w+)'\. No match in the defaults list", message):
            message = f"'{match[1]}=' needs an experiment whose file names a {match[1]}, such as +experiment=quickstart"
        raise UserError(f"the settings do not compose: {message}") from None


def _to_config(raw: DictConfig, *, require_data: bool = True) -> TrainConfig:
    try:
        plain = OmegaConf.to_container(raw, resolve=True)
    except _COMPOSE_ERRORS as error:
        raise UserError(f"the settings do not resolve: {_one_line(error)}") from None
    assert isinstance(plain, dict)
    return resolve({str(key): value for key, value in plain.items()}, require_data=require_data)


def _named_in_sweep(config: TrainConfig, raw: DictConfig, given: Sequence[str]) -> TrainConfig:
    """The run of a sweep (-m) in a folder that names its overrides, unless it is named or has a folder of before.

    A folder of the default name is this run's only where it was made with the same values of all that is swept:
    settings that only control a run leave its name alone, and several of a sweep would meet there. given: the command
    line's overrides. Outside of a sweep nothing changes.
    """
    job = HydraConfig.get()
    if job.mode != RunMode.MULTIRUN or raw.get("run_name") is not None or raw.get("checkpoint_path") is not None:
        return config
    fixed = {override.key_or_group for override in map(_parse, given) if not override.is_sweep_override()}
    overrides = {override.key_or_group: override.get_value_string() for override in map(_parse, job.overrides.task)}
    swept = {key: value for key, value in overrides.items() if key not in fixed}
    if not swept:
        return config
    name = sweep_run_name(config, swept)
    default = Path(str(config.checkpoint_path))
    named = default.with_name(name)
    if default.exists() and not named.exists() and _made_with(default / ALL_CONFIG, config, swept):
        return config
    return replace(config, run_name=name, checkpoint_path=str(named))


def _made_with(path: Path, config: TrainConfig, swept: Collection[str]) -> bool:
    """Whether a run's settings file says the values of `config` for what is swept; of a group, for all settings."""
    try:
        before = load_config_file(path)
    except UserError:
        return False
    values = {s.key: value_of(config, s.key) for s in settings_of(type(config)) if not s.is_section}
    own = ("run_name", "checkpoint_path")
    keys = swept if values.keys() >= set(swept) else [key for key in values if key not in own]
    return all(value_of(before, key) == values[key] for key in keys)


def compose_config(overrides: Sequence[str], *, require_data: bool = True) -> TrainConfig:
    """The `TrainConfig` that the overrides of a `pretrain.py` command line stand for."""
    rewritten, _ = _rewrite(overrides, _Groups([CONFIG_DIR]), multirun=False)
    return _to_config(_compose("cfg_pretrain", rewritten, [CONFIG_DIR]), require_data=require_data)


@exit_on_user_error
def hydra_entry(config_name: str, fn: Callable[[TrainConfig], None]) -> None:
    """Run `fn` on the config that `sys.argv` and `config/<config_name>.yaml` describe; in a sweep, on each.

    Works from any folder and under torchrun. A `UserError`, in the command line or out of `fn`, becomes one
    line on stderr and exit code 2; any other exception of `fn` keeps its traceback.
    """
    command = check_command_line(sys.argv[1:], config_name)
    if os.environ.get("RANK", "0") == "0":
        # On stderr where stdout is the composed yaml that was asked for.
        stream = sys.stderr if "--cfg" in command.argv or "-c" in command.argv else sys.stdout
        for note in command.notes:
            say(note, file=stream, flush=True)
    if command.help is not None:
        keep_help(f"{command.help}\n")
        say(*command.help.split("\n"))
        sys.exit(0)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    entered = False

    @exit_on_user_error  # in here, as Hydra would put a line of its own before the error
    def task(raw: DictConfig) -> None:
        nonlocal entered
        config = _named_in_sweep(_to_config(raw), raw, command.overrides)
        entered = True
        fn(config)
        entered = False

    program = sys.argv
    sys.argv = [program[0], *command.argv]
    try:
        hydra_main(version_base=None, config_path=str(CONFIG_DIR), config_name=config_name)(task)()
    except _COMPOSE_ERRORS as error:
        if entered:
            raise
        if isinstance(error, BrokenPipeError):  # `--help | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        raise UserError(f"the settings do not compose: {_one_line(error)}") from None
    finally:
        sys.argv = program


def hydra_help(schema: type, header: str, groups: Mapping[str, Sequence[str]]) -> str:
    """What `--help` of a Hydra script prints: all of its settings, and the choices of each group."""
    choices = [
        line
        for group, names in groups.items()
        for line in textwrap.wrap(
            ", ".join(dict.fromkeys(names)),
            120,
            initial_indent=f"  {'+' if group == 'experiment' else ''}{group}=  ",
            subsequent_indent="      ",
            break_on_hyphens=False,
        )
    ]
    title = "settings (key=value; an experiment sets many at once, and those that are given win):"
    sections = [setting.key for setting in settings_of(schema) if setting.is_section]
    return "\n".join(
        [header.strip(), "", "choices (group=name):", *choices, "", title, *setting_lines(schema), ""]
        + [f"sections: {', '.join(sections)}. Composed settings: --cfg job. Hydra's own flags: --hydra-help."]
    )
