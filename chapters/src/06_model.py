# %% [markdown]
# # 06 · The model: eleven settings become a Llama
#
# **The question.** You have built the norm, the rotation, attention and the gate. One
# class puts them together, and eleven settings decide whether it is a Llama 1 or a Llama 3.3. Where do
# eight billion parameters sit, what did three generations really change, and which part of a Llama
# says "Paris"?
#
# | you will build | you need | minutes |
# |---|---|---|
# | `Block` and `Llama`, as they stand in `llama_edu.model` | chapters 01 to 05 | 110 |

# %%
import importlib.util
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise, product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import llama_edu.model
from llama_edu import checkpoint, claims, plots
from llama_edu.cache import KVCache
from llama_edu.config import ModelConfig
from llama_edu.data import tales
from llama_edu.exercises import check, hint, reveal, suspects
from llama_edu.family.accounting import parameters
from llama_edu.family.releases import RELEASES, release
from llama_edu.layers import (Attention, FeedForward, RMSNorm, causal_mask,
                              rope_frequencies, rope_table, widen)
from llama_edu.tokenizer import installed

plots.use_style()
torch.set_num_threads(1)  # small tensors: threads would wait for one another

# %% [markdown]
# > **Predict.** Llama 3.2 1B knows 128,256 pieces and describes each token by 2,048 features. Its 16
# > blocks have 32 query heads and 8 key/value heads, and feed-forward layers 8,192 wide. Three parts
# > hold nearly all of its parameters: the embedding table, its attention layers together, and its
# > feed-forward layers together. In which order do they come, and how much of the whole is the table?
# > The answer comes under *Where do the parameters sit?*

# %%
my_order = "?"  # "attention, embedding, feed-forward": the largest first
my_share = None  # of the table, in percent

# %% [markdown]
# ## By hand: count a Llama that fits on a napkin
#
# Two layers, eight features, four query heads that share two key/value heads, 24 features inside
# the feed-forward layer, ten pieces in the vocabulary. How many numbers is that? A model knows. On the
# `meta` device PyTorch makes tensors that have a shape and no memory, so we can build any Llama, the
# largest included, and look at what it is made of.

# %%
tiny = ModelConfig(dim=8, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=24,
                   vocab_size=10, norm_eps=1e-5, rope_theta=1e4, max_seq_len=32)

settings = [field.name for field in fields(ModelConfig)]
settings.remove("own_head_dim")  # for relatives with heads of another width
assert len(settings) == 11
assert all(r.config.own_head_dim is None for r in RELEASES)
print(*settings[:6], "\n   ", *settings[6:])

with torch.device("meta"):
    napkin = llama_edu.model.Llama(tiny)
for name, p in napkin.named_parameters():
    if not name.startswith("layers.1"):
        print(f"{name:32}{str(tuple(p.shape)):>10}{p.numel():>6}")

# %% [markdown]
# Layer 1 has the same nine tensors as layer 0, so it is not shown. The names are Meta's: a file of
# Meta's weights fits into this class without renaming anything. PyTorch keeps a matrix as
# (outputs, inputs): `wk` reads 8 features and makes 4, two key/value heads of two features each.
#
# Of the eleven settings four leave no number behind: `norm_eps`, `rope_theta`, `rope_scaling` and
# `max_seq_len` change what the model computes, and not its size. `tied_embeddings` says that the output
# uses the embedding's table a second time, and has no matrix of its own.
#
# ## Your turn: count any Llama
#
# From the shapes to a formula. Replace `raise NotImplementedError`, run the cell, and the check says
# whether it is right, or which mistake it is. `hint("6.1")` gives one hint more at each call. The
# solutions are in [their own notebook](../solutions/06_model.ipynb).

# %%
def count_parameters(config: ModelConfig) -> int:
    """Exercise 6.1 ●●○ 10 min. How many parameters has a text Llama with this config?
    Return a whole number, exact to the last one. There are no biases.

    The fields you need: `dim`, `n_layers`, `n_heads`, `n_kv_heads`, `hidden_dim`,
    `vocab_size`, `tied_embeddings`; and `config.head_dim`, which is `dim / n_heads`.
    """
    ### BEGIN SOLUTION
    c = config
    tables = (1 if c.tied_embeddings else 2) * c.vocab_size * c.dim
    attention = 2 * c.dim * c.head_dim * (c.n_heads + c.n_kv_heads)
    block = attention + 3 * c.dim * c.hidden_dim + 2 * c.dim
    return tables + c.n_layers * block + c.dim
    ### END SOLUTION


check("6.1", count_parameters)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 6.1.** *Keys and values with all heads* is the slip of anyone who learnt attention
# before heads were shared. *Two feed-forward matrices* comes from the older Transformer. *The shared
# table counted twice* makes the 1B a fifth larger, and that number circulates too: Meta's own class
# for the 1B holds both. *The final norm forgotten* is wrong by `dim`, which nobody notices in
# billions. That is why this course asks for every last parameter.
# ### END SOLUTION
#
# ## The idea: a stream that parts write to
#
# A token enters as a row of the embedding table. That row is the start of the *residual stream*: one
# vector of `c` features a token, `b t c` for `b` texts of `t` tokens. Each half of each block reads the
# stream through a norm of its own and adds what it found. Nothing is ever replaced (Touvron et al.
# 2023a, section 2.2):
#
# $$ h = x + \mathrm{Attention}(\mathrm{norm}_1(x)), \qquad
#    y = h + \mathrm{FeedForward}(\mathrm{norm}_2(h)) $$
#
# The order matters. The feed-forward layer reads $h$, not $x$: it sees what attention has just
# fetched from other tokens. After the last block one more norm, and a matrix with one row for each
# piece of the vocabulary. The product says how well the stream matches each piece: the *logits*, one
# score a piece, `b t v`.
#
# ## Your turn: join the parts
#
# You have everything. `model.layers` are the blocks; each has `attention_norm`, `attention`,
# `ffn_norm` and `feed_forward`. Attention takes three things: what it reads, the table of rotations of
# chapter 02, and the mask of chapter 03. Two details are Meta's: the last product is made in the type of
# the weights, and its result is cast to float32. And `model.output` is None where the table is tied.

