"""Errors that are the user's to mend: one clear line, exit code 2, nothing lost."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class UserError(Exception):
    """Bad input. The message is one line: what was found, what was expected, what command mends it."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


def exit_on_user_error(main: Callable[P, R]) -> Callable[P, R]:
    """Decorate an entry point: a `UserError` becomes one line on stderr and exit code 2."""

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return main(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    return wrapped
