# %% [markdown]
# # 07 · Generation: one token at a time, and which one?
#
# **The question.** A Llama answers one question only: what comes next? To tell a tale of 150 tokens
# it must be asked 150 times. Does it have to read the whole tale again each time? When it answers
# with hundreds of probabilities, which token do we take? And must it really be asked for every
# single one?
#
# | you will build | you need | minutes |
# |---|---|---|
# | `KVCache`, sampling rules, `stream`, speculative decoding | chapters 03 and 06 | 160 |

# %%
import math
import statistics
import textwrap
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from importlib.resources import files

import torch
from torch import Tensor

from llama_edu import checkpoint, claims, explorers, load, plots
from llama_edu.config import ModelConfig
from llama_edu.data import tales
from llama_edu.exercises import check, hint, reveal, suspects
from llama_edu.family.accounting import GIB, kv_bytes, parameters, weight_bytes
from llama_edu.family.releases import release
from llama_edu.generation import begun, count_pads
from llama_edu.layers import attend, causal_mask, rope_table, rotate
from llama_edu.model import Llama
from llama_edu.sampling import (
    COLDEST,
    NO_TOKEN,
    Rule,
    probabilities,
    repetition,
)
from llama_edu.tokenizer import installed

plots.use_style()
torch.set_num_threads(1)
_ = torch.set_grad_enabled(False)       # nothing is trained here

# %% [markdown]
# > **Predict.** A prompt of 100 tokens, an answer of 100 tokens. One program reads the whole text
# > again for every new token. Another reads every token once. How many times more tokens does the
# > first one read?
#
# ## By hand: a tale, token by token
#
# A small Llama comes with the course. It has read tales from a grammar of our own and nothing else;
# chapter 08 trains one like it before your eyes. We call it *the teller*. Here is how it writes,
# with nothing but the model of chapter 06: read all, look at the last row of logits, append a
# token, read all again.

# %%
guess = None    # how many times more tokens? Your number, before you run on

model, tokenizer = checkpoint.load(files("llama_edu") / "assets" / "tales")


def tell_slowly(prompt: list[int], max_new: int) -> tuple[list[int], int]:
    """The likeliest token, again and again; and how many tokens were read."""
    text, read = list(prompt), 0
    for _ in range(max_new):
        logits = model(torch.tensor([text]))[0, -1]
        read += len(text)
        text.append(int(logits.argmax()))
    return text, read


prompt = tokenizer.encode("Once upon a time", bos=True, eos=False)
told, read = tell_slowly(prompt, 40)
print(textwrap.fill(tokenizer.decode(told), 78))

# %% [markdown]
# What did it choose from? We look over its shoulder: each row is one question to the model, with
# the two likeliest answers. A piece is often less than a word; the space before a word belongs to
# it.

# %%
logits = model(torch.tensor([told]))[0]
print("text so far, its end      likeliest piece      second")
for end in range(len(prompt), len(prompt) + 12):
    best = logits[end - 1].softmax(-1).topk(2)
    first, second = (f"{tokenizer.decode([int(i)])!r:>10} {p:4.0%}"
                     for i, p in zip(best.indices, best.values, strict=True))
    print(f"...{tokenizer.decode(told[1:end])[-18:]!r:22} {first}    {second}")

# %% [markdown]
# Where the grammar leaves no choice the model is sure; where it has one, such as the hero's name,
# it spreads its bets. One pass gave us *all* these rows, and each saw only what was before it. That
# is the key to what follows.
#
# And the price: for 40 tokens the loop read many more than the text has.

# %%
n = len(prompt)
print(f"text: {len(told)} tokens    read: {read} tokens")
assert read == sum(range(n, n + 40))

whole, once = sum(range(100, 200)), 100 + 99
reveal("times as many tokens, for 100 + 100", guess, round(whole / once))

# %% [markdown]
# (The last token of an answer is never read: nobody asks what follows it.)
#
# ## The idea: the past does not change, so keep it
#
# What does the model compute for an old token that it has not computed before? Attention in one
# layer is, for the newest token at position $t$ (Vaswani et al. 2017, eq. 1),
#
# $$ o_t = \sum_{j \le t} \mathrm{softmax}_j\!\left(\frac{q_t \cdot k_j}{\sqrt d}\right) v_j $$
#
# with query $q$, key $k$ and value $v$ as in chapter 03. Of the older tokens $j < t$ it needs $k_j$
# and $v_j$ only, in every layer. Those depend on tokens up to $j$, because the mask hides the rest.
# So a longer text cannot change them:

# %%
caught = {}
handle = model.layers[-1].attention.wk.register_forward_hook(
    lambda module, given, made: caught.update({made.shape[1]: made[0]}))
for length in (10, 30):
    model(torch.tensor([told[:length]]))
handle.remove()

torch.testing.assert_close(caught[10], caught[30][:10])
print("the last layer's first 10 keys: the same in texts of 10 and 30 tokens")

# %% [markdown]
# Old queries are never needed again. Old keys and values are, so we keep them: that is the *KV
# cache*. The first pass reads the prompt, all its tokens at once: *prefill*. Each later pass reads
# one token and looks back at the kept ones: *decode*.
#
# Two real runs of the teller: the same hook counts, pass by pass, for how many tokens the last
# layer made keys.

# %%
def watch(prompt_length: int, n_new: int, cached: bool) -> list[list[float]]:
    """A row for each pass: 2 where keys are computed, 1 where looked up."""
    cache, rows, counts = model.new_cache(1, 20), [], []
    handle = model.layers[-1].attention.wk.register_forward_hook(
        lambda module, given, made: counts.append(made.shape[1]))
    for end in range(prompt_length, prompt_length + n_new):
        start = cache.length if cached else 0
        model(torch.tensor([told[start:end]]), cache if cached else None)
        first = end - counts[-1]
        rows.append([2.0 if first <= i < end else 1.0 if i < end else 0.0
                     for i in range(14)])
    handle.remove()
    return rows


runs = {"without a cache": watch(6, 9, False),
        "with a cache": watch(6, 9, True)}
for name, rows in runs.items():
    n_computed = sum(row.count(2.0) for row in rows)
    print(f"{name}: {n_computed} keys computed in each layer")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two grids of nine passes by 14 positions. Without a cache each pass computes a full row, 90 cells in all. With a cache the first pass computes six cells and each later one only the newest: 14 cells, the rest is looked up."}}
fig, panels = plots.figure(
    "With a cache each position is computed once, then only looked up",
    x="position in the text (tokens)", y="pass", columns=2)
paint = {0.0: "#f4f4f4", 1.0: "#bfe0f5", 2.0: plots.VERMILION}
for ax, (name, rows) in zip(panels, runs.items(), strict=True):
    for y, row in enumerate(rows, start=1):
        for position, kind in enumerate(row):
            ax.barh(y, 0.9, left=position - 0.45, height=0.85,
                    color=paint[kind])
    ax.set(title=name, xticks=(0, 5, 10, 13), yticks=range(1, 10))
    ax.grid(visible=False)
    ax.invert_yaxis()
panels[0].set_xlabel("red: computed now")
panels[1].set_xlabel("red: computed, blue: looked up")
_ = panels[1].set_ylabel("")

# %% [markdown]
# On the right the first row is the prefill, and below it runs a diagonal: one new token a pass.
#
# ## Your turn: one layer with a cache
#
# Now build it, before we do. Fill in the function and run the cell: the check says what is right,
# or which mistake it is. `hint("7.1")` gives one hint more at each call; the solutions are in
# [their own notebook](../solutions/07_generation.ipynb).
#
# The layer gets $t$ new tokens. Of the $p$ tokens before them it has keys and values, as a cache
# holds them. Two things decide everything: *where* do the new tokens stand, and *whom* may each of
# them see? You may use `rope_table(freqs, positions)`, which gives cosines and sines, and
# `rotate(x, cos, sin)` (chapter 02); and `attend(q, k, v, mask)` (chapter 03). The mask is yours to
# make: a row for each new token, a column for each token there is, True where it may be looked at.
# Axes: `b` texts, `h` query heads, `k` key/value heads, `d` features of a head.

