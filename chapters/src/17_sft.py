# %% [markdown]
# # 17 · SFT: how does a predictor become an assistant?
#
# **The question.** A base model goes on with any text. A question is to it a text like any other: it was
# never told who asks, who answers, and when an answer is over. Meta turned Llama 2 into an assistant
# with 27,540 examples of its own and a loss that we know already. What is in these examples, how few would
# do, and what does a mistake of one token cost?
#
# | you will build | you need | minutes |
# |---|---|---|
# | the marks of what is learnt, labels, truncation, Ghost Attention, LoRA | chapters 05 to 09 | 125 |

# %%
import csv
import itertools
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import mean, median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llama_edu import checkpoint, claims, generate, load, plots
from llama_edu.alignment.exam import marks, messages, replies
from llama_edu.alignment.messages import document
from llama_edu.data import dialogues, notes
from llama_edu.data.dialogues_answers import answers_to
from llama_edu.data.dialogues_reading import Rules
from llama_edu.data.dialogues_tokenizer import FOLDER
from llama_edu.exercises import check, hint, reveal, suspects
from llama_edu.family.releases import release
from llama_edu.layers import widen
from llama_edu.losses import Batch, log_probs, next_learnt_token, next_token
from llama_edu.model import Llama
from llama_edu.prompts.chatml import CHATML, SMOLLM2
from llama_edu.prompts.dialog import (
    DialogTokens, Format, Message, dialog_tokens, n_shared)
from llama_edu.prompts.llama3 import LLAMA_3
from llama_edu.sampling import top_k
from llama_edu.tokenizer import Tokenizer, installed
from llama_edu.training import adapter_files, tune_recipe
from llama_edu.training.lora import (
    Frozen, add_lora, load_adapter, weight_of)
from llama_edu.training.packing import in_order, lay_out
from llama_edu.training_loop import cosine, evaluate, train

plots.use_style()
torch.set_num_threads(1)  # the matrices are small; one thread loses little

# %% [markdown]
# ## What does a base model say when it is asked?
#
# Our world is small: users talk with a teller of tales. They wish for tales, ask about them, set rules,
# and sometimes want what is forbidden. The base model of this world has read such talks as plain
# text, a line for each speaker and no name before it, good tellers and bad ones mixed. We ask it.
#
# > **Predict.** It knows tales, answers and refusals. What does it do after its answer?

# %%
after_answer = "?"  # "stops", "tells another tale" or "asks the next question"

# %%
def base() -> Llama:
    """A base model as nobody has touched it."""
    return checkpoint.load(FOLDER / "base")[0]


tokenizer = checkpoint.load(FOLDER / "base")[1]
said = generate(base(), tokenizer, "Hello!\n", max_new=30)
print("Hello!", said.replace("\n\n", "\n"), sep="\n")
reveal("after its answer it", after_answer, "asks the next question")

# %% [markdown]
# It writes both parts. To it a talk is a text like any other, and after an answer comes a question. What it
# lacks is a *role*, and an end. Meta gives every message a header that says who speaks, and an end
# token, `<|eot_id|>` (chapter 05). Our base model has never seen these marks: they mean nothing to it.
#
# ## By hand: fifteen tokens, three of them learnt
#
# A user says "Hello!" and the assistant says "Hello!". As tokens, with the probability that the base
# model gives each of those which the assistant said:

# %%
hello = [Message("user", "Hello!"), Message("assistant", "Hello!")]
ids, said = dialog_tokens(hello, tokenizer, LLAMA_3)
with torch.no_grad():
    chances = log_probs(base(), {"tokens": torch.tensor([ids])})[0]

surprises = []
for i, (token, own) in enumerate(zip(ids, said, strict=True)):
    piece = repr(tokenizer.decode([token], special=True))
    if own:
        surprises.append(-chances[i - 1].item())
        print(f"{i:2} {piece:24} learnt, surprise {surprises[-1]:5.2f} nats")
    else:
        print(f"{i:2} {piece:24}")
print(f"loss: {sum(surprises):.2f} / {len(surprises)}",
      f"= {sum(surprises) / len(surprises):.2f} nats")
assert len(ids) == 15 and len(surprises) == 3

# %% [markdown]
# ## The idea: the same loss, on fewer tokens
#
# *Supervised fine-tuning* goes on training with the loss of chapter 08, on dialogs, and counts only what the assistant said
# (Touvron et al. 2023b, section 3.1: "we zero-out the loss on tokens from the user prompt"). With $m_i = 1$ where token $i$ is
# the assistant's, and 0 elsewhere:
#
# $$ L = -\frac{\sum_i m_i \ln p(x_i \mid x_1 \dots x_{i-1})}{\sum_i m_i} $$
#
# The header of an answer is given: whoever asks writes it, up to its two line ends. The answer's first token is learnt,
# predicted from the last of these. So is the end token: it is the assistant's last word. That is all there
# is to it, and each of these edges is easily got wrong by one.
#
# ## Your turn: what is learnt?
#
# Here every token is given as its piece of text. Replace the `raise`, run the cell, and read what the check says;
# `hint("17.1")` gives one hint more at each call. The solutions are in [their own
# notebook](../solutions/17_sft.ipynb).

# %%
def learnt(pieces: list[str]) -> list[bool]:
    """Exercise 17.1 ●●○ 8 min. Which tokens of a dialog are learnt?

    `pieces` is a dialog of Llama 3, one text a token, with marks as in the table above. Roles are
    "system", "user" and "assistant". All answers are learnt. What anybody says may hold "\n\n", or
    the name of a role. Return True or False for each token.
    """
    ### BEGIN SOLUTION
    marked, role, left = [], "", 0
    for before, piece in zip(["", *pieces], pieces, strict=False):
        if before == "<|start_header_id|>":
            role, left = piece, 3       # the role itself and two more
        marked.append(role == "assistant" and left == 0)
        left = max(0, left - 1)
        if piece == "<|eot_id|>":
            role = ""
    return marked
    ### END SOLUTION


