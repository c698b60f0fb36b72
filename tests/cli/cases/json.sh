# generate --json has exactly the promised keys.
# shellcheck disable=SC2086 # $SMALL is words
figures() { # figures PREFIX RECALL-TYPE SPARSE-TYPE
    for key in wall_s denoise_s attention_s score_s attend_s vae_s text_s tokens steps threads peak_rss_bytes \
        predicted_bytes density_mean steps_dense steps_refresh steps_reuse heads_made_dense refreshes_early measure_s \
        mask_bytes; do
        echo "$1$key=number"
    done
    for key in preset variant dtype; do
        echo "$1$key=string"
    done
    for key in density_sparse cost_sparse; do
        echo "$1$key=$3"
    done
    for key in recall_mean recall_p05 recall_worst output_error_mean output_error_worst; do
        echo "$1$key=$2"
    done
}
# Eight steps: fgdfs is sparse from step ceil(12*8/50) = 2 on.
run 0 generate $SMALL --prompt "a red ball" --steps 8 -o a.y4m --json a.json
json a.json $(figures "" number number)
run 0 generate $SMALL --prompt "a red ball" --steps 8 --measure 0 -q -o a.y4m --json a.json
json a.json $(figures "" null number)
run 0 generate $SMALL --prompt "a red ball" --attention dense -q -o a.y4m --json a.json
json a.json $(figures "" null null)

run 0 generate $SMALL --prompt "a red ball" --steps 8 --versus dense -o b.y4m --json -
says "speedup    denoising" "quality    "
cp "$SCRATCH/stdout" b.json # nothing but the object
json b.json $(figures "" number number) dense=object $(figures dense. null null) speedup=number \
    attention_speedup=number wall_speedup=number psnr_db=number? psnr_moving_db=number? ssim=number

# A dense run is its own dense twin: identical, and the infinite PSNR has no number.
run 0 generate $SMALL --prompt "a red ball" --attention dense --versus dense -o c.y4m --json c.json
prints "identical to the dense video"
grep -q '"ssim":[[:space:]]*1,\{0,1\}$' c.json || fail "ssim of identical videos is not 1"
grep -q '"psnr_db":[[:space:]]*null' c.json || fail "psnr_db of identical videos is not null"
