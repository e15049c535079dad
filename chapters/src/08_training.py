# %% [markdown]
# # 08 · Training a tiny Llama: how low can the loss go?
#
# **The question.** A loss curve falls and flattens. Is the model done, or is it stuck? For borrowed
# text nobody knows, because nobody knows how much of it can be predicted at all. We write our own
# text, with a grammar whose entropy is known. So there is a floor under our curve. How close does a
# Llama of 0.3 million parameters come in a minute of one core?
#
# | you will build | you need | minutes |
# |---|---|---|
# | `next_token`, `cosine`, `adamw` and `train`, as they stand in the package | chapters 05 to 07 | 95 |

# %%
import itertools
import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from IPython.display import display
from torch import Tensor, nn
from torch.nn import functional as F

from llama_edu import claims, plots
from llama_edu.config import ModelConfig
from llama_edu.data import tales
from llama_edu.exercises import check, hint
from llama_edu.family.accounting import parameters
from llama_edu.family.releases import release
from llama_edu.generation import answers
from llama_edu.losses import Batch, Loss, Objective
from llama_edu.model import Block, Llama, Pass
from llama_edu.tokenizer import BytePairs
from llama_edu.training import state as training_state
from llama_edu.training import packing
from llama_edu.training_loop import (
    BETAS, EPS, LAST_SHARE, MAX_GRAD_NORM, WEIGHT_DECAY, Step, evaluate, gathered, initialise,
    on_device, over_ranks)

plots.use_style()
torch.set_num_threads(1)        # the matrices are small; one thread loses little

# %% [markdown]
# > **Predict.** Later we leave out one thing at a time: the warm-up of the learning rate, the clipping
# > of gradients, the place of the norms (post-norm for pre-norm), the rotary positions. Every model
# > has two layers and takes the same few steps. Which omission costs the most? Which costs nothing?
#
# ## By hand: the surprise of two tokens
#
# A vocabulary of three pieces: 0, 1 and 2. A text of three tokens: 0, 2, 1. After the first token
# the model gives logits for the second; after the second, logits for the third. (What it says after
# the third is about a token that is not there.) Softmax turns logits into probabilities, and the
# *surprise* at a token is minus the logarithm of its probability. The loss is the mean surprise.

# %%
# NBVAL_CHECK_OUTPUT
text = [0, 2, 1]
logits = [[1.0, 0.0, 2.0], [0.0, 3.0, 0.0], [5.0, 5.0, 5.0]]

surprises = []
for scores, following in zip(logits, text[1:], strict=False):
    p = math.exp(scores[following]) / sum(map(math.exp, scores))
    surprises.append(-math.log(p))
    print(f"token {following}: p = {p:.3f}, surprise {surprises[-1]:.3f} nats")
loss = sum(surprises) / len(surprises)
print(f"loss {loss:.3f}")

# %% [markdown]
# PyTorch computes the same. Everything hangs on the slices: all logits but the last, all tokens but
# the first.

# %%
by_torch = F.cross_entropy(torch.tensor(logits)[:-1], torch.tensor(text)[1:])
torch.testing.assert_close(by_torch, torch.tensor(loss))

# %% [markdown]
# The unit is the *nat*, since the logarithm is natural. A loss of $L$ nats is the surprise of a choice
# among $e^L$ equally likely tokens. A model that knows nothing and spreads its bets over $v$ pieces
# has a loss of $\ln v$.
#
# ## The idea: the loss has a floor, and here we know it
#
# Training minimises the mean surprise over a text $x_1 \dots x_t$. Llama 1, 2 and 3 were pre-trained on it:
#
# $$ L = -\frac{1}{t-1} \sum_{i=1}^{t-1} \ln p(x_{i+1} \mid x_1 \dots x_i) $$
#
# Averaged over all texts, $L$ is the entropy of the text plus how far the model's probabilities are from the true
# ones (their *divergence*, never below zero). Only the second part can be learnt away. The first is the floor.
#
# Our text comes from `llama_edu.data.tales`: a grammar writes a small story, choosing a name, a
# toy, a place, a mishap. Later sentences must recall those choices. We know the odds of each choice, so we
# know the exact probability of each story.

# %%
stories = list(tales.stories(4_900, seed=8))
held_texts, texts = stories[:100], stories[100:]
print(held_texts[0])
print(f"\nsurprise of one who knows the grammar: {-tales.log_prob(held_texts[0]):.1f} nats")

# %% [markdown]
# The grammar is also a *judge*. It reads a story and names each word that breaks an earlier choice.
# We spoil the story: where Leo is named for the last time, we write Zoe.

# %%
before, _, after = held_texts[0].rpartition("Leo")
spoiled = before + "Zoe" + after
for finding in tales.judge(spoiled).findings:
    print(finding)
print("score", round(tales.judge(spoiled).score, 2), "  untouched:", tales.judge(held_texts[0]).score)

# %% [markdown]
# Now tokens. We grow a vocabulary of 720 pieces (chapter 05), and put a token for "begin" and one
# for "end" around each story. A row of 152 tokens holds any of them; what is left of a row is
# padding. Each row begins where a story begins, and that matters: a window that starts in the middle
# of a story has lost the name, and the floor would no longer hold.

# %%
tokenizer = BytePairs.train("\n".join(texts[:1000]), n_vocab=720,
                        special=("<|begin_of_text|>", "<|end_of_text|>"))
ROW = 152


