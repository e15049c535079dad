# %% [markdown]
# # 00 · Start here: one family, one course
#
# **The question.** What happens inside a machine that goes on with your words, and which part of it
# could you leave out? Between February 2023 and December 2024 Meta published over thirty language
# models under one name, Llama. This course builds every part of them by hand, until real weights run
# in our own code.
#
# | you will build | you need | minutes |
# |---|---|---|
# | three broken models, ten verdicts, and one line to try a check | Python | 35 |
#
# No GPU and no network are needed. Two processor cores are enough for every chapter; where a chapter
# can do more with a GPU, it says so. Run the cells from top to bottom with Shift+Enter.

# %%
import math
import textwrap
from collections import Counter
from copy import deepcopy
from dataclasses import fields
from itertools import pairwise

import torch
from einops import einsum, rearrange
from torch import Tensor
from torch.nn import functional as F

from llama_edu import chat, claims, generate, load, plots
from llama_edu.data import tales
from llama_edu.exercises import check, hint, progress, reveal
from llama_edu.family.accounting import parameters, training_flops
from llama_edu.family.releases import RELEASES, release
from llama_edu.tokenizer import installed

plots.use_style()
torch.set_num_threads(1)  # for small models: threads would wait for one another

# %% [markdown]
# ## It speaks
#
# A small Llama comes with this course. We call it the *teller*, for it was trained on nothing but small
# tales. Write another beginning, if you like: `One morning`, say. (It knows 760 pieces of text and
# nothing else. See what it makes of a beginning that no tale has.)

# %%
beginning = "Once upon a time"


def wrapped(text: object) -> str:
    """What a column of the book can hold."""
    return "\n".join(textwrap.fill(line, 79) for line in str(text).split("\n"))


teller, tokenizer = load("tales")
print(wrapped(beginning + generate(teller, tokenizer, beginning)))
n_parameters = sum(w.numel() for w in teller.parameters())
print(f"\n({n_parameters:,} parameters told this)")

# %% [markdown]
# A *parameter* is one number that training has set. Now a model that answers: SmolLM2, a relative of the
# Llamas, with the same parts and other weights than Meta's. Put your own words into the first line.
# (About five seconds. The model lies in a package of its own; if you lack it, the cell says how to get
# it.)

# %%
yours = "What is the capital of France?"

if installed.find("smollm2") is None:
    print(installed.how_to_get("smollm2"))
else:
    relative, words = load("smollm2")
    print(f"{sum(w.numel() for w in relative.parameters()):,} parameters")
    for said in (yours, "Tell me about llamas in one sentence."):
        print("you:", said)
        answer = chat(relative, words, said, format="smollm2",
                      temperature=0, max_new=40)
        print(wrapped(f"it:  {answer}"))

# %% [markdown]
# It answers in whole sentences, and not all of them are true. Ours called the llama *Lama mascina*; its
# Latin name is *Lama glama*. (A `temperature` of 0 takes the likeliest word always; chapter 07.) To speak well and to know are two things, and this course is about how the first is done.
#
# ## Break one part
#
# A model reads *tokens*, numbers that stand for pieces of text. For each place in the text it gives
# one score to each token that it knows: the higher, the likelier to come next. So a teller is a loop.
# Read all, take the token with the highest score, write it down, begin again.

# %%
@torch.no_grad()
def tell(model, text: str, n: int = 50) -> str:
    """The text and n more tokens, the likeliest each time."""
    ids = tokenizer.encode(text, bos=True, eos=False)   # bos, eos: begin, end
    for _ in range(n):
        scores = model(torch.tensor([ids]))[0, -1]      # at the last place
        ids.append(int(scores.argmax()))
    return tokenizer.decode(ids)


unseen = list(tales.stories(30, seed=2026))  # it was trained on seed 0
rows = [torch.tensor([tokenizer.encode(tale, bos=True, eos=True)])
        for tale in unseen]


