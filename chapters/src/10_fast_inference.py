# %% [markdown]
# # 10 · Fast inference: where does the time of a token go?
#
# **The question.** A model writes one token, then the next. Chapter 07 taught it to keep its past. What else can be saved, how much, and how does one know that nothing more is to be had?
# And if a thousand people ask at once, what runs out first: arithmetic, the speed of the memory, or its size?
#
# | you will build | you need | minutes |
# |---|---|---|
# | the limit of any pass, early exits as drafts, two guesses for one place, a cache in pages that texts share, and a ladder of measured steps | chapters 03, 07 and 09 | 110 |

# %%
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn

from llama_edu import claims, load, plots
from llama_edu.compress.quant import int8_on_cpu
from llama_edu.compress.surgery import replace_linears
from llama_edu.config import ModelConfig
from llama_edu.exercises import check, hint, reveal, suspects
from llama_edu.family.accounting import (GIB, forward_flops, kv_bytes,
                                         parameters, weight_bytes)
from llama_edu.family.hardware import gpu
from llama_edu.family.releases import release
from llama_edu.generation import begun, stream
from llama_edu.inference.batching import Engine
from llama_edu.inference.decoding import DecodingLlama, one_linear
from llama_edu.inference.paging import PagedCache
from llama_edu.inference.speculative import rounds
from llama_edu.model import Llama
from llama_edu.sampling import top_k
from llama_edu.tokenizer import installed

plots.use_style()
torch.set_num_threads(1)        # so that it is one core's speed we speak of
_ = torch.set_grad_enabled(False)

# %% [markdown]
# ## By hand: two clocks
#
# A machine reads 4 bytes a second and does 16 operations a second, both at the same time. Its model has weights of 12 bytes. The next token of a text costs 24 operations, and the text's cache is 1 byte.
# A pass makes the next token of several texts:

# %% tags=["nbval-check-output"]
for texts, n_bytes, n_operations in ((1, 13, 24), (2, 14, 48), (3, 15, 72)):
    print(f"{texts} texts: {n_bytes} bytes to read, {n_operations} operations")
assert [13 / 4, 24 / 16, 15 / 4, 72 / 16] == [3.25, 1.5, 3.75, 4.5]

# %% [markdown]
# Divide, and two clocks appear. One text: 3.25 seconds of reading, 1.5 of arithmetic. Three: 3.75 and 4.5. For one text the memory decides, for three it is arithmetic, and in between, at some batch that is no whole number, both end together.
# There the throughput bends: before it, a further text is nearly free.
#
# ## The idea: the slower clock decides
#
# That is the *roofline* (Williams et al. 2009) of chapter 09, seen from the side of a batch. It gives a limit that no program can pass, and so it says for every trick what it can win at most. An H100 reads
# 3,350 GB a second and does 989 trillion operations. Llama 3.1 8B in 16 bits has 15 GB of weights to read for a token, and does about 15 billion operations.
#
# > **Predict.** Many texts of 1,024 tokens each are continued by this 8B on one H100. From which batch on does arithmetic decide? A number, or "never".

# %%
guess_bend = None       # your number, or "never"

# %% [markdown]
# ## Your turn: two clocks
#
# `hint("10.1")` gives one hint more at each call. The solutions are in [their own notebook](../solutions/10_fast_inference.ipynb).

# %%
def clocks(weights: float, cache: float, operations: float, batch: int,
           bandwidth: float, rate: float) -> tuple[float, float]:
    """Exercise 10.1 ●○○ 8 min. How long does a pass take at least?

    `weights`: bytes of the model. Of each text, `cache`: bytes of its past;
    `operations`: those of its next token. `batch`: texts. `bandwidth`: bytes
    a second; `rate`: operations a second. Return the least seconds of a pass,
    and the batch at which it bends, not rounded: `math.inf` if it never does.
    """
    ### BEGIN SOLUTION
    reading = weights / bandwidth + batch * (cache / bandwidth)
    slope = operations / rate - cache / bandwidth
    bend = math.inf if slope <= 0 else weights / bandwidth / slope
    return max(reading, batch * operations / rate), bend
    ### END SOLUTION


check("10.1", clocks)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 10.1.** *Weights for each text* forgets what a batch is for. *No cache in the bend* is the one that matters: with it, every model bends somewhere. Each further text brings bytes as well as operations, and if it brings more seconds of reading than of
# arithmetic, the second clock never catches up.
# ### END SOLUTION
#
# ## Build it: the limit of any pass
#
# The package takes the numbers from a config. It returns both clocks, so that one sees how far apart they are. `new` tokens of each text are read in a pass, `before` lie in its cache.

