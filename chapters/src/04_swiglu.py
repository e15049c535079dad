# %% [markdown]
# # 04 · SwiGLU: who opens the gate?
#
# **The question.** Attention gets the fame, but most of a Llama's parameters sit in another
# layer, one that looks at each token alone. The classic form of this *feed-forward layer* has two
# matrices. Llama's has three, and a width that looks like a misprint: 11,008. What is the third
# matrix for, and who chose that number?
#
# | you will build | you need | minutes |
# |---|---|---|
# | `FeedForward` from `llama_edu.layers`, `swiglu_width` from `llama_edu.config` | chapter 01; for one section the key/value heads of chapter 03 | 140 |

# %%
import math
import random
import statistics
from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llama_edu import claims, layers, plots
from llama_edu.checkpoint import load
from llama_edu.data import tales
from llama_edu.exercises import check, hint, reveal, suspects
from llama_edu.family.accounting import parameters
from llama_edu.family.releases import RELEASES, release
from llama_edu.layers import RMSNorm
from llama_edu.tokenizer import installed

plots.use_style()
torch.set_num_threads(1)  # the networks of this chapter are too small to share

# %% [markdown]
# How much is "most"? We count.

# %% tags=["nbval-check-output"]
for name in ("llama-1-7b", "llama-3-8b", "llama-3.1-405b"):
    count = parameters(release(name).config)
    print(f"{name:15} feed-forward {count.feed_forward / count.total:.0%},"
          f" attention {count.attention / count.total:.0%}")

# %% [markdown]
# > **Predict.** Tokens of the first Llama 7B are 4,096 numbers wide. A classic feed-forward
# > layer widens them to four times that, 16,384, and back: two matrices. Llama's layer has three
# > matrices between 4,096 and 11,008. How many parameters does it hold for each one of the
# > classic layer? The answer comes in the second half.

# %%
guess_ratio = None    # 0.5 would be: half as many

# %% [markdown]
# ## By hand: two gates that multiply
#
# Here is the whole idea on two numbers, $a$ and $b$. One number decides *how far a gate opens*,
# the other is *what passes through*. How far the gate opens is $\mathrm{SiLU}(a) = a \cdot
# \sigma(a)$, where $\sigma(a) = 1 / (1 + e^{-a})$ is the *sigmoid*, a soft switch between 0
# and 1. Two such units, the second with both signs turned:

# %%
def silu(a: float) -> float:
    return a / (1 + math.exp(-a))


a, b = 3.0, 5.0
first = silu(a) * b             # the gate reads a, and b passes through
second = silu(-a) * -b          # the gate reads -a, and -b passes through
print(f"{first:.4f} + {second:.4f} = {first + second:.4f}")

# %% [markdown]
# The sum is $3 \cdot 5$, and that is no accident of these two numbers:
# $\mathrm{SiLU}(a) - \mathrm{SiLU}(-a) = a\,(\sigma(a) + \sigma(-a)) = a$, because the two
# sigmoids add up to one. So two gated units multiply exactly, for any $a$ and $b$:

# %%
draw = random.Random(0)
pairs = [(draw.uniform(-9, 9), draw.uniform(-9, 9)) for _ in range(1000)]
worst = max(abs(silu(a) * b + silu(-a) * -b - a * b) for a, b in pairs)
print("largest error below 1e-12:", worst < 1e-12)

# %% [markdown]
# Keep this in mind: a gate multiplies.
#
# ## The idea: an activation can be a gate, and SwiGLU takes its gate from elsewhere
#
# The classic layer is $\mathrm{FFN}(x) = \phi(x W_1)\, W_2$, with some *activation* $\phi$, a
# function of single numbers, between the two matrices. Three are common. ReLU cuts off what is
# below zero. GELU (Hendrycks and Gimpel 2016) multiplies $z$ by the probability that a standard
# normal random number is smaller than $z$. SiLU, also called Swish, multiplies by the sigmoid.
# Written as $\phi(z) = z \cdot \text{share}(z)$, all three have the same form:

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: ReLU, GELU and SiLU from -5 to 5 nearly agree away from zero; SiLU dips lowest, to -0.28. Right: the factor each multiplies its input by rises from 0 to 1, as a step for ReLU, steeply for GELU, gently for SiLU."}}
z = torch.linspace(-5, 5, 401)
fig, panels = plots.figure(
    "ReLU, GELU and SiLU are gates that differ in softness only", x="input z",
    y="output", columns=2)
shares = {"ReLU": (z > 0).float(), "GELU": F.gelu(z) / z,
          "SiLU": torch.sigmoid(z)}
for name, share in shares.items():
    panels[0].plot(z, z * share)
    panels[1].plot(z, share, label=name)
panels[0].set(title="activation", ylim=(-0.6, 3), xlim=(-5, 3))
panels[1].set(title="share = activation / z", ylabel="share let through")
panels[1].legend();

# %% [markdown]
# On the right is the share of $z$ that each lets through. In all three, $z$ judges itself: the
# number that opens the gate is the number that passes.
#
# A *gated linear unit* (Dauphin et al. 2016) separates the two roles. One projection opens the
# gate, another supplies what passes. Shazeer (2020, eq. 6) puts it into the Transformer's
# feed-forward layer, with SiLU for the gate, and calls it SwiGLU. In Meta's names, for a token
# $x$ of $c$ features,
#
# $$ \mathrm{FFN}(x) = \big(\mathrm{SiLU}(x W_1) \odot x W_3\big)\, W_2 $$
#
# where $\odot$ multiplies feature by feature. $W_1$ feeds the gate, from $c$ to $f$ *hidden*
# features; $W_3$ goes *up*, from $c$ to $f$ as well, to what the gate lets through; $W_2$ goes
# back *down*, from $f$ to $c$. So SwiGLU is no activation function. It is a layer of three
# matrices, and the activation inside it is SiLU. From here on we call $\mathrm{SiLU}(x W_1)$
# the *gate*. Unlike $\sigma$ it is no share: it can be negative, or larger than one. One token, one
# hidden feature after another, with the weights as PyTorch stores them, one row for each output
# feature:

# %%
def dot(row: list[float], x: list[float]) -> float:
    return sum(weight * value for weight, value in zip(row, x, strict=True))


def swiglu_loop(x: list[float], w1: list, w2: list, w3: list) -> list[float]:
    """One token. Shazeer 2020, eq. 6."""
    hidden = []
    for gate_row, up_row in zip(w1, w3, strict=True):
        gate, carried = silu(dot(gate_row, x)), dot(up_row, x)
        hidden.append(gate * carried)
    return [dot(row, hidden) for row in w2]


swiglu_loop([3.0, 5.0], w1=[[1, 0], [-1, 0]], w2=[[1, 1], [0, 0]],
            w3=[[0, 1], [0, -1]])