@torch.no_grad()
def loss(model) -> float:
    """Mean surprise at the next token of thirty tales, in nats."""
    sums = [F.cross_entropy(model(row[:, :-1])[0], row[0, 1:], reduction="sum")
            for row in rows]
    return float(sum(sums)) / sum(row.shape[1] - 1 for row in rows)


n_guessed = {tale: row.shape[1] - 1
             for tale, row in zip(unseen, rows, strict=True)}
floor = tales.floor_per_token(unseen, n_guessed.get)
whole = loss(teller)
print(f"the teller {whole:.2f}, the best possible {floor:.2f} nats per token")
print(f"a choice among {math.exp(whole):.2f} tokens,",
      f"of {tokenizer.n_vocab} known")
assert 0 < whole - floor < 0.05
assert round(math.log(tokenizer.n_vocab), 2) == 6.63

# %% [markdown]
# The *loss* says how surprised a model is by the token that really comes next, on average over all
# places of thirty tales that it never saw. Its unit is the nat: a loss of $L$ is the surprise of a
# choice among $e^L$ equally likely tokens. The tales were drawn by chance, from rules that say what may
# follow what and how often (their *grammar*). Who knows these rules is surprised by 0.42 on average, and
# nobody can do better; the teller is close. It hesitates as if among 1.56 tokens. Who treats all 760 alike
# has a loss of $\ln 760 = 6.63$.
#
# Now we break it, one part at a time. A model is a function from tokens to scores, so a broken one
# is a few lines around the whole one.
#
# - **The mask** keeps each token from looking at those after it. Without it, a token may even look at
#   the very one that it should guess.
# - **The position.** Tokens are told apart by where they stand. We tell each that it is the first.
# - **A norm** brings the numbers of each token to one size, and multiplies each by a weight that was
#   learnt. We double these weights in the first of the seven norms, of a copy.

# %%
def without_mask(ids: Tensor) -> Tensor:
    n = ids.shape[1]
    all_may_look = torch.ones(1, n, n, dtype=torch.bool)
    return teller(ids, mask=all_may_look)


def without_position(ids: Tensor) -> Tensor:
    return teller(ids, positions=torch.zeros_like(ids))


def with_louder(*parts: str):
    broken = deepcopy(teller)
    for part in parts:
        broken.get_submodule(part).weight.data *= 2
    return broken

# %% [markdown]
# **Predict** before you run on. Which of the three hurts the loss most? And without the mask, when the
# answer lies open: does the loss rise or fall?

# %%
worst_guess = "?"  # "mask", "position" or "norm"
mask_guess = "?"  # "rises" or "falls"

# %% [markdown]
# (About five seconds.)

# %%
broken = {"nothing": teller, "mask": without_mask, "position": without_position,
          "norm": with_louder("layers.0.attention_norm")}
losses = {part: loss(model) for part, model in broken.items()}
for part, model in broken.items():
    print(f"--- broken: {part}. {losses[part]:.2f} nats per token")
    print(wrapped(tell(model, "Once upon a time")), "\n")

# %%
worst = max(losses, key=losses.get)
fate = "rises" if losses["mask"] > losses["nothing"] else "falls"
print(reveal("hurts most", worst_guess, worst))
print(reveal("without the mask the loss", mask_guess, fate))
assert losses["norm"] > losses["mask"] > losses["position"] > 4 * whole
assert teller.layers[0].attention_norm.weight.numel() == 96

# %% [markdown]
# The norm, by far: 96 doubled numbers, and the words no longer make a sentence. Without positions the
# tale goes round in circles. Without the mask the answers lie open, and the loss rises all the same,
# for these weights never learnt to look ahead. And yet the tale is told almost as before!
#
# A loss is taken at all places of a finished tale, where something lies ahead; a teller stands at the
# end, where nothing does. If that is the reason, then a loss in which each token is guessed from a text
# that ends before it should hardly rise. Two tales are enough to see it. (About five seconds.)

# %%
@torch.no_grad()
def loss_at_the_end(model, texts: list[Tensor]) -> float:
    """As in telling: each token is guessed from a text that ends before it."""
    each = [F.cross_entropy(model(row[:, :n])[0, -1], row[0, n])
            for row in texts for n in range(1, row.shape[1])]
    return float(sum(each)) / len(each)


