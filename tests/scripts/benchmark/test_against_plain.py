"""The yardstick is the same network, trains alike, and is refused where there is none. No assertion on time."""

import json
from pathlib import Path

import pytest
import torch

from errors import UserError
from models.registry import count_parameters
from scripts.benchmark import against_plain
from scripts.benchmark.against_plain import in_turns, measure_once
from scripts.benchmark.measures import training_step
from scripts.benchmark.plain_network import PlainStack, largest_difference, plain_copy, plain_update
from scripts.benchmark.setup import compose_preset, data_shape, synthetic_run

TINY = {
    "device": "cpu", "global_batch_size": "4", "threads": "1", "compile": "False", "arch.hidden_size": "16",
    "arch.num_heads": "2", "arch.halt_exploration_prob": "0",
}  # fmt: skip
KINDS = {
    "attention": {},
    "tokens": {"arch.mlp_t": "True", "arch.pos_encodings": "none"},
    "adam_atan2": {"optimizer": "adam_atan2", "ema": "True"},
}


@pytest.mark.parametrize("preset", ["smoke", "hrm_sudoku_6x6_cpu"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_networks_train_alike(preset: str, kind: str) -> None:
    """Three updates on one batch, in float64: equal weights up to rounding."""
    given = {**TINY, "dtype": "float64", "arch.loss.loss_type": "stablemax_cross_entropy", **KINDS[kind]}
    config = compose_preset(preset, {**given, "lr_warmup_steps": "0", "lr_min_ratio": "1"})
    with synthetic_run(config, data_shape(config, preset)) as run:
        plain = plain_copy(run.model)
        assert all(isinstance(stack, PlainStack) for stack in plain.stacks())
        assert count_parameters(plain) == count_parameters(run.model)
        batch, _ = run.source.next(run.progress.position)
        assert largest_difference(run.model, plain, batch) < 1e-12
        before = {name: weight.clone() for name, weight in run.model.state_dict().items()}
        theirs = plain_update(plain, config, batch)
        run.source.next = lambda position: (batch, position)  # type: ignore[method-assign]
        ours = training_step(run)
        for _ in range(3):
            ours()
            theirs()
        moved = 0.0
        for (name, weight), other in zip(run.model.state_dict().items(), plain.state_dict().values(), strict=True):
            torch.testing.assert_close(weight, other, rtol=1e-6, atol=1e-8)
            moved = max(moved, float((weight - before[name]).abs().max()))
        assert moved > 1e-3


def test_turns_are_drawn_anew() -> None:
    seen: list[str] = []
    seconds = in_turns({name: lambda name=name: seen.append(name) for name in ("a", "b")}, 8)  # type: ignore[misc]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 8, "b": 8}
    pairs = {tuple(seen[turn : turn + 2]) for turn in range(0, len(seen), 2)}
    assert pairs == {("a", "b"), ("b", "a")}


def test_a_network_without_official_formulas_is_refused() -> None:
    given = {"device": "cpu", "compile": "False", "global_batch_size": "2"}
    shape = data_shape(compose_preset("srm_sudoku_6x6_cpu", given), "srm_sudoku_6x6_cpu")
    with pytest.raises(UserError, match="only HRM and TRM have official formulas"):
        measure_once("srm_sudoku_6x6_cpu", given, shape, 1)


def test_another_network_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.benchmark.plain_network.rms_norm", lambda x, eps: x)
    config = compose_preset("smoke", TINY)
    with pytest.raises(UserError, match="answers otherwise"):
        measure_once("smoke", TINY, data_shape(config, "smoke"), 1)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One real process more; the record has each restart, and the ratio first."""
    file = tmp_path / "plain.json"
    words = [f"{key}={value}" for key, value in TINY.items() if key not in ("device", "compile")]
    against_plain.main(["--preset", "smoke", "--restarts", "1", "--repeats", "2", "--json", str(file), "--set", *words])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["suite", "update", "evaluation"]
    record = json.loads(file.read_text())
    (result,) = record["results"]
    first = record["record"]["numbers"][0]
    assert first["value"] == pytest.approx(result["training"]["suite"] / result["training"]["plain"], rel=1e-4)
    assert first["n"] == record["restarts"] == 1
    with pytest.raises(SystemExit) as leaving:
        against_plain.main(["--preset", "smoke", "--device", "cuda"])
    assert leaving.value.code == 2 and "CPU seconds" in capsys.readouterr().err
