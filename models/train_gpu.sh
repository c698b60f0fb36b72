#!/bin/sh
# Train, export and judge the full-size model on one GPU: train_gpu.sh STATE OUT [MINUTES [TOTAL [SIZE]]]
#
# Runs for about MINUTES (default 9.5) and leaves in OUT: toy.tar, judge and gate reports, logs, and the checkpoints
# vae.pt and dit-small.pt (each below 16 MiB). TOTAL is the length of the transformer's schedule in minutes; default:
# what fits into this call. With a longer TOTAL, call again with the same STATE to go on; a STATE that holds only
# those two checkpoints will do, and so will one that `export.py --restore` wrote from a shipped model, whose decoder,
# which has no optimiser with it, is left as it is. JUDGE=no leaves out the judge and the gate, which take 100 s and can run elsewhere.
set -eu
state=$1 out=$2 minutes=${3:-9.5} total=${4:-} size=${5:-256x256x33}
here=$(dirname "$0")
python=${PYTHON:-python3}
mkdir -p "$state" "$out"
export PYTHONUNBUFFERED=1
trap 'tail -n 40 "$out"/*.log' EXIT
began=$(date +%s)
train_vae() { # train_vae MINUTES-IN-ALL
    "$python" "$here/train_vae.py" --state "$state" --minutes "$1" --device cuda --decoder-only --light-decoder 0 \
        --noise 0.02 --muon-lr 0.006 --adam-lr 1e-3 >>"$out/vae.log" 2>&1
}
# The transformer needs the encoder, which is not trained, and a decoder good enough to weigh the latent's channels. The
# decoder goes on beside the transformer, whose first minute is mostly compilation.
[ -f "$state/vae.pt" ] || train_vae 0.5
vae=
if "$python" -c 'import sys, torch; sys.exit("optimiser" not in torch.load(sys.argv[1], map_location="cpu"))' "$state/vae.pt"; then
    train_vae 3 &
    vae=$!
fi
# What is left of MINUTES, less what the export and the judge take.
after=2.2
[ "${JUDGE:-yes}" = yes ] || after=0.3
left=$(awk "BEGIN { print $minutes - ($(date +%s) - $began) / 60 - $after }")
"$python" "$here/train_dit.py" --state "$state" --minutes "${total:-$left}" --stop-after "$left" --device cuda \
    --muon-lr 0.012 --adam-lr 0.0012 >"$out/dit.log" 2>&1
[ -z "$vae" ] || wait "$vae"
cp "$state/dit-small.pt" "$state/vae.pt" "$out/"
"$python" "$here/export.py" --state "$state" --out "$state/toy" --size "$size" >>"$out/dit.log" 2>&1
tar -C "$state" -cf "$out/toy.tar" toy
[ "${JUDGE:-yes}" = yes ] || exit 0
for clip in 64x64x17 128x128x17 "$size"; do
    timeout 100 "$python" "$here/judge.py" model "$state/toy" --size "$clip" --device cuda --batch 32 \
        --save "$out/judge.png" >>"$out/judge.log" 2>&1 || true
done
timeout 60 "$python" "$here/recall_gate.py" "$state/toy" --device cuda --prompts 2 >>"$out/judge.log" 2>&1 || true
