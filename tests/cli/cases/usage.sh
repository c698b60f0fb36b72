# A wrong command line: exit code 2, one line that says what is wrong and what to do, nothing written.
run 2
says "no verb given" "--help"
run 2 generete
says "unknown verb generete" "fgattn generate"
run 2 xyzzy
says "unknown verb xyzzy" "--help"
run 2 --verion
says "unknown option --verion"

run 2 generate --promt x
says "unknown option --promt" "did you mean --prompt?"
run 2 generate --steps=4 --zzzzzz
says "unknown option --zzzzzz" "fgattn generate --help"
run 2 generate -x
says "unknown option -x"
run 2 generate --prompt
says "--prompt needs a value"
run 2 generate --prompt --steps 4
says "--prompt needs a value, but --steps follows"
run 2 generate --quiet=yes --prompt x
says "--quiet takes no value"
run 2 generate a ball
says 'unexpected argument "a"'
run 2 generate
says "no --prompt"

run 2 compare one.y4m
says "1 argument missing" "A B"
run 2 compare a b c
says 'unexpected argument "c"'
run 2 verify
says "no --golden"
run 2 doctor --frames 5
says "--model"
nothing_left
