# Every way of asking for help works, on standard output, with examples.
run 0 --help
prints "usage: fgattn" generate tune compare verify doctor bench "exit codes"
silent stderr
run 0 -h
run 0 help
prints "usage: fgattn"
run 0 --version
prints "fgattn 0."

for verb in generate tune compare inspect verify doctor bench; do
    run 0 $verb --help
    prints "usage: fgattn $verb" "examples:" "--help"
    silent stderr
    run 0 help $verb
    prints "usage: fgattn $verb"
    # The manual and the completion know every option that the help knows.
    sed -n 's/^  \(-., \|    \)--\([a-z-]*\).*/\2/p' "$SCRATCH/stdout" >"$SCRATCH/options"
    [ -s "$SCRATCH/options" ] || fail "no options in the help of $verb"
    while read -r option; do
        grep -qE -- "(^|[^a-z])$option([^a-z-]|\$)" "$ROOT/docs/fgattn.1" || fail "--$option of $verb is not in docs/fgattn.1"
        grep -qF -- "--$option" "$ROOT/cli/completion/fgattn.bash" || fail "--$option of $verb is not completed"
    done <"$SCRATCH/options"
done
