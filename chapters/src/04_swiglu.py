# %% [markdown]
# # 04 · SwiGLU: who opens the gate?
#
# **The question.** Attention gets the fame, but most of a Llama's parameters sit in another
# layer, one that looks at each token alone. The classic form of this feed-forward layer has two
# matrices. Llama's has three, and a width that looks like a misprint: 11,008. What is the third
# matrix for, and who chose that number?
#
# | you will build | you need | minutes |
# |---|---|---|
# | `FeedForward` from `llama_edu.layers`, `swiglu_width` from `llama_edu.config` | chapter 01; for one section the key/value heads of chapter 03 | 70 |

# %%
import math
import random
import statistics
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llama_edu import config as package_config
from llama_edu import claims, layers, plots
from llama_edu.exercises import check, hint
from llama_edu.family.accounting import parameters
from llama_edu.family.releases import RELEASES, release
from llama_edu.layers import RMSNorm

plots.use_style()
torch.set_num_threads(1)    # the networks of this chapter are too small to share

# %% [markdown]
# How much is "most"? We count.

# %%
# NBVAL_CHECK_OUTPUT
for name in ("llama-1-7b", "llama-3-8b", "llama-3.1-405b"):
    count = parameters(release(name).config)
    print(f"{name:15} feed-forward {count.feed_forward / count.total:.0%},"
          f" attention {count.attention / count.total:.0%}")

# %% [markdown]
# > **Predict.** Tokens of the first Llama 7B are 4,096 numbers wide. A classic feed-forward
# > layer widens them to four times that, 16,384, and back: two matrices. Llama's layer has three
# > matrices of width 11,008. Does it hold more parameters than the classic one, fewer, or about
# > as many? Write your guess down.
#
# ## By hand: two gates that multiply
#
# Here is the whole idea on two numbers, $a$ and $b$. One number decides *how far a gate opens*,
# the other is *what passes through*. How far the gate opens is $\mathrm{SiLU}(a) = a \cdot
# \sigma(a)$, where $\sigma(a) = 1 / (1 + e^{-a})$ is the sigmoid, a soft switch between 0 and 1.

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
# A layer of ReLUs cannot do this, however many it has: it is made of flat pieces, on each of them it is
# linear, and a product is linear on no region at all. What makes the difference is that *inside* the
# layer something is multiplied by something else. A third matrix is one way to have that. It is
# not the only one: a ReLU that is squared (So et al. 2021) multiplies with two matrices and four units.

# %%
def squared(u: float) -> float:
    return max(u, 0.0) ** 2


def by_squares(a: float, b: float) -> float:
    return (squared(a + b) + squared(-a - b) - squared(a - b) - squared(b - a)) / 4


print("largest error below 1e-12:", max(abs(by_squares(a, b) - a * b) for a, b in pairs) < 1e-12)

# %% [markdown]
# Keep this in mind: a gate multiplies.
#
# ## The idea: an activation can be a gate, and SwiGLU takes its gate from elsewhere
#
# The classic layer is $\mathrm{FFN}(x) = \phi(x W_1)\, W_2$, with some activation $\phi$ between
# the two matrices. Three are common. ReLU cuts off what is below zero. GELU (Hendrycks and
# Gimpel 2016) multiplies by the probability that a normal random number is smaller. SiLU, also
# called Swish, multiplies by the sigmoid. Written as $\phi(z) = z \cdot \text{gate}(z)$, all
# three have the same form:

# %% mystnb={"image": {"alt": "Left: ReLU, GELU and SiLU from -5 to 5 nearly agree away from zero; SiLU dips lowest, to -0.28. Right: the factor each multiplies its input by rises from 0 to 1, as a step for ReLU, steeply for GELU, gently for SiLU."}}
z = torch.linspace(-5, 5, 401)
fig, panels = plots.figure("ReLU, GELU and SiLU are gates that differ in softness only",
                           x="input z", y="output", columns=2)
for name, gate in {"ReLU": (z > 0).float(), "GELU": F.gelu(z) / z, "SiLU": z.sigmoid()}.items():
    panels[0].plot(z, z * gate)
    panels[1].plot(z, gate, label=name)
