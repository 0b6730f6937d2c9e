"""What mkdocs makes of the project itself: the configuration and API reference, and the order of the pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "memo_lightning"
CLAIMS = "reproduce"  # what memo reproduce tests, and no group of settings
# Pages in the order they are read; any other page in docs/ follows under its own title.
SECTIONS = {
    "Guide": ["index.md", "concepts.md", "tasks.md", "recipe.md", "ext_objnav.md", "performance.md", "results.md"],
    "How to": [
        "how-to/use-a-policy.md",
        "how-to/export.md",
        "how-to/serve.md",
        "how-to/share.md",
        "how-to/look-inside.md",
        "how-to/own-environment.md",
        "how-to/own-memory.md",
        "how-to/choose-an-algorithm.md",
        "studies.md",
        "tracking.md",
        "scaling.md",
        "notebooks.md",
    ],
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lay out the pages that there are."""
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    others = sorted(set(pages).difference(*SECTIONS.values()))
    config.nav = [
        *({title: section} for title, section in SECTIONS.items()),
        *([{"More": others}] if others else []),
        {"Reference": ["reference/configuration.md", {"API": [f"reference/{name}.md" for name in _packages()]}]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of the code and of ``conf/``, and the results that pages link to."""
    files.append(File.generated(config, "reference/configuration.md", content=configuration()))
    for name in _packages():
        files.append(File.generated(config, f"reference/{name}.md", content=api(name)))
    for path in sorted((ROOT / "results").rglob("*.json")):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to ``results/``, which lies beside ``docs/`` in the repository, lead to where the site has it."""
    return markdown.replace("../results/", "results/")


def configuration() -> str:
    """Return the reference of all settings: the files of ``conf/`` themselves, which say what each setting is."""
    parts = ["# Configuration\n", "Every file of `conf/`, as it ships. `memo VERB --help` prints them resolved.\n"]
    for path in sorted((ROOT / "conf").glob("*.yaml")):
        parts.append(f"## memo {path.stem.replace('_', '-')}\n\n{_yaml(path)}")
    for folder in sorted(path for path in (ROOT / "conf").rglob("*") if path.is_dir()):
        group, options = folder.relative_to(ROOT / "conf").as_posix(), sorted(folder.glob("*.yaml"))
        names = ", ".join(f"`{option.stem}`" for option in options)
        if group == CLAIMS:
            parts.append(f"## Claims\n\nOne of {names}: `memo reproduce {options[0].stem}`.\n")
        else:
            parts.append(f"## Group `{group}`\n\nOne of {names}: `memo train {group}={options[0].stem}`.\n")
        parts += [f"### {group}={option.stem}\n\n{_yaml(option)}" for option in options]
    parts.append("## Studies that ship\n")
    parts += [f"### {path.stem}\n\n{_yaml(path)}" for path in sorted((ROOT / "sweeps").glob("*.yaml"))]
    return "\n".join(parts)


def api(package: str) -> str:
    """Return the reference of a package: the docstrings of its modules."""
    modules = sorted(path for path in (PACKAGE / package).rglob("*.py") if path.name != "__init__.py")
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in modules]
    return f"# {package}\n\n" + "\n".join(f"::: {name}\n" for name in names)


def _packages() -> list[str]:
    return sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def _yaml(path: Path) -> str:
    return f"```yaml\n{path.read_text().strip()}\n```\n"
