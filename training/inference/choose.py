"""From the settings `eval` to an inference: the one place, for training runs and for evaluate.py."""

from collections.abc import Sequence

from dataset.puzzle_folder import PuzzleSet
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
    Errors: `UserError` when a vote is asked for and a set names no Sudoku box, or the sets different ones; and as
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
        box = _sudoku_box(puzzle_sets, settings.vote)
        return VoteInference(_one_view(settings, stepwise=False), settings.vote, box, seed)
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


def _sudoku_box(puzzle_sets: Sequence[PuzzleSet], vote: int) -> tuple[int, int]:
    boxes: dict[tuple[int, int], str] = {}
    for puzzle_set in puzzle_sets:
        box = puzzle_set.metadata.augmentation_box
        if box is None:
            raise UserError(
                f"eval.vote={vote}: {puzzle_set.root} names no Sudoku box, whose symmetries are the views of a "
                "puzzle; build it with `--augmentation on-the-fly`, or use eval.vote=1"
            )
        boxes[box] = str(puzzle_set.root)
    if len(boxes) != 1:
        named = ", ".join(f"{rows}x{columns} in {root}" for (rows, columns), root in boxes.items()) or "no set"
        raise UserError(f"eval.vote={vote}: found {named}, expected boxes of one shape; use eval.vote=1")
    return next(iter(boxes))
