"""``memo completion bash|zsh``: shell completion of verbs, groups, options and settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from memo_lightning.cli.main import VERBS
from memo_lightning.config import compose_config, config_dir, group_options, setting_names
from memo_lightning.errors import UserError, require

HELP = """usage: memo completion SHELL, with SHELL bash or zsh

Prints the shell's completion script for verbs, settings and options:

  bash   eval "$(memo completion bash)"      # in ~/.bashrc
  zsh    eval "$(memo completion zsh)"       # in ~/.zshrc, after compinit"""
_SETTINGS_OF = {"check-env": "train", "check-memory": "train"}  # verbs that take the settings of another
# `=` and `:` are not word breaks here, so that group=option is one word.
_BASH = """_memo_complete() {
    local IFS=$'\\n' word="${COMP_LINE:0:COMP_POINT}"
    word="${word##* }"
    COMPREPLY=($(memo completion words "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    if [[ $word == *=* ]]; then COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}"); fi
}
complete -o default -F _memo_complete memo"""
_ZSH = """_memo_complete() {
    local -a found
    found=("${(@f)$(memo completion words "$BUFFER[1,$CURSOR]" 2>/dev/null)}")
    compadd -S '' -- $found
}
compdef _memo_complete memo"""


def main(arguments: Sequence[str]) -> None:
    """Print the shell's completion script or, when called by it, the words that fit."""
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return
    shell, *rest = arguments or ["?"]
    if shell == "words":
        print("\n".join(completions(rest[0] if rest else "memo ")))
        return
    require(shell in ("bash", "zsh"), "shell", shell, "bash or zsh: memo completion bash")
    print(_BASH if shell == "bash" else _ZSH)


def completions(line: str) -> list[str]:
    """Return the possible completions of a command line up to the cursor, e.g. ``memo train baseline=l``."""
    _, *words = line.split()
    if line.endswith(" "):
        words.append("")
    if len(words) <= 1:
        return _fitting(words[0] if words else "", VERBS)
    verb, *overrides, word = words
    return _fitting(word, _words(verb, overrides, word))


def _words(verb: str, overrides: Sequence[str], word: str) -> Iterator[str]:
    if verb == "completion":
        yield from ("bash", "zsh")
        return
    verb = _SETTINGS_OF.get(verb, verb)
    if not (config_dir() / f"{verb}.yaml").is_file():
        return
    key = word.partition("=")[0]
    if "=" in word:
        yield from (f"{key}={option}" for option in group_options(key))
        return
    if verb == "reproduce":
        yield from (path.stem for path in (config_dir() / "reproduce").glob("*.yaml"))
    if verb == "sweep" and not overrides:
        yield from (str(path) for path in Path("sweeps").glob("*.yaml"))
    known = []
    with contextlib.suppress(UserError):  # an override may be unfinished: complete without it
        known = setting_names(compose_config(verb, [o for o in overrides if "=" in o]))
    known = known or setting_names(compose_config(verb))
    if verb == "sweep":  # settings that are not the study's are those of memo train
        known += setting_names(compose_config("train"))
    if verb == "evaluate":  # it can change settings of training
        known += [name for name in setting_names(compose_config("train")) if name.startswith(("env.", "model."))]
    if verb in ("train", "sweep"):
        folders = [path for path in config_dir().rglob("*") if path.is_dir() and path.name != "reproduce"]
        known = [*known, *(folder.relative_to(config_dir()).as_posix() for folder in folders)]
    yield from (f"{name}=" for name in known)


def _fitting(word: str, words: object) -> list[str]:
    return sorted({candidate for candidate in words if candidate.startswith(word)})  # type: ignore[attr-defined]
