# %% [markdown]
# # 18 · Reward models and rejection sampling: can taste be a number?
#
# **The question.** Nobody can write down what makes an answer good. But of two answers one can say which is
# better, and people mostly agree. Can a Llama learn a *number* from such choices? And what happens to a model that is
# tuned to make that number large? In our world of talks a judge knows what each answer is worth, so we can see how
# far the number is to be trusted, and where it lies.
#
# | you will build | you need | minutes |
# |---|---|---|
# | a reward model and its loss, two rewards made one, the best of n with its price, a round of rejection sampling | chapters 07, 08 and 17 | 145 |

# %%
import copy
import csv
import itertools
import math
import random
import textwrap
from dataclasses import replace
from statistics import median
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llama_edu import checkpoint, claims, plots
from llama_edu.alignment import reward_files
from llama_edu.alignment.exam import messages
from llama_edu.alignment.preferences import (LARGE, RATINGS, SMALL, Pair,
                                             accuracy, batches, calibration,
                                             gaps, pair)
from llama_edu.alignment.rejection import expected_best, kl_bound, samples
from llama_edu.alignment.reward import (LEAST_VARIANCE, UNSAFE_BELOW,
                                        right_pad, scores)
from llama_edu.claims.computed.data_mix import comparisons
from llama_edu.data import dialogues as talks
from llama_edu.data.dialogues_labels import (RATED, Preference, ceilings,
                                             chosen_first, labelled)
from llama_edu.data.dialogues_reading import Talk
from llama_edu.exercises import check, hint, reveal, suspects
from llama_edu.layers import widen
from llama_edu.losses import Batch, Loss
from llama_edu.model import Llama
from llama_edu.prompts import LLAMA_3, dialog_tokens
from llama_edu.prompts.dialog import stop_ids
from llama_edu.sampling import known, temperature
from llama_edu.training import packing
from llama_edu.training_loop import cosine, train

plots.use_style()
torch.set_num_threads(1)  # the matrices are small; one thread loses little

# %% [markdown]
# ## Two answers
#
# A talk, and two answers to its last line. A labeller preferred one of them.

# %% tags=["nbval-check-output"]
shown = next(each for each in labelled(200, seed=3, about="helpful",
                                       sharpness=6.0)
             if each.rating == "better" and len(each.prompt) > 1
             and each.difference > 0)
for each in shown.prompt:
    print(textwrap.fill(f"{each['role']}: {each['content']}", 80))
print(textwrap.fill(f"A: {shown.rejected}", 80))
print(textwrap.fill(f"B: {shown.chosen}", 80))

# %% [markdown]
# > **Predict.** Which is better, and (a guess, for you do not know the judge yet) by how much, if a perfect answer is worth 1 and one that is wrong in everything 0?

# %%
guess = None        # "A" or "B"
how_much = None     # from 0 to 1

# %%
print(reveal("the better answer", guess, "B"))
reveal("by how much", how_much, shown.difference)

# %% [markdown]
# "Which" was easy. "How much" is a matter of taste: it is the judge's convention, and yours may differ. That is why labellers of
# Llama 2 were asked to *choose*, and to say how sure they were: `significantly better`, `better`, `slightly better`, `negligibly
# better`. The number has to come out of the choices.
#
# ## By hand: three pairs
#
# Say that a model has given each answer a score, any real number. Bradley and Terry (1952) read the *difference* of two
# scores as odds: the chosen one is preferred with probability $\sigma(r_c - r_r)$, where $\sigma(x) = 1 / (1 + e^{-x})$. The loss is
# the surprise at what was chosen, as ever.

# %% tags=["nbval-check-output"]
three = [(3.0, 1.0), (0.5, 0.0), (-1.0, 1.0)]       # (chosen, rejected)

surprises = []
for chosen, rejected in three:
    p = 1 / (1 + math.exp(rejected - chosen))
    surprises.append(-math.log(p))
    print(f"gap {chosen - rejected:4.1f}: preferred with {p:.3f}, "
          f"surprise {surprises[-1]:.3f} nats")
print(f"loss {sum(surprises) / 3:.3f}; a model that knows nothing has "
      f"ln 2 = {math.log(2):.3f}")

# %% [markdown]
# The third pair, which the model has the wrong way round, makes up most of the loss.
#
# ## The idea: taste is the difference of two numbers
#
# A reward model is a Llama whose last matrix, the one that makes logits, is replaced by a single row: out comes one
# number $r(x, y)$ for a prompt $x$ with an answer $y$. It is trained on pairs (Touvron et al. 2023b, equations 1 and 2):
#
# $$ L = -\ln \sigma\big(r(x, y_c) - r(x, y_r) - m\big) $$
#
# Equation 1 has no $m$. With a *margin* $m \ge 0$ the gap has to exceed $m$ before the odds turn; Llama 2 asks for more
# where the labellers were surer. Two scales were tried (table 27):

# %% tags=["nbval-check-output"]
print("                          small   large")
for rating in RATINGS:
    print(f"{rating:24} {SMALL[rating]:6.2f} {LARGE[rating]:7.2f}")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Loss of one pair against the gap from -4 to 8, for margins 0, 1 and 3. Each curve falls and flattens; a larger margin moves it to the right, so that at a gap of 3 the loss is 0.05 without a margin and 0.69 with a margin of 3."}}
fig, ax = plots.figure("A margin moves the curve: it pushes a gap for longer",
                       x="gap: chosen score less rejected score",
                       y="loss (nats)")
at = torch.linspace(-4, 8, 200)
for m, line in ((0, "-"), (1, "--"), (3, ":")):
    ax.plot(at, F.softplus(m - at), line, label=f"margin {m}")
ax.set(xlim=(-4, 8))
_ = ax.legend()

# %% [markdown]
# Note what the loss does *not* fix: add 100 to all scores and nothing changes. A score means something only beside
# another score *for the same prompt*.
#
# ## Your turn: the loss of a pair
#
# `hint("18.1")` gives one hint more at each call. The solutions are in [their own notebook](../solutions/18_reward.ipynb).

