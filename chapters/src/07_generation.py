# %% [markdown]
# # 07 · Generation: one token at a time, and which one?
#
# **The question.** A Llama answers one question only: what comes next? To tell a tale of 150 tokens it
# must be asked 150 times. Does it have to read the whole tale again each time? And when it
# answers with hundreds of probabilities, which token do we take?
#
# | you will build | you need | minutes |
# |---|---|---|
# | `KVCache`, four sampling rules, `stream` | chapters 03 and 06 | 120 |

# %%
import math
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib.resources import files

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import llama_edu.cache
import llama_edu.generation
import llama_edu.sampling
from llama_edu import checkpoint, claims, plots
from llama_edu.config import ModelConfig
from llama_edu.data import tales
from llama_edu.exercises import check, hint
from llama_edu.family.accounting import GIB, kv_bytes, parameters, weight_bytes
from llama_edu.family.releases import release
from llama_edu.generation import count_pads
from llama_edu.layers import attend, causal_mask, rope_table, rotate
from llama_edu.model import Llama
from llama_edu.sampling import COLDEST, NO_TOKEN, Rule, probabilities

plots.use_style()
torch.set_num_threads(1)
_ = torch.set_grad_enabled(False)       # nothing is trained here

# %% [markdown]
# > **Predict.** A prompt of 100 tokens, an answer of 100 tokens. One program reads the whole text again
# > for every new token. Another reads every token once. How many times more tokens does the first
# > one read: about 2, 20 or 75 times?
#
# ## By hand: a tale, token by token
#
# A small Llama comes with the course. It has read tales from a grammar of our own and nothing else;
# chapter 08 trains one like it before your eyes. Here is how it writes, with nothing but the model of
# chapter 06: read all, look at the last row of logits, append a token, read all again.

# %%
model, tokenizer = checkpoint.load(files("llama_edu") / "assets" / "tales")


def tell_slowly(prompt: list[int], max_new: int) -> tuple[list[int], int]:
    """The likeliest token, again and again; and how many tokens the model has read for it."""
    text, read = list(prompt), 0
    for _ in range(max_new):
        logits = model(torch.tensor([text]))[0, -1]
        read += len(text)
        text.append(int(logits.argmax()))
    return text, read


prompt = tokenizer.encode("Once upon a time", bos=True, eos=False)
told, read = tell_slowly(prompt, 40)
print(tokenizer.decode(told))

# %% [markdown]
# What did it choose from? We look over its shoulder: each row is one question to the model, with the two
# likeliest answers. A piece is often less than a word; the space before a word belongs to it.

# %%
logits = model(torch.tensor([told]))[0]
print("text so far, its end      likeliest piece      second")
for end in range(len(prompt), len(prompt) + 12):
    best = logits[end - 1].softmax(-1).topk(2)
    first, second = (f"{tokenizer.decode([int(i)])!r:>10} {p:4.0%}"
                     for i, p in zip(best.indices, best.values, strict=True))
    print(f"...{tokenizer.decode(told[1:end])[-18:]!r:22} {first}    {second}")

# %% [markdown]
# Where the grammar leaves no choice the model is sure. Where the grammar has a choice, such as the
# hero's character or name, it spreads its bets. Note that one pass gave us *all* these rows. Each row
# only saw what was before it. That is the key to what follows.
#
# And the price: for 40 tokens the loop read many more than the text has.

# %%
n = len(prompt)
print(f"text: {len(told)} tokens    read: {read} tokens")
assert read == sum(range(n, n + 40))

whole, once = sum(range(100, 200)), 100 + 99
print(f"100 + 100 tokens: {whole} against {once}, {whole / once:.0f} times as many")

# %% [markdown]
# (The last token of an answer is never read: nobody asks what follows it.)
#
# ## The idea: the past does not change, so keep it
#
# What does the model compute for an old token that it has not computed before? Attention in one layer
# is, for the newest token at position $t$ (Vaswani et al. 2017, eq. 1),
#
# $$ o_t = \sum_{j \le t} \mathrm{softmax}_j\!\left(\frac{q_t \cdot k_j}{\sqrt d}\right) v_j $$
#
# with query $q$, key $k$ and value $v$ as in chapter 03. Of the older tokens $j < t$ it needs $k_j$ and
# $v_j$ only, in every layer. Those depend on tokens up to $j$, because the mask hides the rest. So a
# longer text cannot change them:

# %%
caught = {}
handle = model.layers[-1].attention.wk.register_forward_hook(
    lambda module, given, made: caught.update({made.shape[1]: made[0]}))
for length in (10, 30):
    model(torch.tensor([told[:length]]))
handle.remove()

torch.testing.assert_close(caught[10], caught[30][:10])
print("last layer: the first 10 keys are the same in a text of 10 and in a text of 30 tokens")

# %% [markdown]
# Old queries are never needed again. Old keys and values are, so we keep them: that is the *KV
# cache*. The first pass reads the prompt, all its tokens at once: *prefill*. Each later pass reads
# one token and looks back at the kept ones: *decode*.
#
# The picture below is not a sketch: it is drawn from what two real runs of our model did, pass by pass.

# %%
def watch(prompt_length: int, n_new: int, cached: bool) -> list[list[float]]:
    """One row a pass: 2 where a position's keys are computed, 1 where only looked up, 0 not yet."""
    cache, rows = model.new_cache(1, 20), []
    for end in range(prompt_length, prompt_length + n_new):
        start = cache.length if cached else 0
        model(torch.tensor([told[start:end]]), cache if cached else None)
        rows.append([2.0 if start <= i < end else 1.0 if i < end else 0.0 for i in range(14)])
    assert not cached or cache.length == prompt_length + n_new - 1
    return rows


runs = {"without a cache": watch(6, 9, False), "with a cache": watch(6, 9, True)}
for name, rows in runs.items():
    print(f"{name}: {sum(row.count(2.0) for row in rows)} keys computed in each layer")

