"""What `--help` of an entry script printed, kept, so that the next one needs no import of torch.

The texts are made from the parsers and the schema, whose modules take seconds to import. A kept one lies beside the
script's bytecode, and is given only where nothing has changed that it could be made from: every module and every
config file of the suite, Python, and the terminal. What is damaged, or cannot be read or written, is made anew.
"""

import hashlib
import os
import shutil
import sys
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path

from files import bounded_bytes, open_new, temporary_for

ROOT = Path(__file__).resolve().parent
_MAX_BYTES = 1 << 20
# argparse breaks lines at the terminal's width; a later Python colours, and looks for translations.
_OF_THE_TERMINAL = ("COLUMNS", "FORCE_COLOR", "LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES",
                    "NO_COLOR", "PYTHON_COLORS", "TERM")  # fmt: skip
_asked: tuple[Path, bytes] | None = None  # where the text belongs, and what it depends on


def answer_help() -> None:
    """Print the kept text and end the program. Where there is none, return: `keep_help` keeps what is printed then.

    Only for the script that was started (`__main__`), and for `--help` as its one argument.
    """
    global _asked
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is None or not Path(script).resolve().is_relative_to(ROOT):
        return
    with suppress(OSError, NotImplementedError):  # the latter: a Python that keeps no bytecode
        place = Path(cache_from_source(str(Path(script).resolve()))).with_suffix(".help")
        _asked = (place, _origin())
        kept = bounded_bytes(place, _MAX_BYTES)
        text = kept[hashlib.sha256().digest_size :]
        if kept == _sealed(_asked[1], text):
            print(text.decode(), end="")
            sys.exit(0)


def keep_help(text: str) -> None:
    """Keep what a script prints for `--help`, if that is what it was started for and its origin is still the same."""
    if _asked is None:
        return
    place, origin = _asked
    with suppress(OSError):
        if _origin() == origin:
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = temporary_for(place)
            try:
                with open_new(temporary) as file:
                    file.write(_sealed(origin, text.encode()))
                os.replace(temporary, place)
            finally:
                temporary.unlink(missing_ok=True)


def _sealed(origin: bytes, text: bytes) -> bytes:
    """The text behind a digest of itself and of what it was made from."""
    return hashlib.sha256(origin + text).digest() + text


def _origin() -> bytes:
    """Digest of all that a help text can depend on. Errors: `OSError`."""
    terminal = [os.environ.get(name) for name in _OF_THE_TERMINAL]
    circumstances = (sys.version, sys.argv, shutil.get_terminal_size(), sys.stdout.isatty(), terminal)
    digest = hashlib.sha256(repr(circumstances).encode())
    for path in _sources():
        content = bounded_bytes(path, _MAX_BYTES)
        digest.update(f"{path.relative_to(ROOT)}\0{len(content)}\0".encode() + content)
    return digest.digest()


def _sources() -> list[Path]:
    """The suite's modules and config files, in order."""
    folders = [path.parent for path in ROOT.glob("*/__init__.py")] + [ROOT / "config"]
    inside = [Path(place, name) for folder in folders for place, _, names in os.walk(folder) for name in names]
    return sorted(path for path in [*ROOT.glob("*.py"), *inside] if path.suffix in (".py", ".yaml"))
