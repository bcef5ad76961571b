"""One puzzle answered from several of its symmetric views, and the views vote for whole grids.

The rules of a task do not tell a puzzle from its images under the symmetries of the task, the network does: the
answers to the images are so many opinions on the same puzzle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from dataset.puzzle_folder import PuzzleSet
from dataset.stream import stream
from dataset.tasks.base import PuzzleTask, Views
from errors import UserError
from models.act import Batch
from models.losses import IGNORE_LABEL_ID
from models.recursive_model import RecursiveModel
from options import MOST_REPEATS, at_least, option
from training.inference.base import Inference, InferenceSettings, Predictions

if TYPE_CHECKING:
    from training.settings.schema import AnswerConfig

_VIEW = 4  # 1 to 3 are the streams of training batches


@dataclass
class Settings(InferenceSettings):
    """Symmetric views of each puzzle vote."""

    views: int = option(
        1, "symmetric views of each puzzle whose answers vote; 1 = the puzzle alone", at_least(1, MOST_REPEATS)
    )

    named: ClassVar[str] = "vote"
    named_by: ClassVar[str] = "views"
    switched_on_by: ClassVar[str] = "eval.vote.views=8"

    @property
    def in_use(self) -> bool:
        return self.views > 1

    def mode(self) -> dict[str, Any]:
        return {"vote": self.views}

    def passes(self, inner: int, steps: int) -> int:
        return self.views * inner

    def build(
        self, inner: Inference, settings: "AnswerConfig", puzzle_sets: Sequence[PuzzleSet], seed: int
    ) -> Inference:
        """A vote on top of `inner`. Errors: `UserError` when a set has fewer views, or the sets differ in kind."""
        return VoteInference(inner, self.views, self._task(puzzle_sets), seed)

    def _task(self, puzzle_sets: Sequence[PuzzleSet]) -> PuzzleTask:
        """The task of all sets, which has that many views."""
        asked, tasks = f"eval.vote.views={self.views}", dict[str, PuzzleSet]()
        for puzzle_set in puzzle_sets:
            task = puzzle_set.metadata.task
            if task.num_views is not None and task.num_views < self.views:
                raise UserError(
                    f"{asked}: {puzzle_set.root} holds puzzles of the task {task}, which have {task.num_views} "
                    f"view{'s' * (task.num_views > 1)}; use eval.vote.views={task.num_views}"
                )
            tasks.setdefault(str(task), puzzle_set)
        if len(tasks) != 1:
            named = ", ".join(f"{task} in {puzzle_set.root}" for task, puzzle_set in tasks.items()) or "no set"
            raise UserError(f"{asked}: found {named}, expected puzzles of one kind; use eval.vote.views=1")
        return next(iter(tasks.values())).metadata.task


@dataclass(kw_only=True)
class VotedPredictions(Predictions):
    """Also votes (B,) int64: how many views gave the answer."""

    votes: Tensor


def row_views(task: PuzzleTask, rows: np.ndarray, view: int, seed: int) -> Views:
    """One view of each row number in `rows` (B,): a function of (seed, row, view) alone.

    View 0 is the puzzle itself: ValueError.
    """
    if view < 1:
        raise ValueError(f"view {view} is not transformed, the others are numbered from 1")
    return task.views(view, [stream(seed, _VIEW, view, row) for row in rows.tolist()])


@dataclass(frozen=True)
class Tally:
    """Of each row: winner (B,) int64, the lowest view that gave the winning answer, its votes (B,) int64, and
    q_halt (B,) float64, the mean of the views that gave it."""

    winner: np.ndarray
    votes: np.ndarray
    q_halt: np.ndarray


def tally(first: np.ndarray, q_halt: np.ndarray) -> Tally:
    """Elect an answer per row: most votes, then the higher mean q_halt, then the lower view.

    first (B, V) int64: for each view the lowest view with the same answer. q_halt (B, V). A mean that is NaN is below
    all others.
    """
    rows = np.arange(len(first))
    votes = np.zeros(first.shape, np.int64)
    totals = np.zeros(first.shape)
    np.add.at(votes, (rows[:, None], first), 1)
    np.add.at(totals, (rows[:, None], first), q_halt)
    means = np.divide(totals, votes, out=np.full(first.shape, -np.inf), where=votes > 0)
    views = np.broadcast_to(np.arange(first.shape[1]), first.shape)
    # lexsort sorts in ascending order and puts NaN last.
    winner = np.lexsort((views, -means, -votes), axis=-1)[:, 0]
    return Tally(winner, votes[rows, winner], means[rows, winner])


class VoteInference(Inference):
    """The most frequent whole grid among the answers of `inner` to `num_views` views of each puzzle.

    View 0 is the puzzle as it is; view v >= 1 of a row is its image under a symmetry of the task, which depends on
    (seed, `batch["row"]`, v) only: not on the batch, its order or the number of processes. Answers are mapped back by
    the inverse symmetry before they are compared. Ties go to the higher mean q_halt, then to the lower view. With one
    view it is `inner`, to the bit. Views are answered one after the other: the model sees batches of the same
    size as without votes.

    Args:
        inner: answers each view. It sees the labels in view 0 only; in the others they are ignored labels.
        num_views: at least 1, and no more than the task has. seed: of the symmetries.
    Errors: `UserError` for another number, and from `predict` when rows or vocabulary are not those of the task.
    """

    name = "vote"

    def __init__(self, inner: Inference, num_views: int, task: PuzzleTask, seed: int) -> None:
        if num_views < 1:
            raise UserError(f"a vote of {num_views} views: expected at least 1")
        if task.num_views is not None and num_views > task.num_views:
            raise UserError(f"a vote of {num_views} views: {task} has {task.num_views}, the puzzle itself included")
        self.inner, self.num_views, self.task, self.seed = inner, num_views, task, seed

    @torch.no_grad()
    def predict(self, model: RecursiveModel, batch: Batch) -> VotedPredictions:
        """answers: the elected grids. q_halt: mean over the views that gave them. steps and logits: of the lowest of
        these views, logits in the order of the original cells and tokens. forward_passes: of all views together."""
        self._check(batch["inputs"].shape[1], self.task.seq_len, "tokens per row")
        answers: list[Tensor] = []
        q_halt: list[Tensor] = []
        steps: list[Tensor] = []
        first: list[Tensor] = []
        # Logits take most of the memory: a view's are kept only where it is the first with its answer and so may win.
        kept: list[tuple[Tensor, Tensor]] = []
        forward_passes = 0
        for view in range(self.num_views):
            predictions = self._answer(model, batch, view)
            answers.append(predictions.answers)
            q_halt.append(predictions.q_halt)
            steps.append(predictions.steps)
            forward_passes += predictions.forward_passes
            same = torch.stack([(predictions.answers == other).all(dim=-1) for other in answers], dim=1)
            first.append(same.int().argmax(dim=1))
            new = (first[-1] == view).nonzero()[:, 0]
            kept.append((new, predictions.logits[new]))
        result = tally(torch.stack(first, 1).cpu().numpy(), torch.stack(q_halt, 1).cpu().double().numpy())
        device = answers[0].device
        winner = torch.from_numpy(result.winner).to(device)
        logits = torch.empty_like(predictions.logits)
        for view, (new, values) in enumerate(kept):
            wins = winner[new] == view
            logits[new[wins]] = values[wins]
        rows = torch.arange(len(winner), device=device)
        return VotedPredictions(
            answers=torch.stack(answers)[winner, rows],
            q_halt=torch.from_numpy(result.q_halt).to(q_halt[0].dtype).to(device),
            steps=torch.stack(steps)[winner, rows],
            logits=logits,
            forward_passes=forward_passes,
            votes=torch.from_numpy(result.votes).to(device),
        )

    def _answer(self, model: RecursiveModel, batch: Batch, view: int) -> Predictions:
        """What `inner` says to one view, as if it had been asked the puzzle itself."""
        if view == 0:
            predictions = self.inner.predict(model, batch)
            self._check(predictions.logits.shape[-1], self.task.vocab_size, "tokens in the vocabulary")
            return predictions
        rows = batch["row"].cpu().numpy()
        views = row_views(self.task, rows, view, self.seed)
        inputs = _on_tensor(views, batch["inputs"])
        seen = batch | {"inputs": inputs, "labels": torch.full_like(batch["labels"], IGNORE_LABEL_ID)}
        predictions = self.inner.predict(model, seen)
        back = views.inverse()
        # The view shows token t of the puzzle as tokens[t], so that t's logit is found there.
        cells = torch.from_numpy(back.cells).to(predictions.logits.device)
        tokens = torch.from_numpy(views.tokens.astype(np.int64)).to(predictions.logits.device)
        logits = predictions.logits.gather(1, cells[:, :, None].expand_as(predictions.logits))
        logits = logits.gather(2, tokens[:, None, :].expand_as(logits))
        return Predictions(
            answers=_on_tensor(back, predictions.answers),
            q_halt=predictions.q_halt,
            steps=predictions.steps,
            logits=logits,
            forward_passes=predictions.forward_passes,
        )

    def _check(self, found: int, expected: int, what: str) -> None:
        if found != expected:
            raise UserError(f"a vote over views of {self.task} needs {expected} {what}; found {found}")


def _on_tensor(views: Views, tokens: Tensor) -> Tensor:
    """The views of tokens (B, S), of the same dtype and on the same device."""
    return torch.from_numpy(views.apply(tokens.cpu().numpy())).to(tokens.device, tokens.dtype)
