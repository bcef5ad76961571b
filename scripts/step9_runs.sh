# Sourced by the launchers of the runs on perturbed trajectories: which run is which, at any size.

RUNS="E F G H control_batch control_steps control_input_noise control_weight_noise"

print_help() { # FILE: the comment at its head
    sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$1"
}

# Sets runs, those that are named first (without names the four of the source), and flags, the rest.
choose_runs() {
    runs=()
    while [ "$#" -gt 0 ]; do
        case " $RUNS " in
            *" $1 "*) runs+=("$1") && shift ;;
            *) break ;;
        esac
    done
    case "${1:--}" in
        -*) ;;
        *) echo "error: found '$1', expected names among $RUNS, then flags" >&2 && exit 2 ;;
    esac
    [ "${#runs[@]}" -gt 0 ] || runs=(E F G H)
    flags=("$@")
}

# Sets kind, the network, and chosen, the flags by which this run differs from the others.
describe_run() { # NAME BATCH UPDATES EVALUATED_EVERY RAMP
    local batch=$2 updates=$3 every=$4 baseline multi4
    baseline=(--objective baseline_ce)
    multi4=(--objective multi_perturbed_ce --num-trajectories 4 --noise-sampling loguniform --sigma-min 3e-5
        --sigma-max 3e-3 --sigma-ramp-steps "$5")
    case "$1" in
        E | F) kind=hrm ;;
        *) kind=trm ;;
    esac
    case "$1" in
        E | G) chosen=("${baseline[@]}") ;;
        F | H) chosen=("${multi4[@]}" --perturb both) ;;
        control_batch) chosen=("${baseline[@]}") batch=$((4 * batch)) ;;
        control_steps) chosen=("${baseline[@]}") updates=$((4 * updates)) every=$((4 * every)) ;;
        control_input_noise) chosen=("${multi4[@]}" --perturb input) ;;
        control_weight_noise) chosen=("${multi4[@]}" --perturb weights) ;;
    esac
    chosen+=(--rollout parallel_fixed --batch-size "$batch" --train-steps "$updates" --eval-every "$every")
}