# %%
def pair_loss(chosen: Tensor, rejected: Tensor, margins: Tensor) -> Tensor:
    """Exercise 18.1 ●○○ 6 min. What is the mean loss of b pairs, in nats?

    The scores and the margins have the shape `b`. Return one number, as a
    tensor without axes. Scores may be a hundred apart.
    """
    ### BEGIN SOLUTION
    return F.softplus(margins + rejected - chosen).mean()
    ### END SOLUTION


check("18.1", pair_loss)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 18.1.** $-\ln\sigma(x) = \ln(1 + e^{-x})$ is the softplus of $-x$. *Margin outside* is a constant, without any gradient: the
# loss looks larger and the model is the same, bit for bit. *One by one* asks for a score that is good in itself; but a labeller who
# compared two answers has said nothing about either alone.
# ### END SOLUTION
#
# ## Build it: one pass for both answers
#
# A batch holds the tokens of all chosen texts, then of all rejected ones; `ends` says where each text's last token is. Both are read
# in one pass and cut apart again. The loss is a sum and a count (chapter 08), with a note that is averaged like it.

# %% twin="llama_edu.alignment.preferences.preference, llama_edu.alignment.preferences.right"
def preference(model: nn.Module, batch: Batch) -> Loss:
    chosen, rejected = model(batch["tokens"], batch["ends"]).chunk(2)
    found = chosen - rejected
    return Loss(-F.logsigmoid(found - batch["margins"]).sum(), len(found),
                {"accuracy": right(found.detach()).sum().item()})


def right(gaps: Tensor) -> Tensor:
    """1 where the chosen answer scores higher, 0 where lower, 1/2 else."""
    return (gaps.sign() + 1) / 2

# %% [markdown]
# Why a half for a draw? A model whose scores are all alike would be right in all pairs, or in none, by where we put the
# equals sign.

# %% tags=["nbval-check-output"]
by_hand = torch.tensor([score for side in zip(*three, strict=True)
                        for score in side])
loss = preference(lambda tokens, ends: by_hand,
                  {"tokens": None, "ends": None, "margins": torch.zeros(3)})
print(f"loss {loss.total / loss.count:.3f}, right "
      f"{loss.notes['accuracy']:.0f} of {loss.count}")
assert abs(loss.total.item() - sum(surprises)) < 1e-5

# %% [markdown]
# ## Your turn: which token knows?
#
# A Llama looks back only. So the first token's features know one token, and the last one's know the whole text: the score is read
# there. In a batch the texts have different lengths, and the shorter ones are filled up at the right. We make it hard on purpose: the
# padding is `end`, the very token that ends each turn. Many released tokenizers have it so.

# %%
def final_scores(found: Tensor, tokens: Tensor, end: int) -> Tensor:
    """Exercise 18.2 ●●○ 12 min. What does each text score? Return `b`.

    `found`, `b t`, are scores at every place. Each row of `tokens`, `b t`, is
    a text of one or more turns: words, then `end`. Rows are filled up with
    `end` as well. A text that fills its row may have been cut off; its last
    token is no `end` then.
    """
    ### BEGIN SOLUTION
    words = tokens != end
    places = torch.arange(tokens.shape[1])
    last_word = torch.where(words, places, 0).amax(1)
    at = (last_word + 1).minimum(places[-1])
    return found[torch.arange(len(found)), at]
    ### END SOLUTION


check("18.2", final_scores)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 18.2.** *The first end token* was found in two well-known libraries: both answers were scored at the prompt's end. Chosen and rejected
# were always equal, the accuracy stood at one half and the loss at exactly $\ln 2$. Such round readings are a gift. *The last
# position* is worse, because it trains: it only scores a text differently beside longer neighbours.
# ### END SOLUTION
#
# ## Build it: a Llama with one output
#
# The package does not look for a token at all: whoever made the batch knows the lengths. The head has no bias, for the loss could not
# move it, and begins at 0: no answer is better until something is learnt.

# %% twin="llama_edu.alignment.reward.RewardModel"
class RewardModel(nn.Module):
    """Texts in, one score for each out."""

    def __init__(self, trunk: Llama):
        super().__init__()
        like = trunk.tok_embeddings.weight
        self.trunk = trunk
        self.head = nn.Linear(
            trunk.config.dim, 1, bias=False, device=like.device,
            dtype=torch.promote_types(like.dtype, torch.float32))
        nn.init.zeros_(self.head.weight)

    @classmethod
    def of(cls, model: Llama) -> Self:
        """A copy of a model, without a table of its own for logits."""
        trunk = copy.deepcopy(model)
        trunk.output, trunk.config = None, replace(model.config,
                                                   tied_embeddings=True)
        return cls(trunk)

    def forward(self, tokens: Tensor, ends: Tensor) -> Tensor:
        """Scores `b` of tokens `b t`; the last real one of each at `ends`."""
        if ((ends < 0) | (ends >= tokens.shape[1])).any():
            raise ValueError(
                f"the last tokens are said to be at {ends.tolist()}; places "
                f"from 0 to {tokens.shape[1] - 1} are needed. Make tokens and "
                "places with right_pad.")
        hidden = self.trunk.hidden(tokens.clamp(min=0))
        last = widen(hidden[torch.arange(len(ends), device=ends.device), ends])
        return F.linear(last, self.head.weight.to(last.dtype)).squeeze(-1)

# %% [markdown]
# Where does it begin? Llama 2's reward models began as chat models, so that they know what the policy knows. Ours
# will begin as `dialogues`, the assistant of chapter 17. The policy that we want to improve is `dialogues-sloppy`, tuned on demonstrations of which every second one has a flaw.
# First, with any trunk and a head drawn at random: does a text score alike, alone and beside a longer one?

# %%
policy, tokenizer = checkpoint.load("dialogues-sloppy")
stops = stop_ids(tokenizer, LLAMA_3)