# %%
def forward(model: nn.Module, rope: tuple[Tensor, Tensor], mask: Tensor,
            tokens: Tensor) -> Tensor:
    """Exercise 6.2 ●●○ 12 min. From tokens `b t` to logits `b t v`, in float32.

    Call a block's attention as `block.attention(reads, rope, mask)`. Training goes through it:
    change no tensor in place, as `+=` does.
    """
    ### BEGIN SOLUTION
    stream = model.tok_embeddings(tokens)
    for block in model.layers:
        stream = stream + block.attention(
            block.attention_norm(stream), rope, mask)
        stream = stream + block.feed_forward(block.ffn_norm(stream))
    last = model.tok_embeddings if model.output is None else model.output
    return F.linear(model.norm(stream), last.weight).float()
    ### END SOLUTION


check("6.2", forward)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 6.2.** *Both halves at once* is a real design (GPT-J and PaLM run attention and
# feed-forward in parallel), and therefore tempting. *The second residual from x* throws away what
# attention wrote, in every layer; the model becomes a bag of tokens. A *softmax inside the model* is the
# quiet one: the loss applies another, training still goes down, and everything is a little worse for
# ever. *The last norm left out* keeps most first choices and spoils the probabilities: greedy text
# looks fine, sampled text does not.
# ### END SOLUTION
#
# ## Build it: the class that holds them all
#
# A function would do; your 6.2 is the whole architecture, *pre-norm*: each half reads through a norm.
# The package's version differs in three ways. What all blocks need to know in one pass (the table of
# rotations, the mask, the cache) travels in one small object, `Pass`: cosines and sines that broadcast to
# `b h t d/2`, and a mask that is True where a token may look. A cache of keys and values may come along;
# chapter 07 is about it. And a caller may say where tokens stand and what they may see, which chapters 07
# and 08 need.

# %% twin="llama_edu.model.Pass, llama_edu.model.Block"
@dataclass(frozen=True)
class Pass:
    rope: tuple[Tensor, Tensor]
    mask: Tensor | None
    cache: KVCache | None


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer_id: int):
        super().__init__()
        self.layer_id = layer_id
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = FeedForward(config.dim, config.hidden_dim)

    def forward(self, x: Tensor, now: Pass) -> Tensor:
        memory = None if now.cache is None else now.cache.slot(self.layer_id)
        x = x + self.attention(self.attention_norm(x), now.rope, now.mask,
                               memory)
        return x + self.feed_forward(self.ffn_norm(x))

# %% [markdown]
# `begin` prepares a pass. A token's position counts on from those in the cache. A mask is made only where
# several new tokens follow old ones. Without old ones, or with one new token, `attend_fused` (chapter 03's
# attention in one fused call) needs none: it hides the future itself, or there is none. Positions and
# mask get an axis for the heads, `b 1 t` and `b 1 t s`.

# %% twin="llama_edu.model.begin"
def begin(c: ModelConfig, tokens: Tensor, cache: KVCache | None,
          positions: Tensor | None, mask: Tensor | None) -> Pass:
    start = 0 if cache is None else cache.length
    t, end = tokens.shape[1], start + tokens.shape[1]
    if end > c.max_seq_len:
        raise ValueError(f"{end} tokens were given; this model's context is "
                         f"{c.max_seq_len}. Shorten the prompt.")
    if positions is None:
        positions = torch.arange(start, end, device=tokens.device)[None]
    if mask is None and start > 0 and t > 1:    # else `attend_fused` needs none
        mask = causal_mask(t, end, device=tokens.device)[None]
    freqs = rope_frequencies(c.head_dim, c.rope_theta, c.rope_scaling,
                             device=tokens.device)
    return Pass(rope_table(freqs, positions[:, None]),
                None if mask is None else mask[:, None], cache)

# %% [markdown]
# Now the whole model. Read `forward` as a list: begin, embed, blocks, norm, logits. (`widen` casts to
# float32 and leaves float64 alone. `blocks()` is there for models that put more between the layers.)
# What differs between Llama 1 and Llama 3.3 is nowhere in this code. It is all in the config.

