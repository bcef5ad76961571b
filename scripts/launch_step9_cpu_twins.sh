#!/usr/bin/env bash
# The four long runs on perturbed trajectories at the size of a CPU: minutes each, on minimal 6x6 Sudokus.
#
#   bash scripts/launch_step9_cpu_twins.sh [NAME...] [FLAGS]      without names E, F, G and H
#
# Names as in scripts/launch_step9_long_runs.sh. First the puzzles are made and HRM or TRM is pretrained, where
# that has not been done. Stopped at any time, the same command goes on. FLAGS go to step9_trajectory_perturb_train.py,
# such as --seed 1 (with another OUT) or --train-steps 1000. With --dry-run it is printed what each run would do and
# cost, and nothing is written.
#
# PRETRAIN_UPDATES=350  updates of the pretraining: so few that there is something left to learn
# OUT=runs/step9_cpu    where everything goes but the puzzles
# DATA=data/sudoku-6x6  the puzzles
# PYTHON, NO_VENV       see scripts/environment.sh
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
updates=${PRETRAIN_UPDATES:-350}
require_whole_number PRETRAIN_UPDATES "$updates"
choose_step9_runs "$@"
prepare_environment requirements.txt

exec "$python" scripts/run_grid.py step9_cpu_twins --foreground --out "${OUT:-runs/step9_cpu}" --only "${names[@]}" \
    --set "data=${DATA:-data/sudoku-6x6}" "updates=$updates" -- ${flags[@]+"${flags[@]}"}