# %%
def cached_attention(q: Tensor, k: Tensor, v: Tensor, past_k: Tensor,
                     past_v: Tensor, freqs: Tensor) -> Tensor:
    """Exercise 7.1 ●●○ 12 min. Attention of `t` new tokens, with a cache of `p` older ones.

    Of the new tokens: `q`, `b h t d`, and `k` and `v`, `b k t d`, not rotated. Of the older ones,
    at positions 0 to p - 1: `past_k`, rotated already, and `past_v`, both `b k p d`. `freqs`: the
    `d/2` frequencies of the rotation. Return `b h t d`.
    """
    ### BEGIN SOLUTION
    p, t = past_k.shape[2], k.shape[2]
    where = torch.arange(p + t)                 # the new ones stand at p and on
    turn = rope_table(freqs, where[p:])
    keys = torch.cat((past_k, rotate(k, *turn)), 2)
    values = torch.cat((past_v, v), 2)
    seen = where[p:, None] >= where
    return attend(rotate(q, *turn), keys, values, seen)
    ### END SOLUTION


check("7.1", cached_attention)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 7.1.** *Positions restarted at 0* give a first token that is right and an answer
# that dissolves, because every new token believes that it stands at the beginning. *The cache
# rotated again* comes from appending before rotation: each pass turns the past a little further.
# *The mask aligned at the start* is what `is_causal=True` does in PyTorch: a single new token then
# sees only the first token of the text. All three run without an error, on any model.
# ### END SOLUTION
#
# ## Build it: a cache that the caller owns
#
# `torch.cat` is right, and it copies the whole past for every token. So the package makes the cache
# once, at full length, and fills it from the left. The caller asks for one
# (`model.new_cache(batch, max_len)`) and hands it in; the model keeps nothing between passes.
# `rewind` forgets the newest tokens by moving one number, and we shall need it. `take` copies what
# another cache holds.

