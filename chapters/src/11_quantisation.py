# %% [markdown]
# # 11 · Quantisation: how few bits can a weight have?
#
# **The question.** A weight was trained with 16 or 32 bits. The file on your disk has four and a half. How few are enough, which weight is the first to suffer, and can the others make up for it?
#
# | you will build | you need | minutes |
# |---|---|---|
# | round to nearest by group, blocks of Q4_0 byte by byte, a file's size to the byte, and GPTQ | chapters 06, 07 and 09 | 105 |

# %%
import csv
import math
import struct
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn import functional as F

from llama_edu import checkpoint, claims, explorers, load, plots
from llama_edu.cache import KVCache, Slot
from llama_edu.compress.gptq import DAMPING, inverse_factor, second_moments
from llama_edu.compress.grid import Grid, grouped, rounded
from llama_edu.config import ModelConfig, tensor_shapes
from llama_edu.data import samples
from llama_edu.exercises import check, hint, reveal, suspects
from llama_edu.family.accounting import (
    GIB, kv_bytes_per_token, weight_bytes)
from llama_edu.family.releases import release
from llama_edu.formats.convert import convert
from llama_edu.formats.gguf import header as gguf_header
from llama_edu.formats.gguf.blocks import KINDS, decode
from llama_edu.formats.gguf.encode import encode
from llama_edu.formats.gguf.file_types import data_bytes
from llama_edu.tokenizer import installed

plots.use_style()
torch.set_num_threads(1)  # the matrices are small; one thread loses little

# %% [markdown]
# ## By hand: eight weights, four levels
#
# Two bits count to four. So we may choose four *levels*, and each weight becomes the nearest of them. Evenly spaced from the least weight to the largest, say; then two numbers, where they begin and how
# far apart they are, and two bits a weight are all that has to be kept.

# %% tags=["nbval-check-output"]
weights = [0.2, -0.1, 0.3, 0.0, -0.2, 0.1, 5.8, -0.2]


def on_levels(some: list[float], n: int) -> list[float]:
    first, last = min(some), max(some)
    levels = [first + (last - first) * i / (n - 1) for i in range(n)]
    return [min(levels, key=lambda level: abs(level - w)) for w in some]


for name, groups in (("together", [weights]),
                     ("in two groups", [weights[:4], weights[4:]])):
    made = [w for group in groups for w in on_levels(group, 4)]
    print(f"{name:14}", *(f"{w:6.2f}" for w in made))

# %% [markdown]
# One large weight, and all others of its group become one and the same. It spoils only those that share levels with it. That is the whole trade: small groups are precise, and every group costs a few bits of its own.
#
# ## Your turn: the nearest level
#
# Now for tensors, and without a list of levels. `hint("11.1")` gives one hint more at each call. The solutions are in [their own notebook](../solutions/11_quantisation.ipynb).

# %%
def nearest_level(w: Tensor, bits: int) -> Tensor:
    """Exercise 11.1 ●○○ 6 min. Which weights does one compute with afterwards?

    `w`, `... g`: the last axis is a group. Its `2**bits` levels are evenly
    spaced from its least weight to its largest, both included. Return every
    weight's nearest level. A group may be one weight, over and over.
    """
    ### BEGIN SOLUTION
    low = w.min(dim=-1, keepdim=True).values
    span = w.max(dim=-1, keepdim=True).values - low
    share = torch.nan_to_num((w - low) / span)
    steps = 2**bits - 1
    return low + span * torch.round(share * steps) / steps
    ### END SOLUTION


check("11.1", nearest_level)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 11.1.** *One step too many* is the classic: four levels have three steps between them. *The zero point rounded* is no mistake in itself; hardware that multiplies whole numbers likes it, and pays with ends that are no levels any more.
# *Groups over the first axis* computes without complaint wherever shapes happen to fit.
# ### END SOLUTION
#
# ## Build it: the levels of a group
#
# `Grid` keeps a scale and an offset for each group, and its method `nearest` is your 11.1. *Symmetric* levels have zero in their middle and need no offset, but lose one: with four bits they go from -7 to 7.

