# %% [markdown]
# # 19 · PPO: what does the clip hold back?
#
# **The question.** A model gave an answer of twenty words, and a reward model says that it was worth 0.7. Which of the twenty words deserved it? Rejection sampling
# (chapter 18) does not ask: it keeps the best answers whole. *Proximal policy optimisation* asks every token, learns from bad answers as well as from good ones, and has
# four devices that hold it back. What does each of them hold back, and what happens without it?
#
# | you will build | you need | minutes |
# |---|---|---|
# | a price for every token, advantages, the clip, PPO and its cousin without a critic, GRPO | chapters 07, 08, 17 and 18 | 120 |

# %%
import copy
import csv
import textwrap
from collections.abc import Collection, Iterator, Sequence
from statistics import mean, median

import torch
from torch import Tensor, nn

from llama_edu import checkpoint, claims, plots
from llama_edu.alignment import reward_files
from llama_edu.alignment.exam import marks, messages, replies
from llama_edu.alignment.grpo import BETA
from llama_edu.alignment.ppo import (CLIP, VALUE_WEIGHT, advantages, answered,
                                     clipped, clipped_values, cut,
                                     token_rewards, values)
from llama_edu.alignment.reward import (RewardModel, combined, scores,
                                        whitened)
from llama_edu.alignment.rollouts import divergence
from llama_edu.data import dialogues as talks
from llama_edu.exercises import check, hint, reveal, suspects
from llama_edu.family.accounting import parameters
from llama_edu.family.releases import release
from llama_edu.losses import Batch, Loss, learnt_log_probs
from llama_edu.model import Llama
from llama_edu.prompts import LLAMA_3, dialog_tokens
from llama_edu.prompts.dialog import stop_ids
from llama_edu.sampling import temperature
from llama_edu.training_loop import train

plots.use_style()
torch.set_num_threads(1)  # the matrices are small; one thread loses little

# %% [markdown]
# ## By hand: three answers
#
# A policy knows three answers, which it gives with 0.5, 0.3 and 0.2. They are worth 1, 0 and 0.5. We want the *expected* reward to rise. Its gradient by
# the logits can be written down, for here all answers can be counted.

# %% tags=["nbval-check-output"]
p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
worth = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)

logits = p.log().requires_grad_(True)
(logits.softmax(0) @ worth).backward()
print("expected reward", f"{p @ worth:.2f}")
print("its gradient   ", *(f"{each:6.3f}" for each in logits.grad))

# %% [markdown]
# Of texts there are too many to count. But one can *draw* an answer $y$ and take $r(y)\, \nabla \ln p(y)$: its mean is the same gradient (Williams 1992).
# For a softmax, $\nabla \ln p(y)$ is one-hot of $y$ less $p$.

# %% tags=["nbval-check-output"]
chance, rewards = p.tolist(), worth.tolist()


def sampled(baseline: float) -> tuple[list[float], float]:
    """The mean of one sample's gradient, and its variance over samples."""
    found = [[(rewards[y] - baseline) * ((i == y) - chance[i])
              for i in range(3)] for y in range(3)]
    middle = [sum(chance[y] * found[y][i] for y in range(3))
              for i in range(3)]
    noise = sum(chance[y] * (found[y][i] - middle[i])**2
                for y in range(3) for i in range(3))
    return middle, noise


for baseline in (0.0, 0.6, 10.0):
    middle, noise = sampled(baseline)
    print(f"baseline {baseline:4.1f}: mean",
          *(f"{each:6.3f}" for each in middle), f" variance {noise:7.3f}")

# %% [markdown]
# Whatever is taken off the reward, the mean stays: $\sum_y p(y)\, \nabla \ln p(y) = 0$. The *noise* does not stay. What one takes off is a *baseline*, and reward less
# baseline is an *advantage*: how much better was this than expected? At a baseline of 0.6, the expected reward, the noise is a good deal less than without. At 10, where every answer is
# blamed, it is enormous.
#
# ## The idea: four devices
#
# PPO (Schulman et al. 2017; for language models Ouyang et al. 2022) reads an answer as a game. The state is the text so far, an action is the next token. The devices:
#
# 1. **A price.** The policy pays for every nat by which it leaves a *reference*, the model from which it began. Without it, the reward model's errors are found and used (chapter 18).
# 2. **A critic** says at every token what to expect. It is the baseline, and it passes the score, which comes at the end, back to the tokens that made the difference.
# 3. **A clip.** Answers are dear, so several steps are made with the same ones. But after one step they are no longer the policy's own. They are weighed by the *ratio* of their probabilities
#    now and then, and where that has gone too far, nothing more is to be gained.
# 4. **Whitening.** Advantages get mean 0 and variance 1, so that a step's size does not depend on the reward's scale.
#
# ## Your turn: who pays, and where
#
# The first device. For a drawn token, $-\beta\,(\ln p - \ln q)$, with $p$ the policy's and $q$ the reference's probability of it. The mean of $\ln p - \ln q$ over what the policy draws
# is the KL divergence. `hint("19.1")` gives one hint more at each call. The solutions are in [their own notebook](../solutions/19_ppo.ipynb).

