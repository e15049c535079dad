"""Exercise of chapter 03: the weights of two layers, set by hand, that copy what followed."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ..layers import attend, causal_mask
from .data import Exercise, Inputs, Misconception, Probe

Layer = tuple[Tensor, Tensor, Tensor, Tensor]       # wq, wk, wv, wo, each `c c`
SHARP, LATER = 1000.0, 30.0         # a match, and one place further to the right
EMPTY = -1                          # no answer: nothing was written there


def stream(v: int, n: int, tokens: Sequence[int]) -> Tensor:
    """What goes into the first layer, `t c`: word and place one-hot, before and answer empty."""
    word = F.one_hot(torch.tensor(tokens), v)
    place = F.one_hot(torch.arange(len(tokens)), n)
    return torch.cat([word, place, torch.zeros(len(tokens), 2 * v)], dim=1)


def answers(layers: Sequence[Layer], v: int, n: int, tokens: list[int]) -> dict[str, int]:
    """The answer at each place whose word stood somewhere before, one head a layer."""
    x = stream(v, n, tokens)
    for wq, wk, wv, wo in layers:
        q, k, what = (x @ w.T for w in (wq, wk, wv))
        mask = causal_mask(len(tokens), len(tokens))
        x = x + attend(q[None, None], k[None, None], what[None, None], mask)[0, 0] @ wo.T
    said = x[:, -v:]
    return {f"place {t}": EMPTY if said[t].abs().max() < 1e-6 else int(said[t].argmax())
            for t in range(len(tokens)) if tokens[t] in tokens[:t]}


def by_hand(v: int, n: int, *, back: int = 1, sharp: float = SHARP, later: float = LATER,
            look: str = "before", hand: str = "word", turned: bool = False) -> list[Layer]:
    """The two layers; each keyword changes one thing for the worse.

    back: how many places layer 1 looks back; look: what layer 2 compares its word with; hand:
    what layer 2 hands over; turned: matrices for `x @ w`.
    """
    c = 3 * v + n
    slots = {"word": 0, "place": v, "before": v + n, "answer": 2 * v + n}

    def move(source: str, to: str, matrix: Tensor) -> Tensor:
        w = torch.zeros(c, c)
        rows, columns = matrix.shape
        w[slots[to]:slots[to] + rows, slots[source]:slots[source] + columns] = matrix
        return w

    same, places = torch.eye(v), torch.eye(n)
    wq = move("place", "place", sharp * torch.diag(torch.ones(n - abs(back)), back))
    first = (wq, move("place", "place", places), move("word", "before", same), torch.eye(c))
    ask = move("word", "word", sharp * same) + move("word", "place", later * torch.ones(1, v))
    offer = move(look, "word", same) + move("place", "place", torch.arange(float(n))[None])
    second = (ask, offer, move(hand, "answer", same), torch.eye(c))
    layers = [first, second]
    return [tuple(w.T for w in layer) for layer in layers] if turned else layers


def _text(v: int, n: int, *tokens: int) -> Callable[[Generator], Inputs]:
    """One text; its words are renamed at random, so that no answer can be known by heart."""
    def make(rng: Generator) -> Inputs:
        names = torch.randperm(v, generator=rng).tolist()
        return {"v": v, "n": n, "tokens": [names[token] for token in tokens]}

    return make


def _wrong(**changed: object) -> Callable:
    return lambda v, n: by_hand(v, n, **changed)


def _plain_mix(layers: Callable) -> Callable:
    """Layers scaled so that every score is small."""
    return lambda v, n: [(wq / SHARP, *rest) for wq, *rest in layers(v, n)]


def _second_plain(v: int, n: int) -> list[Layer]:
    first, (wq, *rest) = by_hand(v, n, later=0.0)
    return [first, (wq / SHARP, *rest)]


def _answers_early(v: int, n: int) -> list[Layer]:
    """Layer 1 copies the word before into `answer` as well."""
    (wq, wk, wv, wo), second = by_hand(v, n)
    wv = wv.clone()
    wv[-v:, :v] = torch.eye(v)
    return [(wq, wk, wv, wo), second]


def _answers_all(v: int, n: int) -> list[Layer]:
    """The value matrix of layer 1 reads the word for every slot that is as wide."""
    (wq, wk, wv, wo), second = _answers_early(v, n)
    wv[:v, :v] = torch.eye(v)
    return [(wq, wk, wv, wo), second]


def _answers_only(v: int, n: int, later: float = 0.0) -> list[Layer]:
    """Layer 1 writes the word before into `answer`, and nothing into `before`."""
    (wq, wk, wv, wo), second = _answers_early(v, n)
    wv[v + n:-v] = 0
    return [(wq, wk, wv, wo), by_hand(v, n, later=later)[1]]


def _other_slots(v: int, n: int) -> list[Layer]:
    """Layer 2 asks in one slot and offers in another."""
    first, (_, _, wv, wo) = by_hand(v, n)
    ask, offer = torch.zeros(2, len(wv), len(wv))
    ask[v + n:-v, :v], offer[:v, v + n:-v] = SHARP * torch.eye(v), torch.eye(v)
    return [first, (ask, offer, wv, wo)]


def _first(**changed: object) -> Callable:
    """The first layer changed, the second as it should be."""
    return lambda v, n: [by_hand(v, n, **changed)[0], by_hand(v, n)[1]]


def _layer_1_at_three(v: int, n: int) -> list[Layer]:
    return _first(sharp=3 * (3 * v + n) ** 0.5)(v, n)


def _copies_all(v: int, n: int) -> list[Layer]:
    (wq, wk, wv, wo), second = by_hand(v, n)
    return [(wq, wk, torch.eye(len(wv)), wo), second]


BY_HAND = Exercise(
    "3.4", "Two layers by hand", "Your turn: two layers by hand", by_hand,
    probes=(
        Probe("a phrase of three", _text(6, 8, 0, 1, 2, 3, 4, 1, 2, 3)),
        Probe("other sizes", _text(9, 12, 0, 5, 7, 1, 8, 2, 5, 7, 1)),
        Probe("a word three times", _text(7, 10, 0, 1, 2, 1, 3, 4, 1, 5)),
        Probe("a word four times", _text(6, 11, 0, 1, 2, 1, 2, 1, 3, 4, 1)),
        Probe("the same word twice in a row", _text(5, 8, 0, 1, 2, 2, 3, 2)),
        Probe("the first word again", _text(5, 7, 3, 1, 2, 4, 3, 1)),
        Probe("a long text", _text(12, 20, 0, 3, 4, 5, 6, 7, 3, 8, 9, 10, 11, 3, 4, 9, 10)),
        Probe("one follower three times, then another", _text(3, 9, 0, 1, 0, 1, 0, 1, 0, 2, 0)),
        Probe("thirty places", _text(
            10, 30, 5, 9, 9, 3, 3, 1, 9, 5, 6, 3, 4, 1, 6, 0, 5, 1, 6, 2, 1, 8, 2, 5, 2, 6, 6, 5, 8,
            8, 4, 3)),
    ),
    misconceptions=(
        Misconception("not the latest", _wrong(later=0.0),
                      "all earlier places that fit take equal shares, so where a word stood often "
                      "the answers are mixed. Let a later place score a little more."),
        Misconception("the earliest", _wrong(later=-LATER),
                      "where a word stood several times you copy what followed the first time. The "
                      "latest is asked for."),
        Misconception("the word itself", _wrong(look="word"),
                      "the answer is the word itself: layer 2 ends at the word or at an earlier "
                      "copy of it, or hands over what it compared with. What must the token "
                      "*after* that copy know, so that it is found? Is layer 1 sharp, so that it "
                      "writes one word? And does a match always outweigh what you give for being "
                      "late?",
                      also=(_wrong(back=0), _wrong(back=-1), _wrong(hand="before"),
                            _wrong(later=2 * SHARP))),
        Misconception("late beats a match", _wrong(later=SHARP),
                      "a later place counts for more than a word that fits. All places together "
                      "must count for less than one match.",
                      also=tuple(_wrong(later=share * SHARP)
                                 for share in (0.15, 0.25, 0.3, 0.4, 0.6, 0.8))),
        Misconception("late hardly counts", _wrong(later=1.0),
                      "a later place counts for too little: two places that fit still mix. Make "
                      "one place worth several points, in scores divided by the root of c.",
                      also=(_wrong(later=0.1), _wrong(sharp=100.0, later=0.3))),
        Misconception("two places back", _wrong(back=2),
                      "layer 1 looks two places back, so layer 2 finds the word after the one that "
                      "followed."),
        Misconception("not sharp", _plain_mix(by_hand),
                      "your scores are so close to each other that every head mixes all places. "
                      "Multiply the query matrices by a large number.",
                      also=(_wrong(sharp=10.0, later=0.1), _wrong(sharp=10.0, later=0.0),
                            _plain_mix(_wrong(later=0.0)), _second_plain)),
        Misconception("the word before", _answers_early,
                      "the answer is the word that came before, not the one that followed: layer 1 "
                      "writes into `answer`, or layer 2 finds the word itself and hands over its "
                      "`before`.", also=(_answers_all, _answers_only,
                                         lambda v, n: _answers_only(v, n, LATER))),
        Misconception("layer 1 not sharp enough", _first(sharp=10.0),
                      "layer 1 is not sharp enough: it writes a mix of several words into "
                      "`before`. Its scores are divided by the root of c; multiply wq by more.",
                      also=(_first(sharp=20.0), _first(sharp=5.0), _layer_1_at_three)),
        Misconception("layer 1 copies all", _copies_all,
                      "the wv of layer 1 hands over the whole stream, so in each token two words "
                      "and two places mix. It is to read the word alone, and to write it into "
                      "`before`."),
        Misconception("queries for keys", lambda v, n: [
            (wk, wq, wv, wo) for wq, wk, wv, wo in by_hand(v, n)],
                      "the answer is the word that stood most often. Are queries and keys changed "
                      "about? wq comes first: what a token looks for. Or do those of layer 2 write "
                      "into different slots, so that all scores are 0?", also=(_other_slots,)),
        Misconception("nothing answered", lambda v, n: [
            (wq, wk, wv, torch.zeros_like(wo)) for wq, wk, wv, wo in by_hand(v, n)],
                      "nothing arrives in the slot `answer` (-1 stands for that). wv says what is "
                      "read, wo where it is written; as in nn.Linear it is `x @ w.T`, so a row of "
                      "a matrix is what one new feature reads.", also=(_wrong(turned=True),)),
    ),
    hints=(
        "Layer 1 looks one place back and copies its word into `before`. Layer 2 compares its own "
        "word with `before`, and copies the word found there into `answer`.",
        "Start each matrix with zeros(c, c) and set blocks: w[to, source] = eye. wo may be eye(c) "
        "when wv writes into the right slot. Multiply wq by 1000.",
        "For the latest place: layer 2's query needs one more feature that is always on (a row of "
        "ones over the word, times 1000 too), and its key in that feature the place divided by n, "
        "so that all places together count for less than one match.",
    ),
    adapt=lambda answer, v, n, tokens: answers(answer(v, n), v, n, tokens))

EXERCISES = [BY_HAND]