# %% twin="llama_edu.model.Llama"
class Llama(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config, i)
                                    for i in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = (None if config.tied_embeddings else
                       nn.Linear(config.dim, config.vocab_size, bias=False))

    def blocks(self) -> Iterator[nn.Module]:
        return iter(self.layers)

    def new_cache(self, batch: int, max_len: int) -> KVCache:
        if max_len > self.config.max_seq_len:
            raise ValueError(
                f"a cache of {max_len} tokens was asked for; this model's "
                f"context is {self.config.max_seq_len} tokens. "
                "Make the cache that long at most.")
        return KVCache(len(self.layers), batch, max_len)

    def forward(self, tokens: Tensor, cache: KVCache | None = None, *,
                positions: Tensor | None = None, mask: Tensor | None = None,
                head: bool = True) -> Tensor:
        now = begin(self.config, tokens, cache, positions, mask)
        x = self.tok_embeddings(tokens)
        for block in self.blocks():
            x = block(x, now)
        if cache is not None:
            cache.length += tokens.shape[1]
        x = self.norm(x)
        return self.logits(x) if head else x

    def hidden(self, tokens: Tensor, cache: KVCache | None = None, *,
               positions: Tensor | None = None,
               mask: Tensor | None = None) -> Tensor:
        return self(tokens, cache, positions=positions, mask=mask, head=False)

    def logits(self, hidden: Tensor) -> Tensor:
        if self.output is None:
            return widen(F.linear(hidden, self.tok_embeddings.weight))
        return widen(self.output(hidden))

# %% [markdown]
# ## Prove it: follow the shapes, then compare
#
# A *hook* is a function that PyTorch calls after a module has run. Ours print what goes out. Read the
# letters with the numbers: `b t c` is 2, 5, 8.

# %%
torch.manual_seed(0)
model = Llama(tiny).eval()
tokens = torch.randint(0, 10, (2, 5))


def report(name: str):
    return lambda module, given, made: print(f"{name:26}{tuple(made.shape)}")


watched = ["tok_embeddings", "layers.0.attention.wq", "layers.0.attention.wk",
           "layers.0.attention", "layers.0.feed_forward.w1",
           "layers.0.feed_forward", "norm", "output"]
handles = [model.get_submodule(name).register_forward_hook(report(name))
           for name in watched]
with torch.no_grad():
    logits = model(tokens)
for handle in handles:
    handle.remove()

# %% [markdown]
# `wk` makes 4 features where `wq` makes 8: two key/value heads against four query heads. Everything that
# returns to the stream has 8 again.
#
# Against the same wiring as one plain function, and against the package:

# %%
def plain_llama(model: nn.Module, config: ModelConfig,
                tokens: Tensor) -> Tensor:
    """Tokens `b t` to logits `b t v`, for a model with an output matrix."""
    t = tokens.shape[1]
    freqs = rope_frequencies(config.head_dim, config.rope_theta)
    now = llama_edu.model.Pass(rope_table(freqs, torch.arange(t)),
                               causal_mask(t, t), None)
    x = model.tok_embeddings(tokens)
    for block in model.layers:
        x = block(x, now)
    return model.output(model.norm(x))


twin = llama_edu.model.Llama(tiny).eval()
twin.load_state_dict(model.state_dict())
with torch.no_grad():
    torch.testing.assert_close(logits, plain_llama(model, tiny, tokens))
    assert torch.equal(logits, twin(tokens))
print("equal to the function and to the package")

# %% [markdown]
# And against Meta's own class. It ships in the package `llama-models`, which is not needed for
# this course; if it is installed, the next cell runs it with our weights. (How to get it:
# `pip install --no-deps llama-models fairscale`.) The weights are made large on purpose, so that
# a small mistake would show.

# %%
def logits_of_meta(model: nn.Module, c: ModelConfig, tokens: Tensor) -> Tensor:
    import torch.distributed as dist
    from fairscale.nn.model_parallel.initialize import initialize_model_parallel
    from llama_models.llama3.args import ModelArgs
    from llama_models.llama3.model import Transformer

    alone = dist.HashStore()
    dist.init_process_group("gloo", store=alone, rank=0, world_size=1)
    initialize_model_parallel(1)
    theirs = Transformer(ModelArgs(
        dim=c.dim, n_layers=c.n_layers, n_heads=c.n_heads,
        n_kv_heads=c.n_kv_heads, vocab_size=c.vocab_size,
        multiple_of=c.hidden_dim, norm_eps=c.norm_eps, rope_theta=c.rope_theta,
        max_batch_size=2, max_seq_len=32))
    theirs.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        return theirs.eval()(tokens, 0)

# %%
with torch.no_grad():
    for p in model.parameters():
        p.mul_(4.0)
    ours = model(tokens)

if all(map(importlib.util.find_spec, ("llama_models", "fairscale"))):
    theirs = logits_of_meta(model, tiny, tokens)
    assert (ours - theirs).abs().max() < 1e-4 * ours.abs().max()
    print("Meta's class, our weights, no renaming: equal to four digits")
else:
    print("llama-models is not installed; the comparison was left out")

# %% [markdown]
# ## Play: take a finished Llama apart
#
# The package brings a small Llama that has learnt to tell children's tales (chapter 08 shows how one is
# trained). It has three blocks. We measure its loss, the mean surprise in nats at each next piece, on
# tales that it never saw. Then we remove a block, exchange two, or run one twice. Nothing is trained
# again.
#
# > **Predict.** Each block was trained in its own place, to read what the block before it wrote. As
# > trained, the loss is 0.44; guessing blindly among all pieces costs 6.6. What will it be when the
# > middle block runs *twice* in a row? And when the *first* block is left out?

# %%
my_twice, my_missing = None, None       # nats per piece

# %% [markdown]
# The loss, and how to change the order:

