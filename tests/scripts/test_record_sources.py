"""From what runs and scripts write to the numbers of a record: each number by the file that it comes from."""

import json
import shutil
from pathlib import Path

import pytest

import collatz
import evaluate
from analysis.arms import time_to_accuracy
from analysis.rollouts.q_head_figure import rollout_entry
from dataset.build_sudoku_dataset import main as build_sudoku
from dataset.puzzle_folder import fingerprint
from errors import UserError
from files import file_sha256
from projects.collatz import benchmark as benchmark_collatz
from projects.collatz.build_eval import main as build_eval
from projects.collatz.closed_forms import CLOSED_FORMS
from scripts.benchmark import lyapunov as benchmark_lyapunov
from scripts.benchmark import updates as benchmark_updates
from scripts.record_sources import common_name, gathered
from tests.analysis.figures.test_figure_bundle import table, write
from tests.fuzz.targets.records import BENCHMARK, EVALUATION
from tests.helpers import train_here
from training.records.result_numbers import Number


def of(path: Path) -> dict[str, Number]:
    """Numbers by name; a moment follows it."""
    return {
        number.name if number.moment is None else f"{number.name}, {number.moment}": number
        for number in gathered([path])["numbers"]
    }


def test_a_run_its_evaluation_its_curve_and_a_benchmark(
    sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train_here("trm_mlp", sudoku6_folder, run, ["max_steps=8", "seed=5"])
    provenance, summary = (json.loads((run / name).read_text()) for name in ("provenance.json", "summary.json"))
    found, numbers = gathered([run]), of(run)
    tested = summary["test"]["final"]
    first = found["numbers"][0]
    assert first.key == ("test exact_accuracy", "final")
    assert (first.numerator, first.of) == (tested["numerator"], tested["denominator"])
    assert [first.low, first.high] == pytest.approx([100 * bound for bound in tested["interval95"]], rel=1e-5)
    assert numbers[f"{summary['best']['metric']}, peak"].value == pytest.approx(
        100 * summary["best"]["value"], rel=1e-5
    )
    assert numbers["updates"].value == 8 and numbers["parameters"].value == summary["num_params"]
    assert found["seeds"] == [5] and found["config_hashes"] == [provenance["config_hash"][:12]]
    assert found["seconds"] == round(summary["train_seconds"], 1) and found["outputs"] == [run.as_posix()]
    assert found["commands"][0].startswith("python ") and found["commits"][0][:12] == provenance["git"]["commit"][:12]

    shutil.copytree(run, tmp_path / "copy")
    with pytest.raises(UserError, match=f"{tmp_path / 'copy'} holds the same as {run} and would count twice"):
        gathered([run, tmp_path / "copy"])
    monkeypatch.setattr("sys.argv", ["evaluate.py", f"checkpoint={run}/best.pt", "device=cpu"])
    evaluate.main()
    found, numbers = gathered([run / "evaluation_best.json"]), of(run / "evaluation_best.json")
    for kind, result in zip(
        ("test", "validation"), json.loads((run / "evaluation_best.json").read_text())["results"], strict=True
    ):
        exact, steps = result["exact_accuracy"], result["mode"]["max_steps"]
        number = numbers[f"{kind} rows, {steps} steps: exact_accuracy"]
        assert (number.numerator, number.of) == (exact["numerator"], exact["denominator"])
    assert found["commands"] == [f"python evaluate.py checkpoint={run}/best.pt device=cpu"] and found["seeds"] == [5]
    assert found["dataset_hashes"] == [fingerprint(sudoku6_folder, "test")[:12]]
    assert found["hardware"] == [f"1× {provenance['cpu']} (1 thread), float32"]

    time_to_accuracy.main([str(run), "--metric=eval/accuracy", "--target=0.01", "--output-dir", str(tmp_path)])
    found, numbers = gathered([tmp_path / "time_to_accuracy.json"]), of(tmp_path / "time_to_accuracy.json")
    assert numbers["eval/accuracy first at 1 % on 8 rows (range over runs)"].value == 8
    assert found["numbers"][0].unit == "seconds" and len(found["needs"]) == 1
    assert found["commands"][0] in (tmp_path / "time_to_accuracy.txt").read_text()

    tiny = ["--repeats", "1", "--device", "cpu", "--batch-size", "2", "--set", "arch.hidden_size=8", "threads=1"]
    benchmark_updates.main(["--preset", "smoke", *tiny, "--json", str(tmp_path / "speed.json")])
    (result,) = json.loads((tmp_path / "speed.json").read_text())["results"]
    numbers = of(tmp_path / "speed.json")
    floor = 1e3 * result["training"]["floor_seconds"]
    assert numbers["smoke (2 rows, float32): update, floor"].value == pytest.approx(floor, rel=1e-5)


@pytest.mark.parametrize(("target", "reached"), [("0.01", 2), ("1", 0)])
def test_runs_that_never_get_there(target: str, reached: int, sudoku6_folder: Path, tmp_path: Path) -> None:
    runs = [tmp_path / f"seed{seed}" for seed in (0, 1)]
    for seed, run in enumerate(runs):
        train_here("trm_mlp", sudoku6_folder, run, ["max_steps=4", f"seed={seed}"])
    time_to_accuracy.main([
        *map(str, runs), "--metric=eval/accuracy", f"--target={target}", "--x=updates", "--output-dir", str(tmp_path)
    ])  # fmt: skip
    numbers = of(tmp_path / "time_to_accuracy.json")
    name = f"eval/accuracy first at {100 * float(target):g} % on 8 rows"
    if reached:
        assert numbers[f"{name} (range over runs)"] == Number(
            f"{name} (range over runs)", 4, 4, 4, n=2, unit="updates"
        )  # fmt: skip
    else:
        assert numbers[f"{name}: runs that get there"] == Number(f"{name}: runs that get there", 0, of=2)
    assert numbers["last update"].value == 4


def test_several_runs_have_a_mean_and_names_of_their_own(sudoku6_folder: Path, tmp_path: Path) -> None:
    runs = [tmp_path / f"small-seed{seed}" for seed in (0, 1)]
    for seed, run in enumerate(runs):
        train_here("trm_mlp", sudoku6_folder, run, ["max_steps=4", f"seed={seed}"])
    found = gathered(runs)
    names = [number.key for number in found["numbers"]]
    assert names[0] == ("small: test exact_accuracy, mean over seeds", "final") and found["numbers"][0].n == 2
    assert names.count(("updates", None)) == 1, "the same in both: said once"
    assert ("small-seed1: training time", None) in names and len(names) == len(set(names))
    assert found["seeds"] == [0, 1] and len(found["outputs"]) == 2
    train_here("trm_mlp", sudoku6_folder, runs[1], ["max_steps=6", "seed=1"])
    assert "mean over seeds" not in str(gathered(runs)["numbers"]), "of another length: another arm"
    alone = gathered(runs[:1])["numbers"][0]
    assert alone.key == ("test exact_accuracy", "final"), "one run: no mean, and no name of its own"


def test_seeds_on_data_built_anew_have_no_mean(tmp_path: Path) -> None:
    """The folder is the same, its puzzles are not."""
    runs, data = [tmp_path / f"small-seed{seed}" for seed in (0, 1)], tmp_path / "data"
    for seed, run in enumerate(runs):
        sizes = ["--num-train", "16", "--test-size", "12", "--num-aug", "0", "--seed", str(seed)]
        build_sudoku(["--output-dir", str(data), "--generate", "4x4", *sizes, "--overwrite"])
        train_here("trm_mlp", data, run, ["max_steps=2", f"seed={seed}", "validation_size=4"])
    with pytest.raises(
        UserError, match=r"small-seed0 and .*small-seed1 .* different data \(data .*; judged_on .*\): name"
    ):
        gathered(runs)


def test_repeated_measurements_go_by_their_files(tmp_path: Path) -> None:
    for name, factor in (("first", 1.0), ("second", 2.0)):
        (result,) = BENCHMARK["results"]
        training = result["training"] | {"floor_seconds": factor * result["training"]["floor_seconds"]}
        entry = {"record": {"numbers": benchmark_numbers(result | {"training": training})}}
        (tmp_path / f"{name}.json").write_text(json.dumps(BENCHMARK | entry))
    numbers = {number.name for number in gathered([tmp_path / "first.json", tmp_path / "second.json"])["numbers"]}
    what = "trm_sudoku_att (8 rows, bfloat16): update"
    assert {f"first: {what}, floor", f"second: {what}, floor", f"{what}, speed"} <= numbers


def benchmark_numbers(result: dict) -> list[dict]:
    return [number.plain() for number in benchmark_updates.numbers([result])]


def test_an_evaluation_in_other_modes() -> None:
    (result,) = EVALUATION["results"]
    mode = result["mode"] | {"vote": 8, "adaptive_halt": False, "rollouts": 100}
    empty = result | {"data": "other", "exact_accuracy": {"value": None, "numerator": 0, "denominator": 0}}
    entry = evaluate.evaluation_entry(EVALUATION | {"results": [result | {"mode": mode}, empty]})["record"]
    names = [number["name"] for number in entry["numbers"]]
    what = "test rows of data/six (all), 16 steps, vote of 8, highest q of 100 stochastic rollouts"
    assert names[0] == f"{what}: exact_accuracy"
    assert "test rows of other (all), 16 steps, adaptive: mean steps" in names
    assert "test rows of other (all), 16 steps, adaptive: exact_accuracy" not in names, "no row with a label"
    another = EVALUATION | {"results": [result | {"mode": mode | {"rewinds": 3}}]}
    assert evaluate.evaluation_entry(another)["record"]["numbers"][0]["name"].startswith(
        "test rows, 16 steps, vote of 8, highest q of 100 stochastic rollouts, rewinds 3: "
    )


def test_spectra_of_several_networks(tmp_path: Path) -> None:
    tables = [table("a", "TRM-att", 0), table("b", "TRM-att", 1), table("c", "HRM", 2),
              table("d", "TRM-att", 0, objective="multi", shift=0.05)]  # fmt: skip
    for each in tables:
        each.settings.update({"num_exponents": 3, "dtype": "float64", "data_sha256": "d" * 64})
    tables[2].settings["lambda_bound_per_step"] = 9.0
    summary = write(tmp_path, tables)
    found, numbers = gathered([tmp_path / "summary.json"]), of(tmp_path / "summary.json")
    assert found["seeds"] == [0, 1, 2] and found["commits"] == ["c0ffee"] and found["dataset_hashes"] == ["d" * 12]
    assert found["findings"] == ["6 steps, first 2 not counted, 3 exponents, float64"]
    trm, hrm = summary["models"]["TRM-att"]["lambda1"], next(run for run in summary["runs"] if run["model"] == "HRM")
    area = numbers["TRM-att: AUROC of lambda_1"]
    assert [area.value, area.low, area.high] == pytest.approx(
        [trm["auroc"]["mean"][name] for name in ("value", "low", "high")], rel=1e-5
    )
    solved = numbers["TRM-att: median lambda_1, solved"]
    assert solved.value == pytest.approx(trm["median_solved"]["mean"]["value"] / 6, rel=1e-5)
    newcombe = numbers["HRM: AUROC of lambda_1 (Newcombe)"]
    assert newcombe.low == pytest.approx(hrm["lambda1"]["auroc_newcombe"]["low"], rel=1e-5)
    assert numbers["HRM: bound of the exponents"].value == 9 and "TRM-att: bound of the exponents" not in numbers
    assert (numbers["TRM-att: solved"].numerator, numbers["TRM-att: solved"].of) == (52, 80)
    (difference,) = (each for each in summary["differences"] if each["quantity"] == "lambda1_median_failed")
    number = numbers[f"{difference['model']} minus {difference['baseline']}: lambda1_median_failed"]
    assert number.value == pytest.approx(difference["values"][0], rel=1e-5) and number.low is None and number.n == 1
    assert found["numbers"][0].name.endswith("lambda1_median_solved"), "a difference is the headline where there is one"


def test_rollouts() -> None:
    correlation = {"value": -0.25, "interval95": [-0.4, -0.1]}
    entry = {"selector": "q", "steps": 8, "rollouts": 4, "forward_passes": 640, "exact_accuracy": {"value": 0.5}}
    record = rollout_entry({
        "command": "python analysis/rollouts/q_head_vs_stability.py", "git": {"commit": "c0ffee", "dirty": True},
        "cpu": "a CPU", "num_threads": 1,
        "settings": {"sigma": [0.3], "site": "z_L", "steps": [4, 8], "weights_sha256": "a" * 64, "dataset": "b" * 64,
                     "noise_seed": 0},
        "steps": [4, 8], "rollouts": 4, "puzzles": 10, "solved_always": 3, "solved_partly": 4, "solved_never": 3,
        "correlation_of_q_and_growth": [
            {"within": correlation, "within_given_margin": {"value": None, "interval95": None}, "pooled": correlation}
        ],
        "accuracy": [entry, entry | {"steps": 4, "exact_accuracy": {"value": 0.4}}],
    })["record"]  # fmt: skip
    assert (
        record["commits"] == ["c0ffee+dirty"]
        and record["seeds"] == [0]
        and record["hardware"] == ["1× a CPU (1 thread)"]
    )
    name = "rank correlation of Q and growth, within puzzles"
    assert record["numbers"][0] == {"name": name, "value": -0.25, "low": -0.4, "high": -0.1}
    values = {number["name"]: number["value"] for number in record["numbers"]}
    assert f"{name}, given the margin" not in values, "undefined"
    assert values["puzzles solved partly by 4 rollouts"] == 40 and values["q of 4: exact_accuracy"] == 50
    assert values["q of 4: forward passes"] == 640


def test_cost_of_exponents(tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    benchmark_lyapunov.main(["--preset", "trm_att_sudoku_6x6_cpu", "--shape", "sudoku4x4", "--batch-size", "1",
                             "--repeats", "1", "--device", "cpu", "--num-exponents", "2", "--json", str(path),
                             "--set", "arch.hidden_size=16", "arch.num_heads=2"])  # fmt: skip
    result, what = json.loads(path.read_text())["result"], "trm_att_sudoku_6x6_cpu (1 puzzles, k=2)"
    numbers = of(path)
    assert numbers[f"{what}: operations over the state's"].value == pytest.approx(result["flops_ratio"], rel=1e-5)
    assert gathered([path])["numbers"][0].name == f"{what}: engine over the floor of k + 2 states"


def test_collatz_functions_and_speed(tmp_path: Path) -> None:
    file, path = tmp_path / "eval.csv", tmp_path / "closed.json"
    build_eval(["--rows", "200", "--seed", "3", "--output-csv", str(file)])
    collatz.main(["--closed-forms", "--lookahead", "6", "--eval-csv", str(file), "--json", str(path)])
    report, found, numbers = json.loads(path.read_text()), gathered([path]), of(path)
    assert found["dataset_hashes"] == [file_sha256(file)[:12]] and found["seeds"] == []
    for form in CLOSED_FORMS:
        number = numbers[f"L=6 {form.name}: violated rows of the file"]
        assert (number.numerator, number.of) == (report[form.name]["violations"], 200)
        along = numbers[f"L=6 {form.name}: violated steps along orbits"]
        assert along.numerator == report["orbits_total"]["violations"][form.name]
    fewest = min(report[form.name]["violations"] for form in CLOSED_FORMS)
    assert found["numbers"][0].numerator == fewest, "the best closed form is the headline"
    bound = numbers["L=6 theory: lower_bound"].value
    assert bound == pytest.approx(100 * report["bounds"]["lower_bound"], rel=1e-5)

    path = tmp_path / "speed.json"
    benchmark_collatz.main(["--repeats", "1", "--scale", "0.001", "--json", str(path)])
    (first, *_) = json.loads(path.read_text())["rates"]
    number = gathered([path])["numbers"][0]
    assert number.name.startswith(first["name"]) and number.unit == "million steps/s"
    assert number.value == pytest.approx(first["steps_per_second"] / 1e6, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "it is no JSON"),
        ('{"a": 1}', "has no numbers for a record"),
        ('{"record": {"numbers": []}}', "has no numbers for a record"),
        ('{"record": {"numbers": [{"value": 1}]}}', "'numbers.0' is"),
        ('{"record": {"numbers": [{"name": "a", "value": "1"}]}}', "'numbers.0.value' is '1', expected a float"),
        ('{"record": {"numbers": [{"name": "a", "value": 1, "extra": 2}]}}', "no others than"),
        (
            '{"record": {"numbers": [{"name": "a", "value": 1}, {"name": "a", "value": 2}]}}',
            "two numbers are called 'a'",
        ),
        ('{"record": {"numbers": [{"name": "a", "value": 101, "of": 9, "unit": "%"}]}}', "which is impossible"),
        ('{"record": {"numbers": [{"name": "a", "value": 1}], "seeds": ["x"]}}', "'seeds' is wrong or missing"),
        ('{"record": {"numbers": [{"name": "a", "value": 1}], "findings": "x"}}', "'findings' is wrong or missing"),
    ],
)
def test_files_that_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        gathered([path])
    assert message in str(caught.value) and str(caught.value).startswith(f"{path}")


def test_a_run_that_has_not_ended_is_refused(tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text("{}")
    with pytest.raises(UserError, match="the run has not ended; go on with its command"):
        gathered([tmp_path])


def test_names_of_groups() -> None:
    assert common_name(["trm_mlp_seed0", "trm_mlp_seed1"]) == "trm_mlp"
    assert common_name(["quickstart", "quickstart-seed1"]) == "quickstart" and common_name(["a", "b"]) == "runs"