# %% twin="llama_edu.family.accounting.pass_seconds"
def pass_seconds(config: ModelConfig, *, batch: int, before: int, bits: float,
                 cache_bits: int, gb_per_second: float, tflops: float,
                 new: int = 1) -> tuple[float, float]:
    p = parameters(config)
    table = 0 if config.tied_embeddings else p.embedding
    read = ((p.total - table) * bits / 8
            + kv_bytes(config, tokens=before, batch=batch, bits=cache_bits))
    computed = batch * forward_flops(config, tokens=new, before=before)
    return read / gb_per_second / 1e9, computed / tflops / 1e12

# %%
eight_b = release("llama-3.1-8b").config


def on(card: str, batch: int, before: int) -> tuple[float, float]:
    return pass_seconds(eight_b, batch=batch, before=before, bits=16,
                        cache_bits=16, gb_per_second=gpu(card).gb_per_second,
                        tflops=gpu(card).tflops)


def bend(card: str, before: int) -> float:
    return next((batch for batch in range(1, 10_000)
                 if on(card, batch, before)[1] > on(card, batch, before)[0]),
                math.inf)


weights = parameters(eight_b).total - parameters(eight_b).embedding
past = kv_bytes(eight_b, tokens=1024, batch=1, bits=16)
print(f"{2 * weights / 1e9:.0f} GB of weights to read,",
      f"{forward_flops(eight_b, tokens=1) / 1e9:.0f} billion operations;",
      f"1,024 tokens:\n{past / 1e6:.0f} MB. By tokens before, it bends at")
for card in ("A100-80GB", "H100-80GB"):
    print(card, {before: bend(card, before)
                 for before in (0, 64, 128, 256, 512, 1024)})
assert bend("H100-80GB", 256) > 800 and bend("H100-80GB", 1024) == math.inf
reveal("arithmetic decides from batch", guess_bend,
       "never" if bend("H100-80GB", 1024) == math.inf else "a number")

# %% [markdown]
# Never. A text of 1,024 tokens brings 134 MB of keys and values, and reading them takes longer than all of its arithmetic. Only short texts can make an H100 compute as fast as it is able to:

# %% tags=["hide-input"] mystnb={"image": {"alt": "Most tokens a second of Llama 3.1 8B on an H100 against the batch, both logarithmic, for texts of 0, 256, 1,024 and 8,192 tokens. Empty texts rise in a straight line to 66,000 at a batch near 300 and stay; at 1,024 tokens the curve flattens below 25,000 and at 8,192 near 3,000, both without ever meeting arithmetic. Dotted parts do not fit into the card's memory."}}
fig, ax = plots.figure("Long texts never get an H100 to its arithmetic",
                       x="texts in a pass", y="most tokens a second")
batches = [2**n for n in range(11)]
for before, colour in zip((0, 256, 1024, 8192), plots.COLOURS, strict=False):
    fits = [n for n in batches if weight_bytes(eight_b, bits=16) + kv_bytes(
        eight_b, tokens=before, batch=n, bits=16) < gpu("H100-80GB").gib * GIB]
    for some, style in ((batches, ":"), (fits, "-")):
        ax.loglog(some, [n / max(on("H100-80GB", n, before)) for n in some],
                  style, color=colour,
                  label=f"{before:,} tokens each" if style == ":" else None)
ax.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
ax.set(xlim=(0.9, 9000), ylim=(150, 150_000))
plots.label_lines(ax)

# %% [markdown]
# Dotted: what does not fit into its memory, which is the third thing that can run out.
#
# ## Does a small machine bend, too?
#
# One core of yours, and a model of random numbers, large enough not to fit into the processor's cache. First the two speeds, then passes over more and more texts of 32 tokens. (About five seconds.)

# %%
def seconds(work: Callable[[], object], *, rounds: int = 4) -> float:
    """Of some rounds the fastest: a busy machine only makes them slower."""
    work()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def next_pass(model: Llama, text: Tensor) -> float:
    """Seconds for the last token of each row, the others in the cache."""
    before = text.shape[1] - 1
    cache = model.new_cache(len(text), before + 1)
    model.hidden(text, cache)

    def work() -> None:
        cache.rewind(before)
        model.logits(model.hidden(text[:, before:], cache)[:, -1])

    return seconds(work)

# %% [markdown]
# With these, the machine and the sweep:

# %%
row, square = torch.ones(2**25), torch.ones(512, 512)
here_gb = row.nbytes / seconds(lambda: row.sum(), rounds=9) / 1e9
here_tflops = 2 * 512**3 / seconds(lambda: square @ square, rounds=30) / 1e12
here = {"gb_per_second": here_gb, "tflops": here_tflops}
print(f"one core: reads {here_gb:.1f} GB/s, does {here_tflops * 1000:.0f} "
      "billion operations a second")

