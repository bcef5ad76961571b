"""ACT pretraining of HRM and TRM.

    python pretrain.py arch=trm data_paths="[data/sudoku-extreme-1k-aug-1000]" epochs=50000 eval_interval=5000 ...
    torchrun --nproc-per-node 2 pretrain.py ...

Options are those of the official TRM and HRM repositories and more: config/cfg_pretrain.yaml, and
`training/settings/schema.py` for what each one means. The same command goes on where it stopped.
"""

from training.settings.cli import hydra_entry
from training.settings.resolving import TrainConfig
from training.start import train


def pretrain(config: TrainConfig) -> None:
    train(config)


if __name__ == "__main__":
    hydra_entry("cfg_pretrain", pretrain)
