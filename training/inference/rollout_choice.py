"""Which of the two noisy evaluations `eval.*` of evaluate.py asks for, and whether stochastic rollouts can be made.

`eval.sigma` as a number means noise at every supervision step; as a list, once for each scale, at the start only.
`eval.inference` says it in words, and then either spelling will do.
"""

from collections.abc import Sequence
from typing import Any, TypeGuard

from errors import UserError
from options import settings_of
from training.inference.stochastic_rollouts import judged_steps
from training.settings.schema import EvalConfig, EvaluateConfig

STOCHASTIC, PERTURBED = "stochastic_rollouts", "perturbed_starts"


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
    """Refuse what cannot be made (ranges are checked before), and what nothing would read. Errors: `UserError`."""
    if not stochastic(settings):
        if settings.inference == PERTURBED and not settings.sigma:
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
    if len({f"{size:g}" for size in settings.stability_sizes}) < len(settings.stability_sizes):
        raise UserError("option 'eval.stability_sizes': expected each size once")
    if settings.max_steps is not None:
        judged_steps(settings.judged_steps, settings.max_steps)


def _refuse_unread(settings: EvaluateConfig) -> None:
    run = {setting.key for setting in settings_of(EvalConfig)} | {"inference"}
    for setting in settings_of(EvaluateConfig):
        if setting.key not in run and getattr(settings, setting.key) != setting.default:
            raise UserError(
                f"option 'eval.{setting.key}' is of stochastic rollouts: give a noise scale too, as a "
                "number, such as eval.sigma=0.3"
            )
