# tune writes a profile that generate takes, and says how well it holds; what it cannot do it says before it starts.
printf 'a red ball\n\na blue square\r\nthe last one' >prompts.txt
TUNE="tune --model $TINY --size 32x32 --frames 5 --steps 6 --seed 3 --attention dfs,block_m=16,tile_n=1,sub_k=1"
# shellcheck disable=SC2086 # words
run 0 $TUNE --recall 0.9 --prompts prompts.txt -o p.json
prints "on 2 prompts" "recall 0.9, no head below 0.7" "tuned on" "held out" "untuned"
json p.json fgattn_profile=number policy=string model=object tuned=object measured=object overrides=array
cp p.json first.json
# shellcheck disable=SC2086
run 0 $TUNE --recall 0.9 --prompts prompts.txt -o p.json -q --threads 1
silent stdout
same p.json first.json # whatever the number of threads
# shellcheck disable=SC2086
run 0 generate $SMALL --steps 6 --prompt "a red ball" --profile p.json -q -o a.y4m
exists a.y4m
# shellcheck disable=SC2086
run 0 $TUNE --error 0.05 --prompts prompts.txt --hold-out 0 -o p.json
prints "at most 0.05" "is not known"

# shellcheck disable=SC2086
run 0 generate $SMALL --steps 6 --prompt "a red ball" --capture c.safetensors -q -o a.y4m
run 0 tune --capture c.safetensors --error 0.2 --attention dfs,block_m=16,tile_n=1,sub_k=1 -o p.json
prints "on c.safetensors" "is not known"
for option in "hold-out 1" "prompts prompts.txt" "model $TINY" "size 32x32" "frames 5" "steps 6" "guidance 1" "shift 3" \
    "sampler euler" "seed 1" "dtype f32"; do
    # shellcheck disable=SC2086 # two words
    run 2 tune --capture c.safetensors --error 0.2 --$option
    says "leave --${option%% *} out"
done

# What is wrong with a capture is bad data, as for inspect.
run 3 tune --capture nowhere.safetensors --error 0.2
says nowhere.safetensors
capture_file two.safetensors $((9 * 32)) "$ONE_TOKEN$(capture_tensors 0 0 1 0)$(capture_tensors 1 0 2 96)}"
run 3 tune --capture two.safetensors --error 0.2
says two.safetensors "2 heads"
capture_file branch.safetensors 96 "$ONE_TOKEN$(capture_tensors 0 2 1 0)}"
run 3 tune --capture branch.safetensors --error 0.2
says branch.safetensors "branch 2"
rm -f two.safetensors branch.safetensors
rm -f p.json first.json a.y4m c.safetensors

run 2 tune
says "--recall R or --error E"
run 2 tune --recall 0.9 --attention dense
says "cannot be tuned"
run 2 tune --recall 0.9 --attention nothing
says "no preset"
run 2 tune --recall 0.9 --prompts prompts.txt --hold-out 3
says "leaves none to tune on"
run 1 tune --recall 0.9 --prompts nowhere.txt
says nowhere.txt
# Before the minutes that this would take.
run 1 tune --recall 0.9 -o "$SCRATCH/nowhere/p.json"
says nowhere/p.json
mkfifo pipe
run 2 tune --recall 0.9 -o pipe
says "pipe exists and is not a regular file"
[ -p pipe ] || fail "the pipe was replaced"
rm pipe
: >prompts.txt
run 3 tune --recall 0.9 --prompts prompts.txt
says "no prompt"
rm prompts.txt
nothing_left