def as_row(story: str) -> packing.Row:
    """A row with one document in it."""
    return [tokenizer.encode(story, bos=True, eos=True)]


rows = [as_row(story) for story in texts]
held_rows = [as_row(story) for story in held_texts]
held_out = [packing.lay_out(held_rows[i:i + 25], length=ROW) for i in range(0, 100, 25)]
floor = tales.floor_per_token(held_texts, lambda story: len(as_row(story)[0]) - 1)

assert max(len(row[0]) for row in rows + held_rows) <= ROW
print(f"floor: {floor:.3f} nats per token, a choice among {math.exp(floor):.2f} tokens")

# %% [markdown]
# The floor is low because most tokens follow from what stands before. A hundred stories are *held out*: never
# trained on, and used for every measurement below.
#
# ## Build it: a loss that is a sum and a count
#
# A batch is a dictionary. `tokens` are the rows; `learn` is True on each token that is to be
# predicted, so False on padding. The loss comes back as a *sum* and the *number* of tokens summed.
# Why not as a mean? That question has its own section.

# %%
# twin: llama_edu.losses.log_probs, llama_edu.losses.next_token
def log_probs(model: nn.Module, batch: Batch) -> Tensor:
    """log p(token i+1 | tokens 0 .. i), in nats: `b t-1`. The last token is only predicted."""
    tokens, positions, mask = batch["tokens"], batch.get("positions"), batch.get("mask")
    logits = model(tokens[:, :-1], positions=None if positions is None else positions[:, :-1],
                   mask=None if mask is None else mask[:, :-1, :-1])
    return logits.log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)


def next_token(model: nn.Module, batch: Batch) -> Loss:
    """Cross-entropy in nats, on every token that has one before it and is to be learnt."""
    learn = batch.get("learn", torch.ones_like(batch["tokens"], dtype=torch.bool))[:, 1:]
    return Loss(-(log_probs(model, batch) * learn).sum(), int(learn.sum()))


# %% [markdown]
# Next a model to try it on: two layers, 96 features. `initialise` draws all matrices from a
# normal distribution. An untrained model should know nothing. Does it?

# %%
config = ModelConfig(dim=96, n_layers=2, n_heads=2, n_kv_heads=2, hidden_dim=256, vocab_size=720,
                     norm_eps=1e-5, rope_theta=1e4, max_seq_len=256, tied_embeddings=True)


def new_model(seed: int) -> Llama:
    return initialise(Llama(config), std=0.02, generator=torch.Generator().manual_seed(seed))


model = new_model(0)
print(f"{parameters(config).total:,} parameters")
print(f"loss {evaluate(model, held_out, next_token):.2f}, and ln 720 = {math.log(720):.2f}")

# %% [markdown]
# It does know nothing. A first loss far above $\ln v$ means that the weights start too large, or that labels
# and logits are not what you think.
#
# ## Prove it: against PyTorch, and against the mean of means
#
# `F.cross_entropy` ignores labels of -100. With those in place of padding it must agree.

# %%
batch = held_out[0]
with torch.no_grad():
    ours = next_token(model, batch)
    labels = batch["tokens"].masked_fill(~batch["learn"], -100)[:, 1:]
    theirs = F.cross_entropy(model(batch["tokens"][:, :-1]).flatten(0, 1), labels.flatten())

torch.testing.assert_close(ours.total / ours.count, theirs)
print("equal on", ours.count, "tokens; left out as padding:", labels.numel() - ours.count)

# %% [markdown]
# Why a sum and a count? Often a batch does not fit into memory. Then one computes it in pieces, adds the gradients
# up (*accumulation*) and takes one step. The update must be that of the whole batch. If each piece
# returns its mean and the means are averaged, a token in a small piece weighs more than a token in a
# large one. We cut four stories into one and three:

# %%
def gradient(pieces: list[list[packing.Row]], *, of_means: bool) -> Tensor:
    """The gradient of the embedding table from several pieces of one batch."""
    model.zero_grad()
    losses = [next_token(model, packing.lay_out(piece, length=ROW)) for piece in pieces]
    if of_means:
        sum(loss.total / loss.count for loss in losses).div(len(pieces)).backward()
    else:
        (sum(loss.total for loss in losses) / sum(loss.count for loss in losses)).backward()
    return model.tok_embeddings.weight.grad.clone()


pieces = [held_rows[:1], held_rows[1:4]]
whole = gradient([held_rows[:4]], of_means=False)
summed, averaged = gradient(pieces, of_means=False), gradient(pieces, of_means=True)

torch.testing.assert_close(summed, whole, rtol=1e-3, atol=1e-6)     # another order of additions
print(f"sums: equal.  mean of means: off by {(averaged - whole).norm() / whole.norm():.0%}")
assert (averaged - whole).norm() > 0.05 * whole.norm()

# %% [markdown]
# This slip was in widely used libraries for years, because with pieces of equal size it cannot be seen.
# An objective that returns sums cannot make it.
#
# ## Build it: Adam's first step has the same length everywhere
#
# Adam keeps two running means for each weight: $m \leftarrow \beta_1 m + (1-\beta_1)\,g$ of the gradient $g$,
# and $v \leftarrow \beta_2 v + (1-\beta_2)\,g^2$ of its square. AdamW (Loshchilov and Hutter 2019, algorithm 2)
# first shrinks the weight $\theta$ a little, then steps:
#
# $$ \theta \leftarrow \theta\,(1 - \eta\lambda), \qquad
#    \theta \leftarrow \theta - \eta\,\frac{\hat m}{\sqrt{\hat v} + \epsilon}, \qquad
#    \hat m = \frac{m}{1-\beta_1^n}, \quad \hat v = \frac{v}{1-\beta_2^n} $$
#
# $\eta$ is the learning rate, $\lambda$ the weight decay and $n$ the number of the step. Both means
# start at zero, so at first they are too small; the divisions by $1 - \beta^n$ correct that. Here is the first
# step for two weights in plain numbers. Their gradients differ by a factor of 1,000.

