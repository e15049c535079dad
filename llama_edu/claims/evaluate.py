"""Computing a row of the ledger anew, and saying whether it bears the row out."""

import math
import time
from dataclasses import dataclass
from datetime import date
from typing import Any

from ..family import accounting, releases
from ..tokenizer import installed
from . import computed
from .rows import Computed, frozen

BUILTINS = {each.__name__: each for each in (
    abs, all, any, bool, dict, enumerate, float, int, len, list, max, min, range, round, set,
    sorted, str, sum, tuple, zip)}
PLAIN = (bool, int, float, str, date)


@dataclass(frozen=True)
class Outcome:
    """What came of computing a row. `agrees` is None where nothing was computed."""

    value: Any = None
    agrees: bool | None = None
    seconds: float = 0.0                # of the processor
    remark: str = ""                    # why it does not agree, or was not computed


def namespace() -> dict[str, Any]:
    """The names that an expression of the ledger may use, and no other.

    The expressions are our own files, as the code is, and are read with it: `eval` runs nothing
    that an import would not. The short list of names is there for the reader, who can tell at a
    glance what a row may depend on; it is no wall against a hostile expression.
    """
    from_accounting = {name: thing for name, thing in vars(accounting).items()
                       if not name.startswith("_")
                       and getattr(thing, "__module__", accounting.__name__) == accounting.__name__}
    return {"__builtins__": BUILTINS, "math": math, "date": date,
            **from_accounting, **computed.functions(),
            "RELEASES": releases.RELEASES, "release": releases.release,
            "config": lambda id: releases.release(id).config,
            "training": lambda id: releases.release(id).training}


def recompute(row: Computed) -> Outcome:
    """Compute what a claim, or a contradiction, rests on. Never raises: the outcome says why."""
    if row.compute is None:
        return Outcome(remark="rests on a source")
    missing = [name for name in row.needs if installed.find(name) is None]
    if missing:
        return Outcome(remark=f"not recomputed: {installed.how_to_get(missing[0])}")
    start = time.process_time()
    try:
        value = plain(eval(f"({row.compute}\n)", namespace()))
    except Exception as error:      # whatever an expression may do wrong is the row's fault
        return Outcome(None, False, time.process_time() - start,
                       f"raised {type(error).__name__}: {error}")
    doubt = row.doubt(value)
    return Outcome(value, not doubt, time.process_time() - start, doubt)


def plain(value: Any) -> Any:
    """The value, lists as tuples. Raises TypeError for what the ledger cannot hold."""
    value = frozen(value)
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, tuple):
            plain(item)
        elif type(item) not in PLAIN:
            raise TypeError(f"the expression gives {item!r}; a number, a truth, a string, a date "
                            "or a list of them is needed. Convert it there")
    return value
