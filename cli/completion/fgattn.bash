# bash completion for fgattn

_fgattn() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} verb=${COMP_WORDS[1]:-} words
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "generate compare verify doctor help --help --version" -- "$word")
        return
    fi
    case $before in
    --sampler) words="unipc euler" ;;
    --dtype) words="auto f32 bf16" ;;
    --versus) words="dense" ;;
    --device) words="cpu" ;;
    --attention | -a) words="dense dfs" ;;
    --variant) words="c avx2 avx512 avx512bf16" ;;
    --size | -s) words="256x256 480x272 832x480 1280x720" ;;
    --frames | -f) words="17 33 49 81" ;;
    --model | -m)
        mapfile -t COMPREPLY < <(compgen -d -- "$word")
        return
        ;;
    --output | -o | --capture | --latents | --json | --golden | --plot | --side-by-side)
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
        ;;
    --prompt | -p | --negative | --seed | --steps | -n | --guidance | --shift | --density | -d | --measure | --threads | -t)
        return
        ;;
    esac
    if [[ -z ${words:-} ]]; then
        case $verb in
        generate)
            words="--prompt --negative --size --frames --seed --output --model --steps --guidance --shift --sampler
                   --dtype --attention --density --measure --versus --threads --variant --device --latents --capture --capture-steps
                   --capture-layers --capture-branches --json
                   --quiet --force --help"
            ;;
        compare) words="--summary --json --plot --side-by-side --threads --help" ;;
        verify) words="--golden --model --dtype --threads --variant --help" ;;
        doctor) words="--model --size --frames --help" ;;
        help) words="generate compare verify doctor" ;;
        esac
        if [[ $verb == compare && $word != -* ]]; then
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            return
        fi
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}

complete -o filenames -F _fgattn fgattn
