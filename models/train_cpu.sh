#!/bin/sh
# Train and export the small model on a CPU, beside other work: train_cpu.sh STATE OUT [MINUTES [SIZE]]
# MINUTES (default 75) of training in all, a fifth of it for the VAE. Call it again to resume.
set -eu
state=$1 out=$2 minutes=${3:-75} size=${4:-128x128x65}
here=$(dirname "$0")
python=${PYTHON:-python3}
mkdir -p "$state"
export OMP_WAIT_POLICY=PASSIVE PYTHONUNBUFFERED=1
nice -n 19 "$python" "$here/train_vae.py" --state "$state" --minutes "$(awk "BEGIN { print $minutes / 5 }")" \
    --decoder-only --light-decoder 0 --noise 0.02 --muon-lr 0.004 --adam-lr 1e-3
nice -n 19 "$python" "$here/train_dit.py" --state "$state" --minutes "$(awk "BEGIN { print $minutes * 4 / 5 }")"
"$python" "$here/export.py" --state "$state" --out "$out" --size "$size"
