# %% [markdown]
# # 06 · The model: eleven settings become a Llama
#
# **The question.** You have built the norm, the rotation, attention, the gate and the tokenizer. One
# class puts them together, and eleven settings decide whether it is a Llama 1 or a Llama 3.3. Where do
# eight billion parameters sit, and what did three generations really change?
#
# | you will build | you need | minutes |
# |---|---|---|
# | `Block` and `Llama`, as they stand in `llama_edu.model` | chapters 01 to 04 | 65 |

# %%
import importlib.util
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import llama_edu.model
from llama_edu import checkpoint, claims, plots
from llama_edu.cache import KVCache
from llama_edu.config import ModelConfig
from llama_edu.data import tales
from llama_edu.exercises import check, hint
from llama_edu.family.accounting import parameters
from llama_edu.family.releases import RELEASES, release
from llama_edu.layers import (
    Attention, FeedForward, RMSNorm, causal_mask, rope_frequencies, rope_table, widen)
from llama_edu.losses import next_token
from llama_edu.tokenizer import installed

plots.use_style()
torch.set_num_threads(1)      # small tensors: threads would wait for one another

# %% [markdown]
# > **Predict.** Llama 3.2 1B has a vocabulary of 128,256 pieces. Which part of it holds the most
# > parameters: the embedding table, all its attention layers together, or all its feed-forward layers
# > together? And in which order do the three come?
#
# ## By hand: count a Llama that fits on a napkin
#
# Two layers, eight features, four query heads that share two key/value heads, 24 features inside
# the feed-forward layer, ten pieces in the vocabulary.

# %%
tiny = ModelConfig(dim=8, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=24, vocab_size=10,
                   norm_eps=1e-5, rope_theta=1e4, max_seq_len=32)

settings = [field.name for field in fields(ModelConfig) if field.name != "own_head_dim"]
assert len(settings) == 11 and all(r.config.own_head_dim is None for r in RELEASES)
print(*settings)        # a twelfth serves relatives whose heads are not dim / n_heads wide

embedding = 10 * 8                              # one row of 8 features a piece
attention = 8 * 8 + 8 * 4 + 8 * 4 + 8 * 8       # wq, wk, wv, wo: two kv heads of 2 features are 4
feed_forward = 3 * 8 * 24                       # w1, w2, w3
norms = 2 * 8                                   # one before each half
output = 10 * 8
total = embedding + 2 * (attention + feed_forward + norms) + 8 + output     # 8: the last norm
total

# %% [markdown]
# Is that what the package builds? On the `meta` device PyTorch makes tensors that have a shape and no
# memory. So we can build any Llama, the largest included, and count.

# %%
with torch.device("meta"):
    napkin = llama_edu.model.Llama(tiny)

for name, p in napkin.named_parameters():
    if not name.startswith("layers.1"):
        print(f"{name:32}{str(tuple(p.shape)):>10}{p.numel():>6}")
assert sum(p.numel() for p in napkin.parameters()) == parameters(tiny).total == total

# %% [markdown]
# (Layer 1 has the same nine tensors as layer 0, so it is not shown.) The names are Meta's. A file of
# Meta's weights fits into this class without renaming anything.
#
# ## The idea: a stream that parts write to
#
# A token enters as a row of the embedding table. That row is the start of the *residual stream*.
# Each half of each block reads the stream through its own norm and adds what it found. Nothing is ever
# replaced (Touvron et al. 2023a, section 2.2):
#
# $$ h = x + \mathrm{Attention}(\mathrm{norm}_1(x)), \qquad
#    y = h + \mathrm{FeedForward}(\mathrm{norm}_2(h)) $$
#
# After the last block one more norm, and a matrix with one row for each piece of the vocabulary. The
# product says how well the stream matches each piece: the *logits*, one score a piece.
#
# The order matters. The feed-forward layer reads $h$, not $x$: it sees what attention has just
# fetched from other tokens. Since every part only adds, the stream at the end is a sum, and we can
# watch it grow.

