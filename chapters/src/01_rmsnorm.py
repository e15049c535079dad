# %% [markdown]
# # 01 · RMSNorm: what was the mean worth?
#
# **The question.** A network of eighty layers works only if the numbers inside it stay at a
# reasonable size. LayerNorm, the classic cure, subtracts a mean and divides by a spread. Every
# Llama keeps the division and throws the subtraction away. How can half of a cure be enough?
#
# | you will build | you need | minutes |
# |---|---|---|
# | `RMSNorm`, as it stands in `llama_edu.layers`, and its way back | a little PyTorch: tensors, `mean`, broadcasting; for the last exercise the chain rule | 120 |

# %%
import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llama_edu import claims, layers, load, plots
from llama_edu.config import ModelConfig
from llama_edu.data import tales
from llama_edu.exercises import check, hint, reveal, suspects
from llama_edu.family.accounting import parameters
from llama_edu.family.releases import RELEASES, release
from llama_edu.layers import widen
from llama_edu.tokenizer import installed

plots.use_style()
torch.set_num_threads(1)  # small tensors: threads would wait for one another

# %% [markdown]
# > **Predict.** Inside a network a *token* (a word, or a piece of one) is a list of numbers, its
# > *features*. Take four: 1, 2, 3 and 6. LayerNorm turns them into numbers with mean 0. RMSNorm
# > leaves the mean in. From which of the two does the *largest* of the four come out larger? Write
# > your guess between the quotes, and run the cell.

# %%
guess = "?"    # "LayerNorm" or "RMSNorm"

# %% [markdown]
# ## By hand: four numbers through both norms
#
# LayerNorm first. Subtract the mean, then divide by the standard deviation: the root of the average
# squared distance from that mean. Plain Python is enough.

# %%
x = [1.0, 2.0, 3.0, 6.0]

mean = sum(x) / len(x)
variance = sum((value - mean) ** 2 for value in x) / len(x)
by_layer_norm = [(value - mean) / variance**0.5 for value in x]

print("mean", mean, "  variance", variance)
print("LayerNorm:", [round(value, 3) for value in by_layer_norm])

# %% [markdown]
# RMSNorm skips the first step. It divides by the *root mean square*: square the numbers, take the
# mean, take the root.

# %%
mean_square = sum(value**2 for value in x) / len(x)
by_rms_norm = [value / mean_square**0.5 for value in x]

print("mean square", mean_square, "  root", round(mean_square**0.5, 3))
print("RMSNorm:  ", [round(value, 3) for value in by_rms_norm])
rms_wins = max(by_rms_norm) > max(by_layer_norm)
reveal("the larger one comes from", guess,
       "RMSNorm" if rms_wins else "LayerNorm")

# %% [markdown]
# Only just: 1.697 against 1.604. The small numbers tell more. LayerNorm made two of them negative
# and one zero; after RMSNorm all four keep their sign and their proportions: 6 is still
# three times 2.
#
# The two divisors are related. The mean square is the variance plus the squared mean, so RMSNorm
# divides by more whenever the mean is not zero:

# %%
print(f"{mean_square} = {variance} + {mean**2}")
assert mean_square == variance + mean**2

# %% [markdown]
# ## The idea: put every token on one sphere
#
# Following Zhang and Sennrich (2019, eq. 4), with an $\epsilon$ added, RMSNorm of a vector $x$ of
# $c$ features is
#
# $$ \mathrm{RMSNorm}(x)_i = \frac{x_i}{\mathrm{RMS}(x)}\, w_i, \qquad
#    \mathrm{RMS}(x) = \sqrt{\tfrac{1}{c}\textstyle\sum_{j=1}^{c} x_j^2 + \epsilon} $$
#
# Here $w$ is a learnt vector, the *weight* (or *gain*), one number a feature, that starts at one.
# $\epsilon$ is a small
# number that keeps the division safe when $x$ is all zeros. Meta's code puts it inside the root,
# and so do we.
#
# After the division the squares of a token's features have mean 1. So every token lies at the same
# distance from the origin: $\sqrt c$. Its *direction* is what is left. With two features we can see
# this, and we see what LayerNorm does as well.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Random points in a plane. RMSNorm moves each of them along its ray to a circle of radius 1.41; LayerNorm collapses all of them to just two points."}}
torch.manual_seed(0)
points = torch.randn(60, 2) * 1.2 + torch.tensor([0.6, 0.2])
on_circle = F.normalize(points) * 2**0.5      # the same direction, √2 long
on_line = F.layer_norm(points, (2,), eps=1e-12)

fig, panels = plots.figure(
    "RMSNorm keeps each token's direction, LayerNorm does not", x="feature 1",
    y="feature 2", columns=2)
for ax, after, name in zip(panels, (on_circle, on_line),
                           ("RMSNorm", "LayerNorm"), strict=True):
    for start, end in zip(points, after, strict=True):
        ax.plot(*zip(start, end, strict=True), color="#cccccc", linewidth=0.6)
    ax.plot(*points.T, "o", color=plots.SKY, markersize=3)
    ax.plot(*after.T, "o", color=plots.VERMILION, markersize=5)
    ax.set(title=name, aspect="equal", xlim=(-3, 4), ylim=(-3, 3.5))

# %% [markdown]
# Blue is before, red is after. On the left each token slides along its ray to the circle. On the
# right sixty tokens become two points: with two features, once the mean is gone there is nothing
# left but the question which feature was larger.
#
# ## Your turn: divide by the root
#
# You have the equation; now write it for tensors. Replace the `raise`, run the cell, and the check
# under it says which mistake you made, when it is one that people make; `hint("1.1")` gives one
# hint more at each call, and solutions are in [their own notebook](../solutions/01_rmsnorm.ipynb).
#
# Shapes are written with one letter an axis: `c` is the features, and `... c` any number of axes
# before them (a batch `b` of texts, say, of `t` tokens each). Large squares do not fit into 16-bit
# numbers, so the root is computed in float32, whatever comes in, and the result returns to the
# dtype of `x`. (Before or after the weight: both pass here; the next section picks one.)

