"""Command lines: Hydra's of pretrain.py, key=value of the flag scripts, the data set builder's options."""

import shlex
from dataclasses import fields
from pathlib import Path
from random import Random
from typing import Any

import yaml

import dataset.build_sudoku_dataset as builder
import evaluate
import predict
from tests.fuzz.engine import Case
from tests.fuzz.targets.configs import means, wrong_types
from training.settings.cli import check_command_line, compose_config
from training.settings.identity import config_to_dict
from training.settings.key_values import parse_key_values
from training.settings.older_names import INFERENCE, OLDER_NAMES
from training.settings.resolving import resolve
from training.settings.schema import TrainConfig, schema_keys

SOUND_WORDS = [
    "arch=trm",
    "arch=hrm",
    "arch=hrm_v1",
    "+experiment=smoke",
    "experiment=trm_maze",
    "data_paths=[data/x]",
    "data_paths=[data/x,data/y]",
    "data_path=data/x",
    "epochs=50",
    "eval_interval=10",
    "lr=1e-4",
    "seed=7",
    "+ema=True",
    "arch.mlp_t=True",
    "arch.pos_encodings=none",
    "arch.H_cycles=3",
    "global_batch_size=64",
    "+run_name=a",
    "++checkpoint_path=runs/a",
    "max_steps=100",
    "evaluators=[]",
    "dtype=float32",
    "wandb.mode=offline",
    "guards.mode=off",
]
# Keys whose value `resolve` moves or completes, and groups.
MOVED = {
    "data_path",
    "data_paths",
    "load_checkpoint",
    "init_from",
    "arch",
    "experiment",
    "arch.name",
    "arch.loss.name",
}
MOVED |= {"arch.forward_dtype", "dtype", "arch.puzzle_emb_len", "arch.puzzle_emb_ndim", *OLDER_NAMES}
VALUES = [
    "",
    "1",
    "0",
    "-1",
    "1.5",
    "1e400",
    "nan",
    "inf",
    "9" * 30,
    "9" * 5000,
    "0x10",
    "1_000",
    "\u0663",
    "\uff11",
    "true",
    "False",
    "null",
    "None",
    "~",
    "x",
    "''",
    '""',
    "'a b'",
    "[",
    "]",
    "[1,2",
    "[[]]",
    "{}",
    "{a:1}",
    "{a",
    "a,b",
    "1,2,3",
    "range(3)",
    "range(1,1)",
    "choice(a,b)",
    "glob(*)",
    "int(x)",
    "float(nan)",
    "cast(1)",
    "shuffle(1)",
    "extend_list(1)",
    "sort(3,b)",
    "interval(0,1)",
    "tag(a,1)",
    "${seed}",
    "${oc.env:HOME}",
    "${hydra:runtime.cwd}",
    "${",
    "${nothing}",
    "${now:%Y}",
    "???",
    "a=b",
    "=",
    "a\nb",
    "a\tb",
    "\x00",
    "\x1b[31m",
    "\u202e",
    "\udc80",
    "\U0001f4a9",
    "\\",
    "a\\,b",
    "$(id)",
    ";",
    "@",
    "a@b",
    "//",
    "../../..",
    "/dev/null",
    "x" * 5000,
    "[" * 300,
    "(" * 60 + ")" * 60,
    "int(" * 40 + "1" + ")" * 40,
    "{a:" * 60 + "1" + "}" * 60,
    "!!python/object/apply:os.system [true]",
    "os.system",
    "float32",
    "adamw",
    "never",
]
FLAGS = (
    "--help -h --cfg --cfg=job --cfg=hydra --cfg=all -c -cjob --resolve --multirun -m --info --run --version "
    "--config-name --config-name=cfg_pretrain --config-name=../x --config-path=config --config-path=/dev/null "
    "--config-dir --config-dir=nowhere --package -p --hydra-help --experimental-rerun --experimental-rerun=x "
    "--shell-completion --bogus - -- -x"
).split()
HYDRA_KEYS = "hydra.run.dir hydra.mode hydra.searchpath hydra.job.name hydra.x hydra x.y".split()


