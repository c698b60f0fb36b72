# Output that cannot be written is an error, not silence.
for arguments in doctor --help "generate --help"; do
    WHAT="fgattn $arguments > /dev/full"
    code=0
    # shellcheck disable=SC2086 # the arguments are words
    "$FGATTN" $arguments >/dev/full 2>"$SCRATCH/stderr" || code=$?
    [ "$code" -eq 1 ] || fail "exit code $code, wanted 1"
    says "cannot write to standard output"
done