# %%
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Exercise 1.1 ●○○ 5 min. Divide each token of `x`, of shape `... c`, by its root mean square
    over the features, with `eps` inside the root. Then multiply feature by feature with `weight`,
    of shape `c`. Compute the root in float32, and return the dtype of `x`.
    """
    ### BEGIN SOLUTION
    wide = x.float()
    root = (wide.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return (wide / root).type_as(x) * weight
    ### END SOLUTION


check("1.1", rms_norm)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 1.1.** Most wrong answers here give numbers of a sensible size, so nothing
# crashes. *Epsilon outside the root* is invisible on ordinary tokens and wrong on small ones. *The
# mean subtracted* is what everyone knows from LayerNorm; a real Llama run with it answers in fluent
# nonsense, because every weight was trained for tokens whose mean is still there. *No float32
# inside* works in every test with small numbers and erases a large token in float16. *The wrong
# axis* lets one token change another, which breaks generation with a cache: a token's past must not
# depend on how many tokens are in the batch.
# ### END SOLUTION
#
# ## Build it: from a loop to the module
#
# First the naive way, feature by feature, for one token. It is here so that we can trust what
# follows.

# %%
def rms_norm_loop(
    token: list[float], weight: list[float], eps: float
) -> list[float]:
    """One token, plain numbers. Zhang & Sennrich 2019, eq. 4."""
    total = 0.0
    for value in token:
        total += value * value
    root = (total / len(token) + eps) ** 0.5
    return [value / root * scale
            for value, scale in zip(token, weight, strict=True)]


rms_norm_loop([1.0, 2.0, 3.0, 6.0], [1.0, 1.0, 1.0, 10.0], 1e-5)

# %% [markdown]
# Then the form that stands in the package, as a *module*: an object that keeps its weight between
# calls. Three things are new. It takes any number of axes in front and works on the last one. It
# multiplies by `rsqrt`, one over the root, where we divided. And it goes to float32 and back
# (`widen` leaves float64 alone), for which there is a section below.

# %% twin="llama_edu.layers.RMSNorm"
class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = widen(x)
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * scale).type_as(x) * self.weight


# %% [markdown]
# This cell is a *twin*: a test compares it with `llama_edu.layers.RMSNorm`, so what you read here is
# what the course runs. From the next chapter on we import it.
#
# Note the order at the end. The token goes back to its own dtype *before* the weight is applied,
# as in Meta's code. In float32 this makes no difference. In bfloat16 (16 bits: the range of float32
# with two to three decimal digits) it moves the last bit here and there, and whoever compares two
# implementations bit by bit will meet it.
#
# ## Prove it: against the loop and against PyTorch
#
# The weights are made unequal and epsilon large on purpose. With weights of one and a tiny epsilon
# a wrong implementation can pass.

# %%
torch.manual_seed(0)
norm = RMSNorm(6, eps=0.1)
norm.weight.data = torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
batch = torch.randn(2, 3, 6) * 4

for b in range(2):
    for t in range(3):
        slow = rms_norm_loop(batch[b, t].tolist(), norm.weight.tolist(), 0.1)
        torch.testing.assert_close(norm(batch)[b, t], torch.tensor(slow))
packaged = F.rms_norm(batch, (6,), norm.weight, eps=0.1)
torch.testing.assert_close(norm(batch), packaged)
print("equal to the loop and to torch.nn.functional.rms_norm")

# %% [markdown]
# ## Why float32 inside? Because 256 squared does not fit
#
# Llama 1 and 2 were run in float16. Its largest number is 65,504. The norm squares its input, and
# $256^2 = 65{,}536$. Let us take the float32 step out and see.

# %%
def rms_norm_narrow(x: Tensor, eps: float) -> Tensor:
    """RMSNorm computed in whatever dtype x has."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


signs = torch.tensor([1.0, -1.0]).repeat(2048)
for size in (100.0, 255.0, 256.0, 300.0):
    token = (signs * size).half()
    narrow = rms_norm_narrow(token, 1e-5)[0].item()
    inside = RMSNorm(4096, 1e-5)(token)[0].item()
    print(f"|x| = {size:5.0f}   float16 gives {narrow:.3f}"
          f"   float32 inside gives {inside:.3f}")

# %% [markdown]
# No error, no `nan`: zeros. The square overflows to infinity, one over the root of infinity is
# zero, and the token is silently erased. (The sum may pass the limit: at 100 it is 41 million.
# PyTorch adds up in float32 inside `mean`. It is each single square that must fit.)
#
# > **Predict.** Now *one* feature of 4,096 is 300 and all others are 0.5. How many features does
# > float16 leave different from zero?

# %%
guess = None    # a number from 0 to 4096

# %%
token = torch.full((4096,), 0.5).half()
token[7] = 300.0
reveal("features left", guess,
       int(rms_norm_narrow(token, 1e-5).count_nonzero()))

# %% [markdown]
# One is enough: all features share one root. Do such features exist? Sun et al. (2024) found them
# in trained Llamas and called them *massive activations*. We look into two models: the small teller
# of tales that comes with this package (96 features), and SmolLM2-135M-Instruct (576), a relative
# of the Llamas with the same architecture and other weights. A *hook* is a function that PyTorch
# calls with what a module reads; we hang one on every norm. (About five seconds.)

# %%
TALE = next(tales.stories(1, seed=1))


def norm_inputs(model: nn.Module, ids: list[int]) -> list[Tensor]:
    """What each norm of a model reads, `t c`, from the first to the last."""
    seen: list[Tensor] = []

    def note(_: nn.Module, given: tuple[Tensor]) -> None:
        seen.append(given[0][0])

    hooks = [part.register_forward_pre_hook(note) for part in model.modules()
             if isinstance(part, layers.RMSNorm)]
    with torch.inference_mode():
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return seen