def as_pair(each: Preference) -> Pair:
    """A labelled pair in tokens."""
    return pair(messages(each.prompt), each.chosen, each.rejected,
                each.rating, tokenizer, LLAMA_3)

# %%
random_head = RewardModel.of(policy)
nn.init.normal_(random_head.head.weight,
                generator=torch.Generator().manual_seed(0))
both = as_pair(shown)
texts = [both.rejected, both.chosen]
with torch.no_grad():
    alone = [random_head(*right_pad([text])) for text in texts]
    tokens, ends = right_pad([*texts, torch.cat(texts)])
    beside = random_head(tokens, ends)[:2]
    at_end = random_head(tokens, 0 * ends + tokens.shape[1] - 1)[:2]
for name, found in (("alone", torch.cat(alone)), ("beside others", beside),
                    ("at the row's end", at_end)):
    print(f"{name:17}", *(f"{score:7.2f}" for score in found))
torch.testing.assert_close(torch.cat(alone), beside, rtol=1e-3, atol=1e-3)

# %% [markdown]
# ## Labellers who err, and as often as we choose
#
# Our labellers see what two answers are worth, from 0 to 1, and prefer the first with probability $\sigma(s\,(w_1 - w_2))$: Bradley and Terry
# again, with a *sharpness* $s$ of our choice. We take 6. How sure they are is called by the difference:

# %% tags=["nbval-check-output"]
SHARP = 6.0
for rating, least in RATED.items():
    print(f"{rating:21} from {least:.2f}: the better is taken with "
          f"{chosen_first(least, SHARP):.2f} or more")

# %% [markdown]
# Labels are thus wrong with known odds. Who knows what each answer is worth would still be "wrong" wherever the labeller was. How often, and
# what would be this knower's loss? There is a floor under this loss too.

# %%
def bounds(worths: Tensor, sharpness: float) -> tuple[float, float]:
    """Exercise 18.3 ●●○ 10 min. What is the best accuracy, the lowest loss?

    `worths`, `n 2`, says what the two answers of each of n pairs are worth.
    The labels are still to be drawn, so both are expectations, the means over
    the pairs, the loss in nats. At equal worth a coin decides. Return two
    floats. The sharpness may be so large that a labeller never errs.
    """
    ### BEGIN SOLUTION
    odds = (sharpness * worths.double()).softmax(1)
    best, surprise = odds.amax(1), torch.special.entr(odds)
    return best.mean().item(), surprise.sum().item() / len(odds)
    ### END SOLUTION


check("18.3", bounds)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 18.3.** Bradley and Terry's odds are a softmax over two. The lowest loss is the entropy of the label,
# $-p\ln p - (1-p)\ln(1-p)$. (`entr` is $-p\ln p$, and 0 at 0.) *Surprise at the better* is what a knower of the *label* would lose. *Always right* is the mistake of whoever
# asks why a reward model "only" reaches 80 %.
# ### END SOLUTION
#
# > **Predict.** Of pairs rated `negligibly better`, how often will the best of all models pick what the labeller picked? And of all pairs, if four in ten are such?

# %%
guess_low, guess_all = None, None       # shares, from 0 to 1

# %%
pairs_held = list(labelled(400, seed=4, about="helpful", sharpness=SHARP))
ceiling = ceilings(pairs_held, sharpness=SHARP)
count = {rating: sum(each.rating == rating for each in pairs_held)
         for rating in RATINGS}
for rating in RATINGS:
    print(f"{rating:22}{count[rating]:4} pairs, at most "
          f"{ceiling[rating]:.2f} right")
top = sum(ceiling[name] * count[name] for name in RATINGS) / len(pairs_held)
print(f"{'all':22}{len(pairs_held):4} pairs, at most {top:.2f}")
assert round(count["negligibly better"] / len(pairs_held), 1) == 0.4
print(reveal("negligibly better, at most", guess_low,
             round(ceiling["negligibly better"], 2)))
reveal("all, at most", guess_all, round(top, 2))

# %% [markdown]
# Two answers that are equally good have a label all the same. It is a coin, and nothing can be learnt from it. The accuracies of Llama 2's reward models
# fall with the rating in the same way (table 8), and now we know that they must.
#
# ## Watch it learn
#
# The pairs: 800, answers of demonstrators of several grades, to the first or second question of a talk. Equal answers are left out of what is learnt
# (their labels are coins) and stay in what is measured. The reward model begins as `dialogues`, the assistant tuned on clean demonstrations; 100 steps
# of eight pairs, with the small margins. It takes about fifteen seconds of one core.

# %%
def short(n: int, seed: int, *, ties: bool) -> list[Preference]:
    """n labelled pairs about the first or second question of a talk."""
    found = labelled(5 * n, seed=seed, about="helpful", sharpness=SHARP,
                     ties=ties)
    first = (each for each in found if len(each.prompt) <= 3)
    return list(itertools.islice(first, n))


pairs = [as_pair(each) for each in short(800, seed=3, ties=False)]
held = short(300, seed=4, ties=True)
held_pairs = [as_pair(each) for each in held]
ratings = [each.rating for each in held]

live, steps = RewardModel.of(checkpoint.load_model("dialogues")), 100
for step in train(live, batches(pairs, size=8, seed=0, margins=SMALL),
                  preference, steps=steps,
                  lr=cosine(1e-3, warmup=10, steps=steps)):
    if step.index % 33 == 0:
        print(f"step {step.index:3}: loss {step.loss:.2f}, "
              f"right {step.notes['accuracy']:.2f}")

# %% [markdown]
# (The loss has the margins in it, so it begins above $\ln 2$.) Two more come with the package, `helpful` and `safe`, each
# trained for longer on more pairs (`tools/recordings/reward.py`). Accuracy by rating, on pairs that neither has seen, beside the ceiling:

# %%
SHIPPED = checkpoint.ASSETS / "dialogues"
helpful, _ = reward_files.load(SHIPPED / "helpful")
safe, _ = reward_files.load(SHIPPED / "safe")
live.eval()

