"""What the tuning of a model on dialogs is made of, read from a TOML file."""

from dataclasses import dataclass
from pathlib import Path

from .recipe import DTYPES, made, number, tables

ANSWERS, BAD = ("last", "all"), ("refuse", "skip")
TRAINING = "training"


@dataclass(frozen=True)
class DialogsRecipe:
    """Where the dialogs are, and how they become rows."""

    source: str                 # a JSONL file, an object {"messages": [...]} a line
    row_length: int             # tokens of one packed row
    held_out: int               # dialogs from the first on that are not trained on
    answers: str = "all"        # which are learnt
    bad: str = "refuse"         # a line that cannot be learnt from, or "skip" it
    format: str = ""            # of the prompts; that of the model's template where it is left out

    def __post_init__(self) -> None:
        for name in ("source", "format"):
            if type(getattr(self, name)) is not str:
                raise ValueError(f"[text] {name} is {getattr(self, name)!r}; a string is needed. "
                                 "Put it in quotes.")
        number("text", "row_length", self.row_length, least=2)
        number("text", "held_out", self.held_out, least=0)
        for name, known in (("answers", ANSWERS), ("bad", BAD)):
            if getattr(self, name) not in known:
                raise ValueError(f"[text] {name} is {getattr(self, name)!r}; one of "
                                 f"{', '.join(known)} is needed. Choose one.")


@dataclass(frozen=True)
class LoraRecipe:
    """Which layers get a path; see `lora.add_lora`."""

    where: str
    rank: int
    alpha: float
    int4_group: int = 0         # QLoRA: the layers' weights in 4 bits, in groups of so many; 0: no

    def __post_init__(self) -> None:
        if type(self.where) is not str:
            raise ValueError(f"[lora] where is {self.where!r}; a string is needed. Put it in "
                             "quotes.")
        number("lora", "rank", self.rank, least=1)
        number("lora", "int4_group", self.int4_group, least=0)
        if type(self.alpha) not in (int, float) or not self.alpha > 0:
            raise ValueError(f"[lora] alpha is {self.alpha!r}; a positive number is needed. "
                             "Correct the recipe.")


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
            number(TRAINING, name, getattr(self, name), least=1)
        number(TRAINING, "warmup", self.warmup, least=0)
        if type(self.peak_lr) is not float or not 0 < self.peak_lr < 1:
            raise ValueError(f"[training] peak_lr is {self.peak_lr!r}; a number between 0 and 1 is "
                             "needed. Correct the recipe.")
        if self.warmup >= self.steps:
            raise ValueError(f"[training] warmup is {self.warmup} of {self.steps} steps; fewer "
                             "than all are needed. Make it shorter.")


@dataclass(frozen=True)
class TuneRecipe:
    """All that decides a run: the same recipe, model and dialogs give the same weights."""

    out: str                    # the folder for checkpoints, metrics, plot and result
    seed: int
    model: str                  # what is tuned: anything that `checkpoint.load` takes
    text: DialogsRecipe
    training: StepsRecipe
    lora: LoraRecipe | None = None      # None: all weights are learnt
    save_as: str = "bfloat16"   # the dtype of a tuned model's weights; an adapter is in float32

    def __post_init__(self) -> None:
        for name in ("out", "model"):
            if type(value := getattr(self, name)) is not str or not value:
                raise ValueError(f"{name} is {value!r}; a path is needed. Name one.")
        number(None, "seed", self.seed, least=0)
        if self.save_as not in DTYPES:
            raise ValueError(f"save_as is {self.save_as!r}; one of {', '.join(DTYPES)} is needed. "
                             "Choose one.")


def read(path: str | Path) -> TuneRecipe:
    """The recipe in a TOML file. Raises ValueError that names what is missing, unknown or wrong."""
    given = tables(path)
    kinds = {"text": DialogsRecipe, TRAINING: StepsRecipe}
    return made(TuneRecipe, kinds | ({"lora": LoraRecipe} if "lora" in given else {}), given)
