#!/usr/bin/env bash
# Maze training of TRM with attention on two 48 GB cards, from a fresh clone: environment, mazes, 65,100 updates. Not run.
#
#   bash scripts/launch_maze_2xa6000.sh [OPTIONS]      OPTIONS go to pretrain.py, such as seed=1
#
# The mazes are the published ones, fetched where they are not there yet; without a network give GENERATE=1. Each card
# holds 384 of the 768 rows of a batch, in two slices of 192: what each of the four cards of the TRM README holds.
# Where a process is killed or fails, all are started again by themselves, from the newest state.
# Stopped at any time, the same command goes on.
#
# NPROC=2                          processes, one GPU each
# SLICES=2                         slices of a process's rows, one after the other
# SAVE_EVERY=200                   updates between states
# OUT=runs/trm_maze                the run folder
# DATA=data/maze-30x30-hard-1k     the mazes
# GENERATE=1                       make 1,000 mazes of that kind to train and 1,000 to test on, without a network
# PRESET=trm_maze                  another one of config/experiment, such as hrm_maze
# PYTHON, NO_VENV                  see scripts/environment.sh
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
nproc=${NPROC:-2} data=${DATA:-data/maze-30x30-hard-1k} out=${OUT:-runs/trm_maze}
slices=${SLICES:-2} save_every=${SAVE_EVERY:-200}
require_whole_number NPROC "$nproc"
require_whole_number SLICES "$slices"
require_whole_number SAVE_EVERY "$save_every"
prepare_environment requirements.txt

if [ ! -e "$data/test/dataset.json" ]; then
    source=()
    [ "${GENERATE:-0}" = 0 ] || source=(--generate 30)
    "$python" dataset/build_maze_dataset.py ${source[@]+"${source[@]}"} --output-dir "$data"
fi
exec "$python" scripts/resuming_launch.py --nproc-per-node "$nproc" --run-folder "$out" -- \
    pretrain.py "+experiment=${PRESET:-trm_maze}" "data_paths=['$data']" "checkpoint_path='$out'" \
    "accumulation_slices=$slices" "checkpoint_interval=$save_every" "$@"