# %% [markdown]
# Those were the two multiplying units from above, now as matrices: $W_1$ reads $a$ and $-a$,
# $W_3$ reads $b$ and $-b$, $W_2$ adds.
#
# SiLU dips below zero. Its slope follows from the product rule: $\sigma(z) +
# z\,\sigma(z)(1 - \sigma(z))$. At the lowest point the slope is zero. We take the common factor
# out, $\sigma(z) \cdot \big(1 + z - z\,\sigma(z)\big) = 0$; since $\sigma(z)$ is never zero, the
# bracket must be. So $z\,\sigma(z) = z + 1$ there, and the left side is SiLU itself: at its lowest
# point, SiLU is one more than $z$.

# %% tags=["nbval-check-output"]
fine = torch.linspace(-2, 0, 200_001, dtype=torch.float64)
lowest, at = F.silu(fine).min(0)
print(f"lowest at z = {fine[at]:.4f}, where SiLU = {lowest:.4f}")

# %% [markdown]
# So a shut gate is not quite zero, and a gate that is wide open is larger than one: SiLU goes on
# growing. "Gate" is a picture. The arithmetic is a product.
#
# ## Your turn: the gate, then the layer
#
# Replace each `raise NotImplementedError`, run the cell, and the check says what it sees;
# `hint("4.1")` gives one hint more at each call. The solutions are in [their own
# notebook](../solutions/04_swiglu.ipynb).
#
# First SiLU for tensors. The formula of `silu` above stops with an error at $-800$. In float32,
# `torch.exp` is infinite from 89 on and says nothing. Gradients flow back through this function,
# and they must stay finite, too. (`F.silu` would pass the check, and teach nothing.)

# %%
def silu_by_hand(x: Tensor) -> Tensor:
    """Exercise 4.1 ●○○ 5 min. Return SiLU of every number of `x`, which has any shape and values
    from -200 to 200. Its gradient is checked, too.
    """
    ### BEGIN SOLUTION
    return x * x.sigmoid()
    ### END SOLUTION


check("4.1", silu_by_hand)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 4.1.** *The sigmoid only* is the gate without the thing that it gates; "sigmoid
# linear unit" sounds like a kind of sigmoid. *1.702* comes from an approximation of GELU and
# belongs to other models. `x * exp(x) / (1 + exp(x))` is right on paper; from about 89 on, exp is
# infinite in float32. `x / (1 + exp(-x))` hides the same infinity: dividing by it gives the right
# zero, but the backward pass multiplies infinity by zero, and one such NaN spoils every weight
# that it reaches. `torch.where` does not help, for gradients flow through both of its branches.
# ### END SOLUTION
#
# Now the layer itself, for any number of tokens at once. `swiglu_loop` says what; you say it
# without loops.

# %%
def swiglu(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor) -> Tensor:
    """Exercise 4.2 ●●○ 6 min. Return the layer's result for `x`, of shape `... c`. The weights have
    Meta's names: `w1` and `w3` the shape `f c`, `w2` the shape `c f`.
    """
    ### BEGIN SOLUTION
    return F.linear(F.silu(F.linear(x, w1)) * F.linear(x, w3), w2)
    ### END SOLUTION


check("4.2", swiglu)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 4.2.** *The gate on w3* is the mistake that converters of checkpoints make.
# $w_1$ and $w_3$ have one shape, so everything loads and runs, and no error tells you. *The
# sigmoid* is the GLU of 2016; *GELU, ReLU or nothing* in the gate are the siblings from the same
# paper. With weights trained for SiLU none of them is right. *Adding* instead of multiplying
# looks harmless and takes away the product.
# ### END SOLUTION
#
# ## Build it: three matrices, one line
#
# The form in the package:

# %% twin="llama_edu.layers.FeedForward"
class FeedForward(nn.Module):
    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.w1 = nn.Linear(dim, hidden_dim, bias=False)    # gate
        self.w2 = nn.Linear(hidden_dim, dim, bias=False)    # down
        self.w3 = nn.Linear(dim, hidden_dim, bias=False)    # up

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))

# %% [markdown]
# Why is *down* number two? The Transformer of 2017 had $W_1$ and $W_2$ already, and three was the
# next free number. There are no biases, here or in any other linear layer of a Llama's text model.
# Is it the loop's layer, and the package's? Every size is different, so that a transposed matrix
# cannot go unnoticed.

# %%
torch.manual_seed(0)
layer, packaged = FeedForward(3, 7), layers.FeedForward(3, 7)
packaged.load_state_dict(layer.state_dict())
tokens = torch.randn(2, 5, 3) * 3

w1, w2, w3 = (w.weight.tolist() for w in (layer.w1, layer.w2, layer.w3))
for token, fast in zip(tokens.flatten(0, 1),
                       layer(tokens).flatten(0, 1), strict=True):
    slow = swiglu_loop(token.tolist(), w1, w2, w3)
    torch.testing.assert_close(fast, torch.tensor(slow))
assert torch.equal(layer(tokens), packaged(tokens))
print("equal to the loop and to the package")

# %% [markdown]
# ## Who else can multiply? A layer of ReLUs cannot
#
# Walk along the straight line $(a, b) = (t, t)$. Each ReLU has at most one kink on it, so beyond
# the last kink a layer of two matrices is straight in $t$, however wide it is. The product is
# $t^2$. In a bounded range such a layer can come as close as one likes, with enough units; far
# out its error grows without bound. Layers of GELU or SiLU, without a third matrix, straighten out
# there, too.
#
# Do trained layers bear that out? We let three kinds learn to multiply numbers between $-2$ and
# $2$. Each has 113 parameters: 28 hidden units for ReLU and GELU, 16 for SwiGLU. Here all have
# biases, for without them a ReLU layer bends only along lines through zero. Then we ask them about
# larger numbers.
#
# > **Predict.** For numbers up to 8, how large is the ReLU layer's error, as a share of the
# > typical product? (Typical: the root of the mean square. 0.01 is one percent.)

# %%
guess_error = None


class Gated(nn.Module):
    """SwiGLU with biases, from two numbers to one."""

    def __init__(self, hidden_dim: int):
        super().__init__()
        self.gate, self.up = nn.Linear(2, hidden_dim), nn.Linear(2, hidden_dim)
        self.down = nn.Linear(hidden_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


def classic_layer(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 28), activation, nn.Linear(28, 1))


# %% [markdown]
# Three seeds each, which draw the first weights and the pairs. This takes about ten seconds.

# %%
MULTIPLIERS = {"ReLU": lambda: classic_layer(nn.ReLU()),
               "GELU": lambda: classic_layer(nn.GELU()),
               "SwiGLU": lambda: Gated(16)}


