# %% [markdown]
# # 01 · RMSNorm: what was the mean worth?
#
# **The question.** A network of eighty layers works only if the numbers inside it stay at a
# reasonable size. LayerNorm, the classic cure, subtracts a mean and divides by a spread. Every Llama
# keeps the division and throws the subtraction away. How can half of a cure be enough?
#
# | you will build | you need | minutes |
# |---|---|---|
# | `RMSNorm`, as it stands in `llama_edu.layers` | a little PyTorch: tensors, `mean`, broadcasting | 65 |

# %%
import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llama_edu import claims, layers, load, plots
from llama_edu.config import ModelConfig
from llama_edu.data import tales
from llama_edu.exercises import check, hint
from llama_edu.family.accounting import parameters
from llama_edu.family.releases import RELEASES, release
from llama_edu.layers import widen
from llama_edu.tokenizer import installed

plots.use_style()
torch.set_num_threads(1)      # small tensors: threads would wait for one another

# %% [markdown]
# > **Predict.** A token is described by four numbers: 1, 2, 3 and 6. LayerNorm turns them into
# > numbers with mean 0. RMSNorm leaves the mean in. Will the *largest* of the four come out larger
# > from LayerNorm or from RMSNorm? Write your guess down before you go on.
#
# ## By hand: four numbers through both norms
#
# LayerNorm first. Subtract the mean, then divide by the standard deviation: the root of the average
# squared distance from that mean. Plain Python is enough.

# %%
x = [1.0, 2.0, 3.0, 6.0]

mean = sum(x) / len(x)
variance = sum((value - mean) ** 2 for value in x) / len(x)
by_layer_norm = [(value - mean) / variance**0.5 for value in x]

print("mean", mean, "  variance", variance)
print("LayerNorm:", [round(value, 3) for value in by_layer_norm])

# %% [markdown]
# RMSNorm skips the first step. It divides by the *root mean square*: square the numbers, take the
# mean, take the root.

# %%
mean_square = sum(value**2 for value in x) / len(x)
by_rms_norm = [value / mean_square**0.5 for value in x]

print("mean square", mean_square, "  root", round(mean_square**0.5, 3))
print("RMSNorm:  ", [round(value, 3) for value in by_rms_norm])

# %% [markdown]
# The largest number is larger after RMSNorm, but only just: 1.697 against 1.604. The small
# numbers tell more. LayerNorm made two of them negative and one zero; after RMSNorm all four keep
# their sign and their proportions. 6 is still three times 2.
#
# The two divisors are related. The mean square is the variance plus the squared mean, so RMSNorm
# divides by more whenever the mean is not zero:

# %%
print(f"{mean_square} = {variance} + {mean**2}")
assert mean_square == variance + mean**2

# %% [markdown]
# ## The idea: put every token on one sphere
#
# Following Zhang and Sennrich (2019, eq. 4), with an $\epsilon$ added, RMSNorm of a vector $x$ of $c$
# features is
#
# $$ \mathrm{RMSNorm}(x)_i = \frac{x_i}{\mathrm{RMS}(x)}\, w_i, \qquad
#    \mathrm{RMS}(x) = \sqrt{\tfrac{1}{c}\textstyle\sum_{j=1}^{c} x_j^2 + \epsilon} $$
#
# Here $w$ is a learnt vector, one number a feature, that starts at one. $\epsilon$ is a small
# number that keeps the division safe when $x$ is all zeros. Meta's code puts it inside the root,
# and so do we.
#
# After the division the squares of a token's features have mean 1. So every token lies at the same
# distance from the origin: $\sqrt c$. Its *direction* is what is left. With two features we can see
# this, and we see what LayerNorm does as well.

