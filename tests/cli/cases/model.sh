# Models that are none, or damaged: exit code 3, the file and what was expected, nothing written.
run 3 generate --model "$SCRATCH/nowhere" --prompt x -o x.y4m
says "nowhere"
run 3 generate --model "$TINY/model_index.json" --prompt x -o x.y4m
says "is a file"
mkdir "$SCRATCH/empty"
run 3 generate --model "$SCRATCH/empty" --prompt x -o x.y4m
says "$SCRATCH/empty"

copy() { # a fresh copy of the tiny pipeline in $SCRATCH/model
    rm -rf "$SCRATCH/model"
    cp -R "$TINY" "$SCRATCH/model"
    chmod -R u+w "$SCRATCH/model"
}
weights=transformer/diffusion_pytorch_model.safetensors

copy
head -c 100000 "$TINY/$weights" >"$SCRATCH/model/$weights" # tensors cut off
run 3 generate --model "$SCRATCH/model" --prompt x -o x.y4m
says "$weights"
head -c 20 "$TINY/$weights" >"$SCRATCH/model/$weights" # header cut off
run 3 generate --model "$SCRATCH/model" --prompt x -o x.y4m
says "$weights"
: >"$SCRATCH/model/$weights"
run 3 generate --model "$SCRATCH/model" --prompt x -o x.y4m
says "$weights"
rm "$SCRATCH/model/$weights"
run 3 generate --model "$SCRATCH/model" --prompt x -o x.y4m
says transformer

copy
echo '{"num_layers": ' >"$SCRATCH/model/transformer/config.json"
run 3 generate --model "$SCRATCH/model" --prompt x -o x.y4m
says transformer/config.json
copy
sed 's/"num_layers": *[0-9]*/"num_layers": 3/' "$TINY/transformer/config.json" >"$SCRATCH/model/transformer/config.json"
run 3 generate --model "$SCRATCH/model" --prompt x -o x.y4m
says blocks.2.
copy
rm -r "$SCRATCH/model/vae"
run 3 doctor --model "$SCRATCH/model"
says vae
nothing_left