at_the_end = {part: loss_at_the_end(broken[part], rows[:2])
              for part in ("nothing", "mask")}
for part, value in at_the_end.items():
    print(f"broken: {part:8} {value:.2f} nats per token, at the text's end")
all_rows, rows = rows, rows[:2]
print(f"the same two tales, no mask, read whole: {loss(without_mask):.2f}")
rows = all_rows
assert at_the_end["mask"] - at_the_end["nothing"] < 0.1

# %% [markdown]
# (Here too the earlier tokens look ahead, up to the end of the text. That costs next to nothing. What
# confuses the model is a guess at a place that sees what comes after it.) So the mask is for reading
# many places at once, and that is how a model is trained (chapter 03). Now the norms. The teller has three blocks, each with two norms, and one norm at the end. We doubled the
# first. **Predict:** which of the seven can be doubled at the least cost?

# %%
norms = [name for name, _ in teller.named_modules() if name.endswith("norm")]
quiet_guess = "?"  # one of these names

print(*norms, sep="\n")

# %% [markdown]
# (About three seconds.)

# %%
doubled = {name: loss(with_louder(name)) for name in norms}
for name, value in doubled.items():
    print(f"{name:24} {value:.2f} nats per token")
quiet = min(doubled, key=doubled.get)
reveal("hurts least", quiet_guess, quiet)

# %% [markdown]
# What hurts depends on the place. Behind the last norm there is only a matrix product: double its weights,
# and each score is exactly doubled. The highest stays the highest, so the tale is the same to the letter;
# only the odds are sharper than they should be.

# %%
last_doubled = with_louder("norm")
with torch.no_grad():
    assert torch.equal(last_doubled(rows[0]), 2 * teller(rows[0]))
tales_told = [tell(model, "Once upon a time")
              for model in (teller, last_doubled)]
assert tales_told[0] == tales_told[1]

# %% [markdown]
# And the first one? It feeds three matrices of the first attention. Two make a *query* (what a token looks
# for) and a *key* (what it offers), which meet in a product; the third makes a *value* (what is handed
# over). Doubling the norm doubles all three. We double them apart:

# %%
first = "layers.0.attention"
for parts in (("wq", "wk"), ("wv",), ("wq", "wk", "wv")):
    value = loss(with_louder(*(f"{first}.{part}" for part in parts)))
    print(f"{' '.join(parts):9} doubled: {value:.2f} nats per token")
assert round(value, 3) == round(losses["norm"], 3)

# %% [markdown]
# A match that counts four times is bad, a value that is twice as loud is bearable. It is both together
# that ruin the tale, and there is no single culprit.
#
# Break more, if you like. On a copy, `broken.layers = broken.layers[:2]` leaves the last block out;
# `with_louder("layers.1.attention.wo")` is a surprise. (These numbers are of one small teller. The order need not be that of another model.)
#
# ## What is inside?
#
# Here is the whole machine, from the tokens up: on the left the model, on the right one of its blocks.
# Each part bears the number of the chapter that builds it.