# %%
def rewards_of(scores: Tensor, log_probs: Tensor, reference: Tensor,
               acts: Tensor, beta: float) -> Tensor:
    """Exercise 19.1 ●●○ 10 min. Which reward does every token get?

    `scores`, `b`, are those of whole answers. `log_probs` and `reference`,
    `b t`, say what policy and reference thought of each token, in nats; the
    numbers outside the answers mean nothing. `acts`, `b t`, is True on an
    answer, which has a token or more, without gaps. Return `b t`: each drawn
    token pays, the score comes where the answer is over, and 0 elsewhere.
    """
    ### BEGIN SOLUTION
    last = acts & (acts.flip(1).cumsum(1).flip(1) == 1)
    return -beta * (log_probs - reference) * acts + scores[:, None] * last
    ### END SOLUTION


check("19.1", rewards_of)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 19.1.** `acts.flip(1).cumsum(1).flip(1)` counts the drawn tokens from here on; at the last one it is 1, and so it is behind it, hence the `&`. *Never below zero* (k3) has the same
# mean as the plain difference and less noise, but as a *reward* it would punish both ways.
# ### END SOLUTION
#
# ## By hand: who earned it?
#
# Four tokens, and a score of 1 at the end. A critic expected 0.2 at first, and 0.8 after the second token. Where did it get better than expected?

# %% tags=["nbval-check-output"]
expected, got = [0.2, 0.2, 0.8, 0.8], [0.0, 0.0, 0.0, 1.0]
after = [*expected[1:], 0.0]            # behind the end nothing is expected
surprise = [r + v_next - v
            for r, v_next, v in zip(got, after, expected, strict=True)]
print("surprise", *(f"{each:5.2f}" for each in surprise))
print("sum", f"{sum(surprise):.2f}", "= score less what was first expected")

# %% [markdown]
# The second token did it: after it the critic expected more. Its *surprise*, $\delta_t = r_t + V_{t+1} - V_t$, is 0.6, though the score itself came two tokens later. If the critic
# were perfect, surprises would be all one needs. It is not, so later surprises are credited to earlier tokens as well, shortened by the factor $\lambda$ at each step (*generalised advantage estimation*,
# Schulman et al. 2016, eq. 16). There may be a discount $\gamma$ for what comes later; in answers it is 1.
#
# $$ A_t = \delta_t + (\gamma\lambda)\,\delta_{t+1} + (\gamma\lambda)^2\,\delta_{t+2} + \dots \qquad \delta_t = r_t + \gamma V_{t+1} - V_t $$
#
# ## Your turn: better than expected

# %%
def gae(rewards: Tensor, values: Tensor, acts: Tensor, discount: float,
        lam: float) -> Tensor:
    """Exercise 19.2 ●●○ 15 min. How much better was each token than expected?

    All are `b t`. `values[:, i]` is what the critic expects before the token
    with the reward `rewards[:, i]`. `acts` is True on an answer, which has no
    gaps; behind it nothing follows, and the numbers outside the answers, of
    values and of rewards, mean nothing. Return the advantages, `b t`, 0 there.
    """
    ### BEGIN SOLUTION
    found, after = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    following = torch.zeros_like(after)
    for i in reversed(range(rewards.shape[1])):
        surprise = rewards[:, i] + discount * following - values[:, i]
        after = (surprise + discount * lam * after) * acts[:, i]
        following = values[:, i] * acts[:, i]
        found[:, i] = after
    return found
    ### END SOLUTION


check("19.2", gae)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 19.2.** With $\lambda = 1$ all values but the first cancel: what is left is the return less $V_t$, without bias and with the noise of a whole answer. With $\lambda = 0$ each token has
# its own surprise: little noise, and as wrong as the critic. *Values behind the answer* is the mistake that padding invites: the critic says something there as well.
# ### END SOLUTION
#
# ## Build it: whitening
#
# The package's `token_rewards` and `advantages` do what your two functions do. Whitening is over the drawn tokens of the whole batch:

# %% twin="llama_edu.alignment.ppo.spread"
def spread(found: Tensor, acts: Tensor) -> Tensor:
    return torch.zeros_like(found).masked_scatter(acts, whitened(found[acts]))

# %% [markdown]
# `advantages` returns a second thing, the *return*: advantage plus value, which is what the critic should have expected. It learns from that. Where nothing else is said, $\gamma$ is 1 and $\lambda$ is 0.95.
#
# ## The clip
#
# Say that an answer was good, and we step. It gets likelier. We step again with the same answer, and again: nothing in $r \nabla \ln p$ ever stops. The weight
# $\rho = p_{now} / p_{then}$ makes the answer count as it would if it were drawn now, and so makes it worse: it grows with every step. PPO promises itself less:
#
# $$ L = -\min\big(\rho A,\ \text{clamp}(\rho,\, 1 - \epsilon,\, 1 + \epsilon)\, A\big) $$

