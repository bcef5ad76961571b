#!/usr/bin/env bash
# From a fresh clone to a trained model, evaluated and drawn.
#
#   bash scripts/quickstart.sh [UPDATES]
#
# On a CPU: minimal 6x6 Sudokus and a small TRM, a few minutes on two cores. On a GPU: 9x9 Sudokus with 17 clues and
# the TRM of the paper. Stopped at any time, the same command goes on; once done, it only evaluates again.
#
# UPDATES (or QUICKSTART_UPDATES)  stop training after so many updates
# QUICKSTART_RUN, QUICKSTART_DATA  the run folder and the data folder
# QUICKSTART_TEST_PUZZLES          puzzles that judge, of which a fifth chooses the weights (1000; on a GPU 2000)
# QUICKSTART_LYAPUNOV              test puzzles whose exponents are measured (256)
# QUICKSTART_DEVICE=cpu            do not use the GPU
# PYTHON, NO_VENV                  see scripts/environment.sh
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
updates=${1:-${QUICKSTART_UPDATES:-}}
require_whole_number UPDATES "$updates"
require_whole_number QUICKSTART_TEST_PUZZLES "${QUICKSTART_TEST_PUZZLES:-}"
[ "$#" -le 1 ] || fail "found $# arguments, expected at most one (UPDATES)"

step() {
    printf '\n== %s\n' "$1"
}

minutes() {
    printf '%d min %02d s' $(($1 / 60)) $(($1 % 60))
}

start=$SECONDS
step "environment"
prepare_environment requirements.txt
environment_seconds=$((SECONDS - start))
echo "using $("$python" --version), torch $("$python" -c 'import torch; print(torch.__version__)')"

device=${QUICKSTART_DEVICE:-auto}
if [ "$device" != cpu ] && "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    data=${QUICKSTART_DATA:-data/sudoku-17clue-quickstart}
    run=${QUICKSTART_RUN:-runs/quickstart-gpu}
    build=(--input-file dataset/raw/royle_17clue.txt.gz --num-train 20000
        --test-size "${QUICKSTART_TEST_PUZZLES:-2000}")
    # Smaller batches and earlier evaluations than the full preset: the first numbers come after minutes.
    recipe=(+experiment=trm_sudoku_17clue global_batch_size=256 lr_warmup_steps=200 eval_interval=4
        "max_steps=${updates:-1500}")
else
    data=${QUICKSTART_DATA:-data/sudoku-6x6}
    run=${QUICKSTART_RUN:-runs/quickstart}
    build=(--generate 6x6 --num-train 2560 --test-size "${QUICKSTART_TEST_PUZZLES:-1000}")
    recipe=(+experiment=quickstart ${updates:+"max_steps=$updates"})
    device=cpu
fi

step "data: $data"
if [ -f "$data/train/dataset.json" ] && [ -f "$data/test/dataset.json" ]; then
    echo "already built"
    "$python" -c 'import sys; from pathlib import Path; from scripts.built_data import built_otherwise
if words := built_otherwise(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]): print("warning:", words, file=sys.stderr)' \
        "$data" dataset/build_sudoku_dataset.py "${build[@]}"
else
    "$python" dataset/build_sudoku_dataset.py --output-dir "$data" \
        --num-workers "$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)" "${build[@]}"
fi

step "training: $run"
training_start=$SECONDS
"$python" pretrain.py "${recipe[@]}" "data_paths=['$data']" "checkpoint_path='$run'" "device=$device"
training_seconds=$((SECONDS - training_start))

step "evaluation on puzzles that neither trained the model nor chose the checkpoint"
# Reports on weights that training has since replaced are kept, out of the way of those on the new ones.
earlier="$run/earlier_$(date +%Y%m%dT%H%M%S)"
for report in "$run"/evaluation_best* "$run"/predictions_best*; do
    if [ -e "$report" ] && [ "$run/best.pt" -nt "$report" ]; then
        mkdir -p "$earlier"
        mv "$report" "$earlier/"
        echo "of the weights of before: $earlier/${report##*/}"
    fi