# %% twin="llama_edu.compress.grid.grid"
def grid(w: Tensor, *, bits: int, symmetric: bool = False) -> Grid:
    if not 1 + symmetric <= bits <= 8:
        raise ValueError(f"{bits} bits a weight were asked for; "
                         f"{1 + symmetric} to 8 are needed. "
                         "Choose another number.")
    smallest = torch.finfo(w.dtype).tiny  # one can divide by it
    if symmetric:
        most = 2**(bits - 1) - 1
        scale = (w.abs().amax(-1, keepdim=True) / most).clamp(min=smallest)
        return Grid(scale, torch.zeros_like(scale), -most, most)
    low, high = (end(-1, keepdim=True) for end in (w.amin, w.amax))
    most = 2**bits - 1
    return Grid(((high - low) / most).clamp(min=smallest), low, 0, most)

# %% [markdown]
# ## The idea: what a group costs
#
# A group of $g$ weights with $b$ bits each, a scale of 16 bits and perhaps an offset of 16 more:

# %% tags=["nbval-check-output"]
print("bits a weight, with what a group shares")
for group in (16, 32, 64, 256, 4096):
    print(f"groups of {group:4}: scale {4 + 16 / group:6.3f}, "
          f"scale and offset {4 + 32 / group:6.3f}")
print(f"llama.cpp's Q4_0: {KINDS['Q4_0'].n_bytes * 8 / 32} bits a weight")

# %% [markdown]
# That is where four and a *half* bits come from: $(32 \cdot 4 + 16) / 32$. QLoRA (Dettmers et al. 2023, section 3) has groups of 64 with a scale of 32 bits. Those scales are then rounded themselves, in groups of 256, to eight bits: *double quantisation*.
#
# > **Predict.** Scales cost half a bit a weight at first. How many bits are left of it?

# %%
guess_double = None     # bits a weight

# %% tags=["nbval-check-output"]
plain, twice = 32 / 64, 8 / 64 + 32 / (64 * 256)
saved = (plain - twice) * 65e9 / 8 / GIB
print(f"{plain} before, {twice:.3f} after: "
      f"{saved:.1f} GiB less for 65 billion weights")
reveal("after double quantisation scales cost", guess_double, round(twice, 3))

# %% [markdown]
# ## Your turn: eighteen bytes
#
# llama.cpp's `Q4_0` is a block of 32 neighbours: a scale as float16 (little-endian), then 16 bytes. The numbers are -8 to 7, eight is added to each, and byte $i$ holds number $i$ in its lower half, $i + 16$ in its upper one. A detail that is easily lost: the weight *farthest from zero* becomes -8, whatever its sign, so the scale may be below zero.

# %%
def q4_0(w: Tensor) -> Tensor:
    """Exercise 11.2 ●●○ 12 min. Write blocks of Q4_0, byte by byte.

    `w` is flat and float32, 32 weights a block. Divide by the scale as it is
    in float32, round halves up, and cut at the largest number. A block of
    zeros has the scale 0 and every number 0. Return the bytes, uint8 and flat.
    """
    ### BEGIN SOLUTION
    made = []
    for block in w.split(32):
        d = block[block.abs().argmax()] / -8
        q = (block / d if d else block * 0).add(0.5).floor().clamp(max=7) + 8
        q = q.to(torch.uint8)
        made += [d.reshape(1).half().view(torch.uint8), q[:16] + 16 * q[16:]]
    return torch.cat(made)
    ### END SOLUTION


check("11.2", q4_0)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 11.2.** *Neighbours share a byte* is how most people would do it, and then a file reads as the right weights in a wrong order. *From -7 to 7* wastes a level; *a scale without sign* cuts every block whose farthest weight is positive. All are files that load.
# ### END SOLUTION
#
# What is the sign worth? We ask the real model of chapter 09, SmolLM2-135M-Instruct: a relative of the Llamas, the same architecture with other weights. The matrices of its file have four bits already, so we take its table, of which it has eight. And we open one block of a *K-quant*, `Q4_K`: 256 weights in eight
# groups of 32, whose scales and offsets are themselves whole numbers of six bits: double quantisation once more.

# %%
REAL = installed.find("smollm2")
if REAL is None:
    print(installed.how_to_get("smollm2"))
    real, words = checkpoint.load(checkpoint.TALES)  # so that all else runs
