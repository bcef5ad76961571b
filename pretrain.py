"""ACT pretraining of recursive reasoning models (TRM, HRM, SRM): pretrain.py.

    python pretrain.py arch=trm data_paths="[data/sudoku-extreme-1k-aug-1000]" epochs=50000 eval_interval=5000 ...
    python pretrain.py +experiment=quickstart                          a whole recipe of config/experiment
    python pretrain.py +experiment=step9_H_trm_multi4 scale=cpu6x6     the same at another size
    python pretrain.py -m seed=0,1,2 ...                               one run per value
    torchrun --nproc-per-node 2 pretrain.py ...

Options are those of the official TRM and HRM repositories and more. The same command goes on where it stopped.
"""

from errors import require_packages

require_packages()

from training.settings.cli import hydra_entry
from training.settings.schema import TrainConfig
from training.start import train


def pretrain(config: TrainConfig) -> None:
    train(config)


if __name__ == "__main__":
    hydra_entry("cfg_pretrain", pretrain)
