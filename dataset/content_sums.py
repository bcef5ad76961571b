"""SHA-256 sums of data that carry none, as folders of the official builders: a run keeps them with its states.

Where `dataset.json` has sums the bytes have been compared with them already (`dataset.puzzle_folder`), and a run's
identity knows those. Of other folders that knows sizes and ends only (`fingerprint`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from dataset.puzzle_folder import STORED_ARRAYS, PuzzleSet, fingerprint
from errors import UserError, say
from files import file_sha256, regular_size

# SHA-256 takes 1 to 2 s for a gigabyte on one core (BLAKE2b longer, where the CPU has instructions for the first), and
# what a run trains on is read whole: nothing is left out, but this much is said first.
SAID_BYTES = 4 << 30


def content_sums(sets: Iterable[PuzzleSet]) -> dict[str, tuple[Path, str]]:
    """Every array of the splits of sets without sums: a name that stays where folders move -> path and SHA-256.

    The name is the split's `fingerprint`, which of those folders that have the same one, and the file's.
    Errors: `UnusableFile`.
    """
    splits = dict.fromkeys((one.folder, one.split) for one in sets if not one.metadata.extra.get("sha256"))
    paths: dict[str, Path] = {}
    alike = Counter[str]()
    for folder, split in splits:
        known_as = fingerprint(folder, split)
        alike[known_as] += 1
        for name in (f"{one}__{array}.npy" for one in folder.metadata(split).sets for array in STORED_ARRAYS):
            if (path := folder.root / split / name).exists():
                paths[f"{known_as}.{alike[known_as]}/{name}"] = path
    size = sum(map(regular_size, paths.values()))
    if size > SAID_BYTES:
        say(f"reading {size / 1e9:.1f} GB of data without sums, to know them when the run goes on ...", flush=True)
    return {name: (path, file_sha256(path)) for name, path in paths.items()}


def refuse_other_content(
    saved: Mapping[str, str], now: Mapping[str, tuple[Path, str]], source: Path | str, way_out: str
) -> None:
    """Errors: `UserError` naming the first array that has other bytes now than when `source` was saved."""
    for name, (path, sha256) in now.items():
        if saved.get(name, sha256) != sha256:
            raise UserError(
                f"{path} has other bytes than when {source} was saved (SHA-256 differs): put the earlier file back, or "
                f"{way_out}"
            )