# %% [markdown]
# > **Predict.** A bad token has, by some other token's fault, become *likelier*: the ratio is 1.5, the advantage -1. Does its gradient still pull?

# %%
guess_pull = None       # "yes" or "no"

# %% [markdown]
# (Set your guess, then look.)

# %%
reveal("does it pull", guess_pull, "yes")

# %% [markdown]
# The clip takes gains away and never losses: whoever has gone astray is always called back. That is why there is a minimum in it, and not a clamp alone.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels: the objective against the ratio from 0 to 2, with a dot at a ratio of 1, where one starts. For a good token the line rises to 1.2 and is flat from the ratio 1.2 on. For a bad token it is flat at -0.8 up to the ratio 0.8 and falls to -2 from there on."}}
fig, axes = plots.figure("Nothing more is to be gained beyond the clip",
                         x="ratio: probability now / then",
                         y="objective", columns=2)
axes[0].plot([0, 1.2, 2], [0, 1.2, 1.2])
axes[1].plot([0, 0.8, 2], [-0.8, -0.8, -2])
for ax, start, name in zip(axes, (1, -1), ("a good token, A = 1",
                                           "a bad token, A = -1"), strict=True):
    ax.plot([1], [start], "o", color=plots.ORANGE)
    ax.annotate("here one starts", (1, start), (0.85, start / 2),
                color=plots.ORANGE)
    ax.set_title(name, fontsize=9, loc="center")
    _ = ax.set(ylim=(-2.2, 2.2))

# %% [markdown]
# ## Your turn: the clip

# %%
def clipped_loss(now: Tensor, before: Tensor, advantages: Tensor,
                 acts: Tensor, clip: float) -> Tensor:
    """Exercise 19.3 ●●○ 10 min. What is the mean loss of the drawn tokens?

    All are `b t`: log-probabilities now and when the answers were drawn, in
    nats; advantages; and where a token was drawn. The numbers elsewhere mean
    nothing. The ratio may go by `clip`. Each token that was drawn counts
    alike. Return a tensor without axes.
    """
    ### BEGIN SOLUTION
    ratio = (now - before).exp()
    held = ratio.clamp(1 - clip, 1 + clip)
    loss = -torch.minimum(ratio * advantages, held * advantages)
    return (loss * acts).sum() / acts.sum()
    ### END SOLUTION


check("19.3", clipped_loss)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 19.3.** *Always clipped* passes every test in which all tokens move as they should. *The mean of answers* is not wrong in itself: GRPO's paper does so, and then a token of a long
# answer counts less. One has to know which.
# ### END SOLUTION
#
# ## Build it: the loss, and where batches come from
#
# The critic's values are clipped in the same spirit: of two squared errors, the value's own and that of the value if it had moved by `clip` at most, `clipped_values` takes the larger. A critic is a reward model that is asked at every token; `ActorCritic` holds both, so that the one training loop of this course can train them.

# %% twin="llama_edu.alignment.ppo.ActorCritic"
class ActorCritic(nn.Module):
    """Who acts, and who says what to expect."""

    def __init__(self, policy: Llama, critic: RewardModel):
        super().__init__()
        self.policy, self.critic = policy, critic

# %% twin="llama_edu.alignment.ppo.ppo"
def ppo(model: ActorCritic, batch: Batch, *, clip: float = CLIP,
        value_weight: float = VALUE_WEIGHT) -> Loss:
    acts = batch["learn"][:, 1:]
    log_ratio = learnt_log_probs(model.policy, batch) - batch["log_probs"]
    found = values(model.critic, batch["tokens"][:, :-1])
    actor = clipped(log_ratio, batch["advantages"], clip) * acts
    critic = clipped_values(found, batch["values"], batch["returns"],
                            clip) * acts
    beyond = ((log_ratio.detach().exp() - 1).abs() > clip) & acts
    return Loss((actor + value_weight * critic).sum(), int(acts.sum()), {
        "clipped": beyond.sum().item(),
        "moved": -log_ratio.detach().sum().item(),
        "value": critic.detach().sum().item()})

# %% [markdown]
# A batch has `tokens` and `learn`, `b t`, and what is known of each token that *follows* one, `b t-1`: its log-probability when it was drawn, its value, advantage and return. Three notes are kept of each step: the share of tokens beyond the clip, how far $\ln p$ has *moved*, and the critic's loss.
#
# In every other chapter the batches stood on a disk. Here the model makes them. That is a generator: when the loop asks for the next batch, the policy, as it is by then, answers. `answered` has it draw `size` answers, asks the reference about them and the reward; `cut` deals them out in `pieces`, one for each step.

