"""From the settings `eval` to an inference: the one place, for training runs and for evaluate.py."""

from collections.abc import Sequence

from dataset.puzzle_folder import PuzzleSet
from dataset.tasks.base import PuzzleTask
from errors import UserError
from training.inference.adaptive import AdaptiveInference
from training.inference.base import Inference
from training.inference.fixed import FixedInference, OfficialInference
from training.inference.rollout_choice import check_rollouts, stochastic
from training.inference.stability import StabilityProbe
from training.inference.stepwise import StepwiseInference
from training.inference.stochastic_rollouts import StochasticRollouts
from training.inference.vote import VoteInference
from training.settings.schema import EvalConfig, EvaluateConfig


def build_inference(
    settings: EvalConfig, puzzle_sets: Sequence[PuzzleSet], seed: int, *, stepwise: bool = False
) -> Inference:
    """The inference that `settings` describe, for rows of `puzzle_sets`.

    Args:
        seed: of the symmetries of a vote. stepwise: keep the answer after every step, where `keeps_steps`.
    Errors: `UserError` when a vote is asked for and a set has not so many views, or the sets different ones; and as
    `check_perturbed` and `check_rollouts`.
    """
    if stochastic(settings):
        check_rollouts(settings)
        check_perturbed(settings)
        return StochasticRollouts(
            settings.sigma[0], settings.site, settings.rollouts, settings.max_steps,
            judged_steps=settings.judged_steps, seed=settings.noise_seed, clean_first=settings.clean_first,
            probe=stability_probe(settings),
        )  # fmt: skip
    check_perturbed(settings)
    if settings.vote > 1:
        task = _voting_task(puzzle_sets, settings.vote)
        return VoteInference(_one_view(settings, stepwise=False), settings.vote, task, seed)
    return _one_view(settings, stepwise=stepwise)


def _one_view(settings: EvalConfig, *, stepwise: bool) -> Inference:
    if settings.adaptive_halt:
        return AdaptiveInference(settings.max_steps)
    if stepwise:
        return StepwiseInference(settings.max_steps)
    return OfficialInference() if settings.max_steps is None else FixedInference(settings.max_steps)


def stability_probe(settings: EvaluateConfig) -> StabilityProbe | None:
    """What measures the stability of stochastic rollouts; None where no size is asked for."""
    if not settings.stability_sizes:
        return None
    sizes, seed = tuple(settings.stability_sizes), settings.noise_seed
    return StabilityProbe(sizes, settings.stability_steps, settings.stability_directions, seed)


def keeps_steps(settings: EvalConfig) -> bool:
    """Whether answers after every step exist: a row that left has none, and votes and rollouts choose whole answers."""
    return not settings.adaptive_halt and settings.vote == 1 and not stochastic(settings)


def mode_parts(settings: EvalConfig) -> list[str]:
    """What differs from the official evaluation, as parts of a file's name; nothing for the official one."""
    words = []
    if settings.max_steps is not None:
        words.append(f"steps{settings.max_steps}")
    if settings.adaptive_halt:
        words.append("adaptive")
    if settings.vote > 1:
        words.append(f"vote{settings.vote}")
    if stochastic(settings):
        words.append("rollouts")
    elif settings.sigma:
        words.append("perturbed")
    return words


def check_perturbed(settings: EvalConfig) -> None:
    """Refuse perturbed starts that cannot be tried (ranges are checked before). Errors: `UserError`."""
    for name in ("sigma", "sigma_grid"):
        sigmas = getattr(settings, name)
        names = [f"{sigma:g}" for sigma in sigmas]
        if len(set(names)) < len(names):
            raise UserError(f"option 'eval.{name}': found {', '.join(names)}, expected each noise scale once")
        if sigmas and (settings.adaptive_halt or settings.vote > 1):
            raise UserError(
                f"option 'eval.{name}': perturbed starts are answered after a fixed number of steps; leave out "
                "eval.adaptive_halt and eval.vote"
            )


def _voting_task(puzzle_sets: Sequence[PuzzleSet], vote: int) -> PuzzleTask:
    """The task of all sets, which has that many views."""
    tasks: dict[str, PuzzleSet] = {}
    for puzzle_set in puzzle_sets:
        task = puzzle_set.metadata.task
        if task.num_views is not None and task.num_views < vote:
            raise UserError(
                f"eval.vote={vote}: {puzzle_set.root} holds puzzles of the task {task}, which have {task.num_views} "
                f"view{'s' * (task.num_views > 1)}; use eval.vote={task.num_views}"
            )
        tasks.setdefault(str(task), puzzle_set)
    if len(tasks) != 1:
        named = ", ".join(f"{task} in {puzzle_set.root}" for task, puzzle_set in tasks.items()) or "no set"
        raise UserError(f"eval.vote={vote}: found {named}, expected puzzles of one kind; use eval.vote=1")
    return next(iter(tasks.values())).metadata.task
