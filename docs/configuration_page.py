"""The page of all settings, made of `conf/`: what each means, its type, its default and what it may be."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
CLAIMS = "reproduce"  # what memo reproduce tests, and no group of settings
WHOLE_FILES = ("experiment", "debug", CLAIMS)  # their settings are those of other files: shown as they are
_LINE = re.compile(r"(?P<indent> *)(?P<key>[\w-]+):(?P<value>.*?)(?: +# *(?P<comment>.*))?")
_WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text", list: "list", dict: "settings"}
_INSIDE = object()
_BELOW = "those below"  # the default of a mapping
_EXAMPLE = re.compile(r"(?P<lead>.*?)(?P<command>memo [\w-]+ (?:(?!: ).)*)")
_ALLOWED = {bool: "`true`, `false`"}
_MUST_BE = re.compile(r'"(?:\w+\.)?(\w+)=\{[^}]*\}: must be ([^"{]+)"')
# Modules that check the settings of commands, which have no class to look at.
_CHECKED_BY = {
    "evaluate": ("evaluation.evaluate",),
    "export": ("deployment.export",),
    "serve": ("cli.serve", "serving.server"),
    "benchmark": ("benchmarks.plan",),
    "sweep": ("sweeps.study_file",),
    "reproduce": ("reproduction.reproduce",),
    "ui": ("cli.ui",),
    "train": ("data.rollouts",),
}
_NUMBER, _PATH = ("whole number or null", ""), ("path or null", "")
_GENERIC = {
    "_target_": "the class to build; it may be one of your own",
    "target": "the class of the memory",
    "dataset": "the houses and placements to generate",
    "optimizer": "the optimizer and its settings",
}
_CHOICES = {
    "split": "`train`, `held_out`, `all`",
    "device": "`cpu`, `cuda`",
    "format": "`onnx`, `torch`",
    "scale": "`quick`, `paper`",
    "same_task": "`none`, `seed`, `option`",
    "strategy": "`auto`, `ddp`, or another strategy of Lightning",
    "accelerator": "`cpu`, `gpu`",
}
# What neither the value nor the code that reads it tells: by file and setting.
_KNOWN = {
    "evaluate.bin_steps": _NUMBER,
    "evaluate.memory_budget": _NUMBER,
    "evaluate.split": ("text", "`train`, `held_out`, `all`; in houses `train`, `held_out_placements`, `held_out`"),
    "export.memory_budget": _NUMBER,
    "serve.memory_budget": _NUMBER,
    "sweep.prune_every": _NUMBER,
    "sweep.pruner": ("settings or null", "a class of `optuna.pruners` with its settings"),
    "benchmark.memories": ("list or null", "`memo`, the options of the group `baseline`, and the names in `arms`"),
    "benchmark.precision": ("text", "`float32`, `bfloat16`"),
    "export-houses.split": ("text", "`train`, `held_out_placements`, `held_out`"),
    "export-houses.dataset.n_houses": _NUMBER,
    "ext_objnav.split": ("text", "`train`, `held_out_placements`, `held_out`"),
    "ext_objnav.dataset.n_houses": _NUMBER,
    "ext_objnav.simulator": ("text", "`house_sim`, `habitat_sim`"),
    "ext_objnav.engine": ("text", "`batched`, `habitat`"),
    "ext_objnav.position_frame": ("text", "`trial`, `house`"),
    "ext_objnav.sensors": ("list", "`rgb`, `depth`, `columns`"),
    "ext_objnav.image_size": ("whole number", "between 64 and 256"),
    "cpu.precision": ("text or null", "`32`, `bf16-mixed`, `16-mixed`"),
    **{f"{verb}.run_dir": _PATH for verb in ("train", "evaluate", "benchmark", "register", "sweep")},
    **{f"{verb}.out": _PATH for verb in ("export", "package")},
    "train.resume": _PATH,
    "serve.token": _PATH,
    "package.evaluation": _PATH,
}


@dataclass
class Setting:
    """One line of a YAML file.

    Attributes:
        name: with dots, as far as it lies in the file.
        default: as it is written.
        comment: what the file says of it.
        kind: its type, in words.
        allowed: what it may be, in words; empty where nothing is known beyond the type.
    """

    name: str
    default: str
    comment: str
    kind: str = ""
    allowed: str = ""


@dataclass
class Described:
    """One YAML file: what it says of itself, and its settings."""

    text: str
    settings: list[Setting] = field(default_factory=list)


def configuration_page() -> str:
    """Return the page."""
    parts = [
        "# Configuration\n",
        "Every setting of every command, generated from the files in `conf/`. Change a setting with `key=value`, and "
        "choose a file of a group with `group=file`:\n",
        "```bash\nmemo train algorithm.learning_rate=3e-4 baseline=lstm\nmemo train --help\n```\n",
        "The name of a group prefixes its settings: `gamma` in the group `algorithm` is `algorithm.gamma`. A default "
        "of `${...}` follows another setting; `null` means that nothing is set. A class path (`_target_`) may name a "
        "class of your own.\n",
    ]
    for path in sorted(CONF.glob("*.yaml")):
        parts.append(f"## memo {path.stem}\n\n{_described(path, '')}")
    for folder in sorted(path for path in CONF.rglob("*") if path.is_dir()):
        parts += _group(folder)
    parts.append("## Studies\n")
    parts += [f"### {path.stem}\n\n{_yaml(path)}" for path in sorted((ROOT / "sweeps").glob("*.yaml"))]
    return "\n".join(parts)


def _group(folder: Path) -> Iterator[str]:
    group, options = folder.relative_to(CONF).as_posix(), sorted(folder.glob("*.yaml"))
    names = ", ".join(f"`{option.stem}`" for option in options)
    if group == CLAIMS:
        yield f"## Claims\n\nOne of {names}: `memo reproduce {options[0].stem}`.\n"
    else:
        yield f"## Group {group}\n\nOne of {names}: `memo train {group}={options[0].stem}`.\n"
    for option in options:
        body = _yaml(option) if group in WHOLE_FILES else _described(option, f"{group.replace('/', '.')}.")
        yield f"### {group}={option.stem}\n\n{body}"


def _described(path: Path, prefix: str) -> str:
    described = read_settings(path)
    lines = [described.text, ""] if described.text else []
    for setting in described.settings:
        facts = (
            [setting.kind, f"default `{setting.default}`"] if setting.default != _BELOW else ["settings, listed below"]
        )
        facts += [f"allowed: {setting.allowed}"] if setting.allowed else []
        lines += [f"`{prefix}{setting.name}`", f":   {_sentence(setting.comment)}*{'; '.join(facts)}*", ""]
    if not described.settings:
        lines += ["No settings of its own.", ""]
    return "\n".join(lines)


def read_settings(path: Path) -> Described:
    """Return what a file of `conf/` says, with types and allowed values from the class that it names."""
    text, settings, stack, defaults = [], list[Setting](), list[tuple[int, str]](), False
    values: Mapping[str, Any] = yaml.safe_load(path.read_text()) or {}
    inherited: dict[str, Setting] = {}
    for other in values.get("defaults", []):
        if isinstance(other, str) and other != "_self_" and path.parent != CONF:
            inherited |= {setting.name: setting for setting in read_settings(path.with_name(f"{other}.yaml")).settings}
    for line in path.read_text().splitlines():
        if line.startswith("#") and not settings:
            text.append(line[1:])
        if line.startswith("defaults:"):
            defaults = True
        found = _LINE.fullmatch(line)
        if found is None or (defaults and line.startswith((" ", "defaults:"))):
            continue
        defaults = False
        stack = [(depth, key) for depth, key in stack if depth < len(found["indent"])]
        stack.append((len(found["indent"]), found["key"]))
        keys = [key for _, key in stack]
        name, default = ".".join(keys), found["value"].strip()
        if keys[-1] == "_partial_" or keys == ["_target_"]:
            continue
        value: Any = values
        for key in keys:
            value = value.get(key, _INSIDE) if isinstance(value, dict) else _INSIDE
        if value is _INSIDE:  # a line of a list
            continue
        if isinstance(value, dict) and value:
            default = _BELOW
        elif isinstance(value, list) and not default:
            default = str(value)
        setting = Setting(name, default, found["comment"] or "")
        base = inherited.get(name)
        _add_type(setting, value, _class_of(values, keys), keys[-1], path.stem)
        if base is not None:
            setting.comment = setting.comment or base.comment
            setting.kind, setting.allowed = base.kind, setting.allowed or base.allowed
        settings.append(setting)
    return Described(_paragraphs(text), settings)


def _paragraphs(lines: list[str]) -> str:
    """Return what a file says of itself, its examples in lines of their own."""
    shown: list[str] = []
    for line in lines:
        example = _EXAMPLE.fullmatch(line.strip())
        lead = example["lead"].strip() if example else ""
        if example and (not lead or lead.endswith(":")):
            shown += ["", *([_escaped(lead), ""] if lead else []), f"`{example['command']}`", ""]
        elif line.startswith("  ") and shown[-1:] == [""] and shown[-2].startswith("`"):  # the rest of a command
            shown[-2] = f"{shown[-2][:-1]} {line.strip()}`"
        else:
            shown.append(_escaped(line.strip()))
    return "\n".join(shown).strip()


def _escaped(text: str) -> str:
    return re.sub(r"([*_\[\]`])", r"\\\1", text).replace("<", "&lt;").replace(">", "&gt;")


def _class_of(values: Mapping[str, Any], keys: list[str]) -> Any:
    """Return the class or function that gets a setting, if the file names one."""
    target, node = values.get("_target_"), values
    for key in keys[:-1]:
        node = node[key]
        target = node.get("_target_") if isinstance(node, dict) else None
    if values.get("target") and len(keys) == 1:  # a baseline hands its settings to its memory
        target = values["target"]
    if not target:
        return None
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _add_type(setting: Setting, value: Any, target: Any, key: str, file: str) -> None:
    hint = _hints(target).get(key)
    if hint is not None:
        setting.kind, setting.allowed = _in_words(hint)
    setting.kind, known = _KNOWN.get(f"{file}.{setting.name}", (setting.kind, setting.allowed))
    setting.allowed = known or setting.allowed
    if not setting.kind:
        follows = isinstance(value, str) and value.startswith("${") and not value.startswith("${oc.env")
        setting.kind = (
            "text or null" if value is None else "same as the other setting" if follows else _WORDS[type(value)]
        )
        setting.allowed = _ALLOWED.get(type(value), setting.allowed)
    modules = [] if target is None else _modules(target)
    if "." not in setting.name:
        modules += [f"memo_lightning.{name}" for name in _CHECKED_BY.get(file, ())]
    setting.allowed = setting.allowed or _checks(tuple(modules)).get(key, "") or _CHOICES.get(key, "")
    if not setting.comment:
        setting.comment = (
            _GENERIC.get(key, "") if target is None else _arguments(target).get(key, _GENERIC.get(key, ""))
        )


def _hints(target: Any) -> dict[str, Any]:
    """Return the annotations of the arguments of a class and its bases, or of a function."""
    found: dict[str, Any] = {}
    functions = (
        [c.__init__ for c in reversed(target.__mro__)] if inspect.isclass(target) else [target] if target else []
    )
    for function in functions:
        try:
            found |= typing.get_type_hints(function)
        except (NameError, TypeError, AttributeError):  # annotations that exist for type checkers only
            continue
    return found


def _in_words(hint: Any) -> tuple[str, str]:
    """Return a type in words, and the values that it lists."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "text", ", ".join(f"`{a}`" for a in arguments)
    if origin in (Union, types.UnionType):
        kinds = [_in_words(a) for a in arguments if a is not type(None)]
        words = [kind for kind, _ in kinds if kind]
        words += ["null"] if type(None) in arguments and words else []
        return " or ".join(dict.fromkeys(words)), ", ".join(values for _, values in kinds if values)
    kind = origin or hint
    if kind is Path:
        return "path", ""
    if inspect.isclass(kind) and kind not in _WORDS:
        if issubclass(kind, Mapping):
            return "settings", ""
        return ("list", "") if issubclass(kind, typing.Sequence) else ("", "")  # type: ignore[arg-type]
    return _WORDS.get(kind, ""), _ALLOWED.get(kind, "")