else:
    real, words = load("smollm2")
w = real.tok_embeddings.weight.detach().flatten()[:65_536].view(-1, 256)


def error(made: Tensor) -> float:
    return ((made - w).norm() / w.norm()).item()


def by_kind(kind: str) -> Tensor:
    back = torch.empty(w.numel())
    decode(encode(w.flatten(), kind).numpy(), kind, back)
    return back.view_as(w)


print("65,536 weights of the table: bits a weight, and error")
print(f"{'-7 to 7, groups of 32':22}  4.50  "
      f"{error(rounded(w, bits=4, group=32, symmetric=True)):.2%}")
for kind in ("Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q6_K"):
    size = KINDS[kind].n_bytes * 8 / KINDS[kind].block
    print(f"{kind:22} {size:5.2f}  {error(by_kind(kind)):.2%}")

# %% [markdown]
# The sign alone takes off a good part of the error, for nothing. And `Q4_K`, in as many bits as `Q4_0`, has an offset as well, and tries some twenty scales for each group. Its block, by hand:

# %%
block = bytes(encode(w.flatten()[:256], "Q4_K").tolist())
scale, offset, *small = struct.unpack("<ee12B", block[:16])
print(f"{len(block)} bytes = 2 + 2 + 12 + 128")
print(f"group 0: scale {scale:.6f} x {small[0] & 63}, "
      f"offset {offset:.6f} x {small[4] & 63}")
q = torch.tensor([byte & 15 for byte in block[16:48]])  # lower halves
first = scale * (small[0] & 63) * q - offset * (small[4] & 63)
torch.testing.assert_close(first, by_kind("Q4_K")[0, :32])

# %% [markdown]
# ## Your turn: a file's size to the byte
#
# The tensors of a `Q4_0` file: norms stay in float32. The output matrix is a `Q6_K` (256 weights in 210 bytes), or, where the model shares its table, that table is; if 256 does not divide its rows, it becomes a `Q8_0` (32 in 34). All else is `Q4_0`. Every tensor is filled up to a multiple of 32 bytes. `tensor_shapes(config)` gives name and shape of each
# tensor; it names `output.weight` for every model, and a file with a shared table does not hold it.

# %%
def file_bytes(config: ModelConfig) -> int:
    """Exercise 11.3 ●●○ 10 min. How many bytes do all tensors take together?

    32 divides every row, and there is no stretched RoPE. What stands before
    the tensors (fields, vocabulary) is not asked for.
    """
    ### BEGIN SOLUTION
    total, shared = 0, config.tied_embeddings
    for name, (rows, *row) in tensor_shapes(config):
        if name == "output.weight" and shared:
            continue
        last = "tok_embeddings.weight" if shared else "output.weight"
        if not row:
            n = 4 * rows
        elif name != last:
            n = rows * row[0] // 32 * 18
        elif row[0] % 256:
            n = rows * row[0] // 32 * 34
        else:
            n = rows * row[0] // 256 * 210
        total += n + -n % 32
    return total
    ### END SOLUTION


check("11.3", file_bytes)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 11.3.** *The scales forgotten* is what people mean by "four bits", and it is an eighth too small. *The output, too* is quietly worse: the mixture is llama.cpp's, made because errors of the last matrix go straight into the logits.
# ### END SOLUTION
#
# The package's own `data_bytes` knows the other mixtures as well. Now the proof: a file that we write, and the file that came with the real model, which llama.cpp wrote.

# %%
with TemporaryDirectory() as folder:
    file = Path(folder) / "tales.gguf"
    convert(checkpoint.TALES, file, format="gguf", dtype="q4_0")
    teller, _ = checkpoint.load(checkpoint.TALES)
    asked = [("the tales, Q4_0", file, teller.config, "Q4_0")]
    if REAL is not None:
        asked += [("SmolLM2, Q4_1", REAL, real.config, "Q4_1")]
    for name, path, config, kind in asked:
        before, size = gguf_header.read(path).start, path.stat().st_size
        predicted = before + data_bytes(config, kind)
        print(f"{name}: {predicted:,} predicted, {size:,} on the disk")
        assert predicted == size

