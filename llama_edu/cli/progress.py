"""`llama-edu progress`: which exercises are solved."""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    shown = commands.add_parser("progress", help="which exercises are solved")
    shown.add_argument("folder", nargs="?", type=Path, metavar="DIR",
                       help="where you work; without it, the folder that you are in")
    shown.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the table, and where it was read. Raises ValueError for a folder that is not there."""
    from ..exercises import records
    folder = options.folder or records.place()
    if options.folder is not None and not options.folder.is_dir():
        raise ValueError(f"there is no folder {str(options.folder)!r}; the one that you work in is "
                         "needed. Check the path, or make it with: llama-edu start DIR")
    print(records.progress(folder))
    if folder is not None:
        file = records.home(folder.resolve()) / records.FILE
        print(f"read from {file}" if file.is_file() else
              f"{file} is not there yet: the first `check` of an answer in a notebook writes it")