panels[0].set(title="activation", ylim=(-0.6, 3), xlim=(-5, 3))
panels[1].set(title="gate = activation / z", ylabel="share let through")
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
# where $\odot$ multiplies feature by feature. $W_1$ is the gate, $W_3$ goes *up* to what the gate
# lets through, $W_2$ goes back *down* to $c$ features. So SwiGLU is no activation
# function. It is a layer of three matrices, and the activation inside it is SiLU.
#
# SiLU dips below zero. At its lowest point the slope $\sigma(z) + z\,\sigma(z)(1 - \sigma(z))$ is
# zero. Divide that by $\sigma(z)$: there $z\,\sigma(z)$, which is SiLU, equals $z + 1$. The height
# and the place differ by exactly one:

# %%
# NBVAL_CHECK_OUTPUT
fine = torch.linspace(-2, 0, 200_001, dtype=torch.float64)
lowest = F.silu(fine).argmin()
print(f"lowest at z = {fine[lowest]:.4f}, where SiLU = {F.silu(fine)[lowest]:.4f}")

# %% [markdown]
# So a shut gate is not quite zero, and a gate that is wide open is larger than one: SiLU goes on
# growing. "Gate" is a picture. The arithmetic is a product.
#
# ## Build it: a loop, then three lines
#
# First the naive way, one token, one hidden feature after another. The weights are stored as
# PyTorch stores them, one row for each output feature.

# %%
def swiglu_loop(x: list[float], w1: list, w2: list, w3: list) -> list[float]:
    """One token. Shazeer 2020, eq. 6."""
    hidden = []
    for gate_row, up_row in zip(w1, w3, strict=True):
        gate = sum(weight * value for weight, value in zip(gate_row, x, strict=True))
        carried = sum(weight * value for weight, value in zip(up_row, x, strict=True))
        hidden.append(silu(gate) * carried)
    return [sum(weight * value for weight, value in zip(row, hidden, strict=True)) for row in w2]


swiglu_loop([3.0, 5.0], w1=[[1, 0], [-1, 0]], w3=[[0, 1], [0, -1]], w2=[[1, 1], [0, 0]])

# %% [markdown]
# Those are the two multiplying units from above, now as matrices: $w_1$ reads $a$ and $-a$,
# $w_3$ reads $b$ and $-b$, $w_2$ adds. The form in the package:

# %%
# twin: llama_edu.layers.FeedForward
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
#
# ## Prove it: against the loop and the package
#
# Every size is different, so that a transposed matrix cannot go unnoticed.

# %%
torch.manual_seed(0)
layer, packaged = FeedForward(3, 7), layers.FeedForward(3, 7)
packaged.load_state_dict(layer.state_dict())
tokens = torch.randn(2, 5, 3) * 3

w1, w2, w3 = (w.weight.tolist() for w in (layer.w1, layer.w2, layer.w3))
for b in range(2):
    for t in range(5):
        slow = swiglu_loop(tokens[b, t].tolist(), w1, w2, w3)
        torch.testing.assert_close(layer(tokens)[b, t], torch.tensor(slow))
assert torch.equal(layer(tokens), packaged(tokens))
print("equal to the loop and to the package")

# %% [markdown]
# ## Why eight thirds? Three matrices for the price of two
#
# A classic layer of width $4c$ holds $2 \cdot c \cdot 4c = 8c^2$ numbers. Three matrices of
# width $f$ hold $3 \cdot c \cdot f$. Equal prices need $f = \frac{8}{3}c$, which is two thirds
# of $4c$. A matrix product costs one multiplication and one addition for every weight and token,
# so equal parameters also mean equal arithmetic. The answer to the prediction, then: about as
# many. To the last one?

# %%
# NBVAL_CHECK_OUTPUT
dim, hidden_dim = 4096, release("llama-1-7b").config.hidden_dim
classic, gated = 2 * dim * 4 * dim, 3 * dim * hidden_dim
print(f"classic {classic:,}   gated {gated:,}   ratio {gated / classic:.4f}")
print(f"8/3 of {dim} is {8 * dim / 3:.2f}; the release has {hidden_dim:,} = 43 * 256")
assert hidden_dim == 43 * 256

# %% [markdown]
# Not quite: 0.8 % more, and rounding is the cause. Meta's `params.json` does not state the width.
# It holds `dim`, `multiple_of` and, since Llama 2 70B, `ffn_dim_multiplier`, and the code derives
# the rest. It rounds *up* to a multiple of a large power of two. (So says the comment in Meta's code,
# and gives no reason. Such sizes fill the tiles of a GPU and split evenly over several.)

