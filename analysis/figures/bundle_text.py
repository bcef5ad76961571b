"""The words of a figure bundle. Every number comes from the results; what was not measured is not claimed."""

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.arms.labels import of_many_trajectories
from analysis.figures.bundle_sources import FIG3, FIG4, Sources
from analysis.spectra.spectrum_over_runs import lambda1_estimate
from files import bounded_text
from training.records.result_numbers import wilson_interval

FIG1 = "Fig1_lambda1_success_failure_HRM_TRM"
FIG2 = "Fig2_full_spectrum_success_failure_shift"
NUMBERS = {FIG1: 1, FIG2: 2, FIG3: 3, FIG4: 4}
TITLES = {
    FIG1: "leading finite-time Lyapunov exponent of solved and failed puzzles",
    FIG2: "the whole measured spectrum of solved and failed puzzles",
    FIG3: "test accuracy of training on perturbed trajectories and of what it is compared with, peak and final",
    FIG4: "halting value against stability among stochastic rollouts of one puzzle",
}
Numbers = Mapping[str, Any]


def leading(sources: Sources) -> list[dict[str, Any]]:
    """Per network: n, failures, medians per sub-update, AUROC with interval (over runs where there are several)."""
    networks = []
    for spectra in sources.spectra:
        for model, joint in spectra.summary["models"].items():
            runs = [run for run in spectra.summary["runs"] if run["model"] == model]
            names = ("auroc", "median_solved", "median_failed", "median_difference")
            networks.append(
                {
                    "model": model,
                    "spoken_of": (spectra.folder, model) in sources.spoken_of,
                    "runs": len(runs),
                    "n": sum(run["n"] for run in runs),
                    "solved": sum(run["exact_accuracy"]["numerator"] for run in runs),
                    "of": sum(run["exact_accuracy"]["denominator"] for run in runs),
                    "failed_measured": sum(run["lambda1"]["num_failed"] for run in runs),
                    "matched": any(run.get("sample") for run in runs),
                    "sub_updates_per_step": joint["sub_updates_per_step"],
                    **{name: lambda1_estimate(spectra.summary, model, name) for name in names},
                    "baselines": {
                        name: (over_runs["mean"] if len(runs) > 1 else runs[0]["baselines"][name]["auroc"])
                        for name, over_runs in joint["baselines"].items()
                    },
                    "num_positive": {name: over_runs["mean"] for name, over_runs in joint["num_positive"].items()},
                    "of_exponents": runs[0]["num_positive"]["of"],
                    "beyond": [run["beyond_baselines"]["nested"]["without_rules"]["difference"] for run in runs],
                }
            )
    return networks


def matched(network: Numbers) -> str:
    """Of a case-control sample, what its numbers are of: `, of which 37 failed and 37 ...`; empty of all others."""
    if not network["matched"]:
        return ""
    failed = network["failed_measured"]
    return f", of which {failed} failed and {network['n'] - failed} solved ones, equally hard, were measured"


def interval(estimate: Numbers, digits: int = 3, scale: float = 1.0) -> str:
    """`0.982 [0.961, 0.995]`, or without the interval where there is none."""
    if estimate["value"] is None:
        return f"undefined ({estimate['reason']})"
    value = f"{scale * estimate['value']:.{digits}f}"
    if estimate["low"] is None:
        return value
    return f"{value} [{scale * estimate['low']:.{digits}f}, {scale * estimate['high']:.{digits}f}]"


def added(network: Numbers) -> list[str]:
    """What the exponent adds to the AUROC of the signs that cost nothing, by run: `+0.012`, `-0.003`."""
    values = [difference["value"] for difference in network["beyond"] if difference["value"] is not None]
    return [f"{value:+.3f}" for value in values] or ["undefined"]


def others(numbers: Numbers) -> list[str]:
    """Labels of the arms of figure 3 that are neither trained on perturbed trajectories nor a baseline."""
    baselines = {difference["baseline"] for difference in numbers["differences"]}
    labels = [arm["label"] for arm in numbers["arms"]]
    return [label for label in labels if label not in baselines and not of_many_trajectories(label)]