# %% tags=["hide-input"] mystnb={"image": {"alt": "A drawing of a Llama, read from the bottom up. Left: tokens, embedding, block 1, block 2 and so on to block n, final norm, output, next token. Right, inside each block: norm; queries, keys and values; RoPE turns queries and keys by position; match and mask; mix the values; add to what came in; norm again; SwiGLU; add again. Two lines lead past the parts to the additions. Each part bears the number of its chapter, 01 to 07."}}
PARTS = {  # where it stands, and the chapter that builds it
    "tokens": (0, 0, "05"), "embedding": (0, 1, "06"),
    "block 1": (0, 2, "06"), "block 2": (0, 3, "06"),
    "block n": (0, 5, "06"), "final norm": (0, 6, "01"),
    "output": (0, 7, "06"), "next token": (0, 8, "07"),
    "norm": (3, 0, "01"), "queries": (1.9, 1, "03"),
    "keys": (2.9, 1, "03"), "values": (4.1, 1, "03"),
    "RoPE: turn by position": (2.4, 2, "02"),
    "match, mask": (2.4, 3, "03"), "mix the values": (3, 4, "03"),
    "add": (3, 5, "06"), "norm again": (3, 6, "01"),
    "SwiGLU": (3, 7, "04"), "add again": (3, 8, "06"),
}
WAYS = (
    ("tokens", "embedding", "block 1", "block 2", "block n", "final norm",
     "output", "next token"),
    ("norm", "queries", "RoPE: turn by position", "match, mask",
     "mix the values", "add", "norm again", "SwiGLU", "add again"),
    ("norm", "keys", "RoPE: turn by position"),
    ("norm", "values", "mix the values"),
)
TINTS = {"01": "#cfe8f7", "02": "#fdf3b5", "03": "#fbdcae", "04": "#bfe6da"}

fig, ax = plots.figure(
    "Embed, n times the same block, norm, output", x="", y="", size=(6.4, 7))
for name, (x, y, chapter) in PARTS.items():
    colour = TINTS.get(chapter, "#eeeeee")
    ax.text(x, y, f"{name} $\\bf{{{chapter}}}$", ha="center", va="center",
            fontsize=11, bbox={"boxstyle": "round", "facecolor": colour})
for a, b in [pair for way in WAYS for pair in pairwise(way)]:
    ax.annotate("", PARTS[b][:2], PARTS[a][:2],
                arrowprops={"arrowstyle": "->", "shrinkA": 13, "shrinkB": 13})
for low, high, edge in ((-0.6, 5, 3.3), (5.5, 8, 3.6)):  # past a part
    ax.plot((3, 4.9, 4.9), (low, low, high), color="black", linewidth=1)
    ax.annotate("", (edge, high), (4.9, high), arrowprops={"arrowstyle": "->"})
ax.annotate("", (3, -0.3), (3, -0.9), arrowprops={"arrowstyle": "->"})
ax.text(0, 4, "...", ha="center", fontsize=14, backgroundcolor="white")
ax.text(3, 8.6, "inside each block", ha="center", style="italic")
ax.set(xlim=(-0.8, 5.1), ylim=(-1, 8.8))
_ = ax.axis("off")

# %% [markdown]
# What runs up the left, and inside a block along the line on the right, is the *residual stream*: a row of
# numbers for each token. No part replaces it; each reads it and adds something.
#
# | part | what it does | built in |
# |---|---|---|
# | norm | brings a token's numbers to one size | [01 · RMSNorm](01_rmsnorm.ipynb): what LayerNorm's mean was worth |
# | RoPE | turns queries and keys by their position | [02 · RoPE](02_rope.ipynb): how a dot product learns to count |
# | queries, keys, values, mask | fetch what is needed from earlier tokens | [03 · Attention](03_attention.ipynb): how tokens find one another, and what remembering costs |
# | SwiGLU | works on each token alone | [04 · SwiGLU](04_swiglu.ipynb): gates, and why they are eight thirds wide |
# | tokens | text as numbers | [05 · Tokenizers](05_tokenizers.ipynb): why 1234 is four tokens in one Llama and two in another |
# | embedding, block, addition, output | the whole | [06 · The model](06_model.ipynb): where eight billion parameters sit |
# | next token | from scores to text | [07 · Generation](07_generation.ipynb): one token after the other, quickly and well |
# | the weights | how they were learnt | [08 · Training a tiny Llama](08_training.ipynb): a model that tells tales, trained before your eyes |
# | the weights of others | how they are read | [09 · Real weights](09_real_weights.ipynb): published files opened, and the bug that reads fluent |
#
# ## How shapes are written
#
# All these numbers lie in tensors, which have several axes. A letter names an axis, and means the same in
# the whole course. Five are enough for now: `b` texts in a batch, `t` tokens, `c` numbers in the stream of
# one token, `h` heads, `d` numbers in one head. Three dots stand for any axes in front: `... c`. (To look up
# later: `s` tokens that are looked at, `k` heads of keys and values, `g` heads of queries that share one of
# these, `f` the width inside SwiGLU, `v` tokens of the vocabulary, `n` blocks.)
#
# The package einops takes these letters as they are. `rearrange` reads what is there, left of the
# arrow, and gives what is asked, right of it. Brackets hold two axes in one. **Predict:** one text,
# two tokens, six numbers for each; split between two heads. What does the second head get of the first
# token?

