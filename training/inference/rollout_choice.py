"""Which of the two noisy evaluations `eval.*` of evaluate.py asks for, and whether stochastic rollouts can be made.

`eval.sigma` as a number means noise at every supervision step; as a list, once for each scale, at the start only.
`eval.inference` says it in words, and then either spelling will do.
"""

from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeGuard

from errors import UserError
from training.inference.stochastic_rollouts import judged_steps
from training.settings.schema import EvalConfig, EvaluateConfig

STOCHASTIC, PERTURBED = "stochastic_rollouts", "perturbed_starts"
INFERENCES = (STOCHASTIC, PERTURBED)
MIN_SIZE, MAX_SIZE = 1e-6, 1.0  # below, a float32 state keeps too few digits of a probe; above, it is another state


def with_inference(words: Sequence[str]) -> list[str]:
    """The words of a command line, with a number as `eval.sigma` written as a list and what it implies written out."""
    sigma = _last(words, "eval.sigma")
    if sigma is None or not _is_number(sigma):
        return list(words)
    implied = [] if _last(words, "eval.inference") not in (None, "null") else [f"eval.inference={STOCHASTIC}"]
    return [*words, f"eval.sigma=[{sigma}]", *implied]


def _last(words: Sequence[str], key: str) -> str | None:
    values = [word.partition("=")[2] for word in words if word.lstrip("+").partition("=")[0] == key]
    return values[-1].strip() if values else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def stochastic(settings: EvalConfig) -> TypeGuard[EvaluateConfig]:
    """Whether rows are answered by stochastic rollouts."""
    return isinstance(settings, EvaluateConfig) and settings.inference == STOCHASTIC


def rollout_settings(settings: EvaluateConfig) -> dict[str, Any]:
    """How stochastic rollouts are made, as reports say it."""
    probed = bool(settings.stability_sizes)
    return {
        "sigma": settings.sigma[0], "site": settings.site, "rollouts": settings.rollouts,
        "noise_seed": settings.noise_seed, "clean_first": settings.clean_first,
        "stability": {
            "sizes": settings.stability_sizes, "steps": settings.stability_steps,
            "directions": settings.stability_directions,
        } if probed else None,
    }  # fmt: skip


def check_rollouts(settings: EvaluateConfig) -> None:
    """Refuse what cannot be made, and options that nothing would read. Errors: `UserError`."""
    inference = settings.inference
    if inference not in (None, *INFERENCES):
        raise UserError(f"option 'eval.inference': found {inference!r}, expected one of: {', '.join(INFERENCES)}, null")
    if not stochastic(settings):
        if inference == PERTURBED and not settings.sigma:
            raise UserError("option 'eval.inference': perturbed_starts needs noise scales: eval.sigma=[0.1,0.3]")
        _refuse_unread(settings)
        return
    if len(settings.sigma) != 1:
        scales = ", ".join(f"{sigma:g}" for sigma in settings.sigma) or "none"
        raise UserError(
            f"option 'eval.sigma': found {scales}, expected one noise scale for stochastic rollouts, "
            "such as eval.sigma=0.3"
        )
    if settings.adaptive_halt or settings.vote > 1:
        raise UserError(
            "option 'eval.inference': stochastic rollouts take a fixed number of steps and choose among "
            "themselves; leave out eval.adaptive_halt and eval.vote"
        )
    if not 0 <= settings.noise_seed < 2**63:
        raise UserError(f"option 'eval.noise_seed': found {settings.noise_seed}, expected 0 to 2^63 - 1")
    for name in ("stability_steps", "stability_directions"):
        if getattr(settings, name) < 1:
            raise UserError(f"option 'eval.{name}': found {getattr(settings, name)}, expected at least 1")
    for size in settings.stability_sizes:
        if not MIN_SIZE <= size <= MAX_SIZE:
            raise UserError(
                f"option 'eval.stability_sizes': found {size:g}, expected parts of the state's norm from "
                f"{MIN_SIZE:g} to {MAX_SIZE:g}"
            )
    if len({f"{size:g}" for size in settings.stability_sizes}) < len(settings.stability_sizes):
        raise UserError("option 'eval.stability_sizes': expected each size once")
    if settings.max_steps is not None:
        judged_steps(settings.judged_steps, settings.max_steps)


def _refuse_unread(settings: EvaluateConfig) -> None:
    run = {item.name for item in fields(EvalConfig)} | {"inference"}
    for item in fields(EvaluateConfig):
        default = item.default if item.default_factory is MISSING else item.default_factory()
        if item.name not in run and getattr(settings, item.name) != default:
            raise UserError(
                f"option 'eval.{item.name}' is of stochastic rollouts: give a noise scale too, as a "
                "number, such as eval.sigma=0.3"
            )
