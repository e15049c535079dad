"""The exercises of chapter 18 on a reward model: 18.1, its loss, and 18.2, where it is read."""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ..alignment.preferences import preference
from ..alignment.reward import RewardModel, right_pad
from ..sampling import NO_TOKEN
from .data import Exercise, Inputs, Misconception, Probe, normal

# -- 18.1: the loss of a pair ------------------------------------------------------------------


def _package_loss(chosen: Tensor, rejected: Tensor, margins: Tensor) -> Tensor:
    loss = preference(lambda tokens, ends: torch.cat([chosen, rejected]),
                      {"tokens": None, "ends": None, "margins": margins})
    return loss.total / loss.count


def _pairs(rng: Generator, n: int, *, std: float = 1.5, margins: tuple[float, ...] = (1, 2, 3),
           apart: float = 0.5) -> Inputs:
    held = torch.tensor(margins, dtype=torch.float32)
    return {"chosen": normal(rng, n, mean=apart, std=std), "rejected": normal(rng, n, std=std),
            "margins": held[torch.randint(len(held), (n,), generator=rng)]}


def _far(rng: Generator) -> Inputs:
    return {"chosen": torch.tensor([-150.0, 90.0]), "rejected": torch.tensor([140.0, -80.0]),
            "margins": normal(rng, 2).abs()}


