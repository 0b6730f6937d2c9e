"""``memo reproduce``: test claims about memories, each with one command."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memo_lightning.cli.help import print_help
from memo_lightning.config import compose_config
from memo_lightning.errors import UserError, require
from memo_lightning.overrides import command
from memo_lightning.reproduction.claim import Claim, read_claim, shipped_claims
from memo_lightning.reproduction.plots import plot_claim
from memo_lightning.reproduction.reproduce import reproduce
from memo_lightning.reproduction.results import Results
from memo_lightning.reproduction.wording import in_words

HELP = """Tests claims: memo reproduce CLAIM [CLAIM ...] [override ...]. Makes the runs that a claim needs and that are
missing from <results>/runs/, short runs first, and judges each claim by the rules of conf/reproduce/CLAIM.yaml as soon
as its runs are finished. Writes the verdict to <results>/claims/CLAIM.json and plots to <run_dir>/plots/. After Ctrl-C
or a crash, the same command continues.
CLAIM may also be a file of your own, PATH.yaml. Without a claim, the command lists the shipped claims."""


def main(arguments: Sequence[str]) -> None:
    """Test claims and print the verdicts, or list the claims."""
    if print_help("reproduce", HELP, arguments):
        return
    names = [word for word in arguments if "=" not in word]
    config = compose_config("reproduce", [word for word in arguments if "=" in word])
    results, run_dir = Results(str(config.results)), Path(str(config.run_dir))
    if not names:
        _list(str(config.scale), results)
        return
    if config.train and results.folder == Path(compose_config("reproduce").results):
        raise UserError(
            f"train={list(config.train)}: changes the runs of the claim; store them elsewhere with results=DIR"
        )
    claims = [read_claim(name) for name in dict.fromkeys(names)]
    try:
        tested = reproduce(claims, config.scale, results, run_dir, config.workers, list(config.train))
        for claim, cells, verdict in tested:
            _report(verdict)
            plots = plot_claim(claim, cells, results, run_dir / "plots")
            print(f"verdict  {results.verdict_path(claim.name, config.scale)}")
            print("".join(f"plot     {plot}\n" for plot in plots), flush=True)
    except KeyboardInterrupt:
        print(f"interrupted\nnext: {command('memo', 'reproduce', *arguments)}   # continues", file=sys.stderr)
        raise


def _list(scale: str, results: Results) -> None:
    claims = sorted((read_claim(name) for name in shipped_claims()), key=lambda claim: claim.order)
    known = sorted({name for claim in claims for name in claim.scales}, reverse=True)
    require(scale in known, "scale", scale, f"one of {', '.join(known)}")
    print(f"claims, with the time that their runs take at scale={scale} on one core, including shared runs:\n")
    for claim in claims:
        state = claim.state(results.verdict(claim.name, scale), scale)
        print(f"{claim.number:<3} {claim.name:<24} {_cost(claim, scale):>12}   {state}")
        print(textwrap.fill(claim.question, 79, initial_indent="    ", subsequent_indent="    "))
    print(f"\nnext: memo reproduce {claims[0].name} workers=2")


def _cost(claim: Claim, scale: str) -> str:
    if not claim.scales:
        return "no runs"
    return f"{claim.hours(scale):.1f} hours" if scale in claim.scales else f"no {scale}"


def _report(verdict: Mapping[str, Any]) -> None:
    print(f"\n{verdict['claim']}: {verdict['verdict']}")
    print(textwrap.fill(verdict["question"], 79, initial_indent="  ", subsequent_indent="  "))
    for rule in verdict["rules"]:
        line = f"{rule['verdict']}: {in_words(rule)}"
        print(textwrap.fill(line, 79, initial_indent="  - ", subsequent_indent="    "))
    published = verdict["published"]
    print(textwrap.fill(f"published: {published['says']} ({published['source']})", 79, initial_indent="  ",
                        subsequent_indent="  "))  # fmt: skip
