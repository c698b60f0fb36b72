# Every stage of the tiny pipeline agrees with the reference, and a golden file that is off is noticed.
golden=$ROOT/tests/golden/verify/tiny.safetensors
for dtype in f32 bf16; do
    run 0 verify --model "$TINY" --golden "$golden" --dtype $dtype
    prints stage noise "UniPC sigmas" "Euler timesteps" "token ids" "text encoder" transformer "video decoder"
    [ "$(grep -c ' ok$' "$SCRATCH/stdout")" -eq 9 ] || fail "not nine stages that are ok"
done

# The last kilobyte of the tensors replaced: at least one stage is off, and the program says so.
size=$(wc -c <"$golden")
head -c $((size - 1024)) "$golden" >off.safetensors
head -c 1024 "$golden" >>off.safetensors
run 1 verify --model "$TINY" --golden off.safetensors
prints FAILED
says "further from the golden tensors"

head -c 1000 "$golden" >cut.safetensors
run 3 verify --model "$TINY" --golden cut.safetensors
says cut.safetensors
head -c $((size - 1024)) "$golden" >short.safetensors
run 3 verify --model "$TINY" --golden short.safetensors
says short.safetensors
: >empty.safetensors
run 3 verify --model "$TINY" --golden empty.safetensors
says empty.safetensors
run 3 verify --model "$TINY" --golden nowhere.safetensors
says nowhere.safetensors
run 3 verify --model "$TINY" --golden "$ROOT/tests/golden/vae/tiny-vae.safetensors"
says noise.seed42
