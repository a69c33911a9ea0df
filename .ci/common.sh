# shellcheck shell=bash
# What the scripts of this folder share; sourced, in the clone's top folder.

work=$(mktemp -d)
stage_name=
stage_start=$SECONDS
stage_computed=0

finish() {
    local code=$? job
    for job in $(jobs -p); do
        kill -- "-$job" 2>/dev/null || true
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
    computed
    stage_computed=$computed
    printf '\n==== %s\n' "$stage_name"
}

# What a stage costs is its time of processors: the other depends on what else goes on.
stage_end() {
    if [ -n "$stage_name" ]; then
        computed
        printf -- '---- %s: %d s, %d s of processors\n' "$stage_name" \
            $((SECONDS - stage_start)) $((computed - stage_computed))
    fi
    stage_name=
}

# computed: into $computed the seconds of processors that this shell's children took, as
# far as they have ended and were waited for.
computed() {
    local file=$work/times-$BASHPID
    times >"$file"
    computed=$(awk -F '[ms ]+' 'NR == 2 { printf "%d", ($1 + $3) * 60 + $2 + $4 }' "$file")
}

# can_debian: whether packages of Debian's can be installed here.
can_debian() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null
}

# needs PACKAGE...: install those of these Debian packages that are missing, as root.
needs() {
    local package missing=()
    if ! can_debian; then
        echo "not root on Debian: taking what this machine has of: $*"
        return
    fi
    for package in "$@"; do
        dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
        "${missing[@]}" >/dev/null
}

# interpreter NAME VERSION PATH...: print the first path that is that Python, or nothing.
interpreter() {
    local name=$1 version=$2 found
    shift 2
    for found in "$@"; do
        if [ -x "$found" ] && "$found" -c '
import platform, sys
found = platform.python_implementation(), "%d.%d" % sys.version_info[:2]
sys.exit(found != (sys.argv[1], sys.argv[2]))
' "$name" "$version" 2>/dev/null; then
            echo "$found"
            return
        fi
    done
}

# python_of VERSION: print the path of a CPython that runs, or nothing.
python_of() {
    interpreter CPython "$1" "$HOME"/.pyenv/versions/"$1".*/bin/python \
        "$(command -v "python$1")"
}

# pypy_of VERSION: print the path of a PyPy that runs, or nothing.
pypy_of() {
    interpreter PyPy "$1" "$HOME"/.pyenv/versions/pypy"$1"-*/bin/python \
        "$(command -v "pypy$1")" "$(command -v pypy3)"
}

# debian RELEASE ROOT PACKAGE...: another release of Debian, in a folder of its own,
# for the interpreters that this machine has no packages of.
debian() {
    local release=$1 root=$2
    shift 2
    needs mmdebstrap debian-archive-keyring
    mmdebstrap --quiet --variant=minbase \
        --aptopt='Acquire::Check-Valid-Until "false"' \
        --include="$(IFS=, && echo "$*")" "$release" "$root"
    cp -L /etc/resolv.conf "$root/etc/"
    mkdir -p "$root/etc/ssl/certs"
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" || true
}

# inside ROOT COMMAND: a shell's command in such a folder, or here where ROOT is empty.
# What it mounts there is mounted for this command only, and gone with it.
inside() {
    if [ -z "$1" ]; then
        bash -c "$2"
        return
    fi
    # shellcheck disable=SC2016
    HOME=/root TMPDIR=/tmp unshare --mount --propagation slave sh -c '
        for place in proc dev sys; do mount --rbind "/$place" "$0/$place"; done
        exec chroot "$0" bash -c "$1"' "$1" "$2"
}

# beside LOG FUNCTION: run it in a job of this shell, with all that it starts in one
# group of processes, which ends with this script. The job is $!.
beside() {
    set -m
    (
        trap - EXIT
        set +m
        stage_name=
        "$2"
    ) >"$1" 2>&1 &
    set +m
}

# tree PLACE: a copy of the files under version control, as they are now, in a new
# folder under $work.
tree() {
    mkdir -p "$work/$1"
    git ls-files -z | while IFS= read -r -d '' file; do
        if [ -e "$file" ]; then printf '%s\0' "$file"; fi
    done | xargs -0 cp --parents -t "$work/$1"
}
