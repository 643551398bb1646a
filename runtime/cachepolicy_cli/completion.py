"""``mc completion``: words for a shell, made from the options themselves."""

from __future__ import annotations

import argparse

from cachepolicy_cli.failure import Exit

_SCRIPT = """\
# source <(mc completion bash)
_mc() {{
  local words="${{COMP_WORDS[*]:1:COMP_CWORD-1}}" cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}"
  case "$prev" in
    *-file|--state) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    --kind) COMPREPLY=($(compgen -W "responses embeddings" -- "$cur")); return ;;
  esac
  case " $words " in
{cases}
    *) COMPREPLY=($(compgen -W "{areas}" -- "$cur")) ;;
  esac
}}
complete -F _mc mc
"""


def add(verb: argparse.ArgumentParser, root: argparse.ArgumentParser) -> None:
    verb.add_argument("shell", choices=("bash", "zsh"))
    verb.set_defaults(run=lambda options: run(options.shell, root))


def run(shell: str, root: argparse.ArgumentParser) -> Exit:
    areas = verbs(root)
    cases = [
        f'    *" {verb} "*) COMPREPLY=($(compgen -f -W "{" ".join(options(parser))}" -- "$cur")) ;;'
        for verb, parser in verbs(areas["cache"]).items()
    ]
    cases.append(
        f'    *" cache "*) COMPREPLY=($(compgen -W "{" ".join(verbs(areas["cache"]))}" -- "$cur")) ;;'
    )
    if shell == "zsh":
        print("autoload -U +X bashcompinit && bashcompinit")
    print(_SCRIPT.format(cases="\n".join(cases), areas=" ".join([*areas, *options(root)])), end="")
    return Exit.OK


def verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def options(parser: argparse.ArgumentParser) -> list[str]:
    return [word for action in parser._actions for word in action.option_strings if word.startswith("--")]