# %%
def experience(model: ActorCritic, reference: Llama,
               prompts: Sequence[Tensor], grade: object, *, beta: float,
               size: int, stop_ids: Collection[int],
               generator: torch.Generator, history: list) -> Iterator[Batch]:
    """Answers of the policy, each learnt once, in four pieces."""
    for drawn in answered(model.policy, reference, prompts, grade, size=size,
                          n=1, max_new=96, stop_ids=stop_ids, pieces=4,
                          generator=generator):
        far = divergence(drawn, drawn["reference"]).mean().item()
        history.append((drawn["scores"].mean().item(), far))
        acts = drawn["learn"][:, 1:]
        with torch.no_grad():
            expected = values(model.critic, drawn["tokens"][:, :-1]) * acts
        got = token_rewards(drawn["scores"], drawn["log_probs"],
                            drawn["reference"], acts, beta=beta)
        found, returns = advantages(got, expected, acts)
        yield from cut(drawn | {
            "values": expected, "returns": returns,
            "advantages": spread(found, acts)},
            epochs=1, pieces=4, generator=generator)

# %% [markdown]
# *A good place to rest. All devices are built. What follows lets them run.*
#
# ## Watch it learn
#
# The policy begins as `dialogues-sloppy` of chapter 17, the reference stays it. The reward is Llama 2's rule over the two shipped reward models (chapter 18). The critic begins as the policy with a
# head of zeros: it expects nothing yet. The judge, whom nobody asks in training, marks answers to other prompts.

# %%
SHIPPED = checkpoint.ASSETS / "dialogues"
judges = [reward_files.load(SHIPPED / about)[0]
          for about in ("helpful", "safe")]
reference, tokenizer = checkpoint.load("dialogues-sloppy")
stops = stop_ids(tokenizer, LLAMA_3)


def short_talks(n: int, seed: int) -> list[talks.Talk]:
    found = (prompt for talk in talks.dialogues(n, seed=seed)
             for prompt in talks.prompts(talk) if len(prompt) <= 4)
    return [prompt for prompt, _ in zip(found, range(n), strict=False)]


def tokens_of(talk: talks.Talk) -> Tensor:
    return torch.tensor(dialog_tokens(messages(talk), tokenizer, LLAMA_3).ids)


asked, others = short_talks(128, seed=1000), short_talks(120, seed=2000)
prompts = [tokens_of(talk) for talk in asked]
is_tagged = {tuple(tokens_of(talk).tolist()):
             talks.understand(talk).sort == "forbidden"
             for talk in [*asked, *others]}

# %% [markdown]
# The reward reads a prompt with its answer; tagged are the prompts that ask for what is forbidden.

# %%
def grade(prompts: Sequence[Tensor], answers: Sequence[Tensor]) -> Tensor:
    """The reward of each answer, `b`."""
    texts = [torch.cat(both) for both in zip(prompts, answers, strict=True)]
    tagged = [is_tagged[tuple(prompt.tolist())] for prompt in prompts]
    return combined(*(scores(model, texts, size=64) for model in judges),
                    torch.tensor(tagged))


def said_by(model: Llama) -> list[str]:
    return replies(model, tokenizer, LLAMA_3, others, temperature(1.0),
                   generator=torch.Generator().manual_seed(5))

# %%
policy = copy.deepcopy(reference)
both = ActorCritic(policy, RewardModel.of(policy))
history, steps = [], 40
batches = experience(both, reference, prompts, grade, beta=0.05, size=64,
                     stop_ids=stops, history=history,
                     generator=torch.Generator().manual_seed(0))
before = said_by(reference)
for step in train(both, batches, ppo, steps=steps,
                  lr=lambda i: 3e-4 * min(1, (i + 1) / 8)):
    if step.index % 8 == 7:
        reward, far = history[-1]
        print(f"step {step.index + 1:2}: reward {reward:5.2f}, KL "
              f"{far:5.2f}, beyond the clip {step.notes['clipped']:.0%}")
after = said_by(policy)

# %% [markdown]
# And the judge? Three of the answers that changed most:

# %%
start, end = (marks(others, said)["score"] for said in (before, after))
print(f"the judge: {start:.2f} before, {end:.2f} after "
      f"{steps // 4} times 64 answers")
worth = [[talks.judge([*talk, {"role": "assistant", "content": text}]).score
          for talk, text in zip(others, said, strict=True)]
         for said in (before, after)]
most = sorted(range(len(others)), key=lambda i: worth[0][i] - worth[1][i])[:3]
for i in most:
    print()
    print(textwrap.fill(f"user: {others[i][-1]['content']}", 80))
    print(textwrap.fill(f"before: {before[i]}", 80))
    print(textwrap.fill(f"after:  {after[i]}", 80))

# %% [markdown]
# Ten batches of answers brought most of the way. No demonstration was shown, and no answer was called the right one. What is still wrong? We let the reward tell us, and the judge. Of the answers with which the
# judge is not content, which does the reward like best?