# %% twin="llama_edu.cache.KVCache"
class KVCache:
    def __init__(self, n_layers: int, batch: int, max_len: int):
        if min(batch, max_len) < 1:
            raise ValueError(
                f"a cache for {batch} texts of {max_len} tokens was asked for; "
                "1 or more of both is needed.")
        self.batch, self.max_len, self.length = batch, max_len, 0
        self.slots = [Slot(self) for _ in range(n_layers)]

    def slot(self, layer_id: int) -> "Slot":
        if not 0 <= layer_id < len(self.slots):
            raise IndexError(
                f"layer {layer_id} was asked for; this cache has layers 0 to "
                f"{len(self.slots) - 1}. Let the model make its own: "
                "new_cache.")
        return self.slots[layer_id]

    def rewind(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(
                f"cannot rewind a cache of {self.length} tokens to {length}; "
                f"a length from 0 to {self.length} is needed.")
        self.length = length

    def take(self, other: "KVCache") -> None:
        self.length = 0
        for mine, theirs in zip(self.slots, other.slots, strict=True):
            if theirs.keys is not None:
                mine.append(theirs.keys[:, :, :other.length],
                            theirs.values[:, :, :other.length])
        self.length = other.length

# %% [markdown]
# A layer gets its own `Slot`, which writes the new rows behind the old ones and returns all of
# them. Its two tensors, keys and values, are made when the first arrive: texts, key/value heads,
# tokens, features.

# %% twin="llama_edu.cache.Slot"
class Slot:
    def __init__(self, cache: KVCache):
        self.cache = cache
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        start, end = self.cache.length, self.cache.length + k.shape[2]
        if end > self.cache.max_len:
            raise ValueError(
                f"the cache holds {self.cache.max_len} tokens; {end} were "
                "asked for. Make a longer one with new_cache, or rewind this "
                "one.")
        if len(k) != self.cache.batch:
            raise ValueError(
                f"the cache was made for {self.cache.batch} texts; {len(k)} "
                "were given. Make a new one for this batch.")
        if self.keys is None:
            self.keys, self.values = self._room(k), self._room(v)
        self.keys[:, :, start:end] = k
        self.values[:, :, start:end] = v
        keys, values = self.keys[:, :, :end], self.values[:, :, :end]
        if keys.requires_grad:  # what a backward pass reads is not written over
            return keys.clone(), values.clone()
        return keys, values

    def _room(self, like: Tensor) -> Tensor:
        b, k, _, d = like.shape
        # room made in inference mode could not be written outside of it
        with torch.inference_mode(False):
            return torch.zeros(b, k, self.cache.max_len, d, dtype=like.dtype,
                               device=like.device)


# %% [markdown]
# One `length` serves all layers, and the model moves it once, at the end of a pass: each layer must
# write to the same places. The keys go in *after* rotation. A position never changes, so a key need
# be turned only once.
#
# ## Prove it: cached equals uncached
#
# However the text is cut into passes, the logits must be those of one pass over all of it. To 1e-4,
# because a product over one row may add in another order than a product over forty.

# %%
text = torch.tensor([told])
expected = model(text)

for cuts in ([1] * len(told), [len(told)], [10, 1, 1, 5, 2, len(told) - 19]):
    cache = KVCache(model.config.n_layers, 1, len(told))
    parts = [model(part, cache) for part in text.split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=1e-4,
                               rtol=1e-4)
assert not any("cache" in name for name in model.state_dict())
print("one by one, all at once, in uneven parts: the same logits;")
print("and no weight in the cache")

# %% [markdown]
# ## What does a token cost? Count first, then measure
#
# A matrix of $m \times n$ numbers costs $mn$ *multiply-adds* for each token. Attention adds, for
# every query head and every token looked at, $d$ for the score and $d$ for the mix. Only the last
# token needs logits. So a pass over `new` tokens that look at `total` costs:

# %%
def multiply_adds(config: ModelConfig, new: int, total: int) -> int:
    """Of one pass; norms, rotations and softmax are left out as small."""
    p = parameters(config)
    looking = 2 * config.n_layers * config.n_heads * config.head_dim * total
    logits = config.vocab_size * config.dim
    return new * (p.attention + p.feed_forward + looking) + logits


c = model.config
for name, new in (("without a cache", 200), ("with a cache", 1)):
    millions = multiply_adds(c, new, 200) / 1e6
    print(f"token 201 {name:16} {millions:8.1f} million multiply-adds")

# %% [markdown]
# Now the clock. The teller is so small that Python's own time would hide the rest, so we time a
# larger model with random weights. For each length of text we time the next token, both ways. Of
# several rounds the fastest counts: a busy machine can only make a pass slower.

# %%
torch.manual_seed(0)
bench = ModelConfig(
    dim=512, n_layers=4, n_heads=8, n_kv_heads=4, hidden_dim=1408,
    vocab_size=512, norm_eps=1e-5, rope_theta=1e4, max_seq_len=512)
large, tokens = Llama(bench).eval(), torch.randint(0, 512, (1, 512))


def clock(run: Callable[[], object], rounds: int) -> float:
    """Milliseconds of the fastest round, after one to warm up."""
    run()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        taken.append(1e3 * (time.perf_counter() - start))
    return min(taken)


def next_token(cache: KVCache | None, length: int) -> Tensor:
    """Logits after `length` tokens; a cache holds all of them but the last."""
    if cache is not None:
        cache.rewind(length - 1)
    given = tokens[:, 0 if cache is None else length - 1:length]
    return large.logits(large.hidden(given, cache)[:, -1])

# %% [markdown]
# To predict times we need two speeds of this machine. How many multiply-adds it does in a second,
# we take from the longest uncached pass; how fast it reads memory, from the product of a large
# matrix and one vector. (About ten seconds.)

# %%
lengths = (32, 64, 128, 256, 512)
full = large.new_cache(1, 512)
large.hidden(tokens, full)
uncached = [clock(lambda t=t: next_token(None, t), 5) for t in lengths]
cached = [clock(lambda t=t: next_token(full, t), 9)
          for t in reversed(lengths)][::-1]

speed = multiply_adds(bench, 512, 512) / uncached[-1]   # multiply-adds in a ms
matrix, vector = torch.ones(4096, 4096), torch.ones(4096)
taken = clock(lambda: matrix @ vector, 9)
bandwidth = matrix.numel() * 4 / taken                  # bytes in a ms
print(f"{speed / 1e6:.0f} billion multiply-adds a second, "
      f"{bandwidth / 1e6:.1f} GB/s read")

# %% tags=["hide-input"] mystnb={"image": {"alt": "On logarithmic axes, milliseconds for the next token against text length from 32 to 512. Without a cache the time rises in step with the length, about as counted. With a cache it stays nearly flat, far above what counting predicts and nearer to what reading the weights takes."}}
fig, ax = plots.figure(
    "With a cache the next token's time stays nearly flat, but above the count",
    x="tokens in the text", y="time for the next token (ms)")
weights = weight_bytes(bench, bits=32)
reading = [(weights + kv_bytes(bench, tokens=t, batch=1, bits=32)) / bandwidth
           for t in lengths]
ax.loglog(lengths, uncached, "o", color=plots.VERMILION,
          label="no cache (line: counted)")
ax.loglog(lengths, [multiply_adds(bench, t, t) / speed for t in lengths],
          color=plots.VERMILION, linewidth=1)
ax.loglog(lengths, cached, "s", color=plots.BLUE, label="cache, measured")
ax.loglog(lengths, [multiply_adds(bench, 1, t) / speed for t in lengths],
          color=plots.BLUE, linewidth=1, label="cache, counted")
ax.loglog(lengths, reading, "--", color=plots.GREEN,
          label="cache, bytes to read")
ax.set_xticks(lengths, [str(t) for t in lengths])
ax.minorticks_off()
ax.set_xlim(28, 3000)
ax.margins(y=0.12)
plots.label_lines(ax)
print(f"at 512 tokens: {uncached[-1]:.0f} ms without, "
      f"{cached[-1]:.1f} ms with; "
      f"counted {multiply_adds(bench, 1, 512) / speed:.2f} ms, "
      f"reading {reading[-1]:.1f} ms")

# %% [markdown]
# Red: without a cache the times rise about as counted. (The last point fits by definition: it gave
# the speed.) Blue: with a cache the count is far too hopeful. One token does little arithmetic, but
# it still meets *every weight*, and each must come from memory. Bytes, the dashed line, come
# nearer, but they are a floor: on top of it every pass starts some hundreds of small operations,
# and each start takes its time.
#
# ## Prefill against decode: reading is cheaper by the dozen
#
# If a pass over one token is mostly fetching weights, what does a pass over eight cost? We time
# passes over 1 to 256 tokens, with no cache.

# %%
guess = None    # 8 tokens in one pass: how many times the time of one?

widths = (1, 2, 5, 8, 16, 32, 64, 128, 256)
per_pass = [clock(lambda t=t: large.hidden(tokens[:, :t]), 5) for t in widths]
per_token = [taken / t for taken, t in zip(per_pass, widths, strict=True)]
print(f"1 token: {per_pass[0]:.1f} ms; 8 tokens: {per_pass[3]:.1f} ms; "
      f"256 tokens: {per_pass[-1]:.1f} ms, {per_token[-1]:.2f} ms each")
assert per_token[-1] < per_token[3] < per_token[0]
reveal("8 tokens, times the time of one", guess,
       round(per_pass[3] / per_pass[0], 1))

# %% tags=["hide-input"] mystnb={"image": {"alt": "Milliseconds per token against tokens read in one pass, both logarithmic. A token that is alone in its pass takes many times as long as one of 256."}}
fig, ax = plots.figure("Tokens that share a pass are cheaper",
                       x="tokens in one pass", y="time per token (ms)")
ax.loglog(widths, per_token, "o-")
ax.set_xticks(widths, [str(t) for t in widths])
ax.set_yticks((0.5, 1, 2, 5, 10, 20), ("0.5", "1", "2", "5", "10", "20"))
ax.minorticks_off()

# %% [markdown]
# This is why a prompt is read quickly and an answer is written slowly: decoding gives the processor
# one row at a time. The remedy is to find more rows. Other people's texts are some (a batch), and
# so are guesses about one's own future. Both come after the rest.
#
# ## Which token? Rules that reshape one distribution
#
# So far we took the likeliest token: *greedy* decoding. To *sample* is to draw at random, each
# token with its probability. Between the two stand *rules*, which change the logits before the
# draw. A rule is a function from logits `b v` to logits `b v` (`v` the vocabulary), so rules
# compose. A logit of $-\infty$ means probability 0.
#
# - *Temperature* $T$ divides the logits: below 1 the gaps grow and the likeliest gets more, above 1
#   they shrink.
# - *Top-k* keeps the $k$ likeliest tokens, exactly $k$ of them.
# - *Top-p* (Holtzman et al. 2020, eq. 2) keeps the smallest set of tokens whose probabilities reach
#   $p$ together. So the number kept depends on how sure the model is.
# - *Min-p* (Nguyen et al. 2024) keeps the tokens that are at least $p$ times as likely as the
#   likeliest.
# - A *repetition penalty* (Keskar et al. 2019, 4.1) makes each token that occurs in the text so far
#   less likely, once: a logit above 0 is divided by the penalty, one below 0 multiplied.
#
# Each of the package's rules is made once, with its number, and then called with logits. (`tokens`
# is the text so far; only the penalty reads it.) Here are the first two, and the draw. Mind two
# traps. Probabilities divided by $T$ and scaled back to 1 are what they were. And `logits >= kth`
# keeps more than $k$ where several are tied, which in bfloat16 is common; `topk` gives indices,
# exactly $k$ of them.

# %% twin="llama_edu.sampling.temperature, llama_edu.sampling.top_k, llama_edu.sampling.pick"
def temperature(value: float) -> Rule:
    if not COLDEST <= value < math.inf:
        raise ValueError(
            f"temperature {value} was given; a number from {COLDEST} on is "
            "needed. For the likeliest token always, use top_k(1).")
    return lambda logits, tokens=None: logits / value


def top_k(k: int) -> Rule:
    if k < 1:
        raise ValueError(f"top_k({k}) would keep no token; 1 or more is "
                         "needed.")

    def rule(logits: Tensor, tokens: Tensor | None = None) -> Tensor:
        best = logits.topk(min(k, logits.shape[-1]), -1)
        return torch.full_like(logits, -torch.inf).scatter(
            -1, best.indices, best.values)

    return rule


def pick(logits: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    return torch.multinomial(probabilities(logits), 1, generator=generator)

# %% [markdown]
# `COLDEST` is 1e-6: colder than that, only the likeliest is ever drawn. `probabilities` is a
# softmax that refuses NaN. The *generator* holds the state of the dice: who hands in the same seed
# gets the same tale.
#
# Now top-p. By hand, for one row, it is a loop:

# %%
def top_p_loop(probs: list[float], p: float) -> list[int]:
    """The tokens kept, likeliest first."""
    kept, total = [], 0.0
    for token in sorted(range(len(probs)), key=lambda token: -probs[token]):
        kept.append(token)
        total += probs[token]
        if total >= p:
            break
    return kept


top_p_loop([0.1, 0.45, 0.05, 0.3, 0.1], p=0.7)

# %% [markdown]
# 0.45 does not reach 0.7, so the next one comes in as well: the one that *crosses* $p$.
#
# ## Your turn: cut the tail
#
# Now for all rows at once. Mind the token at the boundary.

# %%
def top_p_logits(logits: Tensor, p: float) -> Tensor:
    """Exercise 7.2 ●●○ 8 min. Cut the tail of each row of `logits`, `b v`, by top-p.

    In each row, the smallest set of tokens whose probabilities together reach `p` keeps its
    logits; all others become `-torch.inf`. Of tied tokens keep any, as many as needed. Return
    `b v`.
    """
    ### BEGIN SOLUTION
    probs, order = logits.softmax(-1).sort(descending=True)
    n_kept = (probs.cumsum(-1) < p).sum(-1, keepdim=True) + 1   # in each row
    rank = order.argsort(-1)                    # 0 is a row's likeliest token
    return logits.where(rank < n_kept, -torch.inf)
    ### END SOLUTION


check("7.2", top_p_logits)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 7.2.** `cumsum > p` *drops the token that crosses*. Where the model is sure, with
# 95 % on one token, top-p 0.9 then keeps nothing, and code that guards against this by keeping the
# first hides the mistake everywhere else. *Not scattered back* is the worst: the cut is right for
# the sorted order and applied to the unsorted one, so random tokens survive.
# ### END SOLUTION
#
# ## Build it: top-p and min-p
#
# Top-p sorts, and cuts a token if those *before* it reach $p$ already; `scatter` brings the cut
# back to the vocabulary's order. Min-p needs no softmax: a ratio of probabilities is a difference
# of logits.

# %% twin="llama_edu.sampling.top_p, llama_edu.sampling.min_p"
def top_p(p: float) -> Rule:
    if not 0 < p <= 1:
        raise ValueError(f"top_p({p}) was given; a probability above 0 and up "
                         "to 1 is needed.")

    def rule(logits: Tensor, tokens: Tensor | None = None) -> Tensor:
        if p == 1:  # a sum of rounded probabilities may reach 1 before the last
            return logits
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        probs = ordered.softmax(-1)
        cut = probs.cumsum(-1) - probs >= p   # those before it reach p already
        return logits.masked_fill(cut.scatter(-1, order, cut), -torch.inf)

    return rule


def min_p(p: float) -> Rule:
    if not 0 < p <= 1:
        raise ValueError(f"min_p({p}) was given; a share above 0 and up to 1 "
                         "is needed.")

    def rule(logits: Tensor, tokens: Tensor | None = None) -> Tensor:
        edge = logits.amax(-1, keepdim=True) + math.log(p)
        return logits.masked_fill(logits < edge, -torch.inf)

    return rule

# %% [markdown]
# Now one real distribution. Leo has taken his hat to the park, and something is about to happen to
# it. The grammar knows a few ways to go on. Everything else is the model's noise, other people's
# names first of all.
#
# Of the model's 760 pieces, top-p 0.9 keeps five here. How many does it keep if temperature 2 comes
# *before* it?

# %%
guess = None    # how many of 760? The answer comes further down


def last_logits(story: str) -> Tensor:
    ids = tokenizer.encode(story, bos=True, eos=False)
    return model(torch.tensor([ids]))[:, -1]


tale = ("Once upon a time there was a shy boy named Leo. "
        "Leo had a big red hat. He loved to wear it in the rain.\n"
        "One warm morning, Leo took it to the park.")
given = last_logits(tale)
before, order = given.softmax(-1)[0].sort(descending=True)
names = [tokenizer.decode([int(i)]).replace(" ", "_") for i in order[:10]]

# %% tags=["hide-input"] mystnb={"image": {"alt": "Four panels over the ten likeliest pieces on a logarithmic axis. Temperature 0.5 steepens the fall from the real choices to the noise and temperature 2 flattens it; top-k 3 keeps three pieces, top-p 0.9 several, min-p 0.05 those above a twentieth of the likeliest; what is kept grows."}}
fig, panels = plots.figure(
    "Temperature bends the whole curve; the others cut its tail", x="",
    y="probability", rows=2, columns=2, size=(6.4, 5.2))
shown = {"temperature 0.5 and 2": (temperature(0.5), temperature(2.0)),
         "top-k 3": (top_k(3),), "top-p 0.9": (top_p(0.9),),
         "min-p 0.05": (min_p(0.05),)}
for ax, (title, rules) in zip(panels.flat, shown.items(), strict=True):
    ax.bar(range(10), before[:10], color="#d0d0d0")
    for rule, mark, colour in zip(rules, "ov", (plots.BLUE, plots.VERMILION),
                                  strict=False):
        after = rule(given).softmax(-1)[0, order[:10]]
        ax.plot(range(10), after.where(after > 0, torch.nan), mark,
                color=colour, markersize=5)
    ax.set(title=title, yscale="log", ylim=(1e-6, 1.5))
    ax.set_xticks(range(10), names, rotation=60, fontsize=8)
    ax.grid(visible=False, axis="x")

# %% [markdown]
# Grey is the model's own distribution; `_` stands for a space. Circles are what a rule makes of it
# (and triangles, temperature 2); a missing mark is probability 0. Look at the cliff: a handful of
# real choices, then noise; min-p 0.05 lets one wrong name through. The other three rules cut: what
# they keep is scaled up, with its proportions as they were.
#
# How many tokens are *kept* tells the rules apart. We ask where ten toys could come, at the park,
# and where one answer is right:

# %%
moments = {
    "many choices":
        "Once upon a time there was a shy boy named Ben. Ben had a big red",
    "a few choices": tale, "one choice": "Once upon a time there was a shy boy"}
cuts = {"top-k 5": top_k(5), "top-p 0.9": top_p(0.9), "min-p 0.1": min_p(0.1)}


def n_kept(logits: Tensor) -> int:
    return int(logits.isfinite().sum())


for name, story in moments.items():
    here = last_logits(story)
    kept = {title: n_kept(rule(here)) for title, rule in cuts.items()}
    print(f"{name:13} best {here.softmax(-1).max():4.0%}, kept {kept}")
assert kept["top-p 0.9"] == kept["min-p 0.1"] == 1      # where one is right
assert names[5] == "_Max" and n_kept(min_p(0.05)(given)) == 6   # a wrong name

# %% [markdown]
# Then heat and a cut, in both orders:

# %%
heat, cut = temperature(2.0), top_p(0.9)
five = cut(given)[0].isfinite()
for name, bent in {"cut, then heat": heat(cut(given)),
                   "heat, then cut": cut(heat(given))}.items():
    print(f"{name}: {n_kept(bent):3} pieces kept, and "
          f"{bent.softmax(-1)[0, five].sum():.0%} of the draws go to the five")
assert (top_k(3)(heat(given)) == heat(top_k(3)(given))).all()
reveal("kept after heat", guess, n_kept(cut(heat(given))))

# %% [markdown]
# Top-k is blind: where one token is right it keeps four wrong ones. The other two close up.
#
# And the *order* of rules matters: heat (a temperature above 1) before a cut lets in what the cut
# would have kept out. (For top-k it does not matter: heat keeps the ranks.) Libraries differ:
# llama.cpp's default chain has its temperature last; `transformers` heats first (both as of 2025).
# Ours does what you write, in that order.
#
# ### And in a model of real text?
#
# The teller knows one small world. Beside it we put SmolLM2-135M-Instruct: the Llama architecture,
# with weights that have read real text. Write the beginning of a sentence of your own; `begun`
# encodes it as its model knows texts to begin. (Without the model's package the cell says how to
# get it. With it, about 10 seconds.)

# %%
yours = "My favourite food is"      # edit me

places_to_look = [("teller", model, tokenizer, moments[name]) for name in
                  ("one choice", "many choices")]
if installed.find("smollm2"):
    smol = load("smollm2")
    places_to_look += [("SmolLM2", *smol, start) for start in
                       ("The capital of France is the city of",
                        "Once upon a time there was a", yours)]
else:
    print(installed.how_to_get("smollm2"))

rules = {"top-k 5": (top_k(5),), "top-p 0.9": (top_p(0.9),),
         "min-p 0.1": (min_p(0.1),),
         "T 1.6, top-p 0.9": (temperature(1.6), top_p(0.9)),
         "T 1.6, min-p 0.1": (temperature(1.6), min_p(0.1))}
asked = defaultdict(dict)

# %% [markdown]
# First in numbers. Below them you can move each rule yourself, on the last model's distributions.

# %%
for who, m, its_tokenizer, start in places_to_look:
    ids = torch.tensor([begun(its_tokenizer, start)])
    logits = m(ids)[:, -1, :its_tokenizer.n_vocab]
    probs = logits.softmax(-1)[0].sort(descending=True).values
    asked[who][start] = logits[0]
    print(f"{who}, ...{start[-30:]!r}: likeliest {probs[0]:.0%}")
    for title, chain in rules.items():
        kept = logits
        for rule in chain:
            kept = rule(kept)
        print(f"    {title:17} keeps {n_kept(kept):6,} of {len(probs):,}")
explorers.sampling(asked[who], lambda token: its_tokenizer.decode([token]))

# %% [markdown]
# In the real model the tail is long. At the place where it is sure of one token, heat makes top-p's
# set grow from 1 token to 861; min-p's stays at 1, for it does not look at the sum of the tail. At
# the open place top-p keeps 546 and min-p 18; after heat, 6,097 and 64. These numbers do not
# settle which is better there.
#
# ## Bug hunt: six samplers, no error
#
# Six samplers, `suspect["a"]` to `suspect["f"]`. Each is called as
# `sampler(logits, tokens, penalty=, heat=, k=, p=, m=)` and gives probabilities `b v`; a setting
# that is left out does nothing. `tokens` is the text so far, `b s`, with -1 where a row has none. A
# healthy one works in this order: the repetition penalty, temperature (`heat`), top-k, top-p, min-p
# (`m`).
#
# Which verdict does each deserve? They may be: `healthy`, `top-p drops the token that crosses`,
# `temperature comes last`, `top-k keeps ties`, `min-p is a bare threshold`,
# `min-p looks at the whole batch`, `the penalty divides every logit`, `the penalty counts repeats`,
# `the penalty hits the vocabulary's last token`. The list will not tell you; experiments will. For
# each verdict, ask which input would show it.

# %%
suspect = suspects("7.3")
logits, tokens = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0, 2]])
for letter, sampler in suspect.items():
    print(letter,
          [round(p, 3) for p in sampler(logits, tokens, heat=2.0)[0].tolist()])

