# shellcheck shell=bash
# What the scripts of this folder share; sourced, in the clone's top folder.

work=$(mktemp -d)
stage_name=
stage_start=$SECONDS

finish() {
    local code=$? job
    for job in $(jobs -p); do
        kill "$job" 2>/dev/null || true
    done
    if [ "$code" -ne 0 ]; then
        printf '\nFAILED: %s\n' "${stage_name:-before the first stage}"
    fi
    rm -rf --one-file-system "$work"
}
trap finish EXIT

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1
export PIP_QUIET=1
unset PYMUX_BACKEND PYTHONPATH PYTHONDONTWRITEBYTECODE || true

# stage NAME: end the stage before, begin one.
stage() {
    stage_end
    stage_name=$1
    stage_start=$SECONDS
    printf '\n==== %s\n' "$stage_name"
}

stage_end() {
    if [ -n "$stage_name" ]; then
        printf -- '---- %s: %d s\n' "$stage_name" $((SECONDS - stage_start))
    fi
    stage_name=
}

# python_of VERSION: print the path of a CPython that runs, or nothing.
python_of() {
    local found
    for found in "$HOME"/.pyenv/versions/"$1".*/bin/python "$(command -v "python$1")"; do
        if [ -x "$found" ] && "$found" -c '
import platform, sys
wanted = sys.argv[1]
fits = wanted == "%d.%d" % sys.version_info[:2]
sys.exit(not (fits and platform.python_implementation() == "CPython"))
' "$1" 2>/dev/null; then
            echo "$found"
            return
        fi
    done
}

# tree PLACE: a copy of the files under version control, as they are now, in a new
# folder under $work.
tree() {
    mkdir -p "$work/$1"
    git ls-files -z | while IFS= read -r -d '' file; do
        if [ -e "$file" ]; then printf '%s\0' "$file"; fi
    done | xargs -0 cp --parents -t "$work/$1"
}