# %%
answers = [torch.tensor(tokenizer.encode(text)) for text in after]
answers = [torch.cat([each, each.new_tensor([max(stops)])]) for each in answers]
liked = grade([tokens_of(talk) for talk in others], answers)
poor = [i for i in range(len(others)) if worth[1][i] < 0.8]
print(f"{len(poor)} of {len(others)} below 0.8; their mean reward "
      f"{liked[poor].mean():.1f}, of all {liked.mean():.1f}\n(these are other "
      f"prompts; to those that it learnt from, {reward:.1f} in the last batch)")
for i in sorted(poor, key=lambda i: -liked[i])[:2]:
    print(f"\nreward {liked[i]:.1f}, judge {worth[1][i]:.2f}")
    for each in others[i][-3:]:
        print(textwrap.fill(f"{each['role']}: {each['content']}", 80))
    print(textwrap.fill(f"answer: {after[i]}", 80))

# %% [markdown]
# On the mean the reward marks these low, as it should. But an answer that is no sentence may score twice the mean. The reward model has read pairs of demonstrators, who err in other ways; of answers unlike those its number means little. A policy that looks for reward may find them. In ten batches
# it has not found many.
#
# ## What each device holds back
#
# The same, over three seeds (`tools/recordings/ppo.py`), with 4 epochs: each answer is learnt four times, in 16 steps for 64 answers where the live run had 4, so that the clip has something to do. That is *right*. And five times with one thing changed:
# *no clip* (the loss is $-\rho A$), *no KL* (beta is 0), *no whitening* (advantages keep their size), *recomputed* ($p_{then}$ is asked for anew before each step), *helpful alone* (one of the two reward models gives the reward).
#
# > **Predict.** For which of these six does the judge's mark at the end fall furthest below its best?

# %%
guess_fall = None       # one of these names

# %% [markdown]
# (Set your guess, then look.)

# %%
with (SHIPPED / "ppo.csv").open(encoding="utf-8") as file:
    recorded = list(csv.DictReader(file))


def curve(run: str, column: str) -> list[list[float]]:
    """One list a seed."""
    seeds = sorted({row["seed"] for row in recorded})
    return [[float(row[column]) for row in recorded
             if (row["run"], row["seed"]) == (run, seed)] for seed in seeds]

# %%
def all_seeds(found: list[float], digits: int = 2) -> str:
    middle, low, high = (f"{each(found):.{digits}f}"
                         for each in (median, min, max))
    return f"{middle} ({low} to {high})"


names = list(dict.fromkeys(row["run"] for row in recorded))
print(f"{'':14} judge at the end      fall    reward         KL at the end\n"
      f"{'':38}first   last")
falls, ends = {}, {}
for name in names:
    judged, rewards = curve(name, "judge"), curve(name, "reward")
    ends[name] = [each[-1] for each in judged]
    falls[name] = median(max(each) - each[-1] for each in judged)
    kl = [each[-1] for each in curve(name, "kl")]
    print(f"{name:15}{all_seeds(ends[name]):21}{falls[name]:6.2f}"
          f"{median(each[1] for each in rewards):7.2f}"
          f"{median(each[-1] for each in rewards):7.2f}   {all_seeds(kl, 1)}")
    assert all(each[-1] > each[1] for each in rewards)
reveal("falls furthest", guess_fall, max(falls, key=falls.get))

# %% [markdown]
# (Medians of three seeds, in brackets the lowest and the highest. The *first* reward is that of the start. GRPO is told of below.) All seeds:

# %% tags=["hide-input"] mystnb={"image": {"alt": "Small panels, one for each run, with the judge's mark over 96 steps for three seeds, and a dotted line at the start, 0.87. In six panels all lines but one end above it, between 0.88 and 0.97, or at 0.84 without a clip. In the panel with recomputed probabilities two of three fall to 0.69 and 0.54."}}
fig, axes = plots.figure("Two runs of 21 fall far, both with recomputed ratios",
                         x="steps", y="judge's mean mark", columns=4, rows=2,
                         size=(7.2, 4.0))
at = [int(row["step"]) for row in recorded
      if (row["run"], row["seed"]) == (names[0], "0")]
looks = list(zip(plots.COLOURS, ("-", "--", "-."), strict=False))
for ax, name in zip(axes.flat, names, strict=False):
    for judged, (colour, line) in zip(curve(name, "judge"), looks, strict=True):
        ax.plot(at, judged, line, color=colour, linewidth=1.2)
    ax.axhline(judged[0], color="#8a8a8a", linestyle=":", linewidth=1)
    ax.set_title(name, fontsize=8, loc="center")
    ax.set(ylim=(0.5, 1.0))
    ax.label_outer()
for seed, (colour, line) in enumerate(looks):
    axes.flat[-1].plot([], [], line, color=colour, label=f"seed {seed}")