# %% mystnb={"image": {"alt": "Random points in a plane. RMSNorm moves each of them along its ray to a circle of radius 1.41; LayerNorm collapses all of them to just two points."}}
torch.manual_seed(0)
points = torch.randn(60, 2) * 1.2 + torch.tensor([0.6, 0.2])
on_circle = points / points.pow(2).mean(-1, keepdim=True).sqrt()
centred = points - points.mean(-1, keepdim=True)
on_line = centred / centred.pow(2).mean(-1, keepdim=True).sqrt()

fig, panels = plots.figure("RMSNorm keeps each token's direction, LayerNorm does not",
                           x="feature 1", y="feature 2", columns=2)
for ax, after, name in zip(panels, (on_circle, on_line), ("RMSNorm", "LayerNorm"), strict=True):
    for start, end in zip(points, after, strict=True):
        ax.plot(*zip(start, end, strict=True), color="#cccccc", linewidth=0.6)
    ax.plot(*points.T, "o", color=plots.SKY, markersize=3)
    ax.plot(*after.T, "o", color=plots.VERMILION, markersize=5)
    ax.set(title=name, aspect="equal", xlim=(-3, 4), ylim=(-3, 3.5))

# %% [markdown]
# Blue is before, red is after. On the left each token slides along its ray to the circle. On the
# right sixty tokens become two points: with two features, once the mean is gone there is nothing left
# but the question which feature was larger.
#
# Two features are the worst case. LayerNorm removes one direction out of $c$: the direction in
# which all features are equal. The Llamas have from 2,048 directions (3.2 1B) to 16,384 (405B).
#
# ## How much of a token is its mean?
#
# We can measure the share of a token's squared length that subtracting the mean removes. For
# features that are independent and centred at zero it is about $1/c$.

# %% mystnb={"image": {"alt": "On logarithmic axes the share of a random token's squared length that its mean carries falls like one over the width, from about a half at two features to 0.02 percent at 4096."}}
torch.manual_seed(0)
widths = [2**power for power in range(1, 13)]
tokens = {c: torch.randn(2000, c) for c in widths}
shares = [float((tokens[c].mean(-1) ** 2 / tokens[c].pow(2).mean(-1)).mean()) for c in widths]

fig, ax = plots.figure("At Llama's width the mean carries next to nothing",
                       x="features c", y="share of squared length in the mean")
ax.loglog(widths, shares, "o", label="2,000 random tokens")
ax.loglog(widths, [1 / c for c in widths], "--", label="1 / c")
ax.legend()
print(f"at c = 2: {shares[0]:.2f}    at c = 4096: {shares[-1]:.2%}")
dims = {r.config.dim for r in RELEASES}
assert (min(dims), max(dims)) == (2048, 16_384)

# %% [markdown]
# These tokens are random. Do *trained* networks put something into the mean? We ask two: the small
# teller of tales that comes with this package (96 features), and SmolLM2-135M-Instruct (576), a
# relative of the Llamas with the same architecture and other weights. At every norm in them we look at
# what comes in.

# %%
TALE = next(tales.stories(1, seed=1))


def norm_inputs(model: nn.Module, ids: list[int]) -> list[Tensor]:
    """What each norm of a model reads, `t c`, from the first to the last."""
    seen: list[Tensor] = []
    hooks = [part.register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
             for part in model.modules() if isinstance(part, layers.RMSNorm)]
    with torch.inference_mode():
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return seen


streams = {}
for name in ("tales", "smollm2"):
    if name == "smollm2" and installed.find(name) is None:
        print(installed.how_to_get(name))
        continue
    model, tokenizer = load(name)
    streams[name] = norm_inputs(model, tokenizer.encode(TALE, bos=tokenizer.adds_bos))
    found = [float((x.mean(-1) ** 2 / x.pow(2).mean(-1)).mean()) for x in streams[name]]
    print(f"{name:8} {len(found):2} norms: the mean carries {min(found):.2%} to {max(found):.2%},"
          f" 1/c is {1 / model.config.dim:.2%}")
    assert max(found) < 2 / model.config.dim