# %%
@torch.no_grad()
def loss(model: nn.Module, texts: list[Tensor]) -> float:
    """Mean surprise at the next piece, in nats, over texts of `1 t` tokens."""
    nats = sum(F.cross_entropy(model(ids)[0, :-1], ids[0, 1:], reduction="sum")
               for ids in texts)
    return float(nats) / sum(ids.shape[1] - 1 for ids in texts)


teller, tokenizer = checkpoint.load(checkpoint.TALES)
unseen = [torch.tensor([tokenizer.encode(text, bos=True, eos=True)])
          for text in tales.stories(40, seed=10**6)]
whole = list(teller.layers)


def loss_with(*order: int) -> float:
    """The teller's loss when these blocks run in this order."""
    teller.layers = nn.ModuleList(whole[i] for i in order)
    found = loss(teller, unseen)
    teller.layers = nn.ModuleList(whole)
    return found

# %% [markdown]
# Nine orders:

# %%
orders = {"as trained": (0, 1, 2), "1 twice": (0, 1, 1, 2),
          "2 twice": (0, 1, 2, 2), "0 twice": (0, 0, 1, 2),
          "1 and 2 exchanged": (0, 2, 1), "without 1": (0, 2),
          "without 2": (0, 1), "0 and 1 exchanged": (1, 0, 2),
          "without 0": (1, 2)}
surprise = {name: loss_with(*order) for name, order in orders.items()}
guessing = torch.tensor(float(teller.config.vocab_size)).log().item()
assert surprise["1 twice"] < surprise["as trained"] + 0.1
assert surprise["without 0"] > guessing > surprise["without 1"]
assert surprise["1 and 2 exchanged"] < surprise["without 1"]

# %% tags=["hide-input"] mystnb={"image": {"alt": "Bars of the loss of the tale teller when its three blocks run in other orders. As trained it is 0.44 nats per piece; with a block run twice at most 0.6; exchanging or leaving out the upper blocks about 1 to 1.4; without block 0 it is above 9, worse than the 6.6 of blind guessing."}}
fig, ax = plots.figure("In the teller a block run twice costs little",
                       x="loss on unseen tales (nats per piece)", y="")
for row, name in enumerate(reversed(surprise)):
    bad = surprise[name] > guessing
    colour = plots.GREEN if name == "as trained" else plots.BLUE
    ax.barh(name, surprise[name], color=plots.VERMILION if bad else colour)
    ax.text(surprise[name] + 0.1, row, f"{surprise[name]:.2f}", va="center",
            fontsize=8)
ax.axvline(guessing, color=plots.BLACK, linewidth=0.8, linestyle="--")
ax.text(guessing - 0.1, 6, "blind guessing", ha="right", fontsize=8)
_ = ax.set_xlim(0, 11)

# %% [markdown]
# Beside your guesses:

# %%
twice, missing = (round(surprise[name], 2) for name in ("1 twice", "without 0"))
print(reveal("the middle block twice", my_twice, twice))
print(reveal("without the first block", my_missing, missing))

# %% [markdown]
# Two surprises. A block that runs twice costs little. And when the upper two change places the loss
# doubles, which is less than leaving either out: parts that *add* to a stream are not links of a chain.
# But without the first block the model is confidently wrong, worse than guessing among all pieces. It
# turns the bare rows of the table into something that the others can read.
#
# Is that so in a model that has seen the world? SmolLM2-135M is a relative of the Llamas: the same
# architecture, 30 blocks, other weights. We give it three short texts of our own.

# %%
PROSE = [
    "The lighthouse keeper climbed the stairs every evening at dusk, lit the "
    "lamp and wrote down the weather. When the storm came, the ships turned "
    "away.",
    "Water boils at a lower temperature on a mountain than at the sea, because "
    "the air above it is thinner. That is why cooks in the mountains close the "
    "pot.",
    "My grandmother kept a list of everyone who had borrowed a book from her. "
    "After she died we found it, and four names were still waiting for their "
    "line."]

here = installed.find("smollm2") is not None
if here:
    real, words = checkpoint.load("smollm2")
    texts = [torch.tensor([words.encode(text, bos=words.adds_bos)])
             for text in PROSE]
    blocks = list(real.layers)
    print("SmolLM2 as it is:", [round(loss(real, [text]), 2) for text in texts])
else:
    print(installed.how_to_get("smollm2"))

# %% [markdown]
# Each time one block is left out, or runs twice. (The next cell takes about 20 seconds.)

# %%
changed = (0, 1, 2, 5, 10, 15, 20, 25, 28, 29) if here else ()
costs = {"left out": [], "run twice": []}       # three losses for each block
for name, copies in (("left out", 0), ("run twice", 2)):
    for i in changed:
        order = blocks[:i] + [blocks[i]] * copies + blocks[i + 1:]
        real.layers = nn.ModuleList(order)
        costs[name].append([loss(real, [text]) for text in texts])
        real.layers = nn.ModuleList(blocks)

print("block    ", *(f"{i:4}" for i in changed))
for name, losses in costs.items():
    print(f"{name:9}", *(f"{sum(each) / 3:4.1f}" for each in losses))

# %% tags=["hide-input"] mystnb={"image": {"alt": "Loss of SmolLM2 on three short texts with one of its thirty blocks left out or run twice. As it is about 4 nats per piece. Without block 0 it is 12, without block 1 about 7; without one from the middle 4 to 5; without one of the last two about 5. Block 0 run twice costs over 5."}}
fig, ax = plots.figure(
    "SmolLM2 needs its first blocks; any one in the middle it can miss",
    x="block", y="loss (nats per piece)")