# %%
lr, decay = 0.01, 0.1
weights, gradients = [2.0, 2.0], [3.0, 0.003]

after = []
for w, g in zip(weights, gradients, strict=True):
    m, v = (1 - BETAS[0]) * g, (1 - BETAS[1]) * g * g       # both were zero before
    m_hat, v_hat = m / (1 - BETAS[0]), v / (1 - BETAS[1])   # step 1: exactly g and g squared
    after.append(w * (1 - lr * decay) - lr * m_hat / (math.sqrt(v_hat) + EPS))
    print(f"gradient {g}: 2 becomes {after[-1]:.4f}")

# %% [markdown]
# Both weights lose 0.002 to the decay and then move by the learning rate, 0.01. After the correction $\hat m / \sqrt{\hat v}$ is
# $g / |g|$ in the first step: a sign. Adam takes its boldest steps when it has seen one batch. Keep this in mind
# for the warm-up.
#
# Llama's setting is one function: PyTorch's AdamW with the constants of Llama 2. Only matrices decay. (The
# papers do not say what decays; this is the usual way. A norm's weight starts at 1, and there is no reason
# to pull it to 0.)

# %%
# twin: llama_edu.training_loop.adamw
def adamw(model: nn.Module, *, weight_decay: float = WEIGHT_DECAY) -> torch.optim.AdamW:
    """AdamW with Llama 2's constants. Matrices decay; the weights of norms do not."""
    learnt = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = ([p for p in learnt if (p.ndim >= 2) is big] for big in (True, False))
    return torch.optim.AdamW([{"params": matrices, "weight_decay": weight_decay},
                              {"params": vectors, "weight_decay": 0.0}],
                             lr=0.0, betas=BETAS, eps=EPS, fused=True)

# %%
layer = nn.Linear(2, 1, bias=False)
layer.weight.data = torch.tensor([weights])
layer.weight.grad = torch.tensor([gradients])
optimizer = adamw(layer)
optimizer.param_groups[0]["lr"] = lr
optimizer.step()
torch.testing.assert_close(layer.weight.data, torch.tensor([after]))
print("betas", BETAS, " eps", EPS, " decay", WEIGHT_DECAY, " equal to the step by hand")
print("of the peak rate, at the end:", LAST_SHARE)

# %% [markdown]
# ## Build it: rise in a line, fall along half a cosine
#
# The learning rate is not constant. It rises for a few steps, then falls to a tenth of its peak.
# The fall begins where the warm-up ends, so its length is `steps - warmup`.

# %%
# twin: llama_edu.training_loop.cosine
def cosine(peak: float, *, warmup: int, steps: int, last: float = LAST_SHARE
           ) -> Callable[[int], float]:
    """Llama's schedule: rise linearly for `warmup` steps to the peak, fall along half a cosine."""
    if not 0 <= warmup < steps:
        raise ValueError(f"a warm-up of {warmup} steps in {steps} was asked for; 0 or more, and "
                         "fewer than all, are needed. Make it shorter, or train longer.")

    def lr(index: int) -> float:
        if index < warmup:
            return peak * (index + 1) / warmup
        done = min(1.0, (index + 1 - warmup) / (steps - warmup))
        return peak * (last + (1 - last) * (1 + math.cos(math.pi * done)) / 2)

    return lr

# %% mystnb={"image": {"alt": "Learning rate over 100 steps as a share of its peak. Llama's schedule rises for 20 steps to 1 and falls along half a cosine to 0.1. A cosine that is not offset by the warm-up jumps from 1 to 0.9 when the warm-up ends."}}
right = cosine(1.0, warmup=20, steps=100)
careless = [right(i) if i < 20 else cosine(1.0, warmup=0, steps=100)(i) for i in range(100)]

fig, ax = plots.figure("The fall begins where the warm-up ends, or the rate jumps",
                       x="step (of 100)", y="learning rate (share of the peak)")
ax.plot(careless, "--", color=plots.VERMILION)
ax.plot([right(i) for i in range(100)], color=plots.BLUE)
ax.text(62, 0.62, "as in the Llamas", color=plots.BLUE)
ax.text(22, 0.62, "not offset", color=plots.VERMILION)
ax.annotate("", (20, careless[20]), (27, 0.66),
            arrowprops={"arrowstyle": "->", "color": plots.VERMILION})
_ = ax.set_ylim(0, 1.05)

# %% [markdown]
# ## Build it: clip the length, keep the direction
#
# Now and then a batch gives a gradient that is far too long. *Clipping* measures all gradients of the
# model as if they were one long vector, and shortens it to length 1 if it is longer. Every number is
# scaled by the same factor, so the direction stays. This function also turns the sums into
# means, and it refuses a gradient that is not finite before any weight has changed.

