"""Settings: merge, aliases, ranges, identity, and files of other programs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from errors import UserError
from training.settings.identity import config_hash, config_to_dict, run_identity
from training.settings.resolving import ARCH_DEFAULTS, load_config_file, resolve
from training.settings.schema import TrainConfig, schema_keys

DATA = {"data_paths": ["data/x"]}

# As the official TRM and HRM programs write them beside a checkpoint.
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
    "evaluators": [{"name": "arc@ARC"}],
    "global_batch_size": 768,
    "epochs": 50000,
    "lr": 1e-4,
    "lr_min_ratio": 1.0,
    "lr_warmup_steps": 2000,
    "weight_decay": 1.0,
    "beta1": 0.9,
    "beta2": 0.95,
    "puzzle_emb_lr": 1e-4,
    "puzzle_emb_weight_decay": 1.0,
    "project_name": "Sudoku-extreme-1k-aug-1000-ACT-torch",
    "run_name": "pretrain_mlp_t_sudoku",
    "load_checkpoint": None,
    "checkpoint_path": "checkpoints/Sudoku-extreme-1k-aug-1000-ACT-torch/pretrain_mlp_t_sudoku",
    "seed": 0,
    "checkpoint_every_eval": True,
    "eval_interval": 5000,
    "min_eval_interval": 0,
    "eval_save_outputs": [],
    "ema": True,
    "ema_rate": 0.999,
    "freeze_weights": False,
}
OFFICIAL_HRM: dict[str, Any] = {
    "arch": {
        "name": "hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1",
        "loss": {"name": "losses@ACTLossHead", "loss_type": "softmax_cross_entropy"},
        "halt_exploration_prob": 0.1,
        "halt_max_steps": 8,
        "H_cycles": 2,
        "L_cycles": 8,
        "H_layers": 4,
        "L_layers": 4,
        "hidden_size": 512,
        "num_heads": 8,
        "expansion": 4,
        "puzzle_emb_ndim": 512,
        "pos_encodings": "learned",
    },
    "data_path": "data/sudoku-hard-full",
    "global_batch_size": 2304,
    "epochs": 100,
    "eval_interval": 10,
    "lr": 3e-4,
    "lr_min_ratio": 0.1,
    "lr_warmup_steps": 2000,
    "weight_decay": 0.1,
    "beta1": 0.9,
    "beta2": 0.95,
    "puzzle_emb_lr": 3e-4,
    "puzzle_emb_weight_decay": 0.1,
    "project_name": None,
    "run_name": None,
    "checkpoint_path": None,
    "seed": 0,
    "checkpoint_every_eval": True,
    "eval_save_outputs": [],
}


def refusal(raw: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        resolve({**DATA, **raw})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_are_the_official_ones() -> None:
    cfg = resolve(DATA)
    assert (cfg.global_batch_size, cfg.epochs, cfg.eval_interval) == (768, 100000, 10000)
    assert (cfg.lr, cfg.lr_min_ratio, cfg.lr_warmup_steps, cfg.puzzle_emb_lr) == (1e-4, 1.0, 2000, 1e-2)
    assert (cfg.beta1, cfg.beta2, cfg.weight_decay, cfg.puzzle_emb_weight_decay) == (0.9, 0.95, 0.1, 0.1)
    assert (cfg.arch.name, cfg.arch.H_cycles, cfg.arch.L_cycles, cfg.arch.L_layers) == ("trm", 3, 6, 2)
    assert (cfg.arch.puzzle_emb_ndim, cfg.arch.puzzle_emb_len, cfg.ema) == (512, 16, False)


def test_hrm_means_other_defaults() -> None:
    cfg = resolve({**DATA, "arch": {"name": "hrm_v1", "hidden_size": 128}})
    assert cfg.arch.name == "hrm"
    for key, value in ARCH_DEFAULTS["hrm"].items():
        if key != "puzzle_emb_len":
            assert getattr(cfg.arch, key) == value
    assert (cfg.arch.puzzle_emb_ndim, cfg.arch.puzzle_emb_len) == (128, 1)


@pytest.mark.parametrize("ndim, slots", [(0, 0), (1, 1), (512, 1), (513, 2), (1536, 3)])
def test_prefix_length_is_the_rounded_up_quotient(ndim: int, slots: int) -> None:
    for name in ("trm", "hrm"):
        cfg = resolve({**DATA, "arch": {"name": name, "puzzle_emb_ndim": ndim, "puzzle_emb_len": 0}})
        assert cfg.arch.puzzle_emb_len == slots


def test_aliases_end_in_one_name() -> None:
    arch = {"forward_dtype": "bfloat16"}
    cfg = resolve({"data_path": "data/a/", "load_checkpoint": "w.pt", "arch": arch})
    assert (cfg.data_paths, cfg.data_path) == (["data/a/"], None)
    assert (cfg.init_from, cfg.load_checkpoint) == ("w.pt", None)
    assert (cfg.dtype, cfg.arch.forward_dtype) == ("bfloat16", None)
    assert resolve({"data_path": "data/a/", "data_paths": ["data/a"]}).data_paths == ["data/a"]


def test_conflicting_aliases_are_refused() -> None:
    assert "data_path=b" in refusal({"data_path": "b"})
    assert "init_from=y" in refusal({"load_checkpoint": "x", "init_from": "y"})
    assert "dtype=float32" in refusal({"dtype": "float32", "arch": {"forward_dtype": "bfloat16"}})


def test_names_of_a_run() -> None:
    cfg = resolve({"data_paths": ["data/Sudoku-Extreme/"]})
    assert cfg.project_name == "Sudoku-extreme-ACT-torch"
    assert cfg.run_name is not None and cfg.run_name.startswith("trm-") and len(cfg.run_name) == len("trm-") + 8
    assert cfg.checkpoint_path == f"checkpoints/{cfg.project_name}/{cfg.run_name}"
    named = resolve({**DATA, "project_name": "p", "run_name": "r"})
    assert named.checkpoint_path == "checkpoints/p/r"


def test_the_same_settings_find_their_folder_and_others_do_not() -> None:
    base = resolve(DATA)
    control = {
        "max_steps": 5,
        "max_hours": 0.1,
        "resume": "must",
        "device": "cpu",
        "threads": 1,
        "keep_last": 2,
    }
    control |= {
        "checkpoint_interval": 7,
        "log_interval": 3,
        "status_interval_seconds": 1.0,
        "wandb": {"mode": "offline"},
    }
    assert resolve({**DATA, **control}).run_name == base.run_name
    others = [
        {"seed": 1},
        {"lr": 2e-4},
        {"arch": {"L_cycles": 5}},
        {"arch": {"loss": {"loss_type": "softmax_cross_entropy"}}},
    ]
    others += [{"data_paths": ["data/y"]}, {"init_from": "w.pt"}]
    names = {resolve({**DATA, **other}).run_name for other in others}
    assert len(names) == len(others) and base.run_name not in names


def test_options_of_srm_tell_runs_of_srm_apart_and_no_others() -> None:
    """Runs of other architectures keep the names that they had before there was one to read these."""
    for name, differ in (("trm", False), ("hrm", False), ("srm", True)):
        plain, other = ({**DATA, "arch": {"name": name, **change}} for change in ({}, {"alpha": 0.25, "kappa": 0.87}))
        for identify in (config_hash, run_identity):
            assert (identify(resolve(plain)) != identify(resolve(other))) == differ
        assert ("arch.alpha" in run_identity(resolve(plain))) == differ


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alpha": 0}, "arch.alpha': found 0.0, expected a number above 0 and at most 1"),
        ({"alpha": 1.01}, "arch.alpha': found 1.01"),
        ({"kappa": 0.84}, "arch.kappa': found 0.84, expected a number from 0.85 to 0.95"),
        ({"kappa": 1.0}, "arch.kappa': found 1.0"),
        ({"pos_encodings": "rope"}, "arch.pos_encodings': found 'rope', expected none or learned"),
        ({"mlp_t": True}, "arch.mlp_t': found True, expected False"),
        ({"hidden_size": 100}, "arch.hidden_size': found 100, expected a multiple of arch.num_heads=8"),
        ({"L_layers": 0}, "arch.L_layers': found 0, expected a number from 1 to 1024"),
    ],
)
def test_what_srm_cannot_be_is_refused(change: dict[str, Any], words: str) -> None:
    message = refusal({"arch": {"name": "srm", **change}})
    assert words in message and "\n" not in message


def test_resolving_twice_changes_nothing() -> None:
    for raw in (DATA, OFFICIAL_TRM, OFFICIAL_HRM):
        cfg = resolve(raw)
        again = resolve(config_to_dict(cfg))
        assert again == cfg and config_hash(again) == config_hash(cfg)


def test_resolve_leaves_its_input_alone() -> None:
    raw = {**DATA, "arch": {"name": "hrm_v1"}}
    resolve(raw)
    assert raw == {**DATA, "arch": {"name": "hrm_v1"}}


def test_identity_has_what_shapes_the_updates() -> None:
    identity = run_identity(resolve(DATA))
    for key in (
        "lr",
        "seed",
        "optimizer",
        "augment",
        "dtype",
        "arch.L_cycles",
        "arch.loss.loss_type",
        "eval_interval",
    ):
        assert key in identity
    for key in ("max_steps", "device", "wandb", "checkpoint_path", "arch.loss", "log_interval", "epochs"):
        assert key not in identity
    cosine = {**DATA, "lr_min_ratio": 0.1}
    assert run_identity(resolve(cosine))["epochs"] == 100000
    assert run_identity(resolve(DATA)) != run_identity(resolve({**DATA, "seed": 1}))
    assert run_identity(resolve({"data_paths": ["data/x/"]})) == identity


@pytest.mark.parametrize("settings", [{"max_steps": 64}, {"adaptive_halt": True}, {"vote": 8}])
def test_another_evaluation_is_another_run_by_default_but_the_same_state(settings: dict[str, Any]) -> None:
    """It may choose another best checkpoint, so a folder of its own; the weights' path is the same."""
    plain, other = resolve(DATA), resolve({**DATA, "eval": settings})
    assert config_hash(other) != config_hash(plain) and other.run_name != plain.run_name
    assert run_identity(other) == run_identity(plain)
    assert resolve({**DATA, "eval": {"max_steps": None, "vote": 1}}) == plain


