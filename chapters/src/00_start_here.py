# %% [markdown]
# # 00 · Start here: one family, one course
#
# **The question.** Between February 2023 and December 2024 Meta published over thirty language
# models under one name. What changed from one to the next, and what never did? This course answers by
# building them: every part, by hand, until the real weights run in our own code.
#
# | you will build | you need | minutes |
# |---|---|---|
# | ten verdicts, and one line to try a check | Python | 15 |
#
# No GPU and no network are needed. Two processor cores are enough for every chapter; where a chapter
# can do more with a GPU, it says so.

# %%
from collections import Counter
from dataclasses import replace

from torch import Tensor

from llama_edu import claims, plots
from llama_edu.exercises import check, hint, progress
from llama_edu.family.accounting import parameters, training_flops
from llama_edu.family.releases import RELEASES, release

plots.use_style()

# %% [markdown]
# ## First, what do you believe?
#
# Much is written about the Llamas, and much of it is copied. Here are ten sentences that circulate.
# Judge them before you read on: `right`, `wrong`, or `imprecise` for what is only half true. Guessing is
# allowed; it is how you will remember the answer.

# %%
verdicts = dict.fromkeys(["A06", "B18", "B22", "D86", "E03", "A20", "B15", "D67", "B36", "A90"], "?")

claims.judge(verdicts)

# %% [markdown]
# Write your verdicts into the next cell, as many as you like, and run it. It says at once whether you
# are right, and for each claim that you judged a box shows what is so, and the sum that proves it.

# %%
verdicts["A06"] = "?"
verdicts["B18"] = "?"
### BEGIN SOLUTION
verdicts |= {"A06": "right", "B18": "wrong", "B22": "imprecise", "D86": "wrong", "E03": "imprecise",
             "A20": "right", "B15": "imprecise", "D67": "wrong", "B36": "wrong", "A90": "imprecise"}
### END SOLUTION

judged = claims.judge(verdicts)
print(judged)
judged.boxes()

# %% [markdown]
# This course keeps a ledger of some 350 such claims: what is said, what is so, and, wherever it can be
# computed, the expression that computes it. A test recomputes every one of these expressions, each time anything changes.
# Chapters end with the claims that you can then judge yourself, and the book has them
# all on one page. So how many of them are right?

