"""Direct preference optimisation: a policy learns from pairs of answers, without a reward model.

    pairs = [answer_pair(prompt, better, worse, tokenizer, form, length=256), ...]
    pairs = with_reference(model, pairs, size=16)       # as the model is before its first step
    for step in train(model, batches(pairs, size=8, seed=0), dpo, lr=..., steps=...): ...
    chosen, rejected = rewards(model, pairs, size=16).T

The best policy for a reward r, held near a reference by beta KL, has r = beta log(policy /
reference) + what the prompt alone decides (Rafailov et al. 2023, eq. 5). Read backwards, every
policy holds a reward, and Bradley and Terry's loss can be asked of it: what the prompt decides is
lost in the difference. Llama 3's two changes are here, too: its formatting tokens are left out of
the rewards, and the chosen answer is learnt as in SFT with a weight of 0.2 (Grattafiori et al.
2024, section 4.1.4).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ..losses import Batch, Loss, learnt_log_probs
from ..model import Llama
from ..prompts.dialog import Format, Message, dialog_tokens, n_shared, stop_ids
from ..tokenizer import Tokenizer
from .messages import shorter
from .preferences import orders, right

BETA, NLL = 0.1, 0.2            # Llama 3's
NOTES = "accuracy", "margin", "chosen", "rejected"
WITHOUT = ("pairs without a reference were given; its log-probabilities are needed. Ask "
           "with_reference for them, before the first step.")


@dataclass(frozen=True, eq=False)
class AnswerPair:
    """A prompt with each of two answers, as documents `t 3`: every token beside whether the answer
    has it, and whether it counts for the answer's reward.

    reference: log-probabilities `2` of what counts, by the model from which training begins; see
    `with_reference`. Raises ValueError where both are the same, as nothing can be learnt from that,
    and where one has no answer.
    """

    chosen: Tensor
    rejected: Tensor
    reference: Tensor | None = None

    def __post_init__(self) -> None:
        for name, document in (("chosen", self.chosen), ("rejected", self.rejected)):
            if not document[1:, 1].any():
                raise ValueError(f"the {name} text has no token of an answer after a first token; "
                                 "one is needed. Leave it out.")
        if torch.equal(self.chosen, self.rejected):
            raise ValueError(f"both texts of a pair are the same {len(self.chosen)} tokens; two "
                             "that differ are needed. Leave it out.")

    @classmethod
    def of(cls, prompt: Tensor, chosen: Tensor, rejected: Tensor, *,
           formatting: Collection[int] = ()) -> Self:
        """From tokens `t`, as `rejection.samples` draws answers, end tokens included. formatting:
        tokens of an answer that do not count, such as `stop_ids`."""
        return cls(*(document(prompt, answer, formatting=formatting)
                     for answer in (chosen, rejected)))


def document(prompt: Tensor, answer: Tensor, *, formatting: Collection[int] = ()) -> Tensor:
    """One answer `t` to a prompt `t` as `AnswerPair` takes it; see there and in `of`."""
    tokens = torch.cat([prompt, answer])
    is_answer = torch.arange(len(tokens)) >= len(prompt)
    return _marked(tokens, is_answer, torch.tensor([*formatting], dtype=tokens.dtype))


def _marked(tokens: Tensor, learn: Tensor, masked: Tensor) -> Tensor:
    return torch.stack([tokens, learn, learn & ~torch.isin(tokens, masked)], dim=-1)


def answer_pair(prompt: Sequence[Message], chosen: Sequence[Message], rejected: Sequence[Message],
                tokenizer: Tokenizer, form: Format, *, length: int, end_counts: bool = False
                ) -> AnswerPair:
    """A pair in tokens, with as many of the last turns as leave both texts within `length` tokens.

    An answer may have several messages; what the assistant says in them is learnt. end_counts:
    whether its end tokens count for the reward; Llama 3 leaves them out. Headers never do.

    Raises ValueError where one turn is too long, and as `AnswerPair` and `dialog_tokens` do.
    """
    masked = torch.tensor(sorted(() if end_counts else stop_ids(tokenizer, form)))
    for begun in shorter(prompt):
        texts = [_read(begun, answer, tokenizer, form, masked) for answer in (chosen, rejected)]
        if (longest := max(map(len, texts))) <= length:
            return AnswerPair(*texts)
    raise ValueError(f"its last turn has {longest} tokens with the longer answer and what always "
                     f"stands before it, and there is room for {length}. Make rows longer, or "
                     "leave it out.")


def _read(prompt: Sequence[Message], answer: Sequence[Message], tokenizer: Tokenizer,
              form: Format, masked: Tensor) -> Tensor:
    ids, said = map(torch.tensor, dialog_tokens([*prompt, *answer], tokenizer, form))
    # Where the two part company the answer begins: its first token may have swallowed a space.
    said[:n_shared(ids.tolist(), dialog_tokens(prompt, tokenizer, form).ids)] = False
    return _marked(ids, said, masked)


# -- batches -----------------------------------------------------------------------------------

def with_reference(model: Llama, pairs: Sequence[AnswerPair], *, size: int) -> list[AnswerPair]:
    """The same pairs, each with its reference: once, by the model as it is now, before the first
    step. A second model need not be kept for it. size: pairs that are read at once."""
    return [replace(each, reference=found)
            for each, found in zip(pairs, _both(model, pairs, size=size), strict=True)]


def together(pairs: Sequence[AnswerPair]) -> Batch:
    """Pairs as one batch, which is read in one pass: the rows of all chosen texts, then those of
    all rejected ones, as `laid_out` has them; and their references `b 2`, where all have one."""
    batch = laid_out([each.chosen for each in pairs] + [each.rejected for each in pairs])
    known = [each.reference for each in pairs if each.reference is not None]
    return batch | ({"reference": torch.stack(known)} if len(known) == len(pairs) else {})


def laid_out(documents: Sequence[Tensor]) -> Batch:
    """Documents `t 3` as tokens, learn and counts `b t`, with padding that is neither learnt nor
    counted."""
    tokens, learn, counts = pad_sequence(documents, batch_first=True).unbind(-1)
    return {"tokens": tokens.long(), "learn": learn.bool(), "counts": counts.bool()}


def batches(pairs: Sequence[AnswerPair], *, size: int, seed: int, start: int = 0
            ) -> Iterator[Batch]:
    """Batches of `size` pairs without end, every epoch in another order, from batch number `start`
    on. Raises as `orders` does."""
    for some in islice(orders(len(pairs), size=size, seed=seed), start, None):
        yield together([pairs[i] for i in some])


# -- the loss ----------------------------------------------------------------------------------

def dpo(model: Llama, batch: Batch, *, beta: float = BETA, nll: float = NLL) -> Loss:
    """-log sigmoid(margin) in nats, summed over the pairs of a batch (Rafailov et al. 2023, eq. 7):
    the margin is beta times by how much more the policy has raised the chosen answer's
    log-probability over the reference's than the rejected one's.

    nll: weight of the chosen answer's cross-entropy, the mean over its tokens, end tokens among
    them even where these do not count (Pang et al. 2024, eq. 1). Notes: accuracy, margin, and the
    log-probabilities of what counts in the chosen and in the rejected answer.

    Raises ValueError for pairs without a reference.
    """
    if "reference" not in batch:
        raise ValueError(WITHOUT)
    found = learnt_log_probs(model, batch)
    sums = counted(found, batch)
    chosen, rejected = (beta * (sums - batch["reference"])).unbind(-1)
    margins = chosen - rejected
    total = -F.logsigmoid(margins).sum()
    if nll:
        said, learn = found.chunk(2)[0], batch["learn"][:, 1:].chunk(2)[0]
        total = total - nll * (said.sum(-1) / learn.sum(-1)).sum()
    notes = right(margins), margins, *sums.unbind(-1)
    return Loss(total, len(margins), {name: note.sum().item()
                                      for name, note in zip(NOTES, notes, strict=True)})


def counted(log_probs: Tensor, batch: Batch) -> Tensor:
    """The sums over what counts, `b 2`, of rows of chosen texts and then of rejected ones."""
    return torch.stack((log_probs * batch["counts"][:, 1:]).sum(-1).chunk(2), dim=-1)


# -- what a policy thinks of answers -----------------------------------------------------------

def rewards(model: Llama, pairs: Sequence[AnswerPair], *, size: int, beta: float = BETA) -> Tensor:
    """The implicit rewards beta log(policy / reference) of both answers of each pair, `n 2`. Raises
    ValueError for pairs without a reference."""
    if any(each.reference is None for each in pairs):
        raise ValueError(WITHOUT)
    before = torch.stack([each.reference for each in pairs])
    return beta * (_both(model, pairs, size=size) - before)


def _both(model: Llama, pairs: Sequence[AnswerPair], *, size: int) -> Tensor:
    texts = ([each.chosen for each in pairs], [each.rejected for each in pairs])
    return torch.stack([log_probs(model, each, size=size) for each in texts], dim=-1)


@torch.no_grad()
def log_probs(model: Llama, documents: Sequence[Tensor], *, size: int) -> Tensor:
    """The log-probability of what counts in each of n documents `t 3`, `n`, in nats, on the CPU.
    size: documents that are read at once."""
    device, found = model.tok_embeddings.weight.device, []
    for start in range(0, len(documents), size):
        batch = {name: tensor.to(device)
                 for name, tensor in laid_out(documents[start:start + size]).items()}
        found.append((learnt_log_probs(model, batch) * batch["counts"][:, 1:]).sum(-1).cpu())
    return torch.cat(found) if found else torch.zeros(0)
