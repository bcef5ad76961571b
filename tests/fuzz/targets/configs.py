"""`all_config.yaml`: ours and those of the official codes, through `load_config_file`."""

import copy
import json
import typing
from dataclasses import fields, is_dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from tests.fuzz import canary
from tests.fuzz.byte_edits import TEXT, damage
from tests.fuzz.engine import Case
from tests.fuzz.file_edits import misplace
from tests.fuzz.tree_edits import edit_tree, json_bytes, strange_value
from training.settings.identity import config_to_dict
from training.settings.resolving import load_config_file, resolve
from training.settings.schema import ArchConfig, TrainConfig

OFFICIAL_TRM: dict[str, Any] = {
    "arch": {
        "name": "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1",
        "loss": {"name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"},
        "halt_exploration_prob": 0.1,
        "halt_max_steps": 16,
        "H_cycles": 3,
        "L_cycles": 6,
        "H_layers": 0,
        "L_layers": 2,
        "hidden_size": 512,
        "num_heads": 8,
        "expansion": 4,
        "puzzle_emb_ndim": 512,
        "pos_encodings": "none",
        "forward_dtype": "bfloat16",
        "mlp_t": True,
        "puzzle_emb_len": 16,
        "no_ACT_continue": True,
    },
    "data_paths": ["data/sudoku-extreme-1k-aug-1000"],
    "data_paths_test": [],
    "evaluators": [],
    "global_batch_size": 768,
    "epochs": 50000,
    "eval_interval": 5000,
    "lr": 1e-4,
    "lr_min_ratio": 1.0,
    "lr_warmup_steps": 2000,
    "weight_decay": 1.0,
    "beta1": 0.9,
    "beta2": 0.95,
    "puzzle_emb_lr": 1e-4,
    "puzzle_emb_weight_decay": 1.0,
    "project_name": "Sudoku",
    "run_name": "pretrain_mlp_t_sudoku",
    "load_checkpoint": None,
    "checkpoint_path": "checkpoints/Sudoku/pretrain_mlp_t_sudoku",
    "seed": 0,
    "checkpoint_every_eval": True,
    "min_eval_interval": 0,
    "eval_save_outputs": [],
    "ema": True,
    "ema_rate": 0.999,
    "freeze_weights": False,
}
OFFICIAL_HRM: dict[str, Any] = {
    "arch": {
        "name": "hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1",
        "loss": {"name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"},
        "halt_exploration_prob": 0.1,
        "halt_max_steps": 16,
        "H_cycles": 2,
        "L_cycles": 2,
        "H_layers": 4,
        "L_layers": 4,
        "hidden_size": 512,
        "num_heads": 8,
        "expansion": 4,
        "puzzle_emb_ndim": 512,
        "pos_encodings": "rope",
    },
    "data_path": "data/sudoku-extreme-1k-aug-1000",
    "global_batch_size": 384,
    "epochs": 20000,
    "lr": 7e-5,
    "lr_min_ratio": 1.0,
    "lr_warmup_steps": 2000,
    "weight_decay": 1.0,
    "beta1": 0.9,
    "beta2": 0.95,
    "puzzle_emb_lr": 7e-5,
    "puzzle_emb_weight_decay": 1.0,
    "project_name": None,
    "run_name": None,
    "checkpoint_path": None,
    "seed": 0,
    "checkpoint_every_eval": False,
    "eval_interval": 2000,
    "eval_save_outputs": [],
}
# Names that are moved or completed by `resolve`, so that the file's value is not the result's.
MOVED = {"data_path", "load_checkpoint", "forward_dtype", "name", "puzzle_emb_len", "puzzle_emb_ndim", "loss"}
MOVED |= {"run_name", "project_name", "checkpoint_path", "data_paths", "init_from", "dtype"}