# %%
# twin: llama_edu.training_loop.mean_and_clip
def mean_and_clip(model: nn.Module, count: float, max_norm: float, *, where: str = "this step"
                  ) -> float:
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    norm = gathered(nn.utils.get_total_norm(gradients.values())).item() / count
    if not math.isfinite(norm):
        wrong = [name for name, g in gradients.items() if not gathered(g).isfinite().all()]
        model.zero_grad(set_to_none=True)
        raise FloatingPointError(
            f"at {where} the gradient is {norm}, first in {wrong[0] if wrong else 'the sum'}; a "
            "finite one is needed. Nothing was updated: lower the learning rate, or look at this "
            "batch.")
    scale = min(1.0, max_norm / norm) if norm else 1.0
    for gradient in gradients.values():
        gradient.mul_(scale / count)
    return norm


# %% [markdown]
# Before it, the sums of one or several batches are added up:

# %%
# twin: llama_edu.training_loop.add_up
def add_up(model: nn.Module, source: Iterator[Batch], objective: Objective, *, accumulate: int,
           where: str) -> Loss:
    whole = Loss(torch.zeros(()), 0)
    for _ in range(accumulate):
        if (batch := next(source, None)) is None:
            raise ValueError(f"the batches ended at {where}; {accumulate} for every step are "
                             "needed. Give more, or an endless iterator.")
        part = objective(model, on_device(batch, model))
        part.total.backward()
        whole.total = whole.total + part.total.detach().cpu()
        whole.count += part.count
        for name, total in part.notes.items():
            whole.notes[name] = whole.notes.get(name, 0.0) + total
    return whole


# %% [markdown]
# And the loop itself. It is a *generator*: it yields after each step, and whoever reads it decides
# what to print, draw or save, and when to stop. Nothing in it knows about plots or files. Two helpers
# come from the package: `gathered` and `over_ranks` do nothing here. They matter when several processes
# train one model: PyTorch then averages their gradients, and all must divide by the same count.

# %%
# twin: llama_edu.training_loop.train
def train(model: nn.Module, batches: Iterable[Batch], objective: Objective = next_token, *,
          lr: Callable[[int], float], steps: int, start: int = 0, accumulate: int = 1,
          max_grad_norm: float = MAX_GRAD_NORM, optimizer: torch.optim.Optimizer | None = None
          ) -> Iterator[Step]:
    optimizer = optimizer or adamw(model)
    source = iter(batches)
    for index in range(start, steps):
        began, where = time.perf_counter(), f"step {index} of {steps}"
        model.train()
        optimizer.zero_grad(set_to_none=True)
        loss = add_up(model, source, objective, accumulate=accumulate, where=where)
        loss, ranks = over_ranks(model, loss, where=where)
        norm = mean_and_clip(model, loss.count / ranks, max_grad_norm, where=where)
        for group in optimizer.param_groups:
            group["lr"] = lr(index)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield Step(index, loss.total.item() / loss.count, lr(index), norm, loss.count,
                   time.perf_counter() - began,
                   {name: total / loss.count for name, total in loss.notes.items()})


# %% [markdown]
# ## Watch it learn
#
# 1,200 steps of four stories, each story seen once. Every 100 steps we measure the held-out loss. At
# steps 0, 100, 400 and 1,200 the model tells twenty stories, from the token "begin" and nothing else.

# %%
STEPS, TELL_AT = 1_200, (0, 100, 400, 1_200)
model, early = new_model(0), new_model(0)       # early: as the model will be after 100 steps
history, held, told = [], {}, {}


def look(done: int) -> None:
    """Measure the model after this many steps, and let it tell stories where they are due."""
    held[done] = evaluate(model, held_out, next_token)
    if done == 100:
        early.load_state_dict(model.state_dict())
    if done in TELL_AT:
        told[done] = answers(model, tokenizer, [""] * 20, max_new=150,
                             generator=torch.Generator().manual_seed(1))


def curve() -> plots.Figure:
    """The losses so far, over the floor."""
    fig, ax = plots.figure(f"{max(held)} steps: {held[max(held)] - floor:.2f} nats per token above "
                           "the floor", x="step", y="loss (nats per token)")
    ax.semilogy([step.loss for step in history], color="#b8b8b8", linewidth=0.8)
    ax.plot(*zip(*held.items(), strict=True), "o-", markersize=4, label="held out")
    ax.plot([0, STEPS], [floor, floor], "--", color=plots.BLACK, label="floor")
    ax.set(xlim=(0, STEPS), ylim=(0.35, 8))
    ax.set_yticks([0.4, 0.5, 0.7, 1, 2, 4, 7], ["0.4", "0.5", "0.7", "1", "2", "4", "7"])
    ax.minorticks_off()
    plots.label_lines(ax)
    plots.plt.close(fig)        # shown by hand below
    return fig

# %% [markdown]
# Run the next cell and watch: the figure is drawn again every 100 steps. (Grey: the loss of each batch before
# its step.) It takes less than a minute of one core, more where others are at work.

# %% mystnb={"image": {"alt": "Loss on a logarithmic axis over 1,200 steps. The held-out loss falls from 6.6 to about 1 in the first 100 steps, then slowly towards the dashed floor at 0.40 nats per token; it ends 0.06 above it."}}
began = time.process_time()
look(0)
screen = display(curve(), display_id=True)
batches = packing.shuffled(rows, size=4, length=ROW, seed=0)
for step in train(model, batches, next_token, lr=cosine(0.012, warmup=50, steps=STEPS),
                  steps=STEPS):
    history.append(step)
    if (step.index + 1) % 100 == 0:
        look(step.index + 1)
        screen.update(curve())
