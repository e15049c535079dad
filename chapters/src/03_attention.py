# %% [markdown]
# # 03 · Attention: how does a token find what it needs?
#
# **The question.** Llama 2 7B and Llama 3 8B have 32 layers and 32 query heads each, and heads of
# the same width. Yet one remembers a token in 512 KiB and the other in 128. What did Llama 3 leave
# out, and is it missed?
#
# | you will build | you need | minutes |
# |---|---|---|
# | `causal_mask`, `attend`, `attend_fused`, `Attention`, as in `llama_edu.layers` | chapters 01 and 02; the softmax | 110 |

# %%
import math
import weakref
from dataclasses import replace

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from llama_edu import claims, layers, plots
from llama_edu.cache import Slot
from llama_edu.config import ModelConfig
from llama_edu.exercises import check, hint
from llama_edu.family.accounting import kv_bytes, kv_bytes_per_token
from llama_edu.family.releases import RELEASES, release
from llama_edu.layers import RMSNorm, rope_frequencies, rope_table, rotate, widen

plots.use_style()
torch.set_num_threads(1)     # our models are so small that threads would wait for one another

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

# %%
# NBVAL_CHECK_OUTPUT
query = [2.0, 0.0]
keys = [[1.0, 1.0], [0.0, 3.0], [-1.0, 1.0]]
values = [10.0, 20.0, 90.0]

scores = [sum(q * k for q, k in zip(query, key, strict=True)) / 2**0.5 for key in keys]
total = sum(math.exp(score) for score in scores)
shares = [math.exp(score) / total for score in scores]
print("scores", [round(score, 2) for score in scores], "  shares", [round(x, 3) for x in shares])
print("mixed value:", round(sum(w * v for w, v in zip(shares, values, strict=True)), 1))

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
# of what is left still add up to 1.
#
# Why divide by $\sqrt d$? If the features of $q$ and $k$ are independent, with mean 0 and
# variance 1, the variances of the $d$ products add up: the score has standard deviation $\sqrt d$.
# Without the division a wide head would begin its training almost deaf to all keys but one:

# %%
torch.manual_seed(0)
for d in (4, 64, 128):
    q, k = torch.randn(1000, d), torch.randn(1000, 32, d)
    raw = einsum(q, k, "n d, n s d -> n s")
    plain, scaled = (x.softmax(-1).amax(-1).mean().item() for x in (raw, raw / d**0.5))
    print(f"d = {d:3}: spread of scores {raw.std().item():4.1f}, largest of 32 shares"
          f" {plain:.2f} unscaled, {scaled:.2f} scaled")

# %% [markdown]
# ## Build it: from loops to one function for every Llama
#
# One head, plain loops. The mask is the end of the second `range`: token $t$ stops at itself.

