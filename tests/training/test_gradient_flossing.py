"""Flossing HRM and TRM: its loss and gradient, when and where it acts, what it leaves alone, exact resume."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dynamics.lyapunov import lyapunov_spectrum
from errors import UserError
from models.recursion_maps import RecursionMaps
from tests.helpers import (
    ARCHITECTURES,
    assert_same_state,
    differences,
    logged_training,
    merged,
    read_state,
    tiny_config,
    train_here,
)
from tests.models.small import ARCHITECTURES as SMALL
from tests.models.small import small_batch, small_model
from tests.training import rank_jobs
from tests.training.comparison import puzzle_folder, relative_difference
from tests.training.ranks import run_ranks
from training.distributed import World
from training.noise import draw_noise
from training.objectives.act_streaming import ACTStreaming
from training.objectives.base import UpdateContext
from training.objectives.choose import build_objective
from training.objectives.flossing import Flossing
from training.settings.identity import config_hash, run_identity
from training.settings.schema import FlossConfig
from training.start import build_run
from training.storage.weights import load_weights
from training.terms.gradient_flossing import Window, choose_window, flossing_loss
from training.update import train_on_batch

INTER = ["floss.mode=inter", "floss.k=2", "floss.rows=3"]
BASE = FlossConfig(mode="inter", k=3, window=1, warmup=1, rows=None, where="late", clip=None)


# -- the loss


def by_hand(name: str, settings: FlossConfig, window: Window, size: int = 2) -> Tensor:
    """Exponents per unit from lyapunov_spectrum over the model's own sub-updates, (B, k)."""
    maps = RecursionMaps(small_model(name).eval(), small_batch(size))
    state = maps.initial_state
    shape = (2 * state.z_H[0].numel(), settings.k)
    tangents = draw_noise(7, 5, range(size), shape, "floss/tangents").double()
    with torch.no_grad():
        for _ in range(window.begin - settings.warmup):
            state = maps.step(state)
        if settings.warmup:
            first = lyapunov_spectrum(
                maps.sub_updates, state, num_exponents=settings.k, num_steps=settings.warmup, initial_tangents=tangents
            )
            state, tangents = first.final_state, first.final_tangents
        updates = (maps.sub_updates * settings.window)[: window.updates]
        found = lyapunov_spectrum(updates, state, num_exponents=settings.k, num_steps=1, initial_tangents=tangents)
    return found.exponents / settings.window


