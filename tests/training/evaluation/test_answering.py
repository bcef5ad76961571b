"""Evaluation: what is counted, over padding, batches and processes."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.act import Batch
from models.recursive_model import RecursiveModel
from tests.models.small import ARCHITECTURES, small_batch, small_model
from tests.training import rank_jobs
from tests.training.ranks import run_ranks
from training.distributed import World
from training.evaluation.answering import AccuracyEvaluator, Evaluator, describe_rate, evaluate
from training.inference.base import Predictions
from training.inference.fixed import OfficialInference
from training.records.result_numbers import wilson_interval

STABLEMAX = "stablemax_cross_entropy"


def predictions(answers: list[list[int]], q: list[float], steps: int = 4) -> Predictions:
    """Predictions whose logits are 3 at the answer and 0 elsewhere, of 5 tokens."""
    tokens = torch.tensor(answers)
    logits = 3.0 * F.one_hot(tokens, 5).double()
    return Predictions(tokens, torch.tensor(q), torch.full((len(q),), steps), logits, len(q) * steps)


def labelled(labels: list[list[int]]) -> Batch:
    return {"labels": torch.tensor(labels)}


def test_sums_and_means_by_hand() -> None:
    evaluator = AccuracyEvaluator(STABLEMAX)
    evaluator.begin()
    labels = [[1, 2, 3], [1, -100, 3], [1, 2, 3]]
    evaluator.update(labelled(labels), predictions([[1, 2, 3], [1, 0, 3], [1, 0, 0]], [1.0, -1.0, -2.0]))
    evaluator.update(labelled([[-100] * 3, [4, 4, 4]]), predictions([[0, 0, 0], [4, 4, 0]], [5.0, 0.0]))
    result = evaluator.metrics()
    hit, miss = math.log(8 / 4), math.log(8 / 1)
    losses = [hit, hit, (hit + 2 * miss) / 3, (2 * hit + miss) / 3]
    assert result["count"] == 4 and result["exact_count"] == 2 and result["exact_accuracy"] == 0.5
    assert result["accuracy"] == pytest.approx((1 + 1 + 1 / 3 + 2 / 3) / 4, abs=1e-12)
    assert result["lm_loss"] == pytest.approx(sum(losses) / 4, abs=1e-12)
    # Exact with q > 0, exact with q < 0, wrong with q < 0, wrong with q = 0 (counted as "halt").
    assert result["q_halt_accuracy"] == 0.5
    assert result["steps"] == 4


def test_begin_forgets() -> None:
    evaluator = AccuracyEvaluator(STABLEMAX)
    for _ in range(2):
        evaluator.begin()
        evaluator.update(labelled([[1, 2, 3]]), predictions([[1, 2, 3]], [1.0]))
    assert evaluator.metrics()["count"] == 1


def test_nothing_to_judge_gives_no_rate() -> None:
    evaluator = AccuracyEvaluator(STABLEMAX)
    evaluator.begin()
    evaluator.update(labelled([[-100, -100, -100]]), predictions([[1, 2, 3]], [1.0]))
    assert evaluator.metrics() == {"count": 0.0, "exact_count": 0.0}


def test_answers_are_judged_not_logits() -> None:
    """An inference that votes returns answers that are no argmax of its logits; exactness is theirs."""
    evaluator = AccuracyEvaluator(STABLEMAX)
    evaluator.begin()
    voted = predictions([[1, 2, 3]], [1.0])
    voted = replace(voted, answers=torch.tensor([[1, 2, 0]]))
    evaluator.update(labelled([[1, 2, 3]]), voted)
    assert evaluator.metrics()["exact_count"] == 0


def pad(batch: Batch, size: int) -> Batch:
    """The batch filled up as `EvalBatches` does."""
    missing = size - len(batch["inputs"])
    fill = {"inputs": 0, "labels": -100, "puzzle_identifiers": 0}
    return {key: torch.cat([leaf, leaf.new_full((missing, *leaf.shape[1:]), fill[key])]) for key, leaf in batch.items()}


def run(model: RecursiveModel, batches: list[Batch], world: World | None = None) -> dict[str, float]:
    accuracy = AccuracyEvaluator(STABLEMAX)
    cost = evaluate(model, batches, OfficialInference(), [accuracy], world or World())
    return cost | accuracy.report()


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> RecursiveModel:
    return small_model(request.param)


def solvable(model: RecursiveModel, size: int, seed: int = 0) -> Batch:
    """A batch of which the model solves every second row: its labels are its own answers."""
    batch = small_batch(size, seed)
    answers = OfficialInference().predict(model.eval(), batch).answers.int()
    labels = answers.clone()
    labels[1::2, 0] = (labels[1::2, 0] + 1) % 5
    return batch | {"labels": labels}


def assert_same_numbers(first: dict[str, float], second: dict[str, float]) -> None:
    """Equal but for what the evaluation cost, which depends on padding and on the machine."""
    assert first.keys() == second.keys()
    for name in first.keys() - {"forward_passes", "seconds"}:
        value = first[name]
        # Rows are independent, but a matrix product may round differently at another batch size.
        assert value == pytest.approx(second[name], rel=1e-9), name


def test_padding_does_not_count(model: RecursiveModel) -> None:
    batch = solvable(model, 5)
    plain, padded = run(model, [batch]), run(model, [pad(batch, 8)])
    assert (plain["exact_count"], plain["count"], plain["rows"]) == (3, 5, 5)
    assert (plain["forward_passes"], padded["forward_passes"]) == (5 * 4, 8 * 4)
    assert plain["accuracy"] == pytest.approx((3 + 2 * 5 / 6) / 5)
    assert_same_numbers(plain, padded)


def test_cutting_rows_into_batches_changes_nothing(model: RecursiveModel) -> None:
    batch = solvable(model, 7)
    cut = [{key: leaf[part] for key, leaf in batch.items()} for part in (slice(0, 3), slice(3, 6), slice(6, 7))]
    assert_same_numbers(run(model, [batch]), run(model, [cut[0], cut[1], pad(cut[2], 3)]))


class Shard(World):
    """One process of several; keeps its numbers for the others instead of sending them."""

    def __init__(self, rank: int, size: int, sent: dict[int, list[list[float]]]) -> None:
        super().__init__(rank, size)
        self.sent, self.calls = sent, 0

    def sum_numbers(self, values: list[float], device: torch.device | None = None) -> list[float]:  # type: ignore[override]
        """Added to what the processes before this one gave to the same call."""
        self.calls += 1
        given = self.sent.setdefault(self.calls, [])
        given.append(list(values))
        return [sum(column) for column in zip(*given, strict=True)]


@pytest.mark.parametrize("size", [2, 3])
def test_processes_judge_the_rows_of_one(model: RecursiveModel, size: int) -> None:
    """Each row is judged by exactly one of the processes, whatever their number; sums are of raw counts."""
    batches = [solvable(model, 6, seed=0), pad(solvable(model, 4, seed=1), 6)]
    sent: dict[int, list[list[float]]] = {}
    results = [run(model, batches, Shard(rank, size, sent)) for rank in range(size)]
    assert_same_numbers(run(model, batches), results[-1])
    assert (results[-1]["count"], results[-1]["forward_passes"]) == (10, 12 * 4)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("count", [1, 13])
def test_two_processes_evaluate_what_one_does(count: int, adaptive: bool) -> None:
    """Over gloo: the same result on both, disjoint rows, also where one of them has none."""
    alone = rank_jobs.evaluated_here(World(), "hrm", count, adaptive)
    ranks = run_ranks("evaluated_here", arch="hrm", count=count, adaptive=adaptive)
    assert ranks[0]["result"] == ranks[1]["result"] and ranks[0]["counts"] == ranks[1]["counts"]
    assert_same_numbers(alone["result"], ranks[0]["result"])
    assert alone["result"]["forward_passes"] == ranks[0]["result"]["forward_passes"]
    assert alone["counts"] == ranks[0]["counts"] and all(rank["seconds"] > 0 for rank in ranks)
    rows = torch.cat([rank["arrays"]["row"] for rank in ranks])
    assert rows.sort().values.tolist() == list(range(count)) == alone["arrays"]["row"].tolist()
    for name in ("preds", "steps"):
        parts = [rank["arrays"][name] for rank in ranks if len(rank["arrays"]["row"])]
        assert torch.equal(torch.cat(parts)[rows.argsort()], alone["arrays"][name])


def test_evaluation_restores_the_mode_and_leaves_no_trace(model: RecursiveModel) -> None:
    batch = small_batch()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for training in (True, False):
        model.train(training)
        run(model, [batch])
        assert model.training is training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.puzzle_emb is not None and model.puzzle_emb.take_gathers() == []
    assert all(parameter.grad is None for parameter in model.parameters())


def wilson_by_hand(successes: int, total: int) -> tuple[float, float]:
    z, rate = 1.959963984540054, successes / total
    centre = (rate + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    return centre - half, centre + half


@pytest.mark.parametrize(("successes", "total"), [(1, 10), (5, 10), (426, 500), (9, 10), (0, 7), (7, 7)])
def test_wilson_interval_is_the_formula(successes: int, total: int) -> None:
    low, high = wilson_interval(successes, total)
    expected = wilson_by_hand(successes, total)
    assert low == pytest.approx(expected[0], abs=1e-12) and high == pytest.approx(expected[1], abs=1e-12)


def test_wilson_interval_at_the_ends() -> None:
    """0 of 10 has the published interval 0 to 0.2775; no trials have none."""
    low, high = wilson_interval(0, 10)
    assert low == pytest.approx(0, abs=1e-12) and high == pytest.approx(0.2775, abs=5e-5)
    assert all(math.isnan(end) for end in wilson_interval(0, 0))


def test_rates_are_described_with_numerator_and_denominator() -> None:
    assert describe_rate({"exact_count": 426.0, "count": 500.0}) == ("exact_accuracy 0.8520 (426/500, 95% 0.818-0.880)")
    assert describe_rate({"exact_count": 0.0, "count": 0.0}) == "exact_accuracy of 0 rows"


def test_several_evaluators_see_the_same_predictions(model: RecursiveModel) -> None:
    class Seen(Evaluator):
        def begin(self) -> None:
            self.sums = {"answers": 0.0}

        def update(self, batch: Batch, predictions: Predictions) -> None:
            self.sums["answers"] += float(predictions.answers.sum())

        def report(self) -> dict[str, float]:
            return dict(self.sums)

    batch = small_batch()
    answers: Tensor = OfficialInference().predict(model.eval(), batch).answers
    accuracy, seen = AccuracyEvaluator(STABLEMAX), Seen()
    evaluate(model, [batch], OfficialInference(), [accuracy, seen], World())
    assert seen.report() == {"answers": float(answers.sum())} and accuracy.report()["count"] == 4


def test_an_evaluator_may_gather_rows_instead_of_sums() -> None:
    """`gather` is called once, after the last row."""

    class Ordered(Evaluator):
        def begin(self) -> None:
            self.sums, self.called = {}, ["begin"]

        def update(self, batch: Batch, predictions: Predictions) -> None:
            self.called.append("update")

        def gather(self, world: World) -> None:
            self.called.append(f"gather {world.size}")

        def report(self) -> list[str]:
            return self.called

    evaluator = Ordered()
    evaluate(small_model("hrm"), [small_batch(2), small_batch(2)], OfficialInference(), [evaluator], World(0, 1))
    assert evaluator.report() == ["begin", "update", "update", "gather 1"]


def test_sums_are_added_by_name() -> None:
    class Doubled(World):
        def sum_numbers(self, values: list[float], device: torch.device | None = None) -> list[float]:  # type: ignore[override]
            return [2 * value for value in values]

    evaluator = AccuracyEvaluator(STABLEMAX)
    evaluator.begin()
    evaluator.update(labelled([[1, 2, 3]]), predictions([[1, 2, 0]], [1.0]))
    before = dict(evaluator.sums)
    evaluator.gather(Doubled())
    assert evaluator.sums == {name: 2 * value for name, value in before.items()}


def test_what_another_evaluator_has_seen_is_taken_in() -> None:
    """As if one had seen all rows; a sum that only the other has is taken as it is."""
    first, other, both = (AccuracyEvaluator(STABLEMAX) for _ in range(3))
    groups = [([[1, 2, 3]], [[1, 2, 0]]), ([[1, 2, 3], [4, 4, 4]], [[1, 2, 3], [4, 0, 4]])]
    for evaluator in (first, other, both):
        evaluator.begin()
    for (labels, answers), evaluator in zip(groups, (first, other), strict=True):
        for seer in (evaluator, both):
            seer.update(labelled(labels), predictions(answers, [1.0] * len(labels)))
    other.sums["of_the_other"] = 5.0
    first.add(other)
    assert first.sums == pytest.approx(both.sums | {"of_the_other": 5.0}, rel=1e-12)