# %%
x = torch.arange(12).reshape(1, 2, 6)  # b t c: 0 to 5, then 6 to 11
head_guess = None  # three numbers, such as [0, 1, 2]

# %%
heads = rearrange(x, "b t (h d) -> b h t d", h=2)
print(tuple(x.shape), "becomes", tuple(heads.shape))
reveal("second head, first token", head_guess, heads[0, 1, 0].tolist())

# %% [markdown]
# The second head has the second half. And `einsum` multiplies: a letter that is missing on the right is
# summed over. Here each token's six numbers are weighed and summed: the first token's 0 to 5 give
# $1 \cdot 0 + 10 \cdot 5$. What does the second give?

# %%
weigh = torch.tensor([1, 0, 0, 0, 0, 10])
einsum(x, weigh, "b t c, c -> b t")

# %% [markdown]
# ## What do you believe?
#
# Much is written about the Llamas, and much of it is copied. Here are ten sentences that circulate. (65B is
# the largest Llama 1, with 65 billion parameters, 13B its second smallest; the larger vocabulary is that of
# Llama 3. Letter and number are a sentence's place in our ledger.) Judge them before you read on: `right`,
# `wrong`, or `imprecise` for what is only half true. Nobody knows them all; guess.

# %%
verdicts = dict.fromkeys(["A06", "B18", "B22", "D86", "E03",
                          "A20", "B15", "D67", "B36", "A90"], "?")

print(claims.judge(verdicts))

# %% [markdown]
# Write your verdicts into the next cell, as many as you like, and run it. It says at once whether you
# are right, and for each claim that you judged a box shows what is so, and the computation, where there is
# one.

# %%
verdicts |= {"A06": "?", "B18": "?", "B22": "?", "D86": "?", "E03": "?",
             "A20": "?", "B15": "?", "D67": "?", "B36": "?", "A90": "?"}
### BEGIN SOLUTION
verdicts |= {
    "A06": "right", "B18": "wrong", "B22": "imprecise", "D86": "wrong",
    "E03": "imprecise", "A20": "right", "B15": "imprecise", "D67": "wrong",
    "B36": "wrong", "A90": "imprecise",
}
### END SOLUTION

judged = claims.judge(verdicts)
print(judged)
judged.boxes()

# %% [markdown]
# This course keeps a ledger of such claims: what is said, what is so, and, wherever it can be computed,
# the expression that computes it, which a test computes again each time anything changes. Where a
# chapter settles a claim, it asks you first. **Predict:** of the claims that others made, how many per
# cent are right?

# %%
right_guess = None  # per cent

# %%
ours = "TS"  # traps and slips that we collected ourselves
ledger = [claim for claim in claims.ledger() if claim.writeup not in ours]
kinds = Counter(claim.verdict for claim in ledger)
print(len(ledger), "claims:",
      ", ".join(f"{n} {kind}" for kind, n in kinds.items()))
print(sum(claim.compute is not None for claim in ledger),
      "are recomputed by a test")
right = round(100 * kinds["right"] / len(ledger))
reveal("right, per cent", right_guess, right)

# %% [markdown]
# "Open" means that it cannot be decided from what was published. Nobody who writes is safe, and neither
# are we: if you find a mistake, tell us.
#
# ## What is a Llama?
#
# All text models of the family are the machine above (chapter 06 builds each of them, and counts). What
# tells one from another fits in eleven settings; the weights do the rest. Here is the teller beside the
# smallest and the largest of Meta's plain text models:

