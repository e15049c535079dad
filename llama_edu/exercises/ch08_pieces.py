"""The exercises of chapter 08 on what shares a batch: 8.2 unequal pieces, 8.6 documents."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from ..losses import Batch, Loss
from ..training.packing import document_mask
from ..training_loop import add_up, mean_and_clip
from .data import Exercise, Inputs, Misconception, Probe, count, normal

# -- 8.2: unequal pieces ------------------------------------------------------------------------


def _package_pieces(means: Tensor, counts: list[int]) -> Tensor:
    """The package's own adding up, on a model whose gradients are these."""
    model = nn.ParameterList([torch.zeros_like(means[0])])

    def objective(model: nn.Module, batch: Batch) -> Loss:
        return Loss((model[0] * batch["sum"]).sum(), int(batch["count"]))

    batches = ({"sum": (mean * n if n else torch.zeros_like(mean)), "count": torch.tensor(n)}
               for mean, n in zip(means, counts, strict=True))
    loss = add_up(model, batches, objective, accumulate=len(counts), where="an exercise")
    mean_and_clip(model, loss.count, float("inf"))
    return model[0].grad


def _pieces(rng: Generator, *counts: int) -> Inputs:
    means = normal(rng, len(counts), 3, mean=2.0)
    means[torch.tensor(counts) == 0] = torch.nan
    return {"means": means, "counts": list(counts)}


def _column(counts: list[int]) -> Tensor:
    return torch.tensor(counts)[:, None]


def _cleaned(answer: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, list[int]], Tensor]:
    """A mistake by one who gives an empty piece the gradient zero."""
    return lambda means, counts: answer(means.nan_to_num(0.0), _column(counts))


def _kept(answer: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, list[int]], Tensor]:
    """The same by one who leaves empty pieces out."""
    return lambda means, counts: answer(means[torch.tensor(counts) > 0],
                                        _column([n for n in counts if n]))


def _piece_slip(name: str, answer: Callable[[Tensor, Tensor], Tensor], why: str) -> Misconception:
    return Misconception(name, _cleaned(answer), why, also=(
        _kept(answer), lambda means, counts: answer(means, _column(counts))))


def _one_after_the_other(means: Tensor, n: Tensor) -> Tensor:
    mean = means[0]
    for piece in means[1:]:
        mean = (mean + piece) / 2
    return mean


PIECES = Exercise(
    "8.2", "One update from unequal pieces", "Your turn: unequal pieces, one update",
    _package_pieces,
    probes=(
        Probe("two pieces", lambda rng: _pieces(rng, 2, 7)),
        Probe("one piece", lambda rng: _pieces(rng, 5)),
        Probe("four pieces", lambda rng: _pieces(rng, 8, 3, 3, 1)),
        Probe("equal pieces", lambda rng: _pieces(rng, 4, 4, 4)),
        Probe("nothing to learn in one", lambda rng: _pieces(rng, 4, 0, 2)),
        Probe("nothing in the last", lambda rng: _pieces(rng, 6, 1, 0)),
    ),
    misconceptions=(
        _piece_slip("mean of means", lambda means, n: means.mean(0),
                    "you averaged the pieces' means, so a token in a small piece weighs more. "
                    "Weigh each piece by its tokens."),
        _piece_slip("sum of means", lambda means, n: means.sum(0),
                    "you added the pieces' means: the gradient grows with their number."),
        _piece_slip("never divided", lambda means, n: (means * n).sum(0),
                    "you made sums of the means again and did not divide by all tokens."),
        _piece_slip("divided by the pieces", lambda means, n: (means * n).mean(0),
                    "you divided by the number of pieces. Divide by the number of tokens in them."),
        _piece_slip("means taken for sums", lambda means, n: means.sum(0) / n.sum(),
                    "you took the means for sums. Multiply each by its count first."),
        _piece_slip("divided once more", lambda means, n: (means / n).sum(0) / len(n),
                    "you divided the means by their counts. They are means already: multiply."),
        _piece_slip("the last piece", lambda means, n: means[-1],
                    "you kept the last piece only. Gradients add up until they are set to zero."),
        _piece_slip("divided by the largest", lambda means, n: (means * n).sum(0) / n.max(),
                    "you divided by the largest count. Divide by all tokens together."),
        _piece_slip("the largest piece", lambda means, n: means[n[:, 0].argmax()],
                    "you kept the largest piece only. All pieces count, by their tokens."),
        _piece_slip("weights the wrong way round",
                    lambda means, n: (means / n.clamp(min=1)).sum(0) / (1 / n.clamp(min=1)).sum(),
                    "you weighed small pieces more. A piece weighs as much as it has tokens."),
        _piece_slip("softmax of the counts", lambda means, n: (means * n.float().softmax(0)).sum(0),
                    "you made weights with a softmax. The weight of a piece is its share of the "
                    "tokens."),
        _piece_slip("roots of the counts",
                    lambda means, n: (means * n.sqrt()).sum(0) / n.sqrt().sum(),
                    "you weighed by the roots of the counts. Weigh by the counts."),
        _piece_slip("squares of the counts",
                    lambda means, n: (means * n * n).sum(0) / (n * n).sum(),
                    "you weighed by the squares of the counts. Multiply by each count once."),
        _piece_slip("averaged one after the other", _one_after_the_other,
                    "you averaged each piece with the mean of all before it, so the last counts "
                    "half. Add up sums, and divide once."),
        _piece_slip("one token too many", lambda means, n: (means * n).sum(0) / (n.sum() + 1),
                    "you divided by one token more than there are."),
        Misconception("empty pieces counted",
                      lambda means, counts: (means.nan_to_num(0.0) * _column(counts)).sum(0)
                      / sum(max(n, 1) for n in counts),
                      "you counted one token for a piece that has none."),
        Misconception("an empty piece spoils all",
                      lambda means, counts: (means * _column(counts)).sum(0) / sum(counts),
                      "NaN times 0 is NaN, so one piece with nothing to learn spoils the whole "
                      "update. Leave it out."),
    ),
    hints=(
        "What would one large batch with all these tokens give?",
        "Its gradient is the sum over all tokens, divided by all tokens. A mean times its count is "
        "a sum again.",
        "NaN * 0 is NaN: choose (torch.where, or an if) before you add.",
    ))

