# bash completion for cairn. The command itself knows what may follow: `cairn __complete`.
_cairn() {
    local program=cairn rest=${COMP_LINE:0:COMP_POINT} lead piece line flags i cut
    local -a words=() lines=()
    [[ $1 == */* && -x $1 ]] && program=$1
    # bash cuts words at = and :, which options and names have: what no blank parts belongs together.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        lead=${rest%%[![:blank:]]*}
        rest=${rest:${#lead}}
        piece=${COMP_WORDS[i]}
        [[ $i == "$COMP_CWORD" ]] && piece=$rest
        rest=${rest:${#piece}}
        if [[ $i == 0 || -n $lead ]]; then words+=("$piece"); else words[-1]+=$piece; fi
    done
    # What readline replaces starts behind the last = or : of the word.
    cut=$((${#words[-1]} - ${#piece}))
    [[ $piece == [=:] ]] && ((cut++))
    for i in "${!words[@]}"; do words[i]=${words[i]//[\\\"\']/}; done
    mapfile -t lines < <("$program" __complete "${words[@]:1}" 2> /dev/null)
    flags=${lines[0]-}
    COMPREPLY=()
    for line in "${lines[@]:1}"; do
        printf -v line %q "${line%%$'\t'*}"
        COMPREPLY+=("${line:cut}")
    done
    [[ " $flags " == *" nospace "* ]] && compopt -o nospace 2> /dev/null
    if [[ " $flags " == *" files "* ]]; then
        compopt -o filenames 2> /dev/null
        mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "${words[-1]:cut}")
    fi
}
complete -F _cairn cairn