# %% [markdown]
# So in a wide network there is little to lose, as long as the network does not *use* the mean
# direction. And if it wants the mean gone, it can learn to do so itself: subtracting the mean is a
# matrix, $P = I - \frac1c \mathbf 1 \mathbf 1^\top$, and every matrix that writes what the norm reads
# is free to contain it. LayerNorm without bias is exactly RMSNorm after $P$:

# %%
torch.manual_seed(0)
c = 64
tokens = torch.randn(5, c) + 3.0
project = torch.eye(c) - torch.ones(c, c) / c

gap = F.layer_norm(tokens, (c,), eps=1e-5) - F.rms_norm(tokens @ project, (c,), eps=1e-5)
print("largest difference below 1e-5:", bool(gap.abs().max() < 1e-5))

# %% [markdown]
# So the mean was one direction among thousands, and a network that wants it removed can fold $P$ into
# the weights that it has anyway. (Random tokens cannot show what a trained network does with its
# mean. They show that nothing is lost which could not be had otherwise.)
#
# > **Careful.** What RMSNorm does give up is *shift invariance*. Add the same number to all features
# > and LayerNorm does not notice; RMSNorm does, and flattens the rest.

# %%
quartet = torch.tensor(x)
for shift in (0, 10, 100):
    shifted = quartet + shift
    layer = F.layer_norm(shifted, (4,))
    rms = F.rms_norm(shifted, (4,), eps=1e-5)
    print(f"+{shift:<4} LayerNorm {[round(v, 2) for v in layer.tolist()]}"
          f"   RMSNorm {[round(v, 2) for v in rms.tolist()]}")

# %% [markdown]
# Both forgive a change of *scale*, up to epsilon, and that is what a deep stack needs:

# %%
torch.testing.assert_close(F.layer_norm(7 * quartet, (4,)), F.layer_norm(quartet, (4,)))
torch.testing.assert_close(F.rms_norm(7 * quartet, (4,), eps=1e-5),
                           F.rms_norm(quartet, (4,), eps=1e-5))

# %% [markdown]
# ## Build it: from a loop to the module
#
# First the naive way, feature by feature, for one token. It is here so that we can trust what
# follows.

# %%
def rms_norm_loop(token: list[float], weight: list[float], eps: float) -> list[float]:
    """One token, plain numbers. Zhang & Sennrich 2019, eq. 4."""
    total = 0.0
    for value in token:
        total += value * value
    root = (total / len(token) + eps) ** 0.5
    return [value / root * scale for value, scale in zip(token, weight, strict=True)]


rms_norm_loop([1.0, 2.0, 3.0, 6.0], [1.0, 1.0, 1.0, 10.0], 1e-5)

# %% [markdown]
# Then the form that stands in the package. Three things are new. It takes any number of axes in
# front and works on the last one. It multiplies by `rsqrt`, one over the root, where we divided.
# And it goes to float32 and back (`widen` leaves float64 alone): it gets a section of its own below.

# %%
# twin: llama_edu.layers.RMSNorm
class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = widen(x)
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * scale).type_as(x) * self.weight


# %% [markdown]
# The first line of that cell, `# twin: ...`, is a promise. A test compares the cell with the class of
# that name in the package, so what you read here is what the course runs. From the next chapter
# on we import it.
#
# Note the order at the end. The token goes back to its own dtype *before* the weight is applied,
# as in Meta's code. In float32 this makes no difference. In bfloat16 it moves the last bit here and
# there, and whoever compares two implementations bit by bit will meet it.
#
# ## Prove it: against the loop and against PyTorch
#
# The weights are made unequal and epsilon large on purpose. With weights of one and a tiny epsilon a
# wrong implementation can pass.

# %%
torch.manual_seed(0)
norm = RMSNorm(6, eps=0.1)
norm.weight.data = torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
batch = torch.randn(2, 3, 6) * 4