sized = ModelConfig(
    dim=768, n_layers=4, n_heads=12, n_kv_heads=4, hidden_dim=2048,
    vocab_size=512, norm_eps=1e-5, rope_theta=1e4, max_seq_len=64)
dummy = DecodingLlama(Llama(sized).eval())
sweep = [1, 2, 4, 8, 16, 32, 64, 128]
taken = [next_pass(dummy, torch.zeros(n, 32, dtype=torch.long)) for n in sweep]

# %% tags=["hide-input"] mystnb={"image": {"alt": "Tokens a second against texts in a pass on one core, both logarithmic. The predicted line rises in step with the batch and bends to a flat part at a batch of about ten; the measured points lie below it, farthest at batches of two to eight, and come near it at 128."}}
fig, ax = plots.figure("One core bends as well, and less sharply than counted",
                       x="texts in a pass", y="tokens a second")
least = [max(pass_seconds(sized, batch=n, before=31, bits=32, cache_bits=32,
                          **here)) for n in sweep]
ax.loglog(sweep, [n / t for n, t in zip(sweep, least, strict=True)],
          color=plots.BLUE, label="limit")
ax.loglog(sweep, [n / t for n, t in zip(sweep, taken, strict=True)], "o",
          color=plots.VERMILION, label="measured")
ax.set_xticks(sweep, [str(n) for n in sweep])
low, high = ax.get_ylim()
ticks = [n * 10**power for power in (1, 2, 3, 4) for n in (1, 2, 5)]
ax.set_yticks(ticks, [f"{n:,}" for n in ticks])
ax.minorticks_off()
ax.set_ylim(low, high)
_ = ax.legend()

# %% [markdown]
# For each byte that it reads, a core has far less arithmetic than a card: it bends at a handful of texts. Real passes lie below, most of all in the middle, for a product of a few rows is the case that nobody's kernels are best at.
#
# ## A ladder for one text
#
# Most of us have one text. What can be won for it? The same model on every rung, with the limit beside it: the slower clock, from its bytes and operations. The subject is SmolLM2-135M, a real model of the Llama architecture
# (without its package we take the course's teller of tales, which is so small that its rungs tell little).

# %%
name = "smollm2" if installed.find("smollm2") else "tales"
if name == "tales":
    print(installed.how_to_get("smollm2"))
subject, words = load(name)
PROSE = ("The mill stood at the bend of the river, where the water was slow. "
         "In spring the miller opened the gate and let the wheel turn, and "
         "the whole house shook a little, like an old dog in its sleep.")
text = torch.tensor([begun(words, PROSE)[:44]])
shape, length = subject.config, text.shape[1]
print(f"{name}: {shape.n_layers} blocks, {length} tokens of text")

# %% [markdown]
# The rungs: no cache, so all tokens are read again; a cache; matrices that read the same input joined and laid out for one row (`DecodingLlama`); and these with weights of 8 bits (`int8_on_cpu`; what rounding costs is chapter 11's
# question). (About ten seconds.)

# %%
joined = DecodingLlama(subject)
quick = DecodingLlama(subject, join=one_linear)
_ = replace_linears(quick, ".*", int8_on_cpu)


def limit(new: int, bits: int) -> float:
    return max(pass_seconds(shape, batch=1, new=new, before=length - new,
                            bits=bits, cache_bits=32, **here))


ladder = {
    "no cache": (seconds(lambda: subject.logits(subject.hidden(text)[:, -1])),
                 limit(length, 32)),
    "a cache": (next_pass(subject, text), limit(1, 32)),
    "joined": (next_pass(joined, text), limit(1, 32)),
    "8 bits": (next_pass(quick, text), limit(1, 8))}
for rung, (took, best) in ladder.items():
    print(f"{rung:9}{took * 1000:7.1f} ms a token, limit "
          f"{best * 1000:6.1f} ms: {best / took:4.0%} of what is possible")

# %% [markdown]
# The first step changes *which* limit there is: from arithmetic over the whole text, which grows with every token, to one look at the weights. The second changes nothing about the limit, it comes nearer. The third lowers it: a quarter of the bytes. (A share above 100 % says that
# the machine was busier while its own speed was measured.)
#
# One more rung is not run here, because it takes minutes to prepare: `StaticLlama(compiled=True)` lets `torch.compile` fuse the pass. Measured once on two other cores, it made 15.0 tokens a second of `DecodingLlama`'s 13.1, after 171 seconds.
# On a graphics card, where starting hundreds of small kernels takes longer than running them, it is the largest rung of all (chapter 09).
#
# ## The last rung: guesses without a second model
#
# Chapter 07 let a small model guess and the large one check. A draft must know the same vocabulary, and for SmolLM2 there is none smaller. But a model has a smaller one inside: its first blocks, and then its own norm and output. An *early exit* takes no memory at all.
#
# > **Predict.** A draft of the first 25 of SmolLM2's 30 blocks guesses its next token. How many of 100 guesses are kept?