# %% [markdown]
# All alike, so far. Your experiments go here.

# %%
"""Exercise 7.3 ●●● 15 min. Give each sampler its verdict, one of the nine above."""
verdicts = {"a": "?", "b": "?", "c": "?", "d": "?", "e": "?", "f": "?"}
### BEGIN SOLUTION
verdicts = {"a": "temperature comes last",
            "b": "min-p looks at the whole batch", "c": "healthy",
            "d": "the penalty divides every logit",
            "e": "the penalty hits the vocabulary's last token",
            "f": "top-p drops the token that crosses"}
### END SOLUTION

check("7.3", verdicts)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 7.3.** One experiment a setting. Top-p 0.7 on shares 0.5, 0.3, 0.2 keeps one token
# in `f`. Heat 3 before top-p 0.6 keeps as many as heat 1 in `a`. A flat row beside a steep one
# loses tokens in `b`. A token with a logit below 0 gains by the penalty in `d`: dividing -2 by 1.5
# raises it; the formula as first published does so. And `e` takes -1, no token, for Python's last
# place: only rows that are padded show it, which is why it lives long.
# ### END SOLUTION
#
# *A good place to rest. What follows has exercises of its own.*
#
# ## Many prompts at once: padding on the left
#
# A batch shares each fetch of the weights, but prompts have different lengths. New tokens are
# appended on the right, so the empty places go on the left. Two things we tell the model: nobody
# may look at the empty places, and a row's positions count from its first real token. There is a
# catch: a softmax over nothing is NaN, and a NaN spreads. So an empty place must see something:
# itself.
#
# ## Your turn: where does each token stand, and whom does it see?