def n_parameters(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


assert {n_parameters(make()) for make in MULTIPLIERS.values()} == {113}


def learn_to_multiply(kind: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layer = MULTIPLIERS[kind]()
    optimiser = torch.optim.Adam(layer.parameters(), fused=True)
    for step in range(600):
        optimiser.param_groups[0]["lr"] = 0.03 * (1 - step / 600)
        x = torch.rand(128, 2) * 4 - 2
        loss = F.mse_loss(layer(x)[:, 0], x.prod(1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return layer


learnt = {kind: [learn_to_multiply(kind, seed) for seed in range(3)]
          for kind in MULTIPLIERS}

# %%
SQUARE = torch.rand(4000, 2, generator=torch.Generator().manual_seed(9)) * 2 - 1
REACHES = (0.5, 1, 1.5, 2, 3, 4, 6, 8)


@torch.no_grad()
def errors(layer: nn.Module) -> list[float]:
    """For numbers up to each reach, the error as a share of the product."""
    missed = [layer(SQUARE * reach)[:, 0] / reach**2 - SQUARE.prod(1)
              for reach in REACHES]
    return [(each.norm() / SQUARE.prod(1).norm()).item() for each in missed]


missed = {kind: [errors(layer) for layer in learnt[kind]] for kind in learnt}

# %% [markdown]
# The error, as a share of the typical product, for numbers up to each size:

# %% tags=["hide-input"] mystnb={"image": {"alt": "Relative error against the size of the numbers, on a logarithmic axis, three seeds each. Up to 2, the end of the training range, all miss by 1 to 3 percent. At 8, ReLU and GELU miss by about 60 percent, SwiGLU by 12 to 18."}}
fig, ax = plots.figure(
    "Far from what they were trained on, the gated layer errs least",
    x="largest number asked about", y="error / typical product")
ax.axvspan(0, 2, color="#eeeeee")
ax.text(0.1, 1.0, "trained on", color="#555555")
for kind, colour, mark in zip(learnt, plots.COLOURS, "osD", strict=False):
    for seed, line in enumerate(missed[kind]):
        ax.plot(REACHES, line, color=colour, marker=mark, markersize=3.5,
                label=kind if seed == 0 else None)
ax.set_yscale("log")
ax.set_ylim(0.004, 1.6)
ax.legend(loc="lower right");

# %% [markdown]
# As numbers: the mean, and the spread of the seeds.

# %%
def spread(runs: list[float]) -> str:
    return f"{statistics.mean(runs):.3f} ({min(runs):.3f} to {max(runs):.3f})"


def up_to(reach: float, kind: str) -> list[float]:
    """The errors of three seeds for numbers up to one size."""
    return [line[REACHES.index(reach)] for line in missed[kind]]


for kind in missed:
    near, far = spread(up_to(2, kind)), spread(up_to(8, kind))
    print(f"{kind:7} error up to 2: {near}   up to 8: {far}")
reveal("ReLU's error up to 8", guess_error,
       round(statistics.mean(up_to(8, "ReLU")), 2))

for layer in learnt["ReLU"] + learnt["GELU"]:    # straight far out, each one
    places = torch.tensor([[1e5, 1e5], [2e5, 2e5], [3e5, 3e5]])
    one, two, three = layer(places)[:, 0].tolist()
    assert math.isclose(three - two, two - one, rel_tol=1e-3)
plain = up_to(8, "ReLU") + up_to(8, "GELU")
assert max(up_to(8, "SwiGLU")) < 0.5 * min(plain)
for reach in (0.5, 1):    # for small numbers the order is not firm
    assert min(up_to(reach, "GELU")) < min(up_to(reach, "SwiGLU"))

# %% [markdown]
# Over the whole range of the training, up to 2, all three come near, and SwiGLU comes nearest. (For
# smaller numbers the typical product is smaller, so the share is larger. There the order is not
# firm: at 0.5 and 1 one GELU layer is best of all.) At four times the range the
# plain layers miss by more than half of what was asked. The gated layer *can* multiply exactly.
# Training brought it close to that, not onto it: its small errors grow outside as well.
#
# Is a third matrix the only way, then? No. An activation that is squared multiplies with two
# (So et al. 2021 put the square of ReLU into a Transformer and found it to learn faster). Set
# the weights by hand: $\phi(z) = \mathrm{ReLU}(z)^2$, and the layer is to give exactly $ab$ for
# $x = (a, b)$, for all signs.

# %%
def multiplying_weights() -> tuple[Tensor, Tensor]:
    """Exercise 4.3 ●●● 12 min. Return `w1`, of shape `f 2`, and `w2`, of shape `1 f`, both of
    float32, with which `relu(x @ w1.T)**2 @ w2.T` is exactly `a * b` for every `x = (a, b)`. The
    number `f` of units is yours to choose.
    """
    ### BEGIN SOLUTION
    sums = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    return torch.cat([sums, -sums]), torch.tensor([[1.0, -1.0, 1.0, -1.0]]) / 4
    ### END SOLUTION


check("4.3", multiplying_weights)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 4.3.** $(a+b)^2 - (a-b)^2 = 4ab$, and a square is $\mathrm{ReLU}(u)^2 +
# \mathrm{ReLU}(-u)^2$: four units. Fewer will not do. At $u = 0$ the curvature of
# $\mathrm{ReLU}(u)^2$ jumps, that of the product never does, so each unit needs a partner that
# reads $-u$ with an equal weight; and one pair gives a single square, which $ab$ is not.
# ### END SOLUTION
#
# ## Sealed layers: which is which?
#
# Now a hunt. Somebody has built five layers, from three features to three, and sealed them: you
# may ask for `layer(x)` at any x, `... 3`, and see nothing else. All have the same weights, which
# nobody tells you. One or none is `"healthy"`, a SwiGLU as above. Of each of the others one of
# these is true:
#
# - `"no SiLU"`: the two projections are multiplied as they are;
# - `"sigmoid for SiLU"` or `"ReLU for SiLU"`: another function in the gate;
# - `"ReLU and no gate"`: the classic layer, without a third matrix;
# - `"SiLU on the product"`: $\mathrm{SiLU}(xW_1 \odot xW_3)\,W_2$;
# - `"SiLU on both"`: up goes through SiLU, too;
# - `"biases"`: $W_1$ and $W_3$ have them.
#
# Values alone will not tell you, since you do not know the weights. *Laws* will: what must become
# of the result when x changes its sign, or doubles? Work it out for one hidden unit, then
# experiment.

# %%
sealed = suspects("4.4")
x = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
print(sealed["a"](x), sealed["a"](-x), sep="\n")

# %%
# Exercise 4.4 ●●● 15 min. Which layer is in which seal? Put a verdict in place of each `"?"`.
found = {"a": "?", "b": "?", "c": "?", "d": "?", "e": "?"}
### BEGIN SOLUTION
def laws(x: Tensor) -> Tensor:
    """The result itself, its even part and its odd part."""
    return torch.stack([layer(x), layer(x) + layer(-x), layer(x) - layer(-x)])


for name, layer in sealed.items():
    times_two = (laws(2 * x) / laws(x)).mean((1, 2)).tolist()
    print(name, [f"{ratio:.3f}" for ratio in times_two], layer(0 * x).tolist())
found = {"a": "sigmoid for SiLU", "b": "SiLU on the product", "c": "healthy",
         "d": "ReLU for SiLU", "e": "SiLU on both"}
### END SOLUTION

check("4.4", found)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 4.4.** Let $g$ and $u$ be what one unit's gate and up side read; both change
# their sign with $x$ and double with it. *Healthy*: $\mathrm{SiLU}(g)u + \mathrm{SiLU}(-g)(-u) =
# gu$, so layer(x) + layer(-x) becomes exactly four times as large. *Sigmoid*: $\sigma(g)u -
# \sigma(-g)(-u) = u$, so layer(x) - layer(-x) becomes exactly twice as large. *ReLU in the gate*:
# the whole result becomes four times as large, but differs between x and -x; without SiLU it does
# not differ. *SiLU on the product* cannot tell x from -x, for the product cannot, and follows no
# power. *ReLU and no gate* doubles. *Biases* show at zero. What keeps none of these laws is left.
# ### END SOLUTION
#
# *A good place to rest. The second half asks where 11,008 comes from, and what gates do in
# networks that have learnt something.*
#
# ## Why eight thirds? Three matrices for the price of two
#
# A classic layer of width $4c$ holds $2 \cdot c \cdot 4c = 8c^2$ numbers. Three matrices of
# width $f$ hold $3 \cdot c \cdot f$. Equal prices need $f = \frac{8}{3}c$, which is two thirds
# of $4c$. A matrix product costs one multiplication and one addition for every weight and token,
# so equal parameters also mean equal arithmetic. Are they equal in the 7B, to the last parameter?

# %% tags=["nbval-check-output"]
dim, hidden_dim = 4096, release("llama-1-7b").config.hidden_dim
classic, gated = 2 * dim * 4 * dim, 3 * dim * hidden_dim
print(f"classic {classic:,}   gated {gated:,}   ratio {gated / classic:.4f}")
print(f"8/3 of {dim} is {8 * dim / 3:.2f};"
      f" the release has {hidden_dim:,} = 43 * 256")
assert hidden_dim == 43 * 256
reveal("parameters for one of the classic layer", guess_ratio,
       round(gated / classic, 3))

# %% [markdown]
# Not quite: 0.8 % more, and rounding is the cause. Meta's `params.json` does not state the width.
# It holds `dim`, `multiple_of` and, since Llama 2 70B, `ffn_dim_multiplier` (1 where it is
# missing), and the code derives the rest. Can you find the rule? It starts from $\frac83$ `dim`.
# Here are four releases, and three small shapes made up. Where fractions are cut, only these tell:

# %%
WIDTHS = {(4096, 256, 1.0): 11_008, (5120, 256, 1.0): 13_824,
          (4096, 1024, 1.3): 14_336, (2048, 256, 1.5): 8_192,
          (96, 64, 1.0): 256, (10, 1, 1.5): 39, (11, 1, 1.5): 43}
for (dim, multiple_of, multiplier), width in WIDTHS.items():
    print(f"dim {dim:5,}  multiple_of {multiple_of:5,}"
          f"  multiplier {multiplier}  width {width:6,}")


def ffn_width(dim: int, multiple_of: int, multiplier: float) -> int:
    """Exercise 4.5 ●●○ 8 min. Return the width, a whole number, by the one rule that gives all seven
    rows of `WIDTHS`: four releases and three shapes made up.
    """
    ### BEGIN SOLUTION
    width = int(multiplier * (8 * dim // 3))
    return width + -width % multiple_of
    ### END SOLUTION


check("4.5", ffn_width)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 4.5.** *Two thirds of dim* is printed in write-ups. *Rounding to nearest* is
# the treacherous one: right for the 7B and the 70B, 256 short for the 13B. A wrong width does
# not train badly, it does not load at all: the shapes differ. That is the friendly kind of bug.
# *`// multiple_of + 1`* is right until a width needs no rounding, as in the 3.2 3B. *The
# fraction kept* gives the right answer for every published model, and another one for a model
# that you make up; two programs that agree on all known cases can still differ.
# ### END SOLUTION
#
# Two thirds of 4 `dim`, cut to a whole number; times the multiplier, and cut again; at last rounded
# *up*. (The comment in Meta's code says: "make SwiGLU hidden layer size multiple of large power of
# 2", and gives no reason. Such sizes fill the tiles of a GPU and split evenly over several.) In the
# package, `//` rounds down, and adding `multiple_of - 1` first turns that into rounding up:

# %% twin="llama_edu.config.swiglu_width"
def swiglu_width(dim: int, *, multiple_of: int, multiplier: float = 1.0) -> int:
    width = int(multiplier * int(2 * 4 * dim / 3))
    return multiple_of * ((width + multiple_of - 1) // multiple_of)


assert all(swiglu_width(dim, multiple_of=of, multiplier=times) == width
           for (dim, of, times), width in WIDTHS.items())

# %% [markdown]
# Does this rule give every released width? One row for each shape, with its steps:

# %% tags=["nbval-check-output"]
SHAPES = ("llama-1-7b", "llama-1-13b", "llama-1-33b", "llama-1-65b",
          "llama-2-34b", "llama-2-70b", "llama-3-8b", "llama-3.1-405b",
          "llama-3.2-3b", "llama-3.2-1b")
print("release          8/3 dim  times      is  multiple  hidden_dim   / dim")
for name in SHAPES:
    row = release(name)
    dim, times = row.config.dim, row.ffn_dim_multiplier or 1.0
    cut = int(2 * 4 * dim / 3)
    width = swiglu_width(dim, multiple_of=row.multiple_of, multiplier=times)
    print(f"{name:15} {cut:8,} {times:6} {int(times * cut):7,}"
          f" {row.multiple_of:9,} {width:11,} {width / dim:7.3f}")
    assert width == row.config.hidden_dim

# %% [markdown]
# And now all releases, not only one of each shape:

# %% tags=["nbval-check-output"]
def derived(row) -> int:
    return swiglu_width(row.config.dim, multiple_of=row.multiple_of,
                        multiplier=row.ffn_dim_multiplier or 1.0)


exceptions = [row for row in RELEASES if derived(row) != row.config.hidden_dim]
print(len(RELEASES), "releases; the rule fails for",
      [row.id for row in exceptions])
for row in exceptions:
    print(f"rule {derived(row):,}, checkpoint {row.config.hidden_dim:,}")
    print(row.notes[0])
assert all(row.config.hidden_dim % row.shards == 0 for row in RELEASES)

# %% [markdown]
# One exception in the whole family: the smallest Llama Guard. Its layer was cut down after
# training, and the rule cannot know that. The last line checks a promise: every width splits evenly
# into the files that its release was published in.
#
# ## In the Llamas: when eight thirds stopped being true
#
# Here is the width of every shape, divided by `dim`. At $8/3$, the dashed line, the layer costs
# what the classic one costs.

# %% tags=["hide-input"] mystnb={"image": {"alt": "hidden_dim over dim for ten shapes. All Llama 1 sizes, the 34B and the 3.2 3B sit at 8/3 or up to 0.03 above. Llama 2 70B and Llama 3 8B are at 3.5, 405B at 3.25, and the 3.2 1B at 4."}}
fig, ax = plots.figure(
    "From the 70B on, most Llamas pay for more than eight thirds",
    x="hidden_dim / dim", y="")
for place, name in enumerate(reversed(SHAPES)):
    shape = release(name).config
    shares = shape.n_kv_heads < shape.n_heads
    ax.plot(shape.hidden_dim / shape.dim, place, "D" if shares else "o",
            markersize=6, color=plots.VERMILION if shares else plots.BLUE)
ax.axvline(8 / 3, color="#888888", linestyle="--", linewidth=1)
ax.set_yticks(range(len(SHAPES)),
              [release(name).name for name in reversed(SHAPES)])
ax.plot([], [], "o", color=plots.BLUE,
        label="every query head has its own keys")
ax.plot([], [], "D", color=plots.VERMILION,
        label="query heads share keys (GQA)")
ax.legend(loc="upper right")
shown = {release(name).config for name in SHAPES}
regular = {row.config for row in RELEASES if row not in exceptions}
assert ({each.hidden_dim / each.dim for each in shown}
        == {each.hidden_dim / each.dim for each in regular})

# %% [markdown]
# The widening begins with the Llama 2 70B. Chapter 03 showed what else began in Llama 2's large
# sizes: eight key/value heads instead of sixty-four. That makes $w_k$ and $w_v$ eight times
# smaller. Does the wider layer spend exactly what was saved there? First the budget, for any
# model: its keys become shared, and nothing else but the width may change. (`parameters` is yours
# to use; on paper it is one line.)

# %%
def paid_width(config, n_kv_heads: int, multiple_of: int) -> int:
    """Exercise 4.6 ●●○ 10 min. The model of `config` is cut to `n_kv_heads` key/value heads. Return
    the widest `hidden_dim`, a multiple of `multiple_of`, with which it has no more parameters than
    before. `config` has the old numbers: `n_kv_heads`, `head_dim` and `hidden_dim`. The old
    `hidden_dim` need not be a multiple.
    """
    ### BEGIN SOLUTION
    heads_saved = config.n_kv_heads - n_kv_heads
    width = config.hidden_dim + 2 * heads_saved * config.head_dim // 3
    return width - width % multiple_of
    ### END SOLUTION


check("4.6", paid_width)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 4.6.** In one layer, $w_k$ and $w_v$ lose $2 \cdot c \cdot$ (heads saved)
# $\cdot d$ numbers, with $d$ features a head, and one more hidden feature costs $3c$: a row of
# $w_1$, a row of $w_3$, a column of $w_2$. The width of the tokens and the number of layers fall
# out. *Two matrices* is what formulas for GPT-2 say. *head_dim* need not be `dim / n_heads`.
# ### END SOLUTION
#
# What if the 70B had shared its keys and kept the old width?

# %% tags=["nbval-check-output"]
seventy = release("llama-2-70b").config
print("parameters in billions")
for kv, width in ((64, 22_016), (8, 22_016), (8, 28_672)):
    count = parameters(replace(seventy, n_kv_heads=kv, hidden_dim=width))
    print(f"{kv:2} kv heads, width {width:,}: attention"
          f" {count.attention / 1e9:5.2f}, feed-forward"
          f" {count.feed_forward / 1e9:5.2f}, all {count.total / 1e9:5.2f}")

# %% [markdown]
# The last row is the model as released, its width 1.3 times as large before the rounding. Without
# that multiplier the "70B" would have had 55.89 billion parameters. So the 1.3 pays for
# something. Does it pay exactly what sharing the keys took away?

# %% tags=["nbval-check-output"]
removed = 80 * 2 * 8192 * (8192 - 1024)             # wk and wv, 64 heads to 8
added = 80 * 3 * 8192 * (28_672 - 22_016)
even = 22_016 + removed / (80 * 3 * 8192)
print(f"removed {removed / 1e9:.2f}B, added {added / 1e9:.2f}B")
print(f"break-even width {even:,.0f},"
      f" which is {even / (8192 * 8 / 3):.2f} times 8/3 dim")

# %% [markdown]
# More than that: 13.09 billion came back for 9.40 that were taken. Break-even would have been
# a width of 26,795, a multiplier of 1.23. The appendix of the Llama 2 paper (A.2.1) gives the
# reason for its own test models: with GQA (query heads that share keys) the feed-forward width
# grows by 1.3, to keep the total similar. Similar, not equal, and no law of nature. The 34B shares
# its keys and got no multiplier, nor did the 3.2 3B. The 3.2 1B got 1.5, which makes its width
# exactly the classic $4c$, with three matrices instead of two.
#
# ## What do the gates do? We train a small reader and look inside
#
# To see gates at work we need a network that has learnt something. Ours reads sentences about
# animals (our grammar has *mice*, but also *foxs*), twelve characters at a time, and predicts the
# next character. A sentence is a row of slots, and each slot draws one of its words:

# %%
ANIMALS = ("cat", "dog", "fox", "hen", "owl", "goat", "mouse", "horse")
LOOKS = ("red", "black", "white", "brown", "small", "old", "young")
VERBS = ("sees", "likes", "follows", "hears", "finds")
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine")
PLACES = ("hill", "barn", "river", "road")
MANY = tuple("mice" if one == "mouse" else one + "s" for one in ANIMALS)
ONE_SEES = (["the "], LOOKS, [" "], ANIMALS, [" "], VERBS, [" "])
BY = ([" by the "], PLACES, [". "])
SENTENCES = ((*ONE_SEES, ["the "], LOOKS, [" "], ANIMALS, *BY),
             (*ONE_SEES, NUMBERS, [" "], LOOKS, [" "], MANY, *BY))


def tell(n_chars: int, seed: int) -> str:
    pick, text = random.Random(seed).choice, ""
    while len(text) < n_chars:
        text += "".join(pick(slot) for slot in pick(SENTENCES))
    return text[:n_chars]


for sentence in tell(130, seed=0).split(". "):
    print(sentence)

# %% [markdown]
# The reader has no attention: the twelve characters are placed side by side into one vector of 48
# features, and two feed-forward layers do the rest. It comes in three kinds, which differ in
# nothing but these two layers. The classic kinds get width $4c$ and SwiGLU $\frac83 c$. We chose
# $c = 48$ because it divides by three, so the parameters are equal to the last one.

# %%
SPAN, EACH = 12, 4
DIM = SPAN * EACH
LETTERS = sorted(set(tell(20_000, seed=0)))


class Classic(nn.Module):
    """The layer of two matrices."""

    def __init__(self, dim: int, hidden_dim: int, activation):
        super().__init__()
        self.w1 = nn.Linear(dim, hidden_dim, bias=False)
        self.w2 = nn.Linear(hidden_dim, dim, bias=False)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(self.activation(self.w1(x)))


KINDS = {"ReLU": lambda: Classic(DIM, 4 * DIM, F.relu),
         "GELU": lambda: Classic(DIM, 4 * DIM, F.gelu),
         "SwiGLU": lambda: FeedForward(DIM, 8 * DIM // 3)}

# %% [markdown]
# Around the layers stands what you know from chapter 01: a norm before each, a residual sum
# after it, and a norm at the end.

# %%
class Reader(nn.Module):
    """From twelve characters, `b 12`, to logits for the next, `b v`."""

    def __init__(self, kind: str):
        super().__init__()
        self.embeddings = nn.Embedding(len(LETTERS), EACH)
        self.layers = nn.ModuleList(KINDS[kind]() for _ in range(2))
        self.norms = nn.ModuleList(RMSNorm(DIM, 1e-5) for _ in range(3))
        self.output = nn.Linear(DIM, len(LETTERS), bias=False)

    def forward(self, letters: Tensor) -> Tensor:
        x = self.embeddings(letters).flatten(1)
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = x + layer(norm(x))
        return self.output(self.norms[-1](x))


sizes = {kind: n_parameters(Reader(kind)) for kind in KINDS}
print(sizes)
assert len(set(sizes.values())) == 1

# %% [markdown]
# Training is brief: a few hundred steps of 64 windows, with a learning rate that falls to zero.
# The loss is $-\ln p$ of the character that came, on average; its unit is the *nat*. The seed draws
# both the first weights and the order of the windows.

# %%
def windows(text: str) -> tuple[Tensor, Tensor]:
    """Every twelve characters `n 12`, and the character that follows `n`."""
    ids = torch.tensor([LETTERS.index(letter) for letter in text])
    ids = ids.unfold(0, SPAN + 1, 1)
    return ids[:, :-1], ids[:, -1]


def train(kind: str, *, learning_rate: float, steps: int, seed: int) -> Reader:
    torch.manual_seed(seed)
    reader, order = Reader(kind), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(reader.parameters(), fused=True)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        some = torch.randint(len(seen), (64,), generator=order)
        loss = F.cross_entropy(reader(seen[some]), seen_next[some])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return reader


seen, seen_next = windows(tell(60_000, 0))
unseen_text = tell(10_000, 1)
unseen, unseen_next = windows(unseen_text)

# %% [markdown]
# No reader can reach a loss of zero: which animal comes next is drawn at random. But we wrote the
# grammar, so we can compute the best that a reader of twelve characters can do. We follow
# every sentence slot by slot, with the probability of each window of twelve characters, and
# note which character follows which window how often:

# %%
def followers() -> Counter:
    """How often, a sentence of each kind, a window precedes a character."""
    often = Counter()
    ends = [f" by the {place}. "[-SPAN:] for place in PLACES]
    for sentence in SENTENCES:
        now = dict.fromkeys(ends, 1 / len(PLACES))
        for slot in sentence:
            after = Counter()
            for window, p in now.items():
                for word in slot:
                    at = window
                    for letter in word:
                        often[at, letter] += p / len(slot)
                        at = at[1:] + letter
                    after[at] += p / len(slot)
            now = after
    return often


often, times = followers(), Counter()
for (window, _), p in often.items():
    times[window] += p

# %%
surprise = []
for i in range(len(unseen)):
    window, letter = unseen_text[i:i + SPAN], unseen_text[i + SPAN]
    surprise.append(math.log(times[window] / often[window, letter]))
floor = statistics.mean(surprise)
in_all = sum(math.log(2 * math.prod(map(len, slots))) for slots in SENTENCES)
entropy = in_all / sum(times.values())
print(f"the grammar's entropy: {entropy:.3f} nats a character")
print(f"twelve characters at a time, on the unseen text: {floor:.3f}")


@torch.no_grad()
def excess(reader: Reader) -> float:
    """Loss on text that the reader has never seen, above the floor, in nats."""
    return F.cross_entropy(reader(unseen), unseen_next).item() - floor

# %% [markdown]
# The first number is the floor for a reader who sees the whole text, the second the one that
# ours can reach at best. From here on we speak of the loss *above that floor*.
#
# We train one SwiGLU reader and take the second layer apart: what the gates let through,
# $\mathrm{SiLU}(x W_1)$, and what is carried, $x W_3$, on text that it has not seen.

# %%
reader = train("SwiGLU", learning_rate=0.01, steps=600, seed=0)


@torch.no_grad()
def look_inside(letters: Tensor) -> tuple[Tensor, Tensor]:
    """The second layer's gates and what is carried: two of `n f`."""
    x = reader.embeddings(letters).flatten(1)
    x = reader.norms[1](x + reader.layers[0](reader.norms[0](x)))
    return F.silu(reader.layers[1].w1(x)), reader.layers[1].w3(x)


gate, carried = look_inside(unseen)
print(f"{(gate < 0).float().mean():.0%} of the gates are below zero,"
      " where they let through at most 0.28")

# %% [markdown]
# There are 128 hidden features, each with a gate. We pick three by a rule, not by taste. For
# each of three characters it is the feature whose output, gate times carried, best separates the
# moments *before* that character from all others. First we look at their gates alone, along one
# sentence.

# %%
def apart(values: Tensor, letter: str) -> Tensor:
    """How far values before this letter lie from the others: `f`.

    The unit is the standard deviation of each feature.
    """
    before = unseen_next == LETTERS.index(letter)
    gap = values[before].mean(0) - values[~before].mean(0)
    return (gap / values.std(0)).abs()


chosen = {letter: int(apart(gate * carried, letter).argmax())
          for letter in "uvg"}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three gates along a sentence of 53 characters. Rows are dark most of the time. They are brightest at the dots before the u and the g of young and the v of river; the dot before the v of five lies on a dark cell."}}
letters, following = windows(
    "by the hill. the young fox follows five white mice by the river. ")
inside, _ = look_inside(letters)
fig, ax = plots.figure(
    "Some gates open widest before one character (dots)",
    x="character to be predicted", y="gate")
plots.heatmap(ax, inside[:, list(chosen.values())].T, label="SiLU(x w1)")
for row, letter in enumerate(chosen):
    places = [i for i, which in enumerate(following)
              if LETTERS[which] == letter]
    ax.plot(places, [row] * len(places), "o", color=plots.VERMILION,
            markeredgecolor="white")
ax.set_xticks(range(len(following)), [LETTERS[i].strip() for i in following])
ax.set_yticks(range(3), [f"before '{letter}'" for letter in chosen]);

# %% [markdown]
# Nobody told the gates about characters. The gate for v is widest before the v of *five*, and open
# before that of *river*; the one for g is widest before the g of *young*. But the gate for u opens
# as wide at three places that have no u, and the others open half as wide or more at wrong places,
# too. That need not do harm, if little passes through them then.
#
# So what does $w_3$ send? We put the two side by side for the gate before v, one mark for each
# moment of the unseen text.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Carried value against gate opening for one hidden feature. One group of moments before v lies in a corner of its own, gate wide open and carried value large; other moments are shut or carry less, and strong carried values at a shut gate are common."}}
unit = chosen["v"]
before = unseen_next == LETTERS.index("v")
fig, ax = plots.figure(
    "When the gate opens is one question, what it carries another",
    x="gate SiLU(x w1)", y="carried x w3")
ax.plot(gate[~before, unit], carried[~before, unit], ".", color=plots.SKY,
        markersize=3, label="before another character")
ax.plot(gate[before, unit], carried[before, unit], "^", color=plots.VERMILION,
        markersize=4, label="before v")
ax.legend();

# %% [markdown]
# The v's lie where the gate is open *and* the carried value negative. A wide gate alone does not
# mean v, and neither does a negative value: at the left edge are strong values that a shut gate
# lets through weakly, and with the sign turned. It takes both. In numbers, how far the moments
# before a character lie from all others, in standard deviations; and for how many characters the
# best product beats the best gate *and* the best carried value:

# %%
parts = {"gate": gate, "carried": carried, "product": gate * carried}
for letter, unit in chosen.items():
    print(f"before '{letter}'", *(f"  {name} {apart(part, letter)[unit]:.1f}"
                               for name, part in parts.items()))

wins = 0
for letter in LETTERS:
    best = {name: apart(part, letter).max() for name, part in parts.items()}
    wins += best["product"] > max(best["gate"], best["carried"])
print(f"the product stands out most for {wins} of {len(LETTERS)} characters")
assert wins > len(LETTERS) / 2

# %% [markdown]
# For most characters the product tells more than either half, in this one reader. One may read it
# as two questions, *is this the moment?* and *what is to be said?*, whose answers are multiplied.
#
# ## Do the gates of a real model open and shut?
#
# By its sigmoid, a gate is truly shut where $\sigma(z)$ is below 5 % and truly open where it is
# above 95 %, that is, where $z = xW_1$ lies beyond $\pm 3$. In between it is neither. How often is
# it neither in a model that has read billions of words? SmolLM2 is a relative of the Llamas, of 30
# layers: the same architecture, other weights. It reads three sentences of ours. The teller that
# comes with this package (three layers, trained on small tales) reads a tale of its kind. The first
# token is left out: it stands before everything else and is unlike the rest. About five seconds.

# %%
guess_decided = None    # of all gates of SmolLM2, the share beyond ±3

PROSE = (
    "The old keeper climbed the stairs each evening to light the lamp. "
    "Below him the sea was dark, and the ships that passed were only small "
    "lights on the water. In thirty years the lamp had never gone out.")


@torch.inference_mode()
def both_sides(name: str, text: str) -> tuple[list[Tensor], list[Tensor]]:
    """What each layer's gates read, x W1, and what it carries, x W3: `t f`."""
    model, tokenizer = load(name)
    gates, ups = [], []

    def keep(found: list[Tensor], part: nn.Module) -> None:
        part.register_forward_hook(
            lambda module, given, result: found.append(result[0, 1:]))

    for layer in model.layers:
        keep(gates, layer.feed_forward.w1)
        keep(ups, layer.feed_forward.w3)
    model(torch.tensor([tokenizer.encode(text)]))
    return gates, ups


read, sent = {}, {}
read["the teller"], sent["the teller"] = both_sides("tales", tales.story(3))
if installed.find("smollm2"):
    read["SmolLM2"], sent["SmolLM2"] = both_sides("smollm2", PROSE)
else:
    print(installed.how_to_get("smollm2"))

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: in SmolLM2 the share of gates below zero rises from 0.35 to 0.8 and falls to 0.5 with depth; in the teller it rises from 0.54 to 0.73. Right: beyond 3 either way lies under 0.1 in each layer of SmolLM2, and 0.14 in the teller's last."}}
fig, panels = plots.figure(
    "In SmolLM2 hardly a gate is truly shut or truly open",
    x="depth (share of layers)", y="share of gates", columns=2)
for (name, layers_read), mark in zip(read.items(), "so", strict=False):
    depth = [i / (len(layers_read) - 1) for i in range(len(layers_read))]
    panels[0].plot(depth, [(z < 0).float().mean() for z in layers_read],
                   marker=mark, markersize=4, label=name)
    panels[1].plot(depth, [(z.abs() > 3).float().mean() for z in layers_read],
                   marker=mark, markersize=4)
panels[0].set(title="below zero", ylim=(0, 1))
panels[1].set(title="beyond ±3: truly shut or open", ylim=(0, 1))
panels[0].legend(loc="lower right");

# %% [markdown]
# How near was your guess?

# %%
def joined(layers_of_one: list[Tensor]) -> Tensor:
    return torch.cat([each.flatten() for each in layers_of_one])


decided = {name: (joined(each).abs() > 3).float().mean().item()
           for name, each in read.items()}
print({name: f"{share:.1%}" for name, share in decided.items()})
if "SmolLM2" in read:
    assert max((z.abs() > 3).float().mean() for z in read["SmolLM2"]) < 0.1
reveal("SmolLM2's gates beyond ±3", guess_decided,
       round(decided.get("SmolLM2", math.nan), 4))

# %% [markdown]
# That counts gates. Now by what passes through them, as a sum of squares:

# %%
def share(part: Tensor, whole: Tensor) -> float:
    """Of the sum of squares."""
    return (part.norm() / whole.norm()).item() ** 2


def wide(z: Tensor, up: Tensor) -> float:
    """Of all that passes, the share that passes at gates beyond ±3."""
    through = F.silu(z) * up
    return share(through[z.abs() > 3], through)


for name in read:
    one = [wide(*sides) for sides in zip(read[name], sent[name], strict=True)]
    z, up = joined(read[name]), joined(sent[name])
    assert wide(z, up) > 0.5
    print(f"{name}: {wide(z, up):.0%} of what passes, passes beyond ±3"
          f" (layers: {min(one):.0%} to {max(one):.0%})")
    near = z.abs() < 3
    z, up = z[near], up[near]
    exact, half, bend = F.silu(z) * up, z / 2 * up, z**2 / 4 * up
    without, with_bend = (share(exact - each, exact) ** 0.5
                          for each in (half, half + bend))
    print(f"    in between, zu/2 misses {without:.0%},"
          f" zu/2 + z²u/4 misses {with_bend:.0%}")

# %% [markdown]
# Counted one by one, the picture of a gate fails: of a hundred gates one is truly shut or open, and
# in the teller five. The others are in between, where SiLU is neither 0 nor $z$ but bends. Half the
# product of the two projections, $\frac z2 u$ with $u = xW_3$, is not enough: it misses 69 % of
# what passes there (root mean square), and the bend, $\frac{z^2}4 u$, supplies most of the rest.
#
# But weigh instead of counting. What passes at the few beyond $\pm 3$ is large: it holds most of
# the sum of squares, in both models, though in some layers of SmolLM2 next
# to nothing. (Three sentences for one model, a tale for the other.)
#
# ## Play: ReLU, GELU and SwiGLU on equal parameters
#
# Now the race. Three kinds, equal parameters, equal data in an equal order, three seeds each. A
# single learning rate would be unfair, because each kind may have its own favourite. We try
# three for 150 steps, and the middle one for 450. About thirty seconds on a quiet machine.
#
# > **Predict.** After 150 steps at the middle rate, 0.01, SwiGLU leads GELU by some margin. Which
# > share of that lead is left after 450 steps?

# %%
guess_left = None

SEEDS = range(3)
RUNS = {(0.003, 150): "0.003\n150 steps", (0.01, 150): "0.01\n150 steps",
        (0.03, 150): "0.03\n150 steps", (0.01, 450): "0.01\n450 steps"}
above = {}
for kind in KINDS:
    for rate, steps in RUNS:
        readers = [train(kind, learning_rate=rate, steps=steps, seed=seed)
                   for seed in SEEDS]
        above[kind, rate, steps] = [excess(reader) for reader in readers]

# %% tags=["hide-input"] mystnb={"image": {"alt": "Loss above the floor on a logarithmic axis, three seeds for each of three layers. SwiGLU is lowest in all four runs: at 0.62 against 0.83 and 0.85 for the lowest rate, at 0.034 against 0.047 and 0.051 after 450 steps."}}
fig, ax = plots.figure(
    "SwiGLU leads in each run; by how much is a matter of rate and steps",
    x="learning rate, steps", y="loss above the floor (nats)")
for i, (kind, colour, mark) in enumerate(
        zip(KINDS, plots.COLOURS, "osD", strict=False)):
    for place, run in enumerate(RUNS):
        ax.plot([place + (i - 1) * 0.2] * len(SEEDS), above[kind, *run], mark,
                color=colour, markersize=5, label=kind if place == 0 else None)
ax.set_xticks(range(len(RUNS)), RUNS.values())
ax.set_yscale("log")
ax.set_yticks([0.03, 0.1, 0.3, 0.9], ["0.03", "0.1", "0.3", "0.9"])
ax.minorticks_off()
ax.legend();

# %% [markdown]
# The same runs as numbers, and SwiGLU's lead over GELU in two units:

# %%
def lead(run: tuple) -> tuple[float, float]:
    """SwiGLU's lead over GELU: in nats, and as a share of GELU's excess."""
    gelu, gated = (statistics.mean(above[kind, *run])
                   for kind in ("GELU", "SwiGLU"))
    return gelu - gated, 1 - gated / gelu


for run in RUNS:
    print(f"rate {run[0]}, {run[1]} steps")
    for kind in KINDS:
        print(f"    {kind:7} {spread(above[kind, *run])}")
    nats, part = lead(run)
    print(f"    SwiGLU leads by {nats:.3f} nats, {part:.0%} of GELU's excess")
    plain = above["GELU", *run] + above["ReLU", *run]
    assert max(above["SwiGLU", *run]) < min(plain)
short, long = lead((0.01, 150)), lead((0.01, 450))
reveal("share of the lead in nats that is left", guess_left,
       round(long[0] / short[0], 2))

# %% [markdown]
# In nats the lead shrinks to about a tenth, and one might say that it vanishes. But everything
# shrinks when the floor comes near: as a share of what GELU has left to learn, the lead went from
# 42 % to 29 %. A lead without its distance to the floor says little. Nor does one at a single rate:
# in nats, the lowest rate shows more than three times the lead of the highest.
#
# So this page supports: on this toy task, at equal parameters and for three seeds, the gated layer
# learns *faster*. How much would be left at the end, it cannot say, nor anything about Llamas.
#
# > **History.** Shazeer (2020) compared several such layers in one model at equal parameters.
# > The gated ones came out somewhat ahead of the plain ones. Why? The paper closes: "We offer no
# > explanation as to why these architectures seem to work; we attribute their success, as all
# > else, to divine benevolence."
#
# ## Fact check: three claims about the layer
#
# Three sentences that one can read elsewhere. In E13, s is the sigmoid and b a number; read the
# formula slowly. In D11 "that width" is the one that Llama 1 was released with. Set each `"?"` to
# `"right"`, `"wrong"` or `"imprecise"`, before you run on.

# %%
claims.judge({"E13": "?", "D10": "?", "D11": "?"})

# %% [markdown]
# The first can be tried out, and the others are a sum: parameters of the layer, as a multiple of
# the classic $8c^2$.

# %%
x = torch.linspace(-50, 50, 10_001, dtype=torch.float64)
for beta in (0.1, 1.0, 1.702, 10.0):
    s = torch.sigmoid(beta * x)
    torch.testing.assert_close(x * s + (1 - s) * x, x, rtol=1e-12, atol=0)
print("the formula returns x, whatever beta is")

# %% tags=["nbval-check-output"]
print(f"width 2/3 dim: {3 * (2 / 3) / 8:.2f} of the classic layer")
for name in SHAPES:
    shape = release(name).config
    print(f"{name:15} {3 * shape.hidden_dim / (8 * shape.dim):.4f}")

# %% [markdown]
# What the ledger says:

# %%
claims.show("E13", "D10", "D11")

# %% [markdown]
# **Verdicts.** E13 is **wrong**: $x\sigma + (1 - \sigma)x = x$. It is the identity, written at
# length; a network of such layers is a product of matrices, and could learn nothing that one
# matrix cannot. D10 is **wrong**: two thirds of $d$ would leave a quarter of the layer. It is two
# thirds *of 4d*. D11 is **right** of Llama 1, within 1.3 %. It stayed so for Llama 2 up to the 34B
# and for the 3.2 3B; of the 70Bs, the 8Bs, the 405B and the 3.2 1B it could not be said: their
# layers are up to half as large again. Copy the width from the release, not from the rule of thumb.
#
# ## One more: the way back
#
# Whoever can go backwards through a layer has understood it. Given $x$, the weights and the
# gradient of the loss with respect to the layer's result, what are the gradients with respect to
# $x$ and the three matrices? Do it on paper: autograd would pass the check, and teach nothing. (For
# a linear layer $y = xW^\top$ with a gradient $g$ of $y$: $x$ gets $gW$, and $W$ gets $g^\top x$.)

# %%
def swiglu_backward(
    x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Exercise 4.7 ●●● 15 min. `x` and `grad` have the shape `t c`, the weights the shapes of 4.2.
    Return the gradients for `x`, `w1`, `w2` and `w3`, in this order, each of the shape of what it
    belongs to.
    """
    ### BEGIN SOLUTION
    gate, up = x @ w1.T, x @ w3.T
    open_by = torch.sigmoid(gate)
    to_product = grad @ w2
    to_up = to_product * gate * open_by
    to_gate = to_product * up * open_by * (1 + gate * (1 - open_by))
    for_w2 = grad.T @ (gate * open_by * up)
    return to_gate @ w1 + to_up @ w3, to_gate.T @ x, for_w2, to_up.T @ x
    ### END SOLUTION


check("4.7", swiglu_backward)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 4.7.** A product sends back to each factor what came, times the *other* factor:
# the gate learns from what it let through, and up from how far the gate was open. Where the gate
# is truly shut, neither learns. And $x$ feeds two projections, so it hears from both.
# ### END SOLUTION
#
# ## Summary: what to remember, and what to read
#
# - ReLU, GELU and SiLU are gates that $z$ opens for itself. SwiGLU opens its gate with $xW_1$ and
#   lets $xW_3$ through; two such units multiply exactly. So do four squared ReLUs.
# - "Gate" is a picture. In a trained model most are neither open nor shut; the few that are wide
#   open carry much. The product is what counts.
# - $\frac83 c$ makes three matrices as expensive as two of $4c$. Meta cuts, multiplies, cuts,
#   and rounds up. The multiplier 1.3 spends what shared keys save, and somewhat more.
# - In our race SwiGLU learnt faster. Judge a lead by the distance to the floor; use equal
#   parameters, several seeds, several rates: below that, a comparison says little.
#
# Read `FeedForward` in `llama_edu/layers.py` and `swiglu_width` in `llama_edu/config.py`; you
# have now written both. With the norm, the rotation, attention and this layer, all parts of a
# Llama's block are on the table. Chapter 05 turns to what goes in: text, cut into tokens.