streams = {}
for name in ("tales", "smollm2"):
    if name == "smollm2" and installed.find(name) is None:
        print(installed.how_to_get(name))
        continue
    model, tokenizer = load(name)
    ids = tokenizer.encode(TALE, bos=tokenizer.adds_bos)
    streams[name] = norm_inputs(model, ids)

# %%
for name, inputs in streams.items():
    erased = [int((rms_norm_narrow(x.half(), 1e-5) == 0).all(-1).sum())
              for x in inputs]
    largest = max(float(x.abs().max()) for x in inputs)
    n_tokens, n_norms = len(inputs) * len(inputs[0]), sum(n > 0 for n in erased)
    print(f"{name}: the largest feature is {largest:,.0f}")
    print(f"    float16 erases {sum(erased)} of {n_tokens:,} tokens,"
          f" in {n_norms} of {len(erased)} norms")
    if name == "smollm2":
        assert n_norms > len(erased) / 2
        assert 0.15 < sum(erased) / n_tokens < 0.25

# %% [markdown]
# Both models have some. In the larger one float16 would erase tokens in 53 of its 61 norms, of all
# that these norms read about a fifth. bfloat16 has the range of float32, so it erases nothing, at
# the price of digits:

# %%
sizes = torch.logspace(-5, 4, 181)
given = signs[:64] * sizes[:, None]
kinds = {"float16 throughout": given.half(),
         "bfloat16 throughout": given.bfloat16(),
         "float32 inside": given.half().float()}
after = {name: rms_norm_narrow(x, 1e-5).abs().mean(-1).float()
         for name, x in kinds.items()}

off = (after["bfloat16 throughout"] - after["float32 inside"]).abs().max()
print(f"bfloat16 is off by {off:.1%} at most")
assert (after["float16 throughout"] == 0).equal(sizes.half() >= 256)
for eps, is_number in ((1e-5, True), (1e-6, True), (1e-8, False)):
    assert (torch.tensor(eps).half() > 0) == is_number

# %% tags=["hide-input"] mystnb={"image": {"alt": "Size of a normalised token against the size of its features, from 0.00001 to 10,000. Float16 arithmetic drops to zero from 256 upwards; bfloat16 and float32 inside stay at one. Below about 0.003 all three fall towards zero together, because epsilon takes over."}}
fig, ax = plots.figure(
    "float16 arithmetic erases a token from 256 on, bfloat16 does not",
    x="size of the features |x|", y="size after the norm (should be 1)")
for name, style in zip(after, ("-", "-", "--"), strict=True):
    ax.semilogx(sizes, after[name], style, label=name)
_ = ax.legend(loc="lower center")

# %% [markdown]
# At the far left epsilon takes over, in all three, as it should. (That works in float16 because the
# Llamas' epsilons, 1e-6 and 1e-5, are numbers there. 1e-8 is not: it becomes zero.) The cure costs
# one cast. Meta's code, `transformers` and ours all do it.
#
# ## How much of a token is its mean?
#
# LayerNorm removes one direction out of $c$: the direction in which all features are equal. In the
# figure of the sphere that was one of two. The Llamas have from 2,048 features (3.2 1B) to 16,384
# (405B).
#
# So which share of a token's squared length goes with the mean? The mean square is variance plus
# squared mean, so it is the squared mean by the mean square. For random features, independent and
# centred at zero, that is about $1/c$. Trained networks might put something into the mean; so we ask the two models at
# each of their norms.

# %%
torch.manual_seed(0)
widths = [2**power for power in range(1, 13)]


def mean_share(x: Tensor) -> float:
    """The share of the squared length in the mean, averaged over tokens."""
    return float((x.mean(-1) ** 2 / x.pow(2).mean(-1)).mean())


shares = [mean_share(torch.randn(2000, c)) for c in widths]
found = {inputs[0].shape[-1]: list(map(mean_share, inputs))
         for inputs in streams.values()}
print(f"random tokens: {shares[0]:.2f} at c = 2, {shares[-1]:.2%} at c = 4096")
for c, each in found.items():
    print(f"trained, c = {c}: {min(each):.2%} to {max(each):.2%};"
          f" 1/c is {1 / c:.2%}")
    assert max(each) < 2 / c
dims = {r.config.dim for r in RELEASES}
assert (min(dims), max(dims)) == (2048, 16_384)

# %% tags=["hide-input"] mystnb={"image": {"alt": "On logarithmic axes the share of a random token's squared length that its mean carries falls like one over the width, from about a half at two features to 0.02 percent at 4096. The norms of two trained models, at 96 and 576 features, lie near that line or below twice its height."}}
fig, ax = plots.figure("In a wide network the mean carries next to nothing",
                       x="features c", y="share of squared length in the mean")
ax.loglog(widths, shares, "o", label="2,000 random tokens")
ax.loglog([c for c in found for _ in found[c]],
          [y for c in found for y in found[c]], "_", color=plots.VERMILION,
          markersize=14, label="each norm of a trained model")
ax.loglog(widths, [1 / c for c in widths], "--", color=plots.BLACK,
          label="1 / c")
_ = ax.legend()

# %% [markdown]
# In these two models there is little to lose. And if a network wants the mean gone?
#
# ## Your turn: who else could subtract it?
#
# Before LayerNorm stands a linear layer that writes what the norm reads: `y = w h + b`, with `w` of
# shape `c f` (from `f` inputs to `c` features). Change `w` and `b` so that RMSNorm, which subtracts
# nothing, gives what LayerNorm gave, for every input `h` and every epsilon.

