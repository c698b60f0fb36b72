# A profile brings preset and densities; one that is damaged, or another model's, is refused by name.
# shellcheck disable=SC2086 # $SMALL is words
GENERATE="generate $SMALL --prompt ball --steps 8 -q -o a.y4m --json a.json"
cat >p.json <<'END'
{"fgattn_profile": 1, "policy": "dfs,density=0.5,block_m=16,tile_n=1", "model": {"layers": 2},
 "overrides": [{"layers": [1, 1], "settings": "dense=true"}, {"branch": 1, "settings": "density=0.4"}]}
END
run 0 $GENERATE --profile p.json
grep -q '"preset":[[:space:]]*"dfs"' a.json || fail "the profile's preset did not run"
cp a.json profiled.json
run 0 $GENERATE --attention dfs,density=0.5,block_m=16,tile_n=1
[ "$(grep '"density_sparse"' a.json)" != "$(grep '"density_sparse"' profiled.json)" ] || fail "no override took effect"
run 0 $GENERATE --profile p.json --guidance 1 # without a branch 1
run 0 $GENERATE --profile p.json --error 0.2
rm a.json a.y4m profiled.json

refused() { # refused EXIT-CODE TEXT PROFILE
    echo "$3" >p.json
    run "$1" $GENERATE --profile p.json
    says p.json "$2"
}
refused 3 "not valid JSON" '{"fgattn_profile": 1,'
refused 3 fgattn_profile '{}'
refused 3 overides '{"fgattn_profile": 1, "policy": "dfs", "overides": []}'
refused 3 'no preset "best"' '{"fgattn_profile": 1, "policy": "best"}'
refused 3 "is for a model of 30 layers" '{"fgattn_profile": 1, "policy": "dfs", "model": {"layers": 30, "heads": 12, "head_dim": 128}}'
refused 3 "density is 7" '{"fgattn_profile": 1, "policy": "dfs", "overrides": [{"settings": "density=7"}]}'
rm p.json
run 1 $GENERATE --profile p.json
says p.json
nothing_left