for (name, losses), style in zip(costs.items(), ("o-", "s--"), strict=True):
    means = [sum(each) / 3 for each in losses]
    line, = ax.plot(changed, means, style, label=name)
    ax.vlines(changed, [*map(min, losses)], [*map(max, losses)],
              line.get_color())
_ = ax.legend()

# %% [markdown]
# (A dot is the mean, a bar goes from the smallest to the largest of the three texts.) The first block carries the real
# model too, and one from the middle is hardly missed. But here the *second* block matters much, and the
# last two are dearer than the middle; and running the first block twice, cheap in the teller, costs more
# than losing any of those that we tried in the middle. What one toy shows is a question to ask, not an answer.
#
# ## The stream of a trained model
#
# Why is there a norm after the last block? Because the stream is a sum, and a sum grows. We look at what
# each block reads.

# %%
@torch.no_grad()
def streams(model: nn.Module, ids: Tensor) -> list[Tensor]:
    """What each block reads, in order, then what the last norm reads: `t c`."""
    seen: list[Tensor] = []
    hooks = [part.register_forward_pre_hook(
                 lambda _, given: seen.append(given[0][0]))
             for part in (*model.layers, model.norm)]
    model(ids)
    for hook in hooks:
        hook.remove()
    return seen


def size(x: Tensor) -> float:
    """The root mean square of a token's features, the median over tokens."""
    return float(x.pow(2).mean(-1).sqrt().median())

# %% [markdown]
# How large is it before each block and at the end, and how large is what each block adds?

# %%
both = {"teller": (teller, unseen[0])}
if here:
    both["SmolLM2"] = (real, texts[0])
sizes = {}
for name, (each, ids) in both.items():
    seen = streams(each, ids)
    sizes[name] = grown = [size(x) for x in seen]
    adds = [size(b - a) for a, b in pairwise(seen)]
    print(f"{name}: {grown[0]:.2f} at first, {grown[1]:.2f} after one block; "
          f"{grown[-2]:.1f} before the last, {grown[-1]:.1f} after")
    print("    the first two blocks add", *(f"{x:.1f}" for x in adds[:2]),
          f"and the last {adds[-1]:.1f}")
    assert grown[-1] > 1.5 * grown[len(grown) // 2] > 3 * grown[0]
    assert adds[-1] == max(adds)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Size of a token's residual stream against the share of blocks passed, on a logarithmic axis. In the teller it grows from 0.13 to about 16 over three blocks; in SmolLM2 it jumps from 0.12 to about 2 in the first block and then keeps growing, to about 35."}}
fig, ax = plots.figure(
    "The stream grows to the end, in the small model and in the larger",
    x="blocks passed (share of all)", y="size (root mean square)")
for (name, grown), style in zip(sizes.items(), ("o-", "s--"), strict=False):
    ax.semilogy(torch.linspace(0, 1, len(grown)), grown, style, markersize=4,
                label=name)
_ = ax.legend()

# %% [markdown]
# The last norm does two things: it divides by the size, and multiplies each feature by a gain, its
# weight. Which of the two does the teller need?

# %%
last_norm = teller.norm


class HalfNorm(nn.Module):
    def __init__(self, divides: bool, gains: bool):
        super().__init__()
        self.divides, self.gains = divides, gains

    def forward(self, x: Tensor) -> Tensor:
        if self.divides:
            x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + last_norm.eps)
        return x * last_norm.weight if self.gains else x


for divides, gains in product((True, False), repeat=2):
    teller.norm = HalfNorm(divides, gains)
    print(f"divides {divides!s:5}  gains {gains!s:5}  "
          f"loss {loss(teller, unseen):.2f}")
teller.norm = last_norm

# %% [markdown]
# Each block adds to the stream, and the last one adds by far the most: in the teller it trebles what came
# before it. Without the division the loss is nearly six times as large: the output reads a stream that is
# far too loud, and the softmax after it is far too sure. The gains matter little.
#
# ## Stop early: what would it say now?
#
# The stream has the same form after every block. So we can stop early and ask what the model would say
# *now*, through the last norm and the output matrix. nostalgebraist (2020) named this the *logit lens*.
# Change the sentence to one of your own; the real model answers where it is installed.
#
# > **Predict.** SmolLM2 has 30 blocks. After how many will it first say "Paris"?

# %%
sentence = "The capital of France is the city of"
my_block = None         # the number of blocks

# %%
@torch.no_grad()
def lens(model: nn.Module, ids: Tensor, n: int
         ) -> tuple[list[int], list[float]]:
    """The two likeliest next pieces after n blocks, and their probabilities."""
    all_blocks = model.layers
    model.layers = nn.ModuleList(list(all_blocks)[:n])
    best = model(ids)[0, -1].softmax(-1).topk(2)
    model.layers = all_blocks
    return best.indices.tolist(), best.values.tolist()


asked = [(teller, tokenizer, "Once upon a time, there was a", range(4))]
if here:
    depths = (0, 1, 5, 10, 15, 20, 24, 26, 27, 28, 29, 30)
    asked.append((real, words, sentence, depths))
for each, spells, prompt, depths in asked:
    print(repr(prompt))
    ids = torch.tensor([spells.encode(prompt, bos=spells.adds_bos)])
    for n in depths:
        found = zip(*lens(each, ids, n), strict=True)
        said = [f"{spells.decode([i])!r} {odds:.0%}" for i, odds in found]
        print(f"  after {n:2} blocks: {', '.join(said)}")