spent = time.process_time() - began

# %% [markdown]
# The first hundred steps do most of the work: they learn which words follow which. The rest is slow: it
# learns to *recall*. Without the floor we could only say that the curve flattens. With it we
# can say how much is left.

# %%
for done in TELL_AT:
    print(f"step {done:5}: held out {held[done]:.2f}, above the floor {held[done] - floor:.2f}")
print(f"{spent:.0f} seconds of processor time, with measuring and telling")
assert held[STEPS] > floor
assert held[STEPS] - floor < 0.2 and held[100] - floor > 2 * (held[STEPS] - floor)

# %% [markdown]
# Here is how the first of the twenty stories begins at each stage, and what the judge says of all twenty: the
# mean share of checks that hold, and how many have no fault at all.

# %%
for done in TELL_AT:
    verdicts = [tales.judge(story) for story in told[done]]
    score = statistics.mean(verdict.score for verdict in verdicts)
    print(f"--- step {done}: score {score:.2f}, faultless {sum(v.consistent for v in verdicts)} of 20")
    print("".join(c if c.isascii() and c >= " " else "~" for c in told[done][0][:200]))
broken = Counter(finding.rule for story in told[STEPS] for finding in tales.judge(story).findings)
print("--- what is still wrong:", dict(broken.most_common()))

# %% [markdown]
# (A line's end shows as `~`.) At step 0 it is noise. At step 100 it is English whose people change their
# names in mid-story. At the end most of it is right, and what is left is mostly names: the model knows that a
# name belongs here, and too often takes a wrong one. A high mean score and no story without fault
# go together, because a story is checked in many places, and all must hold.
#
# ## Where does the loss sit?
#
# A mean hides a lot. We ask for the surprise at each token of one held-out story: of the model as it was after
# 100 steps, and of the trained one.

# %% mystnb={"image": {"alt": "Surprise at each of the first 40 tokens of a held-out story. After 100 steps bars reach 5.5 nats; at the end none is above 2.4, and those that are left stand mostly at free choices such as the trait, the toy and the place. The last mention of the name falls from 3 nats to nearly 0."}}
one = packing.lay_out(held_rows[:1], length=ROW)
with torch.no_grad():
    before, after = (-log_probs(each, one)[0, :40] for each in (early, model))
spelled = [tokenizer.decode([token]).strip() or "(line)" for token in held_rows[0][0][1:41]]

fig, ax = plots.figure("Choices stay surprising, words that are recalled less so",
                       x="first 40 tokens of a held-out story", y="surprise (nats)")
ax.bar(range(40), before, color=plots.ORANGE, width=0.9, label="after 100 steps")
ax.bar(range(40), after, color=plots.BLUE, width=0.5, label="at the end")
ax.legend()
ax.set_xticks(range(40), spelled, rotation=90, fontsize=6.5)
with torch.no_grad():
    print(f"whole story, in nats: {next_token(early, one).total:.1f} after 100 steps,"
          f" {next_token(model, one).total:.1f} at the end,"
          f" {-tales.log_prob(held_texts[0]):.1f} for the grammar")
print(f"a choice among six: {math.log(6):.2f} nats")
above, length = held[STEPS] - floor, statistics.mean(len(row[0]) - 1 for row in held_rows)
print(f"all held-out stories: {above / floor:.0%} above the floor,"
      f" {above * length:.0f} nats in a story of {length:.0f} tokens")

# %% [markdown]
# On the curve that distance looks like nothing. In a story of a hundred tokens and more it adds up to
# several nats, and each nat is a wrong turn somewhere. That is why a loss so near to its floor still
# tells no faultless story.
#
# Look at the name. Where it stands first it is a choice among six (boys and girls have six names each).
# No training can bring it below $\ln 6$ nats on average, though one name may come out a little under it. The
# same holds for traits and toys: their bars are what the floor is made of. Where the name stands again it could be recalled. After 100 steps the model hardly does. The trained one does in some places
# and not yet in others; what is left there is its distance to the floor. (At a few choices the early model is
# less surprised than the trained one: it had a favourite word, and here it was the right one.)
#
# ## What did the schedule and the clipping do?
#
# Each `Step` carries the length of the gradient before it was clipped, and the learning rate.

# %% mystnb={"image": {"alt": "Two panels over 1,200 steps. Left: the learning rate rises to 0.012 in 50 steps and falls along a cosine to 0.0012. Right: the gradient's length on a logarithmic axis, above the clipping line at 1 early in training and below it later."}}
fig, (rate, length) = plots.figure("Clipping works early, when gradients are long",
                                   x="step", y="learning rate", columns=2)
rate.plot([step.lr for step in history])
length.semilogy([step.grad_norm for step in history], linewidth=0.8)
length.plot([0, STEPS], [1, 1], "--", color=plots.BLACK)
length.set_ylabel("gradient norm before clipping")
length.set_yticks([0.25, 0.5, 1, 2, 4, 8], ["0.25", "0.5", "1", "2", "4", "8"])
length.minorticks_off()
length.text(STEPS, 1.08, "clipped above this line", ha="right")
clipped = [step.grad_norm > MAX_GRAD_NORM for step in history]
print(f"clipped: {statistics.mean(clipped[:100]):.0%} of the first 100 steps,"
      f" {statistics.mean(clipped[-500:]):.0%} of the last 500")
