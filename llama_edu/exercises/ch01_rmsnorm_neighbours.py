"""Exercises 1.2 and 1.5: what a norm can leave to the matrices before and after it."""

from torch import Generator
from torch.nn import functional as F

from .data import Exercise, Inputs, Misconception, Probe, normal

# -- 1.2: the mean, left to the matrix before ----------------------------------------------------


def _writer(rng: Generator, c: int, f: int) -> Inputs:
    return {"w": normal(rng, c, f, mean=2.0), "b": normal(rng, c, mean=3.0)}


def _without_mean(rng: Generator, c: int, f: int) -> Inputs:
    given = _writer(rng, c, f)
    return given | {"b": given["b"] - given["b"].mean()}


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
        Misconception("bias left alone", lambda w, b: (w - w.mean(0), b),
                      "you left the bias as it was. It is written into the features too, and its "
                      "mean with it."),
        Misconception("only the bias", lambda w, b: (w, b - b.mean()),
                      "you centred the bias and left w as it was. Whatever w writes has a mean "
                      "too."),
        Misconception("bias removed", lambda w, b: (w - w.mean(0), b * 0),
                      "you removed the bias. Only its mean goes."),
        Misconception("sum for mean", lambda w, b: (w - w.sum(0), b - b.sum()),
                      "you subtracted the sum. The mean is the sum divided by c."),
        Misconception("mean of the whole result",
                      lambda w, b: (w - w.mean(0), b - b.mean() - w.mean()),
                      "you took a mean of w from the bias as well. What w writes depends on its "
                      "input, so its mean can only be taken from w."),
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

# -- 1.5: the weight, left to the matrix after -----------------------------------------------------


def _fold_inputs(rng: Generator, f: int, c: int) -> Inputs:
    return {"norm_weight": normal(rng, c, mean=2.0), "w": normal(rng, f, c, mean=2.0)}


FOLD = Exercise(
    "1.5", "Fold a norm's weight into the next layer", "In the Llamas",
    lambda norm_weight, w: w * norm_weight,
    probes=(
        Probe("more rows", lambda rng: _fold_inputs(rng, 5, 3)),
        Probe("more columns", lambda rng: _fold_inputs(rng, 2, 4)),
        Probe("a square matrix", lambda rng: _fold_inputs(rng, 3, 3)),
        Probe("bfloat16", lambda rng: {name: value.bfloat16() for name, value
                                       in _fold_inputs(rng, 4, 2).items()}),
    ),
    misconceptions=(
        Misconception("rows scaled", lambda norm_weight, w: w * norm_weight[:, None],
                      "you scaled the rows of w, which belong to the outputs. The norm's weight "
                      "belongs to the inputs, which are the columns.",
                      also=(lambda norm_weight, w: norm_weight.diag() @ w,)),
        Misconception("one plus weight", lambda norm_weight, w: w * (1 + norm_weight),
                      "you multiplied by 1 + weight, as Gemma does. Llama multiplies by weight."),
        Misconception("divided", lambda norm_weight, w: w / norm_weight,
                      "you divided by the norm's weight. The layer must now do the multiplication "
                      "that the norm no longer does."),
        Misconception("added", lambda norm_weight, w: w + norm_weight,
                      "you added the norm's weight. It scales the inputs, so it scales columns."),
        Misconception("transposed", lambda norm_weight, w: (w * norm_weight).T,
                      "the columns are scaled rightly, but w comes back transposed. Keep it "
                      "`f c`, as nn.Linear does."),
        Misconception("squared", lambda norm_weight, w: w * norm_weight.pow(2),
                      "you multiplied by the norm's weight twice. Once is enough."),
        Misconception("multiplied as vectors", lambda norm_weight, w: w @ norm_weight,
                      "you took the product of matrix and vector, which sums over the features. "
                      "Only scale the columns: the sum comes later, with y."),
    ),
    hints=(
        "Write one output as a sum over features: w times (y times norm_weight). Regroup.",
        "Feature c of y meets column c of w, and nothing else.",
        "w is `f c` and norm_weight `c`: broadcasting already lines up the last axes.",
    ))

EXERCISES = [LEAVE_MEAN, FOLD]