# %%
# twin: llama_edu.config.swiglu_width
def swiglu_width(dim: int, *, multiple_of: int, multiplier: float = 1.0) -> int:
    width = int(multiplier * int(2 * 4 * dim / 3))
    return multiple_of * ((width + multiple_of - 1) // multiple_of)


# %% [markdown]
# `//` rounds down; adding `multiple_of - 1` first turns that into rounding up. Does this rule
# give every released width? One row for each shape, with its steps:

# %%
# NBVAL_CHECK_OUTPUT
SHAPES = ("llama-1-7b", "llama-1-13b", "llama-1-33b", "llama-1-65b", "llama-2-34b", "llama-2-70b",
          "llama-3-8b", "llama-3.1-405b", "llama-3.2-3b", "llama-3.2-1b")
print("release           8/3 dim  times    is    up to multiple of  hidden_dim  / dim")
for name in SHAPES:
    row = release(name)
    dim, times = row.config.dim, row.ffn_dim_multiplier or 1.0
    cut = int(2 * 4 * dim / 3)
    width = swiglu_width(dim, multiple_of=row.multiple_of, multiplier=times)
    print(f"{name:15} {cut:9,} {times:6} {int(times * cut):7,} {row.multiple_of:15,}"
          f" {width:14,} {width / dim:8.3f}")
    assert width == row.config.hidden_dim

# %% [markdown]
# And now all releases, not only one of each shape:

# %%
# NBVAL_CHECK_OUTPUT
def derived(row) -> int:
    return swiglu_width(row.config.dim, multiple_of=row.multiple_of,
                        multiplier=row.ffn_dim_multiplier or 1.0)


exceptions = [row for row in RELEASES if derived(row) != row.config.hidden_dim]
print(len(RELEASES), "releases; the rule fails for", [row.id for row in exceptions])
for row in exceptions:
    print(f"rule {derived(row):,}, checkpoint {row.config.hidden_dim:,}: {row.notes[0]}")
assert all(row.config.hidden_dim % row.shards == 0 for row in RELEASES)
assert all(derived(row) == package_config.swiglu_width(
    row.config.dim, multiple_of=row.multiple_of, multiplier=row.ffn_dim_multiplier or 1.0)
    for row in RELEASES)

# %% [markdown]
# One exception in the whole family: the smallest Llama Guard. Its layer was cut down after
# training, and the rule cannot know that. The last lines check two promises: every width
# splits evenly into the files that its release was published in, and the twin agrees with the
# package.
#
# > **Careful.** The order matters. The fraction is cut off *before* the multiplier and again
# > after it, and the rounding comes last. For the 1B the first cut leaves 5,461; times 1.5 that
# > is 8,191.5, cut to 8,191, rounded up to 8,192.
#
# ## What do the gates do? We train a small reader and look inside
#
# To see gates at work we need a network that has learnt something. Ours reads sentences about
# animals (our grammar has *mice*, but also *foxs*), twelve characters at a time, and predicts the
# next character. It has no attention: the
# twelve characters are placed side by side into one vector of 48 features, and two feed-forward
# layers do the rest.

# %%
ANIMALS = ("cat", "dog", "fox", "hen", "owl", "goat", "mouse", "horse")
LOOKS = ("red", "black", "white", "brown", "small", "old", "young")
VERBS, PLACES = ("sees", "likes", "follows", "hears", "finds"), ("hill", "barn", "river", "road")
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine")


def tell(n_chars: int, seed: int) -> str:
    """Sentences in which a number asks for a plural, and mouse becomes mice."""
    pick, text = random.Random(seed).choice, ""
    while len(text) < n_chars:
        one, other, animal = pick(ANIMALS), pick(ANIMALS), pick(ANIMALS)
        many = "mice" if animal == "mouse" else animal + "s"
        seen = pick((f"the {pick(LOOKS)} {other}", f"{pick(NUMBERS)} {pick(LOOKS)} {many}"))
        text += f"the {pick(LOOKS)} {one} {pick(VERBS)} {seen} by the {pick(PLACES)}. "
    return text[:n_chars]


tell(130, seed=0)

# %% [markdown]
# The reader comes in three kinds, which differ in nothing but these two layers. The classic
# kinds get width $4c$ and SwiGLU $\frac83 c$. We chose $c = 48$ because it divides by three, so
# the parameters are equal to the last one.

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


KINDS = {
    "ReLU": lambda: Classic(DIM, 4 * DIM, F.relu),
    "GELU": lambda: Classic(DIM, 4 * DIM, F.gelu),
    "SwiGLU": lambda: FeedForward(DIM, 8 * DIM // 3),
}

# %% [markdown]
# Around the layers stands what you know from chapter 01: a norm before each, a residual sum
# after it, and a norm at the end.

# %%
class Reader(nn.Module):
    """The next character's logits from the last twelve characters: `b 12` to `b v`."""

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


sizes = {kind: sum(p.numel() for p in Reader(kind).parameters()) for kind in KINDS}
print(sizes)
assert len(set(sizes.values())) == 1

# %% [markdown]
# Training is brief: a few hundred steps of 64 windows, with a learning rate that falls to zero.
# The loss is $-\ln p$ of the character that came, on average; its unit is the *nat*. The seed draws
# both the first weights and the order of the windows.

# %%
def windows(text: str) -> tuple[Tensor, Tensor]:
    """Every twelve characters `n 12`, and the character that follows `n`."""
    ids = torch.tensor([LETTERS.index(letter) for letter in text]).unfold(0, SPAN + 1, 1)
    return ids[:, :-1], ids[:, -1]


(seen, seen_next), (unseen, unseen_next) = windows(tell(60_000, 0)), windows(tell(10_000, 1))


def train(kind: str, *, learning_rate: float, steps: int, seed: int) -> Reader:
    torch.manual_seed(seed)
    reader, order = Reader(kind), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(reader.parameters(), lr=learning_rate, fused=True)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        some = torch.randint(len(seen), (64,), generator=order)
        loss = F.cross_entropy(reader(seen[some]), seen_next[some])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return reader


@torch.no_grad()
def losses(reader: Reader) -> Tensor:
    """Loss for each window of text that the reader has never seen, in nats."""
    return F.cross_entropy(reader(unseen), unseen_next, reduction="none")

# %% [markdown]
# We train one SwiGLU reader and take the second layer apart: what the gates let through,
# $\mathrm{SiLU}(x W_1)$, and what is carried, $x W_3$, on text that it has not seen.

# %%
reader = train("SwiGLU", learning_rate=0.01, steps=600, seed=0)


@torch.no_grad()
def look_inside(letters: Tensor) -> tuple[Tensor, Tensor]:
    """What the second layer's gates let through and what is carried: two of `n f`."""
    x = reader.embeddings(letters).flatten(1)
    x = reader.norms[1](x + reader.layers[0](reader.norms[0](x)))
    return F.silu(reader.layers[1].w1(x)), reader.layers[1].w3(x)


gate, carried = look_inside(unseen)
print(f"loss {losses(reader).mean():.2f} nats; {(gate < 0).float().mean():.0%} of the gates are"
      f" below zero, where they let through at most 0.28")

# %% [markdown]
# There are 128 hidden features, each with a gate. We pick three by a rule, not by taste. For
# each of three characters it is the feature whose output, gate times carried, best separates the
# moments *before* that character from all others. First we look at their gates alone, along one
# sentence.

# %% mystnb={"image": {"alt": "Three gates along a sentence of 53 characters. Rows are dark most of the time. They are brightest at the dots before the u and the g of young and the v of river; the dot before the v of five lies on a dark cell."}}
def apart(values: Tensor, letter: str) -> Tensor:
    """How far values before this letter lie from the others, in standard deviations: `f`."""
    before = unseen_next == LETTERS.index(letter)
    return ((values[before].mean(0) - values[~before].mean(0)) / values.std(0)).abs()


chosen = {letter: int(apart(gate * carried, letter).argmax()) for letter in "uvg"}
letters, following = windows("by the hill. the young fox follows five white mice by the river. ")
inside, _ = look_inside(letters)
fig, ax = plots.figure("Single gates learnt to open before one character (dots)",
                       x="character to be predicted", y="gate")
plots.heatmap(ax, inside[:, list(chosen.values())].T, label="SiLU(x w1)")
for row, letter in enumerate(chosen):
    places = [i for i, which in enumerate(following) if LETTERS[which] == letter]
    ax.plot(places, [row] * len(places), "o", color=plots.VERMILION, markeredgecolor="white")
ax.set_xticks(range(len(following)), [LETTERS[i].strip() for i in following])
ax.set_yticks(range(3), [f"before '{letter}'" for letter in chosen]);

# %% [markdown]
# Nobody told the gates about characters. Each row is dark most of the time and brightest where
# its character is due: before the u and the g of *young*, before the v of *river*. But the v of
# *five* leaves its gate shut: one feature need not serve a whole character. And each gate opens a
# little at a few wrong places. That need not do harm, if little passes through it then. So what
# does $w_3$ send? We put the two side by side for the gate before v, one mark for each moment of
# the unseen text.

# %% mystnb={"image": {"alt": "Carried value against gate opening for one hidden feature. One group of moments before v lies in a corner of its own, gate wide open and carried value large; other moments are shut or carry less, and strong carried values at a shut gate are common."}}
unit = chosen["v"]
before = unseen_next == LETTERS.index("v")
fig, ax = plots.figure("When the gate opens is one question, what it carries another",
                       x="gate SiLU(x w1)", y="carried x w3")
ax.plot(gate[~before, unit], carried[~before, unit], ".", color=plots.SKY, markersize=3,
        label="before another character")
ax.plot(gate[before, unit], carried[before, unit], "^", color=plots.VERMILION, markersize=4,
        label="before v")
ax.legend();

# %% [markdown]
# One group of v's has a corner of its own, and the rest lies in the crowd. A wide gate alone
# does not mean v, and neither does a strong carried value: the left edge is full of strong
# values that a shut gate holds back. It takes both. In numbers, how far the moments before a
# character lie from all others, in standard deviations; and for how many characters the best
# product beats the best gate *and* the best carried value:

# %%
for letter, unit in chosen.items():
    alone, up, product = (float(apart(values, letter)[unit])
                          for values in (gate, carried, gate * carried))
    print(f"before '{letter}'   gate {alone:.1f}   carried {up:.1f}   product {product:.1f}")

wins = sum(bool(apart(gate * carried, letter).max() > max(apart(gate, letter).max(),
                                                        apart(carried, letter).max()))
           for letter in LETTERS)
print(f"the product stands out most for {wins} of {len(LETTERS)} characters")
assert wins > len(LETTERS) / 2

# %% [markdown]
# For most characters the product tells more than either half. One may read it as two questions,
# *is this the moment?* and *what is to be said?*, whose answers are multiplied.
#
# ## Play: ReLU, GELU and SwiGLU on equal parameters
#
# Now the race. Three kinds, equal parameters, equal data in an equal order, four seeds each. A
# single learning rate would be unfair, because each kind may have its own favourite. We try
# three.

# %% mystnb={"image": {"alt": "Loss on unseen text after 200 steps against the learning rate, four seeds for each of three layers. At 0.003 SwiGLU is near 0.71 and the others near 0.90; at 0.01 and 0.03 all lie between 0.37 and 0.50, SwiGLU lowest on average."}}
RATES, SEEDS = (0.003, 0.01, 0.03), range(4)
short = {(kind, rate): [losses(train(kind, learning_rate=rate, steps=200, seed=seed)).mean().item()
                        for seed in SEEDS] for kind in KINDS for rate in RATES}

fig, ax = plots.figure("SwiGLU leads, and the learning rate decides by how much",
                       x="learning rate", y="loss on unseen text (nats)")
for i, (kind, colour, marker) in enumerate(zip(KINDS, plots.COLOURS, "osD", strict=False)):
    ax.plot(RATES, [statistics.mean(short[kind, rate]) for rate in RATES], color=colour, label=kind,
            marker=marker, markersize=6, markerfacecolor="white")
    for rate in RATES:
        ax.plot([rate * (0.95 + 0.05 * i)] * len(SEEDS), short[kind, rate], marker, color=colour,
                markersize=3.5)
ax.set_xscale("log")
ax.set_xticks(RATES, [str(rate) for rate in RATES])
ax.minorticks_off()
ax.legend();

# %% [markdown]
# Filled marks are single seeds, hollow ones their mean. Here are the same runs as numbers, and
# the middle learning rate once more with four times the steps:

# %%
long = {kind: [losses(train(kind, learning_rate=0.01, steps=800, seed=seed)).mean().item()
               for seed in SEEDS] for kind in KINDS}


def summary(runs: list[float]) -> str:
    return f"{statistics.mean(runs):.3f} ({min(runs):.3f} to {max(runs):.3f})"


for rate in RATES:
    print(f"200 steps at {rate:<6}", *(f"{kind} {summary(short[kind, rate])}  " for kind in KINDS))
print("800 steps at 0.01  ", *(f"{kind} {summary(long[kind])}  " for kind in KINDS))

# %%
lead = {rate: statistics.mean(short["GELU", rate]) - statistics.mean(short["SwiGLU", rate])
        for rate in RATES}
late = statistics.mean(long["GELU"]) - statistics.mean(long["SwiGLU"])
print("SwiGLU's lead over GELU:", {rate: round(gap, 3) for rate, gap in lead.items()},
      f" after 800 steps: {late:.3f}")
print(f"between GELU's own seeds after 800 steps: {max(long['GELU']) - min(long['GELU']):.3f}")
assert max(short["SwiGLU", 0.003]) < min(short["GELU", 0.003] + short["ReLU", 0.003])
assert lead[0.003] > lead[0.01] > 4 * late > 0

# %% [markdown]
# What may we say? At each of the three learning rates SwiGLU came out ahead in the short run. At
# the lowest, its worst seed beats the best of the others, and one could publish a splendid gap
# there. At the highest, SwiGLU's worst seed falls behind GELU's best. With four times the steps
# the lead at the middle rate shrinks to about a tenth, no more than the spread of GELU's own
# seeds, though each seed of SwiGLU still beats each of GELU's by a hair. Part of this is a floor
# that no layer can break: which animal comes next is drawn at random.
#
# So this page supports: on this toy task, at equal parameters, the gated layer learns *faster*.
# How much of the lead would be left at the end, it cannot say, nor anything about Llamas. It is
# four seeds, one task, twelve characters of context. Whoever compares layers at one learning
# rate and one seed may be measuring mostly these two.
#
# > **History.** Shazeer (2020) compared several such layers in one model at equal parameters.
# > The gated ones came out somewhat ahead of the plain ones. Why? The paper closes: "We offer no
# > explanation as to why these architectures seem to work; we attribute their success, as all
# > else, to divine benevolence."
#
# ## In the Llamas: when eight thirds stopped being true
#
# Here is the width of every shape, divided by `dim`. At $8/3$, the dashed line, the layer costs
# what the classic one costs.

# %% mystnb={"image": {"alt": "hidden_dim over dim for ten shapes. All Llama 1 sizes, the 34B and the 3.2 3B sit at 8/3 or up to 0.03 above. Llama 2 70B and Llama 3 8B are at 3.5, 405B at 3.25, and the 3.2 1B at 4."}}
fig, ax = plots.figure("From the 70B on, most Llamas pay for more than eight thirds",
                       x="hidden_dim / dim", y="")
for place, name in enumerate(reversed(SHAPES)):
    shape = release(name).config
    shares = shape.n_kv_heads < shape.n_heads
    ax.plot(shape.hidden_dim / shape.dim, place, "D" if shares else "o", markersize=6,
            color=plots.VERMILION if shares else plots.BLUE)
ax.axvline(8 / 3, color="#888888", linestyle="--", linewidth=1)
ax.set_yticks(range(len(SHAPES)), [release(name).name for name in reversed(SHAPES)])
ax.plot([], [], "o", color=plots.BLUE, label="every query head has its own keys")
ax.plot([], [], "D", color=plots.VERMILION, label="query heads share keys (GQA)")
ax.legend(loc="upper right")
assert {row.config.hidden_dim / row.config.dim for row in RELEASES if row not in exceptions} == {
    release(name).config.hidden_dim / release(name).config.dim for name in SHAPES}

# %% [markdown]
# The widening begins with the Llama 2 70B. Chapter 03 showed what else began in Llama 2's large
# sizes: eight key/value heads instead of sixty-four. That makes $w_k$ and $w_v$ eight times
# smaller. What if the 70B had shared its keys and kept the old width?

# %%
# NBVAL_CHECK_OUTPUT
seventy = release("llama-2-70b").config
for kv, width, what in ((64, 22_016, "own keys, 8/3"), (8, 22_016, "shared keys, 8/3"),
                        (8, 28_672, "shared keys, times 1.3: as released")):
    count = parameters(replace(seventy, n_kv_heads=kv, hidden_dim=width))
    print(f"{kv:2} kv heads, width {width:,}: attention {count.attention / 1e9:5.2f}B,"
          f" feed-forward {count.feed_forward / 1e9:5.2f}B, all {count.total / 1e9:5.2f}B  {what}")

# %% [markdown]
# Without the multiplier the "70B" would have had 55.89 billion parameters. So the 1.3 pays for
# something. Does it pay exactly what sharing the keys took away?

# %%
# NBVAL_CHECK_OUTPUT
removed = 80 * 2 * 8192 * (8192 - 1024)             # wk and wv, 64 heads to 8
added = 80 * 3 * 8192 * (28_672 - 22_016)
even = 22_016 + removed / (80 * 3 * 8192)
print(f"removed {removed / 1e9:.2f}B, added {added / 1e9:.2f}B, break-even width {even:,.0f},"
      f" which is {even / (8192 * 8 / 3):.2f} times 8/3 dim")

# %% [markdown]
# More than that: 13.09 billion came back for 9.40 that were taken. Break-even would have been
# a width of 26,795, a multiplier of 1.23. The appendix of the Llama 2 paper (A.2.1) gives the
# reason for its own test models: with GQA the feed-forward width grows by 1.3, to keep the total
# similar. Similar, not equal, and no law of nature. The 34B shares its keys and got no
# multiplier, nor did the 3.2 3B. The 3.2 1B got 1.5, which makes its width exactly the classic
# $4c$, with three matrices instead of two.
#
# From the 7B to the 8B we find the same trade, and a larger vocabulary on top:

# %%
# NBVAL_CHECK_OUTPUT
old, new = (parameters(release(name).config) for name in ("llama-2-7b", "llama-3-8b"))
parts = {"embeddings": new.embedding + new.output - old.embedding - old.output,
         "attention": new.attention - old.attention,
         "feed-forward": new.feed_forward - old.feed_forward, "norms": new.norms - old.norms}
for part, change in parts.items():
    print(f"{part:13} {change:+15,}")
print(f"{'all':13} {new.total - old.total:+15,}")
assert sum(parts.values()) == new.total - old.total == 1_291_845_632

# %% [markdown]
# ## Fact check: three claims about the layer
#
# The boxes read from the ledger of published claims, and do each sum again.

# %%
claims.show("E13")

# %% [markdown]
# Read it slowly: a share of $x$, plus the other share of $x$.

# %%
x = torch.linspace(-50, 50, 10_001, dtype=torch.float64)
for beta in (0.1, 1.0, 1.702, 10.0):
    gate = torch.sigmoid(beta * x)
    torch.testing.assert_close(x * gate + (1 - gate) * x, x, rtol=1e-12, atol=0)
print("the formula returns x, whatever beta is")

# %% [markdown]
# **Verdict: wrong.** $x\sigma + (1 - \sigma)x = x$. It is the identity, written at length. A
# network of such layers is a product of matrices, and could learn nothing that one matrix
# cannot.
#
# Two more claims are about the width.

# %%
claims.show("D10", "D11")

# %% [markdown]
# Both are quick to test. Parameters of the layer, as a multiple of the classic $8c^2$:

# %%
# NBVAL_CHECK_OUTPUT
print(f"width 2/3 dim: {3 * (2 / 3) / 8:.2f} of the classic layer")
for name in SHAPES:
    shape = release(name).config
    print(f"{name:15} {3 * shape.hidden_dim / (8 * shape.dim):.4f}")

# %% [markdown]
# **Verdicts.** The first is **wrong**: two thirds of $d$ would leave a quarter of the layer. It
# is two thirds *of 4d*. The second is **true within 1.3 %** for Llama 1, for Llama 2 up to the
# 34B, and for the 3.2 3B; it is **false** for the 70B, all 8Bs, the 405B and the 3.2 1B, where
# the layer is up to half as large again. Copy the width from the release, not from the rule of
# thumb.
#
# ## Exercises: now you
#
# Replace each `raise NotImplementedError` and run the cell. `hint("4.2")` gives one hint more at
# each call. The solutions are in [their own notebook](../solutions/04_swiglu.ipynb).

# %%
def silu_by_hand(x: Tensor) -> Tensor:
    """Exercise 4.1 ●○○ 3 min. x: any shape. SiLU without F.silu; x may be 200 or -200."""
    ### BEGIN SOLUTION
    return x * torch.sigmoid(x)
    ### END SOLUTION


check("4.1", silu_by_hand)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 4.1.** *The sigmoid only* is the gate without the thing that it gates; "sigmoid
# linear unit" sounds like a kind of sigmoid. *tanh* and *softplus* have a similar shape on one
# side; weights that were trained for SiLU notice the other side. *1.702* comes from an
# approximation of GELU and belongs to other models. `x * exp(x) / (1 + exp(x))` is right on
# paper; from about 89 on, exp is infinite in float32, and one such number turns a whole answer
# into NaN.
# ### END SOLUTION
#
# Now the layer itself, from bare matrices:

# %%
def swiglu(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor) -> Tensor:
    """Exercise 4.2 ●●○ 5 min. x: `... c`; w1 and w3: `f c`; w2: `c f`. Meta's names."""
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
# looks harmless and takes away the one thing that the third matrix is for.
# ### END SOLUTION
#
# The rule behind 11,008, with all of its roundings:

# %%
def ffn_width(dim: int, multiple_of: int, multiplier: float) -> int:
    """Exercise 4.3 ●●○ 8 min. hidden_dim as Meta derives it. Mind the 13B."""
    ### BEGIN SOLUTION
    width = int(multiplier * int(8 * dim / 3))
    return math.ceil(width / multiple_of) * multiple_of
    ### END SOLUTION


check("4.3", ffn_width)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 4.3.** *Two thirds of dim* is printed in write-ups. *Rounding to nearest* is
# the treacherous one: right for the 7B and the 70B, 256 short for the 13B. A wrong width does
# not train badly, it does not load at all: the shapes differ. That is the friendly kind of bug.
# *`// multiple_of + 1`* is right until a width needs no rounding, as in the 3.2 3B. *The
# fraction kept* gives the right answer for every published model, and another one for a model
# that you make up; two programs that agree on all known cases can still differ.
# ### END SOLUTION
#
# What does it all weigh?

# %%
def feed_forward_parameters(config) -> int:
    """Exercise 4.4 ●○○ 3 min. Parameters in all feed-forward layers of a release's config."""
    ### BEGIN SOLUTION
    return config.n_layers * 3 * config.dim * config.hidden_dim
    ### END SOLUTION


check("4.4", feed_forward_parameters)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 4.4.** *Two matrices* is what every formula for GPT-2 says, and an estimate
# made with it is a third too low. *$8c^2$* is right to about a percent for Llama 1 and a quarter
# too low for the 70B. *Biases* and *the norm* are small numbers, and exact counts exist to catch
# them: a file that is 4,096 parameters off is a different model.
# ### END SOLUTION
#
# Last, be fair to the rival. Given the width of a SwiGLU layer, how wide may a classic layer of
# two matrices be?

# %%
def plain_width(hidden_dim: int) -> int:
    """Exercise 4.5 ●●○ 5 min. The widest two-matrix layer that has no more parameters."""
    ### BEGIN SOLUTION
    return 3 * hidden_dim // 2
    ### END SOLUTION


check("4.5", plain_width)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 4.5.** *The same width* is the quick way to compare, and it gives SwiGLU half
# as many parameters again; the gain is then partly size. *Two thirds* is the same ratio the
# wrong way round. *Eight thirds* confuses the step from `dim` to a width with the step between
# two widths.
# ### END SOLUTION
#
# ## Summary: what to remember, and what to read
#
# - ReLU, GELU and SiLU are gates that $z$ opens for itself. SwiGLU opens its gate with $xW_1$ and
#   lets $xW_3$ through; two such units multiply exactly.
# - $\frac83 c$ makes three matrices as expensive as two of $4c$. Meta cuts, multiplies, cuts,
#   and rounds up.
# - The multiplier 1.3 of the 70B and the 8B spends what shared keys save, and somewhat more.
# - In our race SwiGLU learnt faster, by a margin that the learning rate and the length of the
#   training decided. Equal parameters, several seeds, several rates: below that, a comparison
#   says little.
#
# Read `FeedForward` in `llama_edu/layers.py` and `swiglu_width` in `llama_edu/config.py`; you
# have now written both. With the norm, the rotation, attention and this layer, all parts of a
# Llama's block are on the table. Chapter 05 turns to what goes in: text, cut into tokens.