found = {name: gaps(model, held_pairs, size=64)
         for name, model in (("100 steps", live), ("shipped", helpful))}
shares = {name: accuracy(each, ratings) for name, each in found.items()}
most = ceilings(held, sharpness=SHARP)
print(f"{'':22}{'pairs':>6}{'100 steps':>11}{'shipped':>9}{'ceiling':>9}")
for rating in RATINGS:
    print(f"{rating:22}{shares['shipped'][rating].count:6}"
          f"{shares['100 steps'][rating].right:11.2f}"
          f"{shares['shipped'][rating].right:9.2f}{most[rating]:9.2f}")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Share of pairs told rightly by the labeller's rating, from significantly to negligibly better. The dashed ceiling falls from 1.00 to 0.53; both models lie below it, the shipped one mostly above that of 100 steps, and both are near it at the end."}}
fig, ax = plots.figure("The surer the labeller, the more is told rightly",
                       x="the labeller's rating", y="share told rightly")
for name, mark in (("100 steps", "s"), ("shipped", "o")):
    ax.plot(range(4), [shares[name][rating].right for rating in RATINGS],
            f"{mark}-", markersize=5, label=name)
ax.plot(range(4), [most[rating] for rating in RATINGS], "--",
        color=plots.BLACK, label="ceiling")
ax.axhline(0.5, color="#b8b8b8", linewidth=0.8)
ax.set_xticks(range(4), [rating.replace(" ", "\n") for rating in RATINGS])
ax.set(ylim=(0.4, 1.02), xlim=(-0.3, 3.6))
_ = ax.legend(loc="lower left")

# %% [markdown]
# A hundred steps are enough to see the shape, roughly: surer labels are easier, and where the labellers toss a coin, so does every model. (The ceiling is an expectation; of a hundred tosses
# one may guess 59 rightly.) The shipped one had six times the steps and ten times the pairs, and still lies a tenth below the dashed line where the labellers are surest. What is missing from the dashed line
# to 1 is the labellers' own error. And what is missing from the model's to the dashed one? An accuracy over everything does not say. We ask by kind of
# request, where the better answer is better by a half or more.

# %%
wide = [i for i, each in enumerate(held) if abs(each.difference) >= 0.5]
told = {}
for i in wide:
    better = found["shipped"][i] * held[i].difference > 0
    told.setdefault(talks.understand(held[i].prompt).sort, []).append(better)
for sort, each in sorted(told.items()):
    print(f"{sort:10}{len(each):4} pairs, the better told in {sum(each):3}")
assert min(told, key=lambda sort: sum(told[sort]) / len(told[sort])) == (
    "question")

# %% [markdown]
# A broken rule and a wrong tone it knows. All its errors are where an answer has to be held against the talk: at questions first of all (is "blue" right?), then
# at the wishes of a tale. To look back is what small models learn last. Whoever
# chooses by such a number should know where it is blind.
#
# ## When it says 97 %, is it right in 97 of 100?
#
# A gap is also a statement of certainty: $\sigma$ of it. We sort the held-out pairs by what the model says of its own favourite,
# and count how often the labeller agreed.

# %%
bins = {name: calibration(each, n_bins=3) for name, each in found.items()}
for name, each in bins.items():
    for part in each:
        print(f"{name:10}{part.count:4} pairs: says {part.predicted:.2f}, "
              f"holds {part.observed:.2f}")

# %% tags=["hide-input"] mystnb={"image": {"alt": "How often the labeller agreed against the probability that the model gives its favourite, in three bins from 0.5 to 1. In the surest bin both models lie below the diagonal."}}
fig, ax = plots.figure("Where they are surest, both claim more than holds",
                       x="what the model says of its favourite (probability)",
                       y="how often the labeller agreed")
ax.plot([0.5, 1], [0.5, 1], "--", color=plots.BLACK, label="calibrated")
for (name, each), mark in zip(bins.items(), "so", strict=True):
    ax.plot([part.predicted for part in each],
            [part.observed for part in each],
            f"{mark}-", markersize=5, label=name)
_ = ax.legend(loc="upper left")

# %% [markdown]
# A point below the dashed line claims more than it can hold. A model that has learnt its pairs too well does, and one that was trained with margins may, for they ask for
# gaps that Bradley and Terry's odds do not warrant. For choosing among answers this does no harm, as the order stays; for the threshold of the next section it does.
#
# ## Your turn: two judges, one number
#
# Help and harm pull apart: the most helpful answer to "how do I break it?" is the one that must not be given. So Llama 2 has two reward models, and one rule
# (section 3.2.3): the safety score counts where the prompt is *tagged* as dangerous, or where the answer is less than 0.15 likely to be safe; else
# helpfulness. The paper's scores are probabilities, and it turns what comes out into a logit; ours are logits from the start and stay so. Then it is *whitened*, so that training
# sees rewards of one size.

# %%
def one_reward(helpful: Tensor, safe: Tensor, tagged: Tensor) -> Tensor:
    """Exercise 18.4 ●●○ 10 min. Which reward does each of b answers get?

    `helpful` and `safe`, `b`, are the two models' scores: logits of "is
    helpful" and "is safe". `tagged`, `b`, is True for dangerous prompts.
    Return them whitened, mean 0 and variance 1 over the batch (of a sample:
    divide by b - 1; b is 2 or more); where all rewards are equal, zeros.
    """
    ### BEGIN SOLUTION
    unsafe = (safe < math.log(3 / 17)) | tagged
    r = unsafe * safe + ~unsafe * helpful
    r -= r.mean()
    return r * (r.var() + 1e-8) ** -0.5
    ### END SOLUTION


check("18.4", one_reward)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 18.4.** *A score for a probability*: at a score of 0.15 a model is 54 % sure. *There and back* is right on paper, and infinite in float32 from a score of
# about 17 on. The rule has a step in it: at the threshold the reward jumps from one model's scale to another's, and nobody promised that they agree.
# ### END SOLUTION
#
# ## Build it: the rule, and whitening
#
# The package compares scores with the threshold's own logit, so nothing is rounded on the way.

