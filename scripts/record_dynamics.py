"""Readers of results on dynamics: Lyapunov spectra, stochastic rollouts, and what spectra cost."""

from scripts.report_entries import (
    Entry,
    Report,
    distinct,
    git_commit,
    hardware_of,
    measured_here,
    short,
    three_digits,
)

_CURVE_OF = ("q", "stability", "majority", "random", "oracle")


def spectra(report: Entry) -> Report:
    """The cells of summary.json of lyapunov_spectrum.py: networks over their runs, then differences."""
    runs = report.parts("runs")
    models = report.part("models")
    texts = [_network(models.part(name), name, [run for run in runs if run.text("model") == name])
             for name in models.values]  # fmt: skip
    for each in report.parts("differences") if report.values.get("differences") else []:
        if each.values.get("interval") is not None:
            own = each.part("interval")
            texts.append(
                f"{each.text('model')} minus {each.text('baseline')}, {each.text('quantity')}: "
                f"{own.signed('mean'):+.4f} {_bounds(own, 4)}, n={own.count('n')} seeds"
            )
    settings = [run.part("settings") for run in runs]
    how = (
        f"{runs[0].count('steps_measured')} steps, first {report.count('burn_in')} not counted, "
        f"{settings[0].count('num_exponents')} exponents, {settings[0].text('dtype')}"
    )
    return Report(
        commands=[report.text("command")],
        config_hashes=[short(own.text("weights_sha256")) for own in settings],
        commits=[git_commit(report.part("git"))],
        datasets=[distinct(f"{short(own.text('data_sha256'))} (test split)" for own in settings)],
        seeds=[str(own.count("train_seed")) for own in settings],
        result="; ".join([how, *texts]),
        hardware=[hardware_of(report, "num_threads")],
    )


def _network(joint: Entry, name: str, runs: list[Entry]) -> str:
    several = len(runs) > 1
    per_sub_update = 1 / joint.count("sub_updates_per_step")
    solved = [run.part("exact_accuracy") for run in runs]
    parts = [
        f"{sum(own.count('numerator') for own in solved)}/{sum(own.count('denominator') for own in solved)} solved in "
        f"{len(runs)} run{'s' if several else ''}"
    ]

    def estimate(which: str, of: str = "lambda1") -> Entry:
        if several:
            return joint.part(of).part(which).part("mean")
        return runs[0].part(of).part(which)

    for which, words in (("median_solved", "median lambda_1 solved"), ("median_failed", "failed")):
        parts.append(f"{words} {_estimate(estimate(which), 4, per_sub_update)} nats per sub-update")
    parts.append(f"AUROC {_estimate(estimate('auroc'))}")
    if several and joint.part("lambda1").part("auroc").values.get("over_runs") is not None:
        parts.append(f"over runs {_bounds(joint.part('lambda1').part('auroc').part('over_runs'), 3)}")
    if not several:
        parts.append(f"Newcombe {_bounds(runs[0].part('lambda1').part('auroc_newcombe'), 3)}")
    positive = joint.part("num_positive")
    for outcome in ("solved", "failed"):
        parts.append(f"positive exponents {outcome} {_estimate(positive.part(outcome).part('mean'), 2)}")
    baselines = joint.part("baselines")
    parts.append("AUROC of free baselines: " + ", ".join(
        f"{baseline} {_estimate(baselines.part(baseline).part('mean'))}" for baseline in baselines.values
    ))  # fmt: skip
    added = [run.part("beyond_baselines").part("nested").part("without_rules").part("difference") for run in runs]
    additions = ", ".join(_estimate(own, signed=True) for own in added)
    parts.append(f"lambda_1 adds to all but the rules, by run: {additions}")
    tables = [run.part("settled_by_correct") for run in runs]
    settled, failures = (
        sum(own.count(name) for own in tables for name in names)
        for names in (("settled_failed",), ("settled_failed", "unsettled_failed"))
    )
    parts.append(f"{settled}/{failures} failures settled")
    longer = [run.part("long_rollout") for run in runs if run.values.get("long_rollout") is not None]
    if longer:
        ends = [own.part("kinds_at_end").part("failed") for own in longer]
        kinds = ", ".join(f"{sum(own.count(kind) for own in ends)} {kind}" for kind in ends[0].values if kind != "n")
        parts.append(f"failures after {longer[0].count('num_steps')} steps: {kinds}")
    settings = [run.part("settings") for run in runs]
    if all("lambda_bound_per_step" in own.values for own in settings):
        largest = max(run.signed("lambda1_largest") for run in runs)
        bound = max(own.signed("lambda_bound_per_step") for own in settings)
        parts.append(f"largest exponent of any step {largest:.4f}, bound {bound:.4f} nats per step")
    return f"{name}: {'; '.join(parts)}"


