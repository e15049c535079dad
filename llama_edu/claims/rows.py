"""The ledger of published claims: tables of rows, read strictly from the files beside this one."""

import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from ..config import nearest

LEDGER = Path(__file__).parent / "ledger"
FILES = {letter: f"{letter.lower()}.toml" for letter in "ABCDE"} | {
    "T": "traps.toml", "S": "slips.toml"}
VERDICTS = ("right", "wrong", "imprecise", "open")


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What can be computed anew: an expression, what it gives, and how exactly."""

    compute: str | None = None          # an expression over the names of `evaluate.namespace`
    value: Any = None                   # number, truth, string, date, or a tuple of them
    tolerance: float | None = None      # absolute; without it the value must be equal
    unit: str | None = None             # of the value
    needs: tuple[str, ...] = ()         # vocabularies, as `tokenizer.installed` names them

    def check(self, name: str) -> None:
        """Raise ValueError, which begins with the name of the row, where its parts do not fit."""
        if (self.compute is None) != (self.value is None):
            given, lacking = ("value", "compute") if self.compute is None else ("compute", "value")
            raise ValueError(f"{name} has a {given} and no {lacking}; one is nothing without the "
                             f"other. Add {lacking}, or remove {given}.")
        for key in ("tolerance", "unit", "needs"):
            if self.value is None and getattr(self, key):
                raise ValueError(f"{name} has {key} and nothing that is computed; it belongs to a "
                                 "value. Add compute and value, or remove it.")
        if self.tolerance is None and any(type(item) is float for item in _flat(self.value)):
            raise ValueError(f"{name} expects the float {self.value!r} without a tolerance; floats "
                             "are never equal on all processors. Add the tolerance, as tight as "
                             "the printed digits.")
        if self.tolerance is not None and not 0 <= self.tolerance < math.inf:
            raise ValueError(f"{name} has the tolerance {self.tolerance!r}; a number of 0 or more "
                             "is needed. Correct it.")

    def doubt(self, value: Any) -> str:
        """Why a computed value does not bear the row out; empty where it does."""
        if same(value, self.value, tolerance=self.tolerance):
            return ""
        within = "" if self.tolerance is None else f" within {self.tolerance:g}"
        return f"computed {value!r}; the row expects {self.value!r}{within}."


@dataclass(frozen=True, kw_only=True)
class Claim(Computed):
    """One statement from a write-up, in our words, and what is so."""

    id: str                             # letter of the write-up and number: A06
    claim: str
    verdict: str                        # one of VERDICTS; open: opinion, or nothing to check it by
    correct: str = ""                   # what is so; for open, why it cannot be decided here
    source: str | None = None
    stated: float | None = None         # the number that the claim names, in the value's unit
    allowed: float | None = None        # how far the claim's own words round
    chapter: str | None = None          # the chapter that decides it: "08"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-E]\d{2,3}|[TS]\d\d", self.id):
            raise ValueError(f"{self.id!r} is no id of a claim; a letter of A to E, T or S and two "
                             "or three digits is needed. Correct it: A06.")
        if self.verdict not in VERDICTS:
            raise ValueError(f"{self.id} has the verdict {self.verdict!r}; "
                             f"{', '.join(VERDICTS[:-1])} or {VERDICTS[-1]} is needed. Choose one.")
        if not self.claim or not (self.correct or self.verdict == "right"):
            lacking = "correct" if self.claim else "claim"
            raise ValueError(f"{self.id} is {self.verdict} and its {lacking!r} is empty; a reader "
                             "wants to know what is so. Write a sentence.")
        if self.chapter is not None and not re.fullmatch(r"\d\d", self.chapter):
            raise ValueError(f"{self.id} names the chapter {self.chapter!r}; two digits are needed "
                             'in quotes. Write "08".')
        self.check(self.id)
        if self.verdict != "open" and self.compute is None and not self.source:
            raise ValueError(f"{self.id} is {self.verdict} without evidence; a computation or a "
                             "source is needed. Add compute and value, or source.")
        if (self.stated is None) != (self.allowed is None):
            raise ValueError(f"{self.id} has stated {self.stated!r} and allowed {self.allowed!r}; "
                             "both or neither are needed. Add the one that is missing.")
        if self.stated is not None and type(self.value) not in (int, float):
            raise ValueError(f"{self.id} has stated {self.stated!r} and the value {self.value!r}; "
                             "stated is compared with a computed number. Add compute and value, or "
                             "remove stated and allowed.")

    @property
    def writeup(self) -> str:
        """The letter of the write-up that it is from."""
        return self.id[0]

    def doubt(self, value: Any) -> str:
        return super().doubt(value) or self._doubt_of_verdict(value)

    def _doubt_of_verdict(self, value: Any) -> str:
        """Whether the number that the claim states goes with the verdict on it."""
        if self.stated is None or self.verdict not in ("right", "wrong"):
            return ""
        near = same(value, self.stated, tolerance=self.allowed)
        if near == (self.verdict == "right"):
            return ""
        return (f"computed {value!r}; the claim's {self.stated:g} is "
                f"{'within' if near else 'more than'} {self.allowed:g} of it, and the verdict says "
                f"{self.verdict}.")


@dataclass(frozen=True, kw_only=True)
class Contradiction(Computed):
    """Where write-ups disagree, with one another or with themselves, and who is right."""

    topic: str
    statements: tuple[tuple[str, str], ...]     # (letter of the write-up, what it says)
    resolution: str
    claims: tuple[str, ...]                     # ids of the rows that are concerned

    def __post_init__(self) -> None:
        self.check(f"the contradiction {self.topic!r}")
        if len(self.statements) < 2 or not self.claims:
            raise ValueError(f"the contradiction {self.topic!r} has {len(self.statements)} "
                             f"statements and {len(self.claims)} claims; two statements and a "
                             "claim are needed. Add them.")


@dataclass(frozen=True)
class Writeup:
    """What claims were taken from: a kind of text, never a person."""

    letter: str
    name: str
    kind: str
    language: str
    date: str


def same(value: Any, expected: Any, *, tolerance: float | None) -> bool:
    """Whether two values agree, item by item where they have items. True is not 1."""
    if isinstance(expected, tuple):
        return (type(value) is tuple and len(value) == len(expected)
                and all(same(a, b, tolerance=tolerance)
                        for a, b in zip(value, expected, strict=True)))
    numbers = {type(value), type(expected)} <= {int, float}
    if numbers and tolerance is not None:
        return abs(value - expected) <= tolerance + 1e-12 * abs(expected)
    return (numbers or type(value) is type(expected)) and value == expected


# -- reading -----------------------------------------------------------------------------------

@cache
def ledger() -> tuple[Claim, ...]:
    """Every claim, write-up by write-up; then the traps (T) and the slips (S)."""
    rows = tuple(claim for letter in FILES for claim in read(LEDGER / FILES[letter]))
    refuse_twice(rows)
    return rows


@cache
def contradictions() -> tuple[Contradiction, ...]:
    """Where the write-ups disagree."""
    rows = []
    for table in _tables(LEDGER / "contradictions.toml", "contradictions"):
        statements = tuple((each["where"], each["says"]) for each in table.get("statements", ()))
        rows.append(_make(Contradiction, table | {"statements": statements}, "contradictions.toml"))
    return tuple(rows)


@cache
def writeups() -> dict[str, Writeup]:
    """What the claims were taken from, by letter."""
    return {table["letter"]: _make(Writeup, table, "writeups.toml")
            for table in _tables(LEDGER / "writeups.toml", "writeups")}


def find(id: str) -> Claim:
    """One claim by its id, upper or lower case. Raises KeyError for an id that no row has."""
    for claim in ledger():
        if claim.id == id.upper():
            return claim
    ids = [claim.id for claim in ledger()]
    near = nearest(id, ids) or " Take one of them."
    raise KeyError(f"no claim is called {id!r}; ids go from {ids[0]} to {ids[-1]}, and "
                   f"`llama-edu check-claims` lists them.{near}")


def read(file: Path) -> tuple[Claim, ...]:
    """The claims of one file. Raises ValueError, which names the row, where one is not whole."""
    rows = tuple(_make(Claim, table, file.name) for table in _tables(file, "claims"))
    refuse_twice(rows)
    for claim in rows:
        if file.name != FILES[claim.writeup]:
            raise ValueError(f"{file.name} holds {claim.id}; its place is {FILES[claim.writeup]}. "
                             "Move it.")
    return rows


def refuse_twice(rows: tuple[Claim, ...]) -> None:
    """Raises ValueError where two rows have one id."""
    seen = set()
    for claim in rows:
        if claim.id in seen:
            raise ValueError(f"the id {claim.id} is given to two claims; an id is for one. Number "
                             "them apart.")
        seen.add(claim.id)


def _tables(file: Path, key: str) -> list[dict[str, Any]]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))[key]
    except tomllib.TOMLDecodeError as broken:
        raise ValueError(f"{file.name} is not TOML ({broken}). Correct it there.") from None
    except KeyError:
        raise ValueError(f"{file.name} has no table [[{key}]]; its rows stand under that name. "
                         "Add it.") from None


def _make(kind: type, table: Mapping[str, Any], where: str) -> Any:
    """A row from a table that has its keys and no other."""
    known = {field.name: field.default is MISSING for field in fields(kind)}
    name = f"{table.get('id', table.get('topic', 'a row'))} in {where}"
    if unknown := sorted(set(table) - set(known)):
        raise ValueError(f"{name} has keys that mean nothing here: {', '.join(unknown)}. A row "
                         f"knows {', '.join(known)}. Remove them, or correct the spelling.")
    if missing := [key for key, needed in known.items() if needed and key not in table]:
        raise ValueError(f"{name} lacks {', '.join(missing)}; a row is not whole without. Add "
                         f"{'it' if len(missing) == 1 else 'them'}.")
    return kind(**{key: frozen(value) for key, value in table.items()})


def frozen(value: Any) -> Any:
    """Lists as tuples, so that rows can be compared and kept in sets."""
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value
