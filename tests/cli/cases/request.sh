# Requests that the model cannot serve: exit code 2, what it got and what would do, nothing written.
request() {
    run 2 generate --model "$TINY" --prompt x -o x.y4m "$@"
}
request --frames 18
says 18 17 21
request --frames 4
says 4 1 5
request --size 100x64
says 100 96 112
request --size 64x40
says 40 32 48
request --attention nope
says nope dense dfs
request --attention dfs,densety=0.3
says densety
request --attention dfs,density=2
says density
request --attention dfs,density=
says density
request --attention dense --density 0.5
says density
nothing_left