def typo(rng: Random, word: str) -> str:
    """One slip of the fingers."""
    place = rng.randrange(len(word) + 1)
    character = rng.choice("aeixz_-.=+~@/ \u00e9\u0131\x00")
    return rng.choice(
        [
            word[:place] + character + word[place:],
            word[:place] + word[place + 1 :],
            word[:place] + character + word[place + 1 :],
            word[:place] + word[place : place + 2][::-1] + word[place + 2 :],
            word.upper(),
            word + word,
        ]
    )


def _word(rng: Random, keys: list[str]) -> str:
    kind = rng.randrange(9)
    if kind < 2:
        return rng.choice(SOUND_WORDS)
    if kind == 2:
        return typo(rng, rng.choice(SOUND_WORDS))
    if kind == 3:
        return rng.choice(["", "+", "++", "~", "~~", "+++", "~+"]) + rng.choice(keys) + rng.choice(["", "=", "==1"])
    if kind == 4:
        group = rng.choice(["arch", "experiment", "hydra/launcher", "+arch", "++arch", "~arch", "arch@x", "arch@:x"])
        return f"{group}={rng.choice(['trm', 'hrm', 'smoke', 'none', '[trm,hrm]', '../trm', 'trm.yaml', ''])}"
    if kind == 5:
        return f"{rng.choice(['', '+', '++', '~'])}{rng.choice(HYDRA_KEYS)}={rng.choice(VALUES)}"
    if kind == 6:
        return rng.choice(VALUES)
    key = rng.choice(keys) if rng.random() < 0.8 else typo(rng, rng.choice(keys))
    return f"{rng.choice(['', '', '', '+', '++'])}{key}={rng.choice(VALUES)}"


class HydraCommands:
    """`check_command_line` with its composition, then `compose_config`."""

    name = "hydra-command"
    share = 2.0  # a composition takes tens of milliseconds

    def prepare(self) -> None:
        self.keys = [*schema_keys(TrainConfig), *OLDER_NAMES, INFERENCE]

    def case(self, rng: Random, folder: Path) -> Case:
        sound = rng.random() < 0.05
        words = ["data_paths=[data/x]"] if sound or rng.random() < 0.7 else []
        if sound:
            words += rng.sample(["lr=1e-4", "seed=7", "+ema=True", "arch.H_cycles=3", "arch=hrm", "max_steps=9"], 2)
        else:
            words += [_word(rng, self.keys) for _ in range(rng.choice([1, 1, 2, 3]))]
            if rng.random() < 0.15:
                words.insert(rng.randrange(len(words) + 1), rng.choice(FLAGS))
        (folder / "argv.txt").write_text(ascii(words))

        def read() -> TrainConfig | None:
            command = check_command_line(words)
            assert all(isinstance(word, str) for word in command.argv)
            if any(word.startswith("-") for word in words) or len(command.overrides) != len(words):
                return None
            return compose_config(words, require_data=False)

        return Case(
            [ascii(shlex.join(words))[:300]],
            read,
            lambda cfg: _wrong_config(cfg, words),
            must_read=sound,
            exits=(0,) if "--version" in words else (),
        )


def _wrong_config(cfg: TrainConfig | None, words: list[str]) -> str | None:
    if cfg is None:
        return None
    wrong = wrong_types(cfg)
    if wrong:
        return wrong
    if resolve(config_to_dict(cfg), require_data=False) != cfg:
        return "resolving again gives another config"
    given = dict(word.lstrip("+").split("=", 1) for word in words if "=" in word and not word.startswith("~"))
    for key, text in given.items():
        if key in MOVED or key.startswith("hydra") or any(mark in text for mark in "${}[](),'\"\\"):
            continue
        found = _lookup(cfg, key)
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            value = text
        if not (found == value or means(text.strip(), found) or means(value, found) or _absent(text, found)):
            return f"{key} is {found!r}, the command says {text!r}"
    return None


def _lookup(cfg: Any, key: str) -> Any:
    for part in key.split("."):
        cfg = getattr(cfg, part)
    return cfg


def _absent(text: str, found: Any) -> bool:
    """An option left to be completed: null, or a name that is then derived."""
    return text.strip().lower() in ("null", "none", "~", "") and (found is None or isinstance(found, str))


