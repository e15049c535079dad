"""`llama-edu info`: the numbers of releases, and of models in files."""

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

from ..config import nearest
from ..family import accounting
from ..family.card import Files, as_data, card, side_by_side
from ..family.releases import RELEASES, Release, release

BUNDLED = "tales", "dialogues", "dialogues-base", "dialogues-sloppy", "smollm2"   # of `checkpoint`
WIDTH = 120                             # of a line in a file or a pipe


def add(commands: Any) -> None:
    info = commands.add_parser("info", help="the numbers of a release, or of a model in files")
    info.add_argument("names", nargs="*", metavar="NAME",
                      help="such as llama-3.1-8b, a folder or a .gguf file; several stand side by "
                           "side; without one, all releases")
    info.add_argument("--json", action="store_true", help="the same as data")
    info.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    models = [_model(name) for name in options.names]
    if options.json:
        found = [as_data(model) for model in models or RELEASES]
        print(json.dumps(found[0] if len(models) == 1 else found, indent=2, ensure_ascii=False))
    elif not models:
        for r in RELEASES:
            print(f"{r.id:32}{accounting.parameters(r.config).total:>18,} parameters")
    elif len(models) == 1:
        print(card(models[0]))
    else:
        print(side_by_side(models, width=shutil.get_terminal_size((WIDTH, 24)).columns))


def _model(name: str) -> Release | Files:
    """A model in files, or a release. Raises ValueError or KeyError for what is neither."""
    if Path(name).exists() or name in BUNDLED:
        return _files(name)
    try:
        return release(name)
    except KeyError:
        if "/" in name or os.sep in name:
            raise ValueError(f"there is no folder or file {name!r}; one with a model, or the name "
                             "of a release, is needed. Check the path.") from None
        if near := nearest(name, BUNDLED):
            raise KeyError(f"no model is called {name!r}.{near}") from None
        raise


def _files(path: str) -> Files:
    """What the files of a model say; no tensor is read."""
    from ..checkpoint import open_source
    source = open_source(path)
    stored = sorted({str(w.dtype).removeprefix("torch.") for w in source.tensors.values()})
    return Files(path, source.config, {
        "tensors": f"{len(source.tensors)}, read as {' and '.join(stored)}",
        "tokenizer": "none" if source.tokenizer is None else "yes",
        "an answer ends at": ", ".join(map(str, source.stop_ids)) or "what the tokenizer says"})
