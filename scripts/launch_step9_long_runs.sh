#!/usr/bin/env bash
# The four long runs on perturbed trajectories, one after the other: 50,000 updates each, one GPU or several.
#
#   bash scripts/launch_step9_long_runs.sh [E] [F] [G] [H] [FLAGS]      without letters all four
#
#   E  HRM, fixed unroll without noise            F  HRM, one clean and three perturbed trajectories
#   G  TRM, fixed unroll without noise            H  TRM, one clean and three perturbed trajectories
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

case "${1:-}" in
    -h | --help)
        sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
esac
letters=()
while [ "$#" -gt 0 ]; do
    case "$1" in
        E | F | G | H) letters+=("$1") && shift ;;
        -*) break ;;
        *) echo "error: found '$1', expected letters among E F G H, then flags" >&2 && exit 2 ;;
    esac
done
[ "${#letters[@]}" -gt 0 ] || letters=(E F G H)

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
prepare_environment requirements.txt

launch=("$python")
[ "${NPROC:-1}" = 1 ] || launch=("$python" -m torch.distributed.run --nproc-per-node "$NPROC")
hrm=(--ckpt-root "${HRM_ROOT:-runs/hrm_sudoku}" --ckpt-name "${HRM_CKPT:-step_26040}")
trm=(--ckpt-root "${TRM_ROOT:-runs/trm_sudoku}" --ckpt-name "${TRM_CKPT:-step_26041}")
baseline=(--objective baseline_ce)
multi4=(--objective multi_perturbed_ce --num-trajectories 4 --perturb both --noise-sampling loguniform
    --sigma-min 3e-5 --sigma-max 3e-3 --sigma-ramp-steps 5000)

for letter in "${letters[@]}"; do
    case "$letter" in
        E) name=step9_E_hrm_baseline_parallel_fixed_26040_50k && chosen=("${hrm[@]}" "${baseline[@]}") ;;
        F) name=step9_F_hrm_multi4_loguniform_ramp_26040_50k && chosen=("${hrm[@]}" "${multi4[@]}") ;;
        G) name=step9_G_trm_baseline_parallel_fixed_26041_batch4_50k && chosen=("${trm[@]}" "${baseline[@]}") ;;
        H) name=step9_H_trm_multi4_loguniform_ramp_26041_batch4_50k && chosen=("${trm[@]}" "${multi4[@]}") ;;
    esac
    printf '\n== %s\n' "$name"
    "${launch[@]}" step9_trajectory_perturb_train.py "${chosen[@]}" --rollout parallel_fixed --batch-size 4 \
        --train-steps 50000 --eval-every 2500 --eval-n 1024 --output-dir "${OUT:-runs}/$name" \
        --save-every-eval --save-best --save-final --save-train-state "$@"
done