# -- 8.6: documents in one row ------------------------------------------------------------------

BEGIN = 1


def _package_mask(tokens: Tensor, begin: int) -> Tensor:
    return document_mask((tokens == begin).cumsum(1))


def _rows(rng: Generator, *rows: str, begin: int = BEGIN) -> Inputs:
    """Rows of words; `<` begins a document. Words repeat, so that equal tokens say nothing."""
    words = {letter: begin + 1 + i for i, letter in enumerate("abc")}
    noise = count(rng, 0, 4)            # another number for every word, and for the beginning
    return {"tokens": torch.tensor([[begin + noise if letter == "<" else words[letter] + noise
                                     for letter in row] for row in rows]), "begin": begin + noise}


def _owners(tokens: Tensor, begin: int) -> Tensor:
    return (tokens == begin).cumsum(1)


def _same(owner: Tensor) -> Tensor:
    return owner[:, :, None] == owner[:, None, :]


def _apart(owner: Tensor, most: int) -> Tensor:
    """Whether two documents are at most so many apart."""
    return (owner[:, :, None] - owner[:, None, :]).abs() <= most


def _from_last(tokens: Tensor, begin: int) -> Tensor:
    owner = _owners(tokens, begin)
    return owner == owner[:, -1:]


MASK = Exercise(
    "8.6", "Documents that must not see one another", "Your turn: two tales in one row",
    _package_mask,
    probes=(
        Probe("two documents", lambda rng: _rows(rng, "<ab<a")),
        Probe("three, and a batch", lambda rng: _rows(rng, "<ab<a<cb", "<a<bbbb<", begin=5)),
        Probe("one document", lambda rng: _rows(rng, "<abc")),
        Probe("a row that begins inside a document", lambda rng: _rows(rng, "ab<cab")),
        Probe("one token", lambda rng: _rows(rng, "<")),
        Probe("documents of one token", lambda rng: _rows(rng, "<<<a<")),
    ),
    misconceptions=(
        Misconception("causal only",
                      lambda tokens, begin: _same(torch.zeros_like(tokens)).tril(),
                      "your tokens look back past the beginning of their document."),
        Misconception("looks ahead", lambda tokens, begin: _same(_owners(tokens, begin)),
                      "your tokens look ahead inside their document. Only back: `tril()`."),
        Misconception("the wrong way", lambda tokens, begin: _same(_owners(tokens, begin)).triu(),
                      "your tokens look forward. Row i, column j says whether i may look at j."),
        Misconception("not itself", lambda tokens, begin: _same(_owners(tokens, begin)).tril(-1),
                      "no token of yours sees itself, so the first of a document sees nothing."),
        Misconception("begins one late",
                      lambda tokens, begin:
                      _same(_owners(tokens, begin) - (tokens == begin).long()).tril(),
                      "you counted a begin token to the document before it. It opens its own."),
        Misconception("equal tokens", lambda tokens, begin: _same(tokens).tril(),
                      "you compared tokens. What must be equal is the number of the document: how "
                      "many have begun so far."),
        Misconception("not counted on", lambda tokens, begin: _same(tokens == begin).tril(),
                      "you compared whether tokens begin a document. Count how many have begun so "
                      "far (`cumsum`)."),
        Misconception("counted over the rows",
                      lambda tokens, begin: _same((tokens == begin).cumsum(0)).tril(),
                      "you counted down the batch. Count along the row."),
        Misconception("the first row for all",
                      lambda tokens, begin:
                      _same(_owners(tokens, begin)[:1].expand_as(tokens)).tril(),
                      "you used the first row's documents for every row."),
        Misconception("begin unseen",
                      lambda tokens, begin: _same(_owners(tokens, begin)).tril()
                      & (tokens != begin)[:, None, :],
                      "nobody may look at your begin tokens. They belong to their document."),
        Misconception("one step ahead",
                      lambda tokens, begin: _same(_owners(tokens, begin)).tril(1),
                      "your tokens also see the one after them. That is the one they are to "
                      "predict: tril() alone."),
        Misconception("the document before, too",
                      lambda tokens, begin: _apart(_owners(tokens, begin), 1).tril(),
                      "your tokens see the document before their own, too."),
        Misconception("the last document for all", lambda tokens, begin: _same(
                          torch.zeros_like(tokens)).tril() & _from_last(tokens, begin)[:, None],
                      "you let everybody look at what follows the last begin token of the row. "
                      "Each token has a document of its own.", also=(
                          lambda tokens, begin: _same(_from_last(tokens, begin)).tril(),)),
        Misconception("what does not begin is counted",
                      lambda tokens, begin: _same((tokens != begin).cumsum(1)).tril(),
                      "you counted the tokens that are no beginning. The number of a document "
                      "grows where one begins."),
        Misconception("all begin tokens seen",
                      lambda tokens, begin: (_same(_owners(tokens, begin))
                                             | (tokens == begin)[:, None, :]).tril(),
                      "your tokens see the begin tokens of other documents, too."),
        Misconception("one that has begun, or none",
                      lambda tokens, begin: _same(_owners(tokens, begin).clamp(max=1)).tril(),
                      "you asked whether any document has begun. Count how many: `cumsum`."),
        Misconception("the first document only",
                      lambda tokens, begin: _same(_owners(tokens, begin)).tril()
                      & (_owners(tokens, begin) == 1)[:, :, None],
                      "only the tokens of the first document see anything.", also=(
                          lambda tokens, begin: _same(_owners(tokens, begin)).tril()
                          & (_owners(tokens, begin) <= 1)[:, :, None],)),
        Misconception("the other documents",
                      lambda tokens, begin: (~_same(_owners(tokens, begin))).tril(),
                      "your tokens see the documents before theirs, and not their own.", also=(
                          lambda tokens, begin: ~_same(_owners(tokens, begin)),)),
        Misconception("begin tokens see nothing",
                      lambda tokens, begin: _same(_owners(tokens, begin)).tril()
                      & (tokens != begin)[:, :, None],
                      "your begin tokens see nothing, not even themselves."),
        Misconception("a cut document blind",
                      lambda tokens, begin: _same(_owners(tokens, begin)).tril()
                      & (_owners(tokens, begin) > 0)[:, :, None],
                      "the tokens before the first begin token of a row see nothing. They are what "
                      "is left of a document."),
        Misconception("True for hidden",
                      lambda tokens, begin: ~_same(_owners(tokens, begin)).tril(),
                      "your mask is the wrong way round: True is where a token may look."),
    ),
    hints=(
        "Give each token the number of its document. When does that number grow?",
        "(tokens == begin).cumsum(1) counts how many have begun so far.",
        "Compare the numbers, each with each: n[:, :, None] == n[:, None, :]. And no token ahead.",
    ))

EXERCISES = [PIECES, MASK]