CASES = {
    "late": BASE,
    "target_and_window": replace(BASE, target=-0.5, window=2),
    "sub_updates": replace(BASE, unit="sub_update", window=4, qr_interval=2),
    "no_warmup": replace(BASE, warmup=0, where="all"),
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("name", SMALL)
def test_loss_and_metrics(name: str, settings: FlossConfig) -> None:
    found = flossing_loss(small_model(name), small_batch(2), range(2), settings, 7, 5)
    window = choose_window(settings, 6, 4, 7, 5)
    exponents = by_hand(name, settings, window)
    assert found.rows == 2 and found.metric_sums["floss/degenerate"] == 0
    expected = (exponents - settings.target).square().mean(dim=1).sum()
    torch.testing.assert_close(found.loss_sum.detach(), expected, rtol=1e-9, atol=1e-9)
    for which, column in (("first", 0), ("last", -1)):
        torch.testing.assert_close(
            found.metric_sums[f"floss/exponent_{which}"], exponents[:, column].sum(), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_gradient_against_differences(name: str, dtype: torch.dtype) -> None:
    """Along a random direction of each weight that moves the map. The window starts at z0, which is a constant.

    The map of SRM is linear in pieces. Its derivative, and so the loss, jumps where the state crosses from one piece to
    another: the difference must not reach so far. It does not see what only shifts the state. And its first weights are
    orthonormal, where the absolute products by which they are scaled have a kink: a start beside it is taken.
    """
    settings = replace(BASE, warmup=0, where="all", k=2)
    model, batch = small_model(name), small_batch(2)
    in_pieces = name == "srm"
    if in_pieces:
        draws = torch.Generator().manual_seed(9)
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if key.endswith("mixing"):
                    weight += 0.05 * torch.randn(weight.shape, generator=draws, dtype=torch.float64)
    step = next(number for number in range(50) if choose_window(settings, 6, 4, 7, number).begin == 0)

    def loss(of: Any) -> Tensor:
        return flossing_loss(of, batch, range(2), settings, 7, step).loss_sum

    trained = small_model(name, dtype=dtype)
    trained.load_state_dict(model.state_dict())  # draws differ by dtype
    parameters = {key: p for key, p in trained.named_parameters() if "level" in key or "embed_tokens" in key}
    assert len(parameters) >= 4
    found = dict(zip(parameters, torch.autograd.grad(loss(trained), list(parameters.values())), strict=True))
    h = 5e-8 if in_pieces else 2e-5
    for key, weight in model.named_parameters():
        if key not in parameters:
            continue
        change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        at = {}
        for sign in (-2, -1, 1, 2):
            with torch.no_grad():
                weight += sign * h * change
            at[sign] = loss(model).detach()
            with torch.no_grad():
                weight -= sign * h * change
        expected = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
        tolerance = {"rtol": 1e-6, "atol": 1e-7} if dtype == torch.float64 else {"rtol": 5e-3, "atol": 5e-3}
        torch.testing.assert_close((found[key].double() * change).sum(), expected, **tolerance)
        shifts = in_pieces and key.endswith(("embedding_weight", "input_proj.weight"))
        assert expected == 0 if shifts else abs(float(expected)) > 1e-5


def test_the_heads_and_the_table_get_nothing() -> None:
    model = small_model("trm-att").train()
    found = flossing_loss(model, small_batch(2), range(2), BASE, 7, 5)
    gradients = torch.autograd.grad(found.loss_sum, list(model.parameters()), allow_unused=True)
    unused = {name for (name, _), g in zip(model.named_parameters(), gradients, strict=True) if g is None}
    assert unused == {"lm_head.weight", "q_head.weight", "q_head.bias"}
    assert model.puzzle_emb is not None and model.puzzle_emb.take_gathers() == []


def test_windows() -> None:
    late = replace(BASE, window=2)
    assert choose_window(late, 6, 8, 0, 0) == Window(6, 12)
    assert choose_window(replace(late, where="failed"), 6, 8, 0, 1) == Window(6, 12)
    assert choose_window(replace(late, unit="sub_update", window=7), 6, 8, 0, 0) == Window(6, 7)
    begins = [choose_window(replace(late, where="all"), 6, 8, 0, step).begin for step in range(400)]
    assert set(begins) == {1, 2, 3, 4, 5, 6}
    assert min(begins.count(place) for place in range(1, 7)) > 40


def test_failed_rows_only() -> None:
    """Labels made right for two rows of four: the loss is that of the other two, and of none when all are right."""
    model, batch = small_model("trm-att").eval(), small_batch(4)
    settings = replace(BASE, where="failed")
    maps = RecursionMaps(model, batch)
    state = maps.initial_state
    with torch.no_grad():
        for _ in range(4):
            state = maps.step(state)
    answers = maps.logits(state).argmax(dim=-1).to(torch.int32).detach()
    batch["labels"] = (answers + 1) % 5
    everything = flossing_loss(model, batch, range(4), settings, 7, 5)
    assert everything.rows == 4
    batch["labels"][[0, 2]] = answers[[0, 2]]
    found = flossing_loss(model, batch, range(4), settings, 7, 5)
    assert found.rows == 2
    part = {name: leaf[[1, 3]] for name, leaf in batch.items()}
    # Tangents go by slot, not by place.
    alone = [flossing_loss(model, {k: v[i : i + 1] for k, v in part.items()}, range(s, s + 1), settings, 7, 5)
             for i, s in enumerate((1, 3))]  # fmt: skip
    torch.testing.assert_close(found.loss_sum, alone[0].loss_sum + alone[1].loss_sum, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(found.loss_sum, everything.loss_sum)
    batch["labels"] = answers
    nothing = flossing_loss(model, batch, range(4), settings, 7, 5)
    assert nothing.rows == 0 and nothing.loss_sum == 0 and not nothing.loss_sum.requires_grad
    assert nothing.metric_sums.keys() == found.metric_sums.keys()


def test_the_first_slots_only() -> None:
    model, batch = small_model("hrm").eval(), small_batch(4)
    found = flossing_loss(model, batch, range(2, 6), replace(BASE, rows=4), 7, 5)
    assert found.rows == 2
    assert flossing_loss(model, batch, range(4, 8), replace(BASE, rows=4), 7, 5).rows == 0


# -- the schedule


def test_when_it_flosses() -> None:
    def marks(**settings: Any) -> str:
        one = Flossing(ACTStreaming("softmax_cross_entropy"), FlossConfig(pre_steps=3, every=2, **settings))
        return "".join("a" if one.flosses_alone(s) else "b" if one.flosses_beside(s) else "-" for s in range(8))

    assert marks(mode="pre") == "aaa-----"
    assert marks(mode="inter") == "b-b-b-b-"
    assert marks(mode="pre_inter") == "aaa-b-b-"


@pytest.mark.parametrize(
    "options", [["floss.mode=off"], ["floss.mode=pre_inter", "floss.weight=0"]], ids=["off", "zero"]
)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_off_is_the_baseline(arch: str, options: list[str], sudoku6_folder: Path, tmp_path: Path) -> None:
    for name, more in (("plain", []), ("off", options)):
        train_here(arch, sudoku6_folder, tmp_path / name, ["max_steps=6", *more])
    assert_same_state(tmp_path / "plain", tmp_path / "off")
    assert logged_training(tmp_path / "plain") == logged_training(tmp_path / "off")
    plain, off = (tiny_config(arch, sudoku6_folder, tmp_path, more) for more in ([], options))
    assert config_hash(plain) == config_hash(off) and run_identity(plain) == run_identity(off)
    assert not isinstance(build_objective(off), Flossing)


def test_between_its_updates_it_is_the_baseline(sudoku6_folder: Path, tmp_path: Path) -> None:
    """`inter` at updates 1, 5, 9, ...: the first update differs; from one state on, the next three do not."""
    options = [*INTER, "floss.every=4"]
    train_here("trm_att", sudoku6_folder, tmp_path, [*options, "max_steps=5"])
    lines = logged_training(tmp_path)
    assert [line.get("train/floss/updates", 0) for line in lines] == [1, 0, 0, 0, 1]
    runs = []
    for more in (options, []):
        config = tiny_config("trm_att", sudoku6_folder, tmp_path / "other", more)
        run = build_run(config, World(), build_objective(config))
        run.progress.step = 1
        batch, _ = run.source.next(run.progress.position)
        train_on_batch(run, batch, stop_requested=False)
        runs.append({name: p.detach() for name, p in run.model.named_parameters()})
    assert differences(*runs) == []


def gradients_of(run: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    hook = rank_jobs.RecordUpdate()
    run.hooks = [hook]
    train_on_batch(run, batch, stop_requested=False)
    return hook.gradients


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_what_is_added_to_the_gradient(clip: float | None, sudoku6_folder: Path, tmp_path: Path) -> None:
    """weight x (flossing's mean gradient, clipped) beside the task's; its norm is logged as it was before."""
    common = ["dtype=float64", "floss.k=2", "floss.rows=3", "floss.weight=0.25", f"floss.clip={clip or 'null'}"]
    made = {}
    for mode in ("off", "inter"):
        config = tiny_config("hrm", sudoku6_folder, tmp_path / mode, [*common, f"floss.mode={mode}"])
        run = build_run(config, World(), build_objective(config))
        batch, _ = run.source.next(run.progress.position)
        made[mode] = (gradients_of(run, dict(batch)), run)
    run = build_run(config, World(), build_objective(config))
    found = flossing_loss(run.model, batch, range(8), config.floss, config.seed, 0)
    names = [name for name, _ in run.model.named_parameters()]
    raw = torch.autograd.grad(found.loss_sum / found.rows, list(run.model.parameters()), allow_unused=True)
    own = {name: g for name, g in zip(names, raw, strict=True) if g is not None}
    norm = torch.stack([g.norm() for g in own.values()]).norm()
    factor = 0.25 * (1.0 if clip is None else clip / float(norm))
    assert float(norm) > 1e-3
    for name, gradient in made["inter"][0].items():
        added = gradient - made["off"][0][name]
        expected = own[name] * factor if name in own else torch.zeros_like(added)
        torch.testing.assert_close(added, expected, rtol=1e-7, atol=1e-12)


def test_what_is_logged(sudoku6_folder: Path, tmp_path: Path) -> None:
    options = ["floss.mode=pre_inter", "floss.pre_steps=2", "floss.every=3", "floss.k=2", "floss.rows=3"]
    train_here("trm_mlp", sudoku6_folder, tmp_path, [*options, "log_interval=3", "max_steps=6", "floss.clip=1e-4"])
    first, second = (line for line in logged_training(tmp_path) if "event" not in line)
    assert first["train/floss/updates"] == 2 and first["train/floss/rows"] == 6 and first["train/floss/clipped"] == 1
    assert second["train/floss/updates"] == 1 and second["train/floss/rows"] == 3
    for line in (first, second):
        assert line["train/floss/loss"] > 0 and line["train/floss/grad_norm"] > 1e-4
        assert line["train/floss/exponent_first"] >= line["train/floss/exponent_last"]
    # Two of the first three updates have no task.
    assert first["train/samples"] == 8 and second["train/samples"] == 4 * 8
    assert first["train/lm_loss"] > 0.5


def test_flossing_alone_lowers_its_loss(sudoku6_folder: Path, tmp_path: Path) -> None:
    options = ["floss.mode=pre", "floss.pre_steps=24", "floss.k=2", "floss.where=late", "lr=1e-2", "lr_warmup_steps=0"]
    train_here("trm_mlp", sudoku6_folder, tmp_path, [*options, "weight_decay=0", "max_steps=24"])
    losses = [line["train/floss/loss"] for line in logged_training(tmp_path) if "event" not in line]
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])
    assert all(line["train/loss"] == 0 for line in logged_training(tmp_path) if "train/loss" in line)


# -- resume, several processes


@pytest.mark.parametrize(
    ("arch", "mode"), [*((arch, "pre_inter") for arch in ARCHITECTURES), ("trm_att", "pre"), ("trm_att", "inter")]
)
def test_stop_and_go_on(arch: str, mode: str, sudoku6_folder: Path, tmp_path: Path) -> None:
    """Cut inside the first updates and behind them: every tensor of the state, every logged number, all weights."""
    options = [f"floss.mode={mode}", "floss.k=2", "floss.rows=3", "floss.pre_steps=5", "floss.every=3"]
    options.append("arch.L_cycles=1")  # no fewer updates, only shorter ones
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, step in ((whole, 14), (parts, 3), (parts, 9), (parts, 14)):
        train_here(arch, sudoku6_folder, folder, [*options, "log_interval=4", f"max_steps={step}"])
    assert_same_state(whole, parts)
    assert logged_training(whole) == logged_training(parts) != []
    for name in ("final.pt", "best.pt"):
        assert differences(load_weights(whole / name), load_weights(parts / name)) == []
    assert any(line.get("train/floss/updates") for line in logged_training(whole))


def test_a_state_goes_on_under_its_own_flossing_only(sudoku6_folder: Path, tmp_path: Path) -> None:
    train_here("trm_att", sudoku6_folder, tmp_path, [*INTER, "max_steps=2"])
    before = (tmp_path / "latest_state.pt").read_bytes()
    for change, named in ((["floss.k=3"], "floss.k: saved 2, now 3"), (["floss.weight=0"], "floss.mode")):
        with pytest.raises(UserError, match="is the state of another run") as caught:
            train_here("trm_att", sudoku6_folder, tmp_path, merged(INTER, change, ["max_steps=4"]))
        assert named in str(caught.value)
    assert (tmp_path / "latest_state.pt").read_bytes() == before


@pytest.mark.parametrize("where", ["late", "failed"])
@pytest.mark.parametrize("rows", ["13", "null"])
def test_one_update_on_two_ranks_is_the_update_of_one(where: str, rows: str, tmp_path: Path) -> None:
    """With 13 rows of 40 the second rank has none."""
    data = str(puzzle_folder(tmp_path / "data"))
    options = [*merged(INTER, [f"floss.rows={rows}", f"floss.where={where}"]), "objective.name=baseline_ce"]
    shared = {"arch": "trm_att", "data": data, "folder": str(tmp_path), "options": options, "updates": [0, 5]}
    one = rank_jobs.perturbed_updates(World(), **shared)
    two = run_ranks("perturbed_updates", **shared)
    for alone, first, second in zip(one, *two, strict=True):
        assert differences(first, second) == []
        for name, tensor in alone["gradients"].items():
            assert relative_difference(tensor, first["gradients"][name]) <= 1e-9, name
        for name, value in alone["metrics"].items():
            assert first["metrics"][name] == pytest.approx(value, rel=1e-9), name
        assert alone["metrics"]["floss/updates"] == 1
        if where == "late":
            assert alone["metrics"]["floss/rows"] == (13 if rows == "13" else 40)


# -- settings


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["floss.mode=before"], "floss.mode.*one of: off, pre, inter"),
        (["floss.mode=pre", "floss.window=4"], "floss.window.*5 steps.*at most 4 supervision steps"),
        (["floss.mode=pre", "floss.unit=sub_update", "floss.window=19"], "floss.window"),
        (["floss.mode=pre", "floss.qr_interval=4"], "floss.qr_interval.*a divisor of the window's 6 sub-updates"),
        (["floss.mode=pre", "dtype=bfloat16"], "dtype.*bfloat16 loses tangents"),
        (["floss.mode=pre", "freeze_weights=True", "ema=False"], "freeze_weights=True trains no weight"),
        (["floss.k=0"], "floss.k.*a number from 1"),
        (["floss.target=nan"], "floss.target.*a finite number"),
        (["floss.clip=0"], "floss.clip.*above 0"),
    ],
)
def test_settings_that_cannot_run(options: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        tiny_config("trm_att", "data", "run", options)


def test_precision_follows(tmp_path: Path) -> None:
    config = tiny_config("trm_att", "data", "run", ["floss.mode=pre", "dtype=auto"])
    assert (config.dtype, config.state_dtype) == ("float32", "float32")
    assert tiny_config("trm_att", "data", "run", ["dtype=auto"]).dtype == "auto"


def test_compiled_stacks_are_flossed_uncompiled() -> None:
    """The same loss and gradient; a compiled map has no tangents."""
    plain, compiled = small_model("trm-mlp"), small_model("trm-mlp")
    compiled.compile_stacks(backend="eager")
    found = []
    for model in (plain, compiled):
        loss = flossing_loss(model, small_batch(2), range(2), BASE, 7, 5).loss_sum
        found.append((loss.detach(), torch.autograd.grad(loss, model.embed_tokens.embedding_weight)[0]))
    assert differences(found[0], found[1]) == []
    context = UpdateContext(step=0, seed=7, slots=slice(0, 2), num_slots=2)
    outputs = list(Flossing(ACTStreaming("softmax_cross_entropy"), BASE).outputs(compiled, small_batch(2), context))
    assert [one.apart is not None for one in outputs] == [False, True]


def test_the_state_of_a_run_that_only_flossed_so_far(sudoku6_folder: Path, tmp_path: Path) -> None:
    train_here("trm_att", sudoku6_folder, tmp_path, ["floss.mode=pre", "floss.pre_steps=9", "floss.k=1", "max_steps=2"])
    state = read_state(tmp_path)
    assert state["carry"] is None and state["samples_seen"] == 0 and state["extra_passes"] > 0