# %% [markdown]
# Beside your guess:

# %%
france = "The capital of France is the city of"
if here:
    ids = torch.tensor([words.encode(france, bos=words.adds_bos)])
    best = (words.decode(lens(real, ids, n)[0][:1]) for n in range(31))
    first = [*best].index(" Paris")
    print(reveal("blocks until 'Paris'", my_block, first))

# %% [markdown]
# With no block at all a model repeats what it was given: the table is tied, so a row is most like
# itself. For over twenty blocks the likeliest pieces of SmolLM2 are commas, brackets, small words. Then the
# name of the city stands there, and the last block makes it sure. Does that mean that the last blocks
# *know* the capital of France?
#
# ## Your turn: who said it?
#
# The lens asks what the model would say if it stopped. A sharper question: in the *final* logit of
# "Paris", how much comes from which part? The stream at the end is a sum of everything that was
# written: the embedding's row, then what each half of each block added. Only the last norm stands
# between that sum and the logit. For one given text the norm divides by one number, and a division
# by one number can be shared out.

# %%
def contributions(writes: Tensor, weight: Tensor, eps: float, row: Tensor
                  ) -> Tensor:
    """Exercise 6.3 ●●● 12 min. How much does each of n parts add to one logit? Return `n`.

    `writes`, of shape `n c`, is what each part added to one token's stream, in order.
    `weight`, of shape `c`, and `eps` belong to the last norm. `row`, of shape `c`, is the
    piece's row of the output matrix. Some of the n numbers are negative. Together they are
    the logit that the model gives this piece.
    """
    ### BEGIN SOLUTION
    size = ((writes.sum(0)**2).mean() + eps)**0.5
    return (writes / size * weight) @ row
    ### END SOLUTION


check("6.3", contributions)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 6.3.** *Each part normed by itself* is the natural slip: it turns every whisper into a
# shout, and the shares no longer add up. *Steps of the logit lens* do add up, and mean something
# else: when a part makes the stream longer, everything said before is divided by more, and the step
# blames that part for it. Our shares are exact for this text, but they describe *who wrote it*, not who
# caused it: a late part may only pass on what an early one found.
# ### END SOLUTION
#
# Now the real thing. We subtract two rows, "Paris" and "London", so that what helps both alike does
# not count. A part above zero argued for Paris.

# %%
@torch.no_grad()
def written(model: nn.Module, ids: Tensor) -> Tensor:
    """The parts `n c` of the last token's stream, the embedding first."""
    parts = [model.tok_embeddings(ids)[0, -1]]
    hooks = [half.register_forward_hook(
                 lambda _, given, made: parts.append(made[0, -1]))
             for block in model.layers
             for half in (block.attention, block.feed_forward)]
    model(ids)
    for hook in hooks:
        hook.remove()
    return torch.stack(parts)

# %% [markdown]
# The shares must add up to what the model says:

# %%
votes = torch.zeros(61)
if here:
    paris, london = (words.encode(city, bos=False)[0]
                     for city in (" Paris", " London"))
    rows = real.tok_embeddings.weight.detach()
    with torch.no_grad():
        logits, parts = real(ids)[0, -1], written(real, ids)
        rms = (parts.sum(0).pow(2).mean() + real.norm.eps).sqrt()
        shared = parts / rms * real.norm.weight
        votes = shared @ (rows[paris] - rows[london])
    gap = logits[paris] - logits[london]
    torch.testing.assert_close(votes.sum(), gap, atol=1e-3, rtol=0)
    attention, feed_forward = votes[1::2], votes[2::2]
    print(f"in all {gap:.1f}: attention {attention.sum():.1f} (block 23 alone "
          f"{attention[23]:.1f}), feed-forward {feed_forward.sum():.1f}")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Contributions of the attention and feed-forward halves of SmolLM2's thirty blocks to the logit of Paris minus that of London. Nearly all are close to zero; the attention of block 23 gives about 3 of 5 and the feed-forward layer of block 29 about 2."}}
fig, ax = plots.figure("Attention in block 23 argues most for Paris", x="block",
                       y="logit of Paris minus London")
ax.bar(torch.arange(30) - 0.2, votes[1::2], 0.4, color=plots.BLUE,
       label="attention")
ax.bar(torch.arange(30) + 0.2, votes[2::2], 0.4, color=plots.ORANGE, hatch="//",
       label="feed-forward")
_ = ax.legend()

# %% [markdown]
# One layer of attention, in block 23, gives more than half of the difference. Did it know the capital of
# France? Two experiments. Put what it wrote through the last norm and the output alone: which pieces
# does it speak for? And leave it out: what does the model say then?
#
# > **Predict.** Paris has 96 %. How much is left when block 23's attention writes nothing here?

# %%
my_rest = None          # in percent

# %%
def silent(part: nn.Module, given: tuple, made: Tensor) -> Tensor:
    """A hook: what a part writes, with nothing for the last token."""
    return torch.cat([made[:, :-1], torch.zeros_like(made[:, -1:])], 1)


if here:
    with torch.no_grad():
        alone = F.linear(real.norm(parts[1 + 2 * 23]), rows).topk(6).indices
        print("it speaks for", [words.decode([i]) for i in alone.tolist()])
        handle = real.layers[23].attention.register_forward_hook(silent)
        rest = real(ids)[0, -1].softmax(-1)[paris].item()
        handle.remove()
    print(reveal("Paris without it (%)", my_rest, round(100 * rest)))
    assert 0.8 < rest < 0.9