for b in range(2):
    for t in range(3):
        slow = rms_norm_loop(batch[b, t].tolist(), norm.weight.tolist(), 0.1)
        torch.testing.assert_close(norm(batch)[b, t], torch.tensor(slow))
torch.testing.assert_close(norm(batch), F.rms_norm(batch, (6,), norm.weight, eps=0.1))
print("equal to the loop and to torch.nn.functional.rms_norm")

# %% [markdown]
# ## Why float32 inside? Because 256 squared does not fit
#
# Llama 1 and 2 were run in float16. Its largest number is 65,504. The norm squares its input, and
# $256^2 = 65{,}536$. What happens to a token whose features are about 300? Let us take the float32
# step out and see.

# %%
def rms_norm_narrow(x: Tensor, eps: float) -> Tensor:
    """RMSNorm computed in whatever dtype x has."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


signs = torch.tensor([1.0, -1.0]).repeat(2048)
for size in (100.0, 255.0, 256.0, 300.0):
    token = (signs * size).half()
    print(f"|x| = {size:5.0f}   float16 gives {rms_norm_narrow(token, 1e-5)[0].item():.3f}"
          f"   float32 inside gives {RMSNorm(4096, 1e-5)(token)[0].item():.3f}")

# %% [markdown]
# No error, no `nan`: zeros. The square overflows to infinity, one over the root of infinity is zero,
# and the token is silently erased. One large feature among thousands is enough:

# %%
token = torch.full((4096,), 0.5).half()
token[7] = 300.0
print("features left:", int(rms_norm_narrow(token, 1e-5).count_nonzero()), "of", len(token))

# %% [markdown]
# Do such features exist? Sun et al. (2024) found them in trained Llamas and called them *massive
# activations*. We have what the norms of two trained models read; let us look:

# %%
for name, inputs in streams.items():
    erased = [int((rms_norm_narrow(x.half(), 1e-5) == 0).all(-1).sum()) for x in inputs]
    print(f"{name:8} largest feature {max(float(x.abs().max()) for x in inputs):8,.0f};"
          f" tokens that float16 erases: {sum(erased):3} of {len(inputs) * len(inputs[0]):,},"
          f" in {sum(n > 0 for n in erased)} of {len(erased)} norms")

# %% [markdown]
# The other end can fail too. The Llamas' epsilons, 1e-6 and 1e-5, are still numbers in float16. One of
# 1e-8 is below the smallest, so it becomes zero, and a tiny token is divided by zero. bfloat16 has the
# range of float32 and survives both ends, with fewer digits:

# %% mystnb={"image": {"alt": "Size of a normalised token against the size of its features. Float16 arithmetic gives zero from 256 upwards and infinity below about 0.0002; bfloat16 and float32 inside agree everywhere: one, until epsilon takes over below 0.0005."}}
sizes = torch.logspace(-5, 4, 181)
kinds = {"float16 throughout": (torch.half, False), "bfloat16 throughout": (torch.bfloat16, False),
         "float32 inside": (torch.half, True)}

fig, ax = plots.figure("float16 arithmetic loses a token at both ends, bfloat16 at neither",
                       x="size of the features |x|", y="size after the norm (should be 1)")
ax.set_ylim(-0.1, 3.1)
for (name, (dtype, inside)), style in zip(kinds.items(), ("-", "-", "--"), strict=True):
    given = (signs[:64] * sizes[:, None]).to(dtype)
    given = given.float() if inside else given
    after = rms_norm_narrow(given, 1e-8).abs().mean(-1).float()
    ax.semilogx(sizes, after.clamp(max=3), style, label=name)
    if dtype == torch.bfloat16:
        assert torch.tensor([1e-5, 1e-6, 1e-8]).half().gt(0).tolist() == [True, True, False]
        print(f"bfloat16, largest error above 0.001: {(after - 1)[sizes > 1e-3].abs().max():.1%}")
_ = ax.legend(loc="center right")

# %% [markdown]
# Where the solid blue line touches the upper edge the result is infinite. At the far left the two
# other lines fall together: that is epsilon at work, as it should be. The cure costs one cast.
# Meta's code, `transformers` and ours all do it.
#
# ## Play: pre-norm, post-norm, and a surprise about gradients
#
# The first Transformer normalised *after* each block: $\mathrm{norm}(x + f(x))$. Llama follows
# GPT-2 and GPT-3 and normalises *before*: $x + f(\mathrm{norm}(x))$. Adding $x$ back is the *residual*;
# the running sum is the *stream*. The usual reason given for pre-norm is that gradients vanish in a
# deep post-norm stack. We build 32 simple blocks both ways and look. (All blocks share one norm, to
# keep the code short.)

# %%
class Stack(nn.Module):
    """32 residual blocks, each a small two-layer network, and a classifier on top."""

    def __init__(self, pre_norm: bool, dim: int = 32, depth: int = 32):
        super().__init__()
        self.pre_norm = pre_norm
        self.ups = nn.ModuleList(nn.Linear(dim, 2 * dim, bias=False) for _ in range(depth))
        self.downs = nn.ModuleList(nn.Linear(2 * dim, dim, bias=False) for _ in range(depth))
        self.norm, self.head = RMSNorm(dim, 1e-5), nn.Linear(dim, 10, bias=False)
        for layer in (*self.ups, *self.downs):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        for up, down in zip(self.ups, self.downs, strict=True):
            if self.pre_norm:
                x = x + down(F.silu(up(self.norm(x))))
            else:
                x = self.norm(x + down(F.silu(up(x))))
        return self.head(self.norm(x))

# %% [markdown]
# The task: forty clouds of points in 32 dimensions, four to each of ten classes. We train each stack
# for 60 steps with Adam at a learning rate of 0.01, and record the size of the gradient in every
# block before the first step and before the last.

# %%
centres = torch.randn(40, 32, generator=torch.Generator().manual_seed(7))


def cloud_batch(step: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(step)
    which = torch.randint(0, 40, (128,), generator=g)
    return centres[which] + 0.7 * torch.randn(128, 32, generator=g), which % 10


def train(pre_norm: bool, lr: float = 0.01) -> tuple[list[float], list[list[float]]]:
    """The loss of each step, and the gradient's size in each block, first and last."""
    torch.manual_seed(0)
    model = Stack(pre_norm)
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    losses, gradients = [], []
    for step in range(60):
        points, labels = cloud_batch(step)
        loss = F.cross_entropy(model(points), labels)
        optimiser.zero_grad()
        loss.backward()
        gradients.append([float(down.weight.grad.norm()) for down in model.downs])
        optimiser.step()
        losses.append(loss.item())
    return losses, [gradients[0], gradients[-1]]

