# The report of a generation and of a capture: one file that stands alone, and all its figures as JSON.
# shellcheck disable=SC2086 # $SMALL is words
policies="dfs+dfs,order=raster,block_m=16,tile_n=1,sub_q=8,sub_k=1"
run 0 inspect $SMALL --prompt 'a <red> & "blue" ball' --capture-steps 1 --policies "$policies" -o a.html --json a.json
prints "report     a.html: 2 captured attentions, " "best possible 128 x 1" "dfs,order=raster"
silent stderr
exists a.html a.json
[ "$(ls -A | wc -l)" -eq 2 ] || fail "more than the report was written: $(ls -A)"
[ "$(head -n 1 a.html)" = "<!DOCTYPE html>" ] && tail -n 2 a.html | grep -q '^</html>$' || fail "a.html is not whole"
for text in 'a &lt;red&gt; &amp; &quot;blue&quot; ball' '<svg' 'data:image/png;base64,iVBOR' 'dfs,order=raster' \
    'What can be proved' '<dt>recall</dt>'; do
    grep -qF -e "$text" a.html || fail "a.html has no $text"
done
for text in '<script' 'http' 'src=' '<red>' 'nan' 'inf<' 'undefined'; do
    grep -qF -e "$text" a.html && fail "a.html has $text"
done
json a.json source=string frames=number height=number width=number tokens=number heads=number head_dim=number \
    scale=number dtype=string sampled_blocks=number sampled_queries=number axes=object axes.m=array axes.n=array \
    axes.recalls=array axes.densities=array axes.run_at_least=array captures=array

# What a generation captures is what its own report is about; at any number of threads.
run 0 generate $SMALL --prompt 'a <red> & "blue" ball' --attention dense -q -o x.y4m --capture x.safetensors \
    --capture-steps 1
run 0 inspect --capture x.safetensors --policies "$policies" -o b.html --json - --threads 3
cp "$SCRATCH/stdout" b.json
says "report     b.html"
sed 1,2d a.json >a.figures
sed 1,2d b.json >b.figures
same a.figures b.figures
grep -qF "Captured attention: x.safetensors" b.html || fail "b.html does not say where it is from"
run 0 inspect --capture x.safetensors --capture-layers last --policies dfs -o c.html -q --blocks 1
silent stdout
grep -qF "1 captured attention of" c.html || fail "c.html is not about one attention"
rm ./*.html ./*.json ./*.figures x.y4m

# What cannot be looked at.
run 2 inspect
says "--capture FILE" "--prompt TEXT"
run 2 inspect --capture x.safetensors --prompt x
says "give one"
run 2 inspect --capture x.safetensors --steps 3
says "--steps is for a generation"
for option in "model $TINY" "negative x" "size 32x32" "frames 5" "guidance 1" "shift 3" "seed 1" "sampler euler" \
    "dtype f32"; do
    # shellcheck disable=SC2086 # two words
    run 2 inspect --capture x.safetensors --$option
    says "--${option%% *} is for a generation"
done
for list in nope dense dfs+ +dfs dfs++dfs dfs,density=2; do
    run 2 inspect --capture x.safetensors --policies "$list" -o x.html
done
run 2 inspect --capture x.safetensors --capture-steps 2
says "--capture-steps wants numbers from 0 to 1"
run 2 inspect --capture x.safetensors --capture-steps 0
says "none of the chosen"
run 3 inspect --capture nowhere.safetensors
says nowhere.safetensors
run 3 inspect --model "$SCRATCH/nowhere" --prompt x
run 1 inspect --capture x.safetensors -o "$SCRATCH/nowhere/x.html"
says nowhere/x.html
run 1 inspect --capture x.safetensors --json "$SCRATCH/nowhere/x.json"
says nowhere/x.json

# Damaged files: cut off, another grid, no capture at all, and one number that is none.
head -c 3000 x.safetensors >cut.safetensors
run 3 inspect --capture cut.safetensors
says cut.safetensors
sed 's/"frames":"2"/"frames":"3"/' x.safetensors >grid.safetensors
run 3 inspect --capture grid.safetensors
says grid.safetensors "frames * height * width"
run 3 inspect --capture "$TINY/vae/diffusion_pytorch_model.safetensors"
says diffusion_pytorch_model.safetensors
capture_file heads.safetensors $((3 * 70000 * 32)) "$ONE_TOKEN$(capture_tensors 0 0 70000 0)}"
run 3 inspect --capture heads.safetensors --policies dfs
says heads.safetensors 70000
capture_file two.safetensors $((9 * 32)) "$ONE_TOKEN$(capture_tensors 0 0 1 0)$(capture_tensors 1 0 2 96)}"
run 3 inspect --capture two.safetensors --policies dfs
says two.safetensors "2 heads"
size=$(wc -c <x.safetensors)
{
    head -c $((size - 4)) x.safetensors
    printf '\000\000\300\177'
} >nan.safetensors
run 3 inspect --capture nan.safetensors --policies dfs
says "v of head" "not finite"
rm ./*.safetensors
nothing_left
