# Comparing videos. Two small ones are written here: y4m, 4:4:4, 16x16, 3 frames of grey.
video() { # video FILE FRAMES BYTE...: one byte of brightness per frame, in octal
    file=$1
    frames=$2
    shift 2
    {
        printf 'YUV4MPEG2 W16 H16 F16:1 Ip A1:1 C444\n'
        while [ "$frames" -gt 0 ]; do
            printf 'FRAME\n'
            head -c 256 /dev/zero | tr '\000' "\\$1"
            head -c 512 /dev/zero | tr '\000' '\200'
            shift
            frames=$((frames - 1))
        done
    } >"$file"
}
video a.y4m 3 100 120 140
video b.y4m 3 100 120 150
video short.y4m 2 100 120

run 0 compare a.y4m a.y4m
prints "16x16, 3 frames" "PSNR           identical" "SSIM           1.0000" frame
run 0 compare a.y4m b.y4m --json -
cp "$SCRATCH/stdout" a.json
json a.json width=number height=number psnr_db=number psnr_moving_db=number ssim=number frames=array
run 0 compare a.y4m b.y4m --summary --plot plot.svg --side-by-side both.y4m --json b.json
same a.json b.json
exists plot.svg both.y4m
grep -q '^<svg .*' plot.svg && grep -q '^</svg>$\|</svg>$' plot.svg || fail "plot.svg is no SVG"
grep -q 'W32 H16' both.y4m || fail "both.y4m is not twice as wide"
[ "$(grep -c '^[0-9]' "$SCRATCH/stdout")" -eq 0 ] || fail "--summary printed frames"

run 3 compare a.y4m short.y4m
says "3 frames" "with 2" short.y4m
run 3 compare a.y4m nowhere.y4m
says nowhere.y4m
head -c 100 a.y4m >cut.y4m
run 3 compare a.y4m cut.y4m
says cut.y4m
echo nonsense >nonsense.y4m
run 3 compare nonsense.y4m a.y4m
says nonsense.y4m
run 1 compare a.y4m b.y4m --plot "$SCRATCH/nowhere/plot.svg"
says nowhere/plot.svg
run 1 compare a.y4m b.y4m --side-by-side "$SCRATCH/nowhere/both.y4m"
says nowhere/both.y4m
run 2 compare a.y4m b.y4m --side-by-side both.avi
says both.avi
# That is found out before anything is read.
for output in --plot --side-by-side --json; do
    run 1 compare nowhere.y4m b.y4m $output "$SCRATCH/nowhere/out.y4m"
    says nowhere/out.y4m
done
[ "$(echo ./*.part)" = "./*.part" ] || fail "left behind: $(ls)"

# The rate is B's, else A's, else 16 a second.
rate() { # rate A B WANTED
    run 0 compare "$1" "$2" --summary --side-by-side both.y4m
    head -n 1 both.y4m | grep -q " F$3 " || fail "both.y4m has another rate: $(head -n 1 both.y4m)"
}
sed '1s/F16:1 //' a.y4m >none.y4m
sed '1s/F16:1/F24:1/' a.y4m >a24.y4m
sed '1s/F16:1/F99999:1/' a.y4m >fast.y4m
rate a24.y4m a.y4m 16:1
rate a24.y4m none.y4m 24:1
rate a24.y4m fast.y4m 24:1
rate none.y4m none.y4m 16:1
# shellcheck disable=SC2086 # $SMALL is words
run 0 generate $SMALL --prompt x -q -o p.png
rate p-0000.png p-0001.png 16:1

# A plot goes to a pipe as it is; a video does not.
mkfifo pipe.y4m
cat pipe.y4m >piped.svg 2>/dev/null &
run 0 compare a.y4m b.y4m --plot pipe.y4m
wait $!
run 0 compare a.y4m b.y4m --plot plot.svg
same piped.svg plot.svg
run 2 compare a.y4m b.y4m --side-by-side pipe.y4m
says "pipe.y4m exists and is not a regular file"
[ -p pipe.y4m ] || fail "the pipe was replaced"

# Ctrl-C while A is read: the signal comes once it was opened, the video after that.
mkdir out
WHAT="fgattn compare pipe.y4m b.y4m, interrupted"
"$FGATTN" compare pipe.y4m b.y4m --json out/c.json --plot out/p.svg --side-by-side out/both.y4m \
    >"$SCRATCH/stdout" 2>"$SCRATCH/stderr" &
job=$!
exec 3>pipe.y4m
kill -s INT $job
cat a.y4m >&3
exec 3>&-
code=0
wait $job || code=$?
[ "$code" -eq 130 ] || fail "exit code $code, wanted 130"
explained
says interrupted
silent stdout
rmdir out || fail "left behind: $(ls out)"
