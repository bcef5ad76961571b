"""`collatz.py --evaluate`: judge the weights of a run beside the closed forms."""

from typing import Any

from dataset.safe_files import file_sha256
from errors import UserError
from projects.collatz.baselines import check_report_path, environment, save_report
from projects.collatz.eval_file import read_eval_file
from projects.collatz.evaluation_report import SCHEMA_VERSION, full_report, report_table
from projects.collatz.flags import CheckpointRun
from projects.collatz.judge import NetworkJudge
from projects.collatz.settings import collatz_of
from projects.collatz.setup import build_value, choose_device
from training.storage.weights import check_weights
from training.trained_model import open_checkpoint


def evaluate_checkpoint(asked: CheckpointRun) -> None:
    """Judge, print the table, write the report. Errors: `UserError`."""
    check_report_path(asked.json, asked.eval_csv)
    report, name = checkpoint_report(asked)
    print(report_table(report, [name]))
    save_report(asked.json, report)


def checkpoint_report(asked: CheckpointRun) -> tuple[dict[str, Any], str]:
    """The report of `full_report`, with where everything is from; and the network's name in it."""
    checkpoint = open_checkpoint(asked.checkpoint, device=asked.device)
    config, settings = checkpoint.config, collatz_of(checkpoint.config)
    if settings.preset is None:
        raise UserError(f"{checkpoint.path} is of a run on puzzles, expected one of collatz.py; see evaluate.py")
    if asked.lookahead not in (None, settings.lookahead):
        raise UserError(
            f"--lookahead {asked.lookahead}: {checkpoint.path} was trained with {settings.lookahead}, which fixes its "
            f"inputs; leave the flag out, or give --lookahead {settings.lookahead}"
        )
    network = build_value(config, choose_device(config))
    check_weights(network.state_dict(), checkpoint.weights, source=checkpoint.path)
    network.load_state_dict(checkpoint.weights)
    rows = file = None
    if asked.eval_csv is not None:
        rows = read_eval_file(asked.eval_csv)
        file = {"file": asked.eval_csv.name, "sha256": rows.sha256}
    name = f"V_{checkpoint.name}"
    report = full_report(
        [NetworkJudge.float64(name, network)],
        settings.lookahead,
        rows,
        test_starts=settings.test_starts,
        starts=asked.starts,
        networks32=[NetworkJudge(name, network.eval())],
    )
    head = {
        "schema_version": SCHEMA_VERSION,
        "checkpoint": {
            "file": str(checkpoint.path), "sha256": file_sha256(checkpoint.path), "preset": settings.preset,
            "layers": list(settings.layers), "seed": config.seed, "function": name,
            "num_params": sum(parameter.numel() for parameter in network.parameters()),
        },
        "eval_csv": file,
        "environment": environment(),
    }  # fmt: skip
    return head | report, name