# %% [markdown]
# So one can say of any Llama how large its file will be, without having it. "A 7B in 4 GB", a program of 2023 promised (pyllama, README). Does it fit?

# %% tags=["nbval-check-output"]
print(f"{'GiB':14}{'F16':>8}{'Q8_0':>8}{'Q4_K_M':>8}{'Q4_0':>8}")
for name in ("llama-1-7b", "llama-2-13b", "llama-3.1-8b", "llama-3.2-1b",
             "llama-2-70b"):
    sizes = [data_bytes(release(name).config, kind) / GIB
             for kind in ("F16", "Q8_0", "Q4_K_M", "Q4_0")]
    print(f"{name:14}", *(f"{size:7.2f}" for size in sizes))
seven = release("llama-1-7b").config
assert round(weight_bytes(seven, bits=4) / GIB, 2) == 3.14
left = 4 * GIB - data_bytes(seven, "Q4_0")
each = kv_bytes_per_token(seven, bits=16)
print(f"4 GiB less the 7B in Q4_0 leave room for {left // each} tokens of "
      f"cache in 16 bits,\nand {2 * left // each} in 8, and for nothing else")

# %% [markdown]
# It fits, with a short memory. (Four bits alone would be 3.14 GiB; the rest is scales, and an output of six bits.) Which leads to what we have put off: is it still the same model?
#
# ## What does it cost? A cliff
#
# Rounded are all 210 matrices in the blocks of the real model; its table and norms stay. The price: how many nats (chapter 08) each token of prose costs that we wrote for this purpose. Live, on its first paragraph:

# %%
FOLDER = checkpoint.ASSETS / "bits"
prose = (FOLDER / "held_out.txt").read_text(encoding="utf-8")
kept = {name: part.clone() for name, part in real.named_parameters()
        if name.startswith("layers.") and part.dim() == 2}


@torch.no_grad()
def cost(text: str, cache: KVCache | None = None) -> float:
    ids = torch.tensor([words.encode(text)])
    return F.cross_entropy(real(ids[:, :-1], cache)[0], ids[0, 1:]).item()


def cost_with(make: Callable[[Tensor], Tensor]) -> float:
    """Of the first paragraph, all matrices of the blocks changed."""
    with torch.no_grad():
        for name, before in kept.items():
            real.get_parameter(name).copy_(make(before))
        found = cost(prose.split("\n\n")[0])
        for name, before in kept.items():
            real.get_parameter(name).copy_(before)
    return found


group = 64 if REAL else 32
print(f"as it is: {cost_with(lambda w: w):.2f} nats a token")
for bits in (8, 4, 3):
    print(f"{bits} bits, groups of {group}: "
          f"{cost_with(lambda w, n=bits: rounded(w, bits=n, group=group)):.2f}")

# %% [markdown]
# That is one paragraph. Recorded are all four, 493 tokens (`tools/recordings/bits.py`). It is one model and one text: differences of a few hundredths say nothing here, and the file's own grid (four bits, groups of 32) makes some settings a little luckier than others. Llama's own numbers will differ; the shape is what we are after.
#
# > **Predict.** At four bits, with one scale for a whole *matrix*: how many nats a token? (As it is: 3.3. A guess without knowing anything: $\ln 49{,}152 = 10.8$.)

# %%
guess_tensor = None     # nats a token

