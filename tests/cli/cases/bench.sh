# bench attend prints what it promises, in words and as JSON, for every pattern and kernel family.
keys="variant=string dtype=string pattern=string seq=number heads=number head_dim=number block=number tile=number
      remainder=number cost=number gflops_with_summaries=number? fraction_with_summaries=number?
      time_without_summaries_s=number? speed_vs_without=number? remainder_fill_s=number? threads=number density=number time_s=number gflops_effective=number peak_gflops=number? fraction_of_peak=number?
      dense_time_s=number? dense_gflops=number? dense_fraction_of_peak=number? speedup_vs_dense=number?
      clock_ghz=number? peak_per_cycle=number? peak_counted_per_cycle=number? peak_of_counted=number?
      processor_share=number rounds=number rounds_repeated=number"
small="--seq 200 --heads 2 --head-dim 16 --rounds 2"
# shellcheck disable=SC2086 # words
for pattern in random runs blocks; do
    run 0 bench attend $small --pattern $pattern --json out.json
    prints variant time_s gflops_effective dense_time_s speedup_vs_dense "2 heads of 200 tokens x 16, M 64, N 1"
    json out.json $keys
    grep -q '"rounds":[[:space:]]*2' out.json || fail "not two rounds"
done
for dtype in f32 f16 bf16; do
    run 0 bench attend $small --dtype $dtype --variant c --block 16 --tile 8 --sparse-only --json -
    says "variant                   c" "M 16, N 8"
    cp "$SCRATCH/stdout" c.json # nothing but the object
    json c.json $keys
    grep -q '"speedup_vs_dense":[[:space:]]*null' c.json || fail "a speedup without a dense run"
    grep -q '"peak_gflops":[[:space:]]*null' c.json || fail "a peak of plain C"
done
# A neighbour may use the caches all the time; what counts is that rounds are counted.
run 0 bench attend $small --sparse-only --undisturbed --json out.json
prints rounds_repeated
json out.json $keys
# Exactly as many keys of every block as asked for: 50 of 200.
run 0 bench attend $small --density 0.25 --threads 2 --json out.json
grep -q '"density":[[:space:]]*0.25,' out.json || fail "the density is not 0.25"
run 0 bench attend $small --density 1 --pattern runs --json out.json
grep -q '"density":[[:space:]]*1,' out.json || fail "the density is not 1"
# Of 4 groups of 64 keys every block keeps two whole and leaves two to summaries.
run 0 bench attend $small --remainder 16 --json out.json
prints gflops_with_summaries speed_vs_without remainder_fill_s
json out.json $keys
run 0 bench attend --seq 256 --head-dim 16 --rounds 1 --tile 64 --density 0.5 --remainder 64 --json out.json
grep -q '"cost":[[:space:]]*0.5078125,' out.json || fail "the cost is not (2*64 + 2) / 256"
rm -f ./*.json

run 2 bench
says "1 argument missing" "attend"
run 2 bench atend
says "atend" "wanted attend"
run 2 bench attend --density 0
says "--density wants"
run 2 bench attend --block 17
says "block_m is 17"
run 2 bench attend --tile 3
says "tile_n is 3"
run 2 bench attend --remainder 7
says "7"
run 2 bench attend --head-dim 12
says "--head-dim wants a multiple of 8"
run 2 bench attend --variant sse9
says "sse9"
run 2 bench attend --threads 2 --processor-time
says "--processor-time is of one thread"
run 4 bench attend --seq 10000000 --heads 1024 --head-dim 256
says "would be needed"
run 1 bench attend $small --json "$SCRATCH/nowhere/out.json"
says nowhere/out.json
nothing_left