# %%
guess_kept = None       # of 100

# %% twin="llama_edu.inference.speculative.early_exit"
def early_exit(model: Llama, n_layers: int) -> Llama:
    if not 1 <= n_layers < model.config.n_layers:
        raise ValueError(
            f"a draft of the first {n_layers} blocks was asked for; 1 to "
            f"{model.config.n_layers - 1} of this model's "
            f"{model.config.n_layers} are needed. Choose fewer, or more than "
            "none.")
    draft = Llama.__new__(Llama)
    nn.Module.__init__(draft)
    draft.config = replace(model.config, n_layers=n_layers)
    draft.tok_embeddings, draft.layers = (model.tok_embeddings,
                                          model.layers[:n_layers])
    draft.norm, draft.output = model.norm, model.output
    return draft

# %% [markdown]
# A guess is kept with chance $\sum_x \min(p(x), q(x))$ (chapter 07). We average it over texts that the model writes itself, four of 24 tokens, at temperature 1, because those are the places where it will be asked. For each draft also: how often is its likeliest token the model's?

# %%
dice = torch.Generator().manual_seed(0)
start = text[:, :12].expand(4, -1)
own = torch.cat([start, *stream(joined, start, max_new=24, generator=dice)], 1)
p = joined.logits(joined.hidden(own)[:, 11:]).softmax(-1)
n_blocks = shape.n_layers
exits = sorted({math.ceil(n_blocks * share / 30)
                for share in (5, 10, 15, 20, 25, 27, 28, 29)} - {n_blocks})
kept, same = {}, {}
for n in exits:
    draft = early_exit(joined, n)
    q = draft.logits(draft.hidden(own)[:, 11:]).softmax(-1)
    kept[n] = torch.minimum(p, q).sum(-1).mean().item()
    same[n] = (p.argmax(-1) == q.argmax(-1)).float().mean().item()
    print(f"{n:2} of {n_blocks} blocks: {kept[n]:.2f} kept, the likeliest "
          f"agrees in {same[n]:.2f}")

# %%
deep = max(n for n in exits if n <= n_blocks * 25 / 30)
reveal(f"kept of 100, {deep} of {n_blocks} blocks", guess_kept,
       round(100 * kept[deep]))
cost = {n: parameters(replace(shape, n_layers=n)).total
        / parameters(shape).total for n in exits}
pays = [n for n in exits if kept[n] > cost[n]]
print("exits that pay:", pays or "none")
assert not pays

# %% [markdown]
# Does it pay? One guess costs a share $c$ of a pass, and a guess is kept with chance $r$: $1 + r$ tokens for $1 + c$ passes. So it pays if $r > c$: if the draft agrees more often than it costs.
# (More guesses ahead help a draft that pays, and hurt one that does not.) No exit comes near:

# %% tags=["hide-input"] mystnb={"image": {"alt": "Rate at which guesses are kept against the share of a pass that the draft costs. The line of break-even goes from 0 to 1. The early exits of the model lie far below it everywhere: about a tenth at 5 of 30 blocks, about a quarter at 25, less than a half at 29."}}
fig, ax = plots.figure("No early exit agrees as often as it costs",
                       x="cost of the draft (share of a pass)",
                       y="guesses kept")
ax.plot([0, 1], [0, 1], "--", color=plots.BLACK, linewidth=1,
        label="break-even")
ax.plot([cost[n] for n in exits], list(kept.values()), "o-",
        color=plots.BLUE, label="sampled")
ax.plot([cost[n] for n in exits], list(same.values()), "s-",
        color=plots.VERMILION, label="likeliest token")
for n in exits:
    ax.annotate(f"{n}", (cost[n], kept[n]), (0, -12),
                textcoords="offset points", ha="center", fontsize=8)
_ = ax.legend(title="of its blocks (numbers)", loc="upper left")

# %% [markdown]
# Blocks write for the blocks after them, not for the output. The last ones turn what was gathered into a word, and none of the others was ever trained to. (It can be taught: Elhoushi et al. 2024 train with losses at every exit, *LayerSkip*.) What pays is a small model that was trained to speak. Beside a large one it costs little:

# %%
def tokens_for_a_pass(r: float, c: float) -> tuple[float, int]:
    """With the best number of guesses ahead: tokens for a pass's time."""
    return max((sum(r**i for i in range(ahead + 1)) / (1 + ahead * c), ahead)
               for ahead in range(13))


for small, large in (("llama-3.2-1b", "llama-3.1-8b"),
                     ("llama-3.2-1b", "llama-3.1-70b"),
                     ("llama-3.1-8b", "llama-3.1-405b")):
    c = (parameters(release(small).config).total
         / parameters(release(large).config).total)
    print(f"{small[6:]} for {large[6:]:8} c {c:.3f}:", *(
        f"r {r}: {won:.2f} ({n})" for r in (0.3, 0.6, 0.8)
        for won, n in [tokens_for_a_pass(r, c)]))

