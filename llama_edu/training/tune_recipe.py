"""What the tuning of a model on dialogs or pairs of answers is made of, read from a TOML file."""

from dataclasses import dataclass
from math import inf
from pathlib import Path

from .recipe import DTYPES, StepsRecipe, how_many, made, number, one_of, string, tables, truth

DIALOGUES = "dialogues"         # the source of dialogs that this package makes itself
GRADES = ("clean", "sloppy", "wrong")
ANSWERS, BAD = ("last", "all"), ("refuse", "skip")


@dataclass(frozen=True)
class DialogsRecipe:
    """Where the dialogs are, and how they become rows."""

    source: str                 # a JSONL file, see `message_files`, or "dialogues"
    row_length: int             # tokens of one packed row
    held_out: int               # dialogs from the first on that are not trained on
    answers: str = "all"        # which are learnt
    bad: str = "refuse"         # a line that cannot be learnt from, or "skip" it
    format: str = ""            # of the prompts; that of the model's template where it is left out
    dialogs: int | None = None  # how many, held-out ones among them; for "dialogues" only
    grade: str = "clean"        # of these: see `data.dialogues`

    def __post_init__(self) -> None:
        string("text", "source", self.source)
        string("text", "format", self.format)
        number("text", "row_length", self.row_length, least=2)
        number("text", "held_out", self.held_out, least=0)
        one_of("text", "answers", self.answers, ANSWERS)
        one_of("text", "bad", self.bad, BAD)
        one_of("text", "grade", self.grade, GRADES)
        how_many("dialogs", self.dialogs, made_for=DIALOGUES, source=self.source,
                 least=self.held_out + 1)


@dataclass(frozen=True)
class LoraRecipe:
    """Which layers get a path; see `lora.add_lora`."""

    where: str
    rank: int
    alpha: float
    int4_group: int = 0         # QLoRA: the layers' weights in 4 bits, in groups of so many; 0: no
    merged: bool = False        # leave the whole model with the adapter in it, too, in `save_as`

    def __post_init__(self) -> None:
        string("lora", "where", self.where)
        number("lora", "rank", self.rank, least=1)
        number("lora", "int4_group", self.int4_group, least=0)
        truth("lora", "merged", self.merged)
        if type(self.alpha) not in (int, float) or not self.alpha > 0:
            raise ValueError(f"[lora] alpha is {self.alpha!r}; a positive number is needed. "
                             "Correct the recipe.")


@dataclass(frozen=True)
class DpoRecipe:
    """Learn from pairs of answers instead of dialogs; see `alignment.dpo`."""

    beta: float = 0.1           # how near the model it begins from it stays: more is nearer
    nll: float = 0.2            # weight of the chosen answer's cross-entropy
    end_counts: bool = False    # whether end tokens count for an answer's reward

    def __post_init__(self) -> None:
        for name, least in (("beta", "positive"), ("nll", "0 or positive")):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value < inf or (
                    value == 0 and name == "beta"):
                raise ValueError(f"[dpo] {name} is {value!r}; a number that is {least} is needed. "
                                 "Correct the recipe.")
        truth("dpo", "end_counts", self.end_counts)


@dataclass(frozen=True)
class TuningRecipe(StepsRecipe):
    """The same of a model that answers, and what a step may cost."""

    sample_every: int = 0       # steps after which held-out prompts are answered; 0: when saved
    checkpoint_activations: bool = False    # less memory, more time; see `recompute`

    def __post_init__(self) -> None:
        super().__post_init__()
        number("training", "sample_every", self.sample_every, least=0)
        truth("training", "checkpoint_activations", self.checkpoint_activations)


@dataclass(frozen=True)
class TuneRecipe:
    """All that decides a run: the same recipe, model and dialogs give the same weights."""

    out: str                    # the folder for checkpoints, metrics, plot and result
    seed: int
    model: str                  # what is tuned: anything that `checkpoint.load` takes
    text: DialogsRecipe
    training: TuningRecipe
    lora: LoraRecipe | None = None      # None: all weights are learnt
    dpo: DpoRecipe | None = None        # None: the source has dialogs, else pairs
    save_as: str = "bfloat16"   # the dtype of a tuned model's weights; an adapter is in float32

    def __post_init__(self) -> None:
        for name in ("out", "model"):
            if type(value := getattr(self, name)) is not str or not value:
                raise ValueError(f"{name} is {value!r}; a path is needed. Name one.")
        number(None, "seed", self.seed, least=0)
        one_of(None, "save_as", self.save_as, DTYPES)
        if self.dpo is not None and self.text.source == DIALOGUES:
            raise ValueError(f"[text] source is {DIALOGUES!r}, which are dialogs; [dpo] needs a "
                             "JSONL file of pairs of answers. Name one, or remove [dpo].")
        if self.dpo is not None and self.text.answers != "all":
            raise ValueError(f"[text] answers is {self.text.answers!r}, which is for dialogs; "
                             "[dpo] learns from all that follows a prompt. Remove it.")


def read(path: str | Path) -> TuneRecipe:
    """The recipe in a TOML file. Raises ValueError that names what is missing, unknown or wrong."""
    given = tables(path, command="tune")
    kinds = {"text": DialogsRecipe, "training": TuningRecipe}
    optional = {"lora": LoraRecipe, "dpo": DpoRecipe}
    kinds |= {name: kind for name, kind in optional.items() if name in given}
    return made(TuneRecipe, kinds, given)