# %% mystnb={"image": {"alt": "Two grids of nine passes by 14 positions. Without a cache each pass computes a full row, 90 cells in all. With a cache the first pass computes six cells and each later one only the newest: 14 cells, the rest is looked up."}}
fig, panels = plots.figure("With a cache each position is computed once, then only looked up",
                           x="position in the text (tokens)", y="pass", columns=2)
paint = {0.0: "#f4f4f4", 1.0: "#bfe0f5", 2.0: plots.VERMILION}
for ax, (name, rows) in zip(panels, runs.items(), strict=True):
    for y, row in enumerate(rows, start=1):
        for position, kind in enumerate(row):
            ax.barh(y, 0.9, left=position - 0.45, height=0.85, color=paint[kind])
    ax.set(title=name, xticks=(0, 5, 10, 13), yticks=range(1, 10))
    ax.grid(visible=False)
    ax.invert_yaxis()
panels[0].set_xlabel("red: computed now")
panels[1].set_xlabel("red: computed, blue: looked up")
_ = panels[1].set_ylabel("")

# %% [markdown]
# Rows are passes, columns are positions. On the left every pass computes its whole row. On the
# right the first row is the prefill, and below it runs a diagonal: one new token a pass.
#
# ## Build it: a cache that the caller owns
#
# A list to which we append would do. But then every token would copy the whole past into a new, longer
# tensor. So the cache is made once, at full length, and filled from the left. The caller asks for one
# (`model.new_cache(batch, max_len)`) and hands it in; the model keeps nothing between passes.

# %%
# twin: llama_edu.cache.KVCache
class KVCache:
    def __init__(self, n_layers: int, batch: int, max_len: int):
        if min(batch, max_len) < 1:
            raise ValueError(f"a cache for {batch} texts of {max_len} tokens was asked for; 1 or "
                             "more of both is needed.")
        self.batch, self.max_len, self.length = batch, max_len, 0
        self.slots = [Slot(self) for _ in range(n_layers)]

    def slot(self, layer_id: int) -> "Slot":
        if not 0 <= layer_id < len(self.slots):
            raise IndexError(f"layer {layer_id} was asked for; this cache has layers 0 to "
                             f"{len(self.slots) - 1}. Let the model make its own: new_cache.")
        return self.slots[layer_id]

    def rewind(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind a cache of {self.length} tokens to {length}; "
                             f"a length from 0 to {self.length} is needed.")
        self.length = length

    def take(self, other: "KVCache") -> None:
        self.length = 0
        for mine, theirs in zip(self.slots, other.slots, strict=True):
            if theirs.keys is not None:
                mine.append(theirs.keys[:, :, :other.length], theirs.values[:, :, :other.length])
        self.length = other.length

# %% [markdown]
# A layer gets its own `Slot`, which writes the new rows behind the old ones and returns all of them. Its
# two tensors, keys and values, are made when the first arrive: texts, key/value heads, tokens, features.

# %%
# twin: llama_edu.cache.Slot
class Slot:
    def __init__(self, cache: KVCache):
        self.cache = cache
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        start, end = self.cache.length, self.cache.length + k.shape[2]
        if end > self.cache.max_len:
            raise ValueError(f"the cache holds {self.cache.max_len} tokens; {end} were asked for. "
                             "Make a longer one with new_cache, or rewind this one.")
        if len(k) != self.cache.batch:
            raise ValueError(f"the cache was made for {self.cache.batch} texts; {len(k)} were "
                             "given. Make a new one for this batch.")
        if self.keys is None:
            self.keys, self.values = self._room(k), self._room(v)
        self.keys[:, :, start:end] = k
        self.values[:, :, start:end] = v
        keys, values = self.keys[:, :, :end], self.values[:, :, :end]
        if keys.requires_grad:      # what a backward pass will read must not be written over
            return keys.clone(), values.clone()
        return keys, values

    def _room(self, like: Tensor) -> Tensor:
        b, k, _, d = like.shape
        with torch.inference_mode(False):       # or nothing could be written outside of it
            return torch.zeros(b, k, self.cache.max_len, d, dtype=like.dtype, device=like.device)

# %% [markdown]
# There is one `length` for all layers, and the model moves it once, at the end of a pass. In chapter
# 06 you met the three lines of the model that know of a cache: positions count on from `length`, the
# mask has more columns than rows, `length` moves. The keys go in *after* rotation. A position
# never changes, so a key need be turned only once.
#
# > **Careful.** Three mistakes live here, and none raises an error: positions that start
# > at 0 again, a causal mask aligned at the first token, keys rotated twice. The exercises meet all
# > of them.
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
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=1e-4, rtol=1e-4)
assert not any("cache" in name for name in model.state_dict())
print("one by one, all at once, in uneven parts: the same logits; and no weight in the cache")

# %% [markdown]
# ## What does a token cost? Count first, then measure
#
# A matrix of $m \times n$ numbers costs $mn$ *multiply-adds* for each token. Attention adds, for every
# query head and every token looked at, $d$ for the score and $d$ for the mix. Only the last token needs
# logits. So a pass over `new` tokens that look at `total` costs:

# %%
def multiply_adds(config: ModelConfig, new: int, total: int) -> int:
    """Of one pass; norms, rotations and softmax are left out as small."""
    p = parameters(config)
    looking = 2 * config.n_layers * config.n_heads * config.head_dim * total
    return new * (p.attention + p.feed_forward + looking) + config.vocab_size * config.dim


c = model.config
for name, new in (("without a cache", 200), ("with a cache", 1)):
    print(f"token 201 {name:16} {multiply_adds(c, new, 200) / 1e6:8.1f} million multiply-adds")

# %% [markdown]
# Is the count right? PyTorch can count for itself (it calls a multiply-add two operations). The
# fused attention kernel escapes its counter, so we count the plain `attend` of chapter 03 apart.

# %%
with FlopCounterMode(display=False) as of_matrices:
    model.logits(model.hidden(torch.tensor([told[:20]]))[:, -1])
with FlopCounterMode(display=False) as of_attend:
    q, k = torch.zeros(1, c.n_heads, 20, c.head_dim), torch.zeros(1, c.n_kv_heads, 20, c.head_dim)
    attend(q, k, k, causal_mask(20, 20))