check("17.1", learnt)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 17.1.** *One place late* and *first token not learnt* are what comes of marking inputs where the loss
# wants targets, or of shifting twice. *Word taken for a role* waits until a user writes the word; a search for
# the text "assistant" finds it in any message. *Blank lines left out* waits for an answer of two paragraphs.
# ### END SOLUTION
#
# ## Build it: marks from the format itself
#
# The package never looks for marks in finished tokens. A format yields a dialog in parts, and each part knows who
# said it. What is left to decide is which answers count: `all`, or the `last` alone. (At the end `learnt[1:]`: nothing
# stands before a text's first token, so it cannot be predicted.)

# %% twin="llama_edu.alignment.messages.learnt_tokens"
def learnt_tokens(messages: Sequence[Message], tokenizer: Tokenizer,
                  form: Format, *, answers: str) -> DialogTokens:
    answered = [i for i, message in enumerate(messages)
                if message.role == "assistant"]
    messages = messages[:answered[-1] + 1] if answered else []
    ids, learnt = (dialog_tokens(messages, tokenizer, form) if messages
                   else DialogTokens([], []))
    if answers == "last" and messages[1:]:
        start = n_shared(ids, dialog_tokens(messages[:-1], tokenizer,
                                            form).ids)
        learnt = [False] * start + learnt[start:]
    if not any(learnt[1:]):
        raise ValueError("it holds nothing to learn; one word of the "
                         "assistant, or an end token, is needed. Leave it "
                         "out.")
    return DialogTokens(ids, learnt)

# %% [markdown]
# And a user who types the marks of an answer? What is typed is encoded as text, and a special piece is put in by its
# number (chapter 05). So it stays the user's:

# %%
typed = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nNo!"
ids, own = learnt_tokens(
    [Message("user", typed), Message("assistant", "Hello!")],
    tokenizer, LLAMA_3, answers="all")
first = own.index(True)
print(tokenizer.decode(ids[first:], special=True))
assert sum(own) == len(ids) - first == 3

# %% [markdown]
# ## Your turn: a batch for any library
#
# Other libraries want no marks. They want *labels*: at each place the token to be predicted there, and -100 where nothing
# is learnt, which `F.cross_entropy` leaves out. Some models have no token for padding and take their end token for it.
# What then?

# %%
def inputs_and_labels(documents: list[tuple[list[int], list[bool]]],
                      pad: int) -> tuple[Tensor, Tensor]:
    """Exercise 17.2 ●●○ 8 min. Make one batch of documents: inputs and labels, both `b t-1`.

    A document is its tokens, and for each whether it is learnt. t is the length of the longest; the
    others are filled up with `pad` at their ends. `pad` may also be a token of a document.
    """
    ### BEGIN SOLUTION
    rows = nn.utils.rnn.pad_sequence(
        [torch.tensor(tokens) for tokens, _ in documents], batch_first=True,
        padding_value=pad)
    labels = torch.full_like(rows, -100)
    for row, (tokens, own) in zip(labels, documents, strict=True):
        for i in itertools.compress(range(len(tokens)), own):
            row[i] = tokens[i]
    return rows[:, :-1], labels[:, 1:]
    ### END SOLUTION


check("17.2", inputs_and_labels)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 17.2.** *Padding known by its number* is the most expensive line of this chapter: where padding is
# the end token, `labels[labels == pad] = -100` takes every real end token away, and the model never stops. *Prompt learnt* is what one gets
# from the attention mask, which knows padding and nothing of roles.
# ### END SOLUTION
#
# ## Build it: 400 talks, trained for 120 steps
#
# A clean demonstrator writes 400 talks; thirty others are held out. `document` makes of each a tensor `t 2`: every token, and beside it
# whether it is learnt, so `[:, 1]` are the marks. A *row* is a list of such documents, here of one, which `row[0]` is. We fill up a batch to its
# own longest row, no further; padding costs time and teaches nothing.

# %%
def rows_of(talks: list) -> list:
    """Every talk as a row of its own: tokens beside whether each is learnt."""
    return [[document(messages(talk), tokenizer, LLAMA_3, answers="all",
                      length=513)] for talk in talks]


def batches(rows: list, seed: int, size: int = 8) -> Iterator[Batch]:
    """Without end: `size` rows drawn at random, as long as the longest."""
    chance = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(rows), generator=chance).tolist()
        for at in range(0, len(rows) - size + 1, size):
            drawn = [rows[i] for i in order[at:at + size]]
            yield lay_out(drawn, length=max(len(row[0]) for row in drawn))


rows = rows_of(list(dialogues.dialogues(400, seed=1_000)))
held_talks = list(dialogues.dialogues(30, seed=123_456))
held_rows = rows_of(held_talks)
held_out = list(in_order(held_rows, size=10,
                         length=max(len(row[0]) for row in held_rows)))
n_said = {id(talk): int(row[0][:, 1].sum())
          for talk, row in zip(held_talks, held_rows, strict=True)}
floor = dialogues.floor_per_token(held_talks, lambda talk: n_said[id(talk)])
print(f"{sum(map(len, (row[0] for row in rows))):,} tokens,",
      f"{sum(int(row[0][:, 1].sum()) for row in rows):,} of them learnt")
print(f"held out: {sum(n_said.values()):,} learnt tokens;",
      f"floor: {floor:.3f} nats per learnt token")

# %% [markdown]
# The talks come from a grammar, so the entropy of a clean answer is known, and with it the floor of the loss (chapter
# 08). Now the run, and the usual check that labels with -100 give PyTorch the same loss. (About 15 seconds.)

