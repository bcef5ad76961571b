"""Errors that are the user's to mend: one clear line, exit code 2, nothing lost."""

import errno
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import TextIOWrapper
from types import TracebackType
from typing import NoReturn, ParamSpec, TextIO, TypeVar

from files import UnusableFile
from help_texts import answer_help

P = ParamSpec("P")
R = TypeVar("R")


# What modules import, matplotlib and scipy only where they are used. wandb and huggingface_hub only where asked for.
PACKAGES = ("torch", "numpy", "hydra", "omegaconf", "yaml", "einops", "tqdm", "matplotlib", "scipy", "safetensors")
MAX_MESSAGE = 2000
_READER_LEFT = 141  # what a shell reports for a command that SIGPIPE ended
_INTERRUPTED = 130  # likewise of one that SIGINT ended
_KEPT_END = 400  # the command that mends it stands at the end
# What a disk or a name may refuse at any line that touches a file: no fault of the program, wherever it is met.
_OF_THE_MACHINE = (
    dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space and give the same command again")
    | dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "mend its permissions, or name another")
    | dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR), "name another")
    | dict.fromkeys((errno.EIO, errno.ESTALE), "the disk fails; name a place on another")
)


def printable(text: str) -> str:
    """The text with every character that would move the cursor or reverse the text written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def say(*lines: str, file: TextIO | None = None, flush: bool = False) -> None:
    """Print lines, `printable` each: names of files, settings and numbers of others may stand in them.

    file: standard output where none is given.
    """
    print("\n".join(map(printable, lines)), file=file, flush=flush)


class UserError(Exception):
    """Bad input. The message is one line: what was found, what was expected, what command mends it.

    What was found may come from a hostile file: characters that would move the cursor or reverse the text are
    written as escapes, and a message of more than `MAX_MESSAGE` characters loses its middle.
    """

    def __init__(self, message: str) -> None:
        text = printable(" ".join(str(message).split()))
        if len(text) > MAX_MESSAGE:
            text = f"{text[: MAX_MESSAGE - _KEPT_END - 5]} ... {text[-_KEPT_END:]}"
        super().__init__(text)


@contextmanager
def writing(path: object, mend: str) -> Iterator[None]:
    """Write to `path` within. Errors: `UserError` that ends with `mend` where the disk refuses."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}; {mend}") from error


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("\ninterrupted", file=sys.stderr)
        sys.exit(_INTERRUPTED)  # else Python ends itself by the signal, which a shell loop takes for a crash
    else:
        sys.__excepthook__(kind, error, trace)


def require_packages() -> None:
    """End the program with one line and exit code 2 where this Python lacks packages of requirements.txt.

    Where help is all that was asked for and is known, print it and end: that needs none of them.

    Runnable files call it before their other imports, which would end in a traceback instead; they take seconds, and a
    Ctrl-C meanwhile is a line from here on. Figures are files, whatever `MPLBACKEND` asks for: `matplotlib` refuses a
    name that it does not know as it is imported.
    """
    os.environ["MPLBACKEND"] = "Agg"
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _told
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        print(
            f"error: {sys.executable or 'this Python'} lacks {', '.join(missing)}; use the suite's environment: "
            "source .venv/bin/activate (bash scripts/quickstart.sh makes it), or pip install -r requirements.txt",
            file=sys.stderr,
        )
        sys.exit(2)
    if sys.argv[1:] in (["--help"], ["-h"]):
        exit_on_user_error(answer_help)()


def exit_on_user_error(main: Callable[P, R]) -> Callable[P, R]:
    """Decorate an entry point: a `UserError` becomes one line on stderr and exit code 2."""

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        if isinstance(sys.stdout, TextIOWrapper):  # of a terminal that lacks a character: an escape, no traceback
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return main(*args, **kwargs)
        except UserError as error:
            _end(str(error))
        except UnusableFile as error:
            _end(f"{error.path}: {error}")
        except KeyboardInterrupt as stop:
            if main.__module__ == "__main__":  # a second one while Python takes itself down would be a traceback
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            say("", str(stop) or "interrupted", file=sys.stderr)
            sys.exit(_INTERRUPTED)
        except BrokenPipeError:
            # The reader of our output (`| head`) has left: no fault, and nobody to tell. What Python still
            # holds back goes nowhere, or its exit would complain again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(_READER_LEFT)
        except OSError as error:
            if error.errno not in _OF_THE_MACHINE:
                raise
            where = f"{error.filename}: " if error.filename else ""
            _end(f"{where}{error.strerror}; {_OF_THE_MACHINE[error.errno]}")

    return wrapped


def _end(message: str) -> NoReturn:
    say(f"error: {UserError(message)}", file=sys.stderr)
    sys.exit(2)
