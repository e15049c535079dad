"""The exercises of chapter 20 on the loss: 20.2, the loss of pairs, and 20.3, how hard each pair
pulls."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ..alignment.dpo import dpo
from .ch20_sum import Said
from .data import Exercise, Inputs, Misconception, Probe, normal

# -- 20.2: the loss --------------------------------------------------------------------------------

NAMES = "chosen", "rejected", "chosen_before", "rejected_before"


def _package_loss(chosen: Tensor, rejected: Tensor, chosen_before: Tensor, rejected_before: Tensor,
                  beta: float) -> Tensor:
    """The package's, of texts of two tokens whose second has these log-probabilities."""
    sums = torch.cat([chosen, rejected])
    other = torch.log1p(-sums.exp())
    logits = torch.stack([sums, other], -1)[:, None].expand(-1, 2, -1)
    tokens = torch.zeros(len(sums), 2, dtype=torch.long)
    learn = torch.tensor([False, True]).expand(len(sums), 2)
    loss = dpo(Said(logits), {"tokens": tokens, "learn": learn, "counts": learn, "reference":
                               torch.stack([chosen_before, rejected_before], -1)},
               beta=beta, nll=0.0)
    return loss.total / loss.count


def _sums(rng: Generator, n: int, *, beta: float = 0.5, moved: float = 2.0) -> Inputs:
    """Log-probabilities of whole answers, in float64."""
    before = [-3 - 4 * normal(rng, n).double().abs() for _ in range(2)]
    now = [(each + moved * normal(rng, n).double()).clamp(max=-0.5) for each in before]
    return dict(zip(NAMES, [*now, *before], strict=True)) | {"beta": beta}


def _same(rng: Generator) -> Inputs:
    held = _sums(rng, 3)
    return held | {"chosen": held["chosen_before"].clone(),
                   "rejected": held["rejected_before"].clone()}


def _lost(rng: Generator) -> Inputs:
    """One pair is told wrongly by a thousand, as two long answers may be."""
    held = _sums(rng, 3)
    held["chosen"][1] -= 2000
    return held


def _of(margin: Callable[..., Tensor], *, loss: Callable[[Tensor], Tensor] = lambda m:
        -F.logsigmoid(m)) -> Callable:
    return lambda c, r, c0, r0, beta: loss(margin(c, r, c0, r0, beta)).mean()


def _margin(c: Tensor, r: Tensor, c0: Tensor, r0: Tensor, beta: float) -> Tensor:
    return beta * ((c - c0) - (r - r0))


