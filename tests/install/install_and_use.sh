#!/bin/sh
# install_and_use.sh BUILD-DIR SOURCE-DIR CC: installs into a scratch prefix, then builds and runs the examples against
# it through pkg-config and through find_package.
set -eu
build=$1 source=$2 cc=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake --install "$build" --prefix "$work/prefix" >/dev/null
libdir=$(dirname "$(find "$work/prefix" -name fgattn.pc)")/..
export PKG_CONFIG_PATH="$libdir/pkgconfig" LD_LIBRARY_PATH="$libdir"
# The .pc files carry the configured prefix; tell pkg-config where this copy stands.
flags() { pkg-config --define-variable=prefix="$work/prefix" --cflags --libs "$1"; }

# shellcheck disable=SC2046 # flags are words
"$cc" -Wall -Werror "$source/examples/attend.c" $(flags fgattn) -lm -o "$work/attend"
"$work/attend" | grep -q '^kernel .* density 0\.[0-9]*, output error 0\.[0-9]*$'
# shellcheck disable=SC2046
"$cc" -Wall -Werror "$source/examples/policy.c" $(flags fgattn) -lm -o "$work/policy"
"$work/policy" | grep -q '^every fifth tile'
# shellcheck disable=SC2046
"$cc" -Wall -Werror "$source/examples/generate.c" $(flags fgvideo) -o "$work/generate"
if "$work/generate" "$work" prompt "$work/never.mp4" 2>"$work/error"; then
    echo "generate accepted a directory that is no checkpoint" >&2
    exit 1
fi
[ -s "$work/error" ]

cat >"$work/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.25)
project(user C)
find_package(fgattn 0.1 REQUIRED)
add_executable(attend attend.c)
target_link_libraries(attend fgattn::fgattn m)
CMAKE
cp "$source/examples/attend.c" "$work/"
cmake -G Ninja -S "$work" -B "$work/b" -DCMAKE_PREFIX_PATH="$work/prefix" >/dev/null
cmake --build "$work/b" >/dev/null
"$work/b/attend" >/dev/null

man_page=$(find "$work/prefix" -name fgattn.1)
[ -s "$man_page" ]
"$work/prefix/bin/fgattn" --version | grep -q '^fgattn '