# %% [markdown]
# What it brought is mostly *France*, fetched from an earlier token. That helps Paris against London, and
# the layers after it make of it what they can. Without it Paris still has 86 %: other parts know the way
# too. A large share is not a sole cause. (One sentence, one small model.)
#
# ## Where do the parameters sit?
#
# `accounting` counts from the config alone, by your formula. For every release it agrees with the model
# on the `meta` device, to the last parameter. (For the vision models this is the text part. One of the
# 37, the 34B of Llama 2, was described and never released.)

# %%
for r in RELEASES:
    with torch.device("meta"):
        built = Llama(r.config)
    counted = sum(p.numel() for p in built.parameters())
    assert counted == parameters(r.config).total, r.id
print(len(RELEASES), "releases, every count exact")

# %% [markdown]
# Nine of them, from 1.2 to 405 billion parameters:

# %%
shown = ["llama-3.2-1b", "llama-3.2-3b", "llama-2-7b", "llama-3.1-8b",
         "llama-2-13b", "llama-1-33b", "llama-2-70b", "llama-3.1-70b",
         "llama-3.1-405b"]
kinds = {"embedding": plots.ORANGE, "attention": plots.BLUE,
         "feed_forward": plots.GREEN, "output": plots.PURPLE}
counts = {name: parameters(release(name).config) for name in shown}
shares = {name: {kind: getattr(n, kind) / n.total for kind in kinds}
          for name, n in counts.items()}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Stacked bars of parameter shares for nine releases from 1.2 to 405 billion. Feed-forward layers hold 64 to 82 percent everywhere; in Llama 3.2 1B the embedding table alone holds 21 percent, in the 405B under 1 percent."}}
fig, ax = plots.figure(
    "Most of a Llama is feed-forward; a small one is also a dictionary",
    x="share of all parameters (%)", y="")
left = [0.0] * len(shown)
for kind, colour in kinds.items():
    width = [100 * shares[name][kind] for name in shown]
    ax.barh([release(name).name for name in shown], width, left=left,
            color=colour, label=kind.replace("_", "-"))
    left = [a + b for a, b in zip(left, width, strict=True)]
ax.invert_yaxis()
_ = ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=4)

# %% [markdown]
# The two ends and the middle in numbers:

# %%
for name in ("llama-3.2-1b", "llama-2-7b", "llama-3.1-405b"):
    said = [f"{kind} {shares[name][kind]:.1%}" for kind in kinds]
    print(f"{name:14}", " ".join(said))

one_b = dict(shares["llama-3.2-1b"])
del one_b["output"]             # the table again: it is tied
order = ", ".join(sorted(one_b, key=one_b.get, reverse=True)).replace("_", "-")
table = round(100 * one_b["embedding"])
print(order)
print(reveal("the largest", my_order.split(",")[0], order.split(",")[0]))
print(reveal("the table's share (%)", my_share, table))

# %% [markdown]
# In the 1B the table is larger than all attention together. And it is counted once: were it not tied,
# the model would be 21 % larger. In the 405B both tables together are 1 %, and yet each is larger than the
# whole 1B. (The norms are not drawn. They would be thinner than a line.)
#
# ## In the Llamas: what changed, and what never did
#
# The configs answer this without anybody's memory. Seven text models, eight fields:

# %%
generations = ["llama-1-7b", "llama-2-7b", "llama-2-70b", "code-llama-7b-base",
               "llama-3-8b", "llama-3.1-8b", "llama-3.2-1b"]
print("              vocabulary  kv/heads  hidden/dim  theta  "
      "rope  context   eps  tied")
for name in generations:
    c = release(name).config
    factor = c.rope_scaling.factor if c.rope_scaling else "-"
    print(f"{name.removesuffix('-7b-base'):13}{c.vocab_size:11,}"
          f"{f'{c.n_kv_heads}/{c.n_heads}':>10}{c.hidden_dim / c.dim:12.2f}"
          f"{c.rope_theta:7g}{factor!s:>6}{c.max_seq_len:9,}{c.norm_eps:6g}"
          f"  {'yes' if c.tied_embeddings else 'no'}")

# %% [markdown]
# (`rope` is the factor of chapter 02's stretched rotations.) Read it row by row. From 1 to 2 the context
# doubles and epsilon moves; the 70B gets shared key/value heads and a wider feed-forward layer. Code Llama
# turns slower. Llama 3 has four times the vocabulary, shares key/value heads at every size, and its 8B has
# the 70B's wider feed-forward layer. Llama 3.1 stretches the rotations. Llama 3.2's small models tie their
# tables.
#
# What never changed: pre-norm with RMSNorm, rotary positions, SwiGLU, no biases, no dropout. One class
# holds them all because the recipe stayed.
#
# > **Careful.** Vocabulary sizes come in more kinds than two. Count them before you hard-code one:

# %%
print(dict(sorted(Counter(r.config.vocab_size for r in RELEASES).items())))

# %% [markdown]
# ## Fact check: three sentences that circulate
#
# The course's ledger of claims has their words. Judge them first, each "right", "wrong" or "imprecise";
# "?" is for later.

# %%
claims.judge({"A13": "?", "E33": "?", "A04": "?"})

