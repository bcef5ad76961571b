# Sourced by the other scripts, from the suite's root: a virtual environment with what is asked for, and what they share.
#
#   prepare_environment requirements.txt     afterwards "$python" is the interpreter to use
#
# PYTHON=...  names the interpreter that .venv is made with (default: the first of python3, python3.13, ... that is
#             3.11 or newer).
# NO_VENV=1   uses that interpreter as it is and installs nothing: for machines that come with torch.

fail() {
    echo "error: $*" >&2
    exit 2
}

print_help() { # FILE: the comment at the head of a script
    sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$1"
}

require_whole_number() { # NAME VALUE: one that is empty was not given
    case "$2" in
        *[!0-9]* | 0*) fail "$1 is '$2', expected a whole number from 1" ;;
    esac
}

# Sets names, the words before the first flag as patterns of the runs of a step9 grid (without words E, F, G and H), and
# flags, the rest.
choose_step9_runs() {
    names=()
    while [ "$#" -gt 0 ] && [ "${1#-}" = "$1" ]; do
        names+=("step9_$1*") && shift
    done
    [ "${#names[@]}" -gt 0 ] || names=("step9_[EFGH]_*")
    flags=("$@")
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON: there is no such program; name a Python 3.11 or newer"
        is_new_enough "$PYTHON" \
            || fail "PYTHON=$PYTHON is $("$PYTHON" --version 2>&1 | head -n 1); Python 3.11 or newer is needed"
        base_python=$PYTHON
        return
    fi
    for base_python in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if command -v "$base_python" >/dev/null && is_new_enough "$base_python"; then
            return
        fi
    done
    fail "no Python 3.11 or newer found ($(python3 --version 2>&1 | head -n 1)); install one, or name it: PYTHON=/path/to/python3.11 bash $0"
}

make_venv() {
    # A folder that an interrupted run left half made has no pip.
    if [ -x .venv/bin/python ] && .venv/bin/python -c 'import pip' >/dev/null 2>&1; then
        is_new_enough .venv/bin/python \
            || fail ".venv holds $(.venv/bin/python --version 2>&1); remove it, it is made anew with Python 3.11 or newer"
        return
    fi
    if [ -e .venv ] && [ ! -f .venv/pyvenv.cfg ] && [ -n "$(ls -A .venv 2>/dev/null)" ]; then
        fail ".venv is no virtual environment; move it away, or use NO_VENV=1"
    fi
    find_python
    "$base_python" -c 'import venv, ensurepip' >/dev/null 2>&1 \
        || fail "$base_python lacks venv (Debian, Ubuntu: apt install python3-venv); or use NO_VENV=1 with the packages of $1 installed"
    echo "making .venv with $("$base_python" --version)"
    "$base_python" -m venv --clear .venv || fail ".venv could not be made; see above"
}

prepare_environment() {
    if [ "${NO_VENV:-0}" = 1 ]; then
        find_python
        python=$base_python
        missing=$("$python" scripts/check_requirements.py --any-version "$1") \
            || fail "NO_VENV=1, but $python lacks: $(echo "$missing" | tr '\n' ' ')"
        return
    fi
    make_venv "$1"
    python=.venv/bin/python
    if ! "$python" scripts/check_requirements.py "$1" >/dev/null; then
        echo "installing $1 into .venv: some minutes, most of it the download of torch"
        "$python" -m pip install --quiet --disable-pip-version-check -r "$1" \
            || fail "pip could not install $1; see above (behind a mirror, set it in pip's own configuration)"
    fi
}

# Sourced without arguments, this file sees those of the script.
case "${1:-}" in
    -h | --help) print_help "scripts/${0##*/}" && exit 0 ;;
esac