# %%
SETTINGS = {
    "dim": "numbers in the stream", "n_layers": "blocks",
    "n_heads": "heads that ask", "n_kv_heads": "heads that are asked",
    "hidden_dim": "width inside SwiGLU", "vocab_size": "tokens known",
    "norm_eps": "no norm divides by 0", "rope_theta": "slowness of RoPE",
    "max_seq_len": "tokens read at once", "rope_scaling": "RoPE slowed by",
    "tied_embeddings": "one table, in and out",
}
shown = [teller.config, release("llama-3.2-1b").config,
         release("llama-3.1-405b").config]

names = {field.name for field in fields(shown[0])}
assert names - {*SETTINGS} == {"own_head_dim"}
print(f"{'':16}{'teller':>9}{'3.2 1B':>10}{'3.1 405B':>10}")
for name, meaning in SETTINGS.items():
    values = [getattr(config, name) for config in shown]
    # Of rope_scaling, which has several numbers, we show one.
    a, b, c = (getattr(value, "factor", value) for value in values)
    print(f"{name:16}{a!s:>9}{b!s:>10}{c!s:>10}  {meaning}")

# %% [markdown]
# Heads that ask hold queries; heads that are asked hold keys and values. `norm_eps` is a tiny number
# under the norm's root, for a token of zeros. `rope_theta` and `rope_scaling` are chapter 02's. "One
# table": the output uses the embedding's weights again. (A twelfth setting, `own_head_dim`, is for relatives whose heads have another width.)
#
# The package holds these settings for every release. Here is the whole family:

# %% mystnb={"image": {"alt": "Releases of the Llama family by date, 2023 to the end of 2024, and size on a logarithmic axis, 1 to 405 billion parameters; marks grow with the context, from 2K tokens for Llama 1 to 128K from Llama 3.1 on. Grey lines join Code Llama, Llama Guard, and the small and vision models of 3.2 to the releases they began from; Llama Guard's marks are outlines upon these."}}
family = plots.family_tree(RELEASES)

# %% [markdown]
# A mark grows with the *context*: how many tokens a model can read at once. A grey line means: this one
# began from the weights of that one. The Llama Guards, Llamas that were taught to judge text, are
# drawn as outlines, for most came on one day with the model that they began from. From the first to the largest, the numbers grew like this:

# %%
for name in ("llama-1-7b", "llama-2-7b", "llama-3-8b", "llama-3.1-405b"):
    r = release(name)
    size, context = parameters(r.config).total, r.config.max_seq_len
    print(f"{r.name:15} {r.released} {size:>15,} parameters,"
          f" context {context:>7,}")

# %% [markdown]
# Llama 1 and Llama 2 of 7B have *the same* number of parameters. **Predict:** how many of the eleven
# settings changed between them?

# %%
changed_guess = None  # 0 to 11

# %%
one, two = release("llama-1-7b").config, release("llama-2-7b").config
changed = [name for name in SETTINGS
           if getattr(one, name) != getattr(two, name)]
for name in changed:
    print(f"{name}: {getattr(one, name)} to {getattr(two, name)}")
reveal("settings that changed", changed_guess, len(changed))

# %% [markdown]
# Twice the context, and the tiny number under the root. What changed, too, is the data.
#
# ## What did they pay for?
#
# Here is what each training read, against what it trained. Training costs about six operations for
# each parameter and each token (chapter 08), so grey lines join trainings of equal cost.

# %% mystnb={"image": {"alt": "Parameters against training tokens on logarithmic axes. Llama 1 lies at 1 to 1.4 trillion tokens, Llama 2 at 2, Llama 3 and 3.1 at 15 to 15.6, the small Llamas 3.2 at 9. The line of 20 tokens a parameter runs close to Llama 1 65B; Llama 2 70B and the 405B lie within a factor of two of it, the small ones far off. Costs range from under 1e23 to 3.8e25 operations."}}
compute = plots.tokens_and_compute(RELEASES)