# %%
ledger = [claim for claim in claims.ledger() if claim.writeup not in "TS"]
kinds = Counter(claim.verdict for claim in ledger)
print(f"{len(ledger)} published claims: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items()))
print(f"{sum(claim.compute is not None for claim in ledger)} of them are recomputed by a test")

# %% [markdown]
# "Open" means that it cannot be decided from what was published. Besides these, the ledger lists slips
# in Meta's own papers, and settings that were published wrongly. Nobody who writes is safe,
# and neither are we: if you find a mistake, tell us.
#
# ## What is a Llama?
#
# A Llama is a *decoder*: it reads tokens (numbers that stand for pieces of text) and says how likely
# each possible next token is. Inside is one simple block, repeated. Each block holds two
# normalisations, an attention layer and a feed-forward layer. The architecture of a text model fits in
# eleven settings; the weights do the rest. (The twelfth, `own_head_dim`, is for relatives whose heads
# have another width.)

# %%
release("llama-3.2-1b").config

# %% [markdown]
# The package holds these settings for every release. Here is the whole family, drawn from that data:

# %% mystnb={"image": {"alt": "Releases of the Llama family by date, 2023 to the end of 2024, and size on a logarithmic axis, 1 to 405 billion parameters; marks grow with the context, from 2K tokens for Llama 1 to 128K from Llama 3.1 on. Grey lines join Code Llama, Llama Guard, and the small and vision models of 3.2 to the releases they began from."}}
family = plots.family_tree(RELEASES)

# %% [markdown]
# Each mark is one or more models, and it grows with the *context*: how many tokens a model can read at
# once. (Llama Guard's stand a little to the right of their dates, or others would lie upon them.) A
# grey line means: this one began from the weights of that one. Code Llama grew out of Llama 2.
# The Llama Guards are ordinary Llamas that were taught to judge text. The smallest Llamas 3.2 were cut
# out of a larger one.
#
# From the first to the largest, the numbers grew like this:

# %%
for name in ("llama-1-7b", "llama-2-7b", "llama-3-8b", "llama-3.1-405b"):
    r = release(name)
    print(f"{r.name:16} {r.released}  {parameters(r.config).total:>15,} parameters"
          f"  {r.config.vocab_size:>7,} tokens known  {r.config.max_seq_len:>7,} tokens read at once")

# %% [markdown]
# And the first surprise: Llama 1 and Llama 2 of 7B have *the same* number of parameters. Between them
# only the context and the epsilon of the norms changed in the config. The data changed too.

# %%
one, two = release("llama-1-7b").config, release("llama-2-7b").config
assert parameters(one) == parameters(two)
assert two == replace(one, max_seq_len=4096, norm_eps=1e-5)

# %% [markdown]
# ## What made them better, then?
#
# If the parts hardly changed, what did? Here is what each training read, against what it trained.
# Training costs about six operations for each parameter and each token (chapter 08), so
# grey lines join trainings of equal cost.

# %% mystnb={"image": {"alt": "Parameters against training tokens on logarithmic axes. Llama 1 lies at 1 to 1.4 trillion tokens, Llama 2 at 2, Llama 3 and 3.1 at 15 to 15.6, the small Llamas 3.2 at 9. The line of 20 tokens a parameter runs close to Llama 1 65B; all later releases lie far below it. Costs range from under 1e23 to 3.8e25 operations."}}
compute = plots.tokens_and_compute(RELEASES)

# %% [markdown]
# The dashed line is advice from 2022: for a given cost, the best model comes from about twenty tokens a
# parameter (Hoffmann et al. 2022). Of the models trained from nothing only Llama 1 65B kept near
# it (open marks went on from another model). The advice counts the cost of training alone. But a
# model is trained once and used by many, and each token that it then writes costs two operations a
# parameter. Whoever reads more than the advice pays more once, and less ever after:

# %%
for name in ("llama-1-65b", "llama-2-70b", "llama-3-70b", "llama-3-8b", "llama-3.1-405b"):
    r = release(name)
    total, tokens = parameters(r.config).total, r.training.tokens
    print(f"{r.name:16} {tokens / 1e12:5.1f} trillion tokens {tokens / total:6.0f} a parameter"
          f" {training_flops(total, tokens):9.1e} operations")

# %% [markdown]
# The 8B read ninety times what that advice gives it. The 405B is another matter: Meta's own law,
# fitted to Meta's own data, asked for 402 billion parameters and 16.55 trillion tokens at its cost (the
# Llama 3 paper, 3.2.1), and chapter 15 fits such laws. Between the first small Llama and the largest
# lies this much more computing:

# %%
first, last = release("llama-1-7b"), release("llama-3.1-405b")
spent = [training_flops(parameters(r.config).total, r.training.tokens) for r in (first, last)]
print(f"{spent[1] / spent[0]:.0f} times the operations, {(last.released - first.released).days} days later")
eight = release("llama-3-8b")
assert 90 < eight.training.tokens / (20 * parameters(eight.config).total) < 95
assert abs(parameters(last.config).total / 402e9 - 1) < 0.01
assert abs(last.training.tokens / 16.55e12 - 1) < 0.06

# %% [markdown]
# ## How a chapter works
#
# Run the cells from top to bottom with Shift+Enter. Change things. *Restart Kernel and Run All
# Cells* always brings the chapter back.
#
# - **Twins.** A cell that begins with `# twin:` holds code that is the same, to the letter, as in the
#   package `llama_edu`. A test makes sure of it.
# - **Numbers.** A cell prints or asserts each number of the text, or its source is named.
#
# ## How the checks work
#
# An exercise is a function with a hole in it. Its check runs your function on inputs chosen to tell
# mistakes apart. If it is wrong in a way that people are known to be wrong, the check says which.
# This function should compute the mean of the squares of each row, and it has a mistake:

# %%
def wrong_on_purpose(x: Tensor) -> Tensor:
    away = x - x.mean(-1, keepdim=True)
    return away.pow(2).mean(-1)


check("0.1", wrong_on_purpose)

# %% [markdown]
# Below the sentence stands the smallest input that shows the mistake, what was expected and what
# came out. Now do it right. Replace the line `raise NotImplementedError`, then run the cell:

# %%
def mean_square(x: Tensor) -> Tensor:
    """Exercise 0.1 ●○○ 1 min. x: `... c`. The mean of the squares over the last axis: `...`."""
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
# - [01 · RMSNorm](01_rmsnorm.ipynb): what LayerNorm's mean was worth.
# - [02 · RoPE](02_rope.ipynb): how a dot product learns to count.
# - [03 · Attention](03_attention.ipynb): how tokens find one another, and what remembering costs.
# - [04 · SwiGLU](04_swiglu.ipynb): gates, and why they are eight thirds wide.
# - [05 · Tokenizers](05_tokenizers.ipynb): why 1234 is four tokens in one Llama and two in another.
# - [06 · The model](06_model.ipynb): where eight billion parameters sit.
# - [07 · Generation](07_generation.ipynb): one token after the other, quickly and well.
# - [08 · Training a tiny Llama](08_training.ipynb): a model that tells tales, trained before your eyes.
# - [09 · Real weights](09_real_weights.ipynb): published files opened, and the bug that reads fluent.
#
# The chapters build on each other, so begin with 01. Each has a [solutions
# notebook](../solutions/01_rmsnorm.ipynb) that discusses not only the right answer but why the wrong ones
# are tempting.