axes.flat[-1].plot([], [], ":", color="#8a8a8a", label="the start")
axes.flat[-1].set_axis_off()
_ = axes.flat[-1].legend(loc="center")

# %% [markdown]
# What may one say of this? A few questions that three seeds can answer, or not:

# %%
start_mark = curve("right", "judge")[0][0]
below = {name: sum(mark < start_mark for mark in ends[name]) for name in names}
apart = [name for name in names if max(ends[name]) < min(ends["right"])
         or min(ends[name]) > max(ends["right"])]
worst = min((mark, name, seed) for name in names
            for seed, mark in enumerate(ends[name]))
print("seeds that end below the start:",
      {name: n for name, n in below.items() if n})
print("all three apart from all three of right:", ", ".join(apart),
      f"(by {min(ends['right']) - max(ends[apart[0]]):.3f})")
print(f"lowest at the end: {worst[1]}, seed {worst[2]}")
assert all(max(map(max, curve(name, "clipped"))) == 0
           for name in ("no clip", "recomputed"))

# %% [markdown]
# *Recomputed* makes every ratio 1, and the clip sees nothing: two of three runs end far below where they began. *No clip* ends below *right* with all seeds, but by a hair, and six numbers in any order fall apart into three and three like that one time in ten. It was compared six times.
# Both let the policy learn from the same answers without an end. Why is *recomputed* the worse one, though *no clip* goes further away? A bad token's pull is $\rho A\, \nabla \ln p$: without a clip it fades as the token gets rare, and where $\rho$ is always 1 it does not. That may be why; no run here tests it.
#
# All other ranges overlap with that of *right*. A price of 0.05 a nat holds nothing here that one could see, and without whitening nothing is lost. So a device that is usual is not thereby needed. But three seeds do not tell a difference of 0.03 from none: whoever wants to know draws more.
#
# And the reward? In each of the 21 runs it is higher at the end than at the start, in those that ended below it as well.

# %% [markdown]
# ## The worst run, read
#
# Seed 2 of *recomputed*, after 64 of its 96 steps: not a usual run, but the lowest of 21. What did it say, and what did the reward models think of that? The same prompts, before and after (`tools/recordings/hacked.py`).

# %%
with (SHIPPED / "hacked.csv").open(encoding="utf-8") as file:
    hacked = list(csv.DictReader(file))


def gain(row: dict, what: str) -> float:
    return float(row[f"{what}_after"]) - float(row[f"{what}_before"])


for what in ("reward", "judge"):
    print(f"{what:7}" + ", ".join(
        f"{when} {mean(float(row[f'{what}_{when}']) for row in hacked):.2f}"
        for when in ("before", "after")))
fooled = [row for row in hacked
          if gain(row, "reward") > 1 and gain(row, "judge") < 0]
assert liked.mean() > mean(float(row["reward_after"]) for row in hacked)
print(f"{len(fooled)} of {len(hacked)}: reward up by more than 1, judge down")
for row in sorted(fooled, key=lambda row: gain(row, "judge"))[:3]:
    print()
    for name, text in (("user", row["prompt"]), ("before", row["said_before"]),
                       ("after", row["said_after"])):
        print(textwrap.fill(f"{name}: {text or '(nothing)'}", 80))
    print(f"reward {gain(row, 'reward'):+.2f}, judge {gain(row, 'judge'):+.2f}")

# %% [markdown]
# Broken tales, and nothing at all where a name was asked for. This policy has not even found what the reward likes best: the live run's answers to other prompts, above, are worth more to it. It is damage. But the reward models call the damage an *improvement*, from 0.49 to 1.02, while the judge's mark falls
# from 0.87 to 0.63. The pairs that they have read were demonstrators' answers; of word salad there was none. Whoever watches the reward alone sees nothing; read the answers.
#
# ## Without a critic: groups
#
# The critic is a second model to train, as large as the policy. *Group relative policy optimisation* (GRPO, Shao et al. 2024) does without: it draws several answers to one prompt, and what to expect of one
# is what the others were worth. Every token of an answer gets the same advantage.
#
# ## Your turn: what others would have said

# %%
def against_others(scores: Tensor, n: int) -> Tensor:
    """Exercise 19.4 ●○○ 6 min. What is each answer's advantage in its group?

    `scores`, `b`, has the answers to one prompt side by side, n of them, 2 or
    more. The advantage is by how many deviations (of a sample: n - 1) of its
    group an answer lies above the group's mean. Add 1e-4 to a deviation, for
    a group may be all alike. Return `b`.
    """
    ### BEGIN SOLUTION
    size, middle = (each.repeat_interleave(n) for each in
                    torch.std_mean(scores.view(-1, n), dim=1))
    return (scores - middle) / (size + 1e-4)
    ### END SOLUTION


check("19.4", against_others)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 19.4.** A group of which all are right, or all wrong, teaches nothing: 0. *Over the batch* is REINFORCE with one baseline, and mixes up hard prompts with bad answers. *The mean
# alone* has its friends: dividing makes a group whose answers hardly differ as loud as any other.
# ### END SOLUTION