counted = of_matrices.get_total_flops() + c.n_layers * of_attend.get_total_flops()
assert counted == 2 * multiply_adds(c, 20, 20)
print(f"{counted:,} operations = 2 x {multiply_adds(c, 20, 20):,} multiply-adds")

# %% [markdown]
# Now the clock. Our tale model is so small that Python's own time would hide the rest, so we time a
# larger one with random weights: speed does not depend on what the weights say. For each length
# of text we time the next token, both ways. Of several rounds the fastest counts: a busy machine can
# only make a pass slower.

# %%
bench = ModelConfig(dim=512, n_layers=4, n_heads=8, n_kv_heads=4, hidden_dim=1408, vocab_size=512,
                    norm_eps=1e-5, rope_theta=1e4, max_seq_len=512)
torch.manual_seed(0)
large = Llama(bench).eval()
tokens = torch.randint(0, 512, (1, 512))


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
    """Logits after `length` tokens; all but the last of them are in the cache, if there is one."""
    if cache is not None:
        cache.rewind(length - 1)
    given = tokens[:, 0 if cache is None else length - 1:length]
    return large.logits(large.hidden(given, cache)[:, -1])

# %% [markdown]
# To predict times we need two speeds of this machine: how many multiply-adds it does in a second, and
# how fast it reads memory. We take the first from the longest uncached pass. For the second we time
# the product of a large matrix and one vector, which is nothing but reading the matrix.

# %%
lengths = (32, 64, 128, 256, 512)
full = large.new_cache(1, 512)
large.hidden(tokens, full)
uncached = [clock(lambda t=t: next_token(None, t), 5) for t in lengths]
cached = [clock(lambda t=t: next_token(full, t), 9) for t in reversed(lengths)][::-1]

matrix, vector = torch.ones(4096, 4096), torch.ones(4096)
speed = multiply_adds(bench, 512, 512) / uncached[-1]                   # multiply-adds in a ms
bandwidth = matrix.numel() * 4 / clock(lambda: matrix @ vector, 9)      # bytes in a ms
print(f"{speed / 1e6:.0f} billion multiply-adds a second, {bandwidth / 1e6:.1f} GB/s read")

# %% mystnb={"image": {"alt": "On logarithmic axes, milliseconds for the next token against text length from 32 to 512. Without a cache the time rises in step with the length, about as counted. With a cache it stays nearly flat, far above what counting predicts and nearer to what reading the weights takes."}}
fig, ax = plots.figure("With a cache the next token's time stays nearly flat, but above the count",
                       x="tokens in the text", y="time for the next token (ms)")
reading = [(weight_bytes(bench, bits=32) + kv_bytes(bench, tokens=t, batch=1, bits=32)) / bandwidth
           for t in lengths]
ax.loglog(lengths, uncached, "o", color=plots.VERMILION, label="no cache (line: counted)")
ax.loglog(lengths, [multiply_adds(bench, t, t) / speed for t in lengths], color=plots.VERMILION,
          linewidth=1)
ax.loglog(lengths, cached, "s", color=plots.BLUE, label="cache, measured")
ax.loglog(lengths, [multiply_adds(bench, 1, t) / speed for t in lengths], color=plots.BLUE,
          linewidth=1, label="cache, counted")
ax.loglog(lengths, reading, "--", color=plots.GREEN, label="cache, bytes to read")
ax.set_xticks(lengths, [str(t) for t in lengths])
ax.minorticks_off()
ax.set_xlim(28, 3000)
ax.margins(y=0.12)
plots.label_lines(ax)
print(f"at 512 tokens: {uncached[-1]:.0f} ms without, {cached[-1]:.1f} ms with; counted "
      f"{multiply_adds(bench, 1, 512) / speed:.2f} ms, reading {reading[-1]:.1f} ms")

# %% [markdown]
# Red: without a cache the times rise about as counted. (The machine's speed is taken from the last
# point, so that one fits by definition.) Blue: with a cache the count is far too hopeful. One token does little arithmetic, but it still
# meets *every weight*, and each must come from memory. The dashed line counts bytes instead, and it is
# the better prophet; it is a floor. (What lies between is not counted here: starting each operation takes time too.)
#
# ## Prefill against decode: reading is cheaper by the dozen
#
# If a pass over one token is mostly fetching weights, a pass over eight should cost far less than
# eight. We time passes over 1 to 256 tokens, with no cache.

# %% mystnb={"image": {"alt": "Milliseconds per token against tokens read in one pass, both logarithmic. A token that is alone in its pass takes more than ten times as long as one of 256."}}
widths = [2**power for power in range(9)]
per_pass = [clock(lambda t=t: large.hidden(tokens[:, :t]), 5) for t in widths]
per_token = [taken / t for taken, t in zip(per_pass, widths, strict=True)]

fig, ax = plots.figure("Tokens that share a pass are cheaper",
                       x="tokens in one pass", y="time per token (ms)")
ax.loglog(widths, per_token, "o-")
ax.set_xticks(widths, [str(t) for t in widths])
ax.set_yticks((0.5, 1, 2, 5, 10), ("0.5", "1", "2", "5", "10"))
ax.minorticks_off()
print(f"1 token: {per_pass[0]:.1f} ms; 8 tokens: {per_pass[3]:.1f} ms; "
      f"256 tokens: {per_pass[-1]:.1f} ms, {per_token[-1]:.2f} ms each")
assert per_token[-1] < per_token[3] < per_token[0]

# %% [markdown]
# This is why a prompt is read quickly and an answer is written slowly. Decoding gives
# the processor one row at a time. The remedy is to find more rows: other people's texts (a batch, see
# below), or guesses about one's own future (speculative decoding, `llama_edu.inference.speculative`).
#
# *A good place to rest: what follows stands on its own, and has exercises of its own.*
#
# ## Which token? Four rules that reshape one distribution
#
# So far we took the likeliest token: *greedy* decoding. To *sample* is to draw at random, each
# token with its probability. Between the two stand rules that change the logits before the draw. Each
# is a function from logits to logits, so they compose. (`tokens` is the text so far; only the rules
# against repetition, at the end, read it.) Two are one line of work each:

