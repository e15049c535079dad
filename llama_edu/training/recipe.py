"""What a training run is made of, read from a TOML file. Every key is known, or an error."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from ..config import ModelConfig, nearest

TALES, SCRIPTS = "tales", "scripts"     # the sources of text that this package makes itself
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>")
LEAST_VOCABULARY = 256 + len(SPECIAL)
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TextRecipe:
    """Where the text comes from, and how it is cut."""

    source: str                 # "tales", "scripts", or the path of a file or folder
    row_length: int             # tokens of one packed row
    held_out: int               # documents from the first on that are not trained on
    tales: int | None = None    # how many, held-out ones among them; for the source "tales" only
    scripts: int | None = None  # the same for the source "scripts", whose vocabulary is the talks'
    field: str = "text"         # where JSONL and Parquet files have their text

    def __post_init__(self) -> None:
        string("text", "source", self.source)
        string("text", "field", self.field)
        number("text", "row_length", self.row_length, least=2)
        number("text", "held_out", self.held_out, least=0)
        for made in (TALES, SCRIPTS):
            how_many(made, getattr(self, made), made_for=made, source=self.source,
                     least=self.held_out + 1)


@dataclass(frozen=True)
class StepsRecipe:
    """How long, how fast and how much at once. The other constants are Llama 2's, in `train`."""

    steps: int
    batch: int                  # rows
    accumulate: int             # batches for one update
    peak_lr: float
    warmup: int                 # steps
    checkpoint_every: int       # steps

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "checkpoint_every"):
            number("training", name, getattr(self, name), least=1)
        number("training", "warmup", self.warmup, least=0)
        fraction("training", "peak_lr", self.peak_lr)
        if self.warmup >= self.steps:
            raise ValueError(f"[training] warmup is {self.warmup} of {self.steps} steps; fewer "
                             "than all are needed. Make it shorter.")


@dataclass(frozen=True)
class TrainingRecipe(StepsRecipe):
    """The same of a model that begins from nothing."""

    init_std: float             # of the first weights

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction("training", "init_std", self.init_std)


@dataclass(frozen=True)
class Recipe:
    """All that decides a run: the same recipe and the same text give the same weights."""

    out: str                    # the folder for checkpoints, metrics, plot and model
    seed: int
    save_as: str                # the dtype of the finished model's weights
    text: TextRecipe
    model: ModelConfig
    training: TrainingRecipe

    def __post_init__(self) -> None:
        if type(self.out) is not str or not self.out:
            raise ValueError(f"out is {self.out!r}; the path of a folder is needed. Name one.")
        number(None, "seed", self.seed, least=0)
        one_of(None, "save_as", self.save_as, DTYPES)
        if self.model.vocab_size < LEAST_VOCABULARY:
            raise ValueError(f"[model] vocab_size is {self.model.vocab_size}; 256 bytes and "
                             f"{len(SPECIAL)} special pieces need {LEAST_VOCABULARY}. Raise it.")
        if self.text.row_length - 1 > self.model.max_seq_len:
            raise ValueError(f"rows of {self.text.row_length} tokens were asked for; the model "
                             f"sees all but the last of them, and its context is "
                             f"{self.model.max_seq_len}. Shorten the rows or raise max_seq_len.")


TABLES = {"text": TextRecipe, "model": ModelConfig, "training": TrainingRecipe}


def read(path: str | Path) -> Recipe:
    """The recipe in a TOML file. Raises ValueError that names what is missing, unknown or wrong."""
    return made(Recipe, TABLES, tables(path))


def tables(path: str | Path, *, command: str = "train") -> dict[str, Any]:
    """What a TOML file says. Raises ValueError, with the command that writes a recipe, where it
    cannot be read."""
    file = Path(path)
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no file {str(path)!r}; a recipe in TOML is needed. Check the "
                         f"path, or get one that works: llama-edu {command} --example DIR"
                         ) from None
    except OSError as unreadable:
        raise ValueError(f"{file} cannot be opened ({unreadable.strerror}); a recipe in TOML that "
                         "you may read is needed. Check the path.") from None
    except ValueError as broken:
        raise ValueError(f"{file} is not TOML ({broken}). Correct it there.") from None


def made(recipe: type, kinds: Mapping[str, type], given: Mapping[str, Any]) -> Any:
    """A recipe of that kind, each of its tables a dataclass. Raises ValueError that names what is
    missing, unknown or wrong."""
    given = dict(given)
    for name, kind in kinds.items():
        if type(table := given.get(name)) is not dict:
            raise ValueError(f"the recipe has no table [{name}]; it needs "
                             f"{', '.join(f'[{each}]' for each in kinds)}. Add it.")
        given[name] = _make(kind, table, f"[{name}]")
    return _make(recipe, given, "the recipe")


def _make(kind: type, given: Mapping[str, Any], where: str) -> Any:
    """A dataclass from a table that has its keys and no other."""
    known = {field.name: field.default is MISSING for field in fields(kind)}
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{where} has keys that mean nothing here: {', '.join(unknown)}. It knows "
                         f"{', '.join(known)}. Remove them, or correct the spelling."
                         f"{nearest(unknown[0], known)}")
    if missing := [name for name, needed in known.items() if needed and name not in given]:
        raise ValueError(f"{where} lacks {', '.join(missing)}; without them the run is not "
                         "decided. Add them.")
    return kind(**given)


# -- what a value has to be: each raises ValueError that names it and says what it is -----------


def number(table: str | None, name: str, value: Any, *, least: int) -> None:
    """Refuse with a ValueError what is no whole number of at least so many."""
    if type(value) is not int or value < least:
        raise ValueError(f"{_called(table, name)} is {value!r}; a whole number of {least} or more "
                         "is needed. Correct the recipe.")


def how_many(name: str, value: Any, *, made_for: str, source: str, least: int) -> None:
    """Refuse with a ValueError what does not say how many texts the package makes, and what says it
    of another source."""
    if source == made_for:
        number("text", name, value, least=least)
    elif value is not None:
        raise ValueError(f"[text] {name} is {value}, but the source is {source!r}; it is for the "
                         f"source {made_for!r} only. Remove it.")


def fraction(table: str | None, name: str, value: Any) -> None:
    """Refuse with a ValueError what is no number between 0 and 1."""
    if type(value) not in (int, float) or not 0 < value < 1:
        raise ValueError(f"{_called(table, name)} is {value!r}; a number between 0 and 1 is "
                         "needed. Correct the recipe.")


def string(table: str | None, name: str, value: Any) -> None:
    """Refuse with a ValueError what is no string; it may be empty."""
    if type(value) is not str:
        raise ValueError(f"{_called(table, name)} is {value!r}; a string is needed. Put it in "
                         "quotes.")


def truth(table: str | None, name: str, value: Any) -> None:
    """Refuse with a ValueError what is neither true nor false."""
    if type(value) is not bool:
        raise ValueError(f"{_called(table, name)} is {value!r}; true or false is needed. Correct "
                         "the recipe.")


def one_of(table: str | None, name: str, value: Any, known: Sequence[str]) -> None:
    """Refuse with a ValueError what is none of these words."""
    if value not in known:
        raise ValueError(f"{_called(table, name)} is {value!r}; one of {', '.join(known)} is "
                         "needed. Choose one.")


def _called(table: str | None, name: str) -> str:
    return f"[{table}] {name}" if table else name
