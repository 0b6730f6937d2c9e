"""``memo VERB --help``: what can be overridden, read off ``conf/``."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import OmegaConf, open_dict

from memo_lightning.config import compose_config, config_dir


def print_help(name: str, text: str, arguments: Sequence[str], verb: str | None = None) -> bool:
    """If help is asked for, print the settings of ``conf/<name>.yaml``, which the verb takes, and return True."""
    if not {"-h", "--help"} & set(arguments):
        return False
    config = compose_config(name, [a for a in arguments if not a.startswith("-")])
    with open_dict(config):
        choices = config.pop("choices", {})
    print(f"usage: memo {verb or name} [override ...]\n\n{text}\n")
    if choices:
        print("groups (override as group=option):")
        for group in choices:
            options = sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))
            print(f"  {group:<12} {', '.join(options)}")
        print()
    print("settings (override as key=value):")
    print("\n".join(f"  {line}" for line in OmegaConf.to_yaml(config).splitlines()))
    return True
