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

# A second signal ends the program where it is, and no unfinished file stays. Both are there before it can see one.
twice() { # twice FILE ARGUMENTS...: once FILE is there
    file=$1
    shift
    WHAT="fgattn $*, interrupted twice"
    "$FGATTN" "$@" >"$SCRATCH/stdout" 2>"$SCRATCH/stderr" &
    job=$!
    tries=0
    until [ -e "$file" ] || [ $tries -gt 600 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    sleep 0.2
    kill -s STOP $job
    kill -s INT $job
    kill -s TERM $job
    kill -s CONT $job
    code=0
    wait $job || code=$?
    [ "$code" -eq 130 ] || fail "exit code $code, wanted 130"
    sleep 0.5 # for what a child might still do
    rm -f ./*.fgstate
    nothing_left
}
LONG="--model $TINY --size 192x192 --frames 33 --steps 1000 --prompt x"
outputs="x.y4m x.apng x.png"
! command -v ffmpeg >/dev/null || outputs="$outputs x.mp4 x.gif"
for output in $outputs; do
    part=$output.part
    [ $output != x.png ] || part=x-0000.png.part
    twice $part generate $LONG -o $output --json x.json --latents x.raw --capture x.st --capture-steps 999
done
twice a.html.part inspect $LONG -o a.html --json a.json
twice a.json.part bench attend --seq 30000 --rounds 101 --json a.json
# While the decoder runs, several frames are there.
twice x-0002.png.part generate $LONG --frames 65 --steps 1 -o x.png