def _each(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable:
    return lambda chosen, rejected, margins: loss(chosen, rejected, margins).mean()


def _surprise(gap: Tensor) -> Tensor:
    return -F.logsigmoid(gap)


def _naive(gap: Tensor) -> Tensor:
    return -gap.sigmoid().log()


def _ways(gap: Callable[[Tensor, Tensor, Tensor], Tensor]) -> tuple[Callable, ...]:
    """Another gap, in a stable loss and in one that is infinite for pairs far apart."""
    return tuple(_each(lambda c, r, m, loss=loss: loss(gap(c, r, m)))
                 for loss in (_surprise, _naive))


PLAIN = _ways(lambda c, r, m: c - r)
SWAPPED = (*_ways(lambda c, r, m: r - c - m), *_ways(lambda c, r, m: r - c),
           *_ways(lambda c, r, m: r - c + m))
ADDED = _ways(lambda c, r, m: c - r + m)
SCALED = (*_ways(lambda c, r, m: (c - r) * m), *_ways(lambda c, r, m: (c - r) * (1 + m)))
APART = (_each(lambda c, r, m: _surprise(c - m) + _surprise(-r)),
         _each(lambda c, r, m: _surprise(c) + _surprise(-r)),
         _each(lambda c, r, m: _surprise(c - m) + _surprise(-r - m)),
         _each(lambda c, r, m: (_surprise(c) + _surprise(-r)) / 2))
OUTSIDE = tuple(_each(lambda c, r, m, loss=loss, sign=sign: loss(c - r) + sign * m)
                for loss in (_surprise, _naive) for sign in (1, -1))

LOSS = Exercise(
    "18.1", "The loss of a pair", "The idea: taste is the difference of two numbers", _package_loss,
    probes=(
        Probe("five pairs", lambda rng: _pairs(rng, 5)),
        Probe("no margins", lambda rng: _pairs(rng, 4, margins=(0.0,))),
        Probe("small margins", lambda rng: _pairs(rng, 6, margins=(1.0, 2 / 3, 1 / 3, 0.0))),
        Probe("one pair", lambda rng: _pairs(rng, 1)),
        Probe("a gap of less than the margin", lambda rng: _pairs(rng, 3, std=0.2, apart=1.0)),
        Probe("scores far apart", _far),
    ),
    misconceptions=(
        Misconception("margin outside", OUTSIDE[0],
                      "your margin stands outside the sigmoid. There it is a constant: it changes "
                      "the loss and no gradient. Inside, the gap has to exceed it.",
                      also=OUTSIDE[1:]),
        Misconception("margin of the whole loss", _each(lambda c, r, m: _surprise(c - r) * m),
                      "you weigh each pair's loss by its margin, so a pair with margin 0 teaches "
                      "nothing. Subtract the margin from the gap.",
                      also=(_each(lambda c, r, m: _surprise(c - r) * (1 + m)),
                            _each(lambda c, r, m: _naive(c - r) * m))),
        Misconception("margin added", ADDED[0],
                      "you added the margin to the gap: the surer the labeller, the less you ask "
                      "for. Subtract it.", also=ADDED[1:]),
        Misconception("margin multiplied", SCALED[0],
                      "you multiplied the gap by the margin. Subtract it.", also=SCALED[1:]),
        Misconception("margin forgotten", PLAIN[0],
                      "you left the margins out: this is the loss of equation 1, without the "
                      "labeller's certainty.", also=PLAIN[1:]),
        Misconception("wrong sign", SWAPPED[0],
                      "you have the gap the wrong way round. It is the chosen answer's score less "
                      "that of the rejected one; yours teaches to prefer what was rejected.",
                      also=SWAPPED[1:]),
        Misconception("a gain for a loss", _each(lambda c, r, m: F.logsigmoid(c - r - m)),
                      "you returned log-probabilities, which training would lower. The loss is "
                      "their negative."),
        Misconception("summed", lambda c, r, m: _surprise(c - r - m).sum(),
                      "you summed over the pairs. Take the mean.",
                      also=(lambda c, r, m: _naive(c - r - m).sum(),)),
        Misconception("one by one", APART[0],
                      "you ask each score to be large or small by itself. No score has a meaning "
                      "alone: only the gap of two answers to one prompt has.", also=APART[1:]),
        Misconception("infinite", _each(lambda c, r, m: _naive(c - r - m)),
                      "you took the logarithm of a sigmoid that has rounded to 0: the loss is "
                      "infinite where the scores are far apart the wrong way. F.logsigmoid does "
                      "both in one."),
        Misconception("a probability for a surprise",
                      _each(lambda c, r, m: 1 - (c - r - m).sigmoid()),
                      "you left out the logarithm. One less the probability has hardly a gradient "
                      "where the model is most wrong.",
                      also=(_each(lambda c, r, m: -(c - r - m).sigmoid()),)),
        Misconception("a hinge", _each(lambda c, r, m: (m - c + r).relu()),
                      "your loss is 0 once the gap exceeds the margin: a hinge. Bradley and "
                      "Terry's is never 0, and smooth.", also=(
                          _each(lambda c, r, m: (1 + m - c + r).relu()),)),
        Misconception("a square", _each(lambda c, r, m: (c - r - m)**2),
                      "you ask for a gap of exactly the margin. A larger one is welcome."),
        Misconception("the mean gap", lambda c, r, m: _surprise((c - r - m).mean()),
                      "you averaged the gaps and took the loss of their mean. Take each pair's "
                      "loss first."),
    ),
    hints=(
        "How likely is it, by Bradley and Terry, that the chosen answer is preferred? The loss is "
        "the surprise at that.",
        "Subtract the margin from the gap, inside the sigmoid.",
        "-F.logsigmoid(chosen - rejected - margins).mean()",
    ),
    gradients=("chosen", "rejected"))

# -- 18.2: where the score is read -------------------------------------------------------------

Places = Callable[[Tensor, int], Tensor]        # tokens `b t` and the end token to places `b`


def _length(row: Tensor, end: int) -> int:
    """How many tokens of a row are the text's: up to the first of the end tokens it ends with."""
    real = (row != end).nonzero()
    return min(int(real[-1]) + 2, len(row))


def _package_scores(found: Tensor, tokens: Tensor, end: int) -> Tensor:
    texts = [row[:_length(row, end)] for row in tokens]
    like = SimpleNamespace(config=SimpleNamespace(dim=1), hidden=lambda tokens: found[..., None],
                           tok_embeddings=SimpleNamespace(weight=found))
    model = RewardModel(like)
    model.head.weight.data.fill_(1.0)
    return model(*right_pad(texts)).detach()


def _texts(rng: Generator, *lengths: tuple[int, ...], end: int = 7, whole: bool = True) -> Inputs:
    """Rows of several turns, each ended and filled up by `end`; whole: the longest is, too."""
    rows = []
    for turns in lengths:
        parts = [torch.cat([8 + torch.randint(20, (n,), generator=rng), torch.tensor([end])])
                 for n in turns]
        rows.append(torch.cat(parts))
    if not whole:
        rows[max(range(len(rows)), key=lambda i: len(rows[i]))][-1] = 9
    tokens, _ = right_pad(rows)
    tokens = tokens.where(tokens != NO_TOKEN, end)
    return {"found": normal(rng, *tokens.shape, mean=1.0, std=2.0), "tokens": tokens, "end": end}


def _at(places: Places) -> Callable:
    return lambda found, tokens, end: found.gather(
        1, places(tokens, end).clamp(0, tokens.shape[1] - 1)[:, None])[:, 0]


def _last_real(tokens: Tensor, end: int) -> Tensor:
    """The place of each row's last token that is no end token."""
    return tokens.shape[1] - 1 - (tokens != end).int().flip(1).argmax(1)


def _first_end(tokens: Tensor, end: int) -> Tensor:
    return (tokens == end).int().argmax(1)


def _right(tokens: Tensor, end: int) -> Tensor:
    return (_last_real(tokens, end) + 1).clamp(max=tokens.shape[1] - 1)


def _over(weigh: Callable[[Tensor, Tensor, int], Tensor]) -> Callable:
    """Scores averaged over those places where `weigh` is 1."""
    def answer(found: Tensor, tokens: Tensor, end: int) -> Tensor:
        where = weigh(torch.arange(tokens.shape[1]), tokens, end).to(found.dtype)
        return (found * where).sum(1) / where.sum(1)

    return answer


def _own(at: Tensor, tokens: Tensor, end: int) -> Tensor:
    return at <= _right(tokens, end)[:, None]


def _wrapped(found: Tensor, tokens: Tensor, end: int) -> Tensor:
    """One place too far, and back to the beginning at the row's end."""
    return found.gather(1, ((_last_real(tokens, end) + 1) % tokens.shape[1])[:, None])[:, 0]


PLACE = Exercise(
    "18.2", "Where the score is read", "Your turn: which token knows?", _package_scores,
    probes=(
        Probe("a turn each", lambda rng: _texts(rng, (3,), (5,), (2,))),
        Probe("two turns", lambda rng: _texts(rng, (3, 4), (2, 6), (3, 1))),
        Probe("one prompt, two answers", lambda rng: _texts(rng, (4, 2), (4, 5))),
        Probe("a row alone", lambda rng: _texts(rng, (2, 3))),
        Probe("no padding", lambda rng: _texts(rng, (2, 4), (3, 3))),
        Probe("the longest was cut off", lambda rng: _texts(rng, (2, 5), (3, 2), (1, 3, 1),
                                                            whole=False)),
        Probe("another end token", lambda rng: _texts(rng, (2, 2, 3), (1, 4), end=3)),
    ),
    misconceptions=(
        Misconception("the last position", lambda found, tokens, end: found[:, -1].clone(),
                      "you read the last position of each row. For the shorter texts that is "
                      "padding, and how much of it there is depends on their neighbours."),
        Misconception("the first end token", _at(_first_end),
                      "you read at the first end token: the prompt's. Both answers to it score "
                      "alike, the gap is 0 and the loss stays at ln 2.",
                      also=(_at(lambda tokens, end: torch.where(
                          (tokens == end).any(1), (tokens == end).int().argmax(1),
                          tokens.shape[1] - 1)),)),
        Misconception("before the first end token",
                      _at(lambda tokens, end: (tokens == end).int().argmax(1) - 1),
                      "you read the token before the first end token, still in the prompt. Look "
                      "from the right: where does the padding begin?",
                      also=(lambda found, tokens, end: found.gather(
                          1, ((tokens == end).int().argmax(1) - 1 + tokens.shape[1])[:, None]
                          % tokens.shape[1])[:, 0],)),
        Misconception("the last word", _at(_last_real),
                      "you read the answer's last word, and not the end token after it. At the "
                      "word nobody knows yet that the answer is over: padding is an end token "
                      "here, and the first one of them is the text's own."),
        Misconception("end tokens not counted",
                      _at(lambda tokens, end: (tokens != end).sum(1)),
                      "you counted the tokens that are no end tokens. Those between the turns are "
                      "part of the text: count from the right.",
                      also=(_at(lambda tokens, end: (tokens != end).sum(1) - 1),)),
        Misconception("mean over tokens", _over(_own),
                      "you averaged over the text. The tokens of the prompt are the same for both "
                      "answers, and early ones know nothing of the end: only the last has seen "
                      "all."),
        Misconception("mean over all", lambda found, tokens, end: found.mean(1),
                      "you averaged over the row, padding included."),
        Misconception("mean over words", _over(lambda at, tokens, end: tokens != end),
                      "you averaged over all that is no end token. Only the last token has seen "
                      "all of the text."),
        Misconception("the sum", lambda found, tokens, end: (
                          found * _own(torch.arange(tokens.shape[1]), tokens, end)).sum(1),
                      "you summed over the text: longer answers then score higher, or lower, for "
                      "their length alone.", also=(lambda found, tokens, end: found.sum(1),)),
        Misconception("the largest", lambda found, tokens, end: found.masked_fill(
                          ~_own(torch.arange(tokens.shape[1]), tokens, end), -torch.inf).amax(1),
                      "you took the best score anywhere in the text. It counts what is known at "
                      "the end.", also=(lambda found, tokens, end: found.amax(1),)),
        Misconception("beyond the row", _wrapped,
                      "for the text that was cut off you read at the beginning of its row: it has "
                      "no end token, so its last token is the place."),
        Misconception("one too far", _at(lambda tokens, end: _last_real(tokens, end) + 2),
                      "you read one place too far: the token after the text's own end is padding."),
        Misconception("the first token", lambda found, tokens, end: found[:, 0].clone(),
                      "you read the first token, which has seen nothing of the text. A BERT is "
                      "read there; a Llama looks back only."),
    ),
    hints=(
        "Which token has seen the whole text? Draw two rows of different lengths, with 7 as end "
        "token and as padding.",
        "Look for the last token that is no end token; the next one is the text's own end.",
        "last = t - 1 - (tokens != end).int().flip(1).argmax(1); then last + 1, but at most t - 1.",
    ))

EXERCISES = [LOSS, PLACE]