def readme(name: str, figures: Sequence[str], left_out: Mapping[str, str]) -> str:
    """Contents, what to attach, what is missing and why."""
    date = name[-8:]
    lines = [
        "# Figure bundle",
        "",
        f"Prepared on {date[:4]}-{date[4:6]}-{date[6:]}.",
        "",
        "Contents:",
        "",
        "- `email_draft.md`: a draft of the letter, [name] and [your name] to be filled in; (Fig. n): the files below.",
        "- `figure_captions.md`: captions, numbers with their intervals, caveats.",
        *[f"- `figures/{figure}` (.png, .svg, .csv, .json): {TITLES[figure]}" for figure in figures],
        "",
        "Each .csv holds what is drawn, each .json n, seeds, command, commit and intervals.",
        "The files keep the names that the study gave its figures beforehand: they say what was looked for. What came "
        "out is in the captions.",
        "",
    ]
    default = [f"Fig. {NUMBERS[figure]}" for figure in figures if figure != FIG4]
    lines += ["Attach:", "", f"- by default: {', '.join(default) if default else 'nothing yet'}."]
    if FIG4 in figures:
        lines.append(
            "- Fig. 4 only where the side observation on stochastic rollouts is wanted: the letter does not speak of "
            "it; a paragraph for it stands under Fig. 4 in `figure_captions.md`."
        )
    if left_out:
        lines += ["", "Left out:", "", *[f"- `{figure}`: {why}." for figure, why in left_out.items()]]
    return "\n".join(lines) + "\n"


def _rollout_paragraph(numbers: Numbers) -> str:
    correlation = numbers["correlation_of_q_and_growth"][0]["within"]
    bounds = correlation["interval95"]
    words = "" if bounds is None else f" [{bounds[0]:.2f}, {bounds[1]:.2f}]"
    value = "undefined" if correlation["value"] is None else f"{correlation['value']:.2f}{words}"
    return (
        "A side observation (Fig. 4): with noise in the latent state at every step and several rollouts of each "
        "puzzle, the rank correlation between the learned halting value and the growth of small perturbations, within "
        f"puzzles that some rollouts solve and others do not ({numbers['solved_partly']} of {numbers['puzzles']}), is "
        f"{value}."
    )


def captions(sources: Sources, figures: Sequence[str]) -> str:
    """Captions in order, then the caveats that belong to what is in the bundle."""
    lines = ["# Figure captions", ""]
    for figure in figures:
        lines += [f"## Fig. {NUMBERS[figure]}: `figures/{figure}.png`", "", *_caption(sources, figure), ""]
    trained = [difference for spectra in sources.spectra for difference in spectra.summary.get("differences", [])]
    if trained:
        lines += ["## Trained in another way", "", *_difference_table(trained), ""]
    lines += ["# Caveats", "", *[f"- {text}" for text in _caveats(sources, figures)]]
    return "\n".join(lines) + "\n"