# %% twin="llama_edu.alignment.grpo.grpo"
def grpo(policy: Llama, batch: Batch, *, clip: float = CLIP,
         beta: float = BETA) -> Loss:
    acts = batch["learn"][:, 1:]
    now = learnt_log_probs(policy, batch)
    log_ratio, back = (now - batch["log_probs"],
                       batch["reference"] - now)
    kl = back.exp() - back - 1
    loss = clipped(log_ratio, batch["advantages"][:, None], clip) + beta * kl
    beyond = (log_ratio.exp() - 1).abs() > clip
    share = acts / acts.sum(-1, keepdim=True)
    return Loss((loss * share).sum(), len(acts), {
        "clipped": (beyond * share).sum().item(),
        "kl": (kl * share).sum().item()})

# %% [markdown]
# Two more differences: the price stands in the loss and not in the reward, and it is estimated as $q/p - \ln(q/p) - 1$. Why that? Over what the policy draws, the mean of $q/p$ is 1, so the mean of the whole is
# $-\text{E}\ln(q/p)$, the KL again. But no single token can be below 0:

# %% tags=["nbval-check-output"]
a = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)      # the policy
b = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)      # the reference
plain, k3 = (a / b).log(), b / a - (b / a).log() - 1
for name, each in (("ln p/q", plain), ("q/p - ln q/p - 1", k3)):
    middle = a @ each
    noise = (a @ (each - middle).square()).sqrt()
    print(f"{name:17} mean {middle:.4f}, deviation {noise:.4f}, least "
          f"{each.min():7.4f}")
assert abs(a @ plain - a @ k3) < 1e-12

# %% [markdown]
# The recorded GRPO stands in the last line of the table above: as many answers, eight to each of eight prompts, and marks that overlap with those of *right*. It stayed much nearer to the reference. The price in the loss, no critic, fewer prompts at a time, the mean over each answer first: a run that has all of these does not say which of them did it.
# (On the plane of chapter 20 both are near 1.2 nats. There PPO was stopped early.)
#
# ## Beside it: rejection sampling
#
# Chapter 18 drew eight answers to each of 128 prompts and learnt the best. How many answers has each drawn, and what does the judge say?

# %%
with (SHIPPED / "rounds.csv").open(encoding="utf-8") as file:
    rejection = [row for row in csv.DictReader(file) if row["keep"] == "1"]

print(f"{'answers drawn':33}judge: median (range)")
for name in ("right", "no whitening", "GRPO"):
    for step in (48, 96):               # 16 steps for every 64 answers
        found = [run[at.index(step)] for run in curve(name, "judge")]
        print(f"{name:18}{step * 4:8}{'':7}{all_seeds(found)}")
for version in "124":
    found = [float(row["judge"]) for row in rejection
             if row["round"] == version]
    print(f"{'rejection':18}{1024 * int(version):8}{'':7}{all_seeds(found)}")
print(f"{'PPO, live':18}{steps * 16:8}{'':7}{end:.2f} (one seed)")

# %% [markdown]
# PPO comes near 0.95 with a few hundred answers. At equal cost, who gets further? This table cannot say: rejection sampling begins where PPO ends, the two were marked on different prompts, and the recorded PPO reads each answer four times and trains a critic as well. And more is not always better: four rounds of
# rejection end lower than one. (Best of n trains nothing, and pays n times for every answer ever after.)
#
# ## Find the bug: six runs
#
# A policy of four answers, so small that nothing needs to be drawn: all is exact, and a run takes a moment. `run(start, reference, scores, beta=0.1, rounds=10, epochs=4)` gives a row for the start and one for each round: expected score, KL from `reference` in nats, and how
# likely an answer is whose ratio lies beyond the clip (0.2) in the round's last epoch. The advantage is score less price, less its mean.

# %%
runs = suspects("19.5")         # a, b, c, d, e, f
even, odd = [0.25] * 4, [0.7, 0.1, 0.1, 0.1]
for row in runs["c"](even, even, [1.0, 0.0, -1.0, 2.0], rounds=3):
    print("score {:5.2f}, KL {:.2f}, beyond {:.2f}".format(*row))

# %% [markdown]
# Possible verdicts: `healthy`; `no clip`; `old recomputed` (the probabilities to compare with are asked for anew in every epoch); `KL's sign`; `KL left out`; `reference follows` (in round 1 it is the one that you
# gave, then always the policy of the round before); `wrong direction`; `no baseline` (the mean is not taken off). At most one thing is wrong with each.

# %%
# Exercise 19.5 ●●● 15 min. Which mistake is in which suspect? Replace each `"?"` by a verdict.
verdicts = {"a": "?", "b": "?", "c": "?", "d": "?", "e": "?", "f": "?"}
### BEGIN SOLUTION
verdicts = {"a": "reference follows", "b": "no baseline", "c": "healthy",
            "d": "old recomputed", "e": "KL's sign", "f": "no clip"}
