# %% [markdown]
# # 03 · Attention: how does a token find what it needs?
#
# **The question.** Llama 2 7B and Llama 3 8B have 32 layers and 32 query heads each, and heads of
# the same width. Yet one remembers a token in 512 KiB and the other in 128 KiB, both with 16 bits a
# number. What did Llama 3 leave out, and is it missed?
#
# | you will build | you need | minutes |
# |---|---|---|
# | `causal_mask`, `attend`, `attend_fused`, `Attention`, as in `llama_edu.layers` | chapters 01 and 02; the softmax | 195 |
#
# The chapter is made for two sittings, with a place to rest between them. The first is about what
# attention does, the second about what it costs.

# %%
import math
from dataclasses import replace

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from llama_edu import claims, explorers, layers, load, plots
from llama_edu.cache import Slot
from llama_edu.config import ModelConfig
from llama_edu.data import tales
from llama_edu.exercises import check, hint, reveal, suspects
from llama_edu.family.accounting import kv_bytes, kv_bytes_per_token
from llama_edu.family.releases import RELEASES, release
from llama_edu.layers import RMSNorm, rope_table, rotate, widen
from llama_edu.tokenizer import installed

plots.use_style()
torch.set_num_threads(1)  # small models: threads would wait for one another

# %% [markdown]
# > **Predict.** Read this and supply the next word: *every spring the llama climbs slowly but this
# > spring the llama ...* Which earlier word did you look at? And how would a machine find it that
# > only knows, for each word, which word it is and where it stands?
#
# ## By hand: one question, three answers
#
# A token asks with a *query*. Each token it may see offers a *key*, and a *value* that it hands
# over if the key fits. How well they fit is the sum of the products of their features: the
# *score*. The softmax turns scores into shares that add up to 1. The result is the values, mixed
# in these shares.

# %% tags=["nbval-check-output"]
query = [2.0, 0.0]
keys = [[1.0, 1.0], [0.0, 3.0], [-1.0, 1.0]]
values = [10.0, 20.0, 90.0]

scores = [
    sum(q * k for q, k in zip(query, key, strict=True)) / 2**0.5 for key in keys
]
total = sum(math.exp(score) for score in scores)
shares = [math.exp(score) / total for score in scores]
mixed = sum(w * v for w, v in zip(shares, values, strict=True))
print("scores", *(f"{x:.2f}" for x in scores))
print("shares", *(f"{x:.3f}" for x in shares), f"  mixed value {mixed:.1f}")

# %% [markdown]
# (The division by $\sqrt 2$ is explained in a moment.) The first key leans towards the query, so it
# takes more than three quarters. The second key is the longest, and it gets less than a fifth: it
# is long in a direction that nobody asked for.
#
# ## The idea: a lookup that can be differentiated
#
# Vaswani et al. (2017, eq. 1; the mask $M$ is in section 3.2.3) write this for all tokens at once.
# $Q$, $K$ and $V$ hold one query, key and value a row; $d$ is the number of features of a head:
#
# $$ \mathrm{Attention}(Q, K, V) = \mathrm{softmax}\!\left(\frac{QK^\top}{\sqrt d} + M\right) V $$
#
# $M$ is the *causal mask*: 0 where a token may look, $-\infty$ where it may not. A token may look
# at itself and at what came before. It must not see the next token, because that is what the model
# is trained to predict. $-\infty$ goes in *before* the softmax: $e^{-\infty} = 0$, and the shares
# of what is left still add up to 1. One head, in plain loops; the mask is the end of the second
# `range`, where token $t$ stops at itself:

