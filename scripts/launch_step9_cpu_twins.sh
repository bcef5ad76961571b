#!/usr/bin/env bash
# The four long runs on perturbed trajectories at the size of a CPU: minutes each, on minimal 6x6 Sudokus.
#
#   bash scripts/launch_step9_cpu_twins.sh [NAME...] [FLAGS]      without names E, F, G and H
#
# Names as in scripts/launch_step9_long_runs.sh. First the puzzles are made and HRM or TRM is pretrained, where
# that has not been done. Stopped at any time, the same command goes on. FLAGS go to step9_trajectory_perturb_train.py,
# such as --seed 1 (with another OUT) or --train-steps 1000.
#
# PRETRAIN_UPDATES=350  updates of the pretraining: so few that there is something left to learn
# OUT=runs/step9_cpu    where everything goes but the puzzles
# DATA=data/sudoku-6x6  the puzzles
# PYTHON, NO_VENV       see scripts/environment.sh
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/step9_runs.sh
case "${1:-}" in
    -h | --help) print_help scripts/launch_step9_cpu_twins.sh && exit 0 ;;
esac
choose_runs "$@"
updates=${PRETRAIN_UPDATES:-350}
case "$updates" in
    *[!0-9]* | 0*) echo "error: PRETRAIN_UPDATES is '$updates', expected a whole number from 1" >&2 && exit 2 ;;
esac
. scripts/environment.sh
prepare_environment requirements.txt

data=${DATA:-data/sudoku-6x6}
out=${OUT:-runs/step9_cpu}
if [ ! -f "$data/train/dataset.json" ] || [ ! -f "$data/test/dataset.json" ]; then
    printf '\n== puzzles: %s\n' "$data"
    "$python" dataset/build_sudoku_dataset.py --output-dir "$data" --generate 6x6 --num-train 2560 --test-size 1000
fi

pretrain() { # KIND PRESET
    if [ ! -f "$out/$1_pretrained/summary.json" ]; then
        printf '\n== pretraining: %s\n' "$1"
        "$python" pretrain.py "+experiment=$2" "data_paths=['$data']" "checkpoint_path='$out/$1_pretrained'" \
            "max_steps=$updates" device=cpu
    fi
}

for run in "${runs[@]}"; do
    describe_run "$run" 32 300 50 30
    case "$kind" in
        hrm) pretrain hrm hrm_sudoku_6x6_cpu ;;
        trm) pretrain trm quickstart ;;
    esac
    case "$run" in
        E) name=step9_E_hrm_baseline_cpu ;;
        F) name=step9_F_hrm_multi4_cpu ;;
        G) name=step9_G_trm_baseline_cpu ;;
        H) name=step9_H_trm_multi4_cpu ;;
        *) name=step9_${run}_cpu ;;
    esac
    printf '\n== %s\n' "$name"
    "$python" step9_trajectory_perturb_train.py --ckpt-root "$out/${kind}_pretrained" --ckpt-name final.pt \
        "${chosen[@]}" --lr 1e-3 --puzzle-emb-lr 1e-4 --lr-warmup-steps 20 --eval-n 200 --sigma-grid 1e-3,1e-2 \
        --eval-rollouts 2 --output-dir "$out/$name" --device cpu --save-every-eval --save-best --save-final \
        --save-train-state ${flags[@]+"${flags[@]}"}
done
