"""What mkdocs makes of the project itself: the configuration and the internals, and the order of the pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configuration_page import configuration_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "memo_lightning"
# Pages in the order they are read; any other page in docs/ follows under its own title.
SECTIONS = {
    "Start": [
        "index.md",
        "get-started.md",
        "concepts.md",
        "memories.md",
        "tasks.md",
        "ext_objnav.md",
        "recipe.md",
        "notebooks.md",
    ],
    "How to": [
        "how-to/own-memory.md",
        "how-to/own-environment.md",
        "how-to/use-a-policy.md",
        "how-to/long-trials.md",
        "how-to/choose-an-algorithm.md",
        "how-to/compare-memories.md",
        "studies.md",
        "tracking.md",
        "scaling.md",
        "gpu.md",
        "how-to/habitat-sim.md",
        "how-to/export.md",
        "how-to/serve.md",
        "how-to/share.md",
        "how-to/look-inside.md",
    ],
    "Results": ["results.md", "leaderboard.md", "performance.md", "speed.md"],
    "Reference": ["reference/api.md", "reference/commands.md", "reference/configuration.md", "faq.md"],
}
CONTRIBUTORS = ["design.md"]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lay out the pages that there are."""
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    others = sorted(set(pages).difference(*SECTIONS.values(), CONTRIBUTORS))
    internals = {"Internals": [f"reference/{name}.md" for name in _packages()]}
    config.nav = [
        *({title: section} for title, section in SECTIONS.items()),
        *([{"More": others}] if others else []),
        {"Contribute": [*CONTRIBUTORS, internals]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of the code and of ``conf/``, and the results that pages link to."""
    files.append(File.generated(config, "reference/configuration.md", content=configuration_page()))
    for name in _packages():
        files.append(File.generated(config, f"reference/{name}.md", content=api(name)))
    for path in sorted((ROOT / "results").rglob("*.json")):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to ``results/``, which lies beside ``docs/`` in the repository, lead to where the site has it."""
    return markdown.replace("../results/", "results/")


def api(package: str) -> str:
    """Return the reference of a package: the docstrings of its modules."""
    modules = sorted(path for path in (PACKAGE / package).rglob("*.py") if path.name != "__init__.py")
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in modules]
    text = "Internals may change with any version. What is stable is on the page of the [public API](api.md)."
    return f"# {package}\n\n{text}\n\n" + "\n".join(f"::: {name}\n" for name in names)


def _packages() -> list[str]:
    return sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