# %% [markdown]
# (In brackets: guesses ahead.) The rates are not known here; whoever has both models measures them as we did. Now the last rung, in earnest: sixteen tokens of the 8-bit model, with one guess ahead from its own first blocks.

# %%
def with_guesses(blocks: int) -> list[int]:
    """Tokens of each pass: 16 of them after the text."""
    return [len(new) for _, new in rounds(
        quick, early_exit(quick, blocks), text, top_k(1), max_new=16, ahead=1)]


began = time.perf_counter()
made = with_guesses(deep)
took = (time.perf_counter() - began) / sum(made)
ladder["8 bits, guesses"] = took, limit(1, 8) * (1 + cost[deep]) / 2
print(f"{sum(made)} tokens in {len(made)} passes, {took * 1000:.0f} ms each")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Horizontal bars of milliseconds a token on a logarithmic axis, with a black mark for each rung's limit. Without a cache most; with a cache, joined matrices and 8 bits less and less; guesses by an early exit are slower again than 8 bits alone."}}
fig, ax = plots.figure("Three rungs lead up, and the last one down",
                       x="time of a token (ms); black: the limit", y="")
ax.barh(list(ladder), [1000 * took for took, _ in ladder.values()],
        color=plots.SKY)
for y, (took, best) in enumerate(ladder.values()):
    ax.plot([1000 * best] * 2, [y - 0.4, y + 0.4], color=plots.BLACK,
            linewidth=2)
    ax.text(1000 * took, y, f" {1000 * took:.0f}", va="center", fontsize=8)
ax.set_xscale("log")
_ = ax.invert_yaxis()

# %% [markdown]
# (The last limit supposes that every guess is kept.)
#
# ## Harder: two guesses for one place
#
# A pass that reads one guess can read two for hardly more. So let the draft draw *twice* for the same place, independently, and let one pass check both (trees of such guesses: Miao et al. 2024, *SpecInfer*). The first guess is kept or refused. If it is refused, the second
# is kept or refused. If that is refused too, another token is drawn instead.

