"""Exercises 1.2 and 1.5: what a norm can leave to the matrices before and after it."""

from collections.abc import Callable

from torch import Generator, Tensor
from torch.nn import functional as F

from .data import Exercise, Inputs, Misconception, Probe, normal

# -- 1.2: the mean, left to the matrix before ----------------------------------------------------


def _writer(rng: Generator, c: int, f: int) -> Inputs:
    return {"w": normal(rng, c, f, mean=2.0), "b": normal(rng, c, mean=3.0)}


def _without_mean(rng: Generator, c: int, f: int) -> Inputs:
    given = _writer(rng, c, f)
    return given | {"b": given["b"] - given["b"].mean()}


def _without(w: Tensor, b: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    return w - mean, b - mean


LEAVE_MEAN = Exercise(
    "1.2", "Leave the mean to the matrix before", "Your turn: who else could subtract it?",
    lambda w, b: (w - w.mean(0), b - b.mean()),
    probes=(
        Probe("more features than inputs", lambda rng: _writer(rng, 5, 3)),
        Probe("more inputs than features", lambda rng: _writer(rng, 3, 4)),
        Probe("a square matrix", lambda rng: _writer(rng, 4, 4)),
        Probe("two features, one input", lambda rng: _writer(rng, 2, 1)),
        Probe("a bias without a mean", lambda rng: _without_mean(rng, 3, 2)),
        Probe("one feature", lambda rng: _writer(rng, 1, 3)),
    ),
    misconceptions=(
        Misconception("rows centred",
                      lambda w, b: (w - w.mean(1, keepdim=True), b - b.mean()),
                      "you took the mean along each row of w, over the inputs. The norm's mean "
                      "runs over the features that w writes: along each column.",
                      also=(lambda w, b: (w - w.mean(1, keepdim=True), b),)),
        Misconception("one mean for all", lambda w, b: (w - w.mean(), b - b.mean()),
                      "you subtracted one mean from all of w. Each input writes a mean of its "
                      "own: one for each column.",
                      also=(lambda w, b: (w - w.mean(), b),)),
        Misconception("one mean of both", lambda w, b: _without(w, b, (w.sum() + b.sum())
                                                                / (w.numel() + b.numel())),
                      "you subtracted one mean from w and b together. Each column of w has a mean "
                      "of its own, and the bias has one.",
                      also=(lambda w, b: _without(w, b, (w.mean() + b.mean()) / 2),
                            lambda w, b: _without(w, b, w.mean()))),
        Misconception("bias left alone", lambda w, b: (w - w.mean(0), b),
                      "you left the bias as it was. It is written into the features too, and its "
                      "mean with it."),
        Misconception("only the bias", lambda w, b: (w, b - b.mean()),
                      "you centred the bias and left w as it was. Whatever w writes has a mean "
                      "too."),
        Misconception("bias removed", lambda w, b: (w - w.mean(0), b * 0),
                      "you removed the bias. Only its mean goes."),
        Misconception("sum for mean", lambda w, b: (w - w.sum(0), b - b.sum()),
                      "you subtracted the sum. The mean is the sum divided by c.",
                      also=(lambda w, b: (w - w.mean(0), b - b.sum()),
                            lambda w, b: (w - w.sum(0), b - b.mean()),
                            lambda w, b: (w - w.sum(0), b))),
        Misconception("c - 1", lambda w, b: (w - w.sum(0) / max(len(w) - 1, 1), b - b.mean()),
                      "you divided the sum by another number than c. A mean over the features is "
                      "their sum by their number, len(w).",
                      also=(lambda w, b: (w - w.sum(0) / (len(w) - 1), b - b.mean()),
                            lambda w, b: (w - w.sum(0) / (len(w) - 1),
                                          b - b.sum() / (len(b) - 1)),
                            lambda w, b: (w - w.sum(0) / max(len(w) - 1, 1),
                                          b - b.sum() / max(len(b) - 1, 1)),
                            lambda w, b: (w - w.sum(0) / w.shape[1], b - b.mean()),
                            lambda w, b: (w - w.sum(0) / w.shape[1], b - b.sum() / w.shape[1]))),
        Misconception("added", lambda w, b: (w + w.mean(0), b + b.mean()),
                      "you added the means. LayerNorm subtracts them.",
                      also=(lambda w, b: (w + w.mean(0), b - b.mean()),
                            lambda w, b: (w - w.mean(0), b + b.mean()),
                            lambda w, b: (w.mean(0) - w, b.mean() - b))),
        Misconception("taken away twice", lambda w, b: (w - 2 * w.mean(0), b - 2 * b.mean()),
                      "you took the means away twice, so that they are there with the other "
                      "sign."),
        Misconception("divided by the mean", lambda w, b: (w / w.mean(0), b / b.mean()),
                      "you divided by the mean. LayerNorm subtracts it."),
        Misconception("another middle",
                      lambda w, b: (w - w.median(0).values, b - b.median()),
                      "you subtracted something else than the mean, though along the right axis. "
                      "LayerNorm takes the mean out, so the columns must sum to zero.",
                      also=(lambda w, b: (w - w.max(0).values, b - b.max()),
                            lambda w, b: (w - w.min(0).values, b - b.min()),
                            lambda w, b: (w - w.norm(dim=0), b - b.norm()),
                            lambda w, b: (w - w.pow(2).mean(0).sqrt(), b - b.pow(2).mean().sqrt()),
                            lambda w, b: (w - w.std(0), b - b.std()))),
        Misconception("the mean of b from w", lambda w, b: (w - b.mean(), b - b.mean()),
                      "you took the mean of b away from w. Each has a mean of its own.",
                      also=(lambda w, b: (w - w.mean(0) - b.mean(), b - b.mean()),
                            lambda w, b: (w - w.mean(0) - b.mean(), b))),
        Misconception("both axes", lambda w, b: (
                          w - w.mean(0) - w.mean(1, keepdim=True) + w.mean(), b - b.mean()),
                      "you centred the rows as well. Only what lies along the features may go: "
                      "the columns.",
                      also=(lambda w, b: (w - w.mean(0) - w.mean(1, keepdim=True), b - b.mean()),)),
        Misconception("mean of the whole result",
                      lambda w, b: (w - w.mean(0), b - b.mean() - w.mean()),
                      "you took a mean of w from the bias. What w writes depends on its input, so "
                      "its mean can only be taken from w; the bias loses its own.",
                      also=(lambda w, b: (w - w.mean(0), b - w.mean()),
                            lambda w, b: (w - w.mean(0), b - w.mean(0).sum()),
                            lambda w, b: (w - w.mean(0), b - b.mean() - w.mean(0).sum()),
                            lambda w, b: (w - w.mean(0), b - w.mean(1)),
                            lambda w, b: (w - w.mean(0), b - w.sum(1)))),
        Misconception("the means themselves",
                      lambda w, b: (w.mean(0).expand(w.shape), b.mean().expand(b.shape)),
                      "you returned the means. What is wanted is what stays without them.",
                      also=(lambda w, b: (w.mean(0), b.mean()),)),
        Misconception("divided by a spread",
                      lambda w, b: ((w - w.mean(0)) / w.var(0, unbiased=False).sqrt(),
                                    b - b.mean()),
                      "you divided the columns by their spread. The division depends on the token "
                      "and stays in the norm; only the mean can move.",
                      also=(lambda w, b: ((w - w.mean(0)) / w.std(0), b - b.mean()),
                            lambda w, b: ((w - w.mean(0)) / w.var(0, unbiased=False).sqrt(),
                                          (b - b.mean()) / b.var(unbiased=False).sqrt()),
                            lambda w, b: ((w - w.mean(0)) / w.std(0),
                                          (b - b.mean()) / b.std()),
                            lambda w, b: (F.layer_norm(w.T, b.shape).T, b - b.mean()),
                            lambda w, b: (F.layer_norm(w.T, b.shape).T,
                                          F.layer_norm(b, b.shape)))),
    ),
    hints=(
        "Write the mean of the features as a sum over the inputs: which numbers of w meet input 1?",
        "Input 1 meets column 1, so the mean that it causes is h times the mean of that column.",
        "Subtract from every column of w its own mean, and from the bias its mean.",
    ))

# -- 1.5: weight and bias, left to the layer after -------------------------------------------------


def _fold_inputs(rng: Generator, f: int, c: int) -> Inputs:
    return {"norm_weight": normal(rng, c, mean=2.0), "norm_bias": normal(rng, c, mean=3.0),
            "w": normal(rng, f, c, mean=2.0), "b": normal(rng, f, mean=1.0)}


def _bias_slip(name: str, bias: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], why: str,
               also: tuple[Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], ...] = (),
               ) -> Misconception:
    """A mistake in the bias, beside the right matrix; `bias` of norm_weight, norm_bias, w, b."""
    def wrong(bias: Callable) -> Callable:
        return lambda norm_weight, norm_bias, w, b: (
            w * norm_weight, bias(norm_weight, norm_bias, w, b))

    return Misconception(name, wrong(bias), why, also=tuple(map(wrong, also)))


