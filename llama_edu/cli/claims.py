"""`llama-edu check-claims`: what is said of the Llamas, recomputed."""

import argparse
import json
import shutil
from dataclasses import asdict
from typing import Any

from .. import claims
from ..claims.box import Box, Boxes
from ..claims.table import WIDTH


def add(commands: Any) -> None:
    check = commands.add_parser("check-claims", help="recompute what is said of the Llamas")
    check.add_argument("ids", nargs="*", metavar="ID", help="one claim in full, such as A06")
    check.add_argument("--writeup", type=str.upper, metavar="LETTER",
                       help="only claims of this write-up: A to E; T, traps; S, slips")
    check.add_argument("--verdict", type=str.lower, choices=claims.VERDICTS)
    check.add_argument("--chapter", type=lambda number: number.zfill(2), metavar="NN",
                       help="only claims that this chapter decides")
    form = check.add_mutually_exclusive_group()
    form.add_argument("--full", action="store_true", help="each claim in full, and no table")
    form.add_argument("--json", action="store_true", help="the same as data")
    check.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table, or claims in full; 1 where a computed value is not the expected one.

    Raises ValueError where no claim fits, KeyError for an id that there is not.
    """
    chosen = [claims.find(id) for id in options.ids] or claims.select(
        writeup=options.writeup, verdict=options.verdict, chapter=options.chapter)
    if not chosen:
        raise ValueError("no claim fits all that was asked; write-ups are A to E, T and S, "
                         "chapters two digits such as 03. Leave a filter out.")
    from tqdm import tqdm
    outcomes = {claim: claims.recompute(claim) for claim in tqdm(chosen, disable=None)}
    if options.json:
        print(json.dumps([{"id": claim.id} | asdict(claim) | {"outcome": asdict(outcome)}
                          for claim, outcome in outcomes.items()],
                         indent=2, ensure_ascii=False, default=str))
    elif options.full or options.ids:
        print(Boxes(tuple(Box(claim, outcome) for claim, outcome in outcomes.items())))
    else:
        print(claims.report(outcomes, width=shutil.get_terminal_size((WIDTH, 24)).columns))
    return int(any(outcome.agrees is False for outcome in outcomes.values()))
