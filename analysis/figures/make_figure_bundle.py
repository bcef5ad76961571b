"""Put the figures of a study into one dated folder that could be attached to a letter.

    python analysis/figures/make_figure_bundle.py --runs out/trm out/hrm out/report out/ptrm --out bundle_20261125

--runs are folders that other analyses wrote with --out: lyapunov_spectrum.py (figures 1 and 2), peak_vs_final.py
(figure 3), q_head_vs_stability.py (figure 4). A figure whose results are missing is left out, and README.md says so.
Written to --out, whose name ends with the date: README.md, email_draft.md, figure_captions.md, and figures/ with a
.png, .svg, .csv and .json of each. The same results give the same bytes. A bundle of other --runs is refused. What a
person has edited since is never overwritten: the new file then stands beside it as NAME_new.
"""

import re
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say
from files import bounded_bytes, reason_of

require_packages()

from analysis.figures.bundle_letter import email
from analysis.figures.bundle_sources import FIG3, FIG4, DrawnFigure, Sources, find_sources
from analysis.figures.bundle_text import FIG1, FIG2, captions, leading, readme
from analysis.figures.figure_files import Figure, make_folder, plt, save_caption, save_csv, save_figure, save_json
from analysis.figures.kept_edits import place
from analysis.figures.made_of import results_folder
from analysis.spectra.spectrum_figures import draw_lambda1, draw_spectrum, lambda1_rows, spectrum_rows
from analysis.spectra.spectrum_summary import auroc_notes
from training.storage.atomic_file import write_bytes_atomically

MAX_FIGURE_BYTES = 64 << 20
_MISSING = {
    FIG1: "no result of analysis/spectra/lyapunov_spectrum.py among --runs",
    FIG2: "no result of analysis/spectra/lyapunov_spectrum.py among --runs",
    FIG3: "no result of analysis/arms/peak_vs_final.py among --runs",
    FIG4: "no result of analysis/rollouts/q_head_vs_stability.py among --runs",
}


def check_name(out: Path) -> None:
    """Errors: `UserError` when the name does not end with a date."""
    digits = re.search(r"_(\d{4})(\d{2})(\d{2})$", out.name)
    try:
        if digits is None:
            raise ValueError("no date")
        date(*map(int, digits.groups()))
    except ValueError as error:
        raise UserError(f"--out {out}: expected a name that ends with a date, such as bundle_20261125") from error


def spectrum_figures(sources: Sources) -> dict[str, tuple[list[dict[str, Any]], Figure]]:
    """The rows and pictures of figures 1 and 2."""
    if not sources.compared:
        return {}
    leading_rows: list[dict[str, Any]] = []
    spectrum_rows_of_all: list[dict[str, Any]] = []
    notes: dict[str, str] = {}
    for spectra in sources.compared:
        burn_in = spectra.summary["burn_in"]
        leading_rows += lambda1_rows(spectra.tables, burn_in)
        spectrum_rows_of_all += spectrum_rows(spectra.tables, burn_in)
        notes |= auroc_notes(spectra.summary)
    return {
        FIG1: (leading_rows, draw_lambda1(leading_rows, notes)),
        FIG2: (spectrum_rows_of_all, draw_spectrum(spectrum_rows_of_all)),
    }


def origin(sources: Sources) -> dict[str, Any]:
    """n, seeds, commands, commits and intervals of the spectra."""
    return {
        "measurements": [
            {
                "command": spectra.summary.get("command"),
                "commit": (spectra.summary.get("git") or {}).get("commit"),
                "burn_in": spectra.summary["burn_in"],
                "units": spectra.summary["units"],
                "runs": [
                    {"label": table.label, "model": table.model, "train_seed": table.settings["train_seed"],
                     "tangent_seed": table.settings["seed"], "n": len(table), "failed": int(table.failed.sum()),
                     "weights_sha256": table.settings["weights_sha256"]}
                    for table in spectra.tables
                ],
            }
            for spectra in sources.spectra
        ],
        "networks": leading(sources),
    }  # fmt: skip


def copy_figure(drawn: DrawnFigure, name: str, figures: Path) -> None:
    """The files of a figure that its own analysis has drawn. Errors: `UserError` when one is missing."""
    for suffix in (".png", ".svg", ".csv"):
        source = drawn.folder / f"{name}{suffix}"
        try:
            data = bounded_bytes(source, MAX_FIGURE_BYTES)
        except OSError as error:
            raise UserError(f"{source} cannot be read ({reason_of(error)}): run its analysis again") from error
        write_bytes_atomically(figures / source.name, data)
    save_json(drawn.numbers, figures / f"{name}.json")


def make_bundle(sources: Sources, out: Path) -> tuple[list[str], list[str]]:
    """Write everything; returns the names of the figures that are in it, and lines about what stays or is removed.

    Errors: `UserError` where the folder holds a bundle of other results, or a figure of others.
    """
    claim(sources, out)
    with tempfile.TemporaryDirectory(prefix="bundle-") as name:
        staged = Path(name)
        written = _write_all(sources, staged, out.name)
        return written, place(staged, make_folder(out))


def claim(sources: Sources, out: Path) -> None:
    """Errors: `UserError` where the folder holds a bundle of other results, or a figure of others."""
    spectra = [result.folder for result in sources.compared]
    drawn = {FIG3: sources.peak, FIG4: sources.rollouts}
    made_of = {FIG1: spectra, FIG2: spectra} | {name: [of.folder] for name, of in drawn.items() if of is not None}
    for name, folders in made_of.items():
        if folders:
            results_folder(out / "figures", [name], folders, script=__file__)
    results_folder(out, ["README", "email_draft", "figure_captions"], sources.folders, script=__file__)


def _write_all(sources: Sources, out: Path, bundle: str) -> list[str]:
    figures = make_folder(out / "figures")
    written = []
    for name, (rows, figure) in spectrum_figures(sources).items():
        save_figure(figure, figures / name, ("png", "svg"))
        plt.close(figure)
        save_csv(rows, figures / f"{name}.csv")
        save_json(origin(sources), figures / f"{name}.json")
        written.append(name)
    for name, drawn in ((FIG3, sources.peak), (FIG4, sources.rollouts)):
        if drawn is not None:
            copy_figure(drawn, name, figures)
            written.append(name)
    left_out = {name: why for name, why in _MISSING.items() if name not in written}
    save_caption(readme(bundle, written, left_out), out / "README.md")
    save_caption(email(sources, written), out / "email_draft.md")
    save_caption(captions(sources, written), out / "figure_captions.md")
    return written


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = FlagParser(description=__doc__)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, metavar="DIR", help="results of other analyses")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle, such as bundle_20261125")
    options = parser.parse_args(argv)
    check_name(options.out)
    written, edited = make_bundle(find_sources(options.runs), options.out)
    for line in edited:
        say(f"warning: {line}", file=sys.stderr)
    left_out = [name for name in _MISSING if name not in written]
    say(f"written: {options.out}, {len(written)} figures" + (f"; left out: {', '.join(left_out)}" if left_out else ""))


if __name__ == "__main__":
    main()
