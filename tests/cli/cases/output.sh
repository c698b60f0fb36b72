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

# The state beside the output: its name is longer, and may be taken.
name=$(printf %0241d 0).y4m
small 1 -o "$name"
says "$name.fgstate: "
mkdir x.y4m.fgstate
for option in --quiet --resume; do
    small 2 -o x.y4m $option
    says "x.y4m.fgstate exists and is not a regular file"
done
rmdir x.y4m.fgstate
nothing_left

# What is in the way of the .part file is not ours to remove.
ln -s "$SCRATCH/nowhere/x" x.y4m.part
small 1 -o x.y4m
says x.y4m.part
[ -L x.y4m.part ] || fail "x.y4m.part was removed"
rm x.y4m.part
nothing_left

# A device or a pipe is never replaced by a file.
mkfifo pipe
small 2 -o x.y4m --capture pipe
says "pipe exists and is not a regular file"
cat pipe >piped.f32 2>/dev/null &
small 0 -o x.y4m --latents pipe
wait $!
small 0 -o x.y4m --latents x.f32
same piped.f32 x.f32
cat pipe >piped.json 2>/dev/null &
small 0 -o x.y4m --json pipe
wait $!
exists piped.json
[ -p pipe ] || fail "the pipe was replaced"
rm pipe piped.f32 piped.json x.f32 x.y4m
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

small 1 -o y.y4m --latents /dev/full
says "cannot write /dev/full"
[ -c /dev/full ] || fail "/dev/full was replaced"
[ ! -e y.y4m ] && [ ! -e y.y4m.part ] || fail "left behind: $(ls)"
rm -f y.y4m.fgstate

# The final latents: 16 channels, 2 frames, 4 x 4, in 32-bit floats; also with a dense twin behind.
small 0 -o x.y4m --attention dfs,density=1 --versus dense --latents x.f32 -q
[ "$(wc -c <x.f32)" -eq $((16 * 2 * 4 * 4 * 4)) ] || fail "x.f32 has another size"