LOSS = Exercise(
    "20.2", "The loss of DPO", "Your turn: the loss", _package_loss,
    probes=(
        Probe("four pairs", lambda rng: _sums(rng, 4)),
        Probe("Llama 3's beta", lambda rng: _sums(rng, 4, beta=0.1, moved=6.0)),
        Probe("before the first step", _same),
        Probe("one pair", lambda rng: _sums(rng, 1)),
        Probe("a high price", lambda rng: _sums(rng, 5, beta=2.0)),
        Probe("wrong by far", _lost),
    ),
    misconceptions=(
        Misconception("no reference", _of(lambda c, r, c0, r0, beta: beta * (c - r)),
                      "the reference is missing: answers that were unlikely from the start are "
                      "pushed most. What counts is by how much each has *moved*."),
        Misconception("exchanged", _of(lambda *of: -_margin(*of)),
                      "your margin has the other sign. Either chosen and rejected are exchanged, "
                      "or policy and reference: the rejected answer would be preferred."),
        Misconception("the reference's sides exchanged", _of(
                          lambda c, r, c0, r0, beta: beta * ((c - r0) - (r - c0))),
                      "you hold each answer against the reference of the *other* one, or add what "
                      "is to be subtracted."),
        Misconception("beta outside", _of(lambda c, r, c0, r0, beta: _margin(c, r, c0, r0, 1.0)),
                      "your beta stands nowhere inside the sigmoid. There it says how far the "
                      "policy has to go for a given certainty.",
                      also=(lambda c, r, c0, r0, beta: -beta * F.logsigmoid(
                          _margin(c, r, c0, r0, 1.0)).mean(),)),
        Misconception("divided by beta", _of(lambda c, r, c0, r0, beta: _margin(
                          c, r, c0, r0, 1 / beta)),
                      "you divided by beta. Rewards are beta times the log-ratio."),
        Misconception("beta on the policy alone", _of(
                          lambda c, r, c0, r0, beta: beta * (c - r) - (c0 - r0)),
                      "beta multiplies the policy's part and not the reference's."),
        Misconception("beta on the reference alone", _of(
                          lambda c, r, c0, r0, beta: (c - r) - beta * (c0 - r0)),
                      "beta multiplies the reference's part and not the policy's."),
        Misconception("no logarithm", _of(_margin, loss=lambda m: 1 - m.sigmoid()),
                      "your loss is a probability: it has no logarithm, and hardly pulls where the "
                      "model is most wrong.", also=(_of(_margin, loss=lambda m: -m.sigmoid()),)),
        Misconception("sigmoid, then log", _of(_margin, loss=lambda m: -m.sigmoid().log()),
                      "you took the sigmoid and then its logarithm. Where a pair is wrong by far "
                      "the sigmoid is 0, and the loss infinite: F.logsigmoid never leaves the "
                      "logarithms.", also=(_of(_margin, loss=lambda m: ((-m).exp() + 1).log()),)),
        Misconception("of the mean margin", lambda c, r, c0, r0, beta: -F.logsigmoid(
                          _margin(c, r, c0, r0, beta).mean()),
                      "that is the loss of the mean margin. Each pair has a loss of its own, and "
                      "the mean is of those: else one pair that is told rightly by far would pay "
                      "for all that are not."),
        Misconception("logarithms divided", _of(
                          lambda c, r, c0, r0, beta: beta * (c / c0 - r / r0)),
                      "you divided the log-probabilities. The logarithm of a ratio is their "
                      "*difference*."),
        Misconception("ratios for logarithms", _of(
                          lambda c, r, c0, r0, beta: beta * ((c - c0).exp() - (r - r0).exp())),
                      "your rewards are the ratios themselves. The implicit reward is beta times "
                      "the ratio's logarithm."),
        Misconception("a hinge", _of(_margin, loss=lambda m: (1 - m).relu()),
                      "yours is a hinge, which stops at a margin of 1. Bradley and Terry's loss is "
                      "-log sigmoid of the margin.", also=(_of(_margin, loss=lambda m: (-m).relu()),
                                                           )),
        Misconception("the sigmoid left out", _of(_margin, loss=torch.neg),
                      "you returned the margin itself, with the other sign: it would be pushed for "
                      "ever."),
        Misconception("the sign of the loss", _of(_margin, loss=F.logsigmoid),
                      "yours is the logarithm of a probability. A loss is its negative."),
        Misconception("each by itself", lambda c, r, c0, r0, beta: -(
                          F.logsigmoid(beta * (c - c0)) + F.logsigmoid(-beta * (r - r0))).mean(),
                      "you judge each answer by itself. Somebody compared the two: only the "
                      "difference was said.",
                      also=(lambda c, r, c0, r0, beta: -(
                          F.logsigmoid(beta * (c - c0)) + F.logsigmoid(-beta * (r - r0))
                      ).mean() / 2,)),
        Misconception("the sum", lambda c, r, c0, r0, beta: -F.logsigmoid(
                          _margin(c, r, c0, r0, beta)).sum(),
                      "you summed over the pairs; the mean is asked for."),
        Misconception("the chosen alone", _of(lambda c, r, c0, r0, beta: beta * (c - c0)),
                      "the rejected answer is missing."),
    ),
    gradients=("chosen", "rejected"),
    hints=(
        "What is the implicit reward of the chosen answer? And of the rejected one?",
        "margin = beta * (chosen - chosen_before) - beta * (rejected - rejected_before).",
        "-F.logsigmoid(margin).mean().",
    ))

# -- 20.3: how hard a pair pulls -------------------------------------------------------------------


