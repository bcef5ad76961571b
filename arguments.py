"""Command lines of scripts that take flags: help as it is written, mistakes in one line that names the nearest flag."""

import argparse
import difflib
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from errors import UserError, say
from help_texts import keep_help

_KEY_VALUE = re.compile(r"(\+{0,2}[A-Za-z_][\w.-]*)=")


_OF_PLACES = ("DIR", "FILE", "NAME")  # metavars


def _place(text: str, *, kind: Callable[[str], Any]) -> Any:
    if not text.strip():  # Path("") is the present folder, and an empty default is another one
        raise argparse.ArgumentTypeError("found an empty text, expected a path or a name")
    return kind(text)


class _Store(argparse.Action):
    """Keeps a value; of a flag with several values that is given twice, those of both."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        assert isinstance(parser, FlagParser)
        if option_string is not None and self.dest in parser.given:
            before = parser.given[self.dest]
            if isinstance(values, list):
                values = [*before, *values]
            elif values != before:
                warn_of_two(option_string, before, values)
        parser.given[self.dest] = values
        setattr(namespace, self.dest, values)


def warn_of_two(name: str, first: object, second: object) -> None:
    """Say that something is given twice, of which the later counts."""
    say(f"warning: {name} is given twice, as {first} and as {second}: the later counts", file=sys.stderr)


class FlagParser(argparse.ArgumentParser):
    """Flags are written out in full, help is printed as it is written. A mistake raises `UserError`.

    `--data A --data B` is `--data A B` where a flag takes several values. `--num_aug` is taken for `--num-aug`, as
    official scripts write it. An empty text names no file or folder.

    Args:
        help_command: what lists the flags, without `--help`; default: as the script was started.
    """

    def __init__(self, program: str | None = None, *, help_command: str | None = None, **options: Any) -> None:
        super().__init__(program, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        self.register("action", None, _Store)
        self.given: dict[str, Any] = {}  # by flags of the words that are being parsed
        self.help_command = help_command or f"python {os.path.relpath(sys.argv[0]) if sys.argv[0] else '-m'}"

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Errors: `UserError` for a flag that there is not, before one that is missing."""
        for action in self._actions:
            if action.type is Path or (action.type is None and action.metavar in _OF_PLACES):
                action.type = partial(_place, kind=action.type or str)
        words, self.given = [self._spelled(word) for word in (sys.argv[1:] if args is None else args)], {}
        self._refuse_key_values(words)
        words_of_flags = words[: words.index("--") if "--" in words else None]
        for word, following in pairwise([*words_of_flags, ""]):
            self._refuse_truth(word, following)
        for word in words_of_flags:
            flag = word.partition("=")[0]
            # As argparse has it, words with a space in them are a value: --args "--epochs 3".
            if flag.startswith("--") and " " not in flag and flag not in self._option_string_actions:
                self.error(f"unknown flag {flag!r}{self._nearest(flag)}")
        parsed, unknown = self.parse_known_args(words, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {shlex.join(unknown)}")
        return parsed

    def print_help(self, file: Any = None) -> None:
        keep_help(self.format_help())
        super().print_help(file)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.help_command} --help lists the flags")

    def _spelled(self, word: str) -> str:
        flag, equals, value = word.partition("=")
        hyphenated = flag.replace("_", "-")
        known = self._option_string_actions
        return hyphenated + equals + value if flag not in known and hyphenated in known else word

    def _refuse_key_values(self, words: Sequence[str]) -> None:
        """`seed=3`, as other scripts have it, is answered with the flag; a flag may take such texts as its own."""
        takes_texts = False
        for word in words:
            if word == "--":
                return
            if word.startswith("-"):
                action = self._option_string_actions.get(word.partition("=")[0])
                takes_texts = action is not None and "=" in str(action.metavar)
            elif (match := _KEY_VALUE.match(word)) and not takes_texts:
                flag = "--" + match[1].lstrip("+").replace("_", "-")
                if flag in self._option_string_actions:
                    raise UserError(f"{word!r} is written {flag} {shlex.quote(word[match.end() :])} here")

    def _refuse_truth(self, word: str, following: str) -> None:
        """`--aug true`, as settings are written, is answered with the flag that says so by itself."""
        flag, equals, value = word.partition("=")
        action = self._option_string_actions.get(flag)
        said = (value if equals else following).lower()
        if action is None or action.nargs != 0 or said not in ("true", "false"):
            return
        found = word if equals else f"{word} {following}"
        negative = next((name for name in action.option_strings if name.startswith("--no-")), None)
        if said == "true":
            raise UserError(f"{found!r} is written {flag} here, without a value")
        raise UserError(f"{found!r} is written {negative} here" if negative else f"{found!r}: leave {flag} out instead")

    def _nearest(self, flag: str) -> str:
        flags = [name for name in self._option_string_actions if name.startswith("--")]
        return f", the nearest is {nearest_key(flag, flags)}" if flags else ""


def nearest_key(key: str, valid: Iterable[str]) -> str:
    """The valid dotted key most like `key`; a key with the same last part (`hidden_size`) wins."""
    names = list(valid)
    leaf = _leaf(key)
    same_leaf = [name for name in names if _leaf(name) == leaf]
    if same_leaf:
        return max(same_leaf, key=lambda name: _likeness(key, name))
    by_whole = max(names, key=lambda name: _likeness(key, name))
    by_leaf = max(names, key=lambda name: _likeness(leaf, _leaf(name)))
    return by_leaf if _likeness(leaf, _leaf(by_leaf)) > _likeness(key, by_whole) else by_whole


def _leaf(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def _likeness(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a.lower()[:200], b.lower()).ratio()
