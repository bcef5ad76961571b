#!/usr/bin/env bash
# The four long runs on perturbed trajectories, one after the other: 50,000 updates each, one GPU or several.
#
#   bash scripts/launch_step9_long_runs.sh [NAME...] [FLAGS]      without names E, F, G and H
#
#   E  HRM, fixed unroll without noise            F  HRM, one clean and three perturbed trajectories
#   G  TRM, fixed unroll without noise            H  TRM, one clean and three perturbed trajectories
#   controls of G and H: control_batch and control_steps are G with four times the batch or the updates,
#   control_input_noise and control_weight_noise are H with its noise on the embedded input or on the weights
#
# Stopped at any time, the same command goes on; a finished run is passed over. FLAGS go to
# step9_trajectory_perturb_train.py. With --dry-run it is printed what each run would do and cost, and nothing is
# written; where they start from need not be there, and is told how to make.
#
# HRM_ROOT, HRM_CKPT  folder of a pretraining of HRM and the weights in it (runs/hrm_sudoku, step_26040)
# TRM_ROOT, TRM_CKPT  likewise for TRM (runs/trm_sudoku, step_26041)
# NPROC=2             so many processes, one GPU each, by torchrun
# OUT=runs            where the run folders go
# PYTHON, NO_VENV     see scripts/environment.sh
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
choose_step9_runs "$@"
prepare_environment requirements.txt

launch=
[ "${NPROC:-1}" = 1 ] || launch="-m torch.distributed.run --nproc-per-node $NPROC"
exec "$python" scripts/run_grid.py step9_long_runs --foreground --out "${OUT:-runs}" --only "${names[@]}" \
    --set "launch=$launch" "hrm_root=${HRM_ROOT:-runs/hrm_sudoku}" "hrm_ckpt=${HRM_CKPT:-step_26040}" \
    "trm_root=${TRM_ROOT:-runs/trm_sudoku}" "trm_ckpt=${TRM_CKPT:-step_26041}" -- ${flags[@]+"${flags[@]}"}