@pytest.mark.parametrize(
    "raw, named",
    [
        ({"lrr": 1}, "'lr'"),
        ({"arch": {"hiden_size": 3}}, "'arch.hidden_size'"),
        ({"hidden_size": 3}, "'arch.hidden_size'"),
        ({"loss_typ": 3}, "'arch.loss.loss_type'"),
        ({"Epochs": 3}, "'epochs'"),
        ({3: 4}, "unknown option '3'"),
    ],
)
def test_unknown_keys_name_the_nearest(raw: dict[Any, Any], named: str) -> None:
    assert named in refusal(raw)


@pytest.mark.parametrize(
    "raw",
    [
        {"lr": "abc"},
        {"lr": True},
        {"lr": None},
        {"lr": [1]},
        {"lr": float("nan")},
        {"arch": {"alpha": float("nan")}},
        {"lr": float("inf")},
        {"lr": -1e-3},
        {"lr": "???"},
        {"lr": "${seed}"},
        {"run_name": "${nothing}"},
        {"run_name": " "},
        {"run_name": "../x"},
        {"epochs": -1},
        {"epochs": 0},
        {"epochs": 1.5},
        {"epochs": "many"},
        {"epochs": 5},
        {"eval_interval": 7},
        {"seed": -1},
        {"seed": 2**63},
        {"beta1": 1.0},
        {"ema_rate": 1.1},
        {"lr_min_ratio": -0.1},
        {"ema": "perhaps"},
        {"data_paths": "data/x"},
        {"data_paths": []},
        {"data_paths": [""]},
        {"data_paths": [["data/x"]]},
        {"evaluators": [{"name": "nope"}]},
        {"evaluators": ["nope@Nope"]},
        {"evaluators": [{"name": "sudoku", "interval": 0}]},
        {"evaluators": ["sudoku", {"name": "sudoku", "interval": 2}]},
        {"evaluators": ["arc", "arc@ARC"]},
        {"evaluators": [{"name": ["sudoku"]}]},
        {"evaluators": 3},
        {"global_batch_size": 10, "accumulation_slices": 3},
        {"global_batch_size": 0},
        {"max_steps": 0},
        {"max_hours": 0},
        {"grad_clip_norm": 0},
        {"optimizer": "sgd"},
        {"augment": "some"},
        {"device": "gpu"},
        {"dtype": "float16"},
        {"state_dtype": "half"},
        {"guards": 3},
        {"guards": {"mode": "panic"}},
        {"eval": 3},
        {"eval": {"max_steps": 0}},
        {"eval": {"max_steps": 2**63}},
        {"eval": {"vote": 0}},
        {"eval": {"vote": None}},
        {"eval": {"vote": 1.5}},
        {"eval": {"adaptive_halt": 2}},
        {"wandb": {"mode": "on"}},
        {"wandb": {"api_key": "secret"}},
        {"arch": 3},
        {"arch": {"name": "foo"}},
        {"arch": {"name": ["trm"]}},
        {"arch": {"loss": {"name": "foo"}}},
        {"arch": {"loss": {"loss_type": "mse"}}},
        {"arch": {"hidden_size": 100}},
        {"arch": {"hidden_size": 24}},
        {"arch": {"hidden_size": 0}},
        {"arch": {"num_heads": 0}},
        {"arch": {"halt_exploration_prob": 1.5}},
        {"arch": {"pos_encodings": "alibi"}},
        {"arch": {"puzzle_emb_ndim": 0}},
        {"arch": {"puzzle_emb_ndim": 1024, "puzzle_emb_len": 1}},
        {"arch": {"name": "hrm", "pos_encodings": "none"}},
        {"arch": {"name": "hrm", "H_layers": 0}},
        {"arch": {"puzzle_emb_ndim": 0, "puzzle_emb_len": 0}, "freeze_weights": True},
        {"early_stop_patience": 1, "validation_size": 0},
    ],
)
def test_bad_values_are_refused_in_one_line(raw: dict[str, Any]) -> None:
    message = refusal(raw)
    key = next(iter(raw))
    assert key in message or "eval_interval" in message or "no data" in message or "accumulation" in message


