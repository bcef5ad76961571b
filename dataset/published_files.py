"""Files that builders read: as given, folders of published sets, Hugging Face."""

import os
from pathlib import Path

from dataset.safe_files import file_size
from errors import UserError, say

ROOT = Path(__file__).resolve().parents[1]


def resolve_input(name: str) -> Path:
    """The file as given, else below the project's root (so that `dataset/raw/…` works anywhere)."""
    path = Path(os.path.expanduser(name))
    if not os.path.exists(path) and not path.is_absolute() and os.path.exists(ROOT / path):
        return ROOT / path
    file_size(path, "give an existing file to --input-file")
    return path


def refuse_shared_names(files: list[Path]) -> None:
    """A data set says what it was made of by the names of files. Errors: `UserError` where two have one."""
    by_name: dict[str, Path] = {}
    for path in files:
        other = by_name.setdefault(path.name, path)
        if other is not path:
            raise UserError(
                f"--input-file: {other} and {path} have one name, by which {path.name!r} could be either where the "
                "data set says what it was made of; rename one"
            )


def published_files(folder: Path) -> tuple[Path, Path]:
    """train.csv and test.csv (or .csv.gz) in a folder."""
    paths = []
    for name in ("train.csv", "test.csv"):
        candidates = [folder / name, folder / f"{name}.gz"]
        existing = [path for path in candidates if os.path.isfile(path)]
        if not existing:
            raise UserError(f"{candidates[0]}: no such file; --input-dir expects train.csv and test.csv")
        paths.append(existing[0])
    return paths[0], paths[1]


def fetch_published(repo: str, without: str) -> tuple[Path, Path]:
    """train.csv and test.csv of a Hugging Face data set, from its cache or the network.

    Args:
        without: options of the builder that need no network.
    Errors: `UserError` that says which files to place by hand when they cannot be had.
    """
    by_hand = (
        f"download train.csv and test.csv of https://huggingface.co/datasets/{repo} by hand into a folder "
        f"and pass --input-dir FOLDER, or {without}"
    )
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub import logging as hub_logging
    except ImportError as error:
        raise UserError(f"{repo}: huggingface_hub is not installed; {by_hand}") from error
    hub_logging.set_verbosity_error()  # its warnings about retries; the outcome is reported below
    say(f"fetching {repo} (without a network this gives up within a minute)", flush=True)
    try:
        train, test = (Path(hf_hub_download(repo, name, repo_type="dataset")) for name in ("train.csv", "test.csv"))
    # The client raises its own errors, its HTTP library's and plain OSError, which all mean the same to a user.
    except Exception as error:
        raise UserError(f"{repo}: could not be fetched ({type(error).__name__}, no network?); {by_hand}") from error
    return train, test
