"""pretrain.py for a launcher, which hides its workers' exit codes: each is written to $EXIT_CODES/RANK-PID."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pretrain import pretrain
from training.settings.cli import hydra_entry

if __name__ == "__main__":
    code: object = "an exception"
    try:
        hydra_entry("cfg_pretrain", pretrain)
        code = 0
    except SystemExit as stop:
        code = stop.code
        raise
    finally:
        Path(os.environ["EXIT_CODES"], f"{os.environ['RANK']}-{os.getpid()}").write_text(str(code))
