#!/bin/sh
# run.sh [OUTPUT-DIR]: builds the library with its CUDA kernels, checks them against the processor, looks for bad memory
# accesses and races, and times everything, in less than ten minutes. Needs nvcc, CMake, Ninja and a CUDA device;
# compute-sanitizer and PyTorch are used where they are. Tables and logs go to OUTPUT-DIR (default build-gpu/out).
set -u
cd "$(dirname "$0")/../.."
build=${FGATTN_GPU_BUILD:-build-gpu}
out=${1:-$build/out}
mkdir -p "$build" "$out"
failed=
started=$(date +%s)

step() { # step NAME SECONDS COMMAND...: its output goes to a log, of which the end is shown
    name=$1 limit=$2
    shift 2
    before=$(date +%s)
    timeout "$limit" "$@" >"$out/$name.log" 2>&1
    code=$?
    echo "== $name: exit $code after $(($(date +%s) - before)) s"
    case $code in
    0 | 77) ;;
    *) failed="$failed $name" ;;
    esac
    return $code
}

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,temperature.gpu --format=csv >"$out/card.csv" 2>&1
cat "$out/card.csv"
step configure 60 cmake -S . -B "$build" -G Ninja -DFGATTN_VIDEO=OFF -DFGATTN_TESTS=OFF -DFGATTN_CUDA=ON &&
    step build 280 ninja -C "$build" check_cuda bench_cuda || {
    tail -n 30 "$out/build.log" "$out/configure.log"
    exit 1
}
check=$build/bench/gpu/check_cuda
report() { # report LOG
    grep -E "FAIL|passed|skipped" "$1" | tail -n 25
}

step check-quick 90 "$check" --quick
report "$out/check-quick.log"
step gather-build 60 nvcc -std=c++17 -O3 -gencode arch=compute_90a,code=sm_90a -Iinclude -Isrc bench/gpu/gather.cu \
    -L/usr/local/cuda/lib64/stubs -lcuda -o "$build/gather" && step gather 40 "$build/gather"
cat "$out/gather.log"
step bench 150 "$build/bench/gpu/bench_cuda" --csv "$out/attend.csv"
cat "$out/bench.log"
if python3 -c "import torch" 2>/dev/null; then
    step peers-32760 50 python3 bench/gpu/peers.py --csv "$out/peers-32760.csv" --tokens 32760 --heads 12
    step peers-75600 50 python3 bench/gpu/peers.py --csv "$out/peers-75600.csv" --tokens 75600 --heads 4
    cat "$out/peers-32760.log" "$out/peers-75600.log" | grep -E "ms|not measured"
fi
if command -v compute-sanitizer >/dev/null 2>&1; then
    for case in 0 1 2; do # single keys, summaries, dense
        for tool in memcheck racecheck; do
            step "$tool-$case" 25 compute-sanitizer --tool "$tool" --error-exitcode 9 "$check" --quick --case "$case"
            grep -E "ERROR SUMMARY|RACECHECK SUMMARY" "$out/$tool-$case.log"
        done
    done
fi
step check 120 "$check"
report "$out/check.log"
echo "== all in $(($(date +%s) - started)) s${failed:+; failed:$failed}"
[ -z "$failed" ]