# %% [markdown]
# The dashed line is advice from 2022: for a given cost, the best model comes from about twenty tokens a
# parameter (Hoffmann et al. 2022). Llama 1 65B lies on it, Llama 2 70B and the 405B within a factor of
# two; the small ones lie far off. (Open marks went on from another model.) The advice counts the cost of training alone. But a model is
# trained once and used by many, and each token that it writes costs two operations a parameter: each
# weight multiplies once and adds once. So here is also the model that the advice would have trained for
# the same operations, and how much more each of its tokens would cost to write.

# %%
for name in ("llama-1-65b", "llama-2-70b", "llama-3-8b", "llama-3.1-405b"):
    r = release(name)
    size, tokens = parameters(r.config).total, r.training.tokens
    spent = training_flops(size, tokens)  # 6 * size * tokens
    advised = math.sqrt(spent / (6 * 20))  # 6 * advised * (20 * advised)
    print(f"{r.name:15} {tokens / size:4.0f} tokens a parameter; advised "
          f"{advised / 1e9:4.0f}B, {advised / size:.1f} times as dear to run")
assert abs(size / 402e9 - 1) < 0.01 and abs(tokens / 16.55e12 - 1) < 0.06

# %% [markdown]
# The 8B read over ninety times what that advice gives it: 1,868 tokens a parameter and not 20. For the same training one could have had a
# model almost ten times as large, and paid almost ten times as much for each token ever after. (How
# good it would have been, no sum here can say.) The 405B is another matter: Meta's own law, fitted to
# Meta's own data, asked for 402 billion parameters and 16.55 trillion tokens at its cost (the Llama 3
# paper, 3.2.1), and that is nearly what was trained. That law asks for about 40 tokens a parameter at this
# cost and not for 20: other data, another law.
#
# ## How a chapter works
#
# Change things. *Restart Kernel and Run All Cells* always brings a chapter back.
#
# - **Guesses first.** Nothing records them; one remembers better what one has guessed.
# - **Your turn, then ours.** A part is asked for before it is built. Who is stuck takes a hint, or reads on.
# - **Twins.** Where a part of the package is built, the cell holds the very code of the package
#   `llama_edu`. A test makes sure of it.
# - **Drawings.** The code of a cell that only draws is folded away. One click shows it.
# - **Numbers.** A cell prints or asserts each number of the text, or its source is named.
#
# ## How the checks work
#
# An exercise is a function with a hole in it. Its check runs your function on inputs chosen to tell
# mistakes apart. If it is wrong in a way that people are known to be wrong, the check says which.
# This function should compute the mean of the squares of each row, and it has a mistake:

# %%
def wrong_on_purpose(x: Tensor) -> Tensor:
    return torch.var(x, dim=-1, correction=0)


check("0.1", wrong_on_purpose)

# %% [markdown]
# Below the sentence stands the smallest input that shows the mistake, what was expected and what
# came out. Now do it right. Replace the line `raise NotImplementedError`, then run the cell:

# %%
def mean_square(x: Tensor) -> Tensor:
    """Exercise 0.1 ●○○ 1 min. x: `... c`. The mean of the squares over the last axis.

    The result has the shape without `c`.
    """
    ### BEGIN SOLUTION
    return x.pow(2).mean(-1)
    ### END SOLUTION


check("0.1", mean_square)

# %% [markdown]
# An untouched exercise reads `○ not attempted yet`, a right one `✓ correct`. Stuck? `hint("0.1")`
# gives one hint, and a further one each time you call it again:

# %%
hint("0.1")

# %% [markdown]
# Your progress is kept in one small file beside the course. Run this cell whenever you like,
# or type `llama-edu progress` in a terminal:

# %%
progress()

# %% [markdown]
# ## Where to go from here
#
# The chapters build on each other, so begin with [01 · RMSNorm](01_rmsnorm.ipynb), the part whose
# doubling broke the teller. Each chapter has a [solutions notebook](../solutions/01_rmsnorm.ipynb) that
# discusses not only the right answer but why the wrong ones are tempting.