# %% mystnb={"image": {"alt": "Size of the residual stream after each of 32 blocks of a random pre-norm model: it rises steadily, following the square root of the number of parts that have written to it."}}
torch.manual_seed(0)
deep = ModelConfig(dim=64, n_layers=32, n_heads=4, n_kv_heads=2, hidden_dim=176, vocab_size=100,
                   norm_eps=1e-5, rope_theta=1e4, max_seq_len=32)
blocks = [llama_edu.model.Block(deep, i) for i in range(32)]
now = llama_edu.model.Pass(rope_table(rope_frequencies(16, 1e4), torch.arange(32)),
                           causal_mask(32, 32), None)
stream, sizes = torch.randn(8, 32, 64), [1.0]
with torch.no_grad():
    for block in blocks:
        for part in block.parameters():
            if part.ndim == 2:
                nn.init.normal_(part, std=1.2 * part.shape[1] ** -0.5)
        stream = block(stream, now)
        sizes.append(float(stream.pow(2).mean().sqrt()))

fig, ax = plots.figure("The stream is a sum: it grows with every block that writes",
                       x="blocks passed", y="root mean square of the stream")
ax.plot(range(33), sizes, label="32 random blocks")
growth = (sizes[-1] ** 2 - 1) / 32
ax.plot(range(33), [(1 + growth * n) ** 0.5 for n in range(33)], "--",
        label="square root of a straight line")
_ = ax.legend()

# %% [markdown]
# That is why the last norm must be there. Without it a deeper model would shout louder, and the
# softmax after it would be too sure of itself. In a stack of *random* blocks late ones change the stream
# by a smaller share than early ones, for the stream has grown and they have not. Whether that is so in
# a trained model we shall measure (see *Play*).
#
# ## Build it: naive first
#
# With the parts from earlier chapters, a whole Llama is a loop. Here is one without a cache, as a
# plain function of a dictionary of modules:

# %%
def naive_llama(model: nn.Module, config: ModelConfig, tokens: Tensor) -> Tensor:
    """Tokens `b t` to logits `b t v`, the straight way."""
    t = tokens.shape[1]
    rope = rope_table(rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling),
                      torch.arange(t))
    x = model.tok_embeddings(tokens)
    for block in model.layers:
        x = x + block.attention(block.attention_norm(x), rope, causal_mask(t, t))
        x = x + block.feed_forward(block.ffn_norm(x))
    return model.output(model.norm(x))

# %% [markdown]
# The package's version differs in three ways. What all blocks need to know in one pass (the table of
# rotations, the mask, the cache) travels in one small object, `Pass`. A cache of keys and values may
# come along; chapter 07 is about it. And a caller may say where tokens stand and what they may see,
# which chapters 07 and 08 need.

# %%
# twin: llama_edu.model.Pass, llama_edu.model.Block
@dataclass(frozen=True)
class Pass:
    rope: tuple[Tensor, Tensor]         # cos and sin, each broadcastable to `b h t d/2`
    mask: Tensor | None                 # as `attend_fused` takes it, True where a token may look
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
        x = x + self.attention(self.attention_norm(x), now.rope, now.mask, memory)
        return x + self.feed_forward(self.ffn_norm(x))

# %% [markdown]
# What a pass begins with. A token's position counts on from those in the cache, and a mask is made only
# where several new tokens follow old ones: elsewhere `attend_fused` knows what is hidden.

