"""The wording of the project: text for people is plain English, and phrases that have been replaced do not return.

The rules are in CONTRIBUTING.md. If a pattern also has a legitimate use, ``ALLOWED`` lists it with the reason.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
YAML = sorted([*(ROOT / "conf").rglob("*.yaml"), *(ROOT / "sweeps").glob("*.yaml")])
CODE = sorted((ROOT / "src/memo_lightning").rglob("*.py"))
# Phrases to avoid, and what to write instead.
PHRASES = {
    r"everything else (being )?equal": "all else being equal",
    r"\bh(o|e)ld against\b": "compare with",
    r"\bgo(es|ing)? on with\b": "resume, continue with",
    r"what they come to is": "they become",
    r"weights that are no more": "old weights; a memory of old weights is stale",
    r"leaves? one that .{0,60}goes on from": "leaves a checkpoint, from which the run resumes",
    r"\bis of each rank": "applies per rank",
    r"\bof each rank\b": "per rank",
    r"the way of the data": "data flow",
    r"what kept earlier (pilots|runs)": "say what the setting does, not how it was found",
    r"\bpictures?\b": "image, plot, screenshot",
    r"\bfigures for\b|\bFigures of\b|\bits figures\b|\bA figure (to|in)\b|^## Figures$": "metrics, results, numbers",
    r"\brows\b": "sequences, trajectories, environments",
    r"\bentries\b": "keys, items, tokens",
}
# Legitimate uses: a pattern for the line, and the reason.
ALLOWED = {
    r"\bpictures?\b": [
        (
            r"pictures on the walls|pictures for them|walls, pictures|room, pictures|a picture on one of",
            "hang in the houses",
        ),
    ],
    r"\brows\b": [
        (r"^docs/ext_objnav\.md: .*first two rows", "of the table above"),
        (r"^docs/gpu\.md: .*`rows`", "a key of gpu.json"),
        (r"table rows|Other settings, other rows", "of a table"),
        (
            r"^src/memo_lightning/evaluation/(inspector|comparison)",
            "of the page's attention map; of the table of memo compare",
        ),
        (
            r"\[rows[,\]]|``rows``|`rows |of the rows|rows of (one matrix|16 bytes)|number of rows|copied into rows",
            "of an array",
        ),
        (
            r"^src/memo_lightning/(models/(kv_cache|attention_recorder|summary_memory|fixed_state)|serving/memories)\.py",
            "of a cache or a block of states, which are arrays",
        ),
        (
            r"^src/memo_lightning/(benchmarks/gpu|models|houses)/",
            "of an array: internals, beside variables of that name",
        ),
        (r"_rows\b|rows_", "a setting"),
    ],
    r"\bentries\b": [
        (
            r"^src/memo_lightning/(models|evaluation/inspector)/",
            "of a cache, a state or an attention map, which are arrays",
        ),
    ],
}


def prose_of_code(path):
    """Yield the lines of a module's docstrings and messages: its string constants that contain a space."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield from node.value.splitlines()


@cache
def texts():
    """Return everything that people read, as pairs of file and line."""
    return list(_lines())


def _lines():
    for path in PAGES:
        code = False
        for line in path.read_text().splitlines():
            code ^= line.startswith("```")
            if not code:
                yield path, line
    for path in YAML:
        yield from ((path, line.partition("#")[2]) for line in path.read_text().splitlines() if "#" in line)
    for path in CODE:
        yield from ((path, line) for line in prose_of_code(path))


@pytest.mark.parametrize("phrase", PHRASES)
def test_no_text_holds_a_phrase_that_is_not_plain(phrase):
    found = []
    for path, line in texts():
        where = f"{path.relative_to(ROOT)}: {line.strip()}"
        if re.search(phrase, line) and not any(re.search(right, where) for right, _ in ALLOWED.get(phrase, [])):
            found.append(where)
    assert not found, f"write {PHRASES[phrase]!r}:\n" + "\n".join(found)


def test_what_is_allowed_is_there():
    lines = [f"{path.relative_to(ROOT)}: {line.strip()}" for path, line in texts()]
    for phrase, rights in ALLOWED.items():
        for right, _ in rights:
            assert any(re.search(phrase, line) and re.search(right, line) for line in lines), f"{right} is of no line"


def test_every_setting_has_a_comment_or_a_docstring(monkeypatch):
    """The configuration page must explain every setting."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    from configuration_page import WHOLE_FILES, read_settings

    files = [path for path in (ROOT / "conf").rglob("*.yaml") if path.parent.name not in WHOLE_FILES]
    silent = [f"{path.name}: {s.name}" for path in files for s in read_settings(path).settings if not s.comment]
    assert not silent, "\n".join(silent)
