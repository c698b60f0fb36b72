# What this machine has, in words.
run 0 doctor
prints "fgattn 0." processor threads memory "runs here; the default" oneDNN sentencepiece libpng ffmpeg CUDA
silent stderr
[ "$(grep -c 'the default' "$SCRATCH/stdout")" -eq 1 ] || fail "not exactly one default kernel family"
RUN_PATH=/nowhere
run 0 doctor
prints "not on PATH"
unset RUN_PATH
run 3 doctor --model "$SCRATCH/nowhere"
says "nowhere"
