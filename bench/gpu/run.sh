#!/bin/sh
# run.sh [OUT [BUILD [PART...]]]: checks the CUDA kernels on a device, and times them. Parts, all of them in this order
# when none is named:
#   quick     a few cases of every kind (5 s)
#   time      dense, N = 1 to 64, densities 0.5 to 0.05, each M, with and without summaries, 32,760 and 75,600 tokens,
#             against PyTorch's attention in cuDNN where that can be imported; a few of them with 96 and 256 channels
#             (60 s)
#   ops       refreshes and measuring: every check, then each part as a share of dense attention (1 minute)
#   layer     one layer of a 14B model over 50 steps: dense, refreshes and reuses (1 minute)
#   gather    how fast rows come into shared memory (15 s)
#   full      every case (2 minutes)
#   sanitize  compute-sanitizer on small cases (2 minutes)
#   peers     FlashAttention-3, where FA3 names its library (peers.py), FlexAttention and FlashInfer, where they can be
#             imported (2 minutes)
# BUILD (default build-gpu) may hold check_cuda, bench_cuda, bench_gather, check_cuda_ops, bench_cuda_ops and
# bench_cuda_layer from another machine; else they are built there, for which nvcc, CMake and Ninja are needed. HEADS (default 4) is the number of heads: fewer
# make shorter runs, of which one may miss what else uses the device. PEER_MS, cuDNN's dense time at 32,760 tokens and as
# many heads, saves measuring it. MASK, a mask of 32,760 tokens that bench_unions --save wrote, is timed beside random ones. Nothing runs longer than its limit. Logs and tables
# go to OUT (default BUILD/out); the last lines are the short form. Exit status 1 when a step failed.
set -u
cd "$(dirname "$0")/../.."
build=${2:-build-gpu}
out=${1:-$build/out}
heads=${HEADS:-4}
[ $# -gt 2 ] && shift 2 || set -- quick time ops layer gather full sanitize peers
mkdir -p "$build" "$out"
failed=
started=$(date +%s)

step() { # step NAME SECONDS COMMAND...: its output goes to a log
    name=$1 limit=$2
    shift 2
    before=$(date +%s)
    timeout -k 2 "$limit" "$@" >"$out/$name.log" 2>&1
    code=$?
    case $code in
    0 | 77) ;;
    124 | 137) failed="$failed $name(time)" ;;
    *) failed="$failed $name($code)" ;;
    esac
    echo "== $name: exit $code after $(($(date +%s) - before)) s"
    return $code
}

find_programs() {
    for place in "$build" "$build/bench/gpu"; do
        check=$place/check_cuda bench=$place/bench_cuda gather=$place/bench_gather
        check_ops=$place/check_cuda_ops bench_ops=$place/bench_cuda_ops bench_layer=$place/bench_cuda_layer
        [ -x "$check" ] && [ -x "$bench" ] && [ -x "$gather" ] && [ -x "$check_ops" ] && [ -x "$bench_ops" ] &&
            [ -x "$bench_layer" ] && return 0
    done
    return 1
}

quick() {
    # dense; single keys; longer lists; summaries at each M, of small and large groups; bias with -inf; head_dim 96 and
    # 64; f16. One process: a hang shows as the case after the last line. Then the same of 72 to 96 channels and of 136
    # to 256, and what only sm80 has.
    step quick 25 "$check" --variant sm90 --case 2,0,50,56,7,55,37,17,1,61,21,35,67,66,27
    grep -hE '^(ok|FAIL)' "$out/quick.log" >"$out/quick.txt"
    [ $code -eq 0 ] || tail -n 3 "$out/quick.log"
    for cases in 96:282,308,288,284,322,406,328,314,290,320 256:403,343,305,281,301,303,307,283,285; do
        step "quick-${cases%:*}" 15 "$check" --variant sm90 --case "${cases#*:}"
        grep -hE '^(ok|FAIL)' "$out/quick-${cases%:*}.log" >>"$out/quick.txt"
        [ $code -eq 0 ] || tail -n 3 "$out/quick-${cases%:*}.log"
    done
    step quick-sm80 15 "$check" --variant sm80 --case 0,1,4,8
    grep -hE '^(ok|FAIL)' "$out/quick-sm80.log" >>"$out/quick.txt"
    [ $code -eq 0 ] || tail -n 3 "$out/quick-sm80.log"
}