### END SOLUTION

check("19.5", verdicts)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 19.5.** From `odd` with all scores 0 and beta 1 only the price acts: healthy ones come home to `even`, `e` flees, and `a` makes one round and then is at home where it stands. From `even` with beta 0, one round of 40
# epochs: `f` goes five times as far as `c`. The third column of `d` is 0, always: its ratio is that of a thing with itself. Ten more for every score changes `b` alone. No curve of the *loss* would have told any of this.
# ### END SOLUTION
#
# ## Harder: the quietest baseline
#
# The expected reward is a good baseline. Is it the best?

# %%
def quietest(p: Tensor, rewards: Tensor) -> tuple[float, float]:
    """Exercise 19.6 ●●● 20 min. Which baseline is best, and what noise is left?

    One answer is drawn with the probabilities `p`, a softmax of logits, and
    is worth its `rewards`; both are `m`, in float64. The sampled gradient by
    the logits is (reward - baseline) times the gradient of its log p. Return
    the baseline whose gradient has the least variance, and that variance,
    summed over the logits, of one sample. Two floats.
    """
    ### BEGIN SOLUTION
    g = torch.eye(len(p), dtype=p.dtype) - p
    weight = torch.einsum("y,yi,yi->y", p, g, g)
    baseline = torch.dot(weight, rewards) / weight.sum()
    drawn = torch.einsum("y,yi->yi", rewards - baseline, g)
    off = drawn - p @ drawn
    return float(baseline), float(torch.einsum("y,yi,yi->", p, off, off))
    ### END SOLUTION


check("19.6", quietest)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 19.6.** The mean of $(r - b)\,g$ does not depend on $b$, so only its mean square does: $\text{E}\,(r-b)^2 |g|^2$. Its derivative is 0 at $b = \text{E}[|g|^2 r] / \text{E}[|g|^2]$: the expected reward, weighed by how
# long each gradient is. A likely answer has a short gradient and counts less. For the three answers of the beginning it is 0.46 and not 0.6. Nobody uses it: in a Llama $|g|^2$ would need a backward pass for every token.
# ### END SOLUTION
#
# ## In the Llamas: four models at once
#
# Llama 2 (section 3.2.3): up to version V4 rejection sampling alone, then PPO on top of it. Clip 0.2, a constant learning rate of 1e-6, batches of 512 answers in pieces of 64 with one step each, 200 to 400 batches;
# $\beta$ is 0.01 for 7B and 13B and 0.005 for the larger ones. There it is the *reward* that is whitened. For the 70B a batch took about 330 seconds. What must lie in memory?
#
# > **Predict.** Policy, reference, reward model and critic, each 70B in bfloat16; AdamW with float32 states and a float32 copy for the two that learn. How many GB?

# %%
guess_gb = None

# %%
n = parameters(release("llama-2-70b").config).total
reading, learning = 2 * n, (2 + 2 + 4 + 8) * n     # weights; and gradients,
total = 2 * reading + 2 * learning                 # a copy, AdamW's states
print(f"{n / 1e9:.1f} billion parameters: {reading / 1e9:.0f} GB to read, "
      f"{learning / 1e9:.0f} GB to learn")
assert 30 < total / 80e9 < 33
reveal("GB for all four", guess_gb, round(total / 1e9))

# %% [markdown]
# Thirty-odd GPUs of 80 GB before the first activation, and a cache for the answers. This is why GRPO drops the critic, and why Llama 3's authors, who tried PPO, took a method that needs neither critic nor reward model nor
# rollouts: DPO (Grattafiori et al. 2024, section 4.1.4). It is the next chapter.
#
# ## Fact check: three claims
#
# `right`, `imprecise` or `wrong`?

# %%
claims.judge({"A80": "?", "B20": "?", "A92": "?"})

# %% [markdown]
# Judge before you run the next cell.

# %%
claims.show("A80", "B20", "A92")

# %% [markdown]
# ## Summary: learn from what you say, and not too much at once
#
# - A sampled gradient has the right mean whatever the baseline, and much less noise with a good one.
# - The score stands at the last token, the price at each. Surprises, shortened by $\gamma\lambda$ at each step, pass the score back.
# - The clip takes gains away where the same answers have been learnt enough, and never the way back.
# - GRPO's critic is the group. Its price is in the loss.
# - The reward was higher at the end in every run, in those that the judge marked down as well. Whether a model gets better, somebody else has to say.
#
# **Read in the package:** `llama_edu.alignment.rollouts`, `ppo` and `grpo`. **Read elsewhere:** Schulman et al. 2017, *Proximal Policy Optimization Algorithms*; Ouyang et al. 2022, *Training language models to follow instructions with
# human feedback*; Shao et al. 2024, *DeepSeekMath*, section 4.