assert sum(clipped[:100]) > sum(clipped[-500:])

# %% [markdown]
# The gradient shortens as the model improves, and after the first hundred steps or so clipping has almost
# nothing left to do. It is a seat belt.
#
# ## Play: leave one thing out
#
# Now the four omissions of the prediction. Post-norm is a block with the norms after each sum. "No
# RoPE" puts every token at position 0: nothing is rotated, and only the causal mask tells what came first.

# %%
class PostNormBlock(Block):
    def forward(self, x: Tensor, now: Pass) -> Tensor:
        x = self.attention_norm(x + self.attention(x, now.rope, now.mask))
        return self.ffn_norm(x + self.feed_forward(x))


class LlamaWithoutRope(Llama):
    def forward(self, tokens: Tensor, cache=None, *, positions=None, mask=None, head=True) -> Tensor:
        return super().forward(tokens, cache, positions=torch.zeros_like(tokens), mask=mask, head=head)


def short_run(omitted: str, seed: int, peak: float = 0.007, steps: int = 80) -> float:
    """The held-out loss after a few steps without one thing. The seed decides weights and order."""
    model = (LlamaWithoutRope if omitted == "RoPE" else Llama)(config)
    if omitted == "pre-norm":
        model.layers = nn.ModuleList(PostNormBlock(config, i) for i in range(config.n_layers))
    initialise(model, std=0.02, generator=torch.Generator().manual_seed(seed))
    for _ in train(model, packing.shuffled(rows, size=4, length=ROW, seed=seed), next_token,
                   lr=cosine(peak, warmup=0 if omitted == "warm-up" else 20, steps=steps),
                   steps=steps, max_grad_norm=math.inf if omitted == "clipping" else 1.0):
        pass
    return evaluate(model, held_out, next_token)

# %% [markdown]
# All get 80 steps, 20 of them warm-up, and a peak of 0.007. One run proves little. So each is repeated with
# three seeds, and we draw all of them.

# %% mystnb={"image": {"alt": "Held-out loss after 80 steps, three seeds for each variant. All runs without warm-up (2.1 to 2.4) and without clipping (2.6 to 2.9) end far above the complete recipe (1.15 to 1.27); post-norm and no RoPE end at its upper edge (1.25 to 1.39)."}}
OMITTED = ("nothing", "warm-up", "clipping", "pre-norm", "RoPE")
results = {omitted: [short_run(omitted, seed) for seed in range(3)] for omitted in OMITTED}

fig, ax = plots.figure("At this learning rate, warm-up and clipping matter most",
                       x="held-out loss after 80 steps (nats per token)", y="left out")
for place, omitted in enumerate(OMITTED):
    ax.plot(results[omitted], [place] * 3, "o", markersize=7, alpha=0.7)
ax.axvspan(min(results["nothing"]), max(results["nothing"]), color="#eeeeee", zorder=0)
ax.set_yticks(range(5), OMITTED)
ax.invert_yaxis()
for omitted, losses in results.items():
    print(f"without {omitted:9} {statistics.mean(losses):.2f}  ({min(losses):.2f} to {max(losses):.2f})")
assert min(results["warm-up"]) > max(results["nothing"])
assert max(results["clipping"]) > max(results["nothing"])
assert len({tuple(losses) for losses in results.values()}) == 5     # each omission does something

# %% [markdown]
# The shaded band is the spread of the complete recipe: a difference smaller than the band says little. Two
# omissions stand far outside it. Without warm-up, Adam's bold first steps throw the model to a place from
# which it must first recover. Without clipping, the long gradients that come early in training do the same,
# and they do more harm.
#
# The other two end at the edge of the band, a little worse on average. Post-norm, which died in chapter 01,
# does not die here: two layers are not thirty-two. And without RoPE a causal model still sees which tokens
# are there, if not where; so early, that is nearly enough. Do not read more into this than eighty
# steps and three seeds can say. A lower peak, a deeper model or a longer run may
# order the five differently.
#
# ## A run that was interrupted ends with the same weights
#
# Training for weeks means being interrupted. What must be kept? The weights, of course; Adam's two means and its
# step count; the place in the data; the state of the random numbers. `training_state` writes all of it
# into one file with a checksum. We train for six steps, once in one go, and once with a stop after three.

# %%
def go_on(model: Llama, optimizer: torch.optim.Optimizer, start: int, stop: int) -> Tensor:
    """Take steps start to stop of a run of six; all weights as one vector."""
    batches = packing.shuffled(rows, size=2, length=ROW, seed=0, start=start)
    steps = train(model, batches, next_token, lr=cosine(0.01, warmup=2, steps=6), steps=6,
                  start=start, optimizer=optimizer)
    for _ in itertools.islice(steps, stop - start):
        pass
    return torch.cat([p.detach().flatten() for p in model.parameters()])


unbroken = new_model(3)
straight = go_on(unbroken, adamw(unbroken), 0, 6)

# %%
with tempfile.TemporaryDirectory() as folder:
    first = new_model(3)
    optimizer = adamw(first)
    go_on(first, optimizer, 0, 3)
    training_state.save(Path(folder), 3, first, optimizer, run="chapter 08")
    state, refused = training_state.newest(Path(folder), run="chapter 08")

resumed, forgetful = new_model(4), new_model(4)         # other weights, to be overwritten
optimizer = adamw(resumed)
state.restore(resumed, optimizer)
forgetful.load_state_dict(state.model)                  # the weights, and nothing else
again, worse = go_on(resumed, optimizer, 3, 6), go_on(forgetful, adamw(forgetful), 3, 6)

