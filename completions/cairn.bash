# bash completion for cairn
_cairn() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= word
    local verbs="create remove remove_all load reload suspend resume clear wipe_table rename message info ls deps status table wait targets target-version version mangle splitname help engine format-cache cache probe wipe export unexport events stats"
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do case $word in -*) ;; *) verb=$word; break ;; esac; done
    case $prev in
        --target) mapfile -t COMPREPLY < <(compgen -W "$(cairn targets 2>/dev/null | cut -d' ' -f1)" -- "$cur"); return ;;
        --io) mapfile -t COMPREPLY < <(compgen -W "auto ring threads" -- "$cur"); return ;;
        -o|--options) mapfile -t COMPREPLY < <(compgen -W "name uuid major minor attr open segments events uri pid target size json" -- "$cur"); return ;;
        --backing) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
    esac
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "--table --notable --concise --persistent --readonly --uuid --minor --foreground --nbd --engine --runtime-dir --io --noflush --nolockfs --inactive --force --retry --deferred --columns --options --sort --select --noheadings --separator --nameprefixes --unquoted --rows --target --tree --exec --setuuid --follow --backing --blocksize --assoc --label --types --yes --keep-dirty --drop-dirty --read-only --json --quiet --verbose --help --version" -- "$cur")
    elif [[ -z $verb ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$verbs" -- "$cur")
    else
        case $verb in
            cache)
                case " ${COMP_WORDS[*]:1:COMP_CWORD-1} " in
                    *" check "*|*" dump "*|*" flush "*|*" repair "*|*" set-uuid "*|*" info "*) mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
                    *) mapfile -t COMPREPLY < <(compgen -W "check dump flush repair set-uuid info" -- "$cur") ;;
                esac ;;
            engine) mapfile -t COMPREPLY < <(compgen -W "run stop status" -- "$cur") ;;
            target-version) mapfile -t COMPREPLY < <(compgen -W "$(cairn targets 2>/dev/null | cut -d' ' -f1)" -- "$cur") ;;
            format-cache|probe|wipe|create) mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
            *) mapfile -t COMPREPLY < <(compgen -W "$(cairn info -c --noheadings -o name 2>/dev/null | grep -v '^No devices found$')" -- "$cur") ;;
        esac
    fi
}
complete -F _cairn cairn