def _caption(sources: Sources, figure: str) -> list[str]:
    if figure == FIG3 and sources.peak is not None:
        return _text_of(sources.peak.folder / f"{FIG3}.txt")
    if figure == FIG4 and sources.rollouts is not None:
        paragraph = _rollout_paragraph(sources.rollouts.numbers)
        return [*_text_of(sources.rollouts.folder / f"{FIG4}.txt"), "", "For the letter, if wanted:", "", paragraph]
    if figure == FIG2:
        return ["Median and quartiles over puzzles of each exponent, in QR order.", "", *_positive_table(sources)]
    rows = [
        "Histograms, each outcome normalised by itself; lines: medians. Success is read from the trajectory that the "
        "tangents follow; ACT is recorded, not applied.",
        "",
        "| network | runs | solved | median solved | median failed | AUROC | late drift | halting value | added |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for network in leading(sources):
        m = network["sub_updates_per_step"]
        low, high = wilson_interval(network["solved"], network["of"])
        rows.append(
            f"| {network['model']} | {network['runs']} | {network['solved']}/{network['of']} [{low:.2f}, {high:.2f}] | "
            f"{interval(network['median_solved'], scale=1 / m)} | {interval(network['median_failed'], scale=1 / m)} | "
            f"{interval(network['auroc'])} | {interval(network['baselines']['late_drift'])} | "
            f"{interval(network['baselines']['minus_q_halt'])} | {', '.join(added(network))} |"
        )
    rows += [
        "",
        "Medians in nats per sub-update; columns late drift and halting value: their AUROC. Added, by run: what "
        "lambda_1 adds to the cross-validated AUROC of all label-free baselines that do not know the rules of the "
        "task.",
    ]
    for network in leading(sources):
        if network["matched"]:
            rows.append(f"{network['model']}: {network['solved']} of {network['of']} solved{matched(network)}.")
    return rows


def _positive_table(sources: Sources) -> list[str]:
    rows = ["| network | positive exponents, solved | failed | of |", "|---|---|---|---|"]
    for network in leading(sources):
        cells = [interval(network["num_positive"][name], 2) for name in ("solved", "failed")]
        rows.append(f"| {network['model']} | {' | '.join(cells)} | {network['of_exponents']} |")
    return [*rows, "", "Means over puzzles, then over runs, with the hierarchical bootstrap's 95 % interval."]


def _text_of(path: Any) -> list[str]:
    try:
        text: str = bounded_text(path)
    except OSError:
        return [f"Its caption {path.name} is missing: run its analysis again."]
    return text.strip().splitlines()


def _difference_table(differences: Sequence[Numbers]) -> list[str]:
    rows = [
        "Differences to the baseline, mean over seeds with Student's t interval. Published at 9x9: positive "
        "exponents of solved puzzles 7.82 to 3.38 of 8, of failed ones unchanged.",
        "",
        "| network | against | quantity (nats per step) | difference | seeds |",
        "|---|---|---|---|---|",
    ]
    for difference in differences:
        mean = difference["interval"]
        if mean is None:
            continue
        bounds = "" if mean["low"] is None else f" [{mean['low']:.4f}, {mean['high']:.4f}]"
        cells = [
            difference["model"],
            difference["baseline"],
            difference["quantity"],
            f"{mean['mean']:+.4f}{bounds}",
            mean["n"],
        ]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return rows


def _caveats(sources: Sources, figures: Sequence[str]) -> list[str]:
    caveats = []
    if FIG1 in figures or FIG2 in figures:
        caveats += [
            "Exponents are finite-time estimates of sampled puzzles in the Euclidean norm; over so few steps a "
            "positive one is growth, not proof of chaos, and depends on the norm and on the first tangents.",
            "The published values (AUROC 0.9935 [0.9908, 0.9957] for TRM-MLP, 0.987 for HRM; medians +0.011 and "
            "+0.103, -0.150 and +0.031) are of 9x9 puzzles, larger networks and another estimator: beside ours, not "
            "equal to them.",
            "A puzzle that fails has often not settled: late drift, residual and halting value cost nothing and tell "
            "failures apart too; their AUROCs stand in the captions.",
        ]
    if any(network["runs"] == 1 for network in leading(sources)):
        caveats.append(
            "Where a network has one run, intervals are over puzzles only and say nothing of other trainings."
        )
    if FIG3 in figures and sources.peak is not None:
        controls = ", ".join(others(sources.peak.numbers))
        caveats.append(
            "The best weights of a run are chosen on validation puzzles and reported on test puzzles; the final ones "
            "stand beside them. K trajectories cost K times the passes: "
            + (f"compare with {controls}." if controls else "no control of equal compute is in the figure.")
        )
    if FIG4 in figures:
        caveats.append("The stability of a rollout is a finite-difference proxy that never sees labels.")
    return caveats or ["Nothing was measured yet."]
