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
# step9_trajectory_perturb_train.py: --dry-run prints what each run would do and cost.
#
# HRM_ROOT, HRM_CKPT  folder of a pretraining of HRM and the weights in it (runs/hrm_sudoku, step_26040)
# TRM_ROOT, TRM_CKPT  likewise for TRM (runs/trm_sudoku, step_26041)
# NPROC=2             so many processes, one GPU each, by torchrun
# OUT=runs            where the run folders go
# PYTHON, NO_VENV     see scripts/environment.sh
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/step9_runs.sh
case "${1:-}" in
    -h | --help) print_help scripts/launch_step9_long_runs.sh && exit 0 ;;
esac
choose_runs "$@"
. scripts/environment.sh
prepare_environment requirements.txt

launch=("$python")
[ "${NPROC:-1}" = 1 ] || launch=("$python" -m torch.distributed.run --nproc-per-node "$NPROC")
hrm=(--ckpt-root "${HRM_ROOT:-runs/hrm_sudoku}" --ckpt-name "${HRM_CKPT:-step_26040}")
trm=(--ckpt-root "${TRM_ROOT:-runs/trm_sudoku}" --ckpt-name "${TRM_CKPT:-step_26041}")

for run in "${runs[@]}"; do
    describe_run "$run" 4 50000 2500 5000
    case "$run" in
        E) name=step9_E_hrm_baseline_parallel_fixed_26040_50k ;;
        F) name=step9_F_hrm_multi4_loguniform_ramp_26040_50k ;;
        G) name=step9_G_trm_baseline_parallel_fixed_26041_batch4_50k ;;
        H) name=step9_H_trm_multi4_loguniform_ramp_26041_batch4_50k ;;
        *) name=step9_$run ;;
    esac
    case "$kind" in
        hrm) start=("${hrm[@]}") ;;
        trm) start=("${trm[@]}") ;;
    esac
    printf '\n== %s\n' "$name"
    "${launch[@]}" step9_trajectory_perturb_train.py "${start[@]}" "${chosen[@]}" --eval-n 1024 \
        --output-dir "${OUT:-runs}/$name" --save-every-eval --save-best --save-final --save-train-state \
        ${flags[@]+"${flags[@]}"}
done
