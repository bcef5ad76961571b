"""A payload that would run, if a reader let it, and the proof that none did."""

import pickle
from collections.abc import Callable
from pathlib import Path
from random import Random

FILE = "executed"
_flag: list[str] = []


def sing(word: str = "called") -> str:
    """What payloads call. A reader that imports or calls anything named by a file ends up here."""
    _flag.append(word)
    return word


def reset(folder: Path) -> None:
    """Silence before a case."""
    _flag.clear()
    (folder / FILE).unlink(missing_ok=True)


def executed(folder: Path) -> bool:
    """Whether a payload ran since `reset`."""
    return bool(_flag) or (folder / FILE).exists()


class _Call:
    """Pickles as the call of a function."""

    def __init__(self, function: str, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return _callable(self.function), self.arguments


def _callable(name: str) -> Callable[..., object]:
    import builtins
    import os

    table: dict[str, Callable[..., object]] = {
        "system": os.system,
        "mkdir": os.mkdir,
        "exec": builtins.exec,
        "eval": builtins.eval,
        "open": builtins.open,
        "sing": sing,
        "getattr": builtins.getattr,
        "import": __import__,
    }
    return table[name]


def pickled_call(rng: Random, folder: Path) -> tuple[str, object]:
    """An object whose unpickling calls something, and what it calls."""
    path = str(folder / FILE)
    choices: list[tuple[str, object]] = [
        ("os.system", _Call("system", f"touch '{path}'")),
        ("os.mkdir", _Call("mkdir", path)),
        ("builtins.exec", _Call("exec", f"open({path!r}, 'w').close()")),
        ("builtins.eval", _Call("eval", f"open({path!r}, 'w')")),
        ("builtins.open", _Call("open", path, "w")),
        ("a project function", _Call("sing", "pickle")),
        ("builtins.getattr", _Call("getattr", _Call("import", "os"), "system")),
    ]
    return rng.choice(choices)


def pickle_bytes(rng: Random, folder: Path) -> tuple[str, bytes]:
    """A pickle that calls something, bare or inside a container."""
    name, call = pickled_call(rng, folder)
    value = rng.choice([call, {"weights": call}, [call], {"format": "rrs-state", "version": 1, "model": call}])
    return name, pickle.dumps(value, protocol=rng.choice([0, 2, 4]))
