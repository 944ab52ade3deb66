# fish completion for cairn
set -l verbs create remove remove_all load reload suspend resume clear wipe_table rename message info ls deps status table wait targets target-version version mangle splitname help engine format-cache cache probe wipe export unexport events stats
complete -c cairn -f
complete -c cairn -n "not __fish_seen_subcommand_from $verbs" -a "$verbs"
complete -c cairn -n "__fish_seen_subcommand_from cache; and not __fish_seen_subcommand_from check dump flush repair set-uuid info" -a "check dump flush repair set-uuid info"
complete -c cairn -n "__fish_seen_subcommand_from cache; and __fish_seen_subcommand_from check dump flush repair set-uuid info" -F
complete -c cairn -n "__fish_seen_subcommand_from engine" -a "run stop status"
complete -c cairn -n "__fish_seen_subcommand_from format-cache probe wipe create" -F
complete -c cairn -n "__fish_seen_subcommand_from remove load reload suspend resume clear wipe_table rename message info deps status table wait export events stats" -a "(cairn info -c --noheadings -o name 2>/dev/null | string match -v 'No devices found')"
complete -c cairn -l table -x -d "the table"
complete -c cairn -l target -x -a "(cairn targets 2>/dev/null | string split -f1 ' ')"
complete -c cairn -l backing -r -d "the device that is cached"
complete -c cairn -l yes -s y -d "answer yes"
complete -c cairn -l force -s f -d "try harder"
complete -c cairn -l columns -s c
complete -c cairn -l options -s o -x -a "name uuid major minor attr open segments events uri pid target size json"
complete -c cairn -n "__fish_seen_subcommand_from cache" -l keep-dirty -d "keep dirty data"
complete -c cairn -n "__fish_seen_subcommand_from cache" -l drop-dirty -d "give dirty data up"
complete -c cairn -n "__fish_seen_subcommand_from cache" -l read-only -d "only say what would be done"