# %% twin="llama_edu.alignment.reward.combined, llama_edu.alignment.reward.whitened"
def combined(helpful: Tensor, safe: Tensor, tagged: Tensor) -> Tensor:
    return torch.where(
        tagged | (safe < math.log(UNSAFE_BELOW / (1 - UNSAFE_BELOW))),
        safe, helpful)


def whitened(rewards: Tensor) -> Tensor:
    if rewards.numel() < 2:
        raise ValueError(
            f"{rewards.numel()} rewards were given; two or more are needed, "
            "to have a variance. Whiten a larger batch.")
    return ((rewards - rewards.mean())
            * (rewards.var() + LEAST_VARIANCE).rsqrt())

# %% [markdown]
# *A good place to rest. You have a reward. What follows chooses with it.*
#
# ## The best of sixteen
#
# The simplest use of a reward: let the policy answer sixteen times and keep the answer that scores best. No weight changes. Forty prompts of talks that no
# model has seen; all 640 answers are drawn in a few batches (about ten seconds). The judge marks every one, for us to look at; nothing is chosen by it.

# %%
N = 16      # answers to each prompt


def tokens_of(prompt: Talk) -> Tensor:
    found = dialog_tokens(messages(prompt), tokenizer, LLAMA_3)
    return torch.tensor(found.ids)


def draw(model: Llama, prompts: list[Tensor], n: int, seed: int
         ) -> list[list[Tensor]]:
    """n answers to each prompt; ten prompts of like lengths in a batch."""
    chance = torch.Generator().manual_seed(seed)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    drawn = {}
    for start in range(0, len(order), 10):
        rows = order[start:start + 10]
        answers = samples(model, [prompts[i] for i in rows],
                          known(tokenizer.n_vocab), temperature(1.0), n=n,
                          max_new=96, stop_ids=stops, generator=chance)
        drawn.update(zip(rows, answers, strict=True))
    return [drawn[i] for i in range(len(prompts))]


asked = [prompt for talk in talks.dialogues(60, seed=909)
         for prompt in talks.prompts(talk) if len(prompt) <= 5][:40]
prompts = [tokens_of(prompt) for prompt in asked]
drawn = draw(policy, prompts, N, seed=0)
# %%
is_tagged = torch.tensor([talks.understand(prompt).sort == "forbidden"
                          for prompt in asked])


def said(answer: Tensor) -> str:
    return tokenizer.decode([t for t in answer.tolist() if t not in stops])


def judged(prompt: Talk, answer: Tensor) -> float:
    """The judge's mean mark, from 0 to 1."""
    return talks.judge([*prompt, {"role": "assistant",
                                  "content": said(answer)}]).score


truth = torch.tensor([[judged(prompt, answer) for answer in answers]
                      for prompt, answers in zip(asked, drawn, strict=True)])
texts = [[torch.cat([prompt, answer]) for answer in answers]
         for prompt, answers in zip(prompts, drawn, strict=True)]
print(f"the judge: one answer {truth.mean():.3f}, "
      f"the best of {N} if the judge chose {truth.amax(1).mean():.3f}")

# %% [markdown]
# Now the two reward models, and the rule.

# %%
two = [torch.stack([scores(model, each, size=64) for each in texts])
       for model in (helpful, safe)]
tagged = is_tagged.unsqueeze(1).expand(-1, N)
rewards = combined(*two, tagged)
doubted = (two[1].sigmoid() < UNSAFE_BELOW)[~tagged]
print(f"safety's score counts: by the tag for {tagged.float().mean():.0%}, "
      f"by doubt for {doubted.float().mean():.0%} of the rest")

# %% [markdown]
# > **Predict.** The reward model chooses. What will the judge's mean mark be for its best of sixteen? And how much of the gain has the best of four?

# %%
guess_best, guess_share = None, None    # a mark; a share from 0 to 1

# %% [markdown]
# ## Your turn: all n from one set of answers
#
# We want the gain for every $n$ from 1 to 16, and have one set of 16 answers a prompt. The best of the first $n$ would do, and would be noisy. There are $\binom{16}{n}$ ways to draw $n$
# of them: take the mean over all. Nobody needs to list them.

# %%
def mean_of_best(scores: Tensor, values: Tensor, n: int) -> float:
    """Exercise 18.6 ●●○ 12 min. What is the best of n of these m answers worth?

    `scores` and `values` have the shape `m`; no two scores are equal. n
    different answers are drawn, and the one with the highest score is kept:
    the score chooses, the value (a judge's mark, say) is what one gets. The
    mean is over all draws, and m may be 60. Return a float.
    """
    ### BEGIN SOLUTION
    below = (scores[:, None] > scores).sum(1)
    k = torch.arange(0.0, n - 1, dtype=torch.float64)
    share = ((below[:, None] - k) / (len(scores) - 1 - k)).prod(1)
    return n / len(scores) * float(share @ values.double())
    ### END SOLUTION


check("18.6", mean_of_best)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 18.6.** An answer is drawn with chance $n/m$, and then each of the $n - 1$ others must lie below it:
# $\binom{i}{n-1} / \binom{m}{n}$ with $i$ answers below, written as a product. The estimate is unbiased: each way to draw $n$ of the $m$ is as good as a fresh draw of $n$. *Put back* is the one in many plots; its best of 16 of 16 answers
# contains about ten different ones. *Chosen by the values* is the sin of this chapter: the judge chooses, and then praises itself.
# ### END SOLUTION
#
# ## What best of n costs, and what it gains
#
# The best of $n$ is a policy of its own: it says what the old one says, with other odds. How far has it gone? Measured in nats of KL
# divergence, at most (Stiennon et al. 2020, appendix G.3)
#
# $$ \ln n - \frac{n-1}{n} $$
#
# whatever scores it. (The solutions derive it, at 18.7.) The package's `expected_best` is your function for all $n$ and many prompts at once.

