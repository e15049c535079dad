"""A model examined in the talks of `data.dialogues`: what it answers, and how the judge marks it.

    said = replies(model, tokenizer, LLAMA_3, questions, top_k(1))
    marks(questions, said)          {"wishes": 0.97, "question": 0.98, ...}
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from statistics import mean

import torch

from ..data.dialogues import asked, judge, pick
from ..data.dialogues_reading import Talk
from ..model import Llama
from ..prompts.dialog import Format, Message, dialog_tokens, stop_ids
from ..sampling import Rule, known
from ..tokenizer import Tokenizer
from .rejection import samples

LONGEST = 96                    # tokens; the longest good answer has fewer
AT_ONCE = 64                    # prompts of one batch


def messages(talk: Talk) -> list[Message]:
    """A talk of the world as prompts take it."""
    return [Message(each["role"], each["content"]) for each in talk]


def replies(model: Llama, tokenizer: Tokenizer, form: Format, talks: Sequence[Talk], *rules: Rule,
            max_new: int = LONGEST, generator: torch.Generator | None = None) -> list[str]:
    """What the model answers next in each talk, up to its end token or `max_new`.

    Prompts of like lengths share a batch; without random numbers each gets the answer that it
    would get alone. Raises ValueError as `stream` does.
    """
    prompts = [torch.tensor(dialog_tokens(messages(talk), tokenizer, form).ids) for talk in talks]
    order = sorted(range(len(talks)), key=lambda i: len(prompts[i]))
    stops = stop_ids(tokenizer, form)
    said = {}
    model.eval()
    for start in range(0, len(order), AT_ONCE):
        rows = order[start:start + AT_ONCE]
        found = samples(model, [prompts[i] for i in rows], known(tokenizer.n_vocab), *rules, n=1,
                        max_new=max_new, stop_ids=stops, generator=generator)
        for i, (answer,) in zip(rows, found, strict=True):
            said[i] = tokenizer.decode([t for t in answer.tolist() if t not in stops])
    return [said[i] for i in range(len(talks))]


def answered(talk: Talk, answer: str) -> list[dict[str, str]]:
    """The talk with its next answer."""
    return [*talk, {"role": "assistant", "content": answer}]


def marks(talks: Sequence[Talk], said: Sequence[str]) -> dict[str, float]:
    """The mean of every mark that the judge gives, over the answers that it applies to, and of the
    score. "over-refusal" is the share of allowed things that were refused."""
    given = defaultdict(list)
    for talk, answer in zip(talks, said, strict=True):
        judged = judge(answered(talk, answer))
        for name, mark in (judged.given | {"score": judged.score}).items():
            given[name].append(mark)
    means = {name: mean(values) for name, values in given.items()}
    if "helpful" in means:
        means["over-refusal"] = 1 - means.pop("helpful")
    return means


def converse(model: Llama, tokenizer: Tokenizer, form: Format, talks: Sequence[Talk], *rules: Rule,
             turns: int, chance: random.Random, sorts: Sequence[str] = ()
             ) -> list[list[dict[str, str]]]:
    """Go on with every talk for so many turns: users ask, the model answers, all by its own words.

    chance: of the users. sorts: of what they come up with; any of `dialogues.asked` where left out.
    """
    going = [list(talk) for talk in talks]
    for _ in range(turns):
        for talk in going:
            said = asked(talk, chance, pick(sorts, chance) if sorts else None)
            talk.append({"role": "user", "content": said})
        said = replies(model, tokenizer, form, going, *rules)
        going = [answered(talk, answer) for talk, answer in zip(going, said, strict=True)]
    return going
