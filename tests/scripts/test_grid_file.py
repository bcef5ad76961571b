"""Grid files: what an entry stands for, and every mistake in one line before anything starts."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from errors import UserError
from evaluate import Options
from scripts.grid_file import GRIDS, ROOT, Grid, find_grid, read_grid
from tests.scripts.test_step9_launchers import pretrained
from training.inference.choose import mode_parts
from training.settings.cli import compose_config
from training.settings.identity import config_to_dict
from training.settings.key_values import parse_key_values
from training.settings.trajectory_flags import SIGMA_GRID, read_flags


def grid_of(tmp_path: Path, content: dict[str, Any] | str, out: Path | None = None) -> Grid:
    file = tmp_path / "grid.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return read_grid(file, out)


def test_an_entry_becomes_a_run_for_each_choice_of_its_values(tmp_path: Path) -> None:
    text = """
    out: runs/some where
    threads: 1
    common:
      size: hidden={width}
      shared: --fast "{size}" --at '{out}/{name}'
      width: 16
    runs:
      - name: first_{seed}
        for: {seed: [0, 1]}
        kind: confirmatory
        command: pretrain.py seed={seed} {shared}
      - name: second_{seed}_{sigma}
        for: {seed: [0, 1], sigma: [1e-5, 0.001, 3.0e-3]}
        needs: ["first_{seed}"]
        command: >-
          -m module {sigma} plain{{brace}} "two words" data=['{width}']
    """
    grid = grid_of(tmp_path, text)
    assert grid.out == ROOT / "runs/some where" and grid.threads == 1
    assert list(grid.by_name) == [
        "first_0", "first_1", "second_0_1e-5", "second_0_0.001", "second_0_0.003", "second_1_1e-5",
        "second_1_0.001", "second_1_0.003",
    ]  # fmt: skip
    first, second = grid.by_name["first_1"], grid.by_name["second_1_1e-5"]
    # A value with a space stays one word, the shared text becomes several.
    assert first.command == ("pretrain.py", "seed=1", "--fast", "hidden=16", "--at", "runs/some where/first_1")
    assert second.command == ("-m", "module", "1e-5", "plain{brace}", "two words", "data=[16]")
    assert (first.needs, second.needs) == ((), ("first_1",))
    assert (first.kind, second.kind) == ("confirmatory", "exploratory")
    assert first.form == grid.by_name["first_0"].form == "first_{seed}"
    assert first.finished_file == ROOT / "runs/some where/first_1/summary.json" and not first.is_finished


def test_a_grid_on_another_and_texts_from_outside(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text("""
    out: runs/base
    threads: 1
    common: {folder: start, first: "", launch: "", end: _gpu}
    runs:
      - name: run{end}
        needs: "{first}"
        command: "{launch} pretrain.py {folder} '{folder}'"
    """)
    assert read_grid(base).runs[0].command == ("pretrain.py", "start", "start")
    content = {
        "base": str(base), "out": "runs/small", "common": {"end": "_cpu", "first": "made"},
        "runs": [{"name": "made", "command": "pretrain.py"}],
    }  # fmt: skip
    grid = grid_of(tmp_path, content)
    assert (grid.out, grid.threads, list(grid.by_name)) == (ROOT / "runs/small", 1, ["made", "run_cpu"])
    assert grid.by_name["run_cpu"].needs == ("made",) and read_grid(base).runs[0].needs == ()
    # A text is cut into words where it stands alone, and kept together in quotes.
    texts = {"folder": "a b", "launch": "-m torch.distributed.run"}
    grid = read_grid(tmp_path / "grid.yaml", texts=texts)
    assert grid.by_name["run_cpu"].command == ("-m", "torch.distributed.run", "pretrain.py", "a", "b", "a b")
    with pytest.raises(UserError, match="common has no 'foldr' to set, the nearest is 'folder'"):
        read_grid(base, texts={"foldr": "x"})
    with pytest.raises(UserError, match="unknown key 'base'"):
        grid_of(tmp_path, content | {"base": str(tmp_path / "grid.yaml")})


def test_out_and_what_a_run_makes(tmp_path: Path) -> None:
    run = {"name": "a", "makes": "{out}/b/{name}.txt", "command": "pretrain.py {out}"}
    grid = grid_of(tmp_path, {"out": "ignored", "runs": [run]}, tmp_path / "o")
    (only,) = grid.runs
    assert only.finished_file == tmp_path / "o/b/a.txt" and only.command[1] == str(tmp_path / "o")
    only.finished_file.parent.mkdir(parents=True)
    only.finished_file.write_text("")
    assert only.is_finished


RUN = {"name": "a", "command": "pretrain.py"}


def with_run(**fields: Any) -> dict[str, Any]:
    return {"out": "o", "runs": [RUN | fields]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1]", "expected a mapping"),
        ("a: [", "is not safe yaml"),
        ("out: o\nout: p\n", "'out' stands twice"),
        ({"out": "o", "run": [RUN]}, "unknown key 'run', the nearest valid key is 'runs'"),
        ({"out": "o", "runs": []}, "expected a list of runs"),
        ({"runs": [RUN]}, "it has no 'out'"),
        ({"out": "o", "threads": 0, "runs": [RUN]}, "threads: found 0"),
        ({"out": "o", "threads": True, "runs": [RUN]}, "threads: found True"),
        (with_run(comand="x"), "run 1: unknown key 'comand', the nearest valid key is 'command'"),
        ({"out": "o", "runs": [{"name": "a"}]}, "run 1: it has no 'command'"),
        (with_run(kind="certain"), "kind: found 'certain', expected confirmatory or exploratory"),
        (with_run(command=["pretrain.py"]), "command: found ['pretrain.py'], expected a text"),
        (with_run(command="pretrian.py x"), "command: found 'pretrian.py' first"),
        (with_run(command="scripts"), "command: found 'scripts' first"),
        (with_run(command=""), "command: found '' first"),
        (with_run(command="pretrain.py 'open"), "cannot be cut into words (No closing quotation)"),
        (with_run(command="pretrain.py {sed}", **{"for": {"seed": [0]}}, name="a{seed}"), "the nearest is {seed}"),
        (with_run(command="pretrain.py {seed}"), "there is no placeholder {seed}"),
        (with_run(name="{name}"), "there is no placeholder {name}"),
        (with_run(name="a/b"), "name: found 'a/b'"),
        (with_run(name=".."), "name: found '..'"),
        (with_run(name="logs"), "name: found 'logs'"),
        (with_run(**{"for": {"seed": [0, 1]}}), "a is given twice; put every placeholder of 'for' into the name"),
        (with_run(**{"for": {"out": [0]}}), "'out' cannot be the name of a placeholder"),
        (with_run(**{"for": {"a-b": [0]}}), "'a-b' cannot be the name of a placeholder: expected letters"),
        (with_run(**{"for": {"seed": [None]}}), "for.seed: found None, expected a text"),
        (with_run(**{"for": {"seed": [[0]]}}), "for.seed: found [0], expected a text"),
        ({"out": "o", "common": {"name": "x"}, "runs": [RUN]}, "common: 'name' cannot be the name"),
        ({"out": "o", "common": {"s": "x"}, "runs": [RUN | {"for": {"s": [1]}}]}, "'s' cannot be the name"),
        (
            {"out": "o", "common": {"x": "{y}", "y": "1 {x}"}, "runs": [RUN | {"command": "pretrain.py {x}"}]},
            "common.x contains itself (x -> y -> x)",
        ),
        (
            {"out": "o", "common": {"x": "{y}", "y": "1 {x}"}, "runs": [RUN | {"command": "pretrain.py a{x}"}]},
            "common.x contains itself (x -> y -> x)",
        ),
        ({"out": "o", "runs": [RUN, RUN]}, "the name a is given twice"),
        ({"out": "o", "runs": [RUN | {"makes": "f"}, RUN | {"name": "b", "makes": "f"}]}, "b makes the same file as a"),
        ({"out": "o", "runs": [RUN | {"name": "base_1"}, RUN | {"needs": "base_2"}]}, "the nearest is 'base_1'"),
        (with_run(needs="a"), "wait for each other: a -> a"),
        (
            {"out": "o", "runs": [RUN | {"needs": "b"}, RUN | {"name": "b", "needs": ["c"]},
                                  RUN | {"name": "c", "needs": ["a"]}]},
            "wait for each other",
        ),
        ({"out": "o", "runs": [RUN | {"name": "n{i}{j}", "for": {"i": [*range(101)], "j": [*range(100)]}}]},
         "more than 10,000 runs"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(content: dict[str, Any] | str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        grid_of(tmp_path, content)
    message = str(refusal.value)
    assert words in message and message.startswith(str(tmp_path / "grid.yaml")) and "\n" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["grid.yaml"]


def test_a_circle_is_told_in_the_order_of_needs(tmp_path: Path) -> None:
    """a needs b, b needs c, c needs a."""
    runs = [{"name": name, "needs": need, "command": "pretrain.py"} for name, need in ("ab", "bc", "ca")]
    with pytest.raises(UserError) as refusal:
        grid_of(tmp_path, {"out": "o", "runs": runs})
    told = str(refusal.value).rsplit(": ", 1)[1].split(" -> ")
    assert told[0] == told[-1] and all(dict(["ab", "bc", "ca"])[a] == b for a, b in zip(told, told[1:], strict=False))


def test_a_grid_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_grid("step9_sigma_sweep") == find_grid("step9_sigma_sweep.yaml") == GRIDS / "step9_sigma_sweep.yaml"
    Path("own.yaml").write_text("")
    assert find_grid("own.yaml") == Path("own.yaml")
    with pytest.raises(UserError, match="no such grid file.*step9_sigma_sweep"):
        find_grid("step9_sweep")


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_grid_of_the_suite_is_a_grid_with_a_header(path: Path) -> None:
    assert read_grid(path).out.is_relative_to(ROOT / "runs")
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("claim:", "command:", "hardware:"):
        assert any(word in line for line in header), f"no '{word}' in its header"


def test_the_sigma_sweep_differs_in_sigma_only(sudoku6_folder: Path, tmp_path: Path) -> None:
    grid = read_grid(GRIDS / "step9_sigma_sweep.yaml", tmp_path)
    pretraining = grid.by_name["trm_pretrained"]
    assert pretraining.command[0] == "pretrain.py"
    config = compose_config(list(pretraining.command[1:]), require_data=False)
    assert config.checkpoint_path == str(tmp_path / "trm_pretrained")
    pretrained(tmp_path / "trm_pretrained", "quickstart", sudoku6_folder)
    found = []
    for run in grid.runs[2:]:
        assert run.needs == ("trm_pretrained",) and run.command[0] == "step9_trajectory_perturb_train.py"
        described = config_to_dict(read_flags(run.command[1:])[0])
        assert described["checkpoint_path"] == str(tmp_path / run.name) == str(run.finished_file.parent)
        sigma = described["objective"].pop("sigma")
        found.append((sigma, described | {"checkpoint_path": "", "run_name": ""}))  # names made from the settings
    assert tuple(sigma for sigma, _ in found) == SIGMA_GRID
    first = found[0][1]
    assert all(described == first for _, described in found)
    assert first["objective"]["name"] == "multi_perturbed_ce" and first["objective"]["num_trajectories"] == 4
    assert (
        first["objective"]["noise_sampling"] == "fixed" and tuple(first["eval"]["during"]["sigma_grid"]) == SIGMA_GRID
    )
    assert first["init_from"] == str(tmp_path / "trm_pretrained" / "final.pt")


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_evaluations_make_the_files_that_their_grid_awaits(path: Path) -> None:
    """The name of a report follows from the command; a grid says it once more, to know when a run is finished."""
    for run in read_grid(path).runs:
        if run.command[0] == "evaluate.py" and run.finished_file.name.startswith("evaluation_"):
            options = parse_key_values(list(run.command[1:]), Options)
            weights = Path(options.checkpoint).stem
            assert run.finished_file.name == f"{'_'.join(['evaluation', weights, *mode_parts(options.eval)])}.json"


def test_a_name_longer_than_file_systems_take(tmp_path: Path) -> None:
    """Of a script and of a grid: there is none of that name, as of any other."""
    path = tmp_path / "grid.yaml"
    path.write_text(json.dumps({"out": "runs/x", "runs": [{"name": "a", "command": f"{'x' * 5000}.py"}]}))
    with pytest.raises(UserError, match="x.py"):
        read_grid(path)
    with pytest.raises(UserError, match="there is no such grid file"):
        find_grid("x" * 5000)