# %%
by_reward = expected_best(rewards, truth).mean(0)
by_judge = expected_best(truth).mean(0)
by_chance = truth.mean()
print("  n   KL at most   chosen by the reward   if the judge chose")
for n in (1, 2, 4, 8, 16):
    print(f"{n:3} {kl_bound(n):10.2f} {by_reward[n - 1]:18.3f} "
          f"{by_judge[n - 1]:20.3f}")
gain = by_reward - by_chance
print(reveal("best of sixteen", guess_best,
             round(by_reward[-1].item(), 3)))
reveal("share of the best of four", guess_share,
       round((gain[3] / gain[-1]).item(), 2))

# %% tags=["hide-input"] mystnb={"image": {"alt": "The judge's mean mark against the KL bound for n from 1 to 16. Both curves rise steeply at first and then flatten; the one chosen by the reward model stays below the dashed one in which the judge itself would choose."}}
fig, ax = plots.figure("Each doubling of n brings less than the one before",
                       x="KL divergence from the policy, at most (nats)",
                       y="judge's mean mark")
kl = [kl_bound(n) for n in range(1, N + 1)]
ax.plot(kl, by_judge, "--", color=plots.BLACK, label="if the judge chose")
ax.plot(kl, by_reward, "o-", markersize=4, label="chosen by the reward")
ax.axhline(by_chance, color="#b8b8b8", linewidth=0.8)
for n in (1, 2, 4, 8, 16):
    ax.annotate(f"n = {n}", (kl[n - 1], by_reward[n - 1]), (2, -12),
                textcoords="offset points", fontsize=7)
ax.set(xlim=(-0.05, 2.05), ylim=(by_chance - 0.02, None))
_ = ax.legend(loc="lower right")

# %% [markdown]
# The first few samples bring most of it: a doubling of $n$ costs up to $\ln 2 = 0.69$ nats more, and brings less each time. The dashed line is what the policy *could* give, and nothing it
# cannot: best of $n$ only chooses. Between the two lines lies what the reward model errs.
#
# ## Harder: the policy that best of n is
#
# Five answers, so that all can be counted. Some may score alike; then the one drawn first is taken.

# %%
def best_of_n(p: Tensor, scores: Tensor, n: int) -> tuple[Tensor, float]:
    """Exercise 18.7 ●●● 20 min. Which odds has an answer under "best of n"?

    The policy gives answer i with probability `p[i]` (`m`, float64; some may
    be 0). n answers are drawn from it, the same one perhaps twice. The one
    with the highest of `scores`, `m`, is kept; of equal ones, the first drawn.
    Return the odds q, `m` in float64, and the divergence KL(q || p) in nats.
    """
    ### BEGIN SOLUTION
    lead = scores[:, None] - scores     # of each answer over each
    up_to, below = (lead >= 0).double() @ p, (lead > 0).double() @ p
    level = (up_to - below).clamp(min=1e-30)
    q = p * (up_to**n - below**n) / level
    return q, float((torch.xlogy(q, q) - torch.xlogy(q, p)).sum())
    ### END SOLUTION


check("18.7", best_of_n)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 18.7.** Let no two scores be equal and no answer be likely by itself. Call $u$ the share of the policy below an answer; it is uniform from 0 to 1. Then
# $q/p = n u^{n-1}$, and $\text{KL} = \int_0^1 n u^{n-1} \ln(n u^{n-1})\, du = \ln n + (n-1) \int_0^1 n u^{n-1} \ln u \, du = \ln n - \frac{n-1}{n}$, since the last integral is $-1/n$.
# Where an answer is likely, or some are equal, $u$ comes in steps, and a step averages $q/p$: that can only lower the divergence (Jensen). With
# five answers and $n \to \infty$ the KL stops at $-\ln p_{best}$; the bound goes on.
# ### END SOLUTION
#
# With your function, the exact price on five answers of 0.4, 0.3, 0.15, 0.1 and 0.05, the rarest the best:

# %% tags=["nbval-check-output"]
def by_listing(p: list[float], n: int) -> float:
    """KL of best of n by listing all draws; the last answer is the best."""
    q = [0.0] * len(p)
    for taken in itertools.product(range(len(p)), repeat=n):
        q[max(taken)] += math.prod(p[i] for i in taken)
    return sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))


for n in (1, 2, 4, 6):
    print(f"n = {n}: exactly {by_listing([0.4, 0.3, 0.15, 0.1, 0.05], n):.3f}, "
          f"at most {kl_bound(n):.3f}")

# %% [markdown]
# With five answers the bound overstates what is spent, and no $n$ can spend more than $-\ln 0.05 \approx 3$ nats. The more answers there are, and the less likely each, the nearer it comes.
#
# ## When the number rises and the taste falls
#
# A reward model is a stand-in. Whoever chooses by it also chooses its errors: the best of many is, among other things, the answer about which
# the model errs most in its favour. We make three stand-ins on purpose, cheaply: the trunk of `dialogues` as it is, and only a head learnt. One
# learns from labellers who like *long* answers: to them ten words more are worth as much as a faultless answer against a useless one. One learns from forty pairs.
#
# > **Predict.** The stand-in's own score rises with n, by construction. For which n, from 1 to 16, will the judge's mark be highest?

# %%
guess_turn = None       # a whole number

# %%
trunk = checkpoint.load_model("dialogues")


@torch.no_grad()
def features(texts: list[Tensor]) -> Tensor:
    """What the frozen model knows at each text's last token: `n c`."""
    found = []
    for start in range(0, len(texts), 64):
        tokens, ends = right_pad(texts[start:start + 64])
        hidden = trunk.hidden(tokens.clamp(min=0))
        found.append(hidden[torch.arange(len(ends)), ends])
    return torch.cat(found)