# %% mystnb={"image": {"alt": "Gradient size by block on a logarithmic axis. Before training, post-norm is flat near 0.3 and pre-norm falls from 0.3 to 0.1. Before step 60 pre-norm is still near 0.01 or above, while post-norm has collapsed below 0.0001 in its middle blocks."}}
runs = {"pre-norm": train(True), "post-norm": train(False)}

fig, panels = plots.figure("Post-norm starts out healthy and dies in training",
                           x="block (1 is next to the input)", y="gradient norm", columns=2)
for ax, moment, title in zip(panels, (0, 1), ("before step 1", "before step 60"), strict=True):
    for name, (_, gradients) in runs.items():
        ax.semilogy(range(1, 33), gradients[moment], label=name)
    ax.set(title=title, ylim=(1e-9, 10))
panels[1].set_ylabel("")
_ = panels[0].legend(loc="lower left")

# %% [markdown]
# The curves in numbers, and what we claim of them as assertions:

# %%
for name, (losses, gradients) in runs.items():
    print(f"{name:10} mean loss of the last ten steps {statistics.mean(losses[-10:]):5.2f}")
first = {name: gradients[0] for name, (_, gradients) in runs.items()}
last = {name: gradients[1] for name, (_, gradients) in runs.items()}

assert all(a > b for a, b in zip(first["post-norm"], first["pre-norm"], strict=True))   # surprise
assert min(last["post-norm"]) < 1e-3 * min(last["pre-norm"])
assert last["post-norm"][-1] > last["pre-norm"][-1]     # the last block has its gradient still
assert statistics.mean(runs["pre-norm"][0][-10:]) < 1 < statistics.mean(runs["post-norm"][0][-10:])