timings() {
    peer=${PEER_MS:-}
    if [ -z "$peer" ] && python3 -c 'import torch' 2>/dev/null &&
        step sdpa 30 python3 bench/gpu/peers.py --only sdpa --csv "$out/sdpa.csv" --tokens 32760 --heads "$heads"; then
        peer=$(awk -F, '$2 == "sdpa cudnn" {print $9}' "$out/sdpa.csv")
    fi
    # Shapes in a process each, so that one that hangs leaves the others.
    for m in 128 64 192; do
        step "bench-$m" 25 "$bench" --short --tokens 32760 --heads "$heads" --repeats 15 ${peer:+--peer-ms $peer} \
            --m $m --csv "$out/m$m.csv"
    done
    for m in 16 32; do
        for family in sm90 sm80; do
            step "bench-$m-$family" 10 "$bench" --short --no-dense --tokens 32760 --heads "$heads" --repeats 5 \
                --variant $family --m $m --csv "$out/m$m-$family.csv"
        done
    done
    if [ -n "${MASK:-}" ]; then
        step bench-mask 20 "$bench" --tokens 32760 --heads "$heads" --repeats 9 --mask "$MASK" --csv "$out/mask.csv"
    fi
    for dim in 96 256; do
        step "bench-d$dim" 25 "$bench" --least --head-dim $dim --tokens 32760 --heads "$heads" --repeats 7 \
            --csv "$out/d$dim.csv"
    done
    step bench-long 25 "$bench" --short --tokens 75600 --heads "$heads" --repeats 7 --m 128 --csv "$out/long.csv"
}

refreshes() {
    step ops 120 "$check_ops"
    grep -E 'FAIL|passed|skipped' "$out/ops.log" | tail -n 25
    for tokens in 32760 75600; do
        step "bench-ops-$tokens" 60 "$bench_ops" --tokens "$tokens" --heads "$heads" --csv "$out/ops-$tokens.csv"
        grep 'of dense' "$out/bench-ops-$tokens.log"
    done
}

sanitize() {
    for case in 2:memcheck 0:memcheck 35:memcheck 0:racecheck 2:racecheck 0:synccheck; do
        tool=${case#*:} case=${case%:*}
        step "$tool-$case" 30 compute-sanitizer --tool "$tool" --error-exitcode 9 "$check" --variant sm90 --case "$case"
        tail -n 3 "$out/$tool-$case.log"
    done
}

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,temperature.gpu,utilization.gpu --format=csv,noheader \
    >"$out/card.txt" 2>&1
if ! find_programs; then
    step configure 60 cmake -S . -B "$build" -G Ninja -DFGATTN_VIDEO=OFF -DFGATTN_TESTS=OFF -DFGATTN_CUDA=ON &&
        step build 300 ninja -C "$build" check_cuda bench_cuda gpu_gather check_cuda_ops bench_cuda_ops bench_cuda_layer && find_programs || {
        tail -n 30 "$out/build.log" "$out/configure.log"
        exit 1
    }
fi
for part; do
    case $part in
    quick) quick ;;
    time) timings ;;
    ops) refreshes ;;
    layer)
        step layer 90 "$bench_layer" --csv "$out/layer.csv"
        cat "$out/layer.log"
        ;;
    gather) step gather 30 "$gather" ;;
    full)
        step full 120 "$check"
        grep -E 'FAIL|passed|skipped' "$out/full.log" | tail -n 25
        ;;
    sanitize) sanitize ;;
    peers) step peers 150 python3 bench/gpu/peers.py --csv "$out/peers.csv" --tokens 32760 --heads "$heads" ${FA3:+--flash3 "$FA3"} ;;
    *) echo "run.sh: no part is called $part" && exit 2 ;;
    esac
done
echo "== in short: $(cat "$out/card.txt")"
grep -hE 'TFLOP|not measured|WRONG|TB/s|failed' "$out"/sdpa.log "$out"/bench-*.log "$out"/gather.log "$out"/peers.log \
    2>/dev/null
echo "== $(grep -c '^ok' "$out/quick.txt" 2>/dev/null) quick cases right; all in $(($(date +%s) - started)) s${failed:+; failed:$failed}"
[ -z "$failed" ]