done
"$python" evaluate.py "checkpoint=$run/best.pt" "device=$device"

step "the same puzzles with four times as many supervision steps, and with rows that stop by themselves"
trained=$("$python" -c 'import sys; from training.trained_model import open_checkpoint
print(open_checkpoint(sys.argv[1]).config.arch.halt_max_steps)' "$run/best.pt")
longer=$((4 * trained))
"$python" evaluate.py "checkpoint=$run/best.pt" "device=$device" split=test "eval.max_steps=$longer"
"$python" evaluate.py "checkpoint=$run/best.pt" "device=$device" split=test "eval.max_steps=$longer" eval.adaptive_halt=true

step "pictures"
"$python" analysis/arms/training_curve.py "$run"
"$python" analysis/rollouts/accuracy_vs_steps.py "$run/evaluation_best_test_rows_steps$longer.json" --output-dir "$run/figures"
"$python" analysis/rollouts/step_by_step.py "$run/best.pt" --device "$device"

step "Lyapunov exponents of solved and failed puzzles"
# The note of what results are made of is written whenever a measurement begins.
if [ -d "$run/lyapunov" ] && [ "$run/best.pt" -nt "$run/lyapunov/.made_of.json" ]; then
    mkdir -p "$earlier"
    mv "$run/lyapunov" "$earlier/"
    echo "of the weights of before, with all that lay beside it: $earlier/lyapunov"
fi
"$python" analysis/spectra/lyapunov_spectrum.py --checkpoint "$run/best.pt" --device "$device" --out "$run/lyapunov" \
    --num-puzzles "${QUICKSTART_LYAPUNOV:-256}" --num-steps 8 --num-exponents 4

# The commands below are copied into a shell that knows nothing of this one.
activate="# with the interpreter that NO_VENV=1 took"
if [ "$python" = .venv/bin/python ]; then
    activate="source .venv/bin/activate    # once per shell, before any command of this suite"
    python=python
fi

headline=$("$python" -c 'import json, sys
results = json.load(open(sys.argv[1]))["results"]
exact = next(result["exact_accuracy"] for result in results if result["rows"] == "test")
print(exact["numerator"], "of", exact["denominator"], "puzzles that it never saw are solved")' "$run/evaluation_best.json")

cat <<END

== $headline
time                        training $(minutes $training_seconds), everything $(minutes $((SECONDS - start))) \
(of which installing $(minutes $environment_seconds))
weights                     $run/best.pt, $run/final.pt
results                     $run/evaluation_best.json, $run/summary.json
accuracy over training      $run/figures/training_curve.png
accuracy over steps         $run/figures/accuracy_vs_steps.png
three puzzles step by step  $run/figures/step_by_step.png
solved against failed       $run/lyapunov/lambda1_success_failure.png, its numbers in $run/lyapunov/summary.json
log, settings, origin       $run/metrics.jsonl, $run/all_config.yaml, $run/provenance.json

To try next:
  $activate
  # one puzzle, with the answer after each supervision step
  $python predict.py checkpoint=$run/best.pt row=0
  # the same with the small network that is shipped, and with a puzzle of your own (36 cells)
  $python predict.py puzzle=.3....541.......2....5....5.4..2.3.1
  # another seed
  $python pretrain.py ${recipe[0]} "data_paths=[$data]" seed=1 checkpoint_path=$run-seed1
  # 9x9 Sudokus with 17 clues, no download needed
  $python dataset/build_sudoku_dataset.py --output-dir data/sudoku-17clue --input-file dataset/raw/royle_17clue.txt.gz
  $python pretrain.py +experiment=trm_sudoku_17clue
  # the commands of the TRM paper (downloads the data; one GPU, more than a day)
  $python dataset/build_sudoku_dataset.py --output-dir data/sudoku-extreme-1k-aug-1000 --subsample-size 1000 --num-aug 1000
  $python pretrain.py +experiment=trm_sudoku_mlp
END
