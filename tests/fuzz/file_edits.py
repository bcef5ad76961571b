"""Something else where a file should be: a folder, a link, a pipe, a device, nothing."""

import os
from pathlib import Path
from random import Random


def misplace(rng: Random, path: Path, changes: list[str]) -> bool:
    """Replace `path`; True when its content can still be reached, so that reading it is right."""
    data = path.read_bytes()
    path.unlink()
    kind = rng.choice(
        [
            "missing",
            "folder",
            "empty",
            "loop",
            "dangling",
            "link",
            "pipe",
            "zero device",
            "null device",
            "tree",
        ]
    )
    changes.append(f"{kind} in place of {path.name}")
    if kind == "folder":
        path.mkdir()
    elif kind == "tree":
        (path / path.name).mkdir(parents=True)
    elif kind == "empty":
        path.touch()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "link":
        aside = path.with_name(f"aside-{path.name}")
        aside.write_bytes(data)
        path.symlink_to(aside.name)
        return True
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "zero device":
        path.symlink_to("/dev/zero")
    elif kind == "null device":
        path.symlink_to("/dev/null")
    return False


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write relative paths and contents below `folder`."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
