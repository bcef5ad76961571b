"""`collatz.py --evaluate`: judge the weights of a run beside the closed forms."""

from typing import Any

from analysis.command_line import environment
from errors import UserError, say
from files import file_sha256
from projects.collatz.baselines import check_report_path, save_report
from projects.collatz.eval_file import read_eval_file
from projects.collatz.evaluation_report import SCHEMA_VERSION, full_report, report_table
from projects.collatz.flags import CheckpointRequest
from projects.collatz.judge import NetworkJudge
from projects.collatz.settings import collatz_of
from projects.collatz.setup import build_value
from training.setup import device_of
from training.storage.weights import check_weights
from training.trained_model import open_checkpoint


def evaluate_checkpoint(request: CheckpointRequest) -> None:
    """Judge, print the table, write the report. Errors: `UserError`."""
    check_report_path(request.json, request.eval_csv, request.checkpoint)
    report, name = checkpoint_report(request)
    say(*report_table(report, [name]).split("\n"))
    save_report(request.json, report)


def checkpoint_report(request: CheckpointRequest) -> tuple[dict[str, Any], str]:
    """The report of `full_report`, with where everything is from; and the network's name in it."""
    checkpoint = open_checkpoint(request.checkpoint, device=request.device)
    config, settings = checkpoint.config, collatz_of(checkpoint.config)
    if settings.preset is None:
        raise UserError(f"{checkpoint.path} is of a run on puzzles, expected one of collatz.py; see evaluate.py")
    if request.lookahead not in (None, settings.lookahead):
        raise UserError(
            f"--lookahead {request.lookahead}: {checkpoint.path} was trained with {settings.lookahead}, which fixes "
            f"its inputs; leave the flag out, or give --lookahead {settings.lookahead}"
        )
    network = build_value(config, device_of(config))
    check_weights(network.state_dict(), checkpoint.weights, source=checkpoint.path)
    network.load_state_dict(checkpoint.weights)
    rows = file = None
    if request.eval_csv is not None:
        rows = read_eval_file(request.eval_csv)
        file = {"file": request.eval_csv.name, "sha256": rows.sha256}
    name = f"V_{checkpoint.name}"
    report = full_report(
        [NetworkJudge.float64(name, network)],
        settings.lookahead,
        rows,
        test_starts=settings.test_starts,
        starts=request.starts,
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