# %%
def attend_loop(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head, `t d` each. Token t sees tokens 0 to t."""
    mixed = torch.zeros_like(v)
    for t in range(len(q)):
        scores = [float(q[t] @ k[s]) / math.sqrt(len(q[t])) for s in range(t + 1)]
        total = sum(math.exp(score) for score in scores)
        for s in range(t + 1):
            mixed[t] += math.exp(scores[s]) / total * v[s]
    return mixed

# %% [markdown]
# **The mask.** When a model writes, it feeds in only the new tokens; the keys and values of the
# old ones are kept, in the *cache* of chapter 07. So there are $t$ new tokens and $s \ge t$ to
# look at, and the new ones are the *last* of them. `tril(s - t)` shifts the diagonal accordingly.

# %%
# twin: llama_edu.layers.causal_mask
def causal_mask(t: int, s: int, *, device: torch.device | str = "cpu") -> Tensor:
    """`t s`, True where a token may look. The t new tokens are the last of the s."""
    return torch.ones(t, s, dtype=torch.bool, device=device).tril(s - t)


for row in causal_mask(2, 5).tolist():
    print("".join("■" if seen else "·" for seen in row))

# %% [markdown]
# **Heads.** A Llama asks many questions at once: 32 heads of 128 features in a stream of 4096.
# Each head has a query matrix of its own. Stacked, they are one matrix, and cutting its output
# into heads is a *reshape*, not a computation:

# %%
torch.manual_seed(0)
h, d, c = 4, 6, 24
x, wq = torch.randn(2, 5, c), torch.randn(h * d, c)

together = rearrange(x @ wq.T, "b t (h d) -> b h t d", h=h)
one_by_one = torch.stack([x @ matrix.T for matrix in wq.split(d)], dim=1)
torch.testing.assert_close(together, one_by_one)
print("all heads at once:", tuple(together.shape))

# %% [markdown]
# **Sharing.** In the transformer of 2017 each query head has its own key and value head:
# *multi-head attention*, MHA. Shazeer (2019) kept one key and value head for all of them:
# *multi-query attention*, MQA. Ainslie et al. (2023, section 2.2) stand in between, with one for
# each *group* of $g$ neighbouring query heads: *grouped-query attention*, GQA. MHA is $g = 1$, and
# MQA is one group.

# %% mystnb={"image": {"alt": "Three diagrams with eight query heads above and key heads below, joined by lines: MHA has eight key heads with one line each, GQA two key heads with four lines each, MQA one key head with eight lines."}}
fig, panels = plots.figure("Neighbouring query heads share one key and value head",
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
    ax.set(title=name, xticks=[], yticks=[0, 1], yticklabels=["keys", "queries"], ylim=(-0.3, 1.3))
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)

# %% [markdown]
# The direct way to share is to copy: give each query head its own copy of its key head, then go on
# as in MHA. Meta's published code does that (`repeat_kv`). Note `repeat_interleave`: the copies of
# one head lie next to each other, `0 0 1 1`. (`k.mT` swaps the last two axes.)

# %%
def attend_by_copying(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    g = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(g, dim=1), v.repeat_interleave(g, dim=1)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v

# %% [markdown]
# The copies can be avoided. Instead of more keys, give the *queries* one more axis: $k$ groups of
# $g$. Then one `einsum` lets each key head meet its $g$ queries. This is the function of the
# package, and MHA, GQA and MQA are all in it: they differ in the shape of `k`.

# %%
# twin: llama_edu.layers.attend
def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    q = rearrange(q, "b (k g) t d -> b k g t d", k=k.shape[1])
    scores = einsum(q, k, "b k g t d, b k s d -> b k g t s") / math.sqrt(q.shape[-1])
    weights = widen(scores).masked_fill(~mask, -torch.inf).softmax(-1).type_as(q)
    mixed = einsum(weights, v, "b k g t s, b k s d -> b k g t d")
    return rearrange(mixed, "b k g t d -> b (k g) t d")

# %% [markdown]
# A second form calls PyTorch's fused kernel, which computes the same in small blocks and never
# holds all `t s` weights (we build one below). The models of the course use this one. With no mask
# at all it is told that the mask is the causal one, so that it can leave out the hidden half. A single
# new token needs no mask: nothing is ahead of it.

# %%
# twin: llama_edu.layers.attend_fused
def attend_fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    if q.shape[2] == 1:     # queries that share a key head are rows of one product; none is ahead
        q = rearrange(q, "b (k g) 1 d -> b k g d", k=k.shape[1])
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return rearrange(mixed, "b k g d -> b (k g) 1 d")
    g = q.shape[1] // k.shape[1]
    if g > 1 and mask is not None and q.device.type == "cuda":
        # CUDA's fused kernels take a mask or shared heads, not both, and the others hold `b h t s`.
        k, v, g = k.repeat_interleave(g, dim=1), v.repeat_interleave(g, dim=1), 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None,
                                          enable_gqa=g > 1)

# %% [markdown]
# **The layer** puts four matrices around it. Queries and keys are turned by RoPE (chapter 02),
# values are not: the position decides *who* is heard, not *what* is said. `memory` is the cache;
# it is `None` in this chapter.

# %%
# twin: llama_edu.layers.Attention
class Attention(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.head_dim = d = config.head_dim
        self.wq = nn.Linear(config.dim, config.n_heads * d, bias=False)
        self.wk = nn.Linear(config.dim, config.n_kv_heads * d, bias=False)
        self.wv = nn.Linear(config.dim, config.n_kv_heads * d, bias=False)
        self.wo = nn.Linear(config.n_heads * d, config.dim, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None,
                memory: Slot | None = None) -> Tensor:
        """x: `b t c`; rope: cos and sin, each `t d/2`; memory: this layer's slot of a KVCache."""
        q, k, v = (rearrange(project(x), "b t (h d) -> b h t d", d=self.head_dim)
                   for project in (self.wq, self.wk, self.wv))
        q, k = rotate(q, *rope), rotate(k, *rope)
        if memory is not None:
            k, v = memory.append(k, v)
        return self.wo(rearrange(attend_fused(q, k, v, mask), "b h t d -> b t (h d)"))

# %% [markdown]
# ## Prove it: four ways, one result, no copies
#
# Every size is different on purpose: 2 sequences, 6 query heads, 3 key heads, 5 tokens, 4
# features. With as many key heads as query heads a wrong grouping cannot show.

# %%
torch.manual_seed(0)
q, k, v = torch.randn(2, 6, 5, 4), torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
mask = causal_mask(5, 5)
ours = attend(q, k, v, mask)

loop = torch.stack([torch.stack([attend_loop(q[b, i], k[b, i // 2], v[b, i // 2])
                                 for i in range(6)]) for b in range(2)])
for other in (loop, attend_by_copying(q, k, v, mask), attend_fused(q, k, v, mask),
              attend_fused(q, k, v, None), layers.attend(q, k, v, mask)):
    torch.testing.assert_close(other, ours, rtol=0, atol=1e-6)
print("the loop, the copies, the fused kernel and the package agree to 1e-6")

# %% [markdown]
# Is it true that nothing is copied? We count. The class below listens to every operation of
# PyTorch, adds the bytes of each new result, and takes them off when the result is dropped. Inputs
# and views cost nothing, and neither does scratch space inside a kernel. So the count depends on
# the operations, not on the machine.

# %%
class PeakBytes(TorchDispatchMode):
    """The most bytes that results of operations held at one time."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.known = 0, 0, set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in args if torch.is_tensor(x)}
        for x in result if type(result) in (tuple, list) else [result]:
            if torch.is_tensor(x) and x.untyped_storage().data_ptr() not in given | self.known:
                self.add(x.untyped_storage())
        return result

    def add(self, storage) -> None:
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        self.known.add(storage.data_ptr())
        weakref.finalize(storage, self.drop, storage.data_ptr(), storage.nbytes())

    def drop(self, pointer: int, n_bytes: int) -> None:
        self.live -= n_bytes
        self.known.discard(pointer)

# %% [markdown]
# One new token of a Llama 3 8B looks back at 8,192 cached ones: 32 query heads, 8 key heads.

# %%
def peak_bytes(function, *args) -> int:
    with PeakBytes() as count, torch.no_grad():
        function(*args)
    return count.peak


new, cached = torch.zeros(1, 32, 1, 128), torch.zeros(2, 1, 8, 8192, 128)
for way in (attend_by_copying, attend, attend_fused):
    mib = peak_bytes(way, new, *cached, causal_mask(1, 8192)) / 2**20
    print(f"{way.__name__:18} {mib:6.1f} MiB on top of {cached.numel() * 4 / 2**20:.0f} MiB"
          " of keys and values")

# %% [markdown]
# The copies cost four times the cache itself, in every layer, for every new token. A reshape of the
# queries costs nothing: the 3 MiB are scores and weights.
#
# ## Play: two heads set by hand that copy a phrase
#
# Back to the llama in spring. We set the weights of two heads by hand. The stream of a token holds
# two one-hot vectors: *which* word it is, and *where* it stands.
#
# Head 1 asks for the position before its own. Its query is the position, moved by one; its key is
# the position; its value is the word. So every token learns which word stands before it. Head 2
# asks: *whom did my own word stand before?* Its query is the word, its key is what head 1 found,
# its value again the word.
#
# To see the shares, hand `attend` one-hot values: then the mix *is* the shares.

# %%
words = "<s> every spring the llama climbs slowly but this spring the llama".split()
vocabulary = list(dict.fromkeys(words))
word = F.one_hot(torch.tensor([vocabulary.index(w) for w in words])).float()    # `t v`
position = torch.eye(len(words))                                               # `t t`
mask = causal_mask(len(words), len(words))


def one_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """attend for one head without a batch: q and k `t d`, v `t` by anything."""
    sharp = 15 * math.sqrt(q.shape[-1])         # so that a match scores 15
    return attend(sharp * q[None, None], k[None, None], v[None, None], mask)[0, 0]


head_1 = (position.roll(-1, dims=1), position)          # row t asks for position t - 1
before = one_head(*head_1, v=word)
key_2 = before.clone()
key_2[0] = 0.5                                          # <s> fits every query a little
head_2 = (word, key_2)
guess = one_head(*head_2, v=word)[-1]
print("after", words[-3:], "comes", vocabulary[guess.argmax()], f"({guess.max():.3f})")

# %% mystnb={"image": {"alt": "Two heat maps of attention over twelve words. Left, the previous-token head: from the second row on all weight lies one step below the diagonal. Right, the induction head: all rows rest on the start token except the last three, where spring, the and llama look at the words that followed them the first time: the, llama and climbs."}}
fig, panels = plots.figure("One head looks back one step, the other finds what came next last time",
                           x="looked at", y="", columns=2, size=(6.4, 3.9))
titles = ("previous-token head", "induction head")
for ax, head, title in zip(panels, (head_1, head_2), titles, strict=True):
    plots.heatmap(ax, one_head(*head, v=position).masked_fill(~mask, math.nan).tolist())
    ax.set(title=title, xticks=range(len(words)), yticks=range(len(words)))
    ax.set_xticklabels(words, rotation=90)
    ax.set_yticklabels(words if ax is panels[0] else [])

# %% [markdown]
# Rows look at columns; white is masked. Follow the last row on the right: *llama* looks at
# *climbs*, the word after the first *llama*, and hands it over. This pair is called an *induction
# head* (Olsson et al. 2022). It copies any repeated phrase, whatever the words mean, and needs two
# layers: the second head asks for something that only the first one knows.
#
# Where nothing fits, the shares must still add up to 1. So they need a place to rest, and we gave
# the start token a key that fits everything a little. Trained language models often do the same on
# their own; Xiao et al. (2023) call it an *attention sink*. (In row 0 the shifted query has wrapped
# round to the last position, which is masked; a token that sees only itself has no choice anyway.)
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
        self.norms = nn.ModuleList(RMSNorm(config.dim, config.norm_eps) for _ in range(2))
        self.layers = nn.ModuleList(Attention(config) for _ in range(2))
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)

    def streams(self, tokens: Tensor) -> list[Tensor]:
        """What goes into layer 1, into layer 2, and out: each `b t c`."""
        t, found = tokens.shape[1], [self.embedding(tokens)]
        freqs = rope_frequencies(self.config.head_dim, self.config.rope_theta)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = found[-1]
            found.append(x + layer(norm(x), rope_table(freqs, torch.arange(t)), causal_mask(t, t)))
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
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, length + 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

# %%
def accuracy(model: TwoLayers) -> float:
    """On 256 new phrases of 16 tokens; guessing scores 1/32."""
    tokens = phrases(torch.Generator().manual_seed(99), 256, 16)
    with torch.no_grad():
        right = model(tokens[:, :-1])[:, 16:].argmax(-1) == tokens[:, 17:]
    return right.float().mean().item()


torch.manual_seed(1)
config = ModelConfig(dim=64, n_layers=2, n_heads=8, n_kv_heads=8, vocab_size=32, norm_eps=1e-5,
                     rope_theta=1e4, max_seq_len=32, hidden_dim=1)      # hidden_dim: not used here
trained = TwoLayers(config)
train(trained, steps=300, seed=1)
print(f"after 300 steps {accuracy(trained):.0%} of the repeated tokens are right")
assert accuracy(trained) > 0.8

# %% [markdown]
# Now we look inside. For each head: which share of its attention goes to the token before, and
# which to the token after the earlier copy, the induction head's target?

# %%
def shares_of(layer: Attention, x: Tensor) -> Tensor:
    """The attention of every head: `b h t t`."""
    t = x.shape[1]
    rope = rope_table(rope_frequencies(layer.head_dim, 1e4), torch.arange(t))
    q, k = (rotate(rearrange(project(x), "b t (h d) -> b h t d", d=layer.head_dim), *rope)
            for project in (layer.wq, layer.wk))
    return attend(q, k, torch.eye(t).expand(len(x), q.shape[1], t, t), causal_mask(t, t))


tokens = phrases(torch.Generator().manual_seed(99), 64, 16)
with torch.no_grad():
    pairs = zip(trained.layers, trained.norms, trained.streams(tokens), strict=False)
    seen = [shares_of(layer, norm(x)) for layer, norm, x in pairs]
steps_back = {"the token before": 1, "what followed last time": 15}
best = {}
for number, shares in enumerate(seen, 1):
    for target, n in steps_back.items():
        best[number, target] = shares.diagonal(-n, -2, -1)[..., -15:].mean((0, 2)).max().item()
        print(f"layer {number}, best head: {best[number, target]:.0%} to {target}")
assert best[1, "the token before"] > 0.7 and best[2, "what followed last time"] > 0.4

# %% [markdown]
# Nobody told it to. Layer 1 has grown a head that looks one step back, with RoPE in place of our
# one-hot positions, and layer 2 an induction head.
#
# ## Can an MHA model be turned into GQA afterwards?
#
# Ainslie et al. (2023, section 2.1) take the key and value matrices of each group and average
# them: *mean-pooling*. Then they train a little longer, for 5 % of the original steps. What does
# the pooling lose? Our trained model has eight key heads; we pool them to four, two and one.

# %%
def pooled(model: TwoLayers, n_kv_heads: int) -> TwoLayers:
    smaller = TwoLayers(replace(model.config, n_kv_heads=n_kv_heads))
    weights = dict(model.state_dict())
    for name in weights:
        if name.endswith(("wk.weight", "wv.weight")):
            weights[name] = reduce(weights[name], "(k g d) c -> (k d) c", "mean",
                                   k=n_kv_heads, d=model.config.head_dim)
    smaller.load_state_dict(weights)
    return smaller


kept = {n: pooled(trained, n).layers[0].wk.weight.square().mean().sqrt()
        / trained.layers[0].wk.weight.square().mean().sqrt() for n in (8, 4, 2, 1)}
for n, size in kept.items():
    print(f"key heads {n}: size of layer 1's wk {size:.2f}, and 1/√g is {(n / 8) ** 0.5:.2f}")

# %% [markdown]
# The average of unlike heads is smaller than they are. Pooling $g$ heads that have nothing in
# common leaves $1/\sqrt g$ of their size, and this is about what we see. So we must expect a loss.

# %%
sizes, later = (8, 4, 2, 1), {0: "pooled", 15: "+ 15 steps (5 %)", 60: "+ 60 steps (20 %)"}
curves = {name: [accuracy(trained)] for name in later.values()}
for n_kv_heads in sizes[1:]:
    for steps, name in later.items():
        model = pooled(trained, n_kv_heads)
        train(model, steps, seed=3)
        curves[name].append(accuracy(model))
torch.manual_seed(1)
from_scratch = TwoLayers(replace(config, n_kv_heads=1))
train(from_scratch, steps=300, seed=1)
star = accuracy(from_scratch)

for name, values in curves.items():
    print(f"{name:18}", [f"{value:.0%}" for value in values[1:]])
print(f"one key head from the first step: {star:.0%}")
pools, mended = curves["pooled"], curves[later[60]]
assert pools[1] < 0.6 and pools[3] < 0.15 and mended[3] < min(0.9, pools[0]) and star > 0.7

# %% mystnb={"image": {"alt": "Accuracy against number of key heads. The MHA model with eight is above 90 percent. Pooled to four heads it falls to about 20 percent, to two and one nearly to chance at 3 percent. 15 further steps recover part, 60 further steps most of it; a model trained with one key head from the start, at almost 90 percent, is close to the MHA model."}}
fig, ax = plots.figure("Pooling breaks the model; more training mends most of it",
                       x="key and value heads left of 8", y="right tokens (%)")
for (name, values), style in zip(curves.items(), ("o-", "s--", "^:"), strict=True):
    ax.plot(range(4), [100 * value for value in values], style, label=name)
ax.plot(3, 100 * star, "*", markersize=13, color=plots.BLACK)
ax.annotate("one head from\nthe first step", (3, 100 * star), (9, 0),
            textcoords="offset points", va="center")
ax.set(xticks=range(4), xticklabels=sizes, ylim=(-3, 103), xlim=(-0.1, 4.0))
plots.label_lines(ax)

# %% [markdown]
# Three findings, of this small model and no more:
#
# - Pooling alone is not a conversion. At four heads most is lost; at one it guesses.
# - The large T5 models of the paper fare better: with eight key heads left they are usable right
#   after the pooling, and 5 % more training is enough. Ours needs 20 %, and with one head even
#   that falls short. (All of this is one seed: take the order from it, not the digits.)
# - The star: a model that had one key head from its first step does this task nearly as well as
#   the one with eight. Here it is the *change* that hurts. The Llamas with
#   GQA had it from their first step.
#
# ## Online softmax: how can the weights never exist?
#
# The weights of `attend` are a table of $t \times s$ numbers for each head. The softmax seems to
# need a whole row at once, because every share is divided by the total. But a total can be *kept
# up to date*. Go through the scores once and keep three things: the largest score so far, the
# total of the exponentials, and the values mixed with them. When a larger score arrives, the two
# sums were counted from the wrong maximum; multiply both by $e^{\text{old} - \text{new}}$ and go
# on (Milakov & Gimelshein 2018, algorithm 3; Rabe & Staats 2021).

# %%
# NBVAL_CHECK_OUTPUT
largest, total, mixed = -math.inf, 0.0, 0.0
for score, value in zip([1.0, 3.0, 2.0], [10.0, 20.0, 90.0], strict=True):
    new = max(largest, score)
    shrink = math.exp(largest - new)
    weight = math.exp(score - new)
    largest, total, mixed = new, total * shrink + weight, mixed * shrink + weight * value
    print(f"largest {largest}   total {total:.4f}   mixed / total {mixed / total:.4f}")
whole_row = torch.tensor([1.0, 3.0, 2.0]).softmax(0) @ torch.tensor([10.0, 20.0, 90.0])
print("softmax over the whole row:       ", f"{whole_row.item():.4f}")

# %% [markdown]
# After each step the quotient is the exact answer for what has been seen so far. In practice one
# takes a block of keys at a time. Here is causal attention in blocks:

# %%
def attend_online(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, block: int) -> Tensor:
    """What `attend` computes for k = h, a block of keys at a time. mask: `t s`."""
    largest = q.new_full((*q.shape[:-1], 1), -torch.inf)
    total, mixed = torch.zeros_like(largest), torch.zeros_like(q)
    parts = zip(k.split(block, -2), v.split(block, -2), mask.split(block, -1), strict=True)
    for keys, values, seen in parts:        # every token sees key 0, so `largest` is soon finite
        scores = (q @ keys.mT / math.sqrt(q.shape[-1])).masked_fill_(~seen, -torch.inf)
        new = torch.maximum(largest, scores.amax(-1, keepdim=True))
        shrink, weights = (largest - new).exp(), (scores - new).exp()
        total = total * shrink + weights.sum(-1, keepdim=True)
        mixed = mixed * shrink + weights @ values
        largest = new
    return mixed / total


torch.manual_seed(0)
q, k, v = torch.randn(3, 1, 4, 512, 16)
mask = causal_mask(512, 512)
gap = (attend_online(q, k, v, mask, block=64) - attend(q, k, v, mask)).abs().max().item()
print("in blocks of 64 keys, equal to attend to 1e-6:", gap < 1e-6)
assert gap < 1e-6

# %% [markdown]
# FlashAttention (Dao et al. 2022) is this loop, arranged so that a block fits into the fast memory
# of the chip. A kernel of this kind hides in `attend_fused`. Let us measure how memory grows with
# the length, for four heads of 16 features.

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
        "online, one query": lambda: attend_online(q[:, :, -1:], k, v, mask[-1:], block=64)}
    for name, way in ways.items():
        memory.setdefault(name, []).append(peak_bytes(way) / 2**20)

for name, values in memory.items():
    print(f"{name:18} {values[-2]:8.3f} to {values[-1]:8.3f} MiB: times"
          f" {values[-1] / values[-2]:.1f} for twice the length")

# %% mystnb={"image": {"alt": "Peak working memory against length on logarithmic axes, 128 to 2048 tokens. Plain attention grows from 0.75 to 192 MiB, four times for twice the length; the fused kernel with our mask ends at a twelfth of it and is as steep; the online form grows linearly to about 9 MiB; one single query stays constant at 0.004 MiB."}}
fig, ax = plots.figure("Online softmax turns a square into a line", x="length t = s (tokens)",
                       y="peak working memory (MiB)")
colours = (plots.BLUE, plots.VERMILION, plots.GREEN, plots.PURPLE, plots.BLACK)
for (name, values), mark, colour in zip(memory.items(), "os^Dv", colours, strict=True):
    ax.loglog(lengths, values, mark + "-", color=colour, markersize=4, label=name)
ax.set_xticks(lengths, lengths)
ax.minorticks_off()
ax.set_xlim(110, 6500)
plots.label_lines(ax)

# %% [markdown]
# The online form doubles with the length, because its running sums hold a row for each query. One
# query alone costs the same at any length.
#
# > **Careful.** The fused kernel grows with the square, too, when we hand it a mask: it turns our
# > booleans into float32, `t s` numbers, though once for all heads. With `is_causal=True` there is
# > no mask to hold and the growth is linear. The package hands over a mask only where it must: behind
# > a cache that holds tokens, `is_causal` aligns at the wrong end (exercise 3.1).
#
# ## In the Llamas: what one token costs
#
# Each layer keeps one key and one value for each token and key head. So a token costs $2 \times
# n_\text{layers} \times n_\text{kv heads} \times \text{head dim}$ numbers, 2 bytes each in
# bfloat16. Here are all releases.

# %% mystnb={"image": {"alt": "Bars of the cache bytes per token for the eleven shapes of the family: 24 KiB for the pruned Guard 1B, 128 KiB for the 8B, 320 for the 70B, 504 for the 405B, against 512 for the 7B with MHA and 2560 KiB for Llama 1 65B, the largest; at 128K tokens this is 3 to 320 GiB."}}
shapes = {}
for r in RELEASES:
    c = r.config
    size = next(part for part in r.id.split("-") if part[-1] == "b" and part[0].isdigit())
    shape = (kv_bytes_per_token(c, bits=16) / 2**10, c.n_kv_heads == c.n_heads, c.n_kv_heads)
    shapes.setdefault(shape, []).append((size.upper(), r.family.replace("Llama", "").strip()))

fig, ax = plots.figure("Sharing keys made the cache of a 70B smaller than that of a 7B",
                       x="cache per token (KiB, 16 bits)", y="", size=(6.4, 4.9))
for row, ((kib, is_mha, n_kv), members) in enumerate(sorted(shapes.items())):
    ax.barh(row, kib, height=0.4, color=plots.VERMILION if is_mha else plots.BLUE)
    families = ", ".join(dict.fromkeys(family for _, family in members))
    name = f"{members[0][0]} of Llama {families} ({'MHA' if is_mha else f'GQA, {n_kv} key heads'})"
    ax.text(8, row + 0.23, name, va="bottom", fontsize=8)
    ax.text(kib + 15, row, f"{kib:g}", va="center", fontsize=8)
ax.set(yticks=[], xlim=(0, 2800), ylim=(-0.5, len(shapes)))
top = ax.secondary_xaxis("top", functions=(lambda kib: kib / 8, lambda gib: gib * 8))
top.set_xlabel("cache of 128K tokens (GiB)")
assert sum(map(len, shapes.values())) == len(RELEASES)
print(len(RELEASES), "releases,", len(shapes), "costs")

# %% [markdown]
# 128K tokens are $2^{17}$, so KiB per token divided by 8 is GiB for the whole context: read the
# upper axis. Llama 1 was made for 2,048 tokens; at 128K its 65B would fill four GPUs of 80 GiB
# with the cache alone. For vision models this is the text part; the keys of an image come on top.

# %%
# NBVAL_CHECK_OUTPUT
print("release          KiB per token   GiB at 128K   GiB if every query head had its own")
for name in ("llama-1-65b", "llama-2-7b", "llama-2-70b", "llama-3.1-8b", "llama-3.1-70b",
             "llama-3.1-405b", "llama-3.2-1b", "llama-3.2-3b"):
    c = release(name).config
    as_mha = replace(c, n_kv_heads=c.n_heads)
    full, mha = (kv_bytes(x, tokens=2**17, batch=1, bits=16) / 2**30 for x in (c, as_mha))
    print(f"{name:15} {kv_bytes_per_token(c, bits=16) / 2**10:8.0f} {full:15.0f} {mha:15.0f}")
assert release("llama-1-65b").config.max_seq_len == 2048

# %% [markdown]
# That answers the question at the top: Llama 3 8B has 8 key heads where Llama 2 7B has 32. Are the
# others missed? In our small model hardly, as long as they were never there. Note the 3B: smaller
# than the 8B in parameters, nearly its equal in cache. Key heads and their width are the same, and
# 28 layers stand against 32.

# %%
# NBVAL_CHECK_OUTPUT
for family in dict.fromkeys(r.family for r in RELEASES):
    configs = [r.config for r in RELEASES if r.family == family]
    shared = {c.n_kv_heads for c in configs if c.n_kv_heads < c.n_heads}
    n_mha = sum(c.n_kv_heads == c.n_heads for c in configs)
    print(f"{family:17} {len(configs):2} releases, {n_mha} with MHA,"
          f" key heads of the others: {shared or 'none'}")

# %% [markdown]
# > **History.** In Llama 2 only the 34B and the 70B share heads, so "Llama 2 introduced GQA" is
# > true of its two large sizes. From Llama 3 on every release does, always with 8 key heads, from
# > 1B to 405B. (The Guard with MHA is older: it is built on Llama 2 7B.) Why eight? The Llama 2
# > paper (A.2.1) serves its largest models on eight GPUs: one key head for each.
#
# ## Fact check: four sentences about attention
#
# The boxes read from the ledger of published claims, and do each sum again.

# %%
claims.show("D63", "D64")

# %% [markdown]
# In the formula $b$ is the batch, $s$ the prompt and $o$ the output. Its source has
# $4\,n\,h\,b\,(s+o)$: $n$ *layers* and $h$ the *hidden size*, 2 bytes each for a key and a value. Two
# letters have become one. For one sequence of 8,192 tokens on Llama 3 8B:

# %%
# NBVAL_CHECK_OUTPUT
c = release("llama-3-8b").config
claimed, original = 4 * c.n_heads * 8192, 4 * c.n_layers * c.dim * 8192
true = kv_bytes(c, tokens=8192, batch=1, bits=16)
print(f"as claimed {claimed / 2**20:.0f} MiB, original {original / 2**20:,.0f} MiB,"
      f" with 8 of 32 key heads {true / 2**20:,.0f} MiB")
assert true == original * c.n_kv_heads // c.n_heads == 1024 * claimed

# %% [markdown]
# **Wrong**, by a factor of a thousand. The original is right for MHA; GQA multiplies it by
# $n_\text{kv heads} / n_\text{heads}$.
#
# And what does GQA compute less of? We count the multiplications and additions in the matrix products of one layer, on the *meta*
# device, which knows shapes and has no data.

# %%
def flops(function, *args) -> int:
    with FlopCounterMode(display=False) as count:
        function(*args)
    return count.get_total_flops()


mixing = []
for n_kv_heads in (32, 8):
    layer = Attention(replace(c, n_kv_heads=n_kv_heads)).to("meta")
    x = torch.empty(1, 1024, c.dim, device="meta")
    q, k = (torch.empty(1, n, 1024, 128, device="meta") for n in (32, n_kv_heads))
    projected = flops(lambda x, a: [f(x) for f in (a.wq, a.wk, a.wv, a.wo)], x, layer)
    mixing.append(flops(attend, q, k, k, causal_mask(1024, 1024, device="meta")))
    print(f"{n_kv_heads:2} key heads: projections {projected / 1e9:5.1f} GFLOP,"
          f" scores and mixing {mixing[-1] / 1e9:.1f} GFLOP")
assert mixing[0] == mixing[1]

# %% [markdown]
# **Imprecise.** Scores and mixing cost the same to the last operation: every query head
# still meets every token. Two projections shrink. Nothing was *repeated* in MHA either, where all
# heads have different keys. What GQA saves is memory, and the traffic of reading it for every new
# token.
#
# Two sentences are left, on attention that saves memory.

# %%
claims.show("E23", "E20")

# %% [markdown]
# If two kernels compute the same function, training cannot tell them apart. We fit a query to a
# target with both.

# %%
def losses(kernel) -> Tensor:
    torch.manual_seed(0)
    q, k, v, target = torch.randn(4, 1, 4, 8, 16)
    q.requires_grad_()
    found = []
    for _ in range(100):
        loss = (kernel(q, k, v, causal_mask(8, 8)) - target).square().mean()
        (slope,) = torch.autograd.grad(loss, q)
        q.data -= 10 * slope
        found.append(loss.detach())
    return torch.stack(found)


plain, fused = losses(attend), losses(attend_fused)
print(f"plain: {plain[0]:.3f} to {plain[-1]:.3f}   fused: {fused[0]:.3f} to {fused[-1]:.3f}")
torch.testing.assert_close(plain, fused, rtol=1e-4, atol=1e-5)

# %% [markdown]
# **Wrong.** Each of the hundred losses is the same, up to rounding. A faster kernel gives more
# steps an hour, not better steps.
#
# The title of Rabe & Staats (2021) says only that $O(n^2)$ is not needed. Their $O(1)$ is for
# *one* query, and self-attention takes $O(\log n)$, not counting what goes in and comes out. Our
# measurement agrees with the first half: the line of one query is flat. For all queries at once
# our loop is linear, as the result itself is. **Right with its conditions**,
# which are often left out. The *cache* never becomes $O(1)$: it grows with every token.
#
# ## Exercises: now you
#
# Replace each `raise NotImplementedError`, run the cell, and read what the check says.
# `hint("3.1")` gives one hint more at each call. The solutions are in [their own
# notebook](../solutions/03_attention.ipynb).

# %%
def my_mask(t: int, s: int) -> Tensor:
    """Exercise 3.1 ●○○ 5 min. `t s`, True where a token may look; the t new ones come last."""
    ### BEGIN SOLUTION
    row = torch.arange(s - t, s)[:, None]
    return torch.arange(s) <= row
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
# Now attention itself, without `attend`, for as many key heads as query heads.

# %%
def my_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Exercise 3.2 ●●○ 10 min. q: `b h t d`; k, v: `b h s d`; mask: `t s`. Returns `b h t d`."""
    ### BEGIN SOLUTION
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v
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
# head too flat or too sharp.
# ### END SOLUTION
#
# Meta's code copies key heads. Write that step. (`attend` needs no copies, but other code that you
# will read does.)

# %%
def spread(x: Tensor, n_heads: int) -> Tensor:
    """Exercise 3.3 ●○○ 5 min. x: `b k s d`, keys or values. Give each query head its own copy:

    `b h s d` with h = n_heads. Neighbouring query heads share a key head.
    """
    ### BEGIN SOLUTION
    return x.repeat_interleave(n_heads // x.shape[1], dim=1)
    ### END SOLUTION


check("3.3", spread)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 3.3.** `repeat` gives `0 1 0 1`, `repeat_interleave` gives `0 0 1 1`. The shapes
# agree, and for MHA and MQA so do the values, so a test on Llama 2 7B passes and Llama 2 70B
# writes nonsense. *The mean of the heads* is a memory of the conversion above, where weights are
# averaged once, before training goes on; it has no place in the forward pass.
# ### END SOLUTION
#
# Next, the bytes. `release("llama-3.1-8b").config` is a `config` to try it on.

# %%
def cache_bytes(config: ModelConfig, tokens: int, batch: int, bits: int) -> int:
    """Exercise 3.4 ●●○ 8 min. Bytes of a full KV cache whose numbers take `bits` bits each."""
    ### BEGIN SOLUTION
    numbers = 2 * config.n_layers * config.n_kv_heads * config.head_dim
    return numbers * tokens * batch * bits // 8
    ### END SOLUTION


check("3.4", cache_bytes)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 3.4.** *Query heads* is the mistake that costs most: it plans four times the
# memory for an 8B, sixteen times for a 405B. *Heads for layers* hides on Llama 2 7B, which has 32
# of each. *Keys only* is off by two, just enough to plan
# a server that runs out of memory under load.
# ### END SOLUTION
#
# Last, online softmax for one query. See each block once, and do not compute a softmax of the
# whole row. (The check cannot see how you did it. Scores near 200 show whether you kept a
# maximum.)

# %%
def mix_online(scores: Tensor, values: Tensor, block: int) -> Tensor:
    """Exercise 3.5 ●●● 20 min. scores: `s`, values: `s d`; returns the softmax mix, `d`."""
    ### BEGIN SOLUTION
    largest = torch.tensor(-torch.inf)
    total, mixed = torch.zeros(()), torch.zeros(values.shape[1])
    for part, rows in zip(scores.split(block), values.split(block), strict=True):
        new = torch.maximum(largest, part.max())
        shrink, weights = (largest - new).exp(), (part - new).exp()
        total = total * shrink + weights.sum()
        mixed = mixed * shrink + weights @ rows
        largest = new
    return mixed / total
    ### END SOLUTION


check("3.5", mix_online)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 3.5.** Without rescaling, everything works as long as the largest score comes
# first, and in a causal model it often does, since the start token is an attention sink. So the
# bug waits for the one row where it does not. *The total not rescaled* gives a mix that is too
# small, *the mix not rescaled* one that is too large; both look like a wrong scale somewhere else.
# *The maximum of the block* compares numbers that count from different zeros. *The newest block's
# maximum, with rescaling*, is right on paper; it only overflows when scores fall by about 88,
# because $e^{88}$ is close to the largest float32.
# ### END SOLUTION
#
# ## Summary: one question to many keys, and few of them kept
#
# - Attention is a soft lookup: scores, divided by $\sqrt d$, masked, softmax, mix. One-hot values
#   make it show its shares.
# - With a cache the new tokens are the *last* rows of the mask.
# - MHA, GQA and MQA are one function. The queries get one more axis, and no key is copied.
# - Two layers are enough to copy a phrase: one head looks back a step, the next one uses it.
#   Training finds both.
# - GQA saves memory and traffic, not score arithmetic. Pooling broke our finished model until it
#   was trained on.
# - Online softmax gives the same result in linear memory, for one query in constant memory.
#
# **Read in the package:** `llama_edu.layers.attend` and `llama_edu.layers.Attention`,
# `llama_edu.family.accounting.kv_bytes`. **Read elsewhere:** Vaswani et al. 2017, *Attention Is All You
# Need*; Shazeer 2019, *Fast Transformer Decoding*; Ainslie et al. 2023, *GQA*; Olsson et al. 2022,
# *In-context Learning and Induction Heads*; Rabe & Staats 2021, *Self-attention Does Not Need
# O(n²) Memory*; Dao et al. 2022, *FlashAttention*.