def test_a_config_without_data_can_be_asked_for() -> None:
    assert resolve({}, require_data=False).data_paths == []
    with pytest.raises(UserError, match="build_sudoku_dataset"):
        resolve({})


def test_every_schema_key_is_readable_from_the_config() -> None:
    cfg = TrainConfig()
    for key in schema_keys(TrainConfig):
        node: Any = cfg
        for part in key.split("."):
            node = getattr(node, part)


def test_an_official_trm_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "all_config.yaml"
    file.write_text(yaml.dump(OFFICIAL_TRM))
    cfg = load_config_file(file)
    assert (cfg.arch.name, cfg.arch.mlp_t, cfg.arch.puzzle_emb_len, cfg.dtype) == (
        "trm",
        True,
        16,
        "bfloat16",
    )
    assert (cfg.run_name, cfg.ema, cfg.weight_decay) == ("pretrain_mlp_t_sudoku", True, 1.0)


def test_an_official_hrm_file_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "all_config.yaml"
    raw = {**OFFICIAL_HRM, "a_forks_option": 3, "arch": {**OFFICIAL_HRM["arch"], "causal": False}}
    file.write_text(yaml.dump(raw))
    cfg = load_config_file(file)
    assert (cfg.arch.name, cfg.arch.puzzle_emb_len, cfg.arch.no_ACT_continue) == ("hrm", 1, False)
    assert (cfg.data_paths, cfg.arch.loss.loss_type) == (["data/sudoku-hard-full"], "softmax_cross_entropy")
    warning = capsys.readouterr().err
    assert "arch.causal" in warning and "a_forks_option" in warning and warning.count("\n") == 1


