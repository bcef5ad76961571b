"""The parser of flags: its own spelling, that of official scripts, and what it says of others."""

import argparse
from pathlib import Path

import pytest

import evaluate
from arguments import FlagParser
from errors import UserError, printable
from training.settings.cli import check_command_line
from training.settings.key_values import parse_key_values


@pytest.fixture
def parser() -> FlagParser:
    parser = FlagParser("x.py", help_command="python x.py")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--num-aug", type=int, default=0)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=TEXT")
    return parser


def test_underscores_are_hyphens(parser: FlagParser) -> None:
    assert parser.parse_args(["--num_aug", "3"]).num_aug == parser.parse_args(["--num_aug=3"]).num_aug == 3


def test_of_one_value_given_twice_it_is_said_that_the_later_counts(
    parser: FlagParser, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parser.parse_args(["--num-aug", "0", "--num_aug", "3"]).num_aug == 3
    assert capsys.readouterr().err == "warning: --num-aug is given twice, as 0 and as 3: the later counts\n"
    assert parser.parse_args(["--num-aug", "3", "--num-aug", "3"]).num_aug == 3
    assert parser.parse_args(["--num-aug", "4"]).num_aug == 4
    assert capsys.readouterr().err == "", "once, or the same"
    words = ["checkpoint=a.pt", "checkpoint=b.pt", "device=cpu", "device=cpu"]
    assert parse_key_values(words, evaluate.Options).checkpoint == "b.pt"
    assert capsys.readouterr().err == "warning: checkpoint is given twice, as a.pt and as b.pt: the later counts\n"


def test_a_flag_of_several_values_given_twice_keeps_all() -> None:
    parser = FlagParser("x.py", help_command="python x.py")
    group = parser.add_argument_group("group")
    group.add_argument("--steps", type=int, nargs="+", default=[7])
    group.add_argument("--rows", type=int, nargs="+")
    parser.add_argument("--last", type=int, default=3)
    parser.add_argument("files", nargs="*", default=["a"])
    words = ["--steps", "1", "2", "--rows", "5", "--last", "4", "--steps", "3", "--rows", "6", "7", "--last", "5"]
    parsed = parser.parse_args(words)
    assert (parsed.steps, parsed.rows, parsed.last, parsed.files) == ([1, 2, 3], [5, 6, 7], 5, ["a"])
    again = parser.parse_args([])
    assert (again.steps, again.rows, again.last) == ([7], None, 3)


def test_texts_of_a_flag_are_its_own(parser: FlagParser) -> None:
    assert parser.parse_args(["--set", "num_aug=3", "set=4"]).set == ["num_aug=3", "set=4"]
    assert parser.parse_args(["a=3", "--", "num-aug=3"]).files == ["a=3", "num-aug=3"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["num_aug=3"], "'num_aug=3' is written --num-aug 3 here"),
        (["f", "+num_aug=a b"], "is written --num-aug 'a b' here"),
        (["--nun-aug", "3"], "unknown flag '--nun-aug', the nearest is --num-aug; python x.py --help lists the flags"),
        (["--num", "3"], "unknown flag '--num', the nearest is --num-aug"),
        (["--num-aug", "x"], "argument --num-aug: invalid int value: 'x'; python x.py --help lists the flags"),
    ],
)
def test_mistakes(parser: FlagParser, words: list[str], says: str) -> None:
    with pytest.raises(UserError, match="^") as caught:
        parser.parse_args(words)
    assert says in str(caught.value)


def test_a_truth_is_answered_with_the_flag() -> None:
    parser = FlagParser("x.py", help_command="python x.py")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--aug", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--name")
    for words, says in (
        (["--aug", "true"], "'--aug true' is written --aug here, without a value"),
        (["--aug=True", "f"], "'--aug=True' is written --aug here, without a value"),
        (["--aug", "False"], "'--aug False' is written --no-aug here"),
        (["--quick", "true"], "'--quick true' is written --quick here, without a value"),
        (["--quick", "false"], "'--quick false': leave --quick out instead"),
    ):
        with pytest.raises(UserError) as caught:
            parser.parse_args(words)
        assert str(caught.value) == says
    parsed = parser.parse_args(["--quick", "--name", "true", "--aug", "--", "true"])
    assert (parsed.aug, parsed.quick, parsed.name, parsed.files) == (True, True, "true", ["true"])


def test_an_empty_text_names_no_place() -> None:
    parser = FlagParser("x.py", help_command="python x.py")
    parser.add_argument("runs", nargs="*", type=Path)
    group = parser.add_argument_group("more")
    group.add_argument("--out", type=Path, default=Path("there"))
    group.add_argument("--input", metavar="FILE", nargs="+")
    group.add_argument("--note")
    assert parser.parse_args(["a", "--input", "b", "c", "--note", ""]) == argparse.Namespace(
        runs=[Path("a")], out=Path("there"), input=["b", "c"], note=""
    )
    for words, flag in (
        ([""], "runs"),
        (["--out", ""], "--out"),
        (["--out="], "--out"),
        (["--input", "b", " "], "--input"),
    ):
        with pytest.raises(UserError, match=f"argument {flag}: found an empty text, expected a path or a name"):
            parser.parse_args(words)


@pytest.mark.parametrize("script", ["pretrain.py", "evaluate.py"])
@pytest.mark.parametrize("word", ["data_paths_test=[data/x,data/\udcff]", "evaluators=[\udcff]", "\udcff=3"])
def test_bytes_that_are_no_utf8(word: str, script: str) -> None:
    """In a list too, where no quoting would help; Python has them as lone surrogates."""
    key, _, value = word.partition("=")
    with pytest.raises(UserError) as caught:
        check_command_line([word]) if script == "pretrain.py" else parse_key_values([word], evaluate.Options)
    says = f"option '{key}': found {value!r}, expected a text in UTF-8, which settings are written in;"
    says += " rename what it names"
    assert str(caught.value) == printable(says)


@pytest.mark.parametrize("key", ["checkpoint", "output", "max_test_rows", "data_paths_test", "eval.max_steps"])
def test_an_empty_value_is_no_default(key: str) -> None:
    """As of a shell variable that is not set; `null` asks for the default."""
    for empty in ("", " "):
        with pytest.raises(UserError, match=f"option '{key}': found nothing, expected a value"):
            parse_key_values([f"{key}={empty}"], evaluate.Options)
