"""What a run records about itself, and what it must not."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.records import provenance
from training.records.provenance import (
    ROOT,
    ProvenanceFile,
    collect_provenance,
    describe_git,
    session_differences,
    settings_sha256,
    without_home,
)

CONFIG: dict[str, Any] = {"arch": {"hidden_size": 96}, "lr": 1e-3, "seed": 5, "data_paths": ["d"], "x": None}


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, check=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "a.py").write_text("x = 1\n")
    git(folder, "add", "a.py")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def collect(root: Path, **options: Any) -> dict[str, Any]:
    return collect_provenance(CONFIG, seeds={"seed": 5}, datasets=[{"sha256": "ab"}], root=root, **options)


def test_fields(repository: Path) -> None:
    found = collect(repository, argv=["pretrain.py", "arch=trm"], start_step=0)
    assert found["argv"] == ["pretrain.py", "arch=trm"]
    assert found["config"] == CONFIG and found["config_hash"] == settings_sha256(CONFIG)
    assert found["seeds"] == {"seed": 5} and found["datasets"] == [{"sha256": "ab"}]
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["torch"] == torch.__version__ and found["versions"]["numpy"] == np.__version__
    assert found["device"] == "cpu" and found["num_threads"] == torch.get_num_threads() and found["world_size"] == 1
    assert found["git"]["commit"] == git(repository, "rev-parse", "HEAD") and found["git"]["dirty"] is False
    assert found["cpu"] and found["platform"]
    json.dumps(found, allow_nan=False)


def test_the_command_is_named_from_the_project_folder(repository: Path) -> None:
    found = collect(repository, argv=[str(repository / "scripts" / "x.py"), str(repository)], digest="ab" * 32)
    assert found["argv"] == ["scripts/x.py", str(repository)] and found["config_hash"] == "ab" * 32


def test_hash_depends_on_values_not_on_order() -> None:
    turned = dict(reversed(CONFIG.items()))
    assert settings_sha256(turned) == settings_sha256(CONFIG) and len(settings_sha256(CONFIG)) == 64
    assert settings_sha256({**CONFIG, "lr": 2e-3}) != settings_sha256(CONFIG)


@pytest.mark.parametrize(
    ("home", "expected"),
    [
        ("/h/ada", "python x.py a=~ b=/h/ada2/x c=/mnt/h/ada/x d=[~/y,'~/z w'] e=~/q"),
        ("/h/ada/", "python x.py a=~ b=/h/ada2/x c=/mnt/h/ada/x d=[~/y,'~/z w'] e=~/q"),
        *((home, "python x.py a=/h/ada b=/h/ada2/x c=/mnt/h/ada/x d=[/h/ada/y,'/h/ada/z w'] e=/h/ada/q") for home in
          ("/", "", ".", "~", "h/ada")),
    ],
)  # fmt: skip
def test_only_a_path_that_begins_with_a_true_home_is_shortened(
    home: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", home)
    command = "python x.py a=/h/ada b=/h/ada2/x c=/mnt/h/ada/x d=[/h/ada/y,'/h/ada/z w'] e=/h/ada/q"
    assert without_home(command) == expected
    assert without_home({"a": [command]}) == {"a": [expected]}


def test_nothing_about_host_user_environment_or_home(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "homes" / "canaryuser"))
    monkeypatch.setenv("RRS_CANARY", "canary-environment")
    monkeypatch.setattr(platform, "node", lambda: "canary-host")
    home = str(Path.home())
    config = {**CONFIG, "data_paths": [f"{home}/data", f"{home}er/data"], "checkpoint_path": home}
    found = collect_provenance(config, argv=[f"{home}/main/pretrain.py", f"checkpoint_path={home}/r"], root=repository)
    assert found["argv"] == ["~/main/pretrain.py", "checkpoint_path=~/r"]
    assert found["config"]["data_paths"] == ["~/data", f"{home}er/data"] and found["config"]["checkpoint_path"] == "~"
    assert found["config_hash"] == settings_sha256(config)
    text = json.dumps({**found, "config": None})
    assert "canary" not in text


# --- git ---


def test_a_changed_tree_is_recorded(repository: Path) -> None:
    (repository / "a.py").write_text("x = 2\n")
    (repository / "new.py").write_text("y = 1\n")
    found = describe_git(repository)
    assert found["dirty"] and "-x = 1" in found["diff"] and "+x = 2" in found["diff"]
    assert found["untracked"] == ["new.py"]


def test_a_long_diff_is_cut_but_hashed_whole(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "a.py").write_text("y = 3\n" * 1000)
    whole = describe_git(repository)
    monkeypatch.setattr(provenance, "_DIFF_CHARACTERS", 500)
    cut = describe_git(repository)
    assert len(cut["diff"]) < 600 and cut["diff"].endswith("[cut]\n")
    assert cut["diff_sha256"] == whole["diff_sha256"]


def test_no_git_no_repository_other_repository_no_commit(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "inner").mkdir()
    assert "another repository" in describe_git(repository / "inner")["note"]
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    git(fresh, "init", "-q")
    assert describe_git(fresh)["commit"] is None and describe_git(fresh)["note"] == "no commit yet"
    monkeypatch.setenv("PATH", "")
    found = describe_git(repository)
    assert found["commit"] is None and found["dirty"] is None and "no git" in found["note"]


# --- the file ---


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_written_at_the_start_completed_at_the_end(tmp_path: Path, repository: Path) -> None:
    record = ProvenanceFile(tmp_path / "provenance.json")
    assert record.start(collect(repository)) == []
    started = read(tmp_path / "provenance.json")
    assert started["ended_utc"] is None and started["started_utc"] and len(started["sessions"]) == 1
    record.finish(end_step=120, outcome="stopped")
    found = read(tmp_path / "provenance.json")
    assert (found["end_step"], found["outcome"]) == (120, "stopped") and found["ended_utc"]
    assert found["peak_memory"]["rss_bytes"] > 10e6
    assert found["sessions"][0]["end_step"] == 120


def test_sessions_are_appended_and_compared(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "provenance.json"
    first = ProvenanceFile(path)
    first.start({**collect(repository), "num_threads": 2})
    first.finish(end_step=10)
    # The second is killed: never finished. The third changes threads, code and a library.
    assert ProvenanceFile(path).start({**collect(repository, start_step=10), "num_threads": 2}) == []
    (repository / "a.py").write_text("x = 9\n")
    changed = {**collect(repository, start_step=20, argv=["again"]), "num_threads": 1}
    changed["versions"] = {**changed["versions"], "torch": "9.9"}
    third = ProvenanceFile(path)
    differences = third.start(changed)
    assert differences[:2] == ["num_threads: 2, now 1", f"versions.torch: {torch.__version__}, now 9.9"]
    assert differences[2].startswith("git.diff_sha256: None, now ")
    third.finish(end_step=30)
    found = read(path)
    assert [session["start_step"] for session in found["sessions"]] == [0, 10, 20]
    assert [session["end_step"] for session in found["sessions"]] == [10, None, 30]
    assert [session["num_threads"] for session in found["sessions"]] == [2, 2, 1]
    assert "+x = 9" in found["sessions"][2]["git"]["diff"] and "diff" not in found["sessions"][1]["git"]
    assert found["num_threads"] == 2 and found["start_step"] == 0 and found["end_step"] == 30
    assert all("config" not in session for session in found["sessions"])


def test_a_changed_config_is_kept_with_its_session(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "provenance.json"
    ProvenanceFile(path).start(collect(repository))
    longer = {**CONFIG, "max_steps": 500}
    differences = ProvenanceFile(path).start(collect_provenance(longer, start_step=3, root=repository))
    assert len(differences) == 1 and differences[0].startswith("config_hash: ")
    assert read(path)["sessions"][1]["config"] == longer and read(path)["config"] == CONFIG


def test_other_data_of_one_name_are_told_and_kept_with_their_session(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "provenance.json"

    def start(**datasets: Any) -> list[str]:
        return ProvenanceFile(path).start(collect_provenance(CONFIG, root=repository, datasets=datasets))

    old, new, other = (f"{number:064x}" for number in (10, 11, 12))
    first = {"data": [old], "seed": 1, "eval_csv": {"sha256": old, "rows": 200}}
    second = {"data": [old], "seed": 2, "eval_csv": {"sha256": new, "rows": 100}, "judged_on": [other]}
    assert start(**first) == [] and start(**first) == []
    told = f"the data differ: eval_csv {old[:12]}, now {new[:12]}"
    assert start(**second) == [told] and start(**second) == []
    assert [session.get("datasets") for session in read(path)["sessions"]] == [None, None, second, second]
    assert read(path)["datasets"] == first
    assert start(**first) == [f"the data differ: eval_csv {new[:12]}, now {old[:12]}"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"sessions": 3}', b'{"sessions": [], "git": NaN}'])
def test_an_unreadable_file_is_set_aside(
    tmp_path: Path, repository: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "provenance.json"
    path.write_bytes(content)
    assert ProvenanceFile(path).start(collect(repository)) == []
    assert "unreadable" in capsys.readouterr().err
    assert (tmp_path / "provenance.json.unreadable").read_bytes() == content
    assert len(read(path)["sessions"]) == 1


def test_full_disk_costs_a_warning(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session = collect(repository)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    ProvenanceFile(tmp_path / "provenance.json").start(session)
    assert "No space left" in capsys.readouterr().err and list(tmp_path.glob("*.json")) == []


def test_differences_of_absent_fields_are_none() -> None:
    assert session_differences({}, {}) == []
    assert session_differences({"num_threads": 1}, {}) == ["num_threads: 1, now None"]


def test_peak_memory_grows_with_an_allocation() -> None:
    """In a process of its own: in this one an earlier test may have had a larger peak."""
    code = """
import numpy as np
from training.records.provenance import peak_memory
before = peak_memory()["rss_bytes"]
np.ones(40_000_000)
print(peak_memory()["rss_bytes"] - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120, check=True
    )
    assert 300e6 < int(done.stdout) < 400e6


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not carry a size over")
def test_peak_memory_is_that_of_the_program_and_not_of_what_started_it() -> None:
    """A process that holds 800 MB starts one that only imports."""
    outer = """
import subprocess, sys
block = b"x" * 800_000_000
inner = "from training.records.provenance import peak_memory; print(peak_memory()['rss_bytes'])"
subprocess.run([sys.executable, "-c", inner], check=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", outer], capture_output=True, text=True, cwd=ROOT, timeout=120, check=True
    )
    assert 10e6 < int(done.stdout) < 700e6
