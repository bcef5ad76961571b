"""Every objective with every term, hook and step of the source: exact resume, and several processes as one.

The ideas are those of the files in the rooms, with the settings that each says it is to be tried with.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from errors import UserError
from tests.helpers import assert_same_state, differences, logged_training, read_state, tiny_config, train_here
from tests.training import rank_jobs
from tests.training.comparison import puzzle_folder, relative_difference
from tests.training.ranks import run_ranks
from training.distributed import World
from training.rooms import HOOKS, STEPS, TERMS, Room
from training.start import build_run
from training.storage.weights import load_weights
from training.terms import halt_entropy

OBJECTIVES = {
    "act_streaming": [],
    **{
        rollout: [
            "objective.name=multi_perturbed_ce", "objective.num_trajectories=2", "objective.sigma=0.3",
            f"objective.rollout={rollout}",
        ]
        for rollout in ("parallel_fixed", "serial_act", "act_mask")
    },
}  # fmt: skip
SWITCHES = {"term": [], "hook": ["enabled=True"], "step": []}


def tried(room: Room, name: str) -> list[str]:
    """The options with which an idea says that it does something in a tiny run."""
    values = [f"{key}={value}" for key, value in room.settings_class(name).tried_with.items()]
    chosen = [f"source.steps=[{name}]"] if room is STEPS else []
    return [*chosen, *(f"{room.key}.{name}.{option}" for option in (*SWITCHES[room.key], *values))]


def declared(idea: str) -> set[str]:
    """The metrics of one idea, or of all."""
    rooms = {f"{room.key}.{name}": (room, room.settings_class(name)) for room in ROOMS for name in room.names()}
    kinds = rooms.values() if idea == "all" else [rooms[idea]]
    return {room.writes + name for room, kind in kinds for name in kind.metrics}


ROOMS = (TERMS, HOOKS, STEPS)
IDEAS = {f"{room.key}.{name}": tried(room, name) for room in ROOMS for name in room.names()}
ALL = [
    *(option for options in IDEAS.values() for option in options if not option.startswith("source.steps")),
    f"source.steps=[{','.join(reversed(STEPS.names()))}]",
]
COMBINATIONS = [
    pytest.param(objective, options, declared(name), id=f"{objective}-{name}")
    for objective in OBJECTIVES
    for name, options in (*IDEAS.items(), ("all", ALL))
]
SHORT = ["lr_warmup_steps=0", "max_steps=7"]


@pytest.fixture(scope="module")
def plain(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The state of each objective after 7 updates without any idea, and what it logged."""
    states = {}
    for name, options in OBJECTIVES.items():
        folder = tmp_path_factory.mktemp(name)
        train_here("trm_att", sudoku6_folder, folder, [*options, *SHORT])
        states[name] = {"state": read_state(folder), "logged": _keys(folder)}
    return states


def _keys(folder: Path) -> set[str]:
    return {key for line in logged_training(folder) for key in line}


@pytest.mark.parametrize(("objective", "idea", "metrics"), COMBINATIONS)
def test_it_takes_part_and_goes_on_bit_for_bit(
    objective: str,
    idea: list[str],
    metrics: set[str],
    plain: dict[str, dict[str, Any]],
    sudoku6_folder: Path,
    tmp_path: Path,
) -> None:
    """7 updates are 4 and, from the state, 3 more: all that is saved, all that is logged, all that is exported."""
    options = [*OBJECTIVES[objective], *idea, *SHORT[:-1]]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, step in ((whole, 7), (parts, 4), (parts, 7)):
        train_here("trm_att", sudoku6_folder, folder, [*options, f"max_steps={step}"])
    assert_same_state(whole, parts)
    assert logged_training(whole) == logged_training(parts) != []
    assert differences(load_weights(whole / "final.pt"), load_weights(parts / "final.pt")) == []
    without, with_it = plain[objective]["state"]["model"], read_state(whole)["model"]
    assert not torch.equal(without["lm_head.weight"], with_it["lm_head.weight"])
    assert _keys(whole) - plain[objective]["logged"] == metrics, "what is logged is what its owner declares"


