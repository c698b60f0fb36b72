# bash completion for fgattn

_fgattn() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} verb=${COMP_WORDS[1]:-} words
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "generate tune compare inspect verify doctor bench help --help --version" -- "$word")
        return
    fi
    case $before in
    --sampler) words="unipc euler" ;;
    --dtype)
        words="auto f32 bf16"
        [[ $verb == bench ]] && words="f32 f16 bf16"
        ;;
    --pattern) words="random runs blocks" ;;
    --block) words="16 32 64 128 192" ;;
    --tile) words="1 2 4 8 16 32 64 128" ;;
    --remainder) words="0 8 16 32 64 128 256" ;;
    --head-dim) words="64 80 96 128 256" ;;
    --versus) words="dense" ;;
    --device) words="cpu" ;;
    --attention | -a) words="dense fg-cached fg-cdf dfs dfs-paper subblock sol block-topk sta radial svg fgdfs" ;;
    --variant) words="c avx2 avx512 avx512bf16 amx" ;;
    --size | -s) words="256x256 480x272 832x480 1280x720" ;;
    --frames | -f) words="17 33 49 81" ;;
    --model | -m)
        mapfile -t COMPREPLY < <(compgen -d -- "$word")
        return
        ;;
    --profile | --prompts | --output | -o | --capture | --latents | --json | --golden | --plot | --side-by-side)
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
        ;;
    --prompt | -p | --negative | --seed | --steps | -n | --guidance | --shift | --density | -d | --recall | --error | --quantile | --hold-out | --capture-steps | --capture-layers | --capture-branches | --policies | --blocks | --measure | --threads | -t | --seq | --heads | --rounds)
        return
        ;;
    esac
    if [[ -z ${words:-} ]]; then
        case $verb in
        generate)
            words="--prompt --negative --size --frames --seed --output --model --steps --guidance --shift --sampler
                   --dtype --attention --density --recall --error --profile --measure --versus --threads --variant --device --latents --capture --capture-steps
                   --capture-layers --capture-branches --resume --json
                   --quiet --force --help"
            ;;
        tune)
            words="--recall --error --quantile --attention --prompts --hold-out --capture --model --size --frames --steps
                   --guidance --shift --sampler --seed --measure --output --dtype --threads --variant --quiet --help"
            ;;
        compare) words="--summary --json --plot --side-by-side --threads --help" ;;
        inspect)
            words="--capture --prompt --negative --model --size --frames --steps --seed --guidance --shift --sampler --dtype
                   --capture-steps --capture-layers --capture-branches --policies --blocks --output --json --threads
                   --variant --quiet --help"
            ;;
        verify) words="--golden --model --dtype --threads --variant --help" ;;
        doctor) words="--model --size --frames --help" ;;
        bench)
            words="attend --dtype --seq --heads --head-dim --block --tile --density --pattern --remainder --threads --variant
                   --rounds --sparse-only --processor-time --undisturbed --json --help"
            ;;
        help) words="generate tune compare inspect verify doctor bench" ;;
        esac
        if [[ $verb == compare && $word != -* ]]; then
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            return
        fi
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}

complete -o filenames -F _fgattn fgattn