def _matrix_slip(name: str, matrix: Callable[[Tensor, Tensor], Tensor], why: str,
                 also: tuple[Callable[[Tensor, Tensor], Tensor], ...] = ()) -> Misconception:
    """A mistake in the matrix, of norm_weight and w; the bias right, or through that matrix."""
    def wrong(matrix: Callable) -> Callable:
        return lambda norm_weight, norm_bias, w, b: (matrix(norm_weight, w), b + w @ norm_bias)

    def both(matrix: Callable) -> Callable:
        return lambda norm_weight, norm_bias, w, b: (
            matrix(norm_weight, w), b + matrix(norm_weight, w) @ norm_bias)

    def left(matrix: Callable) -> Callable:
        return lambda norm_weight, norm_bias, w, b: (matrix(norm_weight, w), b)

    made = (wrong(matrix), *map(wrong, also), *map(left, (matrix, *also)),
            *map(both, (matrix, *also)))
    return Misconception(name, made[0], why, also=made[1:])


FOLD = Exercise(
    "1.5", "Fold a norm's weight and bias into the next layer", "In the Llamas",
    lambda norm_weight, norm_bias, w, b: (w * norm_weight, b + w @ norm_bias),
    probes=(
        Probe("more outputs than features", lambda rng: _fold_inputs(rng, 5, 3)),
        Probe("more features than outputs", lambda rng: _fold_inputs(rng, 2, 4)),
        Probe("a square matrix", lambda rng: _fold_inputs(rng, 3, 3)),
        Probe("one output", lambda rng: _fold_inputs(rng, 1, 2)),
        Probe("one feature", lambda rng: _fold_inputs(rng, 3, 1)),
    ),
    misconceptions=(
        _bias_slip("bias through the new matrix", lambda g, s, w, b: b + (w * g) @ s,
                   "you sent the norm's bias through the scaled matrix. It is added after the "
                   "norm's weight, so it meets w alone.",
                   also=(lambda g, s, w, b: b + w @ g * s.sum() / len(s),
                         lambda g, s, w, b: b + w @ (s + g))),
        _bias_slip("multiplied with b", lambda g, s, w, b: b * (w @ s),
                   "you multiplied the two biases. What w made of the norm's is added to b."),
        _bias_slip("norm's bias left out", lambda g, s, w, b: b,
                   "you left out what the norm adds. The layer must now add what w made of it."),
        _bias_slip("bias as it is", lambda g, s, w, b: b + s,
                   "you added the norm's bias past the matrix. It stands before the matrix, so it "
                   "goes through it: w @ norm_bias.",
                   also=(lambda g, s, w, b: b + s * g, lambda g, s, w, b: b + s.sum(),
                         lambda g, s, w, b: b + s.mean())),
        _bias_slip("the layer's bias lost", lambda g, s, w, b: w @ s,
                   "you lost the bias that the layer had. What the norm's bias becomes is added "
                   "to it.", also=(lambda g, s, w, b: (w * g) @ s, lambda g, s, w, b: s)),
        _bias_slip("the layer's bias scaled", lambda g, s, w, b: b * g + w @ s,
                   "you scaled the layer's own bias. It is added behind the matrix and never "
                   "meets the norm's weight.",
                   also=(lambda g, s, w, b: (b + s) * g, lambda g, s, w, b: (b + w @ s) * g,
                         lambda g, s, w, b: b * g, lambda g, s, w, b: b * g + s)),
        _bias_slip("w transposed in the bias", lambda g, s, w, b: b + w.T @ s,
                   "you sent the norm's bias through w transposed. F.linear sums over the columns: "
                   "w @ norm_bias.",
                   also=(lambda g, s, w, b: b + s @ w, lambda g, s, w, b: b + w.sum(0) * s,
                         lambda g, s, w, b: b + s @ (w * g))),
        _bias_slip("subtracted", lambda g, s, w, b: b - w @ s,
                   "you subtracted what the norm adds. The layer takes the addition over.",
                   also=(lambda g, s, w, b: b - (w * g) @ s,)),
        _bias_slip("rows summed", lambda g, s, w, b: b + w.sum(1) * s,
                   "you summed the rows of w first, so each feature's bias meets the wrong "
                   "numbers. Column c of w meets number c of norm_bias.",
                   also=(lambda g, s, w, b: b + w.sum(1) * s.mean(),
                         lambda g, s, w, b: b + w.mean(1) * s.sum())),
        _bias_slip("mean for sum", lambda g, s, w, b: b + (w * s).mean(1),
                   "you took the mean over the features. A matrix sums."),
        _bias_slip("divided by the weight", lambda g, s, w, b: b + w @ (s / g),
                   "you divided the norm's bias by its weight. The bias is added after the weight "
                   "and never meets it."),
        _matrix_slip("rows scaled", lambda g, w: w * g[:, None],
                     "you scaled the rows of w, which belong to the outputs. The norm's weight "
                     "belongs to the inputs, which are the columns.",
                     also=(lambda g, w: g.diag() @ w,)),
        _matrix_slip("weight left out", lambda g, w: w,
                     "you left the norm's weight out: column c of w is to be scaled by it."),
        _matrix_slip("one plus weight", lambda g, w: w * (1 + g),
                     "you multiplied by 1 + weight, as Gemma does. Llama multiplies by weight."),
        Misconception("taken back", lambda norm_weight, norm_bias, w, b:
                      (w / norm_weight, b - w @ norm_bias),
                      "you undid weight and bias. The layer must now do what the norm no longer "
                      "does.", also=(lambda norm_weight, norm_bias, w, b:
                                     (w / norm_weight, b - (w / norm_weight) @ norm_bias),)),
        _matrix_slip("divided", lambda g, w: w / g,
                     "you divided by the norm's weight. The layer must now do the multiplication "
                     "that the norm no longer does."),
        _matrix_slip("added", lambda g, w: w + g,
                     "you added the norm's weight. It scales the inputs, so it scales columns."),
        _matrix_slip("one factor for all", lambda g, w: w * g.mean(),
                     "you scaled all of w by one number. Each column has its own.",
                     also=(lambda g, w: w * g.sum(), lambda g, w: w * g.norm())),
        _matrix_slip("squared", lambda g, w: w * g.pow(2),
                     "you multiplied by the norm's weight twice. Once is enough."),
        Misconception("transposed", lambda norm_weight, norm_bias, w, b:
                      ((w * norm_weight).T, b + w @ norm_bias),
                      "the columns are scaled rightly, but w comes back transposed. Keep it "
                      "`f c`, as nn.Linear does."),
        Misconception("multiplied as vectors", lambda norm_weight, norm_bias, w, b:
                      (w @ norm_weight, b + w @ norm_bias),
                      "you took the product of matrix and vector, which sums over the features. "
                      "Only scale the columns: the sum comes later, with y."),
        Misconception("bias in the matrix", lambda norm_weight, norm_bias, w, b:
                      (w * norm_weight + norm_bias, b),
                      "you added the norm's bias to the matrix, where it would be multiplied by "
                      "y. What does not depend on y belongs into the bias.",
                      also=(lambda norm_weight, norm_bias, w, b:
                            (w * (norm_weight + norm_bias), b),)),
        Misconception("the other order", lambda norm_weight, norm_bias, w, b:
                      (b + w @ norm_bias, w * norm_weight),
                      "you returned the bias first. w comes first, as F.linear takes them."),
    ),
    hints=(
        "Write one output as a sum over features: w times (y times norm_weight plus norm_bias), "
        "plus b. Regroup: what depends on y?",
        "Feature c of y meets column c of w, scaled by number c of norm_weight, and nothing else. "
        "norm_bias meets w as it was.",
        "w is `f c` and norm_weight `c`: broadcasting already lines up the last axes. The bias is "
        "b plus w @ norm_bias.",
    ))

EXERCISES = [LEAVE_MEAN, FOLD]