class Configs:
    """Config files."""

    name = "configs"
    share = 5.0

    def prepare(self) -> None:
        ours = config_to_dict(resolve({"data_paths": ["data/x"], "arch": {"name": "trm"}}))
        # As runs of before eval.* had sections wrote it.
        flat: dict[str, Any] = {
            "max_steps": None,
            "adaptive_halt": False,
            "vote": 1,
            "sigma": [],
            "site": "both",
            "rollouts": 4,
        }
        self.bases = [ours, {**ours, "eval": {**flat, "sigma_grid": [0.1]}}, OFFICIAL_TRM, OFFICIAL_HRM]

    def case(self, rng: Random, folder: Path) -> Case:
        changes: list[str] = []
        path = folder / "all_config.yaml"
        tree = rng.choice(self.bases)
        sound = rng.random() < 0.03
        path.write_bytes(yaml.safe_dump(tree).encode() if sound else _damaged(rng, tree, folder, changes))
        if not sound and rng.random() < 0.03:
            misplace(rng, path, changes)
        return Case(changes, lambda: load_config_file(path), lambda cfg: judge(cfg, path), must_read=sound)


def _damaged(rng: Random, tree: dict[str, Any], folder: Path, changes: list[str]) -> bytes:
    kind = rng.randrange(10)
    if kind < 3:
        changed = edit_tree(rng, tree, changes)
        try:
            return yaml.safe_dump(changed, allow_unicode=rng.random() < 0.5).encode("utf-8", "surrogatepass")
        except (yaml.YAMLError, ValueError, RecursionError):
            changes.append("as JSON")
            return json.dumps(changed).encode("utf-8", "surrogatepass")
    if kind < 5:
        return _other_value(rng, tree, changes)
    if kind < 6:
        return json_bytes(rng, edit_tree(rng, tree, changes), changes)
    text = yaml.safe_dump(tree).encode()
    if kind < 8:
        return damage(rng, text, TEXT, changes)
    return _markup(rng, text, folder, changes)


def _other_value(rng: Random, tree: dict[str, Any], changes: list[str]) -> bytes:
    """A value of the schema, at a key of the schema: right or nearly."""
    tree = copy.deepcopy(tree)
    schema, node = rng.choice([(TrainConfig, tree), (ArchConfig, tree["arch"])])
    for _ in range(rng.choice([1, 1, 2])):
        item = rng.choice(fields(schema))
        old = node.get(item.name, item.default)
        near: list[Any] = [
            0,
            1,
            2,
            4,
            8,
            0.1,
            0.5,
            1.0,
            1e-3,
            True,
            False,
            None,
            "2",
            "1e-3",
            "0.5",
            "true",
            "rope",
        ]
        near += [
            "float32",
            "adamw",
            "auto",
            [],
            ["data/y"],
            "data/y",
            1_000_000,
            2**31,
            1e9,
            "cuda:0",
            "never",
            "'",
        ]
        node[item.name] = rng.choice([*near, strange_value(rng, old)])
        changes.append(f"{item.name} = {str(node[item.name])[:40]}")
    try:
        return yaml.safe_dump(tree).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, ValueError, RecursionError):
        return json.dumps(tree).encode("utf-8", "surrogatepass")


def _markup(rng: Random, text: bytes, folder: Path, changes: list[str]) -> bytes:
    """What yaml can do beyond data: tags, aliases, documents, merges."""
    touch = f"touch '{folder / canary.FILE}'"
    pieces = [
        f'seed: !!python/object/apply:os.system ["{touch}"]\n',
        f'!!python/object/new:os.system ["{touch}"]\n',
        "seed: !!python/object/apply:tests.fuzz.canary.sing [yaml]\n",
        "seed: !!python/name:os.system\n",
        "seed: !!python/module:antigravity\n",
        "x: &a [y]\nz: [*a, *a]\n",
        "a: &a [x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{f'*{chr(97 + i)},' * 9}]\n" for i in range(9)),
        "seed: &s [*s]\n",
        "<<: {seed: 5}\n",
        "<<: [1]\n",
        "? [a, b]\n: c\n",
        "? {a: b}\n: c\n",
        "seed: !!binary aGk=\n",
        "seed: !!set {1}\n",
        "seed: 2020-01-01\n",
        "seed: 0o17\n",
        "seed: 1_0\n",
        "seed: 1:30\n",
        "seed: .nan\n",
        "lr: .inf\n",
        "lr: 1e-4e\n",
        "seed: 1\nseed: 2\n",
        "arch: {name: trm}\n",
        "arch: {name: os@system}\n",
        "arch: {_target_: os.system}\n",
        "_target_: os.system\n",
        "---\nseed: 1\n",
        "...\n",
        "%YAML 9.9\n---\n",
        "\tseed: 1\n",
        "[" * 3000 + "\n",
        "x: " + "[" * 900 + "]" * 900 + "\n",
        "x: " + "{a: " * 300 + "1" + "}" * 300 + "\n",
        "1: 2\n",
        "null: 3\n",
        "true: 3\n",
        "seed: ${oc.env:HOME}\n",
        "checkpoint_path: ${oc.env:HOME}\n",
        "data_paths: [${seed}]\n",
        "run_name: ???\n",
        "x: " + "1" * 5000 + "\n",
        "seed: " + "9" * 4300 + "9\n",
        "seed: 0x" + "f" * 6000 + "\n",
    ]
    piece = rng.choice(pieces)
    changes.append(f"markup {piece[:50]!r}")
    return rng.choice([text + piece.encode(), piece.encode() + text, piece.encode()])