print("resumed: equal to the last bit:", torch.equal(again, straight))
print("only the weights restored:     ", torch.equal(worse, straight))
assert torch.equal(again, straight) and not torch.equal(worse, straight)

# %% [markdown]
# Equal to the last bit, on one machine with one number of threads. Whoever restores the weights
# alone starts Adam anew, with its bold first steps. Expect a bump in the loss after such a restart.
#
# ## In the Llamas: the same recipe, on a million times the text and more

# %%
# NBVAL_CHECK_OUTPUT
print("                 peak rate  batch (tokens)  warm-up  tokens per parameter")
for name in ("llama-1-7b", "llama-1-65b", "llama-2-7b", "llama-2-70b", "llama-3-8b",
             "llama-3.1-405b"):
    run, size = release(name).training, parameters(release(name).config).total
    batch_tokens = f"{run.batch_tokens:,.0f}" if run.batch_tokens else "not published"
    batch_tokens = "4M, 8M, 16M" if name == "llama-3.1-405b" else batch_tokens
    print(f"{name:15}{run.max_lr:11.1e}{batch_tokens:>16}{run.warmup_steps or '-':>9}"
          f"{run.tokens / size:16,.0f}")

# %% [markdown]
# (A dash: not published.) The larger the model, the lower the peak. Llama 1 and 2 end at a tenth of it, as we do;
# Llama 3.1 405B ends at a hundredth (Grattafiori et al. 2024, section 3.4.1). Its batch *grew*: 4 million
# tokens at first, 8 million after 252 million tokens, 16 million after 2.87 trillion (the same section).
# The paper's reasons: small at first for stability, larger later for speed. Where the batch is known,
# steps can be counted. Our own run stands below for comparison.

# %%
# NBVAL_CHECK_OUTPUT
for name in ("llama-1-7b", "llama-1-65b", "llama-2-7b"):
    run = release(name).training
    steps = run.tokens / run.batch_tokens
    print(f"{name}: {steps:,.0f} steps, warm-up {run.warmup_steps / steps:.1%} of them")
run = release("llama-3.1-405b").training
stages = ((0, 252e6, 4e6), (252e6, 2.87e12, 8e6), (2.87e12, run.tokens, 16e6))
steps = sum((end - start) / size for start, end, size in stages)
print(f"llama-3.1-405b: {steps:,.0f} steps (its cosine was laid out for 1,200,000)")
seen = sum(step.count for step in history)
print(f"tiny Llama: {STEPS:,} steps, warm-up {50 / STEPS:.1%} of them,"
      f" {seen / parameters(config).total:.1f} tokens per parameter")
print(f"peak rate: {0.012 / release('llama-1-7b').training.max_lr:.0f} times that of Llama 1 7B")

# %% [markdown]
# Small models bear large steps. What our run lacks is length: after two tokens per parameter a model has
# hardly seen its language.
#
# ## Fact check: two claims
#
# > **Claim.** "Weight decay is L2 regularisation."
#
# L2 adds $\lambda\theta$ to the gradient. In plain gradient descent this is the same as shrinking.
# In Adam the addition goes through the division by $\sqrt{\hat v}$. We give two weights of size 1 a
# gradient that changes its sign at each step, large for one and small for the other, and watch what a decay of
# 0.1 does to each.

