# %% [markdown]
# # 00 · Start here: one family, one course
#
# **The question.** Between February 2023 and December 2024 Meta published over thirty language
# models under one name. What changed from one to the next, and what never did? This course answers by
# building them: every part, by hand, until the real weights run in our own code.
#
# | you will build | you need | minutes |
# |---|---|---|
# | one line, to try a check | Python | 15 |
#
# No GPU and no network are needed. Two processor cores are enough for every chapter; where a chapter
# can do more with a GPU, it says so.

# %%
from dataclasses import replace

from torch import Tensor

from llama_edu import plots
from llama_edu.accounting import parameters
from llama_edu.exercises import check, hint, progress
from llama_edu.releases import RELEASES, release

# %% [markdown]
# ## What is a Llama?
#
# A Llama is a *decoder*: it reads tokens (numbers that stand for pieces of text) and says how likely
# each possible next token is. Inside is one simple block, repeated. Each block holds two
# normalisations, an attention layer and a feed-forward layer. The architecture of a text model fits in
# eleven settings; the weights do the rest:

# %%
release("llama-3.2-1b").config

# %% [markdown]
# The package holds these settings for every release. Here is the whole family, drawn from that data:

# %% mystnb={"image": {"alt": "Releases of the Llama family by date, 2023 to the end of 2024, and size on a logarithmic axis, 1 to 405 billion parameters. Grey lines join Code Llama, Llama Guard, and the small and vision models of 3.2 to the releases they began from."}}
family = plots.family_tree(RELEASES)

# %% [markdown]
# Each mark is one or more models. A grey line means: this one began from the weights of that one. Code Llama grew
# out of Llama 2. The Llama Guards are ordinary Llamas that were taught to judge text. The smallest
# Llamas 3.2 were cut out of a larger one.
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
#
# The chapters build on each other, so begin with 01. Each has a [solutions
# notebook](../solutions/01_rmsnorm.ipynb) that discusses not only the right answer but why the wrong ones
# are tempting.
