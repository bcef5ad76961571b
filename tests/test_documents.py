"""README and docs: files that they name exist, commands that they show are read by the scripts that they call."""

import argparse
import importlib
import itertools
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

import train_modal
from training.settings.cli import compose_config

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
# docs/results.md is rendered from records, whose commands are those of their time.
PAGES = [
    README,
    *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "results.md"),
    *sorted(ROOT.glob("projects/*/README.md")),
]
# A path of the suite: in one of its folders, or a script at its root. Others are files of a run.
FOLDERS = "analysis|config|dataset|docs|dynamics|models|notebooks|projects|scripts|tests|training"
NAMED = re.compile(rf"(?<![\w/.<-])(?:(?:{FOLDERS})/[\w./-]*\w|\w+\.py)(?![\w*<{{…/-])")
ELSEWHERE = {"wandb", "source"}


def names(page: Path) -> list[str]:
    return [match[0] for match in NAMED.finditer(page.read_text(encoding="utf-8"))]


def commands(page: Path) -> Iterator[str]:
    """Every command of the page: lines of fenced blocks, and code within a line that begins with a program.

    Blocks that name their language are those of the worked example, which a test of its own executes.
    """
    text = page.read_text(encoding="utf-8")
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        if language:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if shlex.split(line, comments=True):
                yield line
    prose = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.M | re.S)
    yield from re.findall(r"`((?:python|bash|torchrun) [^`]+)`", prose)


SHOWN = [(page.relative_to(ROOT).as_posix(), command) for page in PAGES for command in commands(page)]


class ReadError(Exception):
    """A script has read its command line; `args[0]` are words that it does not know."""


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """Starts a script of the suite as `python FILE OPTIONS` would, until it has read the options."""
    original = argparse.ArgumentParser.parse_known_args

    def stop(parser: argparse.ArgumentParser, *args: Any, **options: Any) -> NoReturn:
        raise ReadError(original(parser, *args, **options)[1])

    def opened(*args: Any, **options: Any) -> NoReturn:
        raise ReadError([])

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)

    def read(words: list[str]) -> None:
        file, options = words[0], words[1:]
        assert (ROOT / file).is_file(), file
        if options == ["--help"] or {"...", "+experiment=<id>"} & set(options):
            return
        if file == "pretrain.py":
            compose_config(options, require_data=False)
            return
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        if file in ("evaluate.py", "predict.py"):
            monkeypatch.setattr(module, "open_puzzle_checkpoint", opened)
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(ReadError) as stopped:
            module.main()
        assert stopped.value.args == ([],)

    return read


@pytest.mark.parametrize(("page", "command"), SHOWN, ids=lambda value: value[:60])
def test_command_is_read(page: str, command: str, read_only: Callable[[list[str]], None]) -> None:
    program, *words = shlex.split(command, comments=True)
    if program == "python":
        read_only(words)
    elif program == "torchrun":
        read_only(list(itertools.dropwhile(lambda word: not word.endswith(".py"), words)))
    elif program == "bash":
        assert (ROOT / words[0]).is_file()
    elif program == "modal":
        for command_there in train_modal.remote_commands(words[words.index("--args") + 1]):
            read_only(command_there)
    else:
        assert program in ELSEWHERE


def test_commands_are_found() -> None:
    shown = {page for page, _ in SHOWN}
    assert {"README.md", "docs/training.md", "docs/dynamics.md", "docs/speed.md", "projects/collatz/README.md"} <= shown
    assert len(SHOWN) > 60


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_named_files_exist(page: Path) -> None:
    made = set(re.findall(r"^.*`([\w/]+\.(?:py|yaml))`:$", page.read_text(encoding="utf-8"), re.MULTILINE))
    missing = [name for name in names(page) if name not in made and not (ROOT / name).exists()]
    if page.parent.parent.name == "projects":  # whose README names files of its own
        missing = [name for name in missing if not any(page.parent.rglob(name))]
    assert not missing
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_a_missing_file_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("`training/loop.py` `config/experiment/<id>.yaml` scripts/no_such.py, absent.py `RUN/best.pt`.\n")
    assert names(page) == ["training/loop.py", "scripts/no_such.py", "absent.py"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_lines_are_short(page: Path) -> None:
    assert [line[:60] for line in page.read_text(encoding="utf-8").splitlines() if len(line) > 400] == []


def test_readme_is_short_and_leads_everywhere() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert [page for page in PAGES[1:] if f"]({page.relative_to(ROOT).as_posix()})" not in text] == []
    assert text.count("![") == 1 and "<!-- results:begin -->" in text and "<!-- results:end -->" in text


def test_the_environment_is_named_before_the_commands_that_need_it() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.index("\nsource .venv/bin/activate\n") < text.index("\npython ")
    assert 'activate="source .venv/bin/activate' in (ROOT / "scripts" / "quickstart.sh").read_text(encoding="utf-8")