# %%
def table(name: str) -> list[dict[str, str]]:
    with (FOLDER / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


recorded = table("loss")
nats = {(row["shared"], int(row["bits"])): float(row["nats"])
        for row in recorded}
as_it_is, BITS = nats["as it is", 32], (8, 6, 5, 4, 3, 2)
print(f"as it is {as_it_is:.2f}\n{'bits':8}", *(f"{n:6}" for n in BITS))
for shared in ("tensor", "row", "group"):
    print(f"{shared:8}", *(f"{nats[shared, n]:6.2f}" for n in BITS))
assert nats["group", 2] > math.log(49_152) > nats["row", 3]
reveal("with one scale a matrix and four bits", guess_tensor,
       nats["tensor", 4])

# %% [markdown]
# A matrix that one scale has to serve falls off between six bits and five; in groups of 64 it holds out until after four.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Nats a token against bits a weight for three ways to share a scale. By tensor the cost rises from 3.3 at 8 bits to 5.5 at 5 and 14.4 at 4; by row it rises from 3.3 to 3.9 at 4 and 9.0 at 3; by groups of 64 it stays below 3.6 down to 4 bits, is 4.9 at 3 and 11.6 at 2. A line marks 10.8, a blind guess."}}
fig, ax = plots.figure("Nothing happens, and then everything: the group moves "
                       "the cliff", x="bits a weight", y="nats a token")
for shared, mark in (("tensor", "s-"), ("row", "^-"), ("group", "o-")):
    ax.plot(BITS, [nats[shared, n] for n in BITS], mark, markersize=4,
            label={"group": "group of 64"}.get(shared, shared))
ax.axhline(math.log(49_152), color="#8a8a8a", linestyle="--", linewidth=1)
ax.annotate("a blind guess", (7.9, math.log(49_152)), (0, 4),
            textcoords="offset points", color="#606060")
ax.invert_xaxis()
_ = ax.legend(loc="upper left")

# %% [markdown]
# Worse than a blind guess: it is *sure*, of wrong tokens. What it then answers to one question, at every setting:

# %%
explorers.bits(recorded, {"group": "a group of 64", "row": "a row",
                          "tensor": "a whole matrix"})

# %% [markdown]
# Look at four bits by row: the fact is still there, and the grammar is gone. That is a single answer, taken greedily; the nats are the better judge.
#
# ## Which matrix falls first?
#
# Give three bits (groups of 64) to one kind of matrix in all layers, and leave the rest alone.
#
# > **Predict.** Which kind costs most: `wq`, `wk`, `wv`, `wo`, `w1`, `w3` or `w2`?

# %%
guess_kind = "?"

# %%
kinds = table("kinds")
for row in kinds:
    above = float(row["nats"]) - as_it_is
    size = int(row["weights"]) / 1e6
    print(f"{row['what']:16}{above:+6.3f} nats, {size:5.1f} million weights, "
          f"{above / size:+.4f} a million")
single = {row["what"]: float(row["nats"]) for row in kinds[:7]}
assert max(single, key=single.get) == "wv"
assert {row["what"]: row["weights"] for row in kinds}["wk"] == "3317760"
reveal("the kind that costs most", guess_kind, max(single, key=single.get))

# %% [markdown]
# The smallest one, and by far. `wk`, of the same size, costs a fifth. With grouped heads (chapter 03) three query heads read each value, and nothing stands between a value and the stream; that may be why, and this table does not prove it. But llama.cpp's mixtures (`Q4_K_M`) act on it: they give more bits to `wv` and `w2`. For `wv` it is cheap, as there is so little of it.
#
# ## Why is it a cliff? Features that stick out
#
# Now look at what the matrices read: for each layer the residual stream, for each of its features the largest size on sixty plain English sentences.

# %%
if REAL is None:
    print(installed.how_to_get("smollm2"))
english = torch.tensor([words.encode(" ".join(
    samples.parallel()["English"]))])[:, :real.config.max_seq_len]
streams = []
hooks = [each.register_forward_pre_hook(
    lambda part, args: streams.append(args[0][0])) for each in real.layers]
with torch.no_grad():
    real(english)
for each in hooks:
    each.remove()
largest = torch.stack([stream.abs().amax(0) for stream in streams])
for i in range(0, len(streams), 5):
    top = largest[i].max()
    feature, token = largest[i].argmax(), streams[i].abs().amax(1).argmax()
    print(f"before block {i:2}: median {largest[i].median():5.1f}, largest "
          f"{top:8.1f}: feature {feature}, token {token}")

# %% tags=["hide-input"] mystnb={"image": {"alt": "The largest size of three features of SmolLM2's residual stream before each of 30 blocks, and the median of all, on a logarithmic axis. The median rises from 0.3 to 70; feature 507 rises to over 20,000, some 500 times the median, feature 247 to 1,800, and feature 17 stays near the median up to block 11."}}
fig, ax = plots.figure("One feature in 576 is up to 500 times the median",
                       x="block", y="largest size on the text")
order = largest.amax(0).argsort(descending=True)
for rank in range(3):
    ax.plot(largest[:, order[rank]], label=f"feature {order[rank]}")
ax.plot(largest.median(1).values, "--", color=plots.BLACK, label="median")
ax.set_yscale("log")
_ = ax.legend(loc="lower right")

# %% [markdown]
# One feature, the same in nearly all layers, and from the middle on at its largest on the text's first token: *massive activations* (Sun et al. 2024, who find that heads look there when there is nothing to see). Eight bits for *activations* with one scale would give all other features a few levels. And for weights it means: errors are not alike. Columns that meet
# large inputs do the harm.
#
# What is remembered is rounded as well. A slot of the cache (chapter 07) that rounds what it is given, each head's 64 numbers a group:

# %%
class RoundedSlot(Slot):
    def __init__(self, cache: KVCache, keys: int, values: int):
        super().__init__(cache)
        self.bits = keys, values

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return super().append(*(
            x if bits == 16 else rounded(x.flatten(0, 2), bits=bits).view_as(x)
            for x, bits in zip((k, v), self.bits, strict=True)))


guess_cache = "?"   # three bits for keys, or for values: which costs more?

# %%
found = {}
for keys, values in ((16, 16), (8, 8), (4, 4), (3, 16), (16, 3)):
    cache = real.new_cache(1, 200 if REAL is None else 493)
    cache.slots = [RoundedSlot(cache, keys, values) for _ in cache.slots]
    found[keys, values] = cost(prose if REAL else prose[:400], cache)
    print(f"keys {keys:2} bits, values {values:2}: "
          f"{found[keys, values]:.3f} nats a token")
reveal("three bits cost more for", guess_cache, "keys" if
       found[3, 16] > found[16, 3] else "values")

# %% [markdown]
# Eight bits are free here. At three it is the other way round than with the *weights* `wv` and `wk`. The group of a key is all its features, and KIVI (Liu et al. 2024) reports that some features of keys stick out, as those of the stream do, and groups keys by feature, over tokens.
#
# ## The idea: let the others make up for it
#
# What a layer is for is not its weights but its product. Let $D$ be what rounding adds to the weights. Then the outputs are off by
#
# $$ \text{E}\,|D x|^2 = \text{tr}(D H D^\top), \qquad H = \text{E}\,x x^\top $$
#
# $H$, the *second moment* of the inputs, is known: let some text pass (`second_moments` does). Where $H$ is diagonal each weight is on its own. Ours is not: inputs rise and fall together, and an error in one column can be taken back in others, if these are still free. The weights then end up *further* from what they were than by plain rounding. Does the product
# end up nearer?
#
# ## Harder: column by column
#
# GPTQ (Frantar et al. 2023) takes the columns from left to right. When one has been rounded, all columns that are still free move to where $\text{tr}(D H D^\top)$ is least. Where is that? The derivation is yours.

# %%
def column_by_column(w: Tensor, moment: Tensor, bits: int) -> Tensor:
    """Exercise 11.4 ●●● 25 min. Round so that later columns make up for it.

    `w`, `out in`, and `moment`, `in in`, are float64; moment has an inverse.
    A row has the levels of `grid(w, bits=bits)`, laid before anything moves.
    From the left: put a column on them (`nearest`), then move all columns
    right of it to where tr(D H D^T) is least. Return the rounded matrix.
    """
    ### BEGIN SOLUTION
    made, levels = w.clone(), grid(w, bits=bits)
    for done in range(1, w.shape[1] + 1):
        made[:, [done - 1]] = levels.nearest(made[:, [done - 1]])
        # D_free H_free + D_fixed H_fixed,free = 0
        off = (made - w)[:, :done] @ moment[:done, done:]
        made[:, done:] = w[:, done:] - torch.linalg.solve(
            moment[done:, done:], off, left=False)
    return made
    ### END SOLUTION


check("11.4", column_by_column)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 11.4.** Here the system is solved anew after every column, from the whole error so far. Optimal brain surgery does the same in small moves: the last error alone, times a row of the inverse over its diagonal, where the inverse is that of the columns *that are left*. *The inverse of all* is the usual slip: then columns that are fixed already are
# counted on to help.
# ### END SOLUTION
#
# ## Build it: one factor for all columns
#
# To invert anew for each column would cost too much. But the row that column $i$ needs, divided by the root of its diagonal, is row $i$ of one upper triangle $U$ with $U^\top U = H^{-1}$ (Cholesky). All rows of the matrix share it. `inverse_factor` adds a little to the diagonal first, for directions that the text did not show.

# %% twin="llama_edu.compress.gptq.gptq"
def gptq(weight: Tensor, moment: Tensor, *, bits: int,
         group: int | None = None, symmetric: bool = False,
         damping: float = DAMPING) -> Tensor:
    w = weight.to(torch.promote_types(weight.dtype, torch.float32),
                  copy=True)
    size = grouped(w, group).shape[-1]
    factor = inverse_factor(moment, w.shape[1],
                            damping=damping).to(w.dtype)
    for start in range(0, w.shape[1], size):
        end = start + size
        block, errors = w[:, start:end], []
        levels = grid(block, bits=bits, symmetric=symmetric)
        for i in range(size):
            row = factor[start + i, start + i:end]
            column = block[:, i:i + 1]
            fixed = levels.nearest(column)
            errors.append((column - fixed) / row[0])
            block[:, i + 1:] -= errors[-1] * row[1:]
            column.copy_(fixed)
        w[:, end:] -= torch.cat(errors, 1) @ factor[start:end, end:]
    return w.type_as(weight)

# %% [markdown]
# Errors reach the rest of the row once a group is done, in one product. On matrices of the real model, three bits, groups of 64, calibrated on the sixty sentences (569 tokens) and measured on them and on our prose:

# %%
def moments(ids: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        found = second_moments(real, lambda: real(ids))
    return {name: moment for name, (_, moment) in found.items()}


ids = torch.tensor([words.encode(prose)[:real.config.max_seq_len]])
seen, other = moments(english), moments(ids)
chosen = ("10.attention.wv", "10.attention.wo", "20.feed_forward.w3") if (
    REAL) else ("1.attention.wv", "1.attention.wo", "1.feed_forward.w3")
print(f"{'three bits':20}{'':9}{'weights':>8}{'sentences':>11}{'prose':>8}")
for name in (f"layers.{each}" for each in chosen):
    w = real.get_parameter(f"{name}.weight").detach()
    ways = {"nearest": rounded(w, bits=3, group=group),
            "GPTQ": gptq(w, seen[name], bits=3, group=group)}
    for way, made in ways.items():
        d = made - w
        off = [((d @ h * d).sum() / (w @ h * w).sum()).sqrt()
               for h in (seen[name], other[name])]
        print(f"{name[7:]:20}{way:9}{d.norm() / w.norm():8.1%}{off[0]:11.1%}"
              f"{off[1]:8.1%}")

# %% [markdown]
# There it is: weights that are half as far off again or more, and a product that is better by far, on the text that was asked. On *other* text the gain is smaller, and for two of the three there is little: 569 tokens cannot say much about 576 features. It takes more. Recorded, for the whole model, with 2,048 tokens that it wrote itself; each block is calibrated with what the rounded blocks
# before it make (`calibrate`).
#
# > **Predict.** And with 2,048 tokens *drawn blindly* from the vocabulary: at three bits, better than plain rounding, as good, or worse?

# %%
guess_blind = "?"   # "better", "as good" or "worse"

# %%
print("groups of 64, nats a token above the model as it is")
for name, key in (("nearest, 4 bits", ("group", 4)), ("GPTQ", ("GPTQ", 4)),
                  ("nearest, 3 bits", ("group", 3)), ("GPTQ", ("GPTQ", 3)),
                  ("GPTQ, blindly", ("GPTQ, blindly", 3))):
    print(f"{name:18}{nats[key] - as_it_is:6.3f}")
back = [(nats["group", n] - nats["GPTQ", n]) / (nats["group", n] - as_it_is)
        for n in (4, 3)]
blind = (nats["group", 3] - nats["GPTQ, blindly", 3]) / (
    nats["group", 3] - as_it_is)
print(f"bought back: {back[0]:.0%} at 4 bits, {back[1]:.0%} at 3, "
      f"{blind:.0%} blindly")
assert 0.15 < back[0] < back[1] and 0 < blind < 0.1
reveal("calibrated blindly it is", guess_blind, "as good")

# %% [markdown]
# What calibration buys is knowledge of the inputs. Blind tokens make inputs that the model hardly ever meets, and what they teach is worth next to nothing. (A twentieth better is within what another text would show. These are single runs.) Three bits are still no model that one would want: GPTQ moves the cliff a little, the group moves it more, and beyond it
# one has to train.
#
# ## In the Llamas: train with it
#
# Llama 3.2 1B and 3B came out a second time in October 2024, with four-bit weights (in groups of 32, says the card) and activations of eight bits. In one version rounding took part in training, with a LoRA on top (the card's QLoRA). In the other, SpinQuant, the stream is *rotated* first, so that no feature sticks out, and what is then rounded is rounded by GPTQ (model card). Both are answers to what you have seen:
# one lets the others make up for the error by training, one takes the outliers away.
#
# ## Find the bug: six ways to store a matrix
#
# Each suspect stores a matrix in blocks of `Q4_1` (32 neighbours of a row; scale and least weight as float16, 16 bytes) and reads it again. It gives the number of bytes and the weights that come back.

# %%
stores = suspects("11.5")       # a, b, c, d, e, f
size, back = stores["d"](torch.arange(64.0).view(2, 32))
print(size, "bytes; row 0:", *(f"{w:.1f}" for w in back[0, :8]))

# %% [markdown]
# Possible verdicts: `healthy`; `nibble order`; `scale in float32`; `zero point rounded` (the least weight as a whole number of steps); `symmetric`; `one level unused`; `group over rows` (blocks run down the columns); `least over the wrong axis`; `one scale for all`; `rounded down`. At most one thing is wrong with each.

# %%
# Exercise 11.5 ●●○ 12 min. Which mistake is in which suspect? Replace each `"?"` by a verdict.
verdicts = {"a": "?", "b": "?", "c": "?", "d": "?", "e": "?", "f": "?"}
### BEGIN SOLUTION
verdicts = {"a": "least over the wrong axis", "b": "nibble order",
            "c": "zero point rounded", "d": "healthy",
            "e": "group over rows", "f": "scale in float32"}
### END SOLUTION

check("11.5", verdicts)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 11.5.** 64 weights take 48 bytes in `f` and 40 elsewhere. Weights 0 to 31 in turn come back shuffled from `b`. Weights from 0.31 to 1: the least one does not come back from `c`. Two rows of zeros to ones, the first weight of the second at -1000: `a` spoils the first row, too. A matrix of 32 rows, one weight of it at 1000: `e` spoils the column of it, and not its row.
#
# (Blocks *down* a column are not wrong as such: HQQ finds them better for some models. They are wrong where a reader expects rows.)
# ### END SOLUTION
#
# ## Fact check: three claims
#
# `right`, `imprecise` or `wrong`?

# %%
claims.judge({"C03": "?", "D73": "?", "D74": "?"})

# %% [markdown]
# Judge before you run the next cell.

# %%
claims.show("C03", "D73", "D74")

# %% [markdown]
# ## Summary: bits are shared
#
# - A weight has the bits of its level and a share of its group's scale: $4 + 16/32$. Small groups keep a large weight from spoiling its neighbours.
# - A file's size follows from the config, to the byte.
# - Loss against bits is a cliff. In this model it stands between four bits and three with groups of 64, between six and five with one scale a matrix.
# - The smallest matrix, `wv`, falls first, so mixtures give it more bits. One feature of the stream is hundreds of times the median of all.
# - GPTQ rounds column by column, and the rest makes up for each error: weights further off, products nearer, on inputs like those that it has seen.
#
# **Read in the package:** `llama_edu.compress.gptq`, `llama_edu.compress.grid`, `llama_edu.formats.gguf.encode`; `llama-edu convert --help`. **Read elsewhere:** Frantar et al. 2023, *GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers*; Dettmers et al. 2023, *QLoRA*, section 3.
