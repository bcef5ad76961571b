"""Results are made anew of the same inputs with the same options only."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.figures.figure_files import save_csv, save_json
from analysis.figures.made_of import MADE_OF, results_folder
from errors import UserError
from tests.helpers import ROOT


def test_results_of_other_inputs_are_never_replaced(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "run" / "figures"
    a, b = run / "a.json", run / "b.json"
    save_json({}, results_folder(out, ["curve"], [a]) / "curve.json")
    for inputs in ([b], [a, b]):
        with pytest.raises(UserError, match=r"curve.json was made of ../a.json, now .*b.json .*: name another --plots"):
            results_folder(out, ["curve"], inputs, flag="--plots")
    results_folder(out, ["other"], [b])
    moved = run.rename(tmp_path / "moved")
    out = moved / "figures"
    assert results_folder(out, ["curve"], [moved / "a.json"]) == out
    (out / "curve.json").unlink()
    results_folder(out, ["curve"], [moved / "b.json"])
    (out / MADE_OF).write_text("damaged")
    with pytest.raises(UserError, match=r"\.made_of\.json: .*move .*figures away"):
        results_folder(out, ["curve"], [moved / "b.json"])


def test_results_with_other_options_are_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def claim(**options: object) -> None:
        results_folder(tmp_path, ["curve", "table"], [tmp_path / "a"], options, grow=["count", "seeds"])

    claim(rows=None, count=8, seeds=[0, 1])
    save_json({}, tmp_path / "curve.json")
    save_csv([{"x": 1}], tmp_path / "table.csv")
    (tmp_path / "curve.png").write_text("mine, whatever it is called")
    claim(rows=None, count=8, seeds=[0, 1], added_later=3)
    for options, words in (
        ({"rows": [3, 17], "count": 8}, r"made with rows \(not given\), now 3 17: name another --out"),
        ({"count": 6}, "made with count 8, now 6"),
        ({"seeds": [0]}, "made with seeds 0 1, now 0"),
    ):
        with pytest.raises(UserError, match=words) as refused:
            claim(**options)
    advised = shlex.split(str(refused.value).rpartition("rm ")[2])
    assert advised == [str(tmp_path / "curve.json"), str(tmp_path / "table.csv")]  # nothing that no script wrote
    assert capsys.readouterr().err == ""
    claim(rows=None, count=12, seeds=[0, 1, 2])
    assert "curve.json was made with count 8, now 12: it is made anew" in capsys.readouterr().err


def test_a_folder_is_one_process_s_at_a_time(tmp_path: Path) -> None:
    """Held by another until it ends, however it ends; the same process may come back to it."""
    code = "\n".join([
        "import sys; from pathlib import Path; from analysis.figures.made_of import results_folder",
        "results_folder(Path(sys.argv[1]), ['curve'], []); print('held', flush=True); sys.stdin.read()",
    ])  # fmt: skip
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="out is in use by another command: .* name another --out"):
            results_folder(tmp_path / "out", ["curve"], [])
        results_folder(tmp_path / "beside", ["curve"], [])
        other.kill()
    for _ in range(2):
        results_folder(tmp_path / "out", ["curve"], [])


def test_what_nothing_is_known_of_is_not_replaced(tmp_path: Path) -> None:
    """An older note, a list, holds for the options that it names; without any note results are refused."""
    save_json({}, tmp_path / "curve.json")
    with pytest.raises(UserError, match=r"curve.json is there, and nothing says of what: name another --out"):
        results_folder(tmp_path, ["curve"], [tmp_path / "a"])
    (tmp_path / MADE_OF).write_text(json.dumps({"curve": ["a", "--x=seconds"]}))
    with pytest.raises(UserError, match="made with --x seconds, now updates"):
        results_folder(tmp_path, ["curve"], [tmp_path / "a"], {"--x": "updates", "--rows": 3})
    results_folder(tmp_path, ["curve"], [tmp_path / "a"], {"--x": "seconds", "--rows": 3})
    with pytest.raises(UserError, match="made with --rows 3, now 4"):
        results_folder(tmp_path, ["curve"], None, {"--x": "seconds", "--rows": 4})  # drawn again of whatever is noted
    results_folder(tmp_path, ["curve"], None, {"--rows": 3})
    with pytest.raises(UserError, match="was made of a, now b "):
        results_folder(tmp_path, ["curve"], [tmp_path / "b"], {"--rows": 3})


def test_every_script_that_saves_results_looks_at_what_is_there() -> None:
    """One that is missing here would replace results of other inputs."""
    saving = re.compile(r"\b(save_picture|save_figure|save_json|save_csv|save_caption)\(")
    scripts = [path for room in ("analysis", "projects", "scripts") for path in (ROOT / room).rglob("*.py")]
    texts = {path.name: path.read_text() for path in scripts}
    saved = {name for name, text in texts.items() if saving.search(text) and "@exit_on_user_error" in text}
    assert {"step_by_step.py", "compare_runs.py", "make_figure_bundle.py", "lyapunov.py"} <= saved
    # What it draws is generated: there is one such picture, of this project.
    assert [name for name in sorted(saved) if "results_folder(" not in texts[name]] == ["draw_architecture.py"]
    calls = {name: (text.count("results_folder("), text.count("script=__file__")) for name, text in texts.items()}
    assert [name for name, (asks, told) in calls.items() if asks > told] == ["made_of.py"]


def test_inputs_that_hold_something_else_now_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, out = tmp_path / "best.pt", tmp_path / "out"
    weights.write_text("earlier")
    for text, says in (("earlier", ""), ("later", "curve.json was made of ../best.pt as it was then: it is made anew")):
        save_json({}, results_folder(out, ["curve"], [weights]) / "curve.json")
        weights.write_text(text)
        capsys.readouterr()
        results_folder(out, ["curve"], [weights])
        assert says in capsys.readouterr().err if says else not capsys.readouterr().err


def test_results_of_another_script_that_calls_them_alike_are_not_replaced(tmp_path: Path) -> None:
    save_json({}, results_folder(tmp_path, ["summary"], [tmp_path / "a"], script="/x/first.py") / "summary.json")
    for again in ("/y/first.py", ""):  # the project may have moved, and some do not say
        results_folder(tmp_path, ["summary"], [tmp_path / "a"], script=again)
    results_folder(tmp_path, ["summary"], [tmp_path / "a"], script="first.py")
    with pytest.raises(UserError, match=r"summary.json was made by first.py, now second.py: name another --out, or"):
        results_folder(tmp_path, ["summary"], [tmp_path / "a"], script="second.py")