# %%
# twin: llama_edu.model.begin
def begin(c: ModelConfig, tokens: Tensor, cache: KVCache | None, positions: Tensor | None,
          mask: Tensor | None) -> Pass:
    start = 0 if cache is None else cache.length
    t, end = tokens.shape[1], start + tokens.shape[1]
    if end > c.max_seq_len:
        raise ValueError(f"{end} tokens were given; this model's context is {c.max_seq_len}. "
                         "Shorten the prompt.")
    if positions is None:
        positions = torch.arange(start, end, device=tokens.device)[None]
    if mask is None and start > 0 and t > 1:    # else `attend_fused` needs none
        mask = causal_mask(t, end, device=tokens.device)[None]
    freqs = rope_frequencies(c.head_dim, c.rope_theta, c.rope_scaling, device=tokens.device)
    return Pass(rope_table(freqs, positions[:, None]),
                None if mask is None else mask[:, None], cache)

# %% [markdown]
# Now the whole model. Read `forward` as a list: begin, embed, blocks, norm, logits.
# What differs between Llama 1 and Llama 3.3 is nowhere in this code. It is all in the config.

# %%
# twin: llama_edu.model.Llama
class Llama(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = None if config.tied_embeddings else nn.Linear(
            config.dim, config.vocab_size, bias=False)

    def blocks(self) -> Iterator[nn.Module]:
        return iter(self.layers)

    def new_cache(self, batch: int, max_len: int) -> KVCache:
        if max_len > self.config.max_seq_len:
            raise ValueError(f"a cache of {max_len} tokens was asked for; this model's context is "
                             f"{self.config.max_seq_len} tokens. Make the cache that long at most.")
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
               positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return self(tokens, cache, positions=positions, mask=mask, head=False)

    def logits(self, hidden: Tensor) -> Tensor:
        if self.output is None:
            return widen(F.linear(hidden, self.tok_embeddings.weight))
        return widen(self.output(hidden))

# %% [markdown]
# One line deserves a second look: `F.linear(hidden, self.tok_embeddings.weight)`. In the two smallest
# Llamas 3.2 there is no output matrix: the embedding table is used twice. The row that says what a
# piece means also says how well the stream matches it.
#
# ## Prove it: follow the shapes, then compare
#
# A *hook* is a function that PyTorch calls after a module has run. Ours print what goes out. Read the letters with the numbers: `b t c` is 2, 5, 8.

# %%
torch.manual_seed(0)
model = Llama(tiny).eval()
tokens = torch.randint(0, 10, (2, 5))


def report(name: str):
    return lambda module, given, made: print(f"{name:26}{tuple(made.shape)}")


watched = ["tok_embeddings", "layers.0.attention.wq", "layers.0.attention.wk",
           "layers.0.attention", "layers.0.feed_forward.w1", "layers.0.feed_forward", "norm", "output"]
handles = [model.get_submodule(name).register_forward_hook(report(name)) for name in watched]
with torch.no_grad():
    logits = model(tokens)
for handle in handles:
    handle.remove()

# %% [markdown]
# `wk` makes 4 features where `wq` makes 8: two key/value heads against four query heads, two
# features each. Everything that returns to the stream has 8 again.
#
# Against the naive loop and against the package:

# %%
twin = llama_edu.model.Llama(tiny).eval()
twin.load_state_dict(model.state_dict())
with torch.no_grad():
    torch.testing.assert_close(logits, naive_llama(model, tiny, tokens))
    assert torch.equal(logits, twin(tokens))
print("equal to the loop and to the package")

# %% [markdown]
# And against Meta's own class. It ships in the package `llama-models`, which is not needed for
# this course; if it is installed, the next cell runs it with our weights. (How to get it:
# `pip install --no-deps llama-models fairscale`.) The weights are made large on purpose, so that
# a small mistake would show.

# %%
def logits_of_meta(model: nn.Module, config: ModelConfig, tokens: Tensor) -> Tensor:
    import torch.distributed as dist
    from fairscale.nn.model_parallel.initialize import initialize_model_parallel
    from llama_models.llama3.args import ModelArgs
    from llama_models.llama3.model import Transformer

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    initialize_model_parallel(1)
    theirs = Transformer(ModelArgs(
        dim=config.dim, n_layers=config.n_layers, n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads, vocab_size=config.vocab_size, multiple_of=config.hidden_dim,
        norm_eps=config.norm_eps, rope_theta=config.rope_theta, max_batch_size=2, max_seq_len=32))
    theirs.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        return theirs.eval()(tokens, 0)

# %%
with torch.no_grad():
    for p in model.parameters():
        p.mul_(4.0)
    ours = model(tokens)

if importlib.util.find_spec("llama_models") and importlib.util.find_spec("fairscale"):
    gap = (ours - logits_of_meta(model, tiny, tokens)).abs().max() / ours.abs().max()
    assert gap < 1e-4
    print("Meta's class, our weights, no renaming: largest relative difference below 1e-4")
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
# > **Predict.** Each block was trained in its own place, to read what the block before it wrote. What
# > hurts more: to leave a block out, or to run it twice in a row? And is it worse at the bottom or at
# > the top?

# %%
teller, tokenizer = checkpoint.load(checkpoint.TALES)
unseen = [torch.tensor([tokenizer.encode(text, bos=True, eos=True)])
          for text in tales.stories(40, seed=10**6)]
whole = list(teller.layers)


@torch.no_grad()
def loss_with(*order: int) -> float:
    """Nats per piece when these blocks run in this order."""
    teller.layers = nn.ModuleList(whole[i] for i in order)
    parts = [next_token(teller, {"tokens": ids}) for ids in unseen]
    teller.layers = nn.ModuleList(whole)
    return sum(part.total.item() for part in parts) / sum(part.count for part in parts)


orders = {"as trained": (0, 1, 2), "1 twice": (0, 1, 1, 2), "2 twice": (0, 1, 2, 2),
          "0 twice": (0, 0, 1, 2), "1 and 2 exchanged": (0, 2, 1), "without 1": (0, 2),
          "without 2": (0, 1), "0 and 1 exchanged": (1, 0, 2), "without 0": (1, 2)}
surprise = {name: loss_with(*order) for name, order in orders.items()}
guessing = torch.tensor(float(teller.config.vocab_size)).log().item()

# %% mystnb={"image": {"alt": "Bars of the loss of the tale teller when its three blocks run in other orders. As trained it is 0.44 nats per piece; a block run twice costs up to 0.6; exchanging or leaving out the upper blocks about 1 to 1.4; without block 0 it is above 9, worse than the 6.6 of blind guessing."}}
fig, ax = plots.figure("A block run twice hardly hurts; the first block cannot be missed",
                       x="loss on unseen tales (nats per piece)", y="")
names = list(surprise)[::-1]
ax.barh(names, [surprise[name] for name in names],
        color=[plots.GREEN if name == "as trained" else plots.VERMILION
               if surprise[name] > guessing else plots.BLUE for name in names])
for row, name in enumerate(names):
    ax.text(surprise[name] + 0.1, row, f"{surprise[name]:.2f}", va="center", fontsize=8)
ax.axvline(guessing, color=plots.BLACK, linewidth=0.8, linestyle="--")
ax.text(guessing - 0.1, 6, "blind guessing", ha="right", fontsize=8)
ax.set_xlim(0, 11)
assert surprise["1 twice"] < surprise["as trained"] + 0.1
assert surprise["without 0"] > guessing > surprise["without 1"]
assert surprise["1 and 2 exchanged"] < surprise["without 1"]

# %% [markdown]
# Two surprises. A block that runs twice hardly hurts. And the upper two may even change places, at a
# lower price than leaving either out. Parts that *add* to a stream are not links of a chain. Only the
# first block cannot be missed. It turns the bare rows of the table into something that the others can
# read, and without it the model is confidently wrong: worse than guessing among all pieces.
#
# What does a block add when it runs for the second time? And how large is the stream of a trained model?

# %%
@torch.no_grad()
def streams(model: Llama, ids: Tensor) -> list[Tensor]:
    """What each block reads, in order, and then what the last norm reads: `t c` each."""
    seen: list[Tensor] = []
    hooks = [part.register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
             for part in {*model.layers, model.norm}]
    model(ids)
    for hook in hooks:
        hook.remove()
    return seen


for i in range(3):
    teller.layers = nn.ModuleList(whole[j] for j in sorted([0, 1, 2, i]))
    adds = [(x[i + 1] - x[i], x[i + 2] - x[i + 1]) for x in (streams(teller, t) for t in unseen[:10])]
    once, again = (torch.cat(each) for each in zip(*adds, strict=True))
    print(f"block {i} again adds {again.norm() / once.norm():.2f} times as much,"
          f" at a cosine of {F.cosine_similarity(once, again).mean():.2f} to what it added before")
teller.layers = nn.ModuleList(whole)

# %% [markdown]
# The upper blocks, run again, add about half as much again in nearly the same direction; the first one,
# which expects bare rows, adds something else. Now the size of the stream, in the teller and in a
# relative of the Llamas (the same architecture, other weights):

# %%
for name in ("tales", "smollm2"):
    if name == "smollm2" and installed.find(name) is None:
        print(installed.how_to_get(name))
        continue
    trained, words = checkpoint.load(name)
    text = torch.tensor([words.encode(next(tales.stories(1, seed=7)), bos=words.adds_bos)])
    sizes = [float(x.pow(2).mean(-1).sqrt().median()) for x in streams(trained, text)]
    print(f"{name}: a token's stream (median) before and after each block:",
          *(f"{size:.2f}" for size in sizes))
    assert sizes[-1] > 1.5 * sizes[len(sizes) // 2] > 3 * sizes[0]      # it grows to the end

last_norm, teller.norm = teller.norm, nn.Identity()
print(f"without the last norm the teller's loss is {loss_with(0, 1, 2):.2f}")
teller.norm = last_norm

# %% [markdown]
# So the rule of the random stack does not hold of trained ones. In the teller the last block more than
# doubles what came before it. In SmolLM2 the first block changes the stream most by far, yet it goes on
# growing to the end, for late blocks write larger numbers.
#
# The stream has the same form after every block. So we can stop early and ask what the model would say
# *now*, through the last norm and the output matrix. (nostalgebraist 2020 named this the *logit lens*.)

# %%
prompt = "Once upon a time, there was a"
ids = torch.tensor([tokenizer.encode(prompt, bos=True, eos=False)])
for n in range(4):
    teller.layers = nn.ModuleList(whole[:n])
    with torch.no_grad():
        odds = teller(ids)[0, -1].softmax(-1)
    best = odds.topk(3)
    said = ", ".join(f"{tokenizer.decode([i])!r} {p:.0%}" for p, i in
                     zip(best.values.tolist(), best.indices.tolist(), strict=True))
    loss = loss_with(*range(n))
    print(f"after {n} blocks   loss {loss:5.2f}   {prompt!r} goes on with {said}")

# %% [markdown]
# With no block at all the model repeats what it was given: the table is tied, so a row is most like
# itself. This place in the tale is easy, and one block is enough for it. The loss over whole tales shows
# what the others add.
#
# ## Where do the parameters sit?
#
# `accounting` counts from the config alone, by the sum that you did on the napkin. For every release
# it agrees with the model on the `meta` device, to the last parameter. (For the vision models
# this is the text part.)

# %%
for r in RELEASES:
    with torch.device("meta"):
        built = Llama(r.config)
    assert sum(p.numel() for p in built.parameters()) == parameters(r.config).total, r.id
print(len(RELEASES), "releases, every count exact")

# %% mystnb={"image": {"alt": "Stacked bars of parameter shares for nine releases from 1.2 to 405 billion. Feed-forward layers hold 64 to 82 percent everywhere; in Llama 3.2 1B the embedding table alone holds 21 percent, in the 405B under 1 percent."}}
shown = ["llama-3.2-1b", "llama-3.2-3b", "llama-2-7b", "llama-3.1-8b", "llama-2-13b", "llama-1-33b",
         "llama-2-70b", "llama-3.1-70b", "llama-3.1-405b"]
kinds = {"embedding": plots.ORANGE, "attention": plots.BLUE, "feed_forward": plots.GREEN,
         "output": plots.PURPLE}
shares = {name: {kind: getattr(parameters(release(name).config), kind)
                 / parameters(release(name).config).total for kind in kinds} for name in shown}

fig, ax = plots.figure("Most of a Llama is feed-forward; a small one is also a dictionary",
                       x="share of all parameters (%)", y="")
left = [0.0] * len(shown)
for kind, colour in kinds.items():
    width = [100 * shares[name][kind] for name in shown]
    ax.barh([release(name).name for name in shown], width, left=left, color=colour,
            label=kind.replace("_", "-"))
    left = [a + b for a, b in zip(left, width, strict=True)]
ax.invert_yaxis()
_ = ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=4)

# %% [markdown]
# The two ends and the middle in numbers:

# %%
for name in ("llama-3.2-1b", "llama-2-7b", "llama-3.1-405b"):
    print(f"{name:16}" + "".join(f"{kind} {shares[name][kind]:6.1%}   " for kind in kinds))

# %% [markdown]
# Did you predict it? In the 1B the feed-forward layers come first, the embedding second, and
# attention last. Its table is larger than all its attention. And the table is counted once: were it
# not tied, the model would be 21 % larger. In the 405B both tables together are a
# rounding error.
#
# The norms are not drawn. They would be thinner than a line.
#
# ## In the Llamas: what changed, and what never did
#
# The configs answer this without anybody's memory. Seven text models, eight fields:

# %%
generations = ["llama-1-7b", "llama-2-7b", "llama-2-70b", "code-llama-7b-base", "llama-3-8b",
               "llama-3.1-8b", "llama-3.2-1b"]
rows = {
    "vocabulary": lambda c: f"{c.vocab_size:,}",
    "kv heads / heads": lambda c: f"{c.n_kv_heads}/{c.n_heads}",
    "hidden / dim": lambda c: f"{c.hidden_dim / c.dim:.2f}",
    "theta": lambda c: f"{c.rope_theta:g}",
    "rope factor": lambda c: "-" if c.rope_scaling is None else f"{c.rope_scaling.factor:g}",
    "context": lambda c: f"{c.max_seq_len:,}",
    "norm eps": lambda c: f"{c.norm_eps:g}",
    "tied": lambda c: "yes" if c.tied_embeddings else "no",
}
print(" " * 18 + "".join(f"{name.removeprefix('llama-').removesuffix('-base'):>15}"
                         for name in generations))
for field, show in rows.items():
    print(f"{field:18}" + "".join(f"{show(release(name).config):>15}" for name in generations))

# %% [markdown]
# Read it column by column. From 1 to 2 the context doubles and epsilon moves; the 70B gets shared
# key/value heads and a wider feed-forward layer. Code Llama turns slower. Llama 3 has four times the
# vocabulary, shares key/value heads at every size, and its 8B has the 70B's wider feed-forward layer. Llama 3.1 stretches the rotations. Llama 3.2's small
# models tie their tables.
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
# The course's ledger of claims has their words, a verdict, and the expression that decides it. The
# cell below each asks the configs ourselves.

# %%
claims.show("A13")

# %%
for r in RELEASES:
    if r.family == "Llama 2":
        print(f"{r.id:12} {r.config.n_heads} query heads, {r.config.n_kv_heads} key/value heads")

# %% [markdown]
# The 34B was never released. So the Llama 2 models that people ran at home share nothing.

# %%
claims.show("A26")

# %% [markdown]
# One step short: `hidden` returns that state, `b t c`. The output is what the matrix makes of it,
# `b t v`, one score for each piece. In the 8B of Llama 3 that matrix is not small:

# %%
p = parameters(release("llama-3-8b").config)
print(f"{p.output:,} parameters, {p.output / p.total:.1%} of the 8B")

# %% [markdown]
# And the sizes in everybody's table (the paper prints 32.5B and calls the model 33B):

# %%
claims.show("A04")

# %%
for r in RELEASES:
    if r.family == "Llama 1":
        print(f"{r.id:12} {parameters(r.config).total:>14,}   printed in the paper: {r.published_size}")

# %% [markdown]
# ## Exercises: now you
#
# `hint("6.1")` gives a hint. The solutions are in [their own notebook](../solutions/06_model.ipynb).

# %%
def count_parameters(config: ModelConfig) -> int:
    """Exercise 6.1 ●●○ 10 min. All parameters of a text Llama, from its config.

    Fields: dim, n_layers, n_heads, n_kv_heads, hidden_dim, vocab_size, tied_embeddings; and
    head_dim, which is dim / n_heads.
    """
    ### BEGIN SOLUTION
    c = config
    table = c.vocab_size * c.dim
    attention = 2 * c.dim * c.n_heads * c.head_dim + 2 * c.dim * c.n_kv_heads * c.head_dim
    block = attention + 3 * c.dim * c.hidden_dim + 2 * c.dim
    return table + c.n_layers * block + c.dim + (0 if c.tied_embeddings else table)
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
# Next, one block. You get its four parts as functions; only the wiring is yours.

# %%
def block_step(x: Tensor, attention_norm: nn.Module, attention: nn.Module, ffn_norm: nn.Module,
               feed_forward: nn.Module) -> Tensor:
    """Exercise 6.2 ●○○ 5 min. x: `b t c`. One Llama block, to `b t c`."""
    ### BEGIN SOLUTION
    x = x + attention(attention_norm(x))
    return x + feed_forward(ffn_norm(x))
    ### END SOLUTION


check("6.2", block_step)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 6.2.** *Both halves at once* is a real design (GPT-J and PaLM run attention and
# feed-forward in parallel), and therefore tempting. With a Llama's weights it gives fluent nonsense. *The second
# residual from x* throws away what attention wrote, in every layer; the model becomes a bag of tokens.
# ### END SOLUTION
#
# Last, from the stream to the logits.

# %%
def stream_to_logits(x: Tensor, norm: nn.Module, output_weight: Tensor) -> Tensor:
    """Exercise 6.3 ●○○ 5 min. x: `b t c`, output_weight: `v c`. Logits `b t v`: multiply in the type
    of x, then cast to float32."""
    ### BEGIN SOLUTION
    return (norm(x) @ output_weight.T).float()
    ### END SOLUTION


check("6.3", stream_to_logits)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 6.3.** A *softmax inside the model* is the quiet one: the loss applies another, training
# still goes down, and everything is a little worse for ever. *The last norm left out* keeps the order of the pieces
# and spoils the probabilities: greedy text looks fine, sampled text does not.
# ### END SOLUTION
#
# ## Summary: parts that add, and a table that decides
#
# - A block adds attention's answer, then the feed-forward layer's, each read through a norm. The
#   stream is a sum, so it grows, so there is a last norm.
# - Eleven settings tell one text Llama from another. One class serves them all.
# - Most parameters are feed-forward. In the 1B the vocabulary weighs more than all attention.
# - From 1 to 3.2 the vocabulary, the sharing of heads, the width, the rotations and the context
#   changed. The recipe did not.
#
# **Read in the package:** `llama_edu.model` (one page), `llama_edu.family.accounting.parameters`,
# `llama_edu.family.releases`. **Read elsewhere:** Touvron et al. 2023a, *LLaMA: Open and Efficient Foundation
# Language Models*, section 2.
