"""The letter of a figure bundle, in sentences: the question, and what the results say of it, whatever that is."""

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.arms.labels import of_many_trajectories
from analysis.arms.run_curves import counted
from analysis.figures.bundle_sources import FIG3, FIG4, Sources
from analysis.figures.bundle_text import FIG1, FIG2, NUMBERS, added, interval, leading, matched, others

Numbers = Mapping[str, Any]


def email(sources: Sources, figures: Sequence[str]) -> str:
    """A draft with a name to fill in. It speaks of no figure that is not attached by default."""
    attached = [figure for figure in figures if figure != FIG4]
    paragraphs = [
        "Subject: Is the stability of forward inference something gradient flossing should act on?",
        "Dear [name],",
        "we study recursive reasoning models, small networks such as HRM and TRM that answer a puzzle by refining a "
        "latent state again and again. Each puzzle, with its input and the weights fixed, is a dynamical system of its "
        "own, and we measure its finite-time Lyapunov exponents along the inference.",
    ]
    if FIG1 in attached:
        paragraphs.append(_leading_paragraph(sources))
    if FIG2 in attached:
        paragraphs.append(_spectrum_paragraph(sources))
    if FIG3 in attached and sources.peak is not None:
        paragraphs.append(_perturbed_paragraph(sources.peak.numbers))
    paragraphs.append(
        "As we understand gradient flossing, it conditions products of Jacobians so that learning through many steps "
        "is possible; what we see concerns inference, whether a neighbourhood of the start reaches the answer. Is "
        "that a distinction you would make? If so, would you expect flossing to have to be local, conditioned on the "
        "task, or restricted to late steps or to failed puzzles in order to help here? Or is there a better framing: "
        "transverse stability, the size of basins, shadowing, transient chaos?"
    )
    if attached:
        names = joined([str(NUMBERS[figure]) for figure in attached])
        is_one = len(attached) == 1
        paragraphs.append(
            f"{'Fig.' if is_one else 'Figs.'} {names} {'is' if is_one else 'are'} attached, and the captions say how "
            f"{'it' if is_one else 'each'} was measured."
        )
    paragraphs += ["Any pointer, or a hint at a mistake, would help us.", "With kind regards,", "[your name]"]
    return "\n\n".join(paragraphs) + "\n"


def joined(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *before, last = words
    return f"{', '.join(before)} and {last}" if before else last


def answer(yes: int, of: int) -> str:
    """The answer to a question that was asked of each of some networks: `Yes, in 2 of 2 networks`."""
    if not of:
        return "That cannot be said yet, as no network has both outcomes"
    word = "Yes" if yes == of else "No" if not yes else "Partly"
    return f"{word}, in {yes} of {counted(of, 'network')}"


def _leading_paragraph(sources: Sources) -> str:
    plain = [network for network in leading(sources) if network["spoken_of"]]
    both = [network for network in plain if network["auroc"]["value"] is not None]
    gaps = [network["median_difference"] for network in both if network["median_difference"]["value"] is not None]
    clear = sum(gap["low"] is not None and gap["low"] > 0 for gap in gaps)
    sentences = ["Do failed puzzles have the larger leading exponent (Fig. 1)?"]
    sentences.append(f"{answer(sum(gap['value'] > 0 for gap in gaps), len(gaps))}.")
    if gaps:
        sentences.append(
            "The 95 % interval of the difference of medians lies above 0 in "
            f"{clear} of {counted(len(gaps), 'network')}."
        )
    for network in plain:
        counts = f"{network['model']} solves {network['solved']} of {network['of']} puzzles"
        if network["runs"] > 1:
            counts += f" in {network['runs']} runs"
        counts += matched(network)
        if network["auroc"]["value"] is None:
            sentences.append(f"{counts}, so there is nothing to tell apart.")
            continue
        solved, failed = (
            interval(network[name], scale=1 / network["sub_updates_per_step"])
            for name in ("median_solved", "median_failed")
        )
        sentences.append(
            f"{counts}; the median is {failed} nats per sub-update for failed and {solved} for solved ones, and the "
            f"exponent tells the two apart with an AUROC of {interval(network['auroc'])}."
        )
    for network in both:
        drift, margin = (interval(network["baselines"][name]) for name in ("late_drift", "minus_logit_margin"))
        sentences.append(
            f"For {network['model']}, two signs that cost nothing, late drift and the margin of the answer, reach "
            f"{drift} and {margin}; to all such signs that do not know the rules the exponent adds "
            f"{joined(added(network))} of AUROC{' by run' if network['runs'] > 1 else ''}."
        )
    return " ".join(sentences)


def _spectrum_paragraph(sources: Sources) -> str:
    plain = [network for network in leading(sources) if network["spoken_of"]]
    both = [
        network
        for network in plain
        if all(estimate["value"] is not None for estimate in network["num_positive"].values())
    ]
    more = sum(
        network["num_positive"]["failed"]["value"] > network["num_positive"]["solved"]["value"] for network in both
    )
    sentences = [f"Are more exponents positive when a puzzle fails (Fig. 2)? {answer(more, len(both))}."]
    for network in both:
        solved, failed = (interval(network["num_positive"][name], 2) for name in ("solved", "failed"))
        sentences.append(
            f"In {network['model']}, {failed} of the {network['of_exponents']} that we measure are positive on average "
            f"when a puzzle fails and {solved} when it is solved."
        )
    sentences.append("Published for 9x9 puzzles are 8.00 and 7.82 of 8.")
    return " ".join(sentences)


def _perturbed_paragraph(numbers: Numbers) -> str:
    ours = [
        difference
        for difference in numbers["differences"]
        if difference["moment"] in ("best", "final")
        and difference["start"] == "the initial state"
        and of_many_trajectories(difference["arm"])
    ]
    if not ours:
        return "We also trained on perturbed trajectories, without a baseline to compare with yet (Fig. 3)."
    sentences = [
        "We also trained on perturbed trajectories: several rollouts of the same puzzle from z0 + epsilon must all "
        "reach the answer. Fig. 3 compares accuracy on test puzzles with the same training without noise."
    ]
    for arm in dict.fromkeys(difference["arm"] for difference in ours):
        gaps = [
            f"{_points(difference['interval'])} with the {difference['moment']} weights"
            for difference in ours
            if difference["arm"] == arm
        ]
        sentences.append(f"Of {arm} the difference is {joined(gaps)}.")
    controls = others(numbers)
    if controls:
        sentences.append(f"Beside them stand{'s' if len(controls) == 1 else ''} {joined(controls)}.")
    return " ".join(sentences)


def _points(mean: Numbers) -> str:
    """`-1.23 points [-3.00, 0.54] (5 seeds)`."""
    bounds = "" if mean["low"] is None else f" [{100 * mean['low']:.2f}, {100 * mean['high']:.2f}]"
    return f"{100 * mean['mean']:+.2f} points{bounds} ({counted(mean['n'], 'seed')})"
