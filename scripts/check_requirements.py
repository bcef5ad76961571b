"""Say which pinned requirements the running Python lacks: one line each, exit code 1 when there are any.

    python scripts/check_requirements.py requirements.txt [--any-version]

Needs nothing but the standard library, so that it can run before anything is installed.
"""

import argparse
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9._+!-]+)")


def pins(path: Path) -> list[tuple[str, str]]:
    """(name, version) of every `name==version` line, those of `-r other.txt` included."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split("#")[0].split()
        if len(words) == 2 and words[0] == "-r":
            found += pins(path.parent / words[1])
        elif len(words) == 1 and (match := _PIN.fullmatch(words[0])):
            found.append((match[1], match[2]))
        elif words:
            raise ValueError(f"{path}: {line!r} is no pin; expected name==version or -r FILE")
    return found


def unmet(path: Path, *, any_version: bool = False) -> list[str]:
    """`numpy==2.4.6 (found 2.5.2)` for each pin that is not met. A local build tag (`+cpu`) is no difference."""
    missing = []
    for name, wanted in pins(path):
        try:
            found = version(name)
        except PackageNotFoundError:
            missing.append(f"{name}=={wanted} (not installed)")
            continue
        if not any_version and found.split("+")[0] != wanted:
            missing.append(f"{name}=={wanted} (found {found})")
    return missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="REQUIREMENTS")
    parser.add_argument("--any-version", action="store_true", help="only ask whether the packages are there")
    options = parser.parse_args()
    missing = unmet(options.file, any_version=options.any_version)
    print("\n".join(missing), end="\n" if missing else "")
    sys.exit(1 if missing else 0)


if __name__ == "__main__":
    main()