def _estimate(own: Entry, digits: int = 3, scale: float = 1.0, *, signed: bool = False) -> str:
    value = own.optional(own.signed, "value")
    if value is None:
        return f"undefined ({own.text('reason')})"
    text = f"{scale * value:{'+' if signed else ''}.{digits}f}"
    return text if own.values.get("low") is None else f"{text} {_bounds(own, digits, scale)}"


def _bounds(own: Entry, digits: int, scale: float = 1.0) -> str:
    low, high = (own.optional(own.signed, name) for name in ("low", "high"))
    if low is None or high is None:
        return "no interval"
    return f"[{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def rollouts(report: Entry) -> Report:
    """The cells of summary.json of analysis/rollouts/q_head_vs_stability.py: correlations, then each way to choose."""
    settings = report.part("settings")
    first = report.parts("correlation_of_q_and_growth")[0]
    texts = [
        f"{report.count('solved_always')} / {report.count('solved_partly')} / {report.count('solved_never')} of "
        f"{report.count('puzzles')} puzzles solved by all / some / none of {report.count('rollouts')} rollouts"
    ]
    words = {"within": "rank correlation of Q and growth within puzzles", "within_given_margin": "given the margin",
             "pooled": "pooled"}  # fmt: skip
    for name, text in words.items():
        texts.append(f"{text} {_correlation(first.part(name))}")
    last, most = max(report.values["steps"]), report.count("rollouts")
    for entry in report.parts("accuracy"):
        if entry.count("steps") == last and entry.count("rollouts") in (1, most):
            own = entry.part("exact_accuracy")
            texts.append(
                f"{entry.text('selector')} of {entry.count('rollouts')}: {100 * own.number('value'):.2f} % "
                f"({entry.count('forward_passes'):,} passes)"
            )
    return Report(
        commands=[report.text("command")],
        config_hashes=[short(settings.text("weights_sha256"))],
        commits=[git_commit(report.part("git"))],
        datasets=[f"{short(settings.text('dataset'))} (test split)"],
        seeds=[f"noise {settings.count('noise_seed')}"],
        result=f"{_made(settings)}: {'; '.join(texts)}",
        hardware=[hardware_of(report, "num_threads")],
    )


def _made(settings: Entry) -> str:
    return f"sigma {settings.values.get('sigma')} on {settings.text('site')}, steps {settings.values.get('steps')}"


def _correlation(own: Entry) -> str:
    value, bounds = own.optional(own.signed, "value"), own.values.get("interval95")
    if value is None:
        return "undefined"
    return f"{value:.3f}" + ("" if bounds is None else f" [{bounds[0]:.3f}, {bounds[1]:.3f}]")


def cost(report: Entry) -> Report:
    """The cells of what scripts/benchmark/lyapunov.py writes."""
    environment, result = report.part("environment"), report.part("result")
    seconds = result.part("seconds")
    times = ", ".join(f"{name} {three_digits(1e3 * seconds.part(name).number('median'))} ms" for name in seconds.values)
    text = (
        f"{report.text('preset')} ({report.count('batch_size')} puzzles, k={result.count('num_exponents')}): {times}; "
        f"{result.number('over_floor'):.3f} times the floor of k + 2 states, {result.number('flops_ratio'):.3f} times "
        f"the "
        f"state's operations, single JVPs {result.number('single_jvps_over_engine'):.2f} times as long, QR "
        f"{100 * result.number('qr_share'):.1f} %"
    )
    if report.values.get("growth") is not None:
        growth = report.part("growth")
        for name in growth.values:
            text += f"; time against {name}: R^2 of a straight line {growth.part(name).signed('r_squared'):.4f}"
    return measured_here(environment, text, [hardware_of(environment, "num_threads")])