# %%
# twin: llama_edu.sampling.temperature, llama_edu.sampling.top_k
def temperature(value: float) -> Rule:
    if not COLDEST <= value < math.inf:
        raise ValueError(f"temperature {value} was given; a number from {COLDEST} on is needed. "
                         "For the likeliest token always, use top_k(1).")
    return lambda logits, tokens=None: logits / value


def top_k(k: int) -> Rule:
    if k < 1:
        raise ValueError(f"top_k({k}) would keep no token; 1 or more is needed.")

    def rule(logits: Tensor, tokens: Tensor | None = None) -> Tensor:
        best = logits.topk(min(k, logits.shape[-1]), -1)
        return torch.full_like(logits, -torch.inf).scatter(-1, best.indices, best.values)

    return rule

# %% [markdown]
# *Temperature* divides the logits: below 1 the gaps grow and the likeliest gets more, above 1 they
# shrink. *Top-k* keeps the $k$ likeliest. A logit of $-\infty$ means probability 0.
#
# Top-p (Holtzman et al. 2020, eq. 2) lets the number kept depend on how sure the model is: the smallest
# set of tokens whose probability reaches $p$. Naively, for one row:

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
# 0.45 does not reach 0.7, so the next one comes in as well, the one that *crosses* $p$. The package's form does
# all rows at once: a token is cut if those *before* it reach $p$ already. *Min-p* (Nguyen et al. 2024)
# asks something simpler: is a token at least $p$ times as likely as the likeliest?

# %%
# twin: llama_edu.sampling.top_p, llama_edu.sampling.min_p
def top_p(p: float) -> Rule:
    if not 0 < p <= 1:
        raise ValueError(f"top_p({p}) was given; a probability above 0 and up to 1 is needed.")

    def rule(logits: Tensor, tokens: Tensor | None = None) -> Tensor:
        if p == 1:      # a sum of rounded probabilities may reach 1 before the last
            return logits
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        probs = ordered.softmax(-1)
        cut = probs.cumsum(-1) - probs >= p         # the tokens before this one reach p already
        return logits.masked_fill(cut.scatter(-1, order, cut), -torch.inf)

    return rule


def min_p(p: float) -> Rule:
    if not 0 < p <= 1:
        raise ValueError(f"min_p({p}) was given; a share above 0 and up to 1 is needed.")

    def rule(logits: Tensor, tokens: Tensor | None = None) -> Tensor:
        edge = logits.amax(-1, keepdim=True) + math.log(p)
        return logits.masked_fill(logits < edge, -torch.inf)

    return rule

# %% [markdown]
# Now one real distribution. Leo has taken his hat to the park, and something is about to happen to it. The
# grammar knows a few ways to go on, and one of them begins with the hero's name. Everything else is
# the model's noise, other people's names first of all.

# %% mystnb={"image": {"alt": "Four panels over the ten likeliest pieces on a logarithmic axis. Temperature 0.5 steepens the fall from the real choices to the noise and temperature 2 flattens it; top-k 3 keeps three pieces, top-p 0.9 several, min-p 0.05 those above a twentieth of the likeliest; what is kept grows."}}
def last_logits(story: str) -> Tensor:
    """`1 v`: what may follow."""
    return model(torch.tensor([tokenizer.encode(story, bos=True, eos=False)]))[:, -1]


tale = ("Once upon a time there was a shy boy named Leo. Leo had a big red hat. He loved to wear it in "
        "the rain.\nOne warm morning, Leo took it to the park.")
given = last_logits(tale)
before, order = given.softmax(-1)[0].sort(descending=True)
names = [tokenizer.decode([int(i)]).replace(" ", "_") for i in order[:10]]

fig, panels = plots.figure("Temperature bends the whole curve; the others cut its tail",
                           x="", y="probability", rows=2, columns=2, size=(6.4, 5.2))
shown = {"temperature 0.5 and 2": (temperature(0.5), temperature(2.0)), "top-k 3": (top_k(3),),
         "top-p 0.9": (top_p(0.9),), "min-p 0.05": (min_p(0.05),)}
for ax, (title, rules) in zip(panels.flat, shown.items(), strict=True):
    ax.bar(range(10), before[:10], color="#d0d0d0")
    for rule, mark, colour in zip(rules, "ov", (plots.BLUE, plots.VERMILION), strict=False):
        after = rule(given).softmax(-1)[0, order[:10]]
        ax.plot(range(10), after.where(after > 0, torch.nan), mark, color=colour, markersize=5)
    ax.set(title=title, yscale="log", ylim=(1e-6, 1.5))
    ax.set_xticks(range(10), names, rotation=60, fontsize=8)
    ax.grid(visible=False, axis="x")

# %% [markdown]
# Grey is the model's own distribution; `_` stands for a space. Circles are what a rule makes of it (and
# triangles, temperature 2); a missing mark is probability 0. Look at the cliff: a handful of real
# choices, then noise; min-p 0.05 lets one wrong name through. Temperature 0.5 pushes the noise down
# and temperature 2 lifts it. The other three cut: what they keep is scaled up, with its proportions
# as they were.
#
# How many tokens are *kept* tells the rules apart. We ask where ten toys could come, at the
# park, and where one answer is right:

# %%
moments = {
    "many choices": "Once upon a time there was a shy boy named Ben. Ben had a big red",
    "a few choices": tale, "one choice": "Once upon a time there was a shy boy"}
for name, story in moments.items():
    here = last_logits(story)
    kept = {title: int(rule(here).isfinite().sum()) for title, rule in
            {"top-k 5": top_k(5), "top-p 0.9": top_p(0.9), "min-p 0.1": min_p(0.1)}.items()}
    print(f"{name:13} likeliest {here.softmax(-1).max():4.0%}   kept: {kept}")
assert top_p(0.9)(here).isfinite().sum() == min_p(0.1)(here).isfinite().sum() == 1
assert names[5] == "_Max" and min_p(0.05)(given).isfinite().sum() == 6      # the wrong name

