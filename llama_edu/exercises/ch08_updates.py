"""The exercise of chapter 08 on the optimiser: 8.3 AdamW."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from ..training_loop import BETAS, EPS, adamw
from .data import Exercise, Inputs, Misconception, Probe, between, normal


def _package_adamw(weight: Tensor, gradients: Tensor, lr: float, weight_decay: float) -> Tensor:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.clone())
    optimizer = adamw(layer, weight_decay=weight_decay)
    for group in optimizer.param_groups:
        group["lr"] = lr
    for gradient in gradients:
        layer.weight.grad = gradient.clone()
        optimizer.step()
    return layer.weight.detach()


def _adamw_inputs(rng: Generator, *, size: float = 1.0, decay: float | None = None, steps: int = 3
                  ) -> Inputs:
    """A first step that is all bias correction, and some that remember it."""
    return {"weight": normal(rng, 2, 3, mean=2.0), "gradients": size * normal(rng, steps, 2, 3),
            "lr": between(rng, 0.2, 0.5),
            "weight_decay": between(rng, 0.3, 0.6) if decay is None else decay}


def _adam(*, betas: tuple[float, float] = BETAS, sign: float = 1.0,
          given: Callable = lambda g, w, decay: g,
          shrink: Callable = lambda w, lr, decay: w * (1 - lr * decay),
          corrected: tuple[bool, bool] = (True, True),
          second: Callable = lambda g: g * g,
          divide: Callable = lambda m, v: m / (v.sqrt() + EPS),
          after: Callable = lambda w, lr, decay: w, forget: bool = False,
          power: Callable[[int], int] = lambda step: step, rate: Callable = float,
          correct: Callable = lambda beta, n: 1 - beta**n, keep: bool = False,
          keep_share: Callable = float, share: Callable = lambda beta: 1 - beta
          ) -> Callable[..., Tensor]:
    """A way to take the steps, right unless told otherwise."""

    def answer(weight: Tensor, gradients: Tensor, lr: float, weight_decay: float) -> Tensor:
        w, m, v = weight, torch.zeros_like(weight), torch.zeros_like(weight)
        for step, gradient in enumerate(gradients, start=1):
            g = given(gradient, w, weight_decay)
            if forget:
                m, v = torch.zeros_like(w), torch.zeros_like(w)
            m = keep_share(betas[0]) * m + share(betas[0]) * g
            v = keep_share(betas[1]) * v + share(betas[1]) * second(g)
            now_m, now_v = (x / correct(beta, power(step)) if right else x
                            for x, beta, right in zip((m, v), betas, corrected, strict=True))
            m, v = (now_m, now_v) if keep else (m, v)
            w = shrink(w, lr, weight_decay) - sign * rate(lr) * divide(now_m, now_v)
            w = after(w, lr, weight_decay)
        return w

    return answer


def _no_shrink(w: Tensor, lr: float, decay: float) -> Tensor:
    return w


def _eps_first(weight: Tensor, gradients: Tensor, lr: float, weight_decay: float) -> Tensor:
    step = iter(range(1, len(gradients) + 1))

    def divide(m: Tensor, v: Tensor) -> Tensor:
        shrunk = (1 - BETAS[1]**next(step))**0.5
        return m / ((v.sqrt() * shrunk + EPS) / shrunk)

    return _adam(divide=divide)(weight, gradients, lr, weight_decay)


def _begun_at_first(weight: Tensor, gradients: Tensor, lr: float, weight_decay: float) -> Tensor:
    m, v = gradients[0], gradients[0]**2
    for n, g in enumerate(gradients, start=1):
        m, v = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * g * g
        step = m / (1 - BETAS[0]**n) / ((v / (1 - BETAS[1]**n)).sqrt() + EPS)
        weight = weight * (1 - lr * weight_decay) - lr * step
    return weight


def _from_the_first(weight: Tensor, gradients: Tensor, lr: float, decay: float) -> Tensor:
    shrink = lr * decay * weight
    return _adam(shrink=lambda w, lr, decay: w - shrink)(weight, gradients, lr, decay)


def _squares_of_the_mean(weight: Tensor, gradients: Tensor, lr: float, weight_decay: float
                         ) -> Tensor:
    means, mean = [], torch.zeros_like(weight)
    for gradient in gradients:
        mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
        means.append(mean)
    squares = iter(means)
    return _adam(second=lambda g: next(squares)**2)(weight, gradients, lr, weight_decay)


def _one_tensor(weight: Tensor, gradients: Tensor, lr: float, weight_decay: float) -> Tensor:
    both = torch.zeros_like(weight)
    for n, g in enumerate(gradients, start=1):
        both = BETAS[1] * (BETAS[0] * both + (1 - BETAS[0]) * g) + (1 - BETAS[1]) * g * g
        step = both / (1 - BETAS[0]**n) / ((both / (1 - BETAS[1]**n)).sqrt() + EPS)
        weight = weight * (1 - lr * weight_decay) - lr * step
    return weight


ADAMW = Exercise(
    "8.3", "AdamW by hand",
    "By hand: Adam's first step has the same length everywhere", _package_adamw,
    probes=(
        Probe("ordinary gradients", lambda rng: _adamw_inputs(rng)),
        Probe("tiny gradients", lambda rng: _adamw_inputs(rng, size=2e-5)),
        Probe("no decay", lambda rng: _adamw_inputs(rng, decay=0.0)),
        Probe("no gradient", lambda rng: _adamw_inputs(rng, size=0.0)),
        Probe("one step", lambda rng: _adamw_inputs(rng, steps=1)),
        Probe("six steps", lambda rng: _adamw_inputs(rng, steps=6)),
    ),
    misconceptions=(
        Misconception("L2 for decoupled decay",
                      _adam(given=lambda g, w, decay: g + decay * w, shrink=_no_shrink),
                      "you added the decay to the gradient: that is L2. Adam's division then "
                      "scales it differently for each weight. AdamW shrinks the weight itself, by "
                      "lr * decay."),
        Misconception("no bias correction", _adam(corrected=(False, False)),
                      "you left out the bias correction. Both averages start at zero and are too "
                      "small at first: divide them by 1 - beta**step."),
        Misconception("first moment not corrected", _adam(corrected=(False, True)),
                      "you corrected v and not m. Both averages start at zero."),
        Misconception("second moment not corrected", _adam(corrected=(True, False)),
                      "you corrected m and not v. Both averages start at zero."),
        Misconception("eps inside the root", _adam(divide=lambda m, v: m / (v + EPS).sqrt()),
                      "you put eps inside the root, as in a norm. Adam adds it after the root."),
        Misconception("no eps", _adam(divide=lambda m, v: m / v.sqrt()),
                      "you left eps out: where there is no gradient, zero is divided by zero."),
        Misconception("another eps", _adam(divide=lambda m, v: m / (v.sqrt() + 1e-8)),
                      "you used 1e-8, PyTorch's eps unless told otherwise. Llama 2 has 1e-5."),
        Misconception("another beta", _adam(betas=(BETAS[0], 0.999)),
                      "you used 0.999 for the mean square, as PyTorch does unless told otherwise. "
                      "Llama has 0.95."),
        Misconception("PyTorch's own numbers",
                      _adam(betas=(BETAS[0], 0.999), divide=lambda m, v: m / (v.sqrt() + 1e-8)),
                      "you used PyTorch's betas and eps. Llama 2 has 0.9, 0.95 and 1e-5."),
        Misconception("eps before the correction", _eps_first,
                      "you added eps to the root of v and corrected afterwards. Correct v first; "
                      "eps is then the same at every step."),
        Misconception("begun at the first gradient", _begun_at_first,
                      "you began the running means at the first gradient. They begin at zero, "
                      "which is why they need the correction."),
        Misconception("no root", _adam(divide=lambda m, v: m / (v + EPS)),
                      "you divided by the mean square. Take its root."),
        Misconception("no second moment", _adam(divide=lambda m, v: m),
                      "you did not divide by the root of v: that is momentum, not Adam."),
        Misconception("no first moment", _adam(betas=(0.0, BETAS[1])),
                      "you used this step's gradient and not its running mean m."),
        Misconception("betas exchanged", _adam(betas=(BETAS[1], BETAS[0])),
                      "you exchanged the two betas. 0.9 is for the mean, 0.95 for the mean "
                      "square."),
        Misconception("sizes for squares", _adam(second=torch.abs,
                                                 divide=lambda m, v: m / (v + EPS)),
                      "you averaged the sizes of the gradients. Average their squares, and take "
                      "the root."),
        Misconception("no decay", _adam(shrink=_no_shrink),
                      "you left the weight decay out."),
        Misconception("decay without the learning rate",
                      _adam(shrink=lambda w, lr, decay: w * (1 - decay)),
                      "you shrank by the decay alone, as the paper's algorithm 2 does. PyTorch, "
                      "and the equation here, multiply it by the learning rate.",
                      section="Whose weight decay is 0.1?"),
        Misconception("decay after the step",
                      _adam(shrink=_no_shrink, after=lambda w, lr, decay: w * (1 - lr * decay)),
                      "you shrank the weight after the step. Shrink first, then step."),
        Misconception("powers left out", _adam(power=lambda step: 1),
                      "you divided by 1 - beta at every step. At step n it is 1 - beta**n: the "
                      "correction fades."),
        Misconception("counted from 0", _adam(power=lambda step: step - 1),
                      "your first step has the number 0, so 1 - beta**0 = 0 and you divide by it. "
                      "The first step is number 1."),
        Misconception("means forgotten", _adam(forget=True),
                      "you began both running means anew at every step. They must outlive the "
                      "loop's body."),
        Misconception("the decay adds", _adam(shrink=lambda w, lr, decay: w * (1 + lr * decay)),
                      "your weight decay makes weights longer. Shrink: 1 - lr * decay."),
        Misconception("the rate twice in the decay",
                      _adam(shrink=lambda w, lr, decay: w * (1 - lr * lr * decay)),
                      "you multiplied the decay by the learning rate twice."),
        Misconception("no rate in the step", _adam(rate=lambda lr: 1.0),
                      "your step is not multiplied by the learning rate."),
        Misconception("decay without the rate, after the step",
                      _adam(shrink=_no_shrink, after=lambda w, lr, decay: w * (1 - decay)),
                      "you shrank by the decay alone, and after the step. Shrink first, by "
                      "1 - lr * decay."),
        Misconception("corrections exchanged", _adam(correct=lambda beta, n:
                                                     1 - (sum(BETAS) - beta)**n),
                      "you exchanged the two corrections: 1 - 0.9**n is for m, 1 - 0.95**n for v."),
        Misconception("multiplied by the correction",
                      _adam(correct=lambda beta, n: 1 / (1 - beta**n)),
                      "you multiplied by 1 - beta**n. The means are too small at first: divide."),
        Misconception("a product for a power", _adam(correct=lambda beta, n: abs(1 - beta * n)),
                      "you took beta * n for beta**n.",
                      also=(_adam(correct=lambda beta, n: 1 - beta * n),)),
        Misconception("counted from 2", _adam(power=lambda step: step + 1),
                      "your first step has the number 2. The first step is number 1."),
        Misconception("a millionth", _adam(divide=lambda m, v: m / (v.sqrt() + 1e-6)),
                      "you used 1e-6 for eps. Llama 2 has 1e-5."),
        Misconception("decay of the first weight", _from_the_first,
                      "your decay is a share of the weight at the beginning. It is one of the "
                      "weight as it is now."),
        Misconception("one decay", lambda weight, gradients, lr, decay: _adam(shrink=_no_shrink)(
                          weight * (1 - lr * decay), gradients, lr, decay),
                      "you shrank the weight once. Shrink it at every step."),
        Misconception("one step", lambda weight, gradients, lr, decay: _adam()(
                          weight, gradients[-1:], lr, decay),
                      "you took one step, with the last gradient. Take one for each.", also=(
                          lambda weight, gradients, lr, decay: _adam()(
                              weight, gradients[:1], lr, decay),)),
        Misconception("gradients averaged first", lambda weight, gradients, lr, decay: _adam()(
                          weight, gradients.mean(0, keepdim=True), lr, decay),
                      "you took one step with the mean gradient. Take one step for each.", also=(
                          lambda weight, gradients, lr, decay: _adam()(
                              weight, gradients.sum(0, keepdim=True), lr, decay),)),
        Misconception("one mean square for all",
                      _adam(second=lambda g: (g * g).mean().expand_as(g)),
                      "you averaged the squares over the matrix. Each weight has its own v.", also=(
                          _adam(second=lambda g: (g * g).sum().expand_as(g)),)),
        Misconception("the way instead of the place", lambda weight, gradients, lr, decay:
                      weight - _adam()(weight, gradients, lr, decay),
                      "you returned how far the weight moves. Return where it is.", also=(
                          lambda weight, gradients, lr, decay:
                          _adam()(weight, gradients, lr, decay) - weight,)),
        Misconception("0.99", _adam(betas=(BETAS[0], 0.99)),
                      "you used 0.99 for the mean square. Llama has 0.95."),
        Misconception("0.98", _adam(betas=(BETAS[0], 0.98)),
                      "you used 0.98 for the mean square. Llama has 0.95."),
        Misconception("0.9 twice", _adam(betas=(BETAS[0], BETAS[0])),
                      "you used 0.9 for both means. It is 0.95 for the squares."),
        Misconception("0.95 twice", _adam(betas=(BETAS[1], BETAS[1])),
                      "you used 0.95 for both means. It is 0.9 for the gradients."),
        Misconception("the correction kept", _adam(keep=True),
                      "you corrected the running means themselves, and went on from there. Keep m "
                      "and v as they are, and correct copies."),
        Misconception("squares of the mean", _squares_of_the_mean,
                      "you averaged the squares of m. Average the squares of the gradients."),
        Misconception("sign of the mean", _adam(divide=lambda m, v: m.sign()),
                      "you took the sign of m, as Lion does. Adam divides by the root of v."),
        Misconception("plain descent", _adam(betas=(0.0, BETAS[1]), divide=lambda m, v: m),
                      "you stepped along the gradient itself. Adam divides a running mean by the "
                      "root of another."),
        Misconception("sums for means", _adam(share=lambda beta: 1.0),
                      "you added each gradient to the running mean in full. It counts 1 - beta."),
        Misconception("shares exchanged", _adam(keep_share=lambda beta: 1 - beta,
                                                share=lambda beta: beta),
                      "you exchanged the shares in the running means. The old mean keeps beta, the "
                      "new gradient has 1 - beta."),
        Misconception("m and v are one tensor", _one_tensor,
                      "m and v are two names for one tensor, and you write to it in place. Make "
                      "two, or new values at each step."),
        Misconception("uphill", _adam(sign=-1.0),
                      "you went uphill. The step is against the gradient."),
    ),
    hints=(
        "Four lines a step: shrink the weight, two running means, one update.",
        "m = 0.9 m + 0.1 g and v = 0.95 v + 0.05 g*g, both from zero; divide each by 1 - beta**n.",
        "weight = weight * (1 - lr * weight_decay) - lr * m_hat / (v_hat.sqrt() + 1e-5)",
    ))

EXERCISES = [ADAMW]
