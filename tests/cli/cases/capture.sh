# Captured attention inputs: the file, the choice of steps and layers, and choices that cannot be.
# shellcheck disable=SC2086 # $SMALL is words
run 0 generate $SMALL --prompt "a red ball" -o a.y4m --capture a.safetensors --capture-steps last --capture-layers 0,1
says "a.safetensors: 2 captures"
exists a.y4m a.safetensors
for tensor in step.1.layer.0.branch.0.q step.1.layer.1.branch.0.v; do
    head -c 4000 a.safetensors | grep -qaF "\"$tensor\"" || fail "no $tensor in a.safetensors"
done
head -c 4000 a.safetensors | grep -qaF step.0 && fail "step 0 was captured too"
# Without looking the video is the same; a dense twin captures nothing.
run 0 generate $SMALL --prompt "a red ball" -o b.y4m -q
same a.y4m b.y4m
run 0 generate $SMALL --prompt "a red ball" -o b.y4m -q --capture b.safetensors --capture-steps 1-1 --versus dense
same a.safetensors b.safetensors

bad() {
    run 2 generate $SMALL --prompt x -o x.y4m "$@"
}
rm ./*
bad --capture x.st --capture-steps 2
says '--capture-steps wants numbers from 0 to 1 such as 0,1, a range, last or all, got "2"'
for list in -1 1-0 0, 0-, a 0x 0,,1 lastly all,0 99999999999999999999; do
    bad --capture x.st "--capture-steps=$list"
    says --capture-steps "$list"
done
bad --capture x.st --capture-layers 2
says --capture-layers
bad --capture x.st --guidance 1 --capture-branches 1
says --capture-branches
bad --capture-steps 1
says "no --capture FILE"
run 1 generate $SMALL --prompt x -o x.y4m --capture "$SCRATCH/nowhere/x.st"
says nowhere/x.st
nothing_left