# %% [markdown]
# Now the verdicts, each with the expression that decides it. The cells below ask the configs
# ourselves.

# %%
claims.show("A13", "E33")

# %%
for r in RELEASES:
    if r.family == "Llama 2":
        c = r.config
        print(f"{r.id:12} {c.n_heads} query heads, {c.n_kv_heads} key/value")

# %% [markdown]
# The 34B was never released. So the Llama 2 models that people ran at home share nothing.

# %% [markdown]
# And the sizes in everybody's table (the paper prints 32.5B and calls the model 33B):

# %%
claims.show("A04")

# %%
for r in RELEASES:
    if r.family == "Llama 1":
        print(f"{r.id:12} {parameters(r.config).total:>14,}   "
              f"printed in the paper: {r.published_size}")

# %% [markdown]
# (Where the paper prints 65.2B it cuts the number and does not round it.)
#
# ## Bug hunt: six tellers
#
# `suspects("6.4")` hands out six functions. Each takes tokens `b t` and returns what the shipped teller
# says, `b t v`; but most of them are wired wrongly. The weights are the teller's own, and right. Which
# has which mistake? The verdicts to choose from, some of which fit nobody:
#
# | verdict | the mistake |
# |---|---|
# | `healthy` | none |
# | `no last norm` | the stream goes to the output as it is |
# | `mask dropped` | every token sees all others |
# | `no rotation` | queries and keys are not turned |
# | `halves at once` | the feed-forward layer reads $x$ and not $h$ |
# | `second sum from x` | the second sum begins from $x$: what attention wrote is lost |
# | `no second residual` | what the feed-forward layer makes *replaces* the stream |
# | `norms exchanged` | attention reads through `ffn_norm`, the other half through `attention_norm` |
# | `blocks backwards` | the last block runs first |
# | `softmax inside` | probabilities in the place of logits |
#
# Some show themselves in one line. For others, make the mistake yourself, with your 6.2 and the healthy
# model's parts (`teller`), and compare logits. The table of rotations for t tokens is
# `rope_table(rope_frequencies(24, 1e4), torch.arange(t))`; cosines of 1 and sines of 0 turn nothing, and a
# mask full of True hides nothing.

# %%
# Exercise 6.4 ●●● 20 min. Which mistake is in which teller? Replace each `"?"` by a verdict.
suspect = suspects("6.4")
found = {"a": "?", "b": "?", "c": "?", "d": "?", "e": "?", "f": "?"}
### BEGIN SOLUTION
found = {"a": "norms exchanged", "b": "no last norm", "c": "healthy",
         "d": "second sum from x", "e": "no rotation", "f": "halves at once"}
### END SOLUTION

check("6.4", found)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 6.4.** Sums that are not 1 rule out a *softmax*; early logits that stay when a late
# token changes rule out the *dropped mask*. `b` has the healthy teller's first choices nearly everywhere,
# and larger logits: the *last norm* is missing. For the rest no number tells at a glance: all give
# other logits of a sensible size. That is how such bugs live for months in real code. The sure way is the one
# by which the course proves its own parts: build the candidate, and compare the logits.
# ### END SOLUTION

# %%
### BEGIN SOLUTION
assert (teller.config.head_dim, teller.config.rope_theta) == (24, 1e4)
rope = rope_table(rope_frequencies(24, 1e4), torch.arange(9))
sample, one_last = unseen[0][:, :9], torch.tensor([[0] * 8 + [1]])
healthy = suspect["c"](sample)

print("  first choices kept, largest logit, early logits moved by a late one")
for name, asked_one in suspect.items():
    logits, other = asked_one(sample), asked_one(sample ^ one_last)
    kept = (logits.argmax(-1) == healthy.argmax(-1)).float().mean()
    moved = not torch.allclose(logits[:, :8], other[:, :8])
    print(f"{name} {kept:18.0%} {logits.max():14.1f}   {moved}")


def at_once(x: Tensor, block: nn.Module) -> Tensor:
    attended = block.attention(block.attention_norm(x), rope, causal_mask(9, 9))
    return x + attended + block.feed_forward(block.ffn_norm(x))


with torch.no_grad():
    x = teller.tok_embeddings(sample)
    for block in teller.layers:
        x = at_once(x, block)
    mine = teller.logits(teller.norm(x))
equal = [name for name, asked_one in suspect.items()
         if torch.allclose(mine, asked_one(sample), atol=1e-4)]
print("halves at once is", equal)
### END SOLUTION

# %% [markdown]
# ## Summary: parts that add, and a table that decides
#
# - A block adds attention's answer, then the feed-forward layer's, each read through a norm. The
#   stream is a sum, so it grows, so there is a last norm; and so one can ask who said what.
# - Blocks are not links of a chain. The first cannot be missed; in SmolLM2 one from the middle can.
# - Eleven settings tell one text Llama from another. One class serves them all.
# - Most parameters are feed-forward. In the 1B the vocabulary weighs more than all attention.
# - From 1 to 3.2 the vocabulary, the sharing of heads, the width, the rotations and the context
#   changed. The recipe did not.
#
# **Read in the package:** `llama_edu.model` (one page), `llama_edu.family.accounting.parameters`,
# `llama_edu.family.releases`. **Read elsewhere:** Touvron et al. 2023a, *LLaMA: Open and Efficient Foundation
# Language Models*, section 2; nostalgebraist 2020, *interpreting GPT: the logit lens*.
