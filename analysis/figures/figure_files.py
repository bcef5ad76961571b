"""How every figure is drawn and saved: one style, three formats without dates, the numbers beside the picture."""

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from analysis.figures.kept_edits import put
from dataset.plain_data import json_bytes
from errors import UserError, say, writing
from training.storage.atomic_file import write_bytes_atomically


class _ModuleWhenUsed(ModuleType):
    """A module of matplotlib, imported when an attribute of it is asked for: it takes half as long as torch."""

    def __getattr__(self, name: str) -> Any:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot  # brings matplotlib.ticker and the others below

        return getattr(sys.modules[self.__name__], name)


# What draws takes these three from here.
if TYPE_CHECKING:
    import matplotlib.lines
    import matplotlib.patches
    import matplotlib.pyplot as plt
    import matplotlib.ticker
    import matplotlib.transforms
    from matplotlib.figure import Figure
else:
    matplotlib, plt = _ModuleWhenUsed("matplotlib"), _ModuleWhenUsed("matplotlib.pyplot")
    Figure = Any  # stands in annotations only

# After Okabe and Ito (2008), green and red darkened: they differ in lightness too, and are read as text.
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#007F5F", "#B3261E", "#CC79A7", "#7F7F7F"

STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 100,
    "font.size": 10,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "pdf.fonttype": 42,
    "savefig.dpi": 160,
    "svg.fonttype": "none",
    "svg.hashsalt": "recursive-reasoning",
}
# Dates and versions would make equal pictures differ in their bytes.
_NO_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}


def share_axis(axes: Any, *, whole: bool = False) -> None:
    """The y axis of shares, in percent, without room below 0 and above 100 %; to be called when all is drawn.

    whole: from 0 to 100 %, whatever is drawn. Lines and markers on an end are not cut in half.
    """
    low, high = (0.0, 1.0) if whole else axes.get_ylim()
    axes.set_ylim(max(low, 0.0), min(high, 1.0))
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    for line in axes.lines:
        line.set_clip_on(False)
        line.set_in_layout(False)  # an unclipped line takes room, even one without points


def save_figure(
    figure: Figure, stem: Path, formats: Sequence[str] = ("png", "pdf", "svg"), *, generated: bool = False
) -> list[Path]:
    """Write `<stem>.<format>` for each format; the same figure gives the same bytes. Errors: `UserError`.

    generated: nobody edits it, whatever is there is replaced.
    """
    paths = []
    for kind in formats:
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(buffer, format=kind, metadata=_NO_METADATA[kind], bbox_inches="tight")
        paths.append(_write(stem.with_name(f"{stem.name}.{kind}"), buffer.getvalue(), generated))
    return paths


def save_picture(
    figure: Figure,
    stem: Path,
    *,
    caption: str,
    rows: Sequence[Mapping[str, Any]] | None = None,
    numbers: Any = None,
    formats: Sequence[str] = ("png", "pdf", "svg"),
    generated: bool = False,
) -> str:
    """Write a figure with all that belongs to it, and close it. Errors: `UserError`.

    Args:
        caption: `<stem>.txt`. rows: what is drawn, `<stem>.csv`. numbers: `<stem>.json`.
        generated: as `save_figure` has it, of the caption too.
    Returns:
        The files in words: `DIR/curve.png (also .pdf .svg .csv .json .txt)`.
    """
    first, *others = save_figure(figure, stem, formats, generated=generated)
    plt.close(figure)
    written = [path.suffix for path in others]
    if rows is not None:
        written.append(save_csv(rows, stem.with_suffix(".csv")).suffix)
    if numbers is not None:
        written.append(save_json(numbers, stem.with_suffix(".json")).suffix)
    written.append(save_caption(caption, stem.with_suffix(".txt"), generated=generated).suffix)
    return f"{first} (also {' '.join(written)})"


def save_json(value: Any, path: Path) -> Path:
    """Write a value as strict JSON. Errors: `UserError` when the disk refuses."""
    return _write(path, json_bytes(value))


def save_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Write rows with the union of their columns in order of appearance; a missing value is empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return _write(path, text.getvalue().encode("utf-8", "backslashreplace"))


def save_caption(text: str, path: Path, *, generated: bool = False) -> Path:
    """Write the words that belong under a picture. generated: as `save_figure` has it."""
    return _write(path, (text.strip() + "\n").encode("utf-8", "backslashreplace"), generated)


def make_folder(folder: Path) -> Path:
    """The folder, made if need be. Errors: `UserError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made a folder: {error.strerror or error}; name another") from error
    return folder


def _write(path: Path, data: bytes, generated: bool = False) -> Path:
    if generated:
        with writing(path, "name another folder"):
            write_bytes_atomically(path, data, durable=False)
        return path
    path, lines = put(path, data)
    if lines:
        say(*lines, file=sys.stderr)
    return path
