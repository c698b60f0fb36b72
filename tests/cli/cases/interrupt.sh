# Ctrl-C and a termination signal in the middle: exit code 130, one line, no file left but the state to resume from.
# shellcheck disable=SC2086 # $SMALL is words
for signal in INT TERM; do
    WHAT="fgattn generate, interrupted by SIG$signal"
    "$FGATTN" generate $SMALL --size 192x192 --frames 33 --steps 1000 --prompt x -o x.y4m --json x.json >"$SCRATCH/stdout" 2>"$SCRATCH/stderr" &
    job=$!
    tries=0
    until [ -e x.y4m.part ] || [ $tries -gt 300 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    sleep 0.2
    kill -s $signal $job
    code=0
    wait $job || code=$?
    [ "$code" -eq 130 ] || fail "exit code $code, wanted 130"
    explained
    says interrupted x.y4m
    rm -f x.y4m.fgstate
    nothing_left
done
