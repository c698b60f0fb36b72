#!/bin/sh
# run.sh PROGRAM JSON_CHECK ROOT CASE: one case of the command line's tests. A case is a shell script that calls
# `run` and then states what must have happened. It works in an empty directory of its own.
set -eu
FGATTN=$1 JSON_CHECK=$2 ROOT=$3 CASE=$4
TINY=$ROOT/tests/golden/tiny # a whole pipeline with random weights

# Under the address sanitizer a request for terabytes must fail as it does without, not end the program.
export ASAN_OPTIONS="allocator_may_return_null=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"

SCRATCH=$(mktemp -d)
trap 'chmod -R u+w "$SCRATCH"; rm -rf "$SCRATCH"' EXIT
mkdir "$SCRATCH/work"
cd "$SCRATCH/work"
WHAT=

fail() { # fail TEXT: the case is over
    printf '%s: %s\n  command: %s\n' "$(basename "$CASE")" "$1" "$WHAT" >&2
    for stream in stdout stderr; do
        [ ! -f "$SCRATCH/$stream" ] || sed "s/^/  $stream: /" "$SCRATCH/$stream" | head -n 40 >&2
    done
    exit 1
}

run() { # run EXIT-CODE ARGUMENTS...: the program must end with this code, and explain every other one than 0 in one line
    code_wanted=$1
    shift
    WHAT="fgattn $*"
    code=0
    (PATH=${RUN_PATH-$PATH} && export PATH && exec "$FGATTN" "$@") >"$SCRATCH/stdout" 2>"$SCRATCH/stderr" </dev/null ||
        code=$?
    [ "$code" -eq "$code_wanted" ] || fail "exit code $code, wanted $code_wanted"
    [ "$code" -eq 0 ] || explained
}

explained() {
    [ "$(grep '^fgattn: ' "$SCRATCH/stderr" | grep -cv '^fgattn: warning: ')" -eq 1 ] ||
        fail "not exactly one line of explanation"
    tail -n 1 "$SCRATCH/stderr" | grep -q '^fgattn: ' || fail "the explanation is not the last line"
}

says() { # says TEXT...: standard error has each of these
    for text in "$@"; do
        grep -qF -e "$text" "$SCRATCH/stderr" || fail "standard error does not say: $text"
    done
}

prints() { # prints TEXT...: standard output has each of these
    for text in "$@"; do
        grep -qF -e "$text" "$SCRATCH/stdout" || fail "standard output does not say: $text"
    done
}

silent() { # silent STREAM: nothing on stdout or stderr
    [ ! -s "$SCRATCH/$1" ] || fail "$1 is not empty"
}

exists() {
    for file in "$@"; do
        [ -s "$file" ] || fail "$file does not exist or is empty"
    done
}

nothing_left() { # the working directory is as empty as it was
    left=$(ls -A)
    [ -z "$left" ] || fail "left behind: $left"
}

same() { # same A B: the same bytes
    cmp -s "$1" "$2" || fail "$1 and $2 differ"
}

json() { # json FILE KEY=TYPE...: see json_check.c
    "$JSON_CHECK" "$@" >"$SCRATCH/stdout" 2>"$SCRATCH/stderr" || fail "$1 is not the JSON that was promised"
}

capture_file() { # capture_file FILE BYTES HEADER: a safetensors file with so many bytes of zeros
    header=$3
    while [ $((${#header} % 8)) -ne 0 ]; do
        header="$header "
    done
    {
        # shellcheck disable=SC2059 # octal
        printf "\\$(printf %03o $((${#header} % 256)))\\$(printf %03o $((${#header} / 256)))\\0\\0\\0\\0\\0\\0%s" "$header"
        head -c "$2" /dev/zero
    } >"$1"
}

capture_tensors() { # capture_tensors LAYER BRANCH HEADS FROM: what a header says of 1 token with 8 channels in f32
    at=$4
    for tensor in q k v; do
        printf ',"step.0.layer.%d.branch.%d.%s":{"dtype":"F32","shape":[1,%d,8],"data_offsets":[%d,%d]}' "$1" "$2" \
            $tensor "$3" "$at" $((at + $3 * 32))
        at=$((at + $3 * 32))
    done
}

# shellcheck disable=SC2034 # for the cases
ONE_TOKEN='{"__metadata__":{"frames":"1","height":"1","width":"1"}'

# The smallest clip: seconds even with the sanitizers.
# shellcheck disable=SC2034 # for the cases
SMALL="--model $TINY --size 32x32 --frames 5 --steps 2 --seed 3"

# shellcheck disable=SC1090 # one of cases/
. "$CASE"