real = given.softmax(-1)[0] > 0.01
for title, rules in {"top-p 0.9, then heat": (top_p(0.9), temperature(2.0)),
                     "heat, then top-p 0.9": (temperature(2.0), top_p(0.9))}.items():
    bent = given
    for rule in rules:
        bent = rule(bent)
    print(f"{title}: {int(bent.isfinite().sum()):3} pieces kept,"
          f" {bent.softmax(-1)[0, real].sum():.0%} of the draws go to the likely ones")

# %% [markdown]
# Top-k is blind: where one token is right it keeps four wrong ones. The other two close up.
#
# The last two lines show that rules compose and that their *order* matters: heat before a cut lets in
# what the cut would have kept out. Libraries differ here: llama.cpp's default cuts first, `transformers`
# heats first. Ours does what you write, in the order in which you write it.
#
# Three promises, proved. Top-k keeps exactly $k$ even when all are tied. Top-p agrees with the loop. And
# draws come out as often as the probabilities say:

# %%
# twin: llama_edu.sampling.pick
def pick(logits: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    return torch.multinomial(probabilities(logits), 1, generator=generator)


assert int(top_k(3)(torch.zeros(1, 10)).isfinite().sum()) == 3

torch.manual_seed(0)
for p in (0.1, 0.5, 0.9, 1.0):
    row = torch.randn(1, 50) * 2
    kept = top_p(p)(row).isfinite()[0].nonzero().flatten().tolist()
    assert kept == sorted(top_p_loop(row.softmax(-1)[0].tolist(), p))
    torch.testing.assert_close(top_p(p)(row), llama_edu.sampling.top_p(p)(row))

four = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log().expand(20_000, 4)
drawn = pick(four, generator=torch.Generator().manual_seed(0))
print([round(share, 2) for share in (drawn.flatten().bincount() / 20_000).tolist()])

# %% [markdown]
# `probabilities` is a softmax that refuses NaN. The *generator* holds the state of the dice. Who
# hands in the same seed gets the same tale.
#
# ## Many prompts at once: padding on the left
#
# A batch shares each fetch of the weights, but prompts have different lengths. New tokens are
# appended on the right, so the empty places go on the left. Two things must then be told to the model:
# nobody may look at the empty places, and a row's positions count from its first real token.

# %%
# twin: llama_edu.generation.left_pad, llama_edu.generation.places
def left_pad(prompts: Sequence[Tensor]) -> Tensor:
    if not prompts:
        raise ValueError("no prompts were given; one or more is needed. Give a list of tensors.")
    longest = max(len(prompt) for prompt in prompts)
    padded = prompts[0].new_full((len(prompts), longest), NO_TOKEN)
    for row, prompt in zip(padded, prompts, strict=True):
        row[longest - len(prompt):] = prompt
    return padded


def places(pads: Tensor, start: int, end: int) -> tuple[Tensor, Tensor]:
    columns = torch.arange(end, device=pads.device)
    positions = (columns - pads[:, None]).clamp(min=0)
    mask = causal_mask(end - start, end, device=pads.device) & (columns >= pads[:, None, None])
    return positions[:, start:], mask | (columns[start:, None] == columns)

# %% mystnb={"image": {"alt": "Two six by six masks. A full prompt has the usual triangle with positions 0 to 5. A prompt of three tokens behind three empty places has a small triangle in the lower right corner, positions 0, 0, 0, 0, 1, 2, and empty places that see only themselves."}}
ragged = left_pad([torch.tensor([7, 8, 9, 10, 11, 12]), torch.tensor([20, 21, 22])])
positions, mask = places((ragged == NO_TOKEN).sum(1), 0, 6)
print(ragged)

fig, panels = plots.figure("Empty places are seen by nobody but themselves",
                           x="looked at (position in brackets)", y="who looks", columns=2)
for ax, row, where, sees in zip(panels, ragged, positions, mask, strict=True):
    names = ["empty" if t == NO_TOKEN else str(int(t)) for t in row]
    plots.heatmap(ax, sees.float())
    ax.set_xticks(range(6), [f"{n}\n({p})" for n, p in zip(names, where.tolist(), strict=True)])
    ax.set_yticks(range(6), names)
panels[0].set_title("six tokens")
panels[1].set_ylabel("")
_ = panels[1].set_title("three tokens")

# %% [markdown]
# Yellow: may look. An empty place sees itself, because a softmax over nothing is NaN, and a NaN
# spreads. Nobody reads what it computes.
#
# Here is a surprise. Of the two things we told the model, one is not needed by a Llama. Suppose
# we hide the empty places but number the *columns*, so that the short row starts at position 3:

# %%
short = ragged[1:].clamp(min=0)
alone = model(ragged[1:, 3:])[:, -1]
by_column = model(short, positions=torch.arange(6)[None], mask=mask[1:])[:, -1]
unmasked = model(short)[:, -1]

print("positions by column, mask right: largest difference",
      "below 1e-3" if (by_column - alone).abs().max() < 1e-3 else "large")
print("no mask at all:                  largest difference",
      "below 1e-3" if (unmasked - alone).abs().max() < 1e-3 else "large")
assert (by_column - alone).abs().max() < 1e-3 < 0.1 < (unmasked - alone).abs().max()

# %% [markdown]
# Rotary positions are relative (chapter 02), so shifting a whole row changes nothing but rounding. With
# the positions of older models, which are added to the embedding, the same slip gives every
# token of a short prompt another position than in training. We number from the first token all the same. That leaves the row its full context and
# makes it equal to the row alone.
#
# ## Stream: the loop that everything runs in
#
# All parts meet in one loop: prefill, rules, draw, append, decode, stop. It is a generator, so
# the caller sees each token as it comes and may stop listening.

# %%
# twin: llama_edu.generation.stream, llama_edu.generation.next_logits
@torch.inference_mode()
def stream(model: Llama, prompt: Tensor, *rules: Rule, max_new: int,
           stop_ids: Collection[int] = (), generator: torch.Generator | None = None,
           cache: KVCache | None = None) -> Iterator[Tensor]:
    pads = count_pads(model, prompt, max_new=max_new)
    if cache is None:
        cache = model.new_cache(len(prompt), prompt.shape[1] + max_new)
    elif cache.length >= prompt.shape[1]:
        raise ValueError(f"the cache holds {cache.length} tokens and the prompt has "
                         f"{prompt.shape[1]}; one more at least is needed, for its logits. Rewind "
                         "the cache.")
    text = torch.cat([prompt, prompt.new_full((len(prompt), max_new), NO_TOKEN)], dim=1)
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


def next_logits(model: Llama, text: Tensor, cache: KVCache, pads: Tensor) -> Tensor:
    start, end = cache.length, text.shape[1]
    positions, mask = places(pads, start, end) if pads.any() else (None, None)
    tokens = text[:, start:].clamp(min=0)       # any token will do where nobody looks
    last = model.hidden(tokens, cache, positions=positions, mask=mask)[:, -1]
    return model.logits(last)

# %% [markdown]
# `count_pads` counts the empty places and refuses prompts that do not fit. A row that has said a stop token is
# `done`: it yields NO_TOKEN until the others are done too. Greedy needs no code of its own. It is
# `top_k(1)`.
#
# The proof: greedy streaming equals the slow loop, a seed repeats, and a ragged batch equals its rows one by
# one.

# %%
def new_tokens(prompts: list[str], *rules: Rule, seed: int = 0, max_new: int = 40) -> list[list[int]]:
    """What `stream` yields for several prompts, a list for each, empty places left out."""
    padded = left_pad([torch.tensor(tokenizer.encode(p, bos=True, eos=False)) for p in prompts])
    made = torch.cat(list(stream(model, padded, *rules, max_new=max_new, stop_ids=tokenizer.stop_ids,
                                 generator=torch.Generator().manual_seed(seed))), dim=1)
    return [[token for token in row if token != NO_TOKEN] for row in made.tolist()]


assert new_tokens(["Once upon a time"], top_k(1)) == [told[len(prompt):]]
assert new_tokens(["Once"], seed=1) == new_tokens(["Once"], seed=1) != new_tokens(["Once"], seed=2)

three = ["Once", "Once upon a time there was a kind girl named Zoe.", "Once upon a time a"]
assert new_tokens(three, top_k(1)) == [new_tokens([each], top_k(1))[0] for each in three]
print("slow loop = stream; same seed, same tale; batch = one by one")

# %% [markdown]
# ## Play: is the likeliest tale the best?
#
# A tale of our grammar can be judged: `tales.judge` reads it and returns the share of checks that
# hold (the same name throughout, the same thing, the right pronoun, a proper ending). We tell 24
# tales for each setting and score them. What do you expect of greedy: good or bad?

# %%
def tell(*rules: Rule) -> tuple[float, int, list[str]]:
    """The mean score of 24 tales, how many of them differ, and the tales."""
    said = [tokenizer.decode(row) for row in new_tokens([""] * 24, *rules, max_new=220)]
    return statistics.mean(tales.judge(each).score for each in said), len(set(said)), said


settings = {"greedy": (top_k(1),), "T 0.5": (temperature(0.5),), "T 1": (),
            "T 1, top-p 0.9": (top_p(0.9),), "T 1.6": (temperature(1.6),),
            "T 1.6 after min-p 0.1": (min_p(0.1), temperature(1.6))}
told_by = {name: tell(*rules) for name, rules in settings.items()}
for name, (score, different, _) in told_by.items():
    print(f"{name:24} score {score:.2f}   different tales: {different} of 24")

# %% mystnb={"image": {"alt": "Bars of the judge's mean score for six settings, with the number of different tales written on each. Greedy tells one and the same tale 24 times; sampling at temperature 1.6 scores lowest, and min-p before it restores most of the loss."}}
fig, ax = plots.figure("Heat ruins tales through the tail of the distribution",
                       x="judge's score (mean of 24 tales)", y="")
ax.barh(list(told_by), [score for score, _, _ in told_by.values()],
        color=[plots.VERMILION if name == "T 1.6" else plots.SKY for name in told_by])
for y, (score, different, _) in enumerate(told_by.values()):
    ax.text(score - 0.01, y, f"{different} different tale" + "s" * (different > 1), ha="right", va="center", fontsize=8)
ax.set_xlim(0, 1)
ax.invert_yaxis()
assert told_by["greedy"][1] == 1 < told_by["T 1"][1]
assert told_by["T 1.6"][0] < told_by["T 1"][0] - 0.05
assert told_by["T 1.6 after min-p 0.1"][0] > max(told_by["T 1.6"][0] + 0.1, told_by["T 1"][0] - 0.1)

print(told_by["T 1.6"][2][0][:230], "\n")
print(told_by["T 1.6 after min-p 0.1"][2][0][:230])

# %% [markdown]
# Greedy tells one tale, 24 times. It may be a good one, but a story-teller who knows one story is a
# recording. Plain sampling at a temperature of 1.6 falls apart. And the surprise: the *same* temperature
# behind min-p hardly hurts. Heat as such is harmless here, because the real choices are all good, in
# whatever shares. The damage is done by the tail, hundreds of noise tokens with a tiny share each. One such
# token in a line is enough, because the model must then go on from a text that it has never seen the
# like of. (Above the bars: a tale told at 1.6, and one told at 1.6 behind min-p.)
#
# ## Why greedy text goes round in circles
#
# Our tale model stops at the end of its tale, so it has no time to loop. Models of open text have: *"I don't
# know. I don't know. I don't know."* The reason is plainest in the smallest model there is. Count which
# token follows which pair of tokens in 2,000 tales, and always take the commonest.

# %%
follows = defaultdict(Counter)
for tale in tales.stories(2000, seed=0):
    ids = tokenizer.encode(tale.replace("\n", " ") + " ", bos=False, eos=False)
    for a, b, following in zip(ids, ids[1:], ids[2:], strict=False):
        follows[a, b][following] += 1

text, seen = tokenizer.encode("Once upon", bos=False, eos=False), {}
while (state := tuple(text[-2:])) not in seen and follows[state]:
    seen[state] = len(text)
    text.append(follows[state].most_common(1)[0][0])
text += text[seen[state]:] * 2
print(f"back at {tokenizer.decode(list(state))!r} after {len(seen)} tokens; from there for ever:")
print(tokenizer.decode(text))

# %% [markdown]
# The next token is a fixed function of the last two. There are finitely many pairs, so one
# must come back, and from then on everything does. Sampling leaves the circle by chance; greedy
# cannot.
#
# A Llama looks at the whole text, which never comes back exactly. But what attention fetches can: once a
# sentence stands there, the tokens after it are copied with more confidence, and each copy makes the
# next one likelier (Holtzman et al. 2020, figure 4, show it for GPT-2).
# Does ours do that? We tell it one sentence three times:

# %%
sentence = " He looked in a box and by a rock."
piece_ids = tokenizer.encode(sentence, bos=False, eos=False)
log_probs = model(torch.tensor([[tokenizer.bos_id] + piece_ids * 3]))[0].log_softmax(-1)
targets = torch.tensor(piece_ids * 3)
each = log_probs[:-1].gather(1, targets[:, None]).view(3, -1).mean(1).exp().tolist()
print("typical (geometric mean) probability of its tokens, the first, second and third time:",
      [round(p, 4) for p in each])
assert each[1] > each[0] > 0 and each[2] < each[1]

# %% [markdown]
# The second telling is likelier, the third is not: our model has learnt tales, which do not repeat
# themselves.
#
# Two cures are in the package, both rules like the others: `repetition` makes tokens that were there
# less likely, `no_repeat` forbids to complete the same run of $n$ tokens twice. Both are blunt: a
# tale *should* repeat its hero's name. Sampling leaves the circle without forbidding anything, and the
# tail can be cut for it; whether that is enough, the text at hand decides.
#
# ## In the Llamas: how many bytes for one token?
#
# To decode one token a machine reads all weights and the cache of that text. From the configs
# alone, at 16 bits and with the model's full context in the cache:

# %%
def bytes_read(config: ModelConfig, bits: int) -> int:
    """Weights that one pass over one token meets; of a separate embedding table it reads one row."""
    p = parameters(config)
    return (p.total - (p.embedding if p.output else 0)) * bits // 8


print(f"{'':16}{'weights':>10}{'cache, full':>14}{'context':>10}   attention = weights at")
for name in ("llama-1-7b", "llama-2-7b", "llama-2-70b", "llama-3-8b", "llama-3.1-8b", "llama-3.2-1b"):
    c = release(name).config
    p = parameters(c)
    even = (p.attention + p.feed_forward) // (2 * c.n_layers * c.n_heads * c.head_dim)
    print(f"{name:16}{bytes_read(c, 16) / GIB:6.1f} GiB"
          f"{kv_bytes(c, tokens=c.max_seq_len, batch=1, bits=16) / GIB:10.1f} GiB"
          f"{c.max_seq_len:10,}{even:15,} tokens")

# %% [markdown]
# Llama 3.1's context of 131,072 tokens makes the cache of *one* text larger than the weights of the
# 8B, and of the 1B. The last column says from which length on looking back costs more
# multiply-adds than all matrices of the blocks.
#
# ## Fact check: three sentences about caches
#
# > **Claim.** "With a KV cache the cost of a token no longer depends on the length of the text."

# %%
c = release("llama-3.1-8b").config
for total in (1, 8_192, 131_072):
    print(f"{total:8,} tokens: {multiply_adds(c, 1, total) / 1e9:5.1f} billion multiply-adds")
assert multiply_adds(c, 1, 131_072) > 5 * multiply_adds(c, 1, 1)

# %% [markdown]
# **Verdict: wrong.** The part with the matrices is constant; looking back grows with every token. At short
# lengths nobody notices. Without a cache the price of one token grows with the square of the length,
# with one in a straight line. Over a whole text, looking back stays quadratic.
#
# > **Claim.** "Decoding is memory-bound: the processor waits for the weights."
#
# A processor is kept busy if it does enough operations for each byte that it reads. NVIDIA's data sheet
# of the H100 (SXM) gives 989 trillion operations a second in bfloat16 without sparsity, and 3.35 TB/s of
# memory. So how many operations a byte does it need, and how many does decoding offer?

# %%
needs = 989e12 / 3.35e12
print(f"needed: {needs:.0f} operations a byte")
for batch in (1, 16, 256):
    for total in (100, 8_192):
        read_now = bytes_read(c, 16) + kv_bytes(c, tokens=total, batch=batch, bits=16)
        offered = 2 * batch * multiply_adds(c, 1, total) / read_now
        print(f"batch {batch:3}, {total:5,} tokens each: {offered:6.1f} operations a byte, "
              f"{read_now / GIB:6.1f} GiB to read")
print(f"a single text, at best: {3.35e12 / bytes_read(c, 16):.0f} tokens a second")

# %% [markdown]
# **Verdict: right, and for two reasons.** At batch 1 there is about one operation a byte: two for each weight of two
# bytes. A batch shares the weights, so short texts climb towards what the machine needs. But *nobody
# shares a cache*. With 8,192 tokens each, a batch of 256 offers not even twice what a batch of 16 does: it
# reads mostly keys and values, each used once by the few query heads that share it. That is what grouped
# heads (chapter 03) are for.
#
# The last one is a row of a table in the ledger of published claims:

# %%
claims.show("D100")

# %% [markdown]
# The cache is no novelty of Llama 2 or 3. It is a way to run a model, not a part of one. We proved
# that the same weights give the same logits with and without, and that no weight belongs to it. Llama 1
# decodes with one just as well.
#
# ## Exercises: now you
#
# `hint("7.1")` gives a hint. The solutions are in
# [their own notebook](../solutions/07_generation.ipynb).

# %%
def next_distribution(logits: Tensor, temperature: float, k: int) -> Tensor:
    """Exercise 7.1 ●○○ 8 min. logits: `b v`, to probabilities `b v`: temperature, then top-k.

    Exactly k tokens have a probability above 0; among tied ones keep any.
    """
    ### BEGIN SOLUTION
    best = (logits / temperature).topk(k, -1)
    kept = torch.full_like(logits, -torch.inf).scatter(-1, best.indices, best.values)
    return kept.softmax(-1)
    ### END SOLUTION


check("7.1", next_distribution)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 7.1.** *Temperature after the softmax* is tempting because the formula looks the same. But
# dividing probabilities and scaling them back to 1 changes nothing at all: a knob that is not
# connected. *Ties* come from `logits >= kth`, the shortest way to write top-k. In float32 ties are rare;
# in bfloat16, with 8 bits of precision, they are common, and "top 1" may keep two.
# ### END SOLUTION
#
# Now the rule with the boundary. Keep the token that crosses $p$, and none after it.

# %%
def top_p_logits(logits: Tensor, p: float) -> Tensor:
    """Exercise 7.2 ●●○ 10 min. logits: `b v`. Set all to -inf but the smallest set that reaches p."""
    ### BEGIN SOLUTION
    ordered, order = logits.sort(dim=-1, descending=True)
    probs = ordered.softmax(-1)
    cut = probs.cumsum(-1) - probs >= p
    return logits.masked_fill(torch.zeros_like(cut).scatter(-1, order, cut), -torch.inf)
    ### END SOLUTION


check("7.2", top_p_logits)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 7.2.** `cumsum > p` *drops the token that crosses*. Where the model is sure, with 95 %
# on one token, top-p 0.9 then keeps nothing, and code that guards against this by keeping the first hides the
# mistake everywhere else. *One too many* puts a noise token back at every sure place. *Not scattered back* is the
# worst: the cut is right for the sorted order and applied to the unsorted one, so random tokens
# survive.
# ### END SOLUTION
#
# Next, one layer of a cached pass. The past keys come already rotated, as they lie in the cache. You may use
# `rotate` and `rope_table` from `llama_edu.layers`, and `attend` and `causal_mask`.

# %%
def cached_attention(q: Tensor, k: Tensor, v: Tensor, past_k: Tensor, past_v: Tensor,
                     freqs: Tensor) -> Tensor:
    """Exercise 7.3 ●●● 15 min. Attention of new tokens with a cache, to `b h t d`.

    q: `b h t d` and k, v: `b k t d`, of the new tokens, not rotated; past_k (rotated), past_v:
    `b k p d`, of positions 0 to p - 1; freqs: `d/2`.
    """
    ### BEGIN SOLUTION
    t, p = q.shape[2], past_k.shape[2]
    rope = rope_table(freqs, torch.arange(p, p + t))
    q, k = rotate(q, *rope), rotate(k, *rope)
    keys, values = torch.cat([past_k, k], dim=2), torch.cat([past_v, v], dim=2)
    return attend(q, keys, values, causal_mask(t, p + t))
    ### END SOLUTION


check("7.3", cached_attention)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 7.3.** *Positions restarted at 0* give a first token that is right and an answer that
# dissolves, because every new token believes that it stands at the beginning. *The cache rotated again*
# comes from appending before rotation: each pass turns the past a little further. *The mask
# aligned at the start* is what `is_causal=True` does in PyTorch: a single new token then sees only
# the first token of the text. All three run without an error, on any model.
# ### END SOLUTION
#
# A batch of ragged prompts: where does each token stand, and whom does it see?

# %%
def positions_and_mask(pads: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """Exercise 7.4 ●●○ 10 min. pads: `b`, empty places on the left of each row of t columns.

    Positions `b t` (from a row's first token; 0 for empty places) and mask `b t t`, True where a
    column may look. Nobody sees an empty place, except that it sees itself.
    """
    ### BEGIN SOLUTION
    columns = torch.arange(t)
    positions = (columns - pads[:, None]).clamp(min=0)
    real = columns >= pads[:, None]
    mask = causal_mask(t, t) & real[:, None, :] | torch.eye(t, dtype=torch.bool)
    return positions, mask
    ### END SOLUTION


check("7.4", positions_and_mask)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 7.4.** *Padding left visible* is the common one: short prompts answer worse in a
# batch than alone, and nobody knows why. *Empty places that see nothing* give NaN, at once if you are lucky. The
# *positions by column* are harmless in a Llama, as we saw, and fatal elsewhere.
# ### END SOLUTION
#
# Last, the end. Each row of a batch would go on for ever; a stop token ends it.

# %%
def until_stopped(drawn: Tensor, stop_ids: list[int]) -> Tensor:
    """Exercise 7.5 ●●○ 10 min. drawn: `b n`, what a model would say. Return what `stream` yields.

    The stop token itself is yielded, then -1 in that row; when every row has stopped, no more
    columns come.
    """
    ### BEGIN SOLUTION
    stops = torch.isin(drawn, torch.tensor(stop_ids))
    before = stops.cumsum(1) - stops.long()             # stop tokens before each place
    said = drawn.masked_fill(before > 0, NO_TOKEN)
    return said[:, (before == 0).any(0)]
    ### END SOLUTION


check("7.5", until_stopped)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 7.5.** *The first row to stop ends all* cuts off everyone else's answer. *A row that goes
# on* after its stop token writes a second answer behind the first, often to a question that nobody asked. *Only the first stop
# id* is easy to miss: Llama 3's chat models end a turn with another token than a text, so they have two or more.
# ### END SOLUTION
#
# ## Summary: keep the past, cut the tail
#
# - Keys and values of old tokens never change, so each is computed once and kept. Cached and
#   uncached logits are equal.
# - A cached token costs one look at every weight and at every kept key. Reading is the price,
#   not arithmetic; so many tokens in one pass are cheap, and single ones are dear.
# - Rules are functions from logits to logits. Temperature bends, top-k, top-p and min-p cut. What
#   ruins samples is the tail.
# - Ragged prompts are padded on the left: a mask hides the padding, positions count from the first token.
# - Greedy text is one text, and goes round in circles where nothing stops it.
#
# **Read in the package:** `llama_edu.cache`, `llama_edu.sampling`, `llama_edu.generation`, and for speed
# `llama_edu.inference.decoding` and `llama_edu.inference.speculative`. **Read elsewhere:** Holtzman et al. 2020, *The Curious
# Case of Neural Text Degeneration*.
