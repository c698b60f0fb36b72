# Each format, the words, and the streams.
# shellcheck disable=SC2086 # $SMALL is words
run 0 generate $SMALL --prompt "a red ball" -o a.y4m
prints "video      a.y4m: 32x32, 5 frames" "attention  fgdfs" density
says "needs about"
exists a.y4m
[ "$(ls -A)" = a.y4m ] || fail "more than the video was written: $(ls -A)"
[ "$(head -c 9 a.y4m)" = YUV4MPEG2 ] || fail "a.y4m is no y4m"

run 0 generate $SMALL --prompt "a red ball" -o b.y4m --quiet
silent stdout
silent stderr
same a.y4m b.y4m

run 0 generate $SMALL --prompt="a red ball" --output=c.y4m -q --seed=4
cmp -s a.y4m c.y4m && fail "another seed gave the same video"

run 0 generate $SMALL --prompt "a red ball" -q -o p.png
exists p-0000.png p-0004.png
run 0 generate $SMALL --prompt "a red ball" -q -o p.apng
exists p.apng
if command -v ffmpeg >/dev/null; then
    run 0 generate $SMALL --prompt "a red ball" -q -o p.mp4
    exists p.mp4
fi

run 0 generate $SMALL --prompt "" --attention dense --sampler euler --guidance 1 --dtype f32 -o d.y4m
prints "dense: dense throughout"
# Far more memory than there is.
run 4 generate $SMALL --prompt x --size 16384x16384 --frames 4001 -o huge.y4m
says "no memory" "--size"
run 4 generate $SMALL --prompt x --attention dfs --size 8192x8192 --frames 81 -o huge.y4m
says "available" "--size" "--force"
[ ! -e huge.y4m ] && [ ! -e huge.y4m.part ] || fail "something was written"
