"""`llama-edu start`: a folder of one's own to work in, with the chapters in it."""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    start = commands.add_parser("start", help="copy the chapters into a folder of your own, or "
                                              "bring newer ones there")
    start.add_argument("folder", type=Path, metavar="DIR",
                       help="where you work; what you changed there is never overwritten")
    start.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from ..exercises import working_folder
    print(working_folder.start(options.folder))
