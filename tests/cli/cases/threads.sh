# The same seed gives the same bytes at any number of threads, sparse and dense, in f32 and bf16.
# shellcheck disable=SC2086 # $SMALL is words
for how in "dfs,density=0.5 f32" "dfs,density=0.5 bf16" "dense f32"; do
    preset=${how% *}
    dtype=${how#* }
    for threads in 1 2 3; do
        run 0 generate $SMALL --size 64x48 --prompt "a blue square" --steps 4 --attention "$preset" --dtype "$dtype" \
            --threads $threads -q -o "$threads.y4m"
    done
    same 1.y4m 2.y4m
    same 1.y4m 3.y4m
done