class KeyValues:
    """The key=value words of evaluate.py and predict.py."""

    name = "key-value"
    share = 3.0
    SCRIPTS = {"evaluate": evaluate.Options, "predict": predict.Options}

    def prepare(self) -> None:
        """Nothing to make."""

    def case(self, rng: Random, folder: Path) -> Case:
        script = rng.choice(sorted(self.SCRIPTS))
        schema = self.SCRIPTS[script]
        names = [item.name for item in fields(schema)]
        names += [*OLDER_NAMES, INFERENCE] if script == "evaluate" else []
        words = ["checkpoint=runs/a/best.pt"] if rng.random() < 0.9 else []
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            name = rng.choice(names)
            name = typo(rng, name) if rng.random() < 0.15 else name
            name = rng.choice(["", "+", "++", "~", "--"]) + name if rng.random() < 0.15 else name
            words.append(f"{name}={rng.choice(VALUES)}" if rng.random() < 0.9 else rng.choice([name, *VALUES, *FLAGS]))
        rng.shuffle(words)
        (folder / "argv.txt").write_text(ascii(words))

        def read() -> Any:
            options = parse_key_values(words, schema)
            if script == "evaluate":
                evaluate.check_options(options)
            return options

        help_asked = any(word in ("-h", "--help") for word in words)
        return Case(
            [script, ascii(shlex.join(words))[:300]],
            read,
            lambda options: wrong_types(options) or _wrong_words(options, words),
            must_read=words == ["checkpoint=runs/a/best.pt"],
            exits=(0,) if help_asked else (),
        )


def _wrong_words(options: Any, words: list[str]) -> str | None:
    given: dict[str, str] = {}
    for word in words:
        key, _, text = word.lstrip("+").partition("=")
        given[key] = text  # of two the last counts, as on any command line
    for key, text in given.items():
        if key in OLDER_NAMES or key == INFERENCE:
            continue
        found = getattr(options, key)
        if isinstance(found, list):
            continue
        if found != text and not means(text, found) and not _absent(text, found):
            if yaml.safe_load(text) != found:
                return f"{key} is {found!r}, the command says {text!r}"
    return None


class BuilderCommands:
    """The options of the Sudoku builder."""

    name = "builder-command"
    share = 3.0

    def prepare(self) -> None:
        actions = builder.parser()._actions
        self.options = [option for action in actions for option in action.option_strings if option.startswith("--")]

    def case(self, rng: Random, folder: Path) -> Case:
        words: list[str] = []
        numbers = [
            "1",
            "0",
            "12",
            "-1",
            "1.5",
            "",
            "9" * 40,
            "\u0663",
            "\u00b2",
            "1e3",
            "0x1",
            "1_0",
            " 3",
            "+3",
            "x",
        ]
        for _ in range(rng.choice([0, 1, 2, 3])):
            option = rng.choice(self.options)
            option = typo(rng, option) if rng.random() < 0.15 else option
            option = option.replace("-", "_").replace("__", "--", 1) if rng.random() < 0.1 else option
            value = rng.choice([*numbers, "6x6", "4x4", "stored", "on-the-fly", "search", "data/a.csv", *VALUES])
            words += rng.choice([[option, value], [f"{option}={value}"], [option], [value]])
        (folder / "argv.txt").write_text(ascii(words))

        def read() -> Any:
            args = builder.parser().parse_args(words)
            builder._check_combination(args)
            return args

        return Case(
            [ascii(shlex.join(words))[:300]],
            read,
            lambda args: _wrong_arguments(args, words),
            must_read=not words,
            exits=(0,) if any(word in ("--help", "-h") for word in words) else (),
        )


def _wrong_arguments(args: Any, words: list[str]) -> str | None:
    for name in ("seed", "num_workers", "num_train", "test_size", "num_clues", "min_difficulty", "num_aug"):
        value = getattr(args, name)
        if value is None or (name in ("seed", "num_workers", "num_aug") and value in (0, 1)):
            continue
        if type(value) is not int or not any(str(value) == word.rpartition("=")[2] for word in words):
            if not any(word.rpartition("=")[2].isascii() and word.endswith(str(value)) for word in words):
                return f"{name} is {value!r}, which no word says"
    return None
