#!/usr/bin/env bash
# The four long runs on perturbed trajectories at the size of a CPU: minutes each, on minimal 6x6 Sudokus.
#
#   bash scripts/launch_step9_cpu_twins.sh [E] [F] [G] [H] [FLAGS]      without letters all four
#
# Letters as in scripts/launch_step9_long_runs.sh. First the puzzles are made and HRM or TRM is pretrained, where
# that has not been done. Stopped at any time, the same command goes on. FLAGS go to step9_trajectory_perturb_train.py,
# such as --seed 1 (with another OUT) or --train-steps 1000.
#
# PRETRAIN_UPDATES=350  updates of the pretraining: so few that there is something left to learn
# OUT=runs/step9_cpu    where everything goes but the puzzles
# DATA=data/sudoku-6x6  the puzzles
# PYTHON, NO_VENV       see scripts/environment.sh
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
updates=${PRETRAIN_UPDATES:-350}
case "$updates" in
    *[!0-9]* | 0*) echo "error: PRETRAIN_UPDATES is '$updates', expected a whole number from 1" >&2 && exit 2 ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
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

baseline=(--objective baseline_ce)
multi4=(--objective multi_perturbed_ce --num-trajectories 4 --perturb both --noise-sampling loguniform
    --sigma-min 3e-5 --sigma-max 3e-3 --sigma-ramp-steps 30)

for letter in "${letters[@]}"; do
    case "$letter" in
        E | F) kind=hrm && pretrain hrm hrm_sudoku_6x6_cpu ;;
        G | H) kind=trm && pretrain trm quickstart ;;
    esac
    case "$letter" in
        E) name=step9_E_hrm_baseline_cpu && chosen=("${baseline[@]}") ;;
        F) name=step9_F_hrm_multi4_cpu && chosen=("${multi4[@]}") ;;
        G) name=step9_G_trm_baseline_cpu && chosen=("${baseline[@]}") ;;
        H) name=step9_H_trm_multi4_cpu && chosen=("${multi4[@]}") ;;
    esac
    printf '\n== %s\n' "$name"
    "$python" step9_trajectory_perturb_train.py --ckpt-root "$out/${kind}_pretrained" --ckpt-name final.pt \
        "${chosen[@]}" --rollout parallel_fixed --batch-size 32 --lr 1e-3 --puzzle-emb-lr 1e-4 --lr-warmup-steps 20 \
        --train-steps 300 --eval-every 50 --eval-n 200 --sigma-grid 1e-3,1e-2 --eval-rollouts 2 \
        --output-dir "$out/$name" --device cpu --save-every-eval --save-best --save-final --save-train-state "$@"
done
