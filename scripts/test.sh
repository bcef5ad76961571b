#!/usr/bin/env bash
# Style, types and tests, from a fresh clone.
#
#   bash scripts/test.sh [PYTEST OPTIONS]          the fast suite, minutes on two cores
#   bash scripts/test.sh --all [PYTEST OPTIONS]    also the slow tests, among them a shortened quickstart
#
# The last line is pytest's own. The exit code is 0 only when ruff, mypy and all tests pass.
# TEST_WORKERS=N runs N files of tests at a time (0: one after the other, in this process); as many as there are cores,
# four at most. PYTHON, NO_VENV: see scripts/environment.sh.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh

all=no
options=()
for word in "$@"; do
    case "$word" in
        --all) all=yes ;;
        -h | --help) print_help scripts/test.sh && exit 0 ;;
        *) options+=("$word") ;;
    esac
done

prepare_environment requirements-dev.txt

# One thread: the models of the tests are tiny, and sums are made in one order.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Nothing of a test reaches a service or a display.
export WANDB_MODE=disabled MPLBACKEND=Agg

failed=0
check() {
    echo "== $1"
    shift
    "$@" || { failed=1 && echo "FAILED (the exit code will say so; the rest still runs)" >&2; }
}

check "ruff" "$python" -m ruff check .
check "ruff format" "$python" -m ruff format --check .
check "mypy" "$python" -m mypy .

selection="not slow and not gpu"
if [ "$all" = yes ]; then
    selection="not gpu"
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' && selection=""
fi

cores='import os; print(min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()))'
echo "== pytest"
"$python" -m pytest --numprocesses "${TEST_WORKERS:-$("$python" -c "$cores")}" --dist loadfile -m "$selection" ${options[@]+"${options[@]}"} || failed=$?
exit "$failed"