def _package_pull(chosen: Tensor, rejected: Tensor, chosen_before: Tensor, rejected_before: Tensor,
                  beta: float) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        held = [each.clone().detach() for each in (chosen, rejected, chosen_before,
                                                   rejected_before)]
        held[0].requires_grad_(True)
        return -torch.autograd.grad(len(chosen) * _package_loss(*held, beta), held[0])[0]


def _weighed(weigh: Callable[[Tensor, float], Tensor]) -> Callable:
    return lambda c, r, c0, r0, beta: weigh(_margin(c, r, c0, r0, beta), beta)


PULL = Exercise(
    "20.3", "How hard a pair pulls", "Your turn: how hard does a pair pull?", _package_pull,
    probes=(
        Probe("four pairs", lambda rng: _sums(rng, 4)),
        Probe("before the first step", _same),
        Probe("far apart", lambda rng: _sums(rng, 5, beta=1.0, moved=8.0)),
        Probe("Llama 3's beta", lambda rng: _sums(rng, 4, beta=0.1, moved=6.0)),
        Probe("one pair", lambda rng: _sums(rng, 1)),
    ),
    misconceptions=(
        Misconception("those that are right", _weighed(lambda m, beta: beta * m.sigmoid()),
                      "yours pulls most at pairs that are right already. The other way round: "
                      "sigmoid of minus the margin."),
        Misconception("beta left out", _weighed(lambda m, beta: (-m).sigmoid()),
                      "by the chain rule there is a factor beta."),
        Misconception("beta outside alone", lambda c, r, c0, r0, beta: (
                          beta * (-_margin(c, r, c0, r0, 1.0)).sigmoid()),
                      "beta stands before your sigmoid and not inside it: there it multiplies the "
                      "margin.", also=(lambda c, r, c0, r0, beta:
                                       (-_margin(c, r, c0, r0, 1.0)).sigmoid(),)),
        Misconception("the sign", _weighed(lambda m, beta: -beta * (-m).sigmoid()),
                      "that is the gradient of the loss; the pull goes the other way."),
        Misconception("of a probability", _weighed(
                          lambda m, beta: beta * m.sigmoid() * (-m).sigmoid()),
                      "you differentiated the sigmoid and not its logarithm: pairs that are quite "
                      "wrong would not pull."),
        Misconception("the same for all", _weighed(lambda m, beta: torch.full_like(m, beta)),
                      "every pair pulls alike in yours: that is a loss without the sigmoid.",
                      also=(_weighed(lambda m, beta: torch.full_like(m, beta / 2)),
                            _weighed(lambda m, beta: torch.ones_like(m)))),
        Misconception("the loss itself", _weighed(lambda m, beta: -F.logsigmoid(m)),
                      "that is each pair's loss. Differentiate it.",
                      also=(_weighed(lambda m, beta: -beta * F.logsigmoid(m)),)),
        Misconception("the mean", _weighed(lambda m, beta: beta * (-m).sigmoid() / len(m)),
                      "you divided by the number of pairs. How hard does each pull on its own "
                      "answer, in the sum of the losses?"),
        Misconception("no reference", lambda c, r, c0, r0, beta: beta * (beta * (r - c)).sigmoid(),
                      "the reference is missing in your margin."),
        Misconception("beta twice", _weighed(lambda m, beta: beta * (-beta * m).sigmoid()),
                      "your margin has beta twice.",
                      also=(_weighed(lambda m, beta: beta**2 * (-m).sigmoid()),)),
        Misconception("hard", _weighed(lambda m, beta: beta * (m < 0).to(m.dtype)),
                      "in yours only pairs that are wrong pull. The sigmoid is soft: one that is "
                      "barely right pulls nearly as hard."),
    ),
    hints=(
        "d/dx of -log sigmoid(x) is -sigmoid(-x). What is x here, and what is dx by the chosen "
        "log-probability?",
        "The margin has the chosen log-probability with a factor beta.",
        "beta * torch.sigmoid(-margin).",
    ))

EXERCISES = [LOSS, PULL]