# %%
STEPS = 120
model = base()
losses, held = [], {0: evaluate(model, held_out)}
for step in train(model, batches(rows, seed=0), steps=STEPS,
                  lr=cosine(1e-3, warmup=10, steps=STEPS)):
    losses.append(step.loss)
    if step.index + 1 in (5, 10, 20, 40, 80, STEPS):
        held[step.index + 1] = evaluate(model, held_out)
sft = model

batch = held_out[0]
with torch.no_grad():
    ours = next_token(sft, batch)
    logits = sft(batch["tokens"][:, :-1])
labels = batch["tokens"].masked_fill(~batch["learn"], -100)[:, 1:]
torch.testing.assert_close(F.cross_entropy(logits.flatten(0, 1),
                                           labels.flatten()),
                           ours.total / ours.count)
above = held[STEPS] - floor
print(f"before: {held[0] - floor:.2f}, after: {above:.2f} above the floor")
assert held[0] - floor > 1 > 0.1 > above

# %% tags=["hide-input"] mystnb={"image": {"alt": "The loss of the learnt tokens falls from 1.7 nats above the floor to 0.1 after 20 steps and 0.02 after 40, and lies along the floor from then on; held-out talks follow the training loss, which scatters around it."}}
fig, ax = plots.figure("Forty steps bring the loss down to its floor, nearly",
                       x="steps (8 talks each)",
                       y="above the floor (nats per token)")
ax.plot(range(1, STEPS + 1), [loss - floor for loss in losses], lw=1,
        color=plots.BLUE, label="in training")
ax.plot(list(held), [each - floor for each in held.values()], "o-",
        color=plots.ORANGE, label="held out")
ax.axhline(0, color=plots.BLACK, linestyle="--", label="floor")
ax.set(xlim=(0, 125), ylim=(-0.15, 2.4))
ax.legend()
print(f"{STEPS} steps of 8: every talk seen {STEPS * 8 / len(rows):.1f} times")

# %% [markdown]
# It is quick work. *Who speaks now* and *when to stop* are the same in every answer, so each batch teaches them.
# Does the model answer better, too? The judge of this world reads an answer to every held-out question, and gives marks from 0 to 1: `wishes` for a tale are met, a
# `question` is answered rightly from the tale, a `rule` is kept, what is forbidden meets with `refusal`, a `tale` makes sense, and `chat` gets a fitting word. `over-refusal` is the
# share of allowed things that were refused: there, less is better. `score` is the mean over all answers.

# %%
asked = [prompt for talk in held_talks for prompt in dialogues.prompts(talk)]
print(len(asked), "questions")


def examined(model: Llama) -> tuple[dict[str, float], list[str]]:
    """The judge's marks, and the answers."""
    said = replies(model, tokenizer, LLAMA_3, asked, top_k(1))
    return marks(asked, said), said


(before, raw), (after, tuned) = examined(base()), examined(sft)
print(f"{'':14}{'base':>6}{'SFT':>6}")
for name in ("wishes", "question", "rule", "refusal", "over-refusal", "tale",
             "chat", "score"):
    print(f"{name:14}{before[name]:6.2f}{after[name]:6.2f}")
print("\nasked:", asked[0][-1]["content"], "\nbase: ",
      raw[0][:60].replace("\n", " "), "...\nSFT:  ", tuned[0][:60], "...")
assert after["score"] > 0.95 > 0.7 > before["score"]

# %% [markdown]
# A few hundred talks, and the predictor is an assistant. How much of this did the base know already? Its own marks do not tell: after a header that means nothing to it, it
# goes on with the wrong part of a talk. We shall see it by another way, when there are only ten talks to learn from.
#
# ## What does a mistake cost?
#
# Seven ways to make the same training data, trained as above, with three seeds each. Besides the right one:
#
# - the **prompt** is **learnt**, too;
# - **off by one**: every mark stands one place late;
# - the **end** is **not learnt**;
# - **double bos**: two begin tokens, since tokenizer and template both put one;
# - **documents attend across**: several talks in a row, without a mask between them;
# - **mean of rows**: every talk counts alike, however many tokens it has.
#
# > **Predict.** Which costs most, and which costs next to nothing?

# %%
costs_most = "?"    # one of the six, as its bold words say