# %% [markdown]
# In this stack the gradients do not vanish at the start. Post-norm's are nearly equal in all blocks,
# and larger in every one. Pre-norm's fall towards the output: the stream grows, and each block
# changes it less. Xiong et al. (2020, theorem 1) prove this of the last layer: its gradient falls
# with the square root of the depth in pre-norm, and does not in post-norm.
#
# Adam gives both stacks steps of the same size. Post-norm does not survive them. Before step 60 hardly
# any gradient reaches its middle blocks (the last ones still get theirs), and its loss is that of
# guessing among ten classes, $\ln 10$. A learning rate
# ten times smaller rescues it:

# %%
print("ln 10:", round(torch.log(torch.tensor(10.0)).item(), 2))
gentle, _ = train(False, lr=0.001)
print("post-norm at 0.001, mean loss of the last ten steps:", round(statistics.mean(gentle[-10:]), 1))
assert statistics.mean(gentle[-10:]) < 1

# %% [markdown]
# So in this experiment vanished gradients are not why post-norm fails. They are what its failure
# looks like afterwards. It is one small stack; chapter 08 asks the same of a whole Llama.
#
# ## In the Llamas: tiny, everywhere, and one number that differs
#
# A Llama has two norms in each layer and one at the end. They hold almost none of its
# parameters:

# %%
for name in ("llama-1-7b", "llama-2-70b", "llama-3.1-405b", "llama-3.2-1b"):
    config = release(name).config
    count = parameters(config)
    print(f"{name:15} {2 * config.n_layers + 1:3} norms of {config.dim:5}: {count.norms:9,} weights,"
          f" {count.norms / count.total:.4%} of all")

# %% [markdown]
# All that ever changed in these norms between the generations is epsilon:

# %%
for eps in sorted({r.config.norm_eps for r in RELEASES}):
    names = [r.id for r in RELEASES if r.config.norm_eps == eps]
    print(f"{eps:g}: {len(names)} releases, first {names[0]}, last {names[-1]}")

# %% [markdown]
# > **History.** The smaller epsilon belongs to Llama 1, except its 65B, which already has 1e-5. The
# > first upload of the Llama 2 7B chat model still said 1e-6 and was corrected. Read epsilon from
# > the config; never type it from memory.
#
# ## Fact check: is RMSNorm 40 % faster?
#
# Each chapter ends with sentences that circulate. The boxes read from the course's ledger of published
# claims.

# %%
claims.show("D09")

# %% [markdown]
# The paper's own tables range from about 7 % to 64 % over several models and variants; 40 % is
# the best plain RMSNorm row. Count the work instead: LayerNorm reduces the features twice (mean,
# then spread), RMSNorm once. We measure twice: both written by hand, and both as PyTorch ships them.
# Runs are interleaved and we take medians, so that a busy machine hurts all four alike.

