# An interrupted run leaves its state; --resume goes on to the same bytes, and refuses what is not of the same run.
# shellcheck disable=SC2086 # $CLIP is words
CLIP="--model $TINY --size 64x64 --frames 9 --steps 12 --seed 3 --attention dfs,block_m=16,tile_n=8,refresh_every=2 --prompt x"
run 0 generate $CLIP -o whole.y4m --latents whole.raw --json whole.json
[ ! -e whole.y4m.fgstate ] || fail "a complete run leaves its state"

interrupt() { # interrupt OUTPUT ARGUMENTS...: a signal once a step is complete
    output=$1
    shift
    WHAT="fgattn generate $* -o $output, interrupted"
    "$FGATTN" generate "$@" -o "$output" >"$SCRATCH/stdout" 2>"$SCRATCH/stderr" &
    job=$!
    tries=0
    until [ -e "$output.fgstate" ] || [ $tries -gt 600 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
    kill -s INT $job
    code=0
    wait $job || code=$?
    [ "$code" -eq 130 ] || fail "exit code $code, wanted 130"
    explained
}

# Long enough not to be over before the signal comes; what is resumed is cut to the same length first.
LONG="--model $TINY --size 128x128 --frames 33 --steps 40 --seed 3 --guidance 1 --prompt x"
interrupt long.y4m $LONG
says "interrupted" "long.y4m.fgstate keeps" "of 40 steps" "--resume"
exists long.y4m.fgstate
[ ! -e long.y4m ] && [ ! -e long.y4m.part ] && [ ! -e long.y4m.fgstate.part ] || fail "left behind: $(ls)"
run 0 generate $LONG -o long.y4m --resume --threads 1
[ ! -e long.y4m.fgstate ] || fail "the state is still there"
run 0 generate $LONG -o again.y4m
same long.y4m again.y4m

# What differs is named; the state is as it was.
interrupt x.y4m $LONG
cp x.y4m.fgstate kept
for change in "prompt:--prompt y" "size:--size 64x128" "frames:--frames 29" "steps:--steps 41" "guidance:--guidance 2" \
    "shift:--shift 4" "seed:--seed 4" "sampler:--sampler euler" "attention:--attention dense" "measure:--measure 0.5" \
    "negative:--negative y"; do
    run 2 generate $LONG -o x.y4m --resume ${change#*:}
    says "x.y4m.fgstate is of another run" "run: ${change%%:*} was"
    same x.y4m.fgstate kept
done
run 1 generate $LONG -o none.y4m --resume
says "nothing to resume" none.y4m.fgstate
run 2 generate $LONG -o x.y4m --resume --capture c.safetensors
says "--capture" "--resume"

# Another checkpoint of the same shape.
cp -r "$TINY" other
chmod -R u+w other
printf ' ' >>other/transformer/config.json
run 2 generate $LONG --model other -o x.y4m --resume
says "model.config was"

# Damage.
head -c 1000 kept >x.y4m.fgstate
run 3 generate $LONG -o x.y4m --resume
says x.y4m.fgstate
(head -c 200000 kept | head -c -1 && printf 'Z' && tail -c +200001 kept) >x.y4m.fgstate
[ "$(wc -c <x.y4m.fgstate)" -eq "$(wc -c <kept)" ] || fail "the damaged copy has another length"
run 3 generate $LONG -o x.y4m --resume
says "x.y4m.fgstate" "damaged"
: >x.y4m.fgstate
run 3 generate $LONG -o x.y4m --resume

# A new run says that it replaces a state, and does.
run 0 generate $CLIP -o x.y4m
says "warning" "x.y4m.fgstate" "--resume"
same x.y4m whole.y4m