# %%
def positions_and_mask(pads: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """Exercise 7.4 ●●○ 8 min. Positions and mask for rows of `t` columns, padded on the left.

    `pads`, `b`, says how many columns of each row are empty; they come first. Return two tensors:
    the positions, `b t`, which count from a row's first token and are 0 for empty places; and the
    mask, `b t t` (who looks, at whom), True where one may look: nobody looks ahead, and nobody
    sees an empty place, except that each empty place sees itself.
    """
    ### BEGIN SOLUTION
    columns = torch.arange(t)
    rows, first = columns[:, None], pads[:, None, None]
    mask = (first <= columns) & (columns <= rows) | (columns == rows)
    return (columns - pads[:, None]).clamp(min=0), mask
    ### END SOLUTION


check("7.4", positions_and_mask)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 7.4.** *Padding left visible* is the common one: short prompts answer worse in a
# batch than alone, and nobody knows why. *Empty places that see nothing* give NaN, at once if you
# are lucky. The *positions by column* are harmless in a Llama, as we shall see, and fatal
# elsewhere.
# ### END SOLUTION
#
# ## Build it: the package's form
#
# `NO_TOKEN` is -1. `places` serves decoding too, so it asks for the columns from `start` to `end`:
# all columns can be looked at, and only those from `start` on look. In the last line every place
# sees itself.

# %% twin="llama_edu.generation.left_pad, llama_edu.generation.places"
def left_pad(prompts: Sequence[Tensor]) -> Tensor:
    if not prompts:
        raise ValueError("no prompts were given; one or more is needed. Give a "
                         "list of tensors.")
    longest = max(len(prompt) for prompt in prompts)
    padded = prompts[0].new_full((len(prompts), longest), NO_TOKEN)
    for row, prompt in zip(padded, prompts, strict=True):
        row[longest - len(prompt):] = prompt
    return padded


def places(pads: Tensor, start: int, end: int) -> tuple[Tensor, Tensor]:
    columns = torch.arange(end, device=pads.device)
    positions = (columns - pads[:, None]).clamp(min=0)
    mask = (causal_mask(end - start, end, device=pads.device)
            & (columns >= pads[:, None, None]))
    return positions[:, start:], mask | (columns[start:, None] == columns)

# %% [markdown]
# Two rows, one of six tokens and one of three. And a question for after the picture. Suppose we
# hide the empty places but number the *columns*, so that the short row starts at position 3. Is
# what the model answers still the same?

# %%
guess = "?"     # the logits move "not at all", "a little" or "a lot"?

ragged = left_pad([torch.tensor([7, 8, 9, 10, 11, 12]),
                   torch.tensor([20, 21, 22])])
positions, mask = places((ragged == NO_TOKEN).sum(1), 0, 6)
print(ragged)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two six by six masks. A full prompt has the usual triangle with positions 0 to 5. A prompt of three tokens behind three empty places has a small triangle in the lower right corner, positions 0, 0, 0, 0, 1, 2, and empty places that see only themselves."}}
fig, panels = plots.figure("Empty places are seen by nobody but themselves",
                           x="looked at (position in brackets)", y="who looks",
                           columns=2)
for ax, row, where, sees in zip(panels, ragged, positions, mask, strict=True):
    names = ["empty" if t == NO_TOKEN else str(int(t)) for t in row]
    plots.heatmap(ax, sees.float())
    labels = [f"{n}\n({p})" for n, p in zip(names, where.tolist(), strict=True)]
    ax.set_xticks(range(6), labels)
    ax.set_yticks(range(6), names)
panels[0].set_title("six tokens")
panels[1].set_ylabel("")
_ = panels[1].set_title("three tokens")

# %% [markdown]
# Yellow: may look. Nobody reads what an empty place computes. Now the test: columns numbered and
# the mask right, and then no mask at all.

# %%
short = ragged[1:].clamp(min=0)
alone = model(ragged[1:, 3:])[:, -1]
by_column = model(short, positions=torch.arange(6)[None], mask=mask[1:])[:, -1]
unmasked = model(short)[:, -1]
apart = [float((each - alone).abs().max()) for each in (by_column, unmasked)]

print("largest difference of a logit: "
      f"columns numbered {apart[0]:.3f}, no mask {apart[1]:.2f}")
assert apart[0] < 1e-3 < 0.1 < apart[1]
reveal("if the columns are numbered", guess, "not at all")

# %% [markdown]
# Rotary positions are relative (chapter 02), so shifting a whole row changes nothing but rounding.
# In older models, which add positions to the embedding, the same slip does harm. We number from the
# first token all the same: that leaves the row its full context.
#
# ## Stream: the loop that everything runs in
#
# All parts meet in one loop: prefill, rules, draw, append, decode, stop. How does it end? A *stop
# token* ends a row: it still comes out, and after it NO_TOKEN, until all rows have stopped. The loop
# is a generator: the caller sees each token as it comes and may stop listening. Greedy needs no code
# of its own. It is `top_k(1)`.

# %% twin="llama_edu.generation.stream, llama_edu.generation.next_logits"
@torch.inference_mode()
def stream(model: Llama, prompt: Tensor, *rules: Rule, max_new: int,
           stop_ids: Collection[int] = (),
           generator: torch.Generator | None = None,
           cache: KVCache | None = None) -> Iterator[Tensor]:
    pads = count_pads(model, prompt, max_new=max_new)
    if cache is None:
        cache = model.new_cache(len(prompt), prompt.shape[1] + max_new)
    elif cache.length >= prompt.shape[1]:
        raise ValueError(
            f"the cache holds {cache.length} tokens and the prompt has "
            f"{prompt.shape[1]}; one more at least is needed, for its logits. "
            "Rewind the cache.")
    text = torch.cat(
        [prompt, prompt.new_full((len(prompt), max_new), NO_TOKEN)], dim=1)
    stops = torch.tensor(list(stop_ids), dtype=torch.long, device=prompt.device)
    done = torch.zeros_like(prompt[:, :1], dtype=torch.bool)
    for end in range(prompt.shape[1], text.shape[1]):
        logits = next_logits(model, text[:, :end], cache, pads)
        for rule in rules:
            logits = rule(logits, text[:, :end])
        tokens = pick(logits, generator=generator).masked_fill(done, NO_TOKEN)
        text[:, end:end + 1] = tokens
        yield tokens
        done |= torch.isin(tokens, stops)
        if done.all():
            return


def next_logits(model: Llama, text: Tensor, cache: KVCache,
                pads: Tensor) -> Tensor:
    start, end = cache.length, text.shape[1]
    positions, mask = places(pads, start, end) if pads.any() else (None, None)
    tokens = text[:, start:].clamp(min=0)   # any token, where nobody looks
    last = model.hidden(tokens, cache, positions=positions, mask=mask)[:, -1]
    return model.logits(last)

# %% [markdown]
# `count_pads` counts the empty places and refuses prompts that do not fit. The cache makes each
# pass read only what is new: the prompt at first, then one column.
#
# The proof: greedy streaming equals the slow loop, a seed repeats, and a ragged batch equals its
# rows one by one.

# %%
def new_tokens(prompts: list[str], *rules: Rule, seed: int = 0,
               max_new: int = 40) -> list[list[int]]:
    """What `stream` yields for each prompt, empty places left out."""
    padded = left_pad([torch.tensor(begun(tokenizer, p)) for p in prompts])
    dice = torch.Generator().manual_seed(seed)
    columns = stream(model, padded, *rules, max_new=max_new,
                     stop_ids=tokenizer.stop_ids, generator=dice)
    rows = torch.cat(list(columns), dim=1).tolist()
    return [[token for token in row if token != NO_TOKEN] for row in rows]


assert new_tokens(["Once upon a time"], top_k(1)) == [told[len(prompt):]]
first, again, other = (new_tokens(["Once"], seed=seed) for seed in (1, 1, 2))
assert first == again != other

three = ["Once", "Once upon a time there was a kind girl named Zoe.",
         "Once upon a time a"]
one_by_one = [new_tokens([each], top_k(1))[0] for each in three]
assert new_tokens(three, top_k(1)) == one_by_one
print("slow loop = stream; same seed, same tale; batch = one by one")

# %% [markdown]
# ## Play: is the likeliest tale the best?
#
# A tale of our grammar can be judged: `tales.judge` reads it and returns the share of checks that
# hold (the same name throughout, the same thing, the right pronoun, a proper ending). For each
# setting we tell 24 tales from each of three seeds. Plain draws score about 0.95. Now the
# temperature is set to 1.6. What score do you expect? And what if min-p 0.1 cuts *before* the same
# heat?

# %%
hot, cut_and_hot = None, None  # your two scores, before you run the next cell


def tell(*rules: Rule) -> tuple[list[float], list[str]]:
    """The mean score of 24 tales, by seed, and the tales of the last seed."""
    scores = []
    for seed in range(3):
        rows = new_tokens([""] * 24, *rules, seed=seed, max_new=220)
        said = [tokenizer.decode(row) for row in rows]
        scores.append(statistics.mean(tales.judge(each).score for each in said))
    return scores, said


settings = {
    "greedy": (top_k(1),), "T 1": (), "T 1, penalty 1.2": (repetition(1.2),),
    "T 1 after min-p 0.1": (min_p(0.1),), "T 1.6": (temperature(1.6),),
    "T 1.6 after min-p 0.1": (min_p(0.1), temperature(1.6))}

# %% [markdown]
# (About ten seconds.)

# %%
told_by = {name: tell(*rules) for name, rules in settings.items()}
mean = {name: statistics.mean(scores) for name, (scores, _) in told_by.items()}
print(f"T 1: {mean['T 1']:.2f}")
print(reveal("T 1.6", hot, round(mean["T 1.6"], 2)))
print(reveal("T 1.6 after min-p", cut_and_hot,
             round(mean["T 1.6 after min-p 0.1"], 2)))
print("at T 1.6:", told_by["T 1.6"][1][0][:70])

# %% tags=["hide-input"] mystnb={"image": {"alt": "Bars of the judge's mean score for six settings, a dot for each of three seeds. Greedy tells one and the same tale 24 times; temperature 1.6 scores lowest, near 0.46, and min-p before it brings the score back to 0.96; a repetition penalty of 1.2 costs a few hundredths."}}
fig, ax = plots.figure(
    "What the tales of six settings are worth",
    x="judge's score (bar: mean; dots: three seeds of 24 tales)", y="")
ax.barh(list(mean), list(mean.values()), color=plots.SKY)
for y, (scores, said) in enumerate(told_by.values()):
    ax.plot(scores, [y] * 3, "o", color="black", markersize=4)
    ax.text(0.02, y, f"{len(set(said))} different of 24", va="center",
            fontsize=8)
ax.set_xlim(0, 1.03)
ax.invert_yaxis()

# %% [markdown]
# Greedy tells one tale, 24 times. Its score is 1, but who knows one story is a recording. Plain
# sampling at a temperature of 1.6 falls apart. And the *same* temperature behind min-p does no harm
# at all. Heat as such is harmless here, because the real choices are all good. The damage is done
# by the tail, hundreds of noise tokens with a tiny share each. One is enough: the model must then
# go on from a text that it has never seen the like of.
#
# The third bar is the penalty, `repetition(1.2)`. It does harm, since a tale *should* repeat its
# hero's name. Why would one want it?

# %%
for seed in range(3):
    plain, penalised, trim, heated, both = (
        told_by[name][0][seed] for name in list(settings)[1:])
    assert heated < 0.6 < penalised < plain < min(trim, both)
assert mean["greedy"] == 1 == len(set(told_by["greedy"][1]))

# %% [markdown]
# ## Why greedy text goes round in circles
#
# The teller stops at the end of its tale, so it has no time to loop. Models of open text have: *"I
# don't know. I don't know. I don't know."* The reason is plainest in the smallest model there is.
# Count which token follows which two tokens in 1,000 tales (`triples`), and always take the
# commonest; a rule may change the logarithms of the counts before. (`pairs` counts what follows one
# token; we need it later. About five seconds.)

# %%
pairs = torch.zeros(model.config.vocab_size, model.config.vocab_size)
triples = defaultdict(Counter)
for each in tales.stories(1000, seed=0):
    ids = tokenizer.encode(each, bos=True, eos=True)
    for a, b in zip(ids, ids[1:], strict=False):
        pairs[a, b] += 1
    for a, b, c in zip(ids, ids[1:], ids[2:], strict=False):
        triples[a, b][c] += 1


def tell_by_counts(most: int, *rules: Rule) -> list[int]:
    ids = tokenizer.encode("Once upon", bos=False, eos=False)
    while len(ids) < most and (counted := triples[tuple(ids[-2:])]):
        logits = torch.full((1, model.config.vocab_size), -torch.inf)
        logits[0, list(counted)] = torch.tensor(list(counted.values())).log()
        for rule in rules:
            logits = rule(logits, torch.tensor([ids]))
        ids.append(int(logits.argmax()))
    return ids


# %% [markdown]
# First as it is, then with the penalty:

# %%
circle, freed = tell_by_counts(74), tell_by_counts(200, repetition(1.2))
print(textwrap.fill(tokenizer.decode(circle), 78))
print(f"\nWith a penalty of 1.2 the text ends, at {len(freed)} tokens.")
assert circle[-16:] == circle[-32:-16] and not triples[tuple(freed[-2:])]

# %% [markdown]
# The next token is a fixed function of the last two. There are finitely many twos, so either the
# text ends or two tokens come back, and from then on everything does. Sampling leaves the circle by
# chance. A penalty of 1.2 breaks it too, here: what comes next now depends on all that was said.
# That is why one would want it.
#
# A Llama looks at the whole text, which never comes back exactly. But each copy of a sentence may
# make the next one likelier (Holtzman et al. 2020, figure 4, show it for GPT-2).
#
# *A good place to rest. You have a model that answers; what follows makes it answer faster.*
#
# ## Guess ahead: several tokens from one pass
#
# A pass over several tokens costs far less than as many passes. But several tokens of an answer fit
# into one pass only if they are known. So let a cheap *draft* guess four, and let the model read
# all four at once. It then says, after each guess, what it would have said itself: *speculative
# decoding* (Leviathan et al. 2023).
#
# If the model is greedy, the rest follows. Text so far: *Once upon a*; guesses: *time*, *there*,
# *lived*, *a*. One pass over them gives five answers of the model, to the question "what comes
# next?" after *a*, after *time*, and so on.
#
# ## Your turn: what does one pass yield?
#
# The text must come out exactly as if the model had been asked for one token at a time.

# %%
def tokens_of_a_pass(guesses: Tensor, best: Tensor) -> Tensor:
    """Exercise 7.5 ●●○ 6 min. The new tokens that one pass over `t` guesses yields.

    `guesses` has `t` tokens and `best` has `t + 1`: `best[i]` is the model's likeliest token after
    the text and the first i guesses. Return the tokens by which the text grows: 1 to t + 1 of
    them, as many as are sure.
    """
    ### BEGIN SOLUTION
    hold = (guesses == best[:-1]).cumprod(0)    # 0 from the first wrong one on
    return best[:hold.sum() + 1].clone()
    ### END SOLUTION


check("7.5", tokens_of_a_pass)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 7.5.** Up to the first wrong guess `best` and `guesses` are the same, and at that
# place `best` has the right token: so the answer is a beginning of `best`. *All of best* is
# tempting: five tokens for one pass! But those behind a wrong guess answer a text that nobody
# wrote. And *the model's own token* is what makes it safe: even the worst draft yields one token a
# pass, as without it.
# ### END SOLUTION
#
# And if the model *samples*? The draft has drawn a guess from its distribution $q$ (`v` numbers);
# the model's own, after the same text, is $p$. There is no "right" token to compare with. We may
# *keep* the guess or *refuse* it and draw another in its place. You decide two things: `keep[x]`,
# the chance that a guess $x$ is kept once it was drawn, and `instead`, the distribution from which
# the replacement of a refused guess is drawn. Two requirements:
#
# 1. What comes out is distributed exactly as $p$. Not nearly: exactly.
# 2. Of all the ways to do so, guesses are kept as often as possible.
#
# That is enough to find the rule. Take a pencil: through which two doors can a token $x$ come out?

# %%
def keep_and_instead(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Exercise 7.6 ●●● 18 min. The rule of acceptance: return `keep` and `instead`, each `v`.

    `p` is the model's distribution and `q` the draft's, each `v`. `keep[x]` is the chance that a
    guess `x` is kept; `instead` is the distribution of the token that replaces a refused one.
    Where `q` is 0, any `keep` will do; if nothing is ever refused, any `instead`.
    """
    ### BEGIN SOLUTION
    lacking = torch.where(p > q, p - q, 0)
    return torch.where(p < q, p / q, 1), lacking / lacking.sum()
    ### END SOLUTION


check("7.6", keep_and_instead)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 7.6.** A token $x$ comes out in two ways: drawn and kept,
# $q(x)\,\mathrm{keep}(x)$, or as a replacement. The first may not exceed $p(x)$ (what is out cannot
# be taken back) nor $q(x)$. So it is at most $\min(p, q)$, and reaches that with
# $\mathrm{keep} = \min(1, p/q)$. What still lacks, $p - \min(p, q) = \max(0, p - q)$, has to come
# through the second door, and its sum is just the chance of a refusal. *Replaced from p* is the
# common slip: the tokens that the draft likes come out too often, by little, and no test of a
# single text will ever show it. *Too cautious* rules are exact as well: keep nothing, draw from
# $p$. They only win nothing.
# ### END SOLUTION
#
# ## Build it: refuse as seldom as possible
#
# The package's `verify` applies the rule to all guesses of a pass. A guess is kept with chance
# $\min(1, p/q)$; the first that is refused ends the run, and its replacement comes from
# $\max(0, p - q)$, rescaled. If all hold, the token after them is drawn from the model's own last
# row.

# %% twin="llama_edu.inference.speculative.verify"
def verify(p: Tensor, q: Tensor, guesses: Tensor, *,
           generator: torch.Generator | None = None) -> Tensor:
    t = len(guesses)
    rows = torch.arange(t, device=p.device)
    draws = torch.rand(t, dtype=p.dtype, device=p.device, generator=generator)
    kept = (draws < p[rows, guesses] / q[rows, guesses]).long().cumprod(0)
    n = int(kept.sum())
    rest = p[n] if n == t else (p[n] - q[n]).clamp(min=0)
    rest = rest if rest.any() else p[n]     # refused by rounding alone
    return torch.cat(
        [guesses[:n], torch.multinomial(rest, 1, generator=generator)])

# %% [markdown]
# Is it exact? With fractions there is no rounding to hide behind. We add up both doors for a
# vocabulary of four, and compare the chance of a refusal with the *total variation* of the two
# distributions, $\frac12 \sum_x |p(x) - q(x)|$: the usual measure of how far apart they are.

# %%
p = [Fraction(n, 24) for n in (12, 6, 4, 2)]
q = [Fraction(n, 24) for n in (4, 12, 2, 6)]
keep = [min(Fraction(1), a / b) for a, b in zip(p, q, strict=True)]
lacking = [max(Fraction(0), a - b) for a, b in zip(p, q, strict=True)]
refused = 1 - sum(b * chance for b, chance in zip(q, keep, strict=True))

out = [b * chance + refused * less / sum(lacking)
       for b, chance, less in zip(q, keep, lacking, strict=True)]
variation = sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2
assert out == p and refused == variation == sum(lacking)
print("out:", *out, "  refused:", refused, "= total variation")

# %% [markdown]
# **The output is $p$ itself, and a guess is kept with chance $1 - $ total variation,
# $\sum_x \min(p(x), q(x))$.** A bad draft costs time, never quality.
#
# How well do drafts agree with the teller? Three cheap ones: the count of *pairs* (what follows one
# token), the count of *triples* (what follows two; with one vote of the pairs, so that nothing has
# probability 0), and *two layers*: the teller's own weights, without the third block.

# %%
guess = "?"     # "pairs", "triples" or "two layers": which is kept most often?

likely = (pairs + 1e-3) / (pairs + 1e-3).sum(1, keepdim=True)
shallow = Llama(replace(model.config, n_layers=2)).eval()
weights = model.state_dict()
shallow.load_state_dict({name: weights[name] for name in shallow.state_dict()})


def by_pairs(ids: list[int]) -> Tensor:
    return likely[ids[-1]]


def by_triples(ids: list[int]) -> Tensor:
    votes, counted = likely[ids[-1]].clone(), triples[tuple(ids[-2:])]
    if counted:
        votes[list(counted)] += torch.tensor(list(counted.values()))
    return votes / votes.sum()


def by_two_layers(ids: list[int]) -> Tensor:
    return shallow(torch.tensor([ids]))[0, -1].softmax(-1)

# %% [markdown]
# We take tales that the teller tells, of three seeds, and average $\sum_x \min(p(x), q(x))$ over
# all places.

# %%
drafts = {"pairs": by_pairs, "triples": by_triples, "two layers": by_two_layers}
kept_rate = {name: [] for name in drafts}
for seed in range(3):
    overlap = {name: [] for name in drafts}
    for row in new_tokens([""] * 3, seed=seed, max_new=200):
        ids = [tokenizer.bos_id, *row]
        p = model(torch.tensor([ids]))[0].softmax(-1)
        for name, draft in drafts.items():
            q = torch.stack([draft(ids[:n]) for n in range(1, len(ids))])
            overlap[name] += torch.minimum(p[:-1], q).sum(-1).tolist()
    for name, values in overlap.items():
        kept_rate[name].append(statistics.mean(values))
for name, rates in kept_rate.items():
    print(f"{name:10} kept, seed by seed: {[round(rate, 2) for rate in rates]}")
part = parameters(shallow.config).total / parameters(model.config).total
print(f"two layers cost {part:.0%} of a pass for each guess")
reveal("kept most often", guess,
       max(kept_rate, key=lambda name: min(kept_rate[name])))

# %% [markdown]
# A table of counts beats two blocks of three, for the second block was never trained to have the
# last word. And looking up a table costs next to nothing; two layers cost 73 % of a pass for each
# guess.
#
# ## Does it pay? Tokens for one pass
#
# ### Your turn: how far does a run of guesses go?
#
# Suppose every guess is kept with the same chance, whatever happened before. The first refusal
# ends the run.

# %%
def tokens_per_pass(rate: float, ahead: int) -> float:
    """Exercise 7.7 ●●○ 5 min. How many tokens one pass yields, on average.

    The draft guesses `ahead` tokens, 0 or more. A guess is kept with the chance `rate`, from 0 to
    1, both included. After the run, one token of the model's own always comes.
    """
    ### BEGIN SOLUTION
    if ahead == 0:
        return 1.0
    return 1 + rate * tokens_per_pass(rate, ahead - 1)
    ### END SOLUTION


check("7.7", tokens_per_pass)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 7.7.** The first guess is kept with chance $r$, and then the pass goes on as one
# with a guess less: so $1 + r (1 + r (1 + \dots))$. Multiplied out, it is $1 + r + r^2 + \dots$: a
# mean of a count is the sum of the chances to get at least one, at least two, and so on. The closed
# form is $(1 - r^{a+1}) / (1 - r)$ for $a$ guesses, with a hole at $r = 1$. With two
# layers, $r = 0.63$ and $a = 4$, it is 2.4 tokens for $1 + 4 \cdot 0.73 = 3.9$ passes' worth of
# work: a loss.
# ### END SOLUTION
#
# Now for real. Each round drafts, reads all guesses in one pass, keeps, and rewinds the cache to
# what is true.

# %%
def guess_ahead(draft: Callable, ids: list[int], ahead: int,
                dice: torch.Generator) -> tuple[list[int], Tensor]:
    """Guesses after a text, and the distributions that they are drawn from."""
    guesses, q = [], []
    for _ in range(ahead):
        q.append(draft(ids + guesses))
        guesses.append(int(torch.multinomial(q[-1], 1, generator=dice)))
    return guesses, torch.stack(q)


def up_to_stop(tokens: list[int]) -> list[int]:
    """The tokens up to the first that ends a tale, that one included."""
    ends = [n for n, token in enumerate(tokens, start=1)
            if token in tokenizer.stop_ids]
    return tokens[:ends[0]] if ends else tokens

# %% [markdown]
# With these, a tale:

# %%
def tell_ahead(draft: Callable, ahead: int, seed: int, *rules: Rule
               ) -> tuple[list[int], int]:
    """A tale of the teller, and the passes that it took."""
    dice, cache = torch.Generator().manual_seed(seed), model.new_cache(1, 256)
    ids, passes = [tokenizer.bos_id], 0
    while len(ids) < 200 and ids[-1] not in tokenizer.stop_ids:
        guesses, q = guess_ahead(draft, ids, ahead, dice)
        given = torch.tensor([(ids + guesses)[cache.length:]])
        logits = model(given, cache)[0, -ahead - 1:]
        for rule in rules:
            logits = rule(logits)
        p, drawn = logits.softmax(-1), torch.tensor(guesses)
        ids += up_to_stop(verify(p, q, drawn, generator=dice).tolist())
        cache.rewind(len(ids) - 1)          # the last token has not been read
        passes += 1
    return ids, passes


greedy, passes = tell_ahead(by_triples, 4, 0, top_k(1))
assert greedy[:len(told)] == tell_slowly([tokenizer.bos_id], len(told) - 1)[0]
print("greedy: the same tale as the slow loop, "
      f"{len(greedy) - 1} tokens in {passes} passes")

# %% [markdown]
# Is the law of 7.7 right, although every place has a chance of its own? We count tokens and passes
# of two tales from each of three seeds. (About 15 seconds.)

# %%
lengths, law, measured = (1, 4, 8), {}, {}
for name in ("pairs", "triples"):
    r = statistics.mean(kept_rate[name])
    law[name] = [sum(r**held for held in range(ahead + 1)) for ahead in lengths]
    print(f"{name}, the law:", *(f"{each:.2f}" for each in law[name]))
    for seed in range(3):
        counted = []
        for ahead in lengths:
            told_ahead = [tell_ahead(drafts[name], ahead, 10 * seed + n)
                          for n in range(2)]
            n_tokens = sum(len(ids) - 1 for ids, _ in told_ahead)
            counted.append(n_tokens / sum(passes for _, passes in told_ahead))
        measured[name, seed] = counted
        print(f"{name}, seed {seed}:", *(f"{each:.2f}" for each in counted))
        assert all(abs(a / b - 1) < 0.12
                   for a, b in zip(counted, law[name], strict=True))
cost = per_pass[2] / per_pass[0]    # five tokens: the newest and four guesses
print(f"3 tokens for a pass that costs {cost:.1f} single ones: "
      f"{3 / cost:.1f} times as fast")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Tokens for one pass against guesses ahead, 1 to 8. With the draft of triples the measured points rise from about 1.7 to about 3.5, with pairs from 1.5 to about 2, both close to the lines of the law."}}
fig, ax = plots.figure("Four guesses from a table: three tokens a pass",
                       x="guesses ahead", y="tokens for one pass of the teller")
for name, colour in (("pairs", plots.VERMILION), ("triples", plots.BLUE)):
    r = statistics.mean(kept_rate[name])
    ax.plot(lengths, law[name], color=colour, linewidth=1,
            label=f"{name} (line: {r:.2f} kept)")
    for seed in range(3):
        ax.plot(lengths, measured[name, seed], "o", color=colour, markersize=5)
ax.set(xticks=lengths, xlim=(0.5, 13))
plots.label_lines(ax)

# %% [markdown]
# Dots: two tales from each of three seeds. So few tales scatter by up to a tenth around the law.
# With four guesses from a table the teller is asked once for about three tokens, and what it says
# is distributed as ever. Eight guesses win another fifth for triples and next to nothing for pairs.
#
# So it pays, if a pass over five tokens costs less than three over one. The last line printed takes
# the price from our larger model, timed above, and the three tokens from the teller: a model that
# is itself so small spends its time elsewhere. The package's `speculate` does the same with a Llama
# as draft. On a machine that is busy with a full batch, guesses that are refused cost like any
# other token.
#
# ## In the Llamas: how many bytes for one token?
#
# To decode one token a machine reads all weights and the cache of that text. From the configs
# alone, at 16 bits and with the model's full context in the cache.

# %%
def bytes_read(config: ModelConfig, bits: int) -> int:
    """What a pass over one token meets of the weights."""
    p = parameters(config)  # of a separate embedding table it reads one row
    return (p.total - (p.embedding if p.output else 0)) * bits // 8


print(f"{'':13}{'weights':>10}{'full cache':>13}{'context':>9}")
for name in ("llama-1-7b", "llama-2-7b", "llama-2-70b", "llama-3-8b",
             "llama-3.1-8b", "llama-3.2-1b"):
    c = release(name).config
    full_cache = kv_bytes(c, tokens=c.max_seq_len, batch=1, bits=16)
    print(f"{name:13}{bytes_read(c, 16) / GIB:6.1f} GiB"
          f"{full_cache / GIB:9.1f} GiB{c.max_seq_len:9,}")

# %% [markdown]
# Llama 3.1's context of 131,072 tokens makes the cache of *one* text larger than the weights of the
# 8B, and of the 1B. A cache turns the square of the length into a straight line, not into a
# constant.
#
# ## Fact check: what is a cache, and what does it cost?
#
# Judge two sentences. The first: "Decoding is memory-bound: the processor waits for memory." The
# second is a row of the ledger of published claims. The words are right, wrong, imprecise, open.

# %%
memory_bound = "?"
claims.judge({"D100": "?"})

# %% [markdown]
# A processor is kept busy if it does enough operations for each byte that it reads. NVIDIA's data
# sheet of the H100 (SXM) gives 989 trillion operations a second in bfloat16 without sparsity, and
# 3.35 TB/s of memory. How many operations a byte does it need, and how many does decoding offer?

# %%
c = release("llama-3.1-8b").config
needs = 989e12 / 3.35e12
print(f"needed: {needs:.0f} operations a byte")
offers = {}
for batch in (1, 16, 256, 512):
    for total in (100, 8_192):
        caches = kv_bytes(c, tokens=total, batch=batch, bits=16)
        to_read = bytes_read(c, 16) + caches
        done = 2 * batch * multiply_adds(c, 1, total)
        offers[batch, total] = done / to_read
        print(f"batch {batch:3}, {total:5,} tokens each: "
              f"{done / to_read:6.1f} operations a byte, "
              f"{to_read / GIB:6.1f} GiB to read")
most = 3.35e12 / bytes_read(c, 16)
print(f"a single text, at best: {most:.0f} tokens a second")
assert offers[256, 100] < needs < offers[512, 100]
reveal("decoding is memory-bound", memory_bound, "imprecise")

# %% [markdown]
# **Imprecise: one text is, many short ones need not be.** At batch 1 there is about one operation a
# byte: two for each weight of two bytes. A batch shares the weights, so short texts climb, and 512
# of them, of 100 tokens each, offer more than the machine needs: there arithmetic is the limit. But
# *nobody shares a cache*. With 8,192 tokens each, a batch of 256 offers not even twice what a batch
# of 16 does (and needs several machines: one holds 80 GB). It reads mostly keys and values. That is
# what grouped heads (chapter 03) are for.

# %%
claims.show("D100")

# %% [markdown]
# The cache is no novelty of Llama 2 or 3. It is a way to run a model, not a part of one: the same
# weights give the same logits with and without, and no weight belongs to it.
#
# ## Summary: keep the past, cut the tail, guess the future
#
# - Keys and values of old tokens never change, so each is computed once and kept. Cached and
#   uncached logits are equal.
# - A cached token costs one look at every weight and at every kept key. For one text, or a few,
#   reading is the price and not arithmetic; so many tokens in one pass are cheap, single ones dear.
# - Rules are functions from logits to logits. Temperature bends, top-k, top-p and min-p cut. What
#   ruins samples is the tail.
# - Ragged prompts are padded on the left: a mask hides the padding, positions count from the first
#   token.
# - A draft may guess. With the right rule of acceptance the output is exactly the model's, and what
#   is kept is 1 minus the total variation.
#
# **Read in the package:** `llama_edu.cache`, `llama_edu.sampling`, `llama_edu.generation`,
# `llama_edu.inference.speculative`, `llama_edu.inference.decoding`. **Read elsewhere:** Holtzman et
# al. 2020, *The Curious Case of Neural Text Degeneration*; Leviathan et al. 2023, *Fast Inference
# from Transformers via Speculative Decoding*.
