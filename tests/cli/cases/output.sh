# Outputs that cannot be: found before the work starts, one line, nothing left.
# shellcheck disable=SC2086 # $SMALL is words
small() { # small CODE ARGUMENTS...
    code_of_small=$1
    shift
    run "$code_of_small" generate $SMALL --prompt x "$@"
}
small 2 -o video.avi
says video.avi .mp4 .y4m
small 2 -o video
says .mp4
small 1 -o "$SCRATCH/nowhere/x.y4m"
says "nowhere/x.y4m"
small 1 -o x.y4m --json "$SCRATCH/nowhere/x.json"
says "nowhere/x.json"
small 1 -o x.y4m --latents "$SCRATCH/nowhere/x.f32"
says "nowhere/x.f32"
mkdir directory.y4m
small 2 -o directory.y4m
says directory.y4m
rmdir directory.y4m
nothing_left

RUN_PATH=/nowhere
small 1 -o x.mp4
says ffmpeg PATH .apng
small 1
says ffmpeg fgattn.mp4
unset RUN_PATH
nothing_left

if [ "$(id -u)" -ne 0 ]; then # root writes everywhere
    mkdir locked
    chmod a-w locked
    small 1 -o locked/x.y4m
    says locked/x.y4m
    rmdir locked
fi

# The figures do not fit on a full device: an error, though the video is complete.
small 1 -o x.y4m --json /dev/full
says "cannot write /dev/full"
exists x.y4m

# The final latents: 16 channels, 2 frames, 4 x 4, in 32-bit floats; also with a dense twin behind.
small 0 -o x.y4m --attention dfs,density=1 --versus dense --latents x.f32 -q
[ "$(wc -c <x.f32)" -eq $((16 * 2 * 4 * 4 * 4)) ] || fail "x.f32 has another size"
