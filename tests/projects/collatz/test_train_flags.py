"""Flags of collatz.py and what they mean; every command of the source; mistakes in one line."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

import collatz as script
import evaluate
import predict
import step9_trajectory_perturb_train as step9
from analysis.arms import training_curve
from analysis.rollouts import q_head_vs_stability, step_by_step
from analysis.spectra import lyapunov_spectrum
from errors import UserError
from projects.collatz.build_eval import main as build_eval
from projects.collatz.flags import CheckpointRequest, TrainingRequest, build_parser, read_flags
from projects.collatz.settings import CollatzConfig
from projects.collatz.train_flags import PRESET_SETTINGS, to_config
from scripts.grid_file import GRIDS, read_grid
from tests.helpers import ROOT, refused_line
from training.settings.identity import config_hash, config_to_dict, run_identity
from training.settings.resolving import resolve
from training.storage.weights import load_weights

LAYERS = "--layers 2048,1024,1024,512,512,512,256,128,64"
EVALUATION = "--eval-csv collatz_eval_50k.csv --eval-interval 5000 --quick-eval-interval 1000"
# Runs 1 to 6 of the source document, with what is to follow from each.
SOURCE: dict[str, tuple[str, dict[str, Any]]] = {
    "1": (f"--epochs 100000 {LAYERS} --curriculum --ramp-len 100000 --start-seeds 0", {"ramp_len": 100_000}),
    "2": (
        f"--epochs 100000 {LAYERS} --curriculum --ramp-len 100000 --start-seeds 0 --mine-negatives "
        f"--mine-interval 10000 {EVALUATION}",
        {"mine_negatives": True, "mine_interval": 10_000, "mine_count": 50, "eval_interval": 5000},
    ),
    "3": (
        f"--epochs 100000 {LAYERS} --curriculum --ramp-len 50000 --start-seeds 0 --mine-negatives "
        "--mine-interval 10000",
        {"ramp_len": 50_000, "mine_negatives": True},
    ),
    "4": (
        f"--epochs 100000 {LAYERS} --curriculum --ramp-len 50000 --start-seeds 0 --use-t4 --mine-negatives "
        "--mine-interval 10000",
        {"use_t4": True},
    ),
    "5": (f"--epochs 100000 {LAYERS} --curriculum --ramp-len 50000 --start-seeds 0", {"mine_negatives": False}),
    "6": (f"--epochs 100000 {LAYERS} --curriculum --ramp-len 50000 --start-seeds 0 --lookahead 20",
          {"lookahead": 20}),
    "adaptive": (
        f"--epochs 100000 {LAYERS} --curriculum --ramp-len 50000 --start-seeds 0 --lookahead 20 --use-t4 "
        "--target-type adaptive",
        {"target_type": "adaptive", "use_t4": True, "lookahead": 20},
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def asked(*words: object) -> TrainingRequest:
    request = read_flags(list(map(str, words)))
    assert isinstance(request, TrainingRequest)
    return request


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    return refused_line(capsys, script.main, words)


@pytest.mark.parametrize(("command", "expected"), SOURCE.values(), ids=SOURCE.keys())
def test_commands_of_the_source(
    command: str, expected: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As printed there, with --dry-run: they parse, mean what they meant, and leave nothing."""
    if "--eval-csv" in command:
        build_eval(["--rows", "20", "--seed", "42", "--output-csv", "collatz_eval_50k.csv"])
        capsys.readouterr()
    before = sorted(tmp_path.iterdir())
    config = asked(*shlex.split(command)).config
    settings = config.collatz
    for key, value in {"curriculum": True, "start_seeds": 0, "empty_pool": "reserved-seed", **expected}.items():
        assert getattr(settings, key) == value, key
    assert config.epochs == 100_000 and settings.layers[0] == 2048 and len(settings.layers) == 9
    assert settings.legacy_lr_plateau and not settings.decontaminate and settings.margin == 0.05
    assert (config.optimizer, config.lr, config.weight_decay, config.global_batch_size) == ("adamw", 1e-3, 0.01, 1024)
    assert (config.beta1, config.beta2, config.grad_clip_norm, config.ema) == (0.9, 0.999, None, False)
    script.main([*shlex.split(command), "--dry-run"])
    printed = capsys.readouterr().out
    count = {10: "4,405,250", 20: "4,425,730"}[settings.lookahead]
    assert f"{count} parameters" in printed and "updates      100,000" in printed
    assert "split by orbit: " in printed and "had a state on a test orbit" in printed
    assert sorted(tmp_path.iterdir()) == before