# %%
def two_guesses(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Exercise 10.4 ●●● 20 min. Return `first`, `second`, `instead`, each `v`.

    `p` is the model's distribution, `q` the draft's, from which both guesses
    are drawn. `first[x]`: the chance that a first guess `x` is kept;
    `second[x]`: that a second guess `x` is, once the first was refused;
    `instead`: the distribution of what is drawn when both were. What comes
    out must be distributed exactly as `p`; then the first guess is to be kept
    as often as possible, and after that the second. Where `q` is 0, any
    chance will do.
    """
    ### BEGIN SOLUTION
    def one_guess(wanted):
        said = wanted.minimum(q)
        return said / q, (wanted - said) / (1 - said.sum())

    first, left = one_guess(p)
    return first, *one_guess(left)
    ### END SOLUTION


check("10.4", two_guesses)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 10.4.** After a refusal something of $p$ has come out already; what is still to be said is $p' = \max(0, p - q)$, rescaled. It takes the place of $p$, and the second guess is the old problem once more. So any number of guesses can be tried, each against what the ones before it have left.
# *p once more* is the slip that no single text shows. A first guess that was refused has $p' = 0$: drawn a second time it is refused again, so one may as well draw without putting back. For a draft that is often far off, a second guess is far off, too.
# ### END SOLUTION
#
# What does a second guess win for our model? The notebook of solutions measures it with two of the exits.

# %%
### BEGIN SOLUTION
for n in sorted({deep, exits[-1]}):
    draft = early_exit(joined, n)
    q = draft.logits(draft.hidden(own)[:, 11:]).softmax(-1)
    once = torch.minimum(p, q).sum(-1)
    left = torch.relu(p - q) / (1 - once)[..., None]
    twice = once + (1 - once) * torch.minimum(left, q).sum(-1)
    print(f"{n} blocks: {once.mean():.2f} kept of one guess,"
          f" {twice.mean():.2f} of two")
### END SOLUTION

# %% [markdown]
# *A good place to rest. What follows is about many texts at once.*
#
# ## Many texts: how much of the memory is used?
#
# A batch needs room, and room is what runs out. A cache is made before its text exists. How long will the answer be? Nobody knows, so one reserves for the longest. Kwon et al. (2023) looked into such systems and found 20 to 38 % of the memory for keys and values in use.
#
# Here are 64 requests for the teller, whose context is 256. Prompts of 8 to 40 tokens; answers with a long tail, as in real traffic: many short, few long.

# %% tags=["nbval-check-output"]
dice = random.Random(0)
asked = [(dice.randint(8, 40), min(200, 1 + int(dice.lognormvariate(3.3, 1))))
         for _ in range(64)]
answers = sorted(new for _, new in asked)
totals = [before + new for before, new in asked]
print(f"answers: half have {answers[32]} tokens or more, the longest "
      f"{answers[-1]}")
print(f"a reserve of 256 tokens for each: {sum(totals) / 64 / 256:.0%} is used "
      "at the end,\nand less before")

# %% [markdown]
# The remedy is as old as operating systems: *pages*. Memory is cut into *blocks* of 16 tokens, say. A text takes a block when its last one is full, wherever one is free, and a *table* says which blocks are its own, in order. At most one block of each text is not full.
#
# ## Your turn: read a text from its pages

# %%
def gathered(pages: Tensor, table: Tensor, length: int) -> Tensor:
    """Exercise 10.2 ●●○ 8 min. Return the keys of one text, `k s d`.

    `pages`, `n_blocks size k d`: one layer's keys of all texts, `size` tokens
    to a block, `k` heads of `d` features. `table`: the numbers of the text's
    blocks, in its order. `length`: its tokens, `s`; the last block may not be
    full. No loop.
    """
    ### BEGIN SOLUTION
    token = torch.arange(length)
    size = pages.shape[1]
    return pages[table[token // size], token % size].transpose(0, 1)
    ### END SOLUTION


check("10.2", gathered)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 10.2.** Two numbers find a token: its block's place in the table, `token // size`, and its place in the block, `token % size`. *Not cut* reads what the block's last owner left there. *No table* is right as long as one text is alone, and so it survives every test of one text.
# ### END SOLUTION
#
# Pages bring a second gift. Texts that begin alike, with the same instructions, may *share* the blocks of their beginning: each block then counts its *holders*, the tables that contain it. A text may read a shared block. But write?
#
# ## Your turn: where does the next token go?

# %%
def next_place(table: list[int], length: int, size: int, holders: list[int],
               idle: list[int]
               ) -> tuple[list[int], list[int], list[int], int | None]:
    """Exercise 10.3 ●●○ 12 min. Make room for one more token of a text.

    `table`: its blocks, of `size` tokens, no more than its `length` tokens
    need. `holders[b]`: how many tables contain block b. `idle`: blocks that
    none does, the next to be taken first; one at least. Return the new table,
    holders and idle, and the block that must be copied into a new one before
    the token is written, or None. Change nothing that others read, and none
    of the lists that you are given.
    """
    ### BEGIN SOLUTION
    full = len(table) * size == length
    if not full and holders[table[-1]] < 2:
        return table.copy(), holders.copy(), idle.copy(), None
    counts = holders.copy()
    counts[idle[0]] += 1
    if full:
        return table + idle[:1], counts, idle[1:], None
    counts[table[-1]] -= 1
    return table[:-1] + idle[:1], counts, idle[1:], table[-1]
    ### END SOLUTION


check("10.3", next_place)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 10.3.** *Copy on write*: a shared block that has room is copied at the moment when somebody writes, and not before; a shared one that is full will never be written and is never copied. *Written in place* shows only when both texts go on, *not let go of* only when the memory is full, weeks later.
# ### END SOLUTION
#
# ## Build it: pages in the cache's place
#
# For the model nothing changes: a layer's slot takes new keys and values and returns all that the text has. `places` and `blocks` were computed once for the pass, for every row. (The copy that `_gathered` makes is the price here; on a card a kernel reads the pages where they are.)

# %% twin="llama_edu.inference.paging.PagedSlot"
@dataclass(frozen=True)
class PagedSlot:
    cache: PagedCache
    keys: Tensor
    values: Tensor

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        for pages, new in ((self.keys, k), (self.values, v)):
            pages.flatten(0, 1)[self.cache.places] = rearrange(
                new, "b k t d -> b t k d")
        return self._gathered(self.keys), self._gathered(self.values)

    def _gathered(self, pages: Tensor) -> Tensor:
        blocks = self.cache.blocks
        rows = pages.index_select(0, blocks.flatten())
        rows = rearrange(rows, "(b n) s k d -> b k (n s) d", b=len(blocks))
        return rows[:, :, :self.cache.mask.shape[-1]]

# %% [markdown]
# Around it stands an `Engine`: requests wait, are let in when there is room, and leave when they are done. A text that leaves makes room *at once*; the next pass has another in its row (Yu et al. 2022, *Orca*: continuous batching). The proof that pages and company change nothing:

# %%
teller, tokenizer = load("tales")
beginnings = ["Once upon a time", "One warm morning, Leo took it to the park."]
prompts = [begun(tokenizer, each) for each in beginnings]
engine = Engine(teller, 16, block_size=16, max_batch=2)
together = [engine.submit(each, top_k(1), max_new=40) for each in prompts]
engine.run()
for each, request in zip(prompts, together, strict=True):
    alone = stream(teller, torch.tensor([each]), top_k(1), max_new=40)
    assert request.answer == torch.cat(list(alone), 1)[0].tolist()
print("in pages and in company: token for token as alone")

# %% [markdown]
# ## What do pages save?
#
# The 64 requests come at random times, one every two passes on average. There is memory for 1,024 tokens. Reserved as a whole that is four texts at once. In blocks of 16, as many as there is room for:

# %%
def prompt_of(n: int, seed: int) -> list[int]:
    dice = torch.Generator().manual_seed(seed)
    return torch.randint(3, 700, (n,), generator=dice).tolist()


def serve(engine: Engine) -> list[tuple[int, int, int]]:
    """After each pass: tokens reserved, tokens used, requests waiting."""
    dice, rows, coming, clock = random.Random(0), [], list(asked), 0.0
    while coming or engine.waiting or engine.running:
        while coming and clock <= len(rows):
            before, new = coming.pop(0)
            engine.submit(prompt_of(before, len(coming)), top_k(1),
                          max_new=new)
            clock += dice.expovariate(1 / 2)
        engine.step()
        reserved = engine.pool.in_use * engine.pool.block_size
        rows.append((reserved, reserved - engine.wasted, len(engine.waiting)))
    return rows


# the engine keeps a block free for each text that runs; a whole text needs
# none, so it gets eight for four
served = {"whole": serve(Engine(teller, 8, block_size=256, max_batch=4)),
          "pages": serve(Engine(teller, 64, block_size=16, max_batch=64))}

# %% [markdown]
# How much of what is reserved is in use, summed over all passes? And how long does it take until everybody has an answer?

# %%
share = {}
for how, rows in served.items():
    reserved, used, waiting = (sum(column) for column in
                               zip(*rows, strict=True))
    share[how] = used / reserved
    print(f"{how}: {len(rows)} passes until all are answered, "
          f"{share[how]:.0%} of what is reserved\n       is used, "
          f"{waiting / len(rows):.0f} requests wait on the mean")
assert share["whole"] < 0.35 < 0.85 < share["pages"]

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels of tokens in memory against passes. Reserved as a whole, 1,024 tokens are held nearly all the time and about a quarter of them is used, for about 760 passes. In pages used and reserved run close together, reach the same memory, and all is done in less than half as many passes."}}
fig, panels = plots.figure("Pages hold what is used, so more texts fit",
                           x="passes", y="tokens in memory", columns=2)
for ax, (how, rows) in zip(panels, served.items(), strict=True):
    reserved, used, _ = zip(*rows, strict=True)
    ax.fill_between(range(len(rows)), reserved, color="#d0d0d0")
    ax.fill_between(range(len(rows)), used, color=plots.BLUE)
    ax.set(title=f"{how}: grey reserved, blue used", ylim=(0, 1100),
           xlim=(0, len(served["whole"])))
_ = panels[1].set_ylabel("")

# %% [markdown]
# The same memory, and several times as many texts in it. Kwon et al. report 96 % used; our texts are short, and half a block each is more of them.
#
# ## Who waits for the longest?
#
# Now without the question of memory: all 64 are there, and a pass has eight rows. *Static* batching takes eight, and the next eight when the longest is done. (The first token of an answer comes from the pass over its prompt. We count the passes over single tokens, which make the others.)
#
# > **Predict.** The next cell says how many passes static batching takes, and how many are the least for eight rows. And continuous batching?

# %%
guess_passes = None     # of continuous batching
news = [new - 1 for _, new in asked]
static = sum(max(news[i:i + 8]) for i in range(0, 64, 8))
least = math.ceil(sum(news) / 8)
print(f"static: {static} passes; at the least {least}")

# %%
engine = Engine(teller, 256, block_size=16, max_batch=8)
for seed, (before, new) in enumerate(asked):
    engine.submit(prompt_of(before, seed), top_k(1), max_new=new)
engine.run()
continuous = engine.passes - len(asked)     # each prompt had one of its own
print(f"continuous: {continuous} passes and {len(asked)} over prompts")
reveal("passes", guess_passes, continuous)
assert least <= continuous < static / 2

# %% [markdown]
# Less than half. What is left above the least is the end, when the last long answers run alone.
#
# ## One beginning for all
#
# 24 requests begin with the same 64 tokens, as the instructions of a product do, and go on with eight of their own. The engine names each full block by its tokens and all before them, so it finds those that are there already:

# %%
def read_and_held(shared: bool) -> tuple[int, int]:
    """Tokens that the model read, and the most blocks held at once."""
    engine, most = Engine(teller, 128, block_size=16, max_batch=8), 0
    for seed in range(24):
        begin = prompt_of(64, seed=100 if shared else 100 + seed)
        engine.submit(begin + prompt_of(8, seed), top_k(1), max_new=16)
    while engine.waiting or engine.running:
        engine.step()
        most = max(most, engine.pool.in_use)
    return engine.tokens, most


for shared in (False, True):
    tokens, most = read_and_held(shared)
    print(f"{'shared' if shared else 'each its own':12} beginning: {tokens:,} "
          f"tokens read, {most} blocks at most")
assert tokens == 24 * (8 + 15) + 64

# %% [markdown]
# The beginning is read once, not 24 times, and held once.
#
# ## Find the bug: six paged caches
#
# `caches["a"](n_blocks=8, size=4)` makes a cache whose keys are the tokens themselves. It knows texts by names: `append(text, tokens)`, `read(text)`, `fork(old, new)` (a second text that begins with all of the first), `end(text)`, after which the name may be used again, and `free`, the number of blocks that nobody holds.

# %%
caches = suspects("10.5")       # a, b, c, d, e, f
cache = caches["d"](n_blocks=8, size=4)
cache.append("x", [1, 2, 3])
cache.fork("x", "y")
print(cache.read("y"), cache.free, "blocks free")

# %% [markdown]
# Possible verdicts: `healthy`; `table indexed by token`; `freed block still read`; `shared prefix written in place`; `off by one at block border`; `length not reset`; `reference count forgotten`; `copy left empty`; `shared block never given back`. At most one thing is wrong with each.

# %%
# Exercise 10.5 ●●○ 15 min. Which mistake is in which suspect? Replace each `"?"` by a verdict.
verdicts = {"a": "?", "b": "?", "c": "?", "d": "?", "e": "?", "f": "?"}
### BEGIN SOLUTION
verdicts = {"a": "reference count forgotten",
            "b": "off by one at block border", "c": "length not reset",
            "d": "healthy", "e": "shared prefix written in place",
            "f": "freed block still read"}
### END SOLUTION

check("10.5", verdicts)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 10.5.** Five tokens alone: `b` reads its fifth in the place of the first. End that text, begin anew under the name with one token, and let another text take five: `c` has six tokens, and `f` reads the other's. Fork three tokens, let both go on: in `a` and `e` each overwrites the other. End the first and let a third come: `a` reads the
# third's tokens, for nobody had counted that the fork holds them. One healthy text shows none of this.
# ### END SOLUTION
#
# ## In the Llamas: how many texts fit on a card?
#
# Llama 3.1 8B in 16 bits, with 1,024 tokens a text: reserved for 8,192, as one had to before there were pages, or as they are.

# %% tags=["nbval-check-output"]
for card in ("A100-80GB", "H100-80GB", "H200"):
    room = gpu(card).gib * GIB - weight_bytes(eight_b, bits=16)
    print(card, *(
        f"{how}: {n} texts, {n / max(on(card, n, 1024)):,.0f} tokens/s"
        for how, tokens in (("reserved", 8192), ("pages", 1024))
        for n in [int(room // kv_bytes(eight_b, tokens=tokens, batch=1,
                                       bits=16))]))

# %% [markdown]
# (At the limit, and with nothing else in memory.) The eightfold room is not eight times the speed: each text's cache must be read, whoever holds it. So the next thing to make smaller is the cache: grouped heads did so in the architecture (chapter 03), fewer bits do so afterwards (chapter 11).
#
# ## Fact check: what is it all for?
#
# `right`, `imprecise` or `wrong`?

# %%
claims.judge({"C10": "?"})

# %% [markdown]
# Judge before you run the next cell.

# %%
claims.show("C10")

# %% [markdown]
# That is why a small model is trained for so long: all that this chapter counts is paid for every token, for as long as the model is used.
#
# ## Summary: two clocks and a full house
#
# - A pass takes at least as long as the slower of two clocks: bytes to read, operations to do. Every trick either lowers a clock or comes nearer to it.
# - For one text the clock of bytes decides. A cache, fewer bits and fewer starts are what helps.
# - A batch shares the weights and not the caches. With texts of 1,024 tokens an 8B never brings an H100 to its arithmetic.
# - A draft pays if it agrees more often than it costs. SmolLM2's own first blocks do not; they were not trained to.
# - Pages let texts take memory as they grow, share beginnings, and leave when they are done.
#
# **Read in the package:** `llama_edu.inference` (`decoding`, `static`, `speculative`, `paging`, `batching`), `llama_edu.family.accounting`. **Read elsewhere:** Kwon et al. 2023, *Efficient Memory Management for Large Language Model Serving with PagedAttention*; Leviathan et al. 2023, *Fast Inference from
# Transformers via Speculative Decoding*; Miao et al. 2024, *SpecInfer*.
