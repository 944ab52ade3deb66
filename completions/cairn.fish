# fish completion for cairn. The command itself knows what may follow: `cairn __complete`.
function __cairn_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l lines (command cairn __complete $words[2..-1] "$current" 2>/dev/null)
    test (count $lines) -gt 1; and printf '%s\n' $lines[2..-1]
    string match -qr '\bfiles\b' -- $lines[1]; and __fish_complete_path "$current"
end
complete -c cairn -f -a '(__cairn_complete)'