# %%
def leave_mean(w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Exercise 1.2 ●●○ 8 min. Return the `w`, of shape `c f`, and the `b`, of shape `c`, that spare
    LayerNorm its first step: RMSNorm of `F.linear(h, *leave_mean(w, b))` is to equal LayerNorm of
    `F.linear(h, w, b)` for every `h` of shape `... f`, both over the `c` features, with one epsilon
    and without a weight.
    """
    ### BEGIN SOLUTION
    return w - w.mean(0), b - b.mean()
    ### END SOLUTION


check("1.2", leave_mean)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 1.2.** The mean of the features is $\frac1c\sum_i (\sum_j w_{ij} h_j + b_i)$.
# Regroup: input $j$ adds $h_j$ times the mean of *column* $j$. So each column loses its own mean,
# and the bias its own. Centring rows is tempting, and in a square matrix nothing complains.
# ### END SOLUTION
#
# Seen as geometry, subtracting the mean is itself a matrix,
# $P = I - \frac1c \mathbf 1 \mathbf 1^\top$, where $\mathbf 1$ is a vector of ones. LayerNorm
# without weight and bias is exactly RMSNorm after $P$, and every matrix that writes what the norm
# reads is free to contain it:

# %%
torch.manual_seed(0)
c = 64
tokens = torch.randn(5, c) + 3.0
project = torch.eye(c) - torch.ones(c, c) / c

by_layer_norm = F.layer_norm(tokens, (c,), eps=1e-5)
by_rms_norm = F.rms_norm(tokens @ project, (c,), eps=1e-5)
gap = (by_layer_norm - by_rms_norm).abs().max()
print("largest difference below 1e-5:", bool(gap < 1e-5))

# %% [markdown]
# So nothing is lost that could not be had otherwise, and a network that has no use for the step is
# spared it.
#
# > **Careful.** What RMSNorm does give up is *shift invariance*. Add the same number to all
# > features and LayerNorm does not notice; RMSNorm does, and flattens the rest.

# %%
quartet = torch.tensor(x)
for shift in (0, 10, 100):
    shifted = quartet + shift
    layer = F.layer_norm(shifted, (4,))
    rms = F.rms_norm(shifted, (4,), eps=1e-5)
    print(f"+{shift:<4} LayerNorm {[round(v, 2) for v in layer.tolist()]}"
          f"   RMSNorm {[round(v, 2) for v in rms.tolist()]}")

# %% [markdown]
# Both forgive a change of *scale*, up to epsilon, and that is what a deep stack needs:

# %%
for normalise in (F.layer_norm, F.rms_norm):
    larger = normalise(7 * quartet, (4,), eps=1e-5)
    torch.testing.assert_close(larger, normalise(quartet, (4,), eps=1e-5))

# %% [markdown]
# *A good place to rest. The norm is built. What follows asks where to put it.*
#
# ## Your turn: where does the norm stand?
#
# A Llama is a stack of *layers*, also called *blocks*. Each is two *sublayers*: attention, where
# tokens read one another, and a feed-forward network, which treats each token alone. (Names for
# now; chapters 03 and 04 build them.) What travels through the stack, `x`, is called the *stream*.
# A *step* takes it through one sublayer, and there is a norm to place. It must meet three
# requirements:
#
# 1. If the sublayer returns zeros, the stream goes on exactly as it came.
# 2. If the stream is a hundred times larger, the sublayer reads the same numbers (up to epsilon).
# 3. What the sublayer returns arrives in the stream at its own size: if it is doubled, it counts
#    double.

# %%
def one_step(x: Tensor, norm: nn.Module, sublayer: nn.Module) -> Tensor:
    """Exercise 1.3 ●○○ 4 min. Take the stream `x`, of shape `... c`, through one step that meets
    all three requirements. `norm` and `sublayer` are called like functions, and keep the shape.
    """
    ### BEGIN SOLUTION
    return x + sublayer(norm(x))
    ### END SOLUTION


check("1.3", one_step)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 1.3.** The first requirement asks for a sum with `x` itself, called the
# *residual*: `norm(x) + ...` breaks it. The second puts a norm before the sublayer, the third
# forbids one behind it. `norm(x + sublayer(x))`, the figure in the 2017 paper, breaks the first and
# the third.
# ### END SOLUTION
#
# ## Play: before or after the sublayer?
#
# The first Transformer normalised *after* each sublayer $f$: $\mathrm{norm}(x + f(x))$, now called
# *post-norm*. Llama follows GPT-2 and GPT-3 and normalises *before*: $x + f(\mathrm{norm}(x))$, or
# *pre-norm*. Adding $x$ back is the *residual*. The usual reason given for pre-norm is that
# gradients vanish in a deep post-norm stack. (A *gradient* says how much the loss changes if a
# number is moved a little; `loss.backward()` computes it for all weights.) We build 32 simple
# blocks both ways, each with one sublayer: two matrices with a smooth switch between them, `silu`
# (chapter 04). All share one norm, to keep the code short. At the end a *classifier*, one more
# matrix, turns the stream into ten scores.

# %%
class Stack(nn.Module):
    """32 residual blocks, each of two matrices, and a classifier on top."""

    def __init__(self, pre_norm: bool, dim: int = 32, depth: int = 32):
        super().__init__()
        self.pre_norm = pre_norm
        self.ups, self.downs = nn.ModuleList(), nn.ModuleList()
        for _ in range(depth):
            self.ups.append(nn.Linear(dim, 2 * dim, bias=False))
            self.downs.append(nn.Linear(2 * dim, dim, bias=False))
        self.norm = RMSNorm(dim, 1e-5)
        self.head = nn.Linear(dim, 10, bias=False)
        for layer in (*self.ups, *self.downs):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        for up, down in zip(self.ups, self.downs, strict=True):
            if self.pre_norm:
                x = x + down(F.silu(up(self.norm(x))))
            else:
                x = self.norm(x + down(F.silu(up(x))))
        return self.head(self.norm(x))

# %% [markdown]
# The task: forty clouds of points in 32 dimensions, four to each of ten classes. The loss is
# *cross-entropy*: minus the logarithm of the probability that the right class was given. We train
# each stack for 60 steps with *Adam*, which makes steps of about one size whatever the size of the
# gradient (as long as that is far above 1e-8). Its learning rate, that size, is 0.01. Before each
# step we record the loss and the size of the gradient in every block.
#
# > **Predict.** Which stack has the *larger* gradients in its 32 blocks before the first step?

# %%
guess = "?"    # "pre-norm" or "post-norm"

# %%
centres = torch.randn(40, 32, generator=torch.Generator().manual_seed(7))


def cloud_batch(step: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(step)
    which = torch.randint(0, 40, (128,), generator=g)
    return centres[which] + 0.7 * torch.randn(128, 32, generator=g), which % 10


def train(pre_norm: bool, seed: int, lr: float = 0.01) -> tuple[Tensor, Tensor]:
    """Before each of 60 steps: the loss, and each block's gradient, `60 32`."""
    torch.manual_seed(seed)
    model = Stack(pre_norm)
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    losses, gradients = [], []
    for step in range(60):
        points, labels = cloud_batch(step)
        loss = F.cross_entropy(model(points), labels)
        optimiser.zero_grad()
        loss.backward()
        gradients.append([down.weight.grad.norm() for down in model.downs])
        optimiser.step()
        losses.append(loss.item())
    return torch.tensor(losses), torch.tensor(gradients)

# %% [markdown]
# One run could be luck, so we make three of each: three seeds for the weights. About fifteen
# seconds.

# %%
runs = {name: [train(name == "pre-norm", seed) for seed in range(3)]
        for name in ("pre-norm", "post-norm")}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Gradient size by block on a logarithmic axis, three runs each. Before training, post-norm stays between 0.1 and 1 while pre-norm falls from 0.3 to 0.1. Before step 60 pre-norm lies between 0.5 and 0.005, while post-norm has collapsed below 0.00001 in its middle blocks and keeps 0.1 in the last."}}
LOOKS = {"pre-norm": {"color": plots.BLUE},
         "post-norm": {"color": plots.VERMILION, "linestyle": "--"}}
fig, panels = plots.figure("Post-norm starts out healthy and dies in training",
                           x="block (1 is next to the input)",
                           y="gradient norm", columns=2)
for ax, step in zip(panels, (1, 60), strict=True):
    for name, look in LOOKS.items():
        for seed, (_, gradients) in enumerate(runs[name]):
            ax.semilogy(range(1, 33), gradients[step - 1],
                        label=name if seed == 0 else None, **look)
    ax.set(title=f"before step {step}", ylim=(1e-9, 10))
panels[1].set_ylabel("")
_ = panels[0].legend(loc="lower left")

# %% [markdown]
# And in numbers, one line a seed. In how many blocks was post-norm's gradient the larger one before
# the first step, and where did the loss end?

# %%
pairs = list(zip(runs["pre-norm"], runs["post-norm"], strict=True))
for (losses, pre), (post_losses, post) in pairs:
    loss, post_loss = losses[-10:].mean(), post_losses[-10:].mean()
    share = (post[0] > pre[0]).float().mean()
    print(f"larger in {share:.0%} of the blocks;"
          f"  loss with pre-norm {loss:.1f}, with post-norm {post_loss:.1f}")
    assert share == 1
    assert loss < 1 < 2 < post_loss
    assert post[-1].min() < 1e-3 * pre[-1].min()
    assert post[-1, -1] > 10 * pre[-1, -1]  # the last block has one still
reveal("larger gradients before step 1", guess, "post-norm")

# %% [markdown]
# In this stack the gradients do not vanish at the start. Post-norm's stay near one size, and all
# are larger than pre-norm's, which fall towards the output. One thing is different there:
# pre-norm's stream grows.

# %%
torch.manual_seed(0)
stack, read = Stack(pre_norm=True), []
stack.norm.register_forward_pre_hook(lambda _, given: read.append(given[0]))
with torch.no_grad():
    stack(cloud_batch(0)[0])
first, last = (float(read[i].pow(2).mean().sqrt()) for i in (0, -1))
print(f"root mean square at the start {first:.1f}, after 32 blocks {last:.1f}")
assert last > 2 * first

# %% [markdown]
# A norm that reads a larger stream hands a smaller gradient back: the end of the chapter shows it.
# Of the start, Xiong et al. (2020, theorem 1) prove a bound for the last layer's gradient: in
# pre-norm it falls with the square root of the depth, in post-norm it does not.
#
# Adam gives both stacks steps of the same size. Post-norm does not survive them. Before step 60
# hardly any gradient reaches its middle blocks, while its last block has over ten times pre-norm's.
# Its loss is near that of guessing among ten classes, $\ln 10 = 2.30$.
#
# > **Predict.** Two things went wrong: the loss does not fall, and the gradients vanish. Which
# > showed first?

# %%
guess = "?"    # "loss" or "gradients"

# %%
print("smallest gradient of the 32 blocks (three seeds), and the loss")
for step in (1, 4, 6, 16):
    for name, made in runs.items():
        smallest = "  ".join(f"{each[step - 1].min():.0e}" for _, each in made)
        lost = "  ".join(f"{each[step - 1]:.1f}" for each, _ in made)
        print(f"before step {step:2}  {name:9}  {smallest}    loss {lost}")

behind = all(post[3] > pre[3] + 0.5 for (pre, _), (post, _) in pairs)
ratios = [post.min(1).values / pre.min(1).values
          for (_, pre), (_, post) in pairs]
as_large = all(ratio[3] > 0.5 for ratio in ratios)
# single steps jump, in other places on other processors: nine around 16
assert all(ratio[11:20].median() < 0.01 for ratio in ratios)
reveal("what showed first", guess,
       "loss" if behind and as_large else "gradients")

# %% [markdown]
# Before step 4 post-norm's smallest gradient is about as large as pre-norm's, in all three runs.
# But pre-norm has learnt by then and post-norm has not. Around step 16 (the median of nine steps)
# post-norm's is less than a hundredth of pre-norm's. A learning rate ten times smaller rescues it (again some seconds):

# %%
gentle = [train(False, seed, lr=0.001)[0][-10:].mean().item()
          for seed in range(3)]
print("post-norm at 0.001, mean loss of the last ten steps:",
      [round(each, 1) for each in gentle])
assert max(gentle) < 1
assert round(torch.log(torch.tensor(10.0)).item(), 2) == 2.30

# %% [markdown]
# So in these runs vanished gradients are not what made post-norm fall behind: they came after. They
# may be what keeps it from coming back. It is one small stack; chapter 08 asks the same of a whole
# Llama.
#
# ## In the Llamas: tiny, everywhere, and one number that differs
#
# How much of a Llama is norm? Count first. A `ModelConfig` has `dim` (the features of the stream),
# `n_layers`, `n_heads`, `head_dim`, `vocab_size` and a few more fields; try
# `release("llama-3.2-1b").config`. Each layer is two steps as in 1.3, one with attention and one
# with the feed-forward network. The stream that leaves the last layer has any size, so the output
# layer, too, reads it through a norm.

# %%
def count_norm_weights(config: ModelConfig) -> int:
    """Exercise 1.4 ●●○ 5 min. Count the weights in all the RMSNorms of the Llama that `config`
    describes.
    """
    ### BEGIN SOLUTION
    return (2 * config.n_layers + 1) * config.dim
    ### END SOLUTION


check("1.4", count_norm_weights)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 1.4.** Nearly everyone forgets the last norm, after the last block. In a model,
# too: without it the output layer reads a stream whose length grows with depth. If only the
# division is left out, the next tokens keep their order of likelihood, but the probabilities become
# far too sharp. It looks like a model that is very sure of itself.
# ### END SOLUTION
#
# Here are the counts, from the course's own accounting:

# %%
for name in ("llama-1-7b", "llama-2-70b", "llama-3.1-405b", "llama-3.2-1b"):
    config = release(name).config
    count, dim = parameters(config), config.dim
    print(f"{name:15} {count.norms // dim:3} norms of {dim:5}: {count.norms:9,}"
          f" weights, {count.norms / count.total:.4%} of all")

# %% [markdown]
# Two in each layer and one at the end. All that ever changed in these norms between the generations
# is epsilon:

# %%
for eps in sorted({r.config.norm_eps for r in RELEASES}):
    names = [r.id for r in RELEASES if r.config.norm_eps == eps]
    print(f"{eps:g}: {len(names)} releases, first {names[0]}, last {names[-1]}")

# %% [markdown]
# > **History.** The smaller epsilon belongs to Llama 1, except its 65B, which already has 1e-5. The
# > first upload of the Llama 2 7B chat model still said 1e-6 and was corrected (issue 771 of Meta's
# > repository `llama`). Read epsilon from the config; never type it from memory.
#
# These few weights could live elsewhere. Multiply a norm's weight once into each matrix that reads
# its result, and the norm need only divide. (Only the last norm is harder: some Llamas, the 3.2 1B among
# them, share their output matrix with the table that turns tokens into features, which must stay as
# it is.) Ashkboos et al. (2024) begin so, mean and weight both, before they cut a model smaller.
#
# LayerNorm ends with one thing more: after its weight it adds a learnt *bias*, one number a feature.
# The layer that reads it has a bias of its own. Can it take over both?

# %%
def fold(
    norm_weight: Tensor, norm_bias: Tensor, w: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """Exercise 1.5 ●●○ 7 min. A norm ends by multiplying with `norm_weight` and adding `norm_bias`,
    both of shape `c`. The layer that reads it has `w`, of shape `f c`, and `b`, of shape `f`. Return
    the `w` and `b` of one layer that does all of this: `F.linear(y, *fold(norm_weight, norm_bias,
    w, b))` is to equal `F.linear(y * norm_weight + norm_bias, w, b)` for every `y` of shape `... c`.
    """
    ### BEGIN SOLUTION
    return w * norm_weight, b + w @ norm_bias
    ### END SOLUTION


check("1.5", fold)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 1.5.** One output is $b_f + \sum_c w_{fc}\,(g_c\,y_c + s_c)$, with $g$ the norm's
# weight and $s$ its bias. Regroup: $(b_f + \sum_c w_{fc}\,s_c) + \sum_c (w_{fc}\,g_c)\,y_c$. So column
# $c$ is scaled by $g_c$, and the matrix does to $s$ what it does to every token, once and for all.
# Scaling rows is tempting because a square matrix does not complain; it would rescale the outputs by
# numbers that were learnt for the inputs. `wq`, `wk` and `wv` read one norm, and so do `w1` and `w3`:
# each of them must be folded.
# ### END SOLUTION
#
# With 1.2 this takes a whole LayerNorm apart: its mean goes to the layer before, its weight and bias
# to the layer after. What is left between the two?

# %%
torch.manual_seed(0)
before, after = nn.Linear(3, 5), nn.Linear(5, 4)
h, g, s = torch.randn(7, 3), torch.randn(5), torch.randn(5)
wanted = after(F.layer_norm(before(h), (5,), g, s, eps=1e-5))

with torch.no_grad():
    before.weight -= before.weight.mean(0)
    before.bias -= before.bias.mean()
    after.bias += after.weight @ s  # first, by the weight as it was
    after.weight *= g
got = after(F.rms_norm(before(h), (5,), eps=1e-5))
torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
print("equal, with an RMSNorm without a weight in the middle")

# %% [markdown]
# A division. All else in a norm may live in the matrices around it.
#
# ## Fact check: is RMSNorm 40 % faster?
#
# Three sentences that circulate, from the course's ledger of published claims. Run the cell to read
# them, and give your verdicts before you read on: `right`, `wrong`, `imprecise`, or `open` (nothing
# to decide it by) in place of each question mark.

# %%
claims.judge({"D09": "?", "E09": "?", "E10": "?"})

# %% [markdown]
# The first can be measured. By counting, LayerNorm reduces the features twice (mean, then spread),
# RMSNorm once. We take both as written by hand and both as PyTorch ships them. Runs are interleaved
# and we take medians, so that a busy machine hurts all four alike.

# %%
def layer_norm_by_hand(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    return rms_norm_narrow(x - x.mean(-1, keepdim=True), eps) * weight + bias


tokens = torch.randn(512, 4096)
ones, zeros, shape = torch.ones(4096), torch.zeros(4096), (4096,)
ways = {
    "by hand LayerNorm": lambda: layer_norm_by_hand(tokens, ones, zeros, 1e-5),
    "by hand RMSNorm": lambda: rms_norm_narrow(tokens, 1e-5) * ones,
    "PyTorch LayerNorm": lambda: F.layer_norm(tokens, shape, ones, zeros, 1e-5),
    "PyTorch RMSNorm": lambda: F.rms_norm(tokens, shape, ones, 1e-5),
}
seconds = {name: [] for name in ways}
for _ in range(40):
    for name, run in ways.items():
        start = time.perf_counter()
        run()
        seconds[name].append(time.perf_counter() - start)

# %% [markdown]
# Your numbers will differ from these; the question is which way each comparison points.

# %%
medians = {name: statistics.median(taken) for name, taken in seconds.items()}
for name, median in medians.items():
    print(f"{name}: {median * 1e3:6.2f} ms")
for who in ("by hand", "PyTorch"):
    ratio = medians[f"{who} RMSNorm"] / medians[f"{who} LayerNorm"]
    print(f"{who}: RMSNorm takes {ratio:.2f} of LayerNorm's time")

# %% [markdown]
# By hand, RMSNorm was faster in our runs, by an amount that varies. (Part of it is the bias, which
# the LayerNorm by hand adds as well.) As shipped for the CPU in this version of PyTorch, the order
# was *reversed*. A *kernel* is one compiled routine, and a *fused* one does several operations in
# one pass over memory. LayerNorm has such a kernel there; `rms_norm` still runs as several.

# %%
claims.show("D09")

# %% [markdown]
# **Imprecise:** it is true of the arithmetic. In the paper's tables RMSNorm itself saves from 7 %
# to 41 %: so 40 % is its best row. (The 64 % belong to a variant, *pRMSNorm*, that takes the root
# from a part of the features.) Which one is faster is decided by who wrote the kernel.
#
# The other two would need numbers stored from the training data, and a mean of zero. What does an
# RMSNorm store? And what is a token's mean after it?

# %%
torch.manual_seed(0)
norm, token = RMSNorm(4096, 1e-5), torch.randn(4096) + 1
print("stored:", list(norm.state_dict()))
print("mean of a token after RMSNorm:", round(norm(token).mean().item(), 3))
claims.show("E09", "E10")

# %% [markdown]
# **Both are wrong.** It stores a weight and nothing else, and it works before it has seen any data.
# The sentence describes feature standardisation. RMSNorm knows one token at a time. (*Computed*
# names functions of the package that do the same as our cell.)
#
# ## Bug hunt: six norms, seen from outside
#
# `suspects("1.6")` hands out six functions, `a` to `f`, called like `rms_norm(x, weight, eps)`. One
# is healthy, five have a mistake each. *Healthy* means: exactly as the class `RMSNorm` above, the
# order of cast and weight included. On the token of the beginning five of the six agree:

# %%
norms = suspects("1.6")
for name, suspect in norms.items():
    after = suspect(quartet, torch.ones(4), 1e-5)
    print(name, [round(value, 3) for value in after.tolist()])

# %% [markdown]
# The verdicts to choose from: `"healthy"`, `"mean subtracted"`, `"eps outside the root"`,
# `"eps forgotten"`, `"root forgotten"`, `"sum for mean"`, `"absolute values"` (their mean in the
# root's place), `"one root for all tokens"`, `"weight before the division"`, `"no float32 inside"`,
# `"weight before the cast"` (multiplied in float32, and only then back).
#
# Make up tokens that would tell two of them apart: what must a healthy norm do, or not do, if you
# scale a token, shift it, put another beside it, shrink it under a large epsilon, change its dtype?

# %%
# Exercise 1.6 ●●○ 12 min. Which mistake is in which suspect? Put a verdict in place of each `"?"`.
found = dict.fromkeys("abcdef", "?")
### BEGIN SOLUTION
found = {"a": "no float32 inside", "b": "one root for all tokens",
         "c": "healthy", "d": "eps outside the root",
         "e": "weight before the cast", "f": "absolute values"}
### END SOLUTION

check("1.6", found)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 1.6.** `f` shows itself at once. `b` needs two tokens in one call: the first
# changes with the second. `d` needs a small token or a large epsilon: ones under an epsilon of 1
# give 0.5, where 0.71 is right. `a` needs float16 and 300. `c` and `e` agree in all of this: only
# in bfloat16, with uneven weights and `!=`, does a bit differ here and there. The experiments:
# ### END SOLUTION

# %%
### BEGIN SOLUTION
torch.manual_seed(0)
many = torch.randn(64, 4).bfloat16()
uneven = torch.tensor([0.3, 0.7, 1.1, 1.9]).bfloat16()
own = RMSNorm(4, 1e-5)
own.weight.data = uneven
one, two = torch.ones(4), torch.stack([quartet, torch.full((4,), 9.0)])
for name, suspect in suspects("1.6").items():
    beside = suspect(two, one, 1e-5)[0, 0]
    epsilon = suspect(one, one, 1.0)[0]
    large = suspect((300 * one).half(), one.half(), 1e-5)[0]
    bits = bool((suspect(many, uneven, 1e-5) != own(many)).any())
    print(f"{name}: beside nines {beside:.2f}  eps of 1 {epsilon:.2f}"
          f"  float16 {large:.0f}  other bits {bits}")
### END SOLUTION

# %% [markdown]
# ## The way back: what does the gradient of a norm look like?
#
# So far the norm ran forwards. In training it also runs backwards: it is handed `grad`, the gradient
# of the loss for each number that it returned, and hands back one for each number that it was given.
# For one token the two are tied by a matrix, the *Jacobian*: $J_{ij}$ is the slope of output $i$ as
# feature $j$ moves. The gradient for $x_j$ is then $\sum_i g_i\,J_{ij}$, with $g$ for `grad`.
#
# PyTorch does this by itself (*autograd*) and never writes the matrix down. Do it by hand, with the
# chain rule. (Autograd would pass the check, and teach nothing.) One thing to think of: a feature
# reaches the output in two ways. Directly it moves its own output alone. Through the root of the token
# it moves all of them.

# %%
def rms_norm_jacobian(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Exercise 1.7 ●●● 25 min. `x`, one token, and `weight` have the shape `c`. Return the Jacobian
    of `rms_norm(x, weight, eps)`, of shape `c c`: in row `i` and column `j` the slope of output `i`
    as `x[j]` moves.
    """
    ### BEGIN SOLUTION
    c = len(x)
    r = (x @ x / c + eps) ** -0.5
    direct = torch.diag(weight) * r
    through_the_root = -torch.outer(weight * x, x) * r**3 / c
    return direct + through_the_root
    ### END SOLUTION


check("1.7", rms_norm_jacobian)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 1.7.** With $r = 1/\mathrm{RMS}(x)$ the output is $y_i = w_i\,r\,x_i$, and
# $\partial r/\partial x_j = -r^3 x_j / c$: the 2 of the square and the ½ of the root cancel. So
# $J_{ij} = w_i\,(r\,\delta_{ij} - r^3 x_i x_j / c)$, where $\delta_{ij}$ is 1 on the diagonal and 0
# elsewhere. With the token after the division, $u = r x$, this is
# $w_i\,r\,(\delta_{ij} - u_i u_j / c)$. Compare $P = I - \frac1c \mathbf 1 \mathbf 1^\top$, with which
# LayerNorm takes out the mean: here the token's own direction is taken out.
# ### END SOLUTION
#
# > **Predict.** Take 1,000 random tokens of 64 features and a random `grad` for each. Which share
# > of the gradient's length for `x` points along the token itself? (1 is all of it. Two random
# > directions in 64 dimensions share about 0.1.) And by what factor does the gradient change if the
# > tokens are doubled?

# %%
guess_along = None    # from 0 to 1
guess_doubled = None    # 1 if it stays as it is

# %%
torch.manual_seed(0)
tokens, grad = torch.randn(1000, 64), torch.randn(1000, 64)


def way_back(x: Tensor, grad: Tensor, eps: float = 1e-5) -> Tensor:
    """The gradient for x of RMSNorm with weights of one, by autograd."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.rms_norm(x, x.shape[-1:], eps=eps), x, grad)[0]


def along(x: Tensor) -> float:
    return float(F.cosine_similarity(way_back(x, grad), x).abs().mean())


once, doubled = (way_back(k * tokens, grad).norm() for k in (1, 2))
ratio = float(doubled / once)
print(reveal("share along the token", guess_along, round(along(tokens), 4)))
print(reveal("doubled: gradient times", guess_doubled, round(ratio, 3)))
print("share along a token a thousand times smaller:",
      round(along(tokens / 1000), 2))
assert along(tokens) < 1e-4
assert abs(ratio - 0.5) < 1e-3

# %% [markdown]
# Nothing points along the token. It has to be so: to make a token longer changes nothing after the
# norm, so the loss does not care, and a gradient is what the loss cares about. It lies along the
# sphere. (With an epsilon that is not 0 this holds while the mean square is far above it. The tiny
# tokens have nearly the share of random directions: for them the norm is a plain multiplication.)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Eighteen points in a plane on three circles around the origin. The arrow of the gradient at each stands at a right angle to the ray from the origin, and is half as long on each circle twice as large."}}
angles = torch.arange(6) * torch.pi / 3 + 0.2
ring = torch.stack([angles.cos(), angles.sin()], -1)
spots = torch.cat([ring, 2 * ring, 4 * ring])
arrows = way_back(spots, torch.tensor([0.6, 1.0]).expand(18, 2))

fig, ax = plots.figure("The gradient stands across the token",
                       x="feature 1", y="feature 2", size=(4.2, 4.0))
for end in 4 * ring:
    ax.plot(*zip((0, 0), end, strict=True), color="#cccccc", linewidth=0.8)
ax.plot(*spots.T, "o", color=plots.SKY, markersize=4)
ax.quiver(*spots.T, *arrows.T, color=plots.VERMILION, angles="xy",
          scale_units="xy", scale=1.2, width=0.008)
ax.set(aspect="equal", xlim=(-4.6, 4.6), ylim=(-4.6, 4.6))
across = (arrows * spots).sum(-1).abs().max()
assert across < 1e-4

# %% [markdown]
# This fits what *Play* showed. In pre-norm the stream grows from block to block, and a norm hands
# back a gradient that is smaller in proportion. In post-norm the stream is brought back to one size
# at every block, and the gradients at the start stayed near one size too.
#
# ## Summary: one division, no mean
#
# - RMSNorm divides a token by its root mean square and rescales each feature. It puts every token at
#   the same distance from the origin and keeps its direction.
# - The mean that LayerNorm also removes is one direction of thousands, and a matrix before the norm
#   can remove it. The weight could move into the matrix after it.
# - Squares overflow float16 from 256 on. Compute inside in float32.
# - In our small stack pre-norm survived a careless learning rate. Post-norm started with healthy
#   gradients and lost them in training, after it had stopped learning.
# - The gradient of a norm stands across the token and fades as the token grows.
# - By hand RMSNorm was faster, by an amount that varies. PyTorch's fused LayerNorm beat its unfused
#   RMSNorm on the CPU. The kernel decides, not the formula.
#
# **Read in the package:** `llama_edu.layers.RMSNorm` (ten lines), and `llama_edu.model.Block`,
# where two of them stand. **Read elsewhere:** Zhang and Sennrich 2019, *Root Mean Square Layer
# Normalization*; Xiong et al. 2020, *On Layer Normalization in the Transformer Architecture*; Sun
# et al. 2024, *Massive Activations in Large Language Models*; Ashkboos et al. 2024, *SliceGPT*.