def judge(cfg: TrainConfig, path: Path) -> str | None:
    """The schema's types, idempotence, and every plain value as in the file."""
    wrong = wrong_types(cfg)
    if wrong:
        return wrong
    again = resolve(config_to_dict(cfg), require_data=False)
    if again != cfg:
        return "resolving again gives another config"
    text = path.read_text("utf-8")
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        return None
    raw = yaml.safe_load(text)
    if _doubled(yaml.compose(text, yaml.SafeLoader)):
        return "a key stands twice and one of them was taken"
    return _unlike(cfg, raw) or (_unlike(cfg.arch, raw["arch"]) if isinstance(raw.get("arch"), dict) else None)


def wrong_types(node: Any) -> str | None:
    """What in a config instance is not of the type that its schema says."""
    hints = typing.get_type_hints(type(node))
    for item in fields(node):
        value, kind = getattr(node, item.name), hints[item.name]
        if is_dataclass(value):
            wrong = wrong_types(value)
            if wrong:
                return wrong
            continue
        options = typing.get_args(kind) if not hasattr(kind, "__origin__") else ()
        allowed = [typing.get_origin(each) or each for each in (options or (kind,))]
        if not any(type(value) is each for each in allowed):
            return f"{item.name} is {value!r}, the schema says {kind}"
        if kind == list[str] and not all(type(each) is str for each in value):
            return f"{item.name} is {value!r}, the schema says {kind}"
        if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
            return f"{item.name} is {value!r}"
    return None


def _unlike(cfg: Any, raw: dict[Any, Any]) -> str | None:
    """A plain value of the file that the config does not hold. Texts may stand for numbers: '2' is 2."""
    for name, given in raw.items():
        if name in MOVED or not isinstance(name, str) or not hasattr(cfg, name):
            continue
        found = getattr(cfg, name)
        if is_dataclass(found) or isinstance(given, list | dict):
            continue
        # An integer of the file may stand for a float of the schema, rounded as floats are.
        rounded = float(given) if type(found) is float and type(given) is int and abs(given) < 10**308 else given
        same = found == rounded and isinstance(found, bool) == isinstance(given, bool)
        if not same and not means(given, found):
            return f"{name} is {found!r}, the file says {given!r}"
    return None


def means(given: Any, found: Any) -> bool:
    """Whether a value of one type stands for one of another, as OmegaConf converts them."""
    if isinstance(found, bool) or isinstance(given, bool):
        words = {"true": True, "yes": True, "on": True, "1": True, "y": True}
        words |= {"false": False, "no": False, "off": False, "0": False, "n": False}
        return words.get(str(given).lower()) == found or str(given) == found
    if isinstance(found, int | float) and isinstance(given, str):
        try:
            return float(given) == found
        except ValueError:
            return False
    return isinstance(found, str) and str(given) == found


def _doubled(node: Any) -> bool:
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        return len(names) != len(set(names)) or any(_doubled(value) for _, value in node.value)
    return isinstance(node, yaml.SequenceNode) and any(map(_doubled, node.value))