def test_a_source_command_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first of them with fewer updates, a smaller network and nothing else changed."""
    command = SOURCE["2"][0].replace(LAYERS, "--layers 8").replace("--epochs 100000", "--epochs 3")
    build_eval(["--rows", "20", "--seed", "42", "--output-csv", "collatz_eval_50k.csv"])
    script.main(shlex.split(command))
    printed = capsys.readouterr().out
    assert "V_final does not beat the closed forms" in printed
    folder = Path(json.loads(printed.splitlines()[-1])["run_folder"])
    assert folder.parts[0] == "checkpoints" and (folder / "summary.json").exists()
    script.main(shlex.split(command))
    assert "finished at update 3" in capsys.readouterr().out, "the same command finds its own run"


def test_the_defaults_are_the_source_s() -> None:
    config = asked().config
    settings = config.collatz
    assert config.epochs == 20_001 and settings.layers == [128, 128, 128] and settings.lookahead == 10
    assert (settings.max_bits, settings.hard_ratio, settings.start_seeds, settings.ramp_len) == (128, 0.25, 30, 25_000)
    assert (settings.mine_interval, settings.mine_count) == (5000, 50)
    assert (settings.decay_start, settings.decay_len) == (1000, 5000)
    assert (settings.eval_interval, settings.quick_eval_interval, settings.min_anchor) == (5000, 1000, 0)


def test_every_flag_reaches_the_settings() -> None:
    """Each training flag, changed alone, changes what is computed, or is known not to."""
    parser = build_parser()
    group = [action for action in parser._actions if action.dest not in (
        "help", "closed_forms", "evaluate", "orbits", "json", "dry_run", "preset", "resume_state")]  # fmt: skip
    other = {"layers": "7,7", "target_type": "adaptive", "empty_pool": "random", "lr_schedule": "cosine",
             "device": "cpu", "dtype": "float64", "eval_csv": "some.csv", "output_dir": "some", "lr": "0.5",
             "ema": None, "hard_ratio": "0.5", "min_anchor": "0.5", "eval_interval": "1000",
             "quick_eval_interval": "5000"}  # fmt: skip
    of_orbit = {"tau_start", "tau_end", "segment_steps", "fewest_bits", "most_bits"}
    control = {"output_dir", "max_steps", "max_hours", "checkpoint_interval", "log_interval", "save_every_eval",
               "device", "threads"}  # fmt: skip
    for action in group:
        preset = ["--preset", "orbit"] if action.dest in of_orbit else []
        words = [action.option_strings[0]]
        if action.nargs != 0:
            words.append(other.get(action.dest) or "210")
        if action.dest == "start_seeds":
            words[-1] = "7"
        plain, changed = asked(*preset).config, asked(*preset, *words).config
        if action.dest == "legacy_lr_plateau":
            changed = asked(*preset, "--no-legacy-lr-plateau").config
        assert config_to_dict(plain) != config_to_dict(changed), action.dest
        assert (config_hash(plain) == config_hash(changed)) == (action.dest in control), action.dest


def test_identity_is_what_shapes_the_path_of_the_weights() -> None:
    plain = run_identity(asked().config)
    for words in (["--eval-csv", "a.csv"], ["--eval-interval", "1000"], ["--quick-eval-interval", "5000"],
                  ["--epochs", "30000"], ["--max-steps", "5"], ["--output-dir", "x"]):  # fmt: skip
        assert run_identity(asked(*words).config) == plain, words
    for words in (["--mine-count", "3"], ["--layers", "4"], ["--seed", "1"], ["--no-legacy-lr-plateau"],
                  ["--lookahead", "11"], ["--decontaminate"], ["--lr", "1"]):  # fmt: skip
        assert run_identity(asked(*words).config) != plain, words
    cosine = [run_identity(asked("--lr-schedule", "cosine", "--epochs", n).config) for n in (100, 200)]
    assert cosine[0] != cosine[1], "a cosine has its length"
    assert not [key for key in plain if key.startswith(("arch", "objective"))]


def test_runs_on_puzzles_do_not_know_of_it() -> None:
    """Their folders, states and settings stay as they were."""
    config = resolve({"data_paths": ["d"]})
    assert "collatz" not in config_to_dict(config) and not [k for k in run_identity(config) if "collatz" in k]
    assert config.collatz == CollatzConfig()
    with pytest.raises(UserError, match="'collatz.lookahead' is read by Collatz runs only"):
        resolve({"data_paths": ["d"], "collatz": {"lookahead": 30}})


def test_schedules() -> None:
    assert asked().config.collatz.legacy_lr_plateau
    assert not asked("--no-legacy-lr-plateau").config.collatz.legacy_lr_plateau
    for schedule, ratio in (("constant", 1.0), ("cosine", 0.0)):
        config = asked("--lr-schedule", schedule).config
        assert config.lr_min_ratio == ratio and not config.collatz.legacy_lr_plateau
    assert asked("--lr-schedule", "constant", "--legacy-lr-plateau").config.collatz.legacy_lr_plateau
    assert not asked("--preset", "orbit").config.collatz.legacy_lr_plateau
    assert set(PRESET_SETTINGS) == {"faithful", "orbit"}


BAD = {
    "lookahead 0": ("--lookahead 0", "'0' is not a whole number from 1 to 1000"),
    "layers words": ("--layers big", "'big' is not a whole number from 1 to 65536"),
    "layers gap": ("--layers 8,,8", "'' is not a whole number"),
    "layers 0": ("--layers 8,0", "'0' is not a whole number from 1 to 65536"),
    "layers float": ("--layers 8.5", "'8.5' is not a whole number"),
    "layers negative": ("--layers=-8", "'-8' is not a whole number"),
    "layers many": (f"--layers {','.join(65 * '8')}", "expected 1 to 64 widths from 1 to 65536"),
    "epochs": ("--epochs 0", "--epochs: found 0, expected at least 1"),
    "epochs x": ("--epochs x", "argument --epochs: invalid int value: 'x'"),
    "batch": ("--batch-size 0", "--batch-size: found 0, expected a number from 1 to 16777216"),
    "seed": ("--seed -1", "--seed: found -1, expected a number from 0 to 2^63 - 1"),
    "seeds": ("--start-seeds 50", "--start-seeds: found 50, expected a number from 0 to 49"),
    "ramp": ("--ramp-len 0", "--ramp-len: found 0, expected at least 1"),
    "ratio": ("--hard-ratio 1.5", "--hard-ratio: found 1.5, expected a number from 0 to 1"),
    "nan": ("--margin nan", "--margin: found nan, expected a finite number"),
    "bits": ("--max-bits 4", "--max-bits: found 4, expected a number from 8 to 4096"),
    "intervals": ("--eval-interval 700", "--eval-interval: found 700, expected a multiple or a divisor of "
                  "--quick-eval-interval 1000"),
    "mining": ("--mine-interval 0", "--mine-interval: found 0, expected at least 1"),
    "target": ("--target-type linear", "invalid choice: 'linear'"),
    "preset": ("--preset best", "invalid choice: 'best'"),
    "of the other": ("--preset orbit --curriculum", "--curriculum belongs to --preset faithful, found --preset orbit"),
    "and back": ("--tau-end 0.1", "--tau-end belongs to --preset orbit, found --preset faithful"),
    "segments": ("--preset orbit --segment-steps 2", "--segment-steps: found 2, expected at least 4"),
    "starts": ("--preset orbit --fewest-bits 300", "--fewest-bits: found 300, expected 8 to --most-bits 256"),
    "two rates": ("--legacy-lr-plateau --lr-schedule cosine", "both set the rate: give one of them"),
    "long name": (f"--resume-state {'x' * 5000}", "there is no such file"),
    "huge count": (f"--mine-interval 1{'0' * 400}", "expected an integer below 2^63"),
    "no state": ("--resume-state none.pt", "--resume-state none.pt: there is no such file"),
    "no file": ("--eval-csv none.csv", "there is no such file; make one with: python projects/collatz/build_eval.py"),
    "mps": ("--device mps", "device=mps, but torch sees no Metal device"),
    "orbits": ("--orbits 27", "--orbits has no meaning for a training run"),
}  # fmt: skip


@pytest.mark.parametrize(("command", "expected"), BAD.values(), ids=BAD.keys())
def test_mistakes(command: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in refused(capsys, *shlex.split(command))
    assert list(tmp_path.iterdir()) == []


def test_a_bad_evaluation_file_ends_the_command_before_there_is_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_eval(["--rows", "9", "--seed", "1", "--output-csv", "good.csv"])
    lines = Path("good.csv").read_text().splitlines()
    for name, text, expected in (
        ("twice", [*lines, lines[3]], "twice.csv, row 10 (line 11): n = "),
        ("even", [*lines, "4,1,0,2,16,1.6021"], "even.csv, row 10 (line 11): n = 4, expected an odd number above 1"),
        ("negative", [*lines, "-3,5,1,7,16,1.7270"], "row 10 (line 11): n = '-3', expected a whole number"),
        ("foreign", ["a,b", "1,2"], "has the header 'a,b', expected"),
    ):
        Path(f"{name}.csv").write_text("\n".join(text) + "\n")
        for words in (["--epochs", "2", "--output-dir", "run"], ["--epochs", "2", "--dry-run"]):
            assert expected in refused(capsys, *words, "--eval-csv", f"{name}.csv")
    assert not (tmp_path / "run").exists() and not (tmp_path / "checkpoints").exists()


def test_evaluate_refuses_what_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = "--layers 4 --lookahead 5 --epochs 2 --batch-size 8 --test-starts 1 --validation-starts 1 --output-dir run"
    script.main(shlex.split(tiny))
    line = refused(capsys, "--evaluate", "run/final.pt", "--lookahead", "6")
    assert "--lookahead 6: run/final.pt was trained with 5" in line and "--lookahead 5" in line
    assert "--epochs has no meaning for --evaluate" in refused(capsys, "--evaluate", "run/final.pt", "--epochs", "3")
    assert "best.pt" in refused(capsys, "--evaluate", "nothing/best.pt")
    other = "--layers 6 --lookahead 5 --epochs 2 --batch-size 8 --test-starts 1 --validation-starts 1"
    assert "is the state of another run" in refused(capsys, *shlex.split(other), "--output-dir", "run")
    assert load_weights(Path("run/final.pt"))["layers.0.weight"].shape == (4, 11)
    weights = "run/final.pt"
    for main, words in (
        (evaluate.main, [f"checkpoint={weights}"]), (predict.main, [f"checkpoint={weights}"]),
        (lyapunov_spectrum.main, ["--checkpoint", weights, "--out", "out"]),
        (step_by_step.main, [weights]),
        (q_head_vs_stability.main, ["--checkpoint", weights, "--out", "out"]),
        (step9.main, ["--ckpt-root", "run", "--ckpt-name", "final.pt"]),
    ):  # fmt: skip
        line = refused_line(capsys, main, words)
        assert "run of collatz, expected one on puzzles; see python collatz.py" in line
    assert "of a run on puzzles" in refused_line(capsys, training_curve.main, ["run"])
    (tmp_path / "run" / "all_config.yaml").write_text("data_paths: [x]\n")
    assert "remove run/weights.json" in refused(capsys, "--evaluate", "run/final.pt")
    (tmp_path / "run" / "weights.json").unlink()
    with pytest.raises(SystemExit, match="2"):
        script.main(["--evaluate", "run/final.pt"])
    assert "is of a run on puzzles, expected one of collatz.py" in capsys.readouterr().err


def test_evaluate_asks_for_what_was_given() -> None:
    request = read_flags(shlex.split("--evaluate a/best.pt --eval-csv e.csv --orbits 27,31 --device cpu --json o.json"))
    assert request == CheckpointRequest(Path("a/best.pt"), None, Path("e.csv"), Path("o.json"), (27, 31), "cpu")


@pytest.mark.parametrize(("name", "runs"), [("collatz_faithful", 30), ("collatz_orbit", 9)])
def test_grids_are_runs_of_this_script(name: str, runs: int) -> None:
    """Every command parses, no two do the same, and the confirmatory arms have five seeds."""
    grid = read_grid(GRIDS / f"{name}.yaml")
    assert len(grid.runs) == runs
    hashes = set()
    for run in grid.runs:
        script_name, *words = run.command
        if script_name == "collatz.py":
            config = asked(*words).config
            hashes.add(config_hash(config))
            assert run.needs == ("file",) and Path(str(config.checkpoint_path)).name == run.name
            assert config.seed == int(run.name[-1])
        else:
            assert (ROOT / script_name).is_file()
    assert len(hashes) == runs - 1
    forms = [run.form for run in grid.runs if run.kind == "confirmatory"]
    assert all(forms.count(form) == 5 for form in forms)


def test_presets_are_settings_of_the_schema() -> None:
    for preset in PRESET_SETTINGS:
        config, dry = to_config({"preset": preset, "dry_run": True})
        assert dry and config.collatz.preset == preset