def test_our_own_file_comes_back_equal(tmp_path: Path) -> None:
    cfg = resolve({**DATA, "arch": {"name": "hrm"}, "lr": 7e-5, "wandb": {"mode": "offline"}})
    file = tmp_path / "all_config.yaml"
    file.write_text(yaml.safe_dump(config_to_dict(cfg)))
    assert load_config_file(file) == cfg
    assert load_config_file(file) != replace(cfg, lr=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['true']",
        "evaluators: &a {name: *a}",
        "run_name: ${oc.env:HOME}",
        "[1, 2]",
        "",
        "arch: {name: os.system}",
        "lr: abc",
        "{" * 5000,
        "\x00",
        "a: b: c",
        "lr: 2020-01-01",
        "? [1, 2]\n: 3",
        "evaluators: &a [*a]",
        "\n".join(f"k{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else '1'}]" for i in range(9)),
    ],
)
def test_hostile_or_broken_files_are_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "all_config.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match="all_config.yaml"):
        load_config_file(file)


def test_files_that_are_none(tmp_path: Path) -> None:
    big = tmp_path / "big.yaml"
    big.write_text("#" * (2 << 20))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (big, binary, tmp_path, tmp_path / "missing.yaml", tmp_path / "nul\0"):
        with pytest.raises(UserError):
            load_config_file(path)


def test_two_configs_share_no_list() -> None:
    """The schema is made ready once for all of them."""
    first, second = resolve(DATA), resolve(DATA)
    first.data_paths.append("more")
    first.source.steps.append("replay")
    first.eval.during.sigma_grid.append(1.0)
    assert resolve(DATA) == second != first