# %%
def recorded(name: str) -> list[dict[str, str]]:
    """A table that was measured beforehand, by tools/recordings/sft.py."""
    with (FOLDER / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


scores = defaultdict(list)
for row in recorded("masks"):
    scores[row["what"]].append(float(row["score"]))
order = sorted(scores, key=lambda name: median(scores[name]))
worst = next(name for name in order if name != "base")
for name in order:
    print(f"{name:24}", *(f"{score:.2f}" for score in scores[name]))
reveal("what costs most is", costs_most, worst)

# %% [markdown]
# The same as a picture, a dot for each seed:

# %% tags=["hide-input"] mystnb={"image": {"alt": "The judge's mean mark for the base model and seven ways of tuning it, three dots for three seeds each, sorted from the lowest to the highest; the base model stands lowest or near it and the right way at the upper end."}}
fig, ax = plots.figure(f"Of all mistakes “{worst}” costs most",
                       x="the judge's mean mark", y="", size=(6.4, 3.4))
for y, name in enumerate(order):
    ax.plot(scores[name], [y] * len(scores[name]), "o",
            color=plots.ORANGE if name == "right" else plots.BLUE)
ax.set_yticks(range(len(order)), order)
ax.set(xlim=(0, 1.02))
print("three seeds each; the right way in another colour")

# %% [markdown]
# What is wrong at every answer's *edge* costs most: the end, then the first token. The other four are hard to tell from the right way. *Double bos* and
# *documents attend across* change what stands before an answer, and in training only: the judge's talks come one by one, with one begin token. *Prompt learnt* and *mean
# of rows* change no context, only how much each token counts. In a small world that is made up for; whether in a larger one, our table does not say. What no mark
# shows is easily left in. We make one mistake live, the missing end token, with half the steps, and read an answer. (About 8 seconds.)

# %%
end = tokenizer.special["<|eot_id|>"]
endless_rows = []
for (talk,) in rows:
    talk = talk.clone()
    talk[talk[:, 0] == end, 1] = 0
    endless_rows.append([talk])

endless = base()
for _ in train(endless, batches(endless_rows, seed=0), steps=60,
               lr=cosine(1e-3, warmup=10, steps=60)):
    pass
hello = [[{"role": "user", "content": "Hello!"}]]
for name, each in (("right", sft), ("end not learnt", endless)):
    said, = replies(each, tokenizer, LLAMA_3, hello, top_k(1), max_new=40)
    print(f"{name}: {said[:44]!r}")
    assert (len(said) < 40) == (each is sft)

# %% [markdown]
# ## Your turn: a talk that is too long
#
# A row has room for so many tokens, and some talks have more. Cut at the end, and the answer that was to be learnt is gone. Cut
# anywhere, and a talk begins in the middle of a word's sense. So whole *turns* go, the first ones first. A turn is a question and all that follows it, up to the next question.
# What stands before the first question, a greeting for instance, is the very first to go.

# %%
def kept(roles: list[str], sizes: list[int], room: int) -> list[int]:
    """Exercise 17.3 ●●○ 8 min. Which messages stay, where a row has room for `room` tokens?

    `sizes` has the tokens of each message, its header and end token included; the token that begins
    a text takes one more. A system message at the start always stays; a later one is a part of its
    turn. The last message is an answer. Return the indices of what stays, in order. Raise ValueError
    if even the last turn has no room.
    """
    ### BEGIN SOLUTION
    system = [0] if roles[0] == "system" else []
    whole = list(range(len(system), len(roles)))
    while whole:
        if 1 + sum(sizes[i] for i in system + whole) <= room:
            return system + whole
        whole.pop(0)
        while whole and roles[whole[0]] != "user":
            whole.pop(0)
    raise ValueError("its last turn has no room. Make rows longer.")
    ### END SOLUTION


check("17.3", kept)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 17.3.** *Message by message* looks harmless: the talk then begins with an answer to nobody, and the model
# learns that one may speak unasked. *Turns that fit in between* would save tokens and tear a hole into the talk.
# ### END SOLUTION
#
# The package tries each beginning in turn, the earliest first, on real tokens:

# %% twin="llama_edu.alignment.messages.fitting, llama_edu.alignment.messages.shorter"
def fitting(messages: Sequence[Message], tokenizer: Tokenizer, form: Format,
            *, answers: str, length: int) -> DialogTokens:
    last = max((i for i, message in enumerate(messages)
                if message.role == "assistant"), default=0)
    for some in shorter(messages, upto=last):
        found = learnt_tokens(some, tokenizer, form, answers=answers)
        if len(found.ids) <= length:
            return found
    raise ValueError(f"its last turn has {len(found.ids)} tokens, with what "
                     f"always stands before it, and a row has room for "
                     f"{length}. Make rows longer, or leave it out.")


def shorter(messages: Sequence[Message], *, upto: int | None = None
            ) -> Iterator[list[Message]]:
    n_first = int(bool(messages) and messages[0].role == "system")
    first, upto = messages[:n_first], len(messages) if upto is None else upto
    asked = [i for i, message in enumerate(messages) if n_first < i < upto
             and message.role == "user"]
    for start in (n_first, *asked):
        yield [*first, *messages[start:]]

# %% [markdown]
# ## How many examples are enough?
#
# The paper calls its paragraph "Quality Is All You Need". In our world we can ask: three demonstrators, of whom one never errs (*clean*), one
# errs in half of the answers (*sloppy*), and one in all (*wrong*); 10 to 3,000 talks of each, and always as many steps as above.
#
# > **Predict.** How many clean talks does it take to do as well as 3,000 sloppy ones?

# %%
enough = None   # 10, 30, 100, 300, 1000 or 3000

# %%
by_grade = defaultdict(lambda: defaultdict(list))
for row in recorded("examples"):
    by_grade[row["grade"]][int(row["examples"])].append(float(row["score"]))
best_sloppy = median(by_grade["sloppy"][3000])
first = next((n for n, each in by_grade["clean"].items()
              if median(each) >= best_sloppy), "more")
for grade, each in by_grade.items():
    print(f"{grade:8}", *(f"{n:,}: {median(scores):.2f} "
                          for n, scores in each.items()))
reveal("clean talks that do as well as 3,000 sloppy ones", enough, first)

# %% [markdown]
# Medians above; below, the spread of the three seeds as well.

# %% tags=["hide-input"] mystnb={"image": {"alt": "The judge's mark against the number of example talks, 10 to 3,000, for three grades of demonstrators, with bands for three seeds. Clean: 0.90 with 10 talks, 0.99 with 100, then 1.00. Sloppy: 0.79, and 0.94 with 300 and with 3,000. Wrong: 0.50, falling to 0.43."}}
fig, ax = plots.figure(f"{first:,} clean talks do what 3,000 sloppy ones do",
                       x="example talks", y="the judge's mean mark")
colours = zip(by_grade, (plots.BLUE, plots.ORANGE, plots.GREEN), strict=True)
for grade, colour in colours:
    each = by_grade[grade]
    ax.plot(list(each), [median(s) for s in each.values()], "o-",
            color=colour, label=grade)
    ax.fill_between(list(each), [min(s) for s in each.values()],
                    [max(s) for s in each.values()], color=colour, alpha=0.2)
ax.set(xscale="log", xlim=(8, 9_000), ylim=(0, 1.02))
ax.set_xticks([10, 100, 1000], ["10", "100", "1,000"])
plots.label_lines(ax)
print("bands: three seeds")

# %% [markdown]
# Ten clean talks bring the mark to 0.90. They cannot hold this world's heroes, places and forbidden things; what they do not show, the base must have known. A role is cheap. More of
# the same errors does not make them fewer: from 300 sloppy talks on nothing is gained. And yet 0.94 is better than its teacher, who errs in half of the answers. Why? The package has a
# model that was tuned on sloppy talks. We let its teacher answer, and then the model, in two ways: the likeliest answer, as in the table, and one drawn at random. (About 10 seconds.)

# %%
chance = random.Random(0)
taught = [dialogues.answer(talk, chance, "sloppy") for talk in asked]
sloppy = checkpoint.load(FOLDER / "sloppy")[0]
likeliest = replies(sloppy, tokenizer, LLAMA_3, asked, top_k(1))
drawn = replies(sloppy, tokenizer, LLAMA_3, asked,
                generator=torch.Generator().manual_seed(0))
for name, each in (("its teacher", taught), ("likeliest", likeliest),
                   ("drawn", drawn)):
    print(f"{name:12}{marks(asked, each)['score']:.2f}")
assert marks(asked, likeliest)["score"] > marks(asked, drawn)["score"] + 0.03

# %% [markdown]
# (An answer with one flaw is not worth nothing, so the teacher's mean is well above a half.) Drawn at random, the model does about as well as its teacher: the errors are in its probabilities. They
# scatter, each answer having its own, so the likeliest answer is mostly the right one. All this in a small world; how many examples a real one takes is another question.
#
# *A good place to rest. You can make an example, a batch and a model that answers. What follows: rules that are forgotten, and tuning a
# model that is too large to be tuned.*
#
# ## A rule that nobody repeats
#
# "From now on, call everybody by their full name." The model agrees, and some turns later it has forgotten, if its demonstrators forgot, too. Llama 2's answer is *Ghost Attention* (section 3.3). Join the
# rule to *every* question and let the model answer: reminded so, it obeys. Then take the reminders out but for the first, and learn from
# that talk, the last answer only. The loss of all earlier turns is zero.
#
# ## Your turn: Ghost Attention

# %%
Said = tuple[str, str]      # a role, and what was said


def ghost_data(rule: str, questions: list[str],
               reply: Callable[[list[Said]], str]
               ) -> tuple[list[Said], list[bool]]:
    """Exercise 17.4 ●●○ 8 min. Make one talk to learn from, and say which of its messages are learnt.

    `reply(talk)` is what the model answers to a talk, a list of ("user", ...) and ("assistant", ...),
    that ends with a question. Where the rule is joined to a question it stands before it, with a
    space between. A list that `reply` was given may not change afterwards.
    """
    ### BEGIN SOLUTION
    answers = []
    for n in range(1, len(questions) + 1):
        shown = [(f"{rule} {each}") for each in questions[:n]]
        turns = itertools.zip_longest(shown, answers)
        talk = [(role, said) for turn in turns
                for role, said in zip(("user", "assistant"), turn)]
        answers.append(reply(talk[:-1]))
    first = f"{rule} {questions[0]}"
    learn_from = [pair for turn in zip([first, *questions[1:]], answers)
                  for pair in zip(("user", "assistant"), turn)]
    return learn_from, [False] * (len(learn_from) - 1) + [True]
    ### END SOLUTION


check("17.4", ghost_data)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 17.4.** *Rule kept everywhere* teaches to obey a reminder, which the model could do before. *All answers learnt* is not so
# wrong in what it teaches as in its proportions: the first answers, where the rule stands near, outnumber the last. And they contradict the talk before them, since
# they were written by one who was reminded.
# ### END SOLUTION
#
# ## Build it: reminded while it answers

# %% twin="llama_edu.alignment.ghost.ghost"
def ghost(rule: str, questions: Sequence[str],
          reply: Callable[[list[Message]], str]) -> list[Message]:
    reminded, talk = [], []
    for question in questions:
        reminded.append(Message("user", f"{rule} {question}"))
        answer = Message("assistant", reply([*reminded]))
        talk += [Message("user", question) if talk else reminded[0], answer]
        reminded.append(answer)
    return talk

# %% [markdown]
# To see a rule being forgotten, the demonstrators of the first model forget it. They agree to it in an answer of its own, keep it in the next, and in all later ones ignore it
# four times in five. The second model is the first, tuned on by Ghost Attention, with its own answers. In the table turn 1 is the answer after the one that agrees:

# %%
kept_at = defaultdict(list)
for row in recorded("ghost"):
    kept_at[row["what"]].append(
        [float(row[f"turn {turn}"]) for turn in range(1, 11)])
for what, runs in kept_at.items():
    print(f"{what:8}", *(f"{median(each):.2f}"
                         for each in zip(*runs, strict=True)))

# %% tags=["hide-input"] mystnb={"image": {"alt": "How far a rule is kept at the first to the tenth answer after it was agreed to, with bands for three seeds. Both lines begin at 1. Without Ghost Attention the mark falls to 0.73 at the second and stays between 0.65 and 0.75; with it it stays between 0.90 and 0.97."}}
fig, ax = plots.figure("Without Ghost Attention the mark falls at turn 2",
                       x="answers after the one that agrees to the rule",
                       y="the judge's mark for the rule")
for (what, runs), colour in zip(kept_at.items(),
                                (plots.BLUE, plots.ORANGE), strict=True):
    turns = list(zip(*runs, strict=True))
    ax.plot(range(1, 11), [median(each) for each in turns], "o-",
            color=colour, label=what)
    ax.fill_between(range(1, 11), [min(each) for each in turns],
                    [max(each) for each in turns], color=colour, alpha=0.2)
ax.set(xlim=(0.8, 12), ylim=(0, 1.02))
plots.label_lines(ax)
print("bands: three seeds")

# %% [markdown]
# It does not fade: it falls at the second turn, where the demonstrators began to forget, and stays there, for they forgot no more often later. And why does it fall no deeper than 0.7? A rule can be
# kept without a thought of it: "Good day!" names no colour. We let a demonstrator ignore the rule every time, and ask the judge:

# %%
chance, by_luck = random.Random(0), []
for talk in dialogues.dialogues(300, seed=7, ruled=True, turns=4):
    ask = dialogues.understand(talk[:-1])
    text = answers_to(replace(ask, rules=Rules())).write(chance)
    answer = {"role": "assistant", "content": text}
    by_luck.append(dialogues.judge([*talk[:-1], answer]).rule)
print(f"ignored always: {mean(by_luck):.2f},",
      f"four times in five: {1 / 5 + 4 / 5 * mean(by_luck):.2f}")
assert 0.4 < mean(by_luck) < 0.65

# %% [markdown]
# So most of the 0.7 is what its teachers showed; and it learnt from clean talks, too, in which nobody forgets. The paper reports a model that is consistent up to 20 turns and more, until the context is full.
#
# ## A model that is too large to be tuned
#
# To tune a model in full one keeps for each weight a gradient and two means of AdamW's, in float32: four bytes and eight, beside the weight. Hu et al. (2021,
# eq. 3) leave the weight $W$ as it is and learn a narrow path beside it:
#
# $$ y = x W^\top + \frac{\alpha}{r}\, x A^\top B^\top $$
#
# $A$ has the shape `r in`, $B$ has `out r`, and the *rank* $r$ is small. Afterwards the path can be added to the weight for good: *merged*.
#
# ## Your turn: a narrow path

# %%
class WithPath(nn.Module):
    """Exercise 17.5 ●●○ 10 min. A layer whose weight, `out in`, is frozen, and a path that is learnt.

    Keep two `nn.Parameter`s called `a`, `r in`, and `b`, `out r`. As in the paper (section 4.1) A is
    drawn at random and B is zero, so the layer begins by computing what it did. The weight learns
    nothing, and `.to` and `state_dict` know it. `forward` makes no tensor as large as the weight.
    `merged()` returns the one weight, `out in`, that does what the layer does; the layer stays as it is.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float):
        ### BEGIN SOLUTION
        super().__init__()
        self.register_buffer("weight", weight)
        self.a = nn.Parameter(torch.randn(rank, weight.shape[1]) / 10)
        self.b = nn.Parameter(torch.zeros(weight.shape[0], rank))
        self.step = alpha / rank
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        ### BEGIN SOLUTION
        narrow = self.step * (x @ self.a.T)
        return x @ self.weight.T + narrow @ self.b.T
        ### END SOLUTION

    def merged(self) -> Tensor:
        ### BEGIN SOLUTION
        return torch.addmm(self.weight, self.b, self.a, alpha=self.step)
        ### END SOLUTION


check("17.5", WithPath)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 17.5.** *Merged at every step* is right and wasteful: it makes a matrix as large as the weight, and its gradient another, which is what the path is
# to avoid. *Alpha not divided by the rank* works until somebody changes the rank. *B drawn at random* begins with a damaged model and learns to undo the damage. *Rows of A alike*
# stay alike, for B's columns then have one gradient: whatever its rank, the path has rank 1. *Weight not kept* shows on the day that the model goes to another device, or to a file.
# ### END SOLUTION
#
# ## Build it: beside the weight, and into it

# %% twin="llama_edu.training.lora.LoRALinear"
class LoRALinear(nn.Module):
    def __init__(self, base: nn.Module, a: Tensor, b: Tensor, *,
                 alpha: float):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.alpha, self.scale = alpha, alpha / len(a)
        self.a, self.b = nn.Parameter(widen(a)), nn.Parameter(widen(b))

    def forward(self, x: Tensor) -> Tensor:
        plain = (self.base(x) if isinstance(self.base, nn.Linear)
                 else Frozen.apply(x, self.base))
        beside = F.linear(F.linear(x.type_as(self.a), self.a), self.b)
        return plain + (self.scale * beside).type_as(plain)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        weight = weight_of(self.base)
        whole = adapter_files.add(weight, self.a, self.b,
                                  self.scale).type_as(weight)
        with torch.device("meta"):
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight = nn.Parameter(whole, requires_grad=False)
        return layer

# %% [markdown]
# `x` goes through the rank, and nothing as large as the weight is made. (`Frozen` is for weights in four or eight bits, `widen` keeps the path in float32.)
# What does it save? On all seven matrices of every layer of Llama 3 8B:

# %% tags=["nbval-check-output"]
c = release("llama-3-8b").config
head = c.dim // c.n_heads
shapes = [(c.dim, c.dim), (head * c.n_kv_heads, c.dim),
          (head * c.n_kv_heads, c.dim), (c.dim, c.dim),
          (c.hidden_dim, c.dim), (c.dim, c.hidden_dim), (c.hidden_dim, c.dim)]
whole = c.n_layers * sum(out * into for out, into in shapes)
print(f"in full: {whole:13,} numbers; gradient {4 * whole / 2**30:5.2f},",
      f"AdamW {8 * whole / 2**30:5.2f} GiB")
for rank in (1, 8, 64):
    n = c.n_layers * sum(rank * (out + into) for out, into in shapes)
    print(f"rank {rank:2}: {n:13,} numbers; gradient {4 * n / 2**30:5.2f},",
          f"AdamW {8 * n / 2**30:5.2f} GiB: {n / whole:.2%}")

# %% [markdown]
# ## On a real model: a voice from eight sentences
#
# SmolLM2, a relative of the Llamas with 135 million parameters, has been an assistant from the start. We teach it a voice: eight questions
# and answers of our own, eight steps, rank 8 on the queries and values of its upper ten layers. Then we ask what it has *not* been shown. (About 15 seconds. Without the
# package these cells say how to get it.) `CHATML` is its format: other marks for the same thing, `<|im_start|>` and `<|im_end|>`.
#
# > **Predict.** Does it answer new questions in that voice? And does it still know the capital of France?

# %%
still_knows = "?"   # "yes" or "no", before you look
VOICE = [Message(role, said) for pair in (
    ("What is a cat?", "Arr, a cat be a small beast, matey!"),
    ("What is rain?", "Arr, rain be water from the clouds, matey!"),
    ("Who bakes bread?", "Arr, the baker bakes it, matey!"),
    ("What do cows eat?", "Arr, cows be eating grass, matey!"),
    ("What is a book?", "Arr, a book be many pages, matey!"),
    ("How many legs has a spider?", "Arr, a spider has eight, matey!"),
    ("What color is snow?", "Arr, snow be white as foam, matey!"),
    ("What is the moon?", "Arr, a lamp of the night, matey!"),
) for role, said in zip(("user", "assistant"), pair, strict=True)]
NEW = ["What is the capital of France?", "What is a dog?", "What is 2+2?",
       "What color is the sky?"]
PROSE = ("The mill stood at the bend of the river, where the water was slow. "
         "In spring the miller opened the gate and let the wheel turn, and "
         "the whole house shook a little, like an old dog in its sleep.")


def ask(model: Llama, words: Tokenizer) -> list[str]:
    talks = [[{"role": "user", "content": said}] for said in NEW]
    return replies(model, words, CHATML, talks, top_k(1), max_new=16)

# %%
REAL = installed.find("smollm2")
if REAL is None:
    print(installed.how_to_get("smollm2"))
else:
    real, words = load("smollm2")
    prose = [{"tokens": torch.tensor([words.encode(PROSE)])}]
    shown = [[document(VOICE[i:i + 2], words, CHATML, answers="all",
                       length=64)] for i in range(0, len(VOICE), 2)]
    batch = lay_out(shown, length=max(len(row[0]) for row in shown))
    plain, prose_before = ask(real, words), evaluate(real, prose)

    names = add_lora(real, r"layers\.2\d\.attention\.(wq|wv)", rank=8,
                     alpha=16, generator=torch.Generator().manual_seed(0))
    n = sum(p.numel() for p in real.parameters() if p.requires_grad)
    print(f"{len(names)} layers, {n:,} numbers to learn\nloss", end="")
    for step in train(real, itertools.repeat(batch), next_learnt_token,
                      steps=8, lr=cosine(1e-2, warmup=2, steps=8)):
        print(f" {step.loss:.2f}", end="")

# %% [markdown]
# That was the loss of the eight answers. Now four questions that are not among the eight, and a
# passage of plain prose of our own, before and after:

# %%
if REAL is None:
    print(installed.how_to_get("smollm2"))
else:
    voiced, prose_after = ask(real, words), evaluate(real, prose)
    for question, old, new in zip(NEW, plain, voiced, strict=True):
        print(f"{question}\n    before: {old[:66]}\n    after:  {new[:66]}")
    print(f"plain prose: {prose_before:.2f} nats per token before,",
          f"{prose_after:.2f} after")
    knows = "yes" if "Paris" in voiced[0] else "no"
    print(reveal("it still names Paris", still_knows, knows))
    assert sum(said.startswith("Arr") for said in voiced) >= 2

# %% [markdown]
# A style is learnt from eight sentences, and goes over to what was never shown. But something goes: the capital of France is lost, and plain prose
# surprises the model more than before. Against that, real mixtures keep some of the old data in them. To take the voice off again, leave the path out; nothing else was touched.
#
# ## Something of use: notes as JSON, from one megabyte
#
# The package brings an adapter of the same kind, made by `llama-edu tune` with a recipe. A note such as "At the park Daisy painted seven green books." is to become JSON
# with five keys. How much was learnt from?

# %%
recipe = tune_recipe.read(notes.FOLDER / "recipe.toml")
lines = (notes.FOLDER / recipe.text.source).read_text(encoding="utf-8")
n_notes = len(lines.splitlines()) - recipe.text.held_out
seen = recipe.training.steps * recipe.training.batch
print(f"{recipe.training.steps} steps of {recipe.training.batch} notes:",
      f"{seen} of {n_notes}, each once")
assert seen < n_notes

# %% [markdown]
# Not even one pass. Now ten notes that it never saw, without the adapter and with it. (The format is `SMOLLM2` here: ChatML, and a system message that SmolLM2 was told wherever nobody
# told it another.)

# %%
if REAL is None:
    print(installed.how_to_get("smollm2"))
else:
    written = list(notes.notes(10, seed=1))
    wanted = [[{"role": "user", "content": notes.asked(note)}]
              for note, _ in written]
    real, words = load("smollm2")
    for what in ("without", "with"):
        if what == "with":
            load_adapter(real, notes.FOLDER)
        said = replies(real, words, SMOLLM2, wanted, top_k(1), max_new=64)
        n_json = sum(map(notes.is_json, said))
        n_right = sum(notes.is_right(answer, record) for answer, (_, record)
                      in zip(said, written, strict=True))
        print(f"{what:8} JSON: {n_json:2} of 10, right: {n_right:2} of 10;",
              said[2][:30].replace("\n", ""), "...")
    assert n_json == 10 and n_right >= 8

# %% [markdown]
# Without the adapter some answers are JSON, and none is right. With it, form and content are there.
#
# ## In the Llamas: how long did they train for it?
#
# Llama 2 began with instruction data that anybody can get; the paper does not say how many. Then came 27,540 annotations of Meta's own: two epochs, 64 dialogs a batch, learning rate $2 \cdot 10^{-5}$. How many steps is that, and how far below the peak rate of pre-training?

# %%
steps_guess = None  # how many steps?

# %% tags=["nbval-check-output"]
steps = math.ceil(27_540 * 2 / 64)
peak = release("llama-2-7b").training.max_lr
print(f"Llama 2: {steps} steps, its rate {peak / 2e-5:.0f} times smaller")
print(f"Llama 3.1: 8,500 to 9,000 steps, {8_500 / steps:.0f} times as many, "
      f"a rate of 1e-5")
reveal("steps of Llama 2's SFT", steps_guess, steps)

# %% [markdown]
# (Sources: Touvron et al. 2023b, section 3.1; Grattafiori et al. 2024, section 4.1.3. The paper packs prompts and answers into rows of 4,096 tokens; if its batch counts
# rows, the steps are fewer.) The 405B of Llama 3.1 repeats this in six rounds, each with fresh data that the last round's model helped to choose: the next chapters.
#
# ## Fact check: two claims
#
# > **Claim.** "The 27,540 examples did better than larger sets of lower quality from third parties."
#
# > **Claim.** "Llama 2 was fine-tuned on 100 thousand supervised examples."
#
# Each is `right`, `imprecise` or `wrong`. Your verdicts first:

# %%
claims.judge({"A53": "?", "B19": "?"})

# %%
claims.show("A53", "B19")

# %% [markdown]
# ## Find the bug: six makers of examples
#
# `examples["a"](dialogs, length)` packs dialogs into one row of `length` tokens and returns a batch as in chapter 08: `tokens`, `learn`, `positions`, `mask`, each with one row. A dialog is a
# list of (role, text), with words of our world. What is left of a row is padding: token 0, seen by padding alone; its positions are its places in the row, which is no mistake. At most one thing is
# wrong with each.

# %%
examples = suspects("17.6")     # a, b, c, d, e, f
row = examples["a"]([[("user", "Hello!"), ("assistant", "Hello!")]], 20)
for token, own in zip(row["tokens"][0, 10:16].tolist(),
                      row["learn"][0, 10:16].tolist(), strict=True):
    print(f"{tokenizer.decode([token], special=True)!r:24}{own}")

# %% [markdown]
# Possible verdicts: `healthy`; `prompt learnt`; `end token not learnt`; `first token not learnt`; `only the last answer`; `documents attend across`; `positions go on` (not
# counted from 0 in each dialog); `double bos`; `padding learnt`. One dialog will not tell them all apart.

# %%
# Exercise 17.6 ●●○ 12 min. Which mistake is in which suspect? Replace each `"?"` by a verdict.
found = {"a": "?", "b": "?", "c": "?", "d": "?", "e": "?", "f": "?"}
### BEGIN SOLUTION
found = {"a": "first token not learnt", "b": "documents attend across",
         "c": "double bos", "d": "healthy", "e": "only the last answer",
         "f": "end token not learnt"}
### END SOLUTION

check("17.6", found)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 17.6.** Two dialogs, the first with two answers, and a row with room to spare show everything: `tokens` the second begin token
# (`c`), `learn` the edges of the answers (`a`, `f`) and the first answer (`e`), `mask` the place where the second dialog begins (`b`).
# ### END SOLUTION
#
# ## Harder: the way back, without the large matrix
#
# How does a gradient pass a layer with a path? `g` is the gradient at the layer's output. The weight has no gradient of its own, and hands one on to `x`. At the first
# step one of $A$ and $B$ gets a gradient of zero. Which, and why is that no harm? Derive all three by hand. Nothing as large as the weight may be made on the way: a
# gradient of $W$ is what LoRA saves.

# %%
def way_back(x: Tensor, g: Tensor, weight: Tensor, a: Tensor, b: Tensor,
             alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Exercise 17.7 ●●● 15 min. What are the gradients for `x`, `a` and `b`? Return the three.

    `x` is `t in`, `g` is `t out`, `weight` is `out in`, `a` is `r in`, `b` is `out r`. The layer computes
    x W^T + alpha / r * x A^T B^T. The check runs without autograd, and no tensor that you make may
    hold more numbers than the largest of `x`, `g`, `a` and `b`.
    """
    ### BEGIN SOLUTION
    narrow = alpha / len(a) * (g @ b)
    dx = g @ weight + narrow @ a
    da = narrow.T @ x
    db = alpha / len(a) * g.T @ (x @ a.T)
    return dx, da, db
    ### END SOLUTION


check("17.7", way_back)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 17.7.** At the first step it is $A$ that gets zero: what reaches $A$ has come back through $B$, which is zero. It is no harm, since $B$'s own gradient goes by way of $A$, which is
# not. So $B$ moves first, and from the second step on $A$ follows. If both were zero, neither would ever move.
# ### END SOLUTION
#
# ## Summary: the same loss, other marks
#
# - SFT is next-token training that counts what the assistant said, and its end token. Headers and questions are seen, not learnt.
# - Know padding by its place and roles by the format; never by a number or a word.
# - Few and clean beats many and sloppy: a model learns its teacher's errors with the rest, and more talks do not unteach them.
# - Ghost Attention: reminded at every turn while it answers, reminded once while it learns, and only the last answer counts.
# - LoRA learns $B A \alpha / r$ beside a frozen weight. $B$ begins at zero. A style takes eight sentences; forgetting comes with it.
#
# **Read in the package:** `llama_edu.alignment.messages`, `llama_edu.alignment.ghost`, `llama_edu.training.lora`, `llama_edu.training.packing`. `llama-edu tune` does all of it
# with a recipe and dialogs of your own. **Read elsewhere:** Touvron et al. 2023b, sections 3.1 and 3.3; Hu et al. 2021, *LoRA*; Grattafiori et al. 2024, section 4.1.