def _modules(target: Any) -> list[str]:
    """Return the modules of a class and its bases, or of a function, the bases first."""
    names = [c.__module__ for c in reversed(target.__mro__)] if inspect.isclass(target) else [target.__module__]
    return [name for name in dict.fromkeys(names) if name.startswith("memo_lightning")]


@cache
def _checks(modules: tuple[str, ...]) -> dict[str, str]:
    """Return what the code that reads settings says they must be, by the last part of their names."""
    found: dict[str, str] = {}
    for name in modules:
        source = Path(inspect.getsourcefile(importlib.import_module(name)) or "").read_text()
        here: dict[str, str] = {}
        loops = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.For)]
        for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id == "require" and isinstance(call.args[3], ast.Constant):
                for key in _keys(call, loops):
                    here.setdefault(key, str(call.args[3].value))
        for key, text in _MUST_BE.findall(re.sub(r'"\s*\n\s*f?"', "", source)):
            here.setdefault(key, text)
        found |= here
    return found


def _keys(call: ast.Call, loops: list[ast.For]) -> list[str]:
    """Return the settings that a call of ``require`` checks, those of a loop over names included."""
    field = call.args[1]
    if isinstance(field, ast.Constant):
        return [str(field.value).rpartition(".")[2]]
    for loop in loops:
        if loop.lineno <= call.lineno <= (loop.end_lineno or 0):
            names = (
                loop.iter.func.value
                if isinstance(loop.iter, ast.Call) and isinstance(loop.iter.func, ast.Attribute)
                else loop.iter
            )
            listed = names.keys if isinstance(names, ast.Dict) else names.elts if isinstance(names, ast.Tuple) else []
            return [str(name.value) for name in listed if isinstance(name, ast.Constant)]
    return []


def _arguments(target: Any) -> dict[str, str]:
    """Return what docstrings say of the arguments of a class and its bases, or of a function."""
    found: dict[str, str] = {}
    for one in reversed(target.__mro__) if inspect.isclass(target) else [target]:
        section = re.search(r"Args:\n((?:    .*\n|\n)*)", f"{inspect.cleandoc(one.__doc__ or '')}\n")
        for name, text in re.findall(
            r"^    (\w+): ((?:.*\n)(?:^        .*\n)*)", section[1] if section else "", re.MULTILINE
        ):
            plain = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", text.replace("``", ""))
            found[name] = " ".join(plain.split()).rstrip(".")
    return found


def _sentence(comment: str) -> str:
    """Return a comment as a sentence; one that begins with a value keeps its first letter."""
    if not re.match(r"[\w\\]+(:|,.*:) ", comment):
        comment = f"{comment[:1].upper()}{comment[1:]}"
    return f"{_escaped(comment)}. " if comment else ""


def _yaml(path: Path) -> str:
    return f"```yaml\n{path.read_text().strip()}\n```\n"