@pytest.mark.parametrize("idea", IDEAS)
def test_off_means_off(idea: str, plain: dict[str, dict[str, Any]], sudoku6_folder: Path, tmp_path: Path) -> None:
    """With the switch off and all else left as it was, the run is the plain one to the bit, and of the same name."""
    room = idea.partition(".")[0]
    off = {"term": [f"{idea}.weight=0"], "hook": [f"{idea}.enabled=False"], "step": ["source.steps=[]"]}[room]
    switch = off[0].partition("=")[0]
    options = [*(option for option in IDEAS[idea] if room != "step" and not option.startswith(switch)), *off]
    train_here("trm_att", sudoku6_folder, tmp_path, [*options, *SHORT])
    assert differences(plain["act_streaming"]["state"], read_state(tmp_path), ignore=("train_seconds",)) == []
    named = [tiny_config("trm_att", sudoku6_folder, tmp_path, more).run_name for more in ([], options)]
    assert named[0] == named[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(puzzle_folder(tmp_path_factory.mktemp("data") / "puzzles"))


def test_two_ranks_make_the_update_of_one(data: str, tmp_path: Path) -> None:
    """For each combination, from update 3: gradients to 1e-10; queue, next examples and counts equal."""
    smaller = {"step.size_filter.begin=26": "step.size_filter.begin=3"}  # these puzzles have 16 cells
    combinations = [
        [*OBJECTIVES[name], *(smaller.get(option, option) for option in options)]
        for name, options, _ in (p.values for p in COMBINATIONS)
    ]
    shared = {"data": data, "folder": str(tmp_path), "combinations": combinations, "step": 3}
    one = rank_jobs.idea_updates(World(), **shared)
    first, second = run_ranks("idea_updates", **shared)
    assert differences(first, second) == [], "ranks differ"
    for parameters, alone, together in zip(COMBINATIONS, one, first, strict=True):
        assert differences(alone["exact"], together["exact"]) == [], parameters.id
        for kind in ("gradients", "weights", "average"):
            assert alone[kind].keys() == together[kind].keys()
            for name, tensor in alone[kind].items():
                far = relative_difference(tensor, together[kind][name])
                assert far < 1e-9, (parameters.id, kind, name, far)
    queues = [record["exact"]["source"]["replay"]["queue"] for record in one if "replay" in record["exact"]["source"]]
    assert len(queues) == 2 * len(OBJECTIVES) and all(len(queue) for queue in queues)
    assert any(record["average"] for record in one)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["source.steps=[replya]"], "option 'source.steps': found ['replya'], expected one of: replay, size_filter"),
        (["source.steps=[replay,replay]"], "expected each step once"),
        (["step.replay.share=0.5"], "option 'step.replay.share': found 0.5, expected 0.2, or source.steps=[replay]"),
        (["term.halt_entropy.weight=-1"], "expected a number from 0"),
        (["term.halt_entropy.weight=nan"], "expected a finite number"),
        (["source.steps=[size_filter]"], "option 'step.size_filter.begin': found 0, expected at least"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    options: list[str], expected: str, sudoku6_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        build_run(tiny_config("trm_att", sudoku6_folder, tmp_path, options), World())
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["term.halt_entropy.weight=1", "arch.halt_max_steps=4"],
         "option 'term.halt_entropy.after_step': found 4, expected less than arch.halt_max_steps=4, or no row is ever"),
        (["hook.grad_noise.enabled=True", "freeze_weights=True", "arch.puzzle_emb_ndim=32"],
         "option 'hook.grad_noise.enabled': found True, expected False: freeze_weights=True trains the puzzle table"),
        (["hook.grad_noise.enabled=True", "hook.grad_noise.begin=0"],
         "option 'hook.grad_noise.begin': found 0.0, expected a number above 0, or one in hook.grad_noise.end"),
    ],
)  # fmt: skip
def test_an_idea_that_would_do_nothing_is_refused_at_the_start(
    options: list[str], expected: str, sudoku6_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        train_here("trm_att", sudoku6_folder, tmp_path / "run", options)
    assert expected in str(caught.value) and not (tmp_path / "run").exists()
    resolved = tiny_config("trm_att", sudoku6_folder, tmp_path, options)  # a run that was begun so is still read
    assert resolved.checkpoint_path is not None


def test_another_weight_makes_another_run(sudoku6_folder: Path, tmp_path: Path) -> None:
    late = "term.halt_entropy.after_step=1"
    train_here("trm_att", sudoku6_folder, tmp_path, ["term.halt_entropy.weight=0.01", late, "max_steps=2"])
    with pytest.raises(UserError, match=r"another run: term\.halt_entropy\.weight: saved 0\.01, now 0\.5"):
        train_here("trm_att", sudoku6_folder, tmp_path, ["term.halt_entropy.weight=0.5", late, "max_steps=4"])


@pytest.mark.parametrize("name", ["lm", "q_halt", "q_continue"])
def test_a_term_does_not_write_over_the_metrics_of_the_objective(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(TERMS), "module", lambda room, idea: halt_entropy)
    with pytest.raises(TypeError, match=f"training.terms.{name} would write over metrics of the objective"):
        TERMS.settings_class(name)
    assert TERMS.settings_class("halt_entropy") is halt_entropy.Settings