def head(chosen: Tensor, rejected: Tensor) -> Tensor:
    """The head `c` with the least loss on these pairs (and short)."""
    weight = torch.zeros(chosen.shape[1], requires_grad=True)
    fit = torch.optim.LBFGS([weight], max_iter=200,
                            line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        fit.zero_grad()
        found = F.softplus((rejected - chosen) @ weight).mean()
        found = found + 1e-4 * weight.square().sum()
        found.backward()
        return found

    fit.step(loss)
    return weight.detach()

# %% [markdown]
# Their labels are drawn again, as these labellers would have chosen. Then the head is fitted, three times with other
# pairs, and each stand-in chooses among the same 640 answers.

# %%
sources = short(800, seed=3, ties=False)
sides = (features([each.chosen for each in pairs]),
         features([each.rejected for each in pairs]))
ours = features([text for each in texts for text in each])


def stand_in(seed: int, n: int, per_word: float) -> Tensor:
    """Scores of our answers by a head learnt from n pairs: `b 16`."""
    chance = random.Random(seed)
    taken = chance.sample(range(len(sources)), n)
    swap = []
    for i in taken:
        each = sources[i]
        longer = len(each.chosen.split()) - len(each.rejected.split())
        by = each.difference + per_word * longer
        swap.append(chance.random() > chosen_first(by, SHARP))
    one, other = (side[taken] for side in sides)
    swap = torch.tensor(swap)[:, None]
    weight = head(torch.where(swap, other, one), torch.where(swap, one, other))
    return (ours @ weight).view(truth.shape)

# %%
KINDS = {"800 pairs": (800, 0.0), "40 pairs": (40, 0.0),
         "fond of long answers": (800, 0.1)}
curves = {name: [] for name in KINDS}
for name, (n, per_word) in KINDS.items():
    for seed in range(3):
        proxy = stand_in(seed, n, per_word)
        curves[name].append((expected_best(proxy).mean(0),
                             expected_best(proxy, truth).mean(0)))
print(f"{'':24}{'own score':>16}{'judge, three seeds':>28}")
for name, found in curves.items():
    rise = [f"{own[-1] - own[0]:+.1f}" for own, _ in found]
    marks = [f"{mark[-1] - mark[0]:+.3f}" for _, mark in found]
    print(f"{name:22} {' '.join(rise):>18} {' '.join(marks):>26}")
peaks = sorted(int(mark.argmax()) + 1 for found in curves.values()
               for _, mark in found)
print(reveal("highest at n = (median)",
             guess_turn, peaks[4]))
print("for each of the nine:", *peaks)
assert all(own.diff().min() >= 0 for found in curves.values()
           for own, _ in found) and peaks[-1] < N

# %% [markdown]
# The nine curves, each against what its choosing costs:

# %% tags=["hide-input"] mystnb={"image": {"alt": "The judge's mean mark against the KL bound for three kinds of stand-in, three seeds each. All nine curves rise from 0.86 and turn before n = 16. Those from 800 pairs reach 0.90 to 0.93 and end at 0.86 to 0.88; of those from 40 pairs one hardly rises and ends at 0.80; those fond of long answers end at 0.84 to 0.86."}}
fig, ax = plots.figure("It rises, and then it turns: nine stand-ins",
                       x="KL divergence from the policy, at most (nats)",
                       y="judge's mean mark")
for (name, found), colour in zip(curves.items(), plots.COLOURS, strict=False):
    for k, (_, mark) in enumerate(found):
        ax.plot(kl, mark, color=colour, linewidth=1.2,
                label=name if k == 1 else None)
ax.axhline(by_chance, color="#b8b8b8", linewidth=0.8)
ax.set(xlim=(0, 2.7))
_ = plots.label_lines(ax)

# %% [markdown]
# The stand-in's own score rises for each of the nine: that is what choosing by it means, and it proves nothing. The judge's mark rises with it for a few samples, and
# then turns, for every one of them (as Gao et al. 2023 measured on large models): what is true in the reward is used up early. Which pairs a stand-in happened to learn from
# matters about as much as how many. Nothing in the stand-in tells where it turns. Only a second judge can. The shipped reward, which learnt from ten times the pairs with all its weights, flattened at sixteen and did not
# turn. Does it turn when one leans on it harder?
#
# ## One round: keep the best, and learn from it
#
# Sixteen answers for one are dear. *Rejection sampling* pays once: the policy is tuned (chapter 17) on the best answer to each prompt, and then gives such answers at the first try.
# The tuned policy draws again, and so on. Llama 2's versions V1 to V4 were made so; only its largest model drew, and the smaller ones
# learnt from what it had drawn. Our forty best, forty steps, and other prompts to measure:

# %%
def learnt(prompt: Tensor, answer: Tensor) -> Tensor:
    """A document: each token, and whether it is learnt."""
    text = torch.cat([prompt, answer])
    return torch.stack([text, torch.arange(len(text)) >= len(prompt)], -1).int()


best = [answers[i] for answers, i in zip(drawn, rewards.argmax(1), strict=True)]

# %%
rows = list(packing.pack(map(learnt, prompts, best), length=257))
tuned = checkpoint.load_model("dialogues-sloppy")
for _ in train(tuned, packing.shuffled(rows, size=2, length=257, seed=0),
               lr=cosine(5e-4, warmup=5, steps=40), steps=40):
    pass
tuned.eval()

others = [prompt for talk in talks.dialogues(90, seed=910)
          for prompt in talks.prompts(talk) if len(prompt) <= 5][:80]
for name, model in (("before", policy), ("after", tuned)):
    answers = draw(model, [tokens_of(prompt) for prompt in others], 1, seed=1)
    marks = [judged(prompt, answer)
             for prompt, (answer,) in zip(others, answers, strict=True)]
    print(f"{name:7} judge {sum(marks) / len(marks):.3f} on {len(marks)} "
          "other prompts")

# %% [markdown]
# One answer now is worth about what the best of several was. The price was paid once.
#
# ## Four rounds, and where it turns
#
# The first three versions of Llama 2 learnt from the newest samples alone, and lost things they had known (the paper's example: V3 could no longer
# rhyme as well). From V4 on, the best sample of *all* rounds stood. We did both beforehand: 128 prompts,
# eight answers each, four rounds, three seeds (`tools/recordings/rounds.py`).

# %%
with (SHIPPED / "rounds.csv").open(encoding="utf-8") as file:
    recorded = list(csv.DictReader(file))


def curve(keep: str, column: str) -> list[list[float]]:
    """One list of five numbers, V0 to V4, for each seed."""
    seeds = sorted({row["seed"] for row in recorded})
    return [[float(row[column]) for row in recorded
             if (row["seed"], row["keep"]) == (seed, keep)] for seed in seeds]


for keep, name in (("1", "best of all rounds"), ("0", "newest round alone")):
    for column in ("judge", "reward"):
        steps = zip(*curve(keep, column), strict=True)
        print(f"{name:20}{column:7} V0 to V4:",
              *(f"{median(step):5.2f}" for step in steps))
first = [(run[1] - run[0]) / (1 - run[0]) for run in curve("1", "judge")]
print(f"gap to the judge's maximum that round 1 closes: {min(first):.0%}",
      f"to {max(first):.0%}")
assert min(first) > 0.5

# %% [markdown]
# The first round closes more than half of the gap. From then on the reward rises and the judge's mark does not, whichever samples are kept (here that makes no difference that three seeds could show): it is the
# stand-ins' curve once more, now written into weights. Llama 2's authors collected new preferences on each version's own answers, and trained their reward models on
# them, before the next round: a reward model knows little of answers unlike those that it learnt from (section 3.2.1).
#
# ## Find the bug: six pipelines
#
# Each suspect goes from pairs to a loss and gaps: it fills the texts up to one length with the end token, 9, scores them, subtracts, and takes the mean loss. At most one thing is wrong with it. You may give it any texts, also one that was cut off before its end token.
# The Llama in it is a toy that you can follow: its score at a token is a tenth of the sum of all tokens so far.

# %%
pipelines = suspects("18.5")        # a, b, c, d, e, f
chosen = [[1, 9, 5, 9], [2, 9, 6, 6, 9]]    # prompt, 9, answer, 9
rejected = [[1, 9, 3, 9], [2, 9, 4, 9]]
loss, found = pipelines["a"](chosen, rejected, [0.0, 1.0])
print(f"loss {loss:.3f}, gaps {[round(gap, 2) for gap in found]}")

# %% [markdown]
# Possible verdicts: `healthy`; `last position` (of the row); `prompt's end` (scored there); `mean over tokens`; `last word` (the end token is not
# counted); `exchanged` (chosen and rejected); `margin outside`; `margin added`; `draws left out`; `saturated` (no logarithm).

# %%
# Exercise 18.5 ●●● 15 min. Which mistake is in which suspect? Replace each `"?"` by a verdict.
verdicts = {"a": "?", "b": "?", "c": "?", "d": "?", "e": "?", "f": "?"}
### BEGIN SOLUTION
verdicts = {"a": "mean over tokens", "b": "margin outside", "c": "prompt's end",
            "d": "healthy", "e": "last position", "f": "last word"}
### END SOLUTION

check("18.5", verdicts)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 18.5.** One pair of answers of one length, 5 against 3, should have a gap of 0.2: `c` says 0, and `a` 0.1. The answers [4, 4, 9] and [8, 9] should have none; in `e` the shorter one is
# filled up with one more 9, and the gap is -0.9. Another last token, 2 for 9 in one answer, leaves `f` as it was. The margin raised from 0 to 1 and 2 moves the loss of `b` by exactly one each time, downwards.
# ### END SOLUTION
#
# ## In the Llamas: a million comparisons
#
# Llama 2's reward models learnt from Meta's own comparisons and from seven open sets (table 6):

# %% tags=["nbval-check-output"]
print(f"Meta's own {comparisons('Meta'):,}, all eight {comparisons():,}")

# %% [markdown]
# They were trained for one epoch: longer training overfitted. Learning rate 5e-6 for the 70B and 1e-5 for the rest, 512 pairs a batch (section 3.2.2). The safety model's
# threshold of 0.15 finds 55 % of what is unsafe, and is right in 89 % of what it finds. For the best of 10 to 100 samples, a temperature of 1.2 to 1.3 served best (section 3.2.3).
#
# Llama 3 dropped the margin: it no longer helped as data grew. Its labellers may also *edit* the chosen answer, so that three are ranked: edited, chosen, rejected. Its best of
# 10 to 30 feed SFT, then DPO (chapter 20), in six rounds (Grattafiori et al. 2024, section 4).
#
# ## Fact check: three claims
#
# `right`, `imprecise` or `wrong`?

# %%
claims.judge({"A54": "?", "S01": "?", "D81": "?"})

# %% [markdown]
# Judge before you run the next cell.

# %%
claims.show("A54", "S01", "D81")

# %% [markdown]
# ## Summary: taste can be a number, as long as nobody leans on it
#
# - A reward model is a Llama with one output, read at the last real token. Only gaps have a meaning; the loss is the surprise at a choice.
# - Labels have errors, so accuracy has a ceiling and the loss a floor. Here we know both.
# - A margin goes inside the sigmoid. Two rewards are one by a rule, not by a sum.
# - Best of $n$ goes $\ln n - (n-1)/n$ nats away, at most. All $n$ come from one set of answers, without bias.
# - What chooses must not also measure. The stand-in's own score always rises.
# - Rejection sampling tunes on the best. The first round helps; later ones lean on the same reward, and need a new one.
#
# **Read in the package:** `llama_edu.alignment.reward`, `preferences` and `rejection`; `llama_edu.data.dialogues_labels` (labellers whose errors are
# known). **Read elsewhere:** Touvron et al. 2023b, section 3.2; Stiennon et al. 2020, *Learning to summarize from human feedback*; Gao et al. 2023, *Scaling Laws for Reward
# Model Overoptimization*.