# %%
def attend_loop(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head, `t d` each. Token t sees tokens 0 to t."""
    mixed = torch.zeros_like(v)
    for t in range(len(q)):
        scores = [q[t] @ k[s] / math.sqrt(len(q[t])) for s in range(t + 1)]
        total = sum(math.exp(score) for score in scores)
        for s in range(t + 1):
            mixed[t] += math.exp(scores[s]) / total * v[s]
    return mixed

# %% [markdown]
# **Many heads, few keys.** A Llama asks many questions at once: a *head* is one query, key and value
# for each token, and an 8B has 32 query heads of 128 features. In 2017 each query head had a key and
# value head of its own: *multi-head attention*, MHA. Shazeer (2019) kept one for all of them:
# *multi-query attention*, MQA. Ainslie et al. (2023, section 2.2) stand in between: neighbouring
# query heads form a *group* and share one. That is *grouped-query attention*, GQA.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three diagrams with eight query heads above and key heads below, joined by lines: MHA has eight key heads with one line each, GQA two key heads with four lines each, MQA one key head with eight lines."}}
fig, panels = plots.figure(
    "Neighbouring query heads share one key and value head",
    x="", y="", columns=3, size=(6.4, 2.2))
names = {8: "MHA: 8 of 8", 2: "GQA: 2 of 8", 1: "MQA: 1 of 8"}
for ax, (n_kv, name) in zip(panels, names.items(), strict=True):
    g = 8 // n_kv
    for head in range(8):
        group = head // g
        centre, colour = group * g + (g - 1) / 2, plots.COLOURS[group % 2]
        ax.plot([head, centre], [1, 0], color=colour)
        ax.plot(head, 1, "o", color=colour)
        ax.plot(centre, 0, "s", color=colour, markersize=8)
    ax.set(title=name, xticks=[], yticks=[0, 1],
           yticklabels=["keys", "queries"], ylim=(-0.3, 1.3))
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)

# %% [markdown]
# Shapes are written with the same letters in the whole course:
#
# | letter | an axis of | letter | an axis of |
# |---|---|---|---|
# | `b` | sequences in a batch | `h` | query heads |
# | `t` | new tokens, which look | `k` | key and value heads |
# | `s` | tokens looked at, $s \ge t$ | `g` | query heads that share one: $h = k \cdot g$ |
# | `c` | features of the stream | `d` | features of one head |
#
# So queries are `b h t d`, and keys and values `b k s d`. In a shape, `k` is this axis; in code,
# the variable `k` is the tensor of keys. Both names are the papers' own.
#
# Why divide by $\sqrt d$? If the features of a query and a key are independent, with mean 0 and
# variance 1, the variances of the $d$ products add up: the score has standard deviation $\sqrt d$.
# Suppose we do not divide. With $d = 128$ and 32 random keys, what share does the largest one take,
# on average? An even split would give each $1/32 = 0.03$.

# %%
guess_share = None  # your number between 0 and 1, before you run the next cell

# %%
torch.manual_seed(0)
for d in (4, 64, 128):
    q, k = torch.randn(1000, d), torch.randn(1000, 32, d)
    raw = einsum(q, k, "n d, n s d -> n s")
    plain, scaled = (scores.softmax(-1).amax(-1).mean()
                     for scores in (raw, raw / d**0.5))
    print(f"d = {d:3}: the scores spread by {raw.std():4.1f}; largest share:"
          f" {plain:.2f} unscaled, {scaled:.2f} scaled")
reveal("the largest of 32 shares, unscaled, d = 128", guess_share,
       round(plain.item(), 2))

# %% [markdown]
# Without the division a wide head begins its training almost deaf to all keys but one.
#
# ## Your turn: who may look, and what comes back
#
# First the exercise, then our own way to build it. Run the cell with your answer: `check` says
# whether it is right, and if not, which mistake it is. `hint("3.1")` gives one hint more at each
# call; the solutions are in [their own notebook](../solutions/03_attention.ipynb).
#
# When a model writes, it feeds in only the new tokens; the keys and values of the old ones are kept,
# in the *cache* of chapter 07. So there are $t$ new tokens and $s \ge t$ to look at, and the new ones
# are the *last* of them.

# %%
def my_mask(t: int, s: int) -> Tensor:
    """Exercise 3.1 ●○○ 5 min. Return the mask of t new tokens that look at s: booleans `t s`, True
    where a token may look. A row stands for a token that looks, a column for one looked at; the t new
    tokens are the last of the s.
    """
    ### BEGIN SOLUTION
    return torch.arange(s - t, s)[:, None] >= torch.arange(s)
    ### END SOLUTION


check("3.1", my_mask)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 3.1.** `tril()` is what one remembers, and without a cache it is right. *Aligned
# at the start*: with a cache of a hundred tokens the new one sees only the first token of the
# prompt; training is fine, and generation forgets its prompt. *Peeks ahead*: the loss falls
# towards zero, because the answer is in view, and the model cannot write a word.
# *Not itself* leaves the first row empty: the softmax of nothing is `nan`. *Inverted* is a clash
# of two conventions: in `nn.MultiheadAttention` True means hidden, in
# `scaled_dot_product_attention` True means seen.
# ### END SOLUTION
#
# Now the loop in its fast form: all tokens, all heads and all sequences at once, without a loop.
# Query heads 0, 1, ... share key head 0, the next ones share key head 1, as in the figure. Use the
# mask that is given: it need not be causal.

# %%
def my_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Exercise 3.2 ●●○ 12 min. Mix the values for every query: q is `b h t d`, k and v are `b k s d`,
    and the result is `b h t d`. The mask is `t s`, True where a token may look, at least once in each
    row.
    """
    ### BEGIN SOLUTION
    q = q.unflatten(1, (k.shape[1], -1))  # b k g t d
    scores = q @ k[:, :, None].mT / math.sqrt(q.shape[-1])
    shares = torch.where(mask, scores, -torch.inf).softmax(dim=-1)
    return (shares @ v[:, :, None]).flatten(1, 2)
    ### END SOLUTION


check("3.2", my_attention)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 3.2.** *Mask after the softmax* is tempting because it visibly zeroes the
# weights; but the hidden keys have taken part in the total, so early tokens receive almost
# nothing, and how little depends on the future. *Zero for minus infinity* forgets the score and
# still mixes in the value.
# *The softmax over the queries* makes a token's result depend on the queries after it: the causal
# mask is broken by the back door. *The scales* are the quiet ones. A model trained with `1/d` or
# without a scale learns to live with it; a real Llama loaded into such code answers with every
# head too flat or too sharp. *Heads tiled*: `repeat` gives `0 1 0 1`, `repeat_interleave` gives
# `0 0 1 1`. The shapes agree, and for MHA and MQA so do the values, so a test on Llama 2 7B passes
# and Llama 2 70B writes nonsense.
# ### END SOLUTION
#
# ## Build it: one function for every Llama
#
# **The mask.** `tril` keeps the lower triangle; `tril(s - t)` moves its edge so that the last new
# token sees all.

# %% twin="llama_edu.layers.causal_mask"
def causal_mask(
        t: int, s: int, *, device: torch.device | str = "cpu") -> Tensor:
    """`t s`, True where a token may look. The t new tokens come last."""
    return torch.ones(t, s, dtype=torch.bool, device=device).tril(s - t)


for row in causal_mask(2, 5).tolist():
    print("".join("■" if seen else "·" for seen in row))

# %% [markdown]
# **Sharing.** The direct way to share is to copy: give each query head its own copy of its key head,
# then go on as in MHA. Meta's published code does that (`repeat_kv`). Note `repeat_interleave`: the
# copies of one head lie next to each other, `0 0 1 1`. (`k.mT` swaps the last two axes.)

# %%
def attend_by_copying(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    g = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(g, dim=1), v.repeat_interleave(g, dim=1)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v

# %% [markdown]
# The copies can be avoided. Instead of more keys, give the *queries* one more axis: `b (k g) t d`
# becomes `b k g t d`, and one `einsum` lets each key head meet its $g$ queries. `widen` makes the
# scores float32 before the softmax, whatever they were. This is the function of the package, and
# MHA, GQA and MQA are all in it: they differ in the shape of the keys.

# %% twin="llama_edu.layers.attend"
def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    q = rearrange(q, "b (k g) t d -> b k g t d", k=k.shape[1])
    scores = (einsum(q, k, "b k g t d, b k s d -> b k g t s")
              / math.sqrt(q.shape[-1]))
    weights = (widen(scores).masked_fill(~mask, -torch.inf)
               .softmax(-1).type_as(q))
    mixed = einsum(weights, v, "b k g t s, b k s d -> b k g t d")
    return rearrange(mixed, "b k g t d -> b (k g) t d")

# %% [markdown]
# A second form calls PyTorch's fused kernel, one program that does all the steps in small blocks and
# never holds all `t s` weights (you build one in the second half). The models of the course use this
# form. With no mask at all it is told that the mask is the causal one, so that it can leave out the
# hidden half. (That is right for $t = s$; see *Careful* further below.) A single new token needs no
# mask: nothing is ahead of it.

# %% twin="llama_edu.layers.attend_fused"
def attend_fused(q: Tensor, k: Tensor, v: Tensor,
                 mask: Tensor | None) -> Tensor:
    # one new token: its g queries become g rows, so that no key is copied
    if q.shape[2] == 1:
        q = rearrange(q, "b (k g) 1 d -> b k g d", k=k.shape[1])
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return rearrange(mixed, "b k g d -> b (k g) 1 d")
    g = q.shape[1] // k.shape[1]
    if g > 1 and mask is not None and q.device.type == "cuda":
        # CUDA's fused kernels take a mask or shared heads, not both
        k, v, g = (k.repeat_interleave(g, dim=1),
                   v.repeat_interleave(g, dim=1), 1)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=g > 1)


# %% [markdown]
# **The layer** puts four matrices around it. The query matrices of all heads are stacked into one,
# and cutting its output into heads is a reshape. Queries and keys are turned by RoPE (chapter 02),
# values are not: the position decides *who* is heard, not *what* is said. `memory` is the cache;
# it is `None` in this chapter.

# %% twin="llama_edu.layers.Attention"
class Attention(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.head_dim = d = config.head_dim
        self.wq = nn.Linear(config.dim, config.n_heads * d, bias=False)
        self.wk = nn.Linear(config.dim, config.n_kv_heads * d, bias=False)
        self.wv = nn.Linear(config.dim, config.n_kv_heads * d, bias=False)
        self.wo = nn.Linear(config.n_heads * d, config.dim, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor],
                mask: Tensor | None, memory: Slot | None = None) -> Tensor:
        """x: `b t c`; rope: cos and sin, each `t d/2`; memory: of a cache."""
        q, k, v = (rearrange(project(x), "b t (h d) -> b h t d",
                             d=self.head_dim)
                   for project in (self.wq, self.wk, self.wv))
        q, k = rotate(q, *rope), rotate(k, *rope)
        if memory is not None:
            k, v = memory.append(k, v)
        return self.wo(rearrange(attend_fused(q, k, v, mask),
                                 "b h t d -> b t (h d)"))


# %% [markdown]
# ## Prove it: four ways, one result
#
# Every size is different on purpose: 2 sequences, 6 query heads, 3 key heads, 5 tokens, 4
# features.

# %%
torch.manual_seed(0)
q, (k, v) = torch.randn(2, 6, 5, 4), torch.randn(2, 2, 3, 5, 4)
mask = causal_mask(5, 5)
ours = attend(q, k, v, mask)

loop = torch.zeros_like(q)
for b in range(2):
    for i in range(6):
        loop[b, i] = attend_loop(q[b, i], k[b, i // 2], v[b, i // 2])
torch.testing.assert_close(loop, ours, rtol=0, atol=1e-6)
for way in (attend_by_copying, attend_fused, layers.attend):
    torch.testing.assert_close(way(q, k, v, mask), ours, rtol=0, atol=1e-6)
print("the loop, the copies, the fused kernel and the package agree to 1e-6")

# %% [markdown]
# How good is such a test? Five functions stand accused. They take what `attend` takes, and on one
# plain input, two heads and five tokens, all five return what it returns:

# %%
accused = suspects("3.3")
torch.manual_seed(0)
q, k, v = torch.randn(3, 1, 2, 5, 4)
for suspect in accused.values():
    torch.testing.assert_close(suspect(q, k, v, causal_mask(5, 5)),
                               attend(q, k, v, causal_mask(5, 5)))
print("all of", *accused, "agree with attend")

# %% [markdown]
# At most one of them is healthy. Find inputs on which they part, as in `accused["a"](q, k, v, mask)`,
# and say which mistake each has. The verdicts:
#
# - `"healthy"`;
# - `"heads tiled"`: the copies of key heads come as `0 1 0 1`;
# - `"aligned at the start"`: it makes its own mask, and aligns it at the first token;
# - `"hidden at -20"`: what is hidden gets the score -20 in place of $-\infty$;
# - `"no maximum"`: its softmax is $e^x / \sum e^x$ as written, and $e^{89}$ is too large for float32;
# - `"scale forgotten"`: no $\sqrt d$;
# - `"mask after the softmax"`: hidden shares are set to 0, and the rest left as it is;
# - `"softmax over the queries"`: the shares of each key add up to 1.

# %%
# Exercise 3.3 ●●○ 10 min. Which mistake is in which suspect?
found = {"a": "?", "b": "?", "c": "?", "d": "?", "e": "?"}
### BEGIN SOLUTION
found = {"a": "hidden at -20", "b": "aligned at the start", "c": "healthy",
         "d": "heads tiled", "e": "no maximum"}
### END SOLUTION

check("3.3", found)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 3.3.** Four questions part them. *Fewer key heads than query heads*: `d` goes
# wrong. *One new token of five, values one-hot*: `b` looks at the first token only. *Queries times
# a hundred*: `e` returns `nan`, since it never subtracts the largest score. *All that may be seen
# scores far below zero*: `a` lets the hidden tokens through, for -20 is now the larger score. Real
# code has used -10,000, safe until somebody runs it in another precision. `c` answers all four as
# `attend` does.
# ### END SOLUTION
#
# So a test wants sizes that differ: with as many key heads as query heads, or $t = s$, some
# mistakes cannot show.
#
# Is it true that the reshape copies nothing? We look at the largest tensor that any operation
# makes; a *view*, another shape of the same memory, costs nothing. One new token of a Llama 3 8B
# looks back at 8,192 cached ones: 32 query heads, 8 key heads.

# %%
class LargestTensor(TorchDispatchMode):
    """Listens to every operation; the bytes of the largest new tensor."""

    n_bytes = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if not operation.is_view:
            made = filter(torch.is_tensor, tree_leaves(result))
            self.n_bytes = max([self.n_bytes, *(x.nbytes for x in made)])
        return result


def largest_mib(function, *args) -> float:
    with LargestTensor() as seen, torch.no_grad():
        function(*args)
    return seen.n_bytes / 2**20


new, cached = torch.zeros(1, 32, 1, 128), torch.zeros(2, 1, 8, 8192, 128)
mask = causal_mask(1, 8192)
mib = {way.__name__: largest_mib(way, new, *cached, mask)
       for way in (attend_by_copying, attend, attend_fused)}
for name, largest in mib.items():
    print(f"{name:18} {largest:7.2f} MiB")
assert [*mib.values()] == [128, 1, 4 * 8192 / 2**20]

# %% [markdown]
# The keys take 32 MiB (here in float32) and their copies 128, and the values as much again, in
# every layer, for every new token. A reshape of the queries costs nothing: the 1 MiB are the
# scores. The fused kernel holds no scores; its 0.03 MiB are the mask, one float32 for each of the
# 8,192.
#
# ## Your turn: two layers by hand
#
# Back to the llama in spring. Can two layers of one head each continue *any* phrase that was there
# before, whatever the words mean? Set their weights yourself. The stream of a token has four slots,
# in this order; the last two are empty at first:
#
# | slot | features | holds |
# |---|---|---|
# | `word` | $v$ | which word it is, one-hot |
# | `place` | $n$ | where it stands, one-hot |
# | `before` | $v$ | for your first layer to write in |
# | `answer` | $v$ | for your second layer: the word that comes next |
#
# $v$ is the number of words, $n$ that of places, so $c = 3v + n$. Each layer is $W_Q, W_K, W_V, W_O$,
# all $c \times c$, and there is no RoPE, for the places stand in the stream. This runs them:

# %%
def read_on(layers: list, v: int, n: int, tokens: list[int]) -> Tensor:
    """What hand-set layers write into `answer`, `t v`."""
    t = len(tokens)
    word, place = F.one_hot(torch.tensor(tokens), v), torch.eye(n)[:t]
    x = torch.cat([word, place, torch.zeros(t, 2 * v)], dim=1)
    for wq, wk, wv, wo in layers:
        q, k, what = ((x @ w.T)[None, None] for w in (wq, wk, wv))
        x = x + attend(q, k, what, causal_mask(t, t))[0, 0] @ wo.T
    return x[:, -v:]


nothing, example = torch.zeros(2, 10, 10)  # v = 2 words, n = 4 places
example[8:10, 0:2] = torch.eye(2)          # answer reads word
layer = nothing, nothing, example, torch.eye(10)
print(read_on([layer], v=2, n=4, tokens=[0, 1]))

# %% [markdown]
# The example asks nothing (all scores are 0), so each token receives the mean of the words so far.
#
# Your layers are to name, at every word that stood somewhere before, the word that followed its
# *latest* earlier place: the largest number in `answer` counts. Where a word stands for the first
# time, nothing is judged. Mind how sharp a softmax must be (`attend` still divides by $\sqrt c$), and
# begin with words that come twice. (The check says `place 5` for the token at place 5, counted from 0.)

# %%
def two_layers(v: int, n: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Exercise 3.4 ●●● 35 min. Return the weights of the two layers for v words and up to n places,
    a list of two tuples `(wq, wk, wv, wo)`. Each matrix is `c c`.
    """
    ### BEGIN SOLUTION
    every = torch.eye(3 * v + n)
    # a slot's rows read it; transposed, they write into it
    word, place, before, answer = every.split([v, n, v, v])
    always, late = word.sum(0), torch.arange(1.0 * n) @ place
    back = 1000 * place[:-1].T @ place[1:]  # place p asks for p - 1
    ask = 1000 * word.T @ word + place[0].outer(30 * always)
    offer = word.T @ before + place[0].outer(late)
    return [(back, place.T @ place, before.T @ word, every),
            (ask, offer, answer.T @ word, every)]
    ### END SOLUTION


check("3.4", two_layers)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 3.4.** A matrix that reads one slot and writes into another is a product: the rows of
# the identity that belong to the one, transposed, times those of the other. The query of layer 1 reads
# place $p$ and asks for $p - 1$: an identity moved
# by one. (Place 0 asks for nothing, and sees only itself.) Layer 2 compares its own word with `before`. Where a word stood twice before, two places
# fit equally well, and the answers mix; so the query has one feature that is always on, and the
# key holds there how late it stands. A match counts 1000 and a place 30, so with up to 30 places
# no late stranger beats a match.
# ### END SOLUTION
#
# ## What do such heads look like?
#
# Here are two such heads once more, as queries and keys without matrices. Head 1: its query is the
# place, moved by one; its key is the place; its value is the word. Head 2: its query is the word,
# its key is what head 1 found, its value again the word. To see the shares, hand `attend` one-hot
# values: then the mix *is* the shares.

# %%
text = "<s> every spring the llama climbs slowly but this spring the llama"
words = text.split()
vocabulary = list(dict.fromkeys(words))
ids = torch.tensor([vocabulary.index(w) for w in words])
word = F.one_hot(ids).float()  # `t v`
position = torch.eye(len(words))  # `t t`
mask = causal_mask(len(words), len(words))


def one_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head without a batch: q and k `t d`, v `t` by anything."""
    sharp = 15 * math.sqrt(q.shape[-1])  # so that a match scores 15
    q, k, v = (x[None, None] for x in (sharp * q, k, v))
    return attend(q, k, v, mask)[0, 0]


head_1 = (position.roll(-1, dims=1), position)  # row t asks for position t - 1
before = one_head(*head_1, v=word)
key_2 = before.clone()
key_2[0] = 0.5  # <s> fits every query a little
head_2 = (word, key_2)
guess = one_head(*head_2, v=word)[-1]
print("after", words[-3:], "comes", vocabulary[guess.argmax()],
      f"({guess.max():.3f})")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two heat maps of attention over twelve words. Left, the previous-token head: from the second row on all weight lies one step below the diagonal. Right, the induction head: all rows rest on the start token except the last three, where spring, the and llama look at the words that followed them the first time: the, llama and climbs."}}
fig, panels = plots.figure(
    "One head looks back one step, the other finds what came next last time",
    x="looked at", y="", columns=2, size=(6.4, 3.9))
titles = ("previous-token head", "induction head")
for ax, head, title in zip(panels, (head_1, head_2), titles, strict=True):
    seen = one_head(*head, v=position).masked_fill(~mask, math.nan)
    plots.heatmap(ax, seen.tolist())
    ax.set(title=title, xticks=range(len(words)), yticks=range(len(words)))
    ax.set_xticklabels(words, rotation=90)
    ax.set_yticklabels(words if ax is panels[0] else [])

# %% [markdown]
# Rows look at columns; white is masked. Follow the last row on the right: *llama* looks at
# *climbs*, the word after the first *llama*, and hands it over. The second head is called an
# *induction head* (Olsson et al. 2022), the first a *previous-token head*. The pair copies any
# repeated phrase, and needs two layers: the second head asks for something that only the first knows.
#
# Where nothing fits, the shares must still add up to 1. So they need a place to rest, and we gave
# the start token a key that fits everything a little. Xiao et al. (2023) found that trained models
# do the same on their own, and call it an *attention sink*. We shall look for one.
#
# ## Does a trained model find the same two heads?
#
# Two layers of our `Attention`, eight heads each, with the norm and the residual sum of chapter 01
# and nothing else. The task: 6 to 16 random tokens, then the same again. We train on the second
# half only. The length changes from batch to batch, so counting back a fixed distance does not
# help.

# %%
class TwoLayers(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.norms = nn.ModuleList(
            RMSNorm(config.dim, config.norm_eps) for _ in range(2))
        self.layers = nn.ModuleList(Attention(config) for _ in range(2))
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)

    def streams(self, tokens: Tensor) -> list[Tensor]:
        """What goes into layer 1, into layer 2, and out: each `b t c`."""
        t, c, found = tokens.shape[1], self.config, [self.embedding(tokens)]
        freqs = layers.rope_frequencies(c.head_dim, c.rope_theta)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = found[-1]
            found.append(x + layer(norm(x), rope_table(freqs, torch.arange(t)),
                                   causal_mask(t, t)))
        return found

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.streams(tokens)[-1])

# %% [markdown]
# Training loops are the subject of chapter 08. This one is short.

# %%
def phrases(rng: torch.Generator, batch: int, length: int) -> Tensor:
    half = torch.randint(32, (batch, length), generator=rng)
    return torch.cat([half, half], dim=1)


def train(model: TwoLayers, steps: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        length = int(torch.randint(6, 17, (), generator=rng))
        tokens = phrases(rng, 32, length)
        logits = model(tokens[:, :-1])[:, length:]
        wanted = tokens[:, length + 1:]
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

# %% [markdown]
# Three models, from three seeds. The cell takes about 20 seconds.

# %%
def accuracy(model: TwoLayers) -> float:
    """On 256 new phrases of 16 tokens; guessing scores 1/32."""
    tokens = phrases(torch.Generator().manual_seed(99), 256, 16)
    with torch.no_grad():
        right = model(tokens[:, :-1])[:, 16:].argmax(-1) == tokens[:, 17:]
    return right.float().mean().item()


def trained(n_kv_heads: int, seed: int) -> TwoLayers:
    torch.manual_seed(seed)
    model = TwoLayers(replace(config, n_kv_heads=n_kv_heads))
    train(model, steps=300, seed=seed)
    return model


config = ModelConfig(
    dim=64, n_layers=2, n_heads=8, n_kv_heads=8, vocab_size=32, norm_eps=1e-5,
    rope_theta=1e4, max_seq_len=32, hidden_dim=1)  # hidden_dim: not used here
mha = {seed: trained(8, seed) for seed in (1, 2, 3)}
for seed, model in mha.items():
    right = accuracy(model)
    print(f"seed {seed}: {right:.0%} of the repeated tokens are right")
    assert right > 0.8

# %% [markdown]
# Now we look inside. For each layer's best head: which share of its attention goes to the token
# before, and which to the token that followed the earlier copy?
#
# How large can the second share be? A phrase is 16 draws from 32 words, and the same word may be
# drawn again: then more than one word followed it. Your layers of 3.4 take what followed its
# *latest* place. How many of the repeated tokens would they get right here?

# %%
guess_latest = None  # your number in %, the two layers of 3.4 on these phrases

# %% [markdown]
# Beside the heads, two rules for comparison: the latest earlier place, and all earlier places in
# equal shares.

# %%
def shares_of(
        layer: Attention, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """The attention of every head of a layer that reads x, `b h t t`."""
    t, d = x.shape[1], layer.head_dim
    q, k = (rotate(rearrange(w(x), "b t (h d) -> b h t d", d=d), *rope)
            for w in (layer.wq, layer.wk))
    one_hot = torch.eye(t).expand(len(x), k.shape[1], t, t)
    return attend(q, k, one_hot, causal_mask(t, t))


def steps_back(shares: Tensor, n: int, last: int) -> Tensor:
    """Mean share from the last tokens to n steps before: `... t t` to `...`."""
    return shares.diagonal(-n, -2, -1)[..., -last:].mean(-1)

# %%
tokens = phrases(torch.Generator().manual_seed(99), 64, 16)
freqs = layers.rope_frequencies(config.head_dim, config.rope_theta)
rope = rope_table(freqs, torch.arange(32))
print("best heads, layer 1 and 2    the token before    what followed")
for seed, model in mha.items():
    with torch.no_grad():
        parts = zip(model.layers, model.norms, model.streams(tokens)[:2],
                    strict=True)
        shares = [shares_of(layer, norm(x), rope).mean(0)
                  for layer, norm, x in parts]
    before, after = ([steps_back(x, n, last=16).max().item() for x in shares]
                     for n in (1, 15))
    print(f"seed {seed}  {before[0]:31.0%} and {before[1]:.0%}"
          f" {after[0]:13.0%} and {after[1]:.0%}")
    assert before[0] > 0.5 and after[1] > 0.3

# the earlier places of each word
same = (tokens[:, :, None] == tokens[:, None]).tril(-1)[:, 16:]
latest = (same * torch.arange(32)).amax(-1)
right = (tokens.gather(1, latest + 1) == tokens[:, 1:17]).float().mean().item()
even = (1 / same.sum(-1)).mean().item()
print(f"all earlier places in equal shares: {even:.0%} on the right one")
assert abs(even - 0.77) < 0.02 and right < 0.7
reveal("% right, the latest place only", guess_latest, round(100 * right))

# %% [markdown]
# Nobody told it to. With each of the three seeds layer 1 has grown a head that looks one step back,
# with RoPE in place of our one-hot places, and layer 2 an induction head. Its three quarters are no
# weakness: a head that only compares the word, and shares evenly where it stood more than once, puts
# as much on the right place. The rule of 3.4 is a poor one here: it is sure only of words
# that stand once in their phrase. More than 90 % of the answers were right, so the models use more
# than that: a word further back, or the distance. We have not looked which.
#
# ## And a real model, on your own sentence?
#
# SmolLM2 135M is a relative of the Llamas: the same architecture, other weights, 30 layers of 9
# heads. It was not made for this course, and nobody trained it on our task. Beside it stands the
# small teller of tales that comes with the package, with 3 layers of 4 heads. We give them a sentence
# twice in a row, then three sequences of 24 random tokens, each twice. A head's *induction score* is
# the mean share that the second copy's tokens give to the token after their first copy.
#
# Of SmolLM2's 270 heads, how many score above 0.5 on the sentence? (An even split over what may be
# seen would score about 0.03.) And in ordinary text, what share of all its attention goes to the very
# first token, where an even split gives 6 %? Edit the sentence, too.

# %%
sentence = ("The quiet llama called Oompa climbed above Tarapaca"
            " in a violet raincoat.")
guess_heads = None  # your number from 0 to 270
guess_sink = None   # your number in %, SmolLM2, the mean of all layers

# %%
models = {"tales": load("tales")}
if installed.find("smollm2") is None:
    print(installed.how_to_get("smollm2"))
else:
    models["smollm2"] = load("smollm2")


def shares_in(model: nn.Module, tokens: Tensor) -> Tensor:
    """Every head's shares for tokens `t`: `n h t t`."""
    seen = []

    def look(layer: Attention, given: tuple) -> None:
        seen.append(shares_of(layer, *given[:2])[0])

    hooks = [block.attention.register_forward_pre_hook(look)
             for block in model.layers]
    with torch.no_grad():
        model(tokens[None])
    for hook in hooks:
        hook.remove()
    return torch.stack(seen)


def induction_scores(model: nn.Module, tokens: Tensor) -> Tensor:
    """`n h`: from the second copy to the token after the first."""
    t = len(tokens)
    return steps_back(shares_in(model, tokens.repeat(2)), t - 1, last=t)

# %% [markdown]
# Loading and looking take about 5 seconds. Layers and heads are counted from 0.

# %%
scores = {}
for name, (model, tokenizer) in models.items():
    given = {"your sentence": torch.tensor(tokenizer.encode(sentence))}
    for seed in (1, 2, 3):
        rng = torch.Generator().manual_seed(seed)
        given[f"random {seed}"] = torch.randint(
            100, model.config.vocab_size, (24,), generator=rng)
    for what, tokens in given.items():
        found = induction_scores(model, tokens)
        scores.setdefault(name, found)
        heads = [f"{n}.{h}" for n, h in (found > 0.5).nonzero().tolist()]
        print(f"{name:8} {what:13} best {found.max():.2f}, above 0.5:",
              *heads or ["none"])
        if name == "smollm2" and what != "your sentence":
            assert {"17.3", "18.6"} <= {*heads}
n_above = int((scores[name] > 0.5).sum())
reveal(f"heads above 0.5 in {name}", guess_heads, n_above)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two heat maps of induction scores, layers by heads. SmolLM2, 30 by 9: nearly all dark, seven bright cells, three in layer 17, two in layer 18 and one each in layers 20 and 23, the brightest at 0.9. The teller of tales, 3 by 4: all dark."}}
fig, panels = plots.figure(
    "A few heads copy, most in layers 17 and 18; the teller has none",
    x="head", y="layer", columns=2, size=(6.4, 4.2))
for ax, name in zip(panels, ("smollm2", "tales"), strict=True):
    ax.set_title(name if name in scores else f"{name}: not installed")
    if name in scores:
        image = ax.imshow(scores[name], aspect="auto", vmin=0, vmax=1,
                          cmap="viridis")
        n_layers, n_heads = scores[name].shape
        ax.set_xticks(range(n_heads))
        ax.set_yticks(range(0, n_layers, 5 if n_layers > 5 else 1))
    ax.grid(visible=False)
bar = fig.colorbar(image, ax=list(panels),
                   label="induction score, your sentence")

# of the last model, SmolLM2 where it is there
twice = given["your sentence"].repeat(2)
weights = shares_in(model, twice)
before = steps_back(weights, 1, last=len(twice) - 1)
best = [divmod(int(i), before.shape[1])
        for by in (scores[[*models][-1]], before)
        for i in by.flatten().topk(3).indices]
pieces = [tokenizer.decode([i]) for i in twice.tolist()]
explorers.attention(
    pieces, {f"layer {n}, head {h}": weights[n, h] for n, h in best})

# %% [markdown]
# Five heads are above 0.5 on all four inputs, three in layer 17 and two in layer 18: what they do does
# not depend on what the words mean. A few more come and go. The teller has none at all; why, we
# have not tested.
#
# Below the maps your sentence stands twice in a row, for two heads at a time. Point at a token of the
# second copy, or move the slider: the darker a word, the more weight it gets. The first three heads
# are the best copiers. The last three look at the token just before; in which layers are they?
#
# Now the sinks: the share of each layer that goes to the first token, averaged over heads and over all
# later tokens, in the first 64 tokens of three tales.

# %%
to_first = {}
for name, (model, tokenizer) in models.items():
    texts = [tokenizer.encode(tale, bos=tokenizer.adds_bos)[:64]
             for tale in tales.stories(3, seed=1)]
    # of each tale and layer
    shares = [shares_in(model, torch.tensor(text)) for text in texts]
    sinks = torch.stack([x[..., 1:, 0].mean((1, 2)) for x in shares])
    to_first[name] = sinks.mean(0)
    low = (to_first[name] < 0.1).nonzero().flatten().tolist()
    print(f"{name:8} mean of all layers, tale by tale:",
          *(f"{share:.0%}" for share in sinks.mean(1)))
    print(f"{name:8} layers below 10 %:", *low)
even = sum(1 / (t + 1) for t in range(1, 64)) / 63
assert round(even, 2) == 0.06
reveal(f"% to the first token in {name}", guess_sink,
       round(100 * to_first[name].mean().item()))

# %% tags=["hide-input"] mystnb={"image": {"alt": "Share of attention to the first token against depth. SmolLM2 starts at 5 percent, is near 50 percent from the fourth layer on, falls to 2 percent about a third of the way, and then stays between 36 and 78 percent. The teller of tales stays at 5 percent, at the even split, in all three layers."}}
fig, ax = plots.figure("The real model rests on its first token",
                       x="depth (0 = first layer, 1 = last)",
                       y="share to the first token (%)")
for (name, shares), mark in zip(to_first.items(), "so", strict=False):
    ax.plot(torch.linspace(0, 1, len(shares)), 100 * shares, mark + "-",
            markersize=4, label=name)
ax.axhline(100 * even, color=plots.BLACK, linestyle="--", linewidth=1)
ax.annotate("even split", (0.8, 100 * even), (0, 4), textcoords="offset points")
ax.set(ylim=(0, 100), xlim=(-0.03, 1.18))
plots.label_lines(ax)

# %% [markdown]
# It is there in one and not in the other. SmolLM2 gives half of all its attention to a token that
# says nothing about the question; the exceptions are its first two layers and two more a third of
# the way up. Its first token is no special one, it is merely the first of the text. The teller does
# have a special one, the mark that begins each text, and no layer gives it more than an even split.
# So the softmax makes a resting place useful, but does not force one: our teller does without.
#
# *A good place to rest. You have seen what attention does; what it costs is next.*
#
# ## Can an MHA model be turned into GQA afterwards?
#
# Ainslie et al. (2023, section 2.1) take the key and value matrices of each group and average
# them: *mean-pooling*. Then they train a little longer, for 5 % of the original steps. What does
# the pooling lose? Our trained model of seed 1 has eight key heads; we pool them to four, two and one.

# %%
def pooled(model: TwoLayers, n_kv_heads: int) -> TwoLayers:
    smaller = TwoLayers(replace(model.config, n_kv_heads=n_kv_heads))
    weights = dict(model.state_dict())
    for name in weights:
        if name.endswith(("wk.weight", "wv.weight")):
            weights[name] = reduce(
                weights[name], "(k g d) c -> (k d) c", "mean", k=n_kv_heads,
                d=model.config.head_dim)
    smaller.load_state_dict(weights)
    return smaller


whole = mha[1].layers[0].wk.weight.std()
for n in (4, 2, 1):
    left = pooled(mha[1], n).layers[0].wk.weight.std() / whole
    print(f"key heads {n}: {left:.2f} of the size of layer 1's wk is left,"
          f" and 1/√g is {(n / 8) ** 0.5:.2f}")

# %% [markdown]
# The average of unlike heads is smaller than they are. Pooling $g$ heads that have nothing in
# common leaves $1/\sqrt g$ of their size, and this is about what we see. So we must expect a loss.
# Before the pooling more than 90 % of the tokens were right. How many are with four heads?

# %%
guess_pooled = None  # your number in %, four key heads, no further training

# %% [markdown]
# Pooling, and 15 or 60 steps more; beside it, models that had one key head from their first step.
# For the two other seeds only the ends of this. About 30 seconds.

# %%
def trained_on(n_kv_heads: int, steps: int, seed: int = 1) -> float:
    """The accuracy after pooling and some more training."""
    model = pooled(mha[seed], n_kv_heads)
    train(model, steps, seed=seed + 100)
    return accuracy(model)


sizes, before = (8, 4, 2, 1), {seed: accuracy(mha[seed]) for seed in mha}
later = {0: "pooled", 15: "+ 15 steps (5 %)", 60: "+ 60 steps (20 %)"}
curves = {name: [before[1], *(trained_on(n, steps) for n in sizes[1:])]
          for steps, name in later.items()}
for name, values in curves.items():
    print(f"{name:18}", *(f"{value:4.0%}" for value in values))
star = {seed: accuracy(trained(1, seed)) for seed in mha}
for seed, whole in before.items():
    four, one = trained_on(4, 0, seed), trained_on(1, 60, seed)
    print(f"seed {seed}: {whole:.0%} with eight, {four:.0%} pooled to four;"
          f" one: {one:.0%} mended, {star[seed]:.0%} from the start")
    assert four < 0.6 and one < whole - 0.05
    assert whole - 0.1 < star[seed] < whole
pools, mended = curves["pooled"], curves[later[60]]
assert pools[3] < 0.15 and mended[3] < 0.9
reveal("% right with four heads", guess_pooled, round(100 * pools[1]))

# %% tags=["hide-input"] mystnb={"image": {"alt": "Accuracy against number of key heads. The MHA model with eight is above 90 percent. Pooled to four heads it falls to about 20 percent, to two and one nearly to chance at 3 percent. 15 further steps recover part, 60 further steps most of it; a model trained with one key head from the start, at almost 90 percent, is close to the MHA model."}}
fig, ax = plots.figure(
    "Pooling breaks the model; more training mends most of it",
    x="key and value heads left of 8", y="right tokens (%)")
for (name, values), style in zip(curves.items(), ("o-", "s--", "^:"),
                                 strict=True):
    ax.plot(range(4), [100 * value for value in values], style, label=name)
ax.plot(3, 100 * star[1], "*", markersize=13, color=plots.BLACK)
ax.annotate("one head from\nthe first step", (3, 100 * star[1]), (9, 0),
            textcoords="offset points", va="center")
ax.set(xticks=range(4), xticklabels=sizes, ylim=(-3, 103), xlim=(-0.1, 4.0))
plots.label_lines(ax)

# %% [markdown]
# The figure is of seed 1. Three findings, of this small model and no more:
#
# - Pooling alone is not a conversion. With each seed, more than half is lost at four heads.
# - The large T5 models of the paper fare better: with eight key heads left of 64 they are usable
#   right after the pooling, and 5 % more training is enough. Ours, pooled to one head, stay short
#   of what they were even after 20 %, with each seed.
# - The star: models that had one key head from their first step get 88, 93 and 87 % right, those
#   with eight 92, 95 and 92 %. Here it is the *change* that hurts. The Llamas with GQA had it from
#   their first step.
#
# ## Online softmax: how can the weights never exist?
#
# The weights of `attend` are a table of $t \times s$ numbers for each head. The softmax seems to
# need a whole row at once, because every share is divided by the total, and because the largest score
# is subtracted first, so that no exponential overflows. But all of this can be *kept up to date*
# (Milakov & Gimelshein 2018, algorithm 3). Go through the scores once, a block at a time, and keep
# three things: the largest score so far, the total of the exponentials, and the values mixed with
# them. Now a block arrives with a larger score. What you have summed so far was counted from the
# wrong maximum. By what must it be multiplied?
#
# See each block once, and do not compute a softmax of the whole row. (The check cannot see how you
# did it. Scores near 200 show whether you kept a maximum.) A hidden token has the score $-\infty$; a
# whole block may be hidden, though never all of them.

# %%
def mix_online(scores: Tensor, values: Tensor, block: int) -> Tensor:
    """Exercise 3.5 ●●● 20 min. Return the values, mixed in the shares that the softmax gives to the
    scores: the scores are `s`, the values `s d`, the result is `d`. `block` says how many scores come
    at a time; the last block may be shorter.
    """
    ### BEGIN SOLUTION
    # the total is one more sum: of ones, mixed as the values are
    rows = F.pad(values, (0, 1), value=1.0)
    largest, sums = -1e38, 0.0  # finite: -inf - -inf is nan
    while len(scores) > 0:
        new = scores[:block].max().clamp(min=largest)
        weights = torch.exp(scores[:block] - new)
        sums = sums * (largest - new).exp() + weights @ rows[:block]
        largest, scores, rows = new, scores[block:], rows[block:]
    return sums[:-1] / sums[-1]
    ### END SOLUTION


check("3.5", mix_online)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 3.5.** The factor is $e^{\text{old} - \text{new}}$. The total is itself a mix, of a
# column of ones, so here one line brings both up to date. Without rescaling, everything
# works as long as the largest score comes first; with an attention sink it often does. So the
# bug waits for the one row where it does not. *The total not rescaled* gives a mix that is too
# small, *the mix not rescaled* one that is too large; both look like a wrong scale somewhere else.
# *The maximum of the block* compares numbers that count from different zeros. *The newest block's
# maximum, with rescaling*, is right on paper; it only overflows when scores fall by about 88,
# because $e^{88}$ is close to the largest float32.
# ### END SOLUTION
#
# Here is causal attention in blocks, for all heads and queries at once. When the maximum rises, both
# sums are multiplied by $e^{\text{old} - \text{new}}$; the quotient is the exact answer for what
# has been seen so far. Ours begins at $-\infty$ and relies on key 0 being seen; yours does not need
# to.

# %%
def attend_online(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, block: int) -> Tensor:
    """What `attend` computes for k = h, a block of keys at a time."""
    largest = q.new_full((*q.shape[:-1], 1), -torch.inf)
    total, mixed = torch.zeros_like(largest), torch.zeros_like(q)
    parts = zip(k.split(block, -2), v.split(block, -2), mask.split(block, -1),
                strict=True)
    for keys, values, seen in parts:
        scores = q @ keys.mT / math.sqrt(q.shape[-1])
        scores.masked_fill_(~seen, -torch.inf)
        # every token sees key 0, so `largest` is soon finite
        new = torch.maximum(largest, scores.amax(-1, keepdim=True))
        shrink, weights = (largest - new).exp(), (scores - new).exp()
        total = total * shrink + weights.sum(-1, keepdim=True)
        mixed = mixed * shrink + weights @ values
        largest = new
    return mixed / total


torch.manual_seed(0)
q, k, v = torch.randn(3, 1, 4, 512, 16)
mask = causal_mask(512, 512)
torch.testing.assert_close(attend_online(q, k, v, mask, block=64),
                           attend(q, k, v, mask), rtol=0, atol=1e-6)
print("in blocks of 64 keys, equal to attend to 1e-6")

# %% [markdown]
# FlashAttention (Dao et al. 2022) is this loop, arranged so that a block fits into the fast memory
# of the chip. A kernel of this kind hides in `attend_fused`. How does the largest tensor grow with
# the length, for four heads of 16 features?

# %%
lengths, memory = (128, 256, 512, 1024, 2048), {}
for t in lengths:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 4, t, 16)
    mask = causal_mask(t, t)
    ways = {
        "plain": lambda: attend(q, k, v, mask),
        "fused, our mask": lambda: attend_fused(q, k, v, mask),
        "fused, no mask": lambda: attend_fused(q, k, v, None),
        "online": lambda: attend_online(q, k, v, mask, block=64),
        "online, one query": lambda: attend_online(
            q[:, :, -1:], k, v, mask[-1:], block=64),
    }
    for name, way in ways.items():
        memory.setdefault(name, []).append(largest_mib(way))

for name, values in memory.items():
    print(f"{name:18} {values[-2]:8.4f} to {values[-1]:8.4f} MiB: times"
          f" {values[-1] / values[-2]:.1f} for twice the length")
# heads, queries, block, bytes
assert memory["online"][-1] == 4 * 2048 * 64 * 4 / 2**20

# %% tags=["hide-input"] mystnb={"image": {"alt": "Largest new tensor against length on logarithmic axes, 128 to 2048 tokens. Plain attention grows from 0.25 to 64 MiB, four times for twice the length; the fused kernel with our mask ends at a quarter of it and is as steep; the online form grows linearly to 2 MiB; one single query stays constant at 0.001 MiB."}}
fig, ax = plots.figure("Online softmax turns a square into a line",
                       x="length t = s (tokens)", y="largest tensor (MiB)")
colours = plots.BLUE, plots.VERMILION, plots.GREEN, plots.PURPLE, plots.BLACK
for (name, values), mark, colour in zip(
        memory.items(), "os^Dv", colours, strict=True):
    ax.loglog(lengths, values, mark + "-", color=colour, markersize=4,
              label=name)
ax.set_xticks(lengths, lengths)
ax.minorticks_off()
ax.set_xlim(110, 6500)
plots.label_lines(ax)

# %% [markdown]
# The online form doubles with the length: its largest tensor, a block of scores, has a row of 64 for
# each query. One query alone has one row, at any length.
#
# > **Careful.** The fused kernel grows with the square, too, when we hand it a mask: it turns our
# > booleans into float32, once for all heads. With `is_causal=True` there is no mask to hold. The
# > package hands one over only where it must: behind a cache that holds tokens, `is_causal` aligns at
# > the wrong end (exercise 3.1).
#
# ## In the Llamas: what one token costs
#
# Now the question at the top. How many bytes does a full cache take? Work it out from the config:
# `n_layers`, `n_heads`, `n_kv_heads`, `head_dim`, `dim`. Try yours on
# `release("llama-3.1-8b").config`.

# %%
def cache_bytes(config: ModelConfig, tokens: int, batch: int, bits: int) -> int:
    """Exercise 3.6 ●○○ 5 min. Return the bytes of a full KV cache for `batch` sequences of
    `tokens` tokens each, where a number takes `bits` bits.
    """
    ### BEGIN SOLUTION
    numbers = 2 * config.n_layers * config.n_kv_heads * config.head_dim
    return numbers * tokens * batch * bits // 8
    ### END SOLUTION


check("3.6", cache_bytes)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 3.6.** *Query heads* is the mistake that costs most: it plans four times the
# memory for an 8B, sixteen times for a 405B. *Heads for layers* hides on Llama 2 7B, which has 32
# of each. *Keys only* is off by two, just enough to plan
# a server that runs out of memory under load.
# ### END SOLUTION
#
# Each layer keeps one key and one value for each token and key head. So a token costs $2 \times
# n_\text{layers} \times n_\text{kv heads} \times \text{head dim}$ numbers, 2 bytes each in
# bfloat16. Here are all releases.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Bars of the cache bytes per token for the eleven shapes of the family: 24 KiB for the pruned Guard 1B, 128 KiB for the 8B, 320 for the 70B, 504 for the 405B, against 512 for the 7B with MHA and 2560 KiB for Llama 1 65B, the largest; at 128K tokens this is 3 to 320 GiB."}}
shapes = {}
for r in RELEASES:
    c = r.config
    size = next(part for part in r.id.split("-")
                if part[-1] == "b" and part[0].isdigit())
    kib = kv_bytes_per_token(c, bits=16) / 2**10
    shared = c.n_kv_heads < c.n_heads
    kind = f"GQA, {c.n_kv_heads} key heads" if shared else "MHA"
    shapes.setdefault((kib, kind), []).append(
        (size.upper(), r.family.replace("Llama", "").strip()))

fig, ax = plots.figure(
    "Sharing keys made the cache of a 70B smaller than that of a 7B",
    x="cache per token (KiB, 16 bits)", y="", size=(6.4, 4.9))
for row, ((kib, kind), members) in enumerate(sorted(shapes.items())):
    colour = plots.VERMILION if kind == "MHA" else plots.BLUE
    ax.barh(row, kib, height=0.4, color=colour)
    sizes_of, families = (", ".join(dict.fromkeys(names))
                          for names in zip(*members, strict=True))
    ax.text(8, row + 0.23, f"{sizes_of} of Llama {families} ({kind})",
            va="bottom", fontsize=8)
    ax.text(kib + 15, row, f"{kib:g}", va="center", fontsize=8)
ax.set(yticks=[], xlim=(0, 2800), ylim=(-0.5, len(shapes)))
top = ax.secondary_xaxis(
    "top", functions=(lambda kib: kib / 8, lambda gib: gib * 8))
top.set_xlabel("cache of 128K tokens (GiB)")
assert sum(map(len, shapes.values())) == len(RELEASES)
print(len(RELEASES), "releases,", len(shapes), "costs")

# %% [markdown]
# 128K tokens are $2^{17}$, so KiB per token divided by 8 is GiB for the whole context: read the
# upper axis. Llama 1 was made for 2,048 tokens; at 128K its 65B would fill four GPUs of 80 GiB
# with the cache alone. The 11B and
# 90B are vision models: the bar is their text part, and the keys of an image come on top.

# %% tags=["nbval-check-output"]
print("release          KiB per token   GiB at 128K   GiB with MHA")
for name in ("llama-1-65b", "llama-2-7b", "llama-2-70b", "llama-3.1-8b",
             "llama-3.1-70b", "llama-3.1-405b", "llama-3.2-1b", "llama-3.2-3b"):
    c = release(name).config
    kib = kv_bytes_per_token(c, bits=16) / 2**10
    full, as_mha = (kv_bytes(x, tokens=2**17, batch=1, bits=16) / 2**30
                 for x in (c, replace(c, n_kv_heads=c.n_heads)))
    print(f"{name:15} {kib:14.0f} {full:13.0f} {as_mha:14.0f}")
assert release("llama-1-65b").config.max_seq_len == 2048

# %% [markdown]
# That answers the question at the top: Llama 3 8B has 8 key heads where Llama 2 7B has 32. Are the
# others missed? In our small models a little: with one key head from the first step, each of the
# three seeds gets a few tokens in a hundred less.
#
# > **History.** In Llama 2 only the 34B and the 70B share heads, so "Llama 2 introduced GQA" is
# > true of its two large sizes. From Llama 3 on every release does, always with 8 key heads, from
# > 1B to 405B. (The Guard with MHA is older: it is built on Llama 2 7B.) Why eight? The Llama 2
# > paper (A.2.1) serves its largest models on eight GPUs: one key head for each.
#
# ## Fact check: four sentences about attention
#
# Judge first, with what you know by now: right, wrong, imprecise or open. (The second half of E20
# is not measured in this chapter; the first half is.)

# %%
claims.judge({"D63": "?", "D64": "?", "E23": "?", "E20": "?"})

# %% [markdown]
# In the first, $b$ is the batch, $s$ the prompt and $o$ the output. The boxes read from the ledger of
# published claims, and do each sum again:

# %%
claims.show("D63", "D64", "E23", "E20")

# %% [markdown]
# The source of the formula has $4\,n\,h\,b\,(s+o)$: $n$ *layers* and $h$ the *hidden size*, 2 bytes
# each for a key and a value. Two letters have become one. For one sequence of 8,192 tokens on Llama 3
# 8B:

# %% tags=["nbval-check-output"]
c = release("llama-3-8b").config
claimed, original = 4 * c.n_heads * 8192, 4 * c.n_layers * c.dim * 8192
true = kv_bytes(c, tokens=8192, batch=1, bits=16)
for name, n_bytes in {"as claimed": claimed, "the original": original,
                      "with 8 of 32 key heads": true}.items():
    print(f"{name:22} {n_bytes / 2**20:6,.0f} MiB")
assert true == original * c.n_kv_heads // c.n_heads == 1024 * claimed

# %% [markdown]
# **Wrong**, by a factor of a thousand. The original is right for MHA; GQA multiplies it by
# $n_\text{kv heads} / n_\text{heads}$.
#
# And what does GQA compute less of? We count the multiplications and additions in the matrix products
# of one layer, on the *meta* device, which knows shapes and has no data. (A GFLOP is $10^9$ of them.)

# %%
def flops(function, *args) -> int:
    with FlopCounterMode(display=False) as count:
        function(*args)
    return count.get_total_flops()


mixing = []
for n_kv_heads in (32, 8):
    layer = Attention(replace(c, n_kv_heads=n_kv_heads)).to("meta")
    x = torch.empty(1, 1024, c.dim, device="meta")
    projected = sum(flops(project, x) for project in layer.children())
    q, k = (torch.empty(1, n, 1024, 128, device="meta")
            for n in (32, n_kv_heads))
    mask = causal_mask(1024, 1024, device="meta")
    mixing.append(flops(attend, q, k, k, mask))
    print(f"{n_kv_heads:2} key heads: projections {projected / 1e9:5.1f} GFLOP,"
          f" scores and mixing {mixing[-1] / 1e9:.1f} GFLOP")
assert mixing[0] == mixing[1]

# %% [markdown]
# **Imprecise.** Scores and mixing cost the same to the last operation: every query head
# still meets every token. Two projections shrink. What GQA saves is memory, and the traffic of reading it for every new
# token.
#
# The third sentence is **wrong**. Its box trained with both forms: no two losses differ by more than
# rounding. If two kernels compute the same function, training cannot tell them apart. A faster kernel
# gives more steps an hour, not better steps.
#
# The last:
# the title of Rabe & Staats (2021) says only that $O(n^2)$ is not needed. Their $O(1)$ is for
# *one* query, and self-attention takes $O(\log n)$, not counting what goes in and comes out. Our
# measurement agrees with the first half: the line of one query is flat. For all queries at once
# our loop is linear, as the result itself is. **Right**, as the paper means it; who quotes it
# should add these conditions. The *cache* never becomes $O(1)$: it grows with every token.
#
# ## Your turn: the way back
#
# A model that learns must also go backwards. Let `slope` be the slope of the loss in each number that
# attention returned; what are its slopes in $Q$, $K$ and $V$? PyTorch finds them by itself, but a fused
# kernel must be written by hand in this direction, too. The shares of the forward pass are given; what
# was hidden has the share 0. Work it out: two products of matrices, the scale (the slopes are divided
# by $\sqrt d$, too), and between them the softmax over the keys, in which a share that grows takes
# from all others of its query. And a key head that is shared is moved by each of its query heads.

# %%
def attention_backward(q: Tensor, k: Tensor, v: Tensor, shares: Tensor,
                       slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Exercise 3.7 ●●● 35 min. Return the slopes of q, k and v, each in the shape of its own; q and
    `slope` are `b h t d`, k and v are `b k s d`, the shares are `b h t s`. Without autograd, please.
    """
    ### BEGIN SOLUTION
    q, shares, slope = (x.unflatten(1, (k.shape[1], -1))
                        for x in (q, shares, slope))  # b k g t ...
    k, v = k[:, :, None], v[:, :, None]               # b k 1 s d
    in_shares = slope @ v.mT
    taken = (shares * in_shares).sum(-1, keepdim=True)
    in_scores = shares * (in_shares - taken) / math.sqrt(q.shape[-1])
    in_k, in_v = (in_scores.mT @ q).sum(2), (shares.mT @ slope).sum(2)
    return (in_scores @ k).flatten(1, 2), in_k, in_v
    ### END SOLUTION


check("3.7", attention_backward)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 3.7.** The softmax is the step that goes wrong. Share $i$ moves with score $j$ by
# $p_i(\delta_{ij} - p_j)$, so the slope of a score is $p_j$ times (its share's slope less the mean of
# all slopes, weighted by the shares). That mean equals the product of the result with its own slope,
# one number a query: FlashAttention computes it once and makes the shares again block by block, from
# the maximum and the total that online softmax left. The *sum over the group* is GQA's only trace on
# the way back.
# ### END SOLUTION
#
# PyTorch's way back through `attend` does what you did, and so it must find all the shares: the
# forward pass keeps them, $t^2$ for each head. Must they be kept? The largest new tensor on the way
# back, four heads of 16 features:

# %%
for t in (1024, 2048):
    q, k, v = (torch.randn(1, 4, t, 16, requires_grad=True) for _ in range(3))
    slopes, mib = {}, {}
    for name, mixed in {"plain": attend(q, k, v, causal_mask(t, t)),
                        "fused": attend_fused(q, k, v, None)}.items():
        with LargestTensor() as seen:
            slopes[name] = torch.autograd.grad(
                mixed, (q, k, v), torch.ones_like(mixed))
        mib[name] = seen.n_bytes / 2**20
    torch.testing.assert_close(*slopes.values(), rtol=0, atol=1e-4)
    print(f"{t} tokens: plain {mib['plain']:.1f}, fused {mib['fused']:.1f} MiB")
assert mib["plain"] == 4 * 2048**2 * 4 / 2**20 and mib["fused"] < 1

# %% [markdown]
# The same slopes, and again a line in place of a square. The fused kernel keeps no share. It keeps
# one number a query, from the maximum and the total of exercise 3.5, and makes the shares again, a
# block at a time, when your formula needs them. It computes more and holds less.
#
# ## Summary: one question to many keys, and few of them kept
#
# - Attention is a soft lookup: scores, divided by $\sqrt d$, masked, softmax, mix. One-hot values
#   make it show its shares.
# - With a cache the new tokens are the *last* rows of the mask.
# - MHA, GQA and MQA are one function. The queries get one more axis, and no key is copied.
# - Two layers are enough to copy a phrase: one head looks back a step, the next one uses it.
#   Training finds both, and a real model has a handful of such heads.
# - GQA saves memory and traffic, not score arithmetic. Pooling broke our finished models until they
#   were trained on.
# - Online softmax gives the same result in linear memory, for one query in constant memory.
#
# **Read in the package:** `llama_edu.layers.attend` and `llama_edu.layers.Attention`,
# `llama_edu.family.accounting.kv_bytes`. **Read elsewhere:** Vaswani et al. 2017, *Attention Is All You
# Need*; Shazeer 2019, *Fast Transformer Decoding*; Ainslie et al. 2023, *GQA*; Olsson et al. 2022,
# *In-context Learning and Induction Heads*; Xiao et al. 2023, *Efficient Streaming Language Models with
# Attention Sinks*; Dao et al. 2022, *FlashAttention*.
