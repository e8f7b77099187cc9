"""Completion for shells: a script that knows verbs and their options, and starts no program."""

from collections.abc import Mapping, Sequence

SHELLS = ("bash", "zsh", "fish")

_BASH = """\
_mirror() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} words
    if ((COMP_CWORD == 1)); then
        words='{verbs} --help --version'
    else
        case ${{COMP_WORDS[1]}} in
{cases}
        esac
    fi
    if ((COMP_CWORD == 1)) || [[ $current == -* || $COMP_CWORD$words == 2[!-]* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    else
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    fi
}}
complete -o filenames -F _mirror mirror
"""

_ZSH = """\
#compdef mirror
_mirror() {{
    local -a wanted
    if ((CURRENT == 2)); then
        wanted=({verbs} --help --version)
        compadd -a wanted
        return
    fi
    case $words[2] in
{cases}
    esac
    if [[ $PREFIX == -* || $CURRENT$wanted[1] == 3[^-]* ]]; then compadd -a wanted; else _files; fi
}}
compdef _mirror mirror
"""


def script(shell: str, verbs: Mapping[str, Sequence[str]]) -> str:
    """What one of `SHELLS` reads; `verbs` with the options of each, after verbs of its own."""
    if shell == "fish":
        return "".join(_fish(verbs))
    cases = {
        "bash": "\n".join(f"{' ' * 12}{it}) words='{' '.join(of)}' ;;" for it, of in verbs.items()),
        "zsh": "\n".join(f"{' ' * 8}{it}) wanted=({' '.join(of)}) ;;" for it, of in verbs.items()),
    }
    template = _BASH if shell == "bash" else _ZSH
    return template.format(verbs=" ".join(verbs), cases=cases[shell])


def _fish(verbs: Mapping[str, Sequence[str]]) -> Sequence[str]:
    found = [f"complete -c mirror -n __fish_use_subcommand -f -a '{' '.join(verbs)}'\n"]
    for verb, words in verbs.items():
        found += [
            f"complete -c mirror -n '__fish_seen_subcommand_from {verb}' "
            + (f"-l {word[2:]}\n" if word.startswith("--") else f"-f -a {word}\n")
            for word in words
        ]
    return found