# %%
def layer_norm_by_hand(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    away = x - x.mean(-1, keepdim=True)
    return away * torch.rsqrt(away.pow(2).mean(-1, keepdim=True) + eps) * weight + bias


tokens, ones, zeros = torch.randn(512, 4096), torch.ones(4096), torch.zeros(4096)
ways = {
    "by hand LayerNorm": lambda: layer_norm_by_hand(tokens, ones, zeros, 1e-5),
    "by hand RMSNorm": lambda: rms_norm_narrow(tokens, 1e-5) * ones,
    "PyTorch LayerNorm": lambda: F.layer_norm(tokens, (4096,), ones, zeros, 1e-5),
    "PyTorch RMSNorm": lambda: F.rms_norm(tokens, (4096,), ones, 1e-5),
}
seconds = {name: [] for name in ways}
for _ in range(40):
    for name, run in ways.items():
        start = time.perf_counter()
        run()
        seconds[name].append(time.perf_counter() - start)

# %% [markdown]
# Your numbers will differ from these; the question is which way each comparison points.

# %%
medians = {name: statistics.median(taken) for name, taken in seconds.items()}
for name, median in medians.items():
    print(f"{name}: {median * 1e3:6.2f} ms")
for who in ("by hand", "PyTorch"):
    ratio = medians[f"{who} RMSNorm"] / medians[f"{who} LayerNorm"]
    print(f"{who}: RMSNorm takes {ratio:.2f} of LayerNorm's time")

# %% [markdown]
# By hand, RMSNorm was faster in our runs; by how much varies. (The LayerNorm by hand also adds a
# bias, as LayerNorm does.) As shipped for the CPU in this version of PyTorch, the order was
# *reversed*. A *kernel* is one compiled routine, and a *fused* one does several operations in one
# pass over memory. LayerNorm has such a kernel there; `rms_norm` still runs as several. **Imprecise:**
# it is true of the arithmetic. Which one is faster is decided by who wrote the kernel.
#
# The next two are about what a norm does to its input.

# %%
claims.show("E09", "E10")

# %% [markdown]
# The first would need numbers stored from the training data. What does an RMSNorm store? And is a token's
# mean zero after it?

# %%
torch.manual_seed(1)
print("stored:", list(RMSNorm(8, 1e-5).state_dict()))
print("mean of a token after RMSNorm:", round(RMSNorm(8, 1e-5)(torch.randn(8) + 1).mean().item(), 2))

# %% [markdown]
# **Both are wrong.** It stores a weight and nothing else, and it works before it has seen any data.
# The sentence describes feature standardisation. RMSNorm knows one token at a time.
#
# ## Exercises: now you
#
# Replace each `raise NotImplementedError` and run the cell, then its check. A check tells you *which*
# mistake you made, when it is one that people make. `hint("1.1")` gives one hint more at each call.
# The solutions are in [their own notebook](../solutions/01_rmsnorm.ipynb).

# %%
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Exercise 1.1 ●○○ 5 min. x: `... c`, weight: `c`. Divide by the root mean square, rescale.

    Compute in float32 and return to the dtype of x.
    """
    ### BEGIN SOLUTION
    wide = x.float()
    root = (wide.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return (wide / root).type_as(x) * weight
    ### END SOLUTION


check("1.1", rms_norm)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 1.1.** Most wrong answers here give numbers of a sensible size, so nothing crashes.
# *Epsilon outside the root* is invisible on ordinary tokens and wrong on small ones. *The mean
# subtracted* is what everyone knows from LayerNorm; a real Llama run with it answers in fluent
# nonsense, because every weight was trained for tokens whose mean is still there. *No float32
# inside* works in every test with small numbers and erases a large token in float16. *The wrong axis*
# lets one token change another, which breaks generation with a cache: a token's past must not depend
# on how many tokens are in the batch.
# ### END SOLUTION
#
# Now the other norm. You have all the parts: what does LayerNorm do first?

# %%
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Exercise 1.2 ●○○ 5 min. x: `... c`, weight and bias: `c`. LayerNorm, without F.layer_norm.

    Compute in float32 and return to the dtype of x.
    """
    ### BEGIN SOLUTION
    wide = x.float()
    away = wide - wide.mean(-1, keepdim=True)
    root = (away.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return (away / root).type_as(x) * weight + bias
    ### END SOLUTION


check("1.2", layer_norm)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 1.2.** The classic trap is `x.var(-1)`: PyTorch divides by $n - 1$ unless it is told
# otherwise, as statisticians do for samples. At four features that is a third too much; at 4096 it hides in the last digits.
# That is how such bugs survive: they are large only where nobody looks.
# ### END SOLUTION
#
# Half a block can be written in one line once the norm exists. Which line? `sublayer` stands for
# attention or the feed-forward layer; a Llama block takes this step twice.

# %%
def pre_norm(x: Tensor, norm: nn.Module, sublayer: nn.Module) -> Tensor:
    """Exercise 1.3 ●○○ 3 min. x: `... c`. One pre-norm residual step, as in a Llama block."""
    ### BEGIN SOLUTION
    return x + sublayer(norm(x))
    ### END SOLUTION


check("1.3", pre_norm)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 1.3.** `norm(x + sublayer(x))` is the figure in the 2017 paper, and the reason for
# the collapse in *Play*. `norm(x) + sublayer(norm(x))` is the subtle one: it looks like pre-norm, but the
# stream is normalised at every block, so nothing a block wrote survives at its own size.
# ### END SOLUTION
#
# Next, count. A `ModelConfig` has `dim`, `n_layers`, `n_heads`, `head_dim`, `vocab_size` and a few
# more fields; try `release("llama-3.2-1b").config`.

# %%
def count_norm_weights(config: ModelConfig) -> int:
    """Exercise 1.4 ●●○ 5 min. The number of weights in all the RMSNorms of a Llama."""
    ### BEGIN SOLUTION
    return (2 * config.n_layers + 1) * config.dim
    ### END SOLUTION


check("1.4", count_norm_weights)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 1.4.** Nearly everyone forgets the last norm, after the last block. In a model, too:
# without it the output layer reads a stream whose length grows with depth. If only the division is
# left out, the next tokens keep their order of likelihood, but the probabilities become far too
# sharp. It looks like a model that is very sure of itself.
# ### END SOLUTION
#
# The weight of a norm always meets the columns of the matrix that follows. So it can be folded into
# that matrix once, and left out at run time. Some inference engines do this.

# %%
def fold(norm_weight: Tensor, w: Tensor) -> Tensor:
    """Exercise 1.5 ●●○ 8 min. norm_weight: `c`, w: `f c`. A matrix that does the work of both:

    F.linear(y * norm_weight, w) equals F.linear(y, fold(norm_weight, w)) for every y: `... c`.
    """
    ### BEGIN SOLUTION
    return w * norm_weight
    ### END SOLUTION


check("1.5", fold)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 1.5.** One output is $\sum_c w_{fc}\,(g_c\,y_c) = \sum_c (w_{fc}\,g_c)\,y_c$, so column
# $c$ is scaled by $g_c$. Scaling rows is tempting because a square matrix does not complain. In a real model it would
# rescale the outputs by numbers that were learnt for the inputs. For the same reason `w1` and `w3` of one
# block, and `wq`, `wk`, `wv`, must each be folded: all of them read the same norm.
# ### END SOLUTION
#
# ## Summary: one division, no mean
#
# - RMSNorm divides a token by its root mean square and rescales each feature. It puts every token at
#   the same distance from the origin and keeps its direction.
# - The mean that LayerNorm also removes is one direction of thousands, and a matrix before the norm
#   can remove it.
# - Squares overflow float16 from 256 on. Compute inside in float32.
# - Pre-norm survives depth and a careless learning rate. Post-norm starts with healthy gradients and
#   can lose them in training.
# - "40 % faster" holds for code by hand. A fused kernel decides it the other way.
#
# **Read in the package:** `llama_edu.layers.RMSNorm` (ten lines), and `llama_edu.model.Block`, where
# two of them stand. **Read elsewhere:** Zhang and Sennrich 2019, *Root Mean Square Layer Normalization*;
# Xiong et al. 2020, *On Layer Normalization in the Transformer Architecture*; Sun et al. 2024, *Massive
# Activations in Large Language Models*.