# %%
def left_over(kind: type[torch.optim.Optimizer], decay: float) -> Tensor:
    """Two weights of 1 after 200 steps: noisy gradients of size 10 and of size 0.1."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = kind([weight], lr=0.01, weight_decay=decay)
    for n in range(200):
        weight.grad = torch.tensor([10.0, 0.1]) * (-1) ** n
        optimizer.step()
    return weight.detach()


for kind, name in ((torch.optim.SGD, "SGD, L2"), (torch.optim.Adam, "Adam, L2"),
                   (torch.optim.AdamW, "AdamW")):
    shrunk = left_over(kind, 0.1) / left_over(kind, 0.0)
    print(f"{name:9} share left over: {shrunk[0]:.2f} and {shrunk[1]:.2f}")

# %% [markdown]
# In SGD and in AdamW both weights shrink alike. In Adam with L2 the weight with large gradients hardly decays, and
# the other is crushed. **Verdict: true of plain gradient descent, wrong of what trains Llamas.** The difference is the W
# in the name.
#
# The second claim is in the ledger of published claims:

# %%
claims.show("A74")

# %% [markdown]
# The paper's own text says so. Its table does not:

# %%
# NBVAL_CHECK_OUTPUT
ones = [release(f"llama-1-{size}b").training for size in (7, 13, 33, 65)]
print("peak rates ", sorted({run.max_lr for run in ones}))
print("batch sizes", sorted({run.batch_tokens for run in ones}))

# %% [markdown]
# **Half right.** Two learning rates, one batch size.
#
# ## Exercises: now you
#
# Replace each `raise NotImplementedError` and run the cell, then its check. `hint("8.1")` helps. The
# solutions are in [their own notebook](../solutions/08_training.ipynb).

# %%
def mean_loss(logits: Tensor, tokens: Tensor, learn: Tensor) -> Tensor:
    """Exercise 8.1 ●○○ 8 min. The mean loss in nats over the tokens that are to be learnt.

    logits: `b t v`, made from tokens: `b t`; learn: `b t`, True on the tokens to be predicted.
    """
    ### BEGIN SOLUTION
    surprise = -logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    return surprise[learn[:, 1:]].mean()
    ### END SOLUTION


check("8.1", mean_loss)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 8.1.** *Labels not shifted* is the most rewarding bug there is: the loss falls to almost
# zero, because each token stands in plain sight, and the model has learnt to copy its input. *Shifted twice* happens when a model
# class shifts and the caller has shifted already; the model then predicts every second word. *Averaged over padding* looks
# like a good loss: it is smaller the more padding there is.
# ### END SOLUTION
#
# The schedule next, as one function of the step. Step 0 is the first.

# %%
def learning_rate(index: int, peak: float, warmup: int, steps: int, last: float) -> float:
    """Exercise 8.2 ●●○ 10 min. Linear warm-up, then half a cosine down to `last` of the peak.

    Step warmup - 1 has the peak, and the fall begins with the very next step; step steps - 1 has
    peak * last, and so have all after it.
    """
    ### BEGIN SOLUTION
    if index < warmup:
        return peak * (index + 1) / warmup
    done = min(1.0, (index + 1 - warmup) / (steps - warmup))
    return peak * (last + (1 - last) * (1 + math.cos(math.pi * done)) / 2)
    ### END SOLUTION


check("8.2", learning_rate)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 8.2.** With a warm-up of one percent nobody sees that the cosine was *not offset*; with
# the 20 percent of the figure above it is a jump. *Up again* waits until somebody
# trains longer than planned: the cosine turns, and the rate climbs back to its peak.
# ### END SOLUTION
#
# Then the optimiser. Use $\beta_1 = 0.9$, $\beta_2 = 0.95$ and $\epsilon = 10^{-5}$, as Llama 2 does.

# %%
def adamw_steps(weight: Tensor, gradients: Tensor, lr: float, weight_decay: float) -> Tensor:
    """Exercise 8.3 ●●○ 12 min. A matrix `r c` after AdamW steps with gradients `n r c`."""
    ### BEGIN SOLUTION
    m, v = torch.zeros_like(weight), torch.zeros_like(weight)
    for n, gradient in enumerate(gradients, start=1):
        m = 0.9 * m + 0.1 * gradient
        v = 0.95 * v + 0.05 * gradient**2
        m_hat, v_hat = m / (1 - 0.9**n), v / (1 - 0.95**n)
        weight = weight * (1 - lr * weight_decay) - lr * m_hat / (v_hat.sqrt() + 1e-5)
    return weight
    ### END SOLUTION


check("8.3", adamw_steps)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 8.3.** *L2* trains, and trains worse, which is why it took years to be noticed. *No bias
# correction* makes the first step about half as long as it should be ($0.1 / \sqrt{0.05}$ is 0.45), and later steps a little too
# long. *Epsilon inside the root* is $\sqrt{10^{-5}} \approx 0.003$ for small gradients: weights with
# gradients below that hardly move.
# ### END SOLUTION
#
# Clip a list of gradients. What does "longer than allowed" mean for several tensors?

# %%
def clip(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    """Exercise 8.4 ●○○ 6 min. Gradients of any shapes, together at most `max_norm` long. Those that
    are all zero stay as they are."""
    ### BEGIN SOLUTION
    norm = math.sqrt(sum(float(gradient.pow(2).sum()) for gradient in gradients))
    scale = min(1.0, max_norm / norm) if norm > 0 else 1.0
    return [gradient * scale for gradient in gradients]
    ### END SOLUTION


check("8.4", clip)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 8.4.** Clipping *each on its own* changes the direction of the step: the largest tensors lose
# most. *Always* turns clipping into normalising: near the end, where gradients are short, it makes them
# long again.
# ### END SOLUTION
#
# Last, accumulation. Each batch gives the gradient of its *summed* loss and the number of tokens in it.

# %%
def accumulated(sums: Tensor, counts: list[int]) -> Tensor:
    """Exercise 8.5 ●○○ 4 min. sums: `p c`, one gradient for each of p batches. The mean's: `c`."""
    ### BEGIN SOLUTION
    return sums.sum(0) / sum(counts)
    ### END SOLUTION


check("8.5", accumulated)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 8.5.** *The mean of means* is right whenever all counts are equal, and so it passes every test with full
# rows. With chats, whose answers differ in length a hundredfold, a one-word answer then weighs as much per batch as an essay.
# ### END SOLUTION
#
# ## Summary: a floor and a recipe
#
# - The loss is the mean surprise at the next token. All logits but the last, all tokens but the
#   first, and only what is to be learnt.
# - An entropy stands under every loss curve. Here we know it, and can say how much is left to learn.
# - Return sums and counts; divide once.
# - Adam's first step is a sign. Warm-up keeps it short, clipping tames single batches. In our short runs
#   leaving out either cost more than one nat per token.
# - A run that can resume keeps weights, optimiser, place in the data and random state.
#
# **Read in the package:** `llama_edu.losses`, `llama_edu.training_loop` (the whole loop on one screen),
# `llama_edu.training.packing` (several short documents in one row) and `llama_edu.training.state`. `llama-edu
# train` runs a recipe from a file. **Read elsewhere:** Loshchilov and Hutter 2019, *Decoupled Weight Decay
# Regularization*; Touvron et al. 2023b, section 2.2; Hoffmann et al. 2022, *Training Compute-Optimal Large
# Language Models*.
