"""The exercises of chapter 17 on whole turns, 17.3, and on Ghost Attention, 17.4."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator

from ..alignment.ghost import ghost
from ..alignment.messages import fitting
from ..prompts.dialog import Message
from ..prompts.llama3 import EOT, LLAMA_3
from .data import Exercise, Inputs, Misconception, Probe, count
from .dialog_pieces import WORDS, Words

# -- 17.3: which messages stay -------------------------------------------------------------------

AROUND = 5                      # tokens of a message beside its words: its header, its end token


def _package_kept(roles: list[str], sizes: list[int], room: int) -> list[int]:
    messages = [Message(role, " ".join(["a"] * (size - AROUND)))
                for role, size in zip(roles, sizes, strict=True)]
    n_kept = fitting(messages, Words(), LLAMA_3, answers="all", length=room).ids.count(EOT)
    n_first = int(roles[0] == "system")
    return [*range(n_first), *range(len(roles) - n_kept + n_first, len(roles))]


SHORT = {"s": "system", "u": "user", "a": "assistant"}


def _sizes(rng: Generator, roles: str, *, spare: int, last: int, longest: int = 9) -> Inputs:
    """A dialog and room for its system message, its last messages and so many tokens more."""
    sizes = [count(rng, 6, longest) for _ in roles]
    kept = sizes[len(roles) - last:] + (sizes[:1] if roles[0] == "s" else [])
    return {"roles": [SHORT[role] for role in roles], "sizes": sizes,
            "room": 1 + sum(kept) + spare}


def _from_the_end(roles: Sequence[str], sizes: Sequence[int], room: int, *, begin: int = 1,
                  least: int = 0, turn: tuple[str, ...] = ("user",), counted: bool = True,
                  keep: bool = True, skip: bool = False, strict: bool = False,
                  refuse: bool = True) -> list[int]:
    """Whole turns from the last one on, while there is room; right unless told otherwise."""
    n_first = int(roles[0] == "system")
    used = begin + (sum(sizes[:n_first]) if counted else 0)
    starts = [i for i in range(n_first, len(roles)) if roles[i] in turn]
    ends = [*starts[1:], len(roles)]
    kept: list[int] = []
    for start, end in reversed([*zip(starts, ends, strict=True)]):
        more = sum(sizes[start:end])
        if used + more > room - strict and (kept or refuse or skip):
            if skip:
                continue
            break
        used, kept = used + more, [*range(start, end), *kept]
    if not kept and refuse:
        raise ValueError("no room for the last turn")
    return [*range(n_first), *kept] if keep else kept


def _kept(**changes: object) -> Callable[[list[str], list[int], int], list[int]]:
    return lambda roles, sizes, room: _from_the_end(roles, sizes, room, **changes)


def _first_turns(roles: list[str], sizes: list[int], room: int) -> list[int]:
    """The beginning of the dialog, as far as whole turns go."""
    ends = [i for i in range(1, len(roles) + 1) if i == len(roles) or roles[i] == "user"]
    fitting_ends = [end for end in ends if 1 + sum(sizes[:end]) <= room]
    if not fitting_ends:
        raise ValueError("no room")
    return [*range(fitting_ends[-1])]


def _one_turn_less(roles: list[str], sizes: list[int], room: int) -> list[int]:
    """All, or all but the first turn, however long that is."""
    n_first = int(roles[0] == "system")
    if 1 + sum(sizes) <= room:
        return [*range(len(roles))]
    users = [i for i in range(n_first + 1, len(roles)) if roles[i] == "user"]
    if not users:
        raise ValueError("no room")
    return [*range(n_first), *range(users[0], len(roles))]


def _pairs(roles: list[str], sizes: list[int], room: int) -> list[int]:
    """Two messages at a time from the front."""
    n_first = int(roles[0] == "system")
    start = n_first
    while 1 + sum(sizes[:n_first]) + sum(sizes[start:]) > room:
        start += 2
        if start >= len(roles):
            raise ValueError("no room")
    return [*range(n_first), *range(start, len(roles))]


KEPT = Exercise(
    "17.3", "Truncation by whole turns", "Your turn: a talk that is too long",
    _package_kept,
    probes=(
        Probe("two turns, room for one", lambda rng: _sizes(rng, "uaua", spare=3, last=2)),
        Probe("room to the token", lambda rng: _sizes(rng, "uauaua", spare=0, last=4)),
        Probe("one token short", lambda rng: _sizes(rng, "uauaua", spare=-1, last=4)),
        Probe("all fits", lambda rng: _sizes(rng, "suaua", spare=0, last=4)),
        Probe("a system message", lambda rng: _sizes(rng, "suauaua", spare=2, last=4)),
        Probe("two answers in a row", lambda rng: _sizes(rng, "uauaaua", spare=1, last=2)),
        Probe("two answers in the last turn", lambda rng: _sizes(rng, "suauaa", spare=0, last=3)),
        Probe("a long turn in the middle", lambda rng: {
            "roles": [SHORT[role] for role in "uauaua"],
            "sizes": [6, 6, 6, 30 + count(rng, 0, 5), 6, 7], "room": 30}),
        Probe("a last turn that is too long", lambda rng: _sizes(rng, "suaua", spare=-2, last=2)),
        Probe("a last turn that is far too long",
              lambda rng: _sizes(rng, "suaua", spare=-14, last=2)),
    ),
    misconceptions=(
        Misconception("message by message", _kept(turn=("user", "assistant"), refuse=False),
                      "you take message by message, so a talk may begin with an answer that nobody "
                      "asked for. A turn is a question and all that follows it.", also=(
                          _kept(turn=("user", "assistant")),)),
        Misconception("the first turns", _first_turns,
                      "you keep the beginning and lose the end. The last answer is what is learnt; "
                      "the first turns go."),
        Misconception("system message lost", _kept(keep=False),
                      "you lose the system message. It says how to answer, and always stays.",
                      also=(_kept(keep=False, counted=False),)),
        Misconception("system message not counted", _kept(counted=False),
                      "you did not count the system message, which always stays."),
        Misconception("begin token not counted", _kept(begin=0),
                      "you did not count the token that begins a text: one token, and a row is "
                      "full."),
        Misconception("no room to the token", _kept(strict=True),
                      "what fits to the token fits. You leave a turn out where it just has room."),
        Misconception("turns that fit in between", _kept(skip=True),
                      "you leave out a turn that is too long, and keep one before it. The rest of "
                      "a talk is not cut out of its middle: stop at the first that does not fit."),
        Misconception("the last turn in any case", _kept(refuse=False),
                      "you keep a last turn that has no room. It is too long for a row: raise a "
                      "ValueError."),
        Misconception("one turn less", _one_turn_less,
                      "you leave out one turn at most. Go on until the rest fits."),
        Misconception("two messages at a time", _pairs,
                      "you drop two messages at a time. A turn may have more than one answer."),
        Misconception("all of it", lambda roles, sizes, room: [*range(len(roles))],
                      "you keep everything, whether there is room or not."),
        Misconception("the last turn only", lambda roles, sizes, room: _from_the_end(
                          roles, sizes, room) and [
                              i for i in range(len(roles)) if roles[i] == "system" or i >= max(
                                  j for j in range(len(roles)) if roles[j] == "user")],
                      "you keep the last turn only. Keep as many as there is room for."),
    ),
    hints=(
        "Where may a talk begin? At the first message, or at any question.",
        "The begin token and the system message are always there: they take their room first.",
        "For each possible beginning, the earliest first: the first that fits is the answer.",
    ))

# -- 17.4: Ghost Attention -----------------------------------------------------------------------

Said = tuple[str, str]
Ghost = tuple[list[Said], list[bool]]


def _package_ghost(rule: str, questions: list[str], reply: Callable) -> Ghost:
    talk = ghost(rule, questions, lambda messages: reply(
        [(each.role, each.content) for each in messages]))
    return ([(each.role, each.content) for each in talk],
            [False] * (len(talk) - 1) + [True])


def _asked(rng: Generator, *lengths: int) -> Inputs:
    """A rule, questions, and somebody who answers with what he was shown: a sum over the talk."""
    salt = count(rng, 2, 9)

    def text(n: int) -> str:
        return " ".join(WORDS[i] for i in torch.randint(0, len(WORDS), (n,), generator=rng))

    def reply(talk: list[Said]) -> str:
        weighed = sum(i * sum(map(ord, role + said)) for i, (role, said) in enumerate(talk, 1))
        return f"answer {salt + weighed % 9973}"

    return {"rule": text(3), "questions": [text(n) for n in lengths], "reply": reply}


def _ghost(rule: str, questions: Sequence[str], reply: Callable, *, join: str = "{rule} {said}",
           sampled: Callable[[int, int], bool] = lambda i, n: True, alone: bool = False,
           kept: Callable[[int, int], bool] = lambda i, n: i == 0, forget: bool = False,
           learnt: Callable[[int, int], bool] = lambda i, n: i == n - 1) -> Ghost:
    """The talk and what is learnt of it, right unless told otherwise."""
    said = [(question, join.format(rule=rule, said=question)) for question in questions]
    answers: list[str] = []
    for now in range(len(questions)):
        talk = []
        for i in range(now if alone else 0, now + 1):
            talk.append(("user", said[i][sampled(i, now)]))
            if i < now and not forget:
                talk.append(("assistant", answers[i]))
        answers.append(reply(talk))
    whole = [each for i, answer in enumerate(answers)
             for each in (("user", said[i][kept(i, len(answers))]), ("assistant", answer))]
    return whole, [learnt(i, len(whole)) for i in range(len(whole))]


def _ghostly(**changes: object) -> Callable[[str, list[str], Callable], Ghost]:
    return lambda rule, questions, reply: _ghost(rule, questions, reply, **changes)


def _by_system(rule: str, questions: list[str], reply: Callable) -> Ghost:
    talk, learnt = _ghost(rule, questions, lambda said: reply([("system", rule), *said]),
                          sampled=lambda i, n: False, kept=lambda i, n: False)
    return [("system", rule), *talk], [False, *learnt]


GHOST = Exercise(
    "17.4", "Ghost Attention", "Your turn: a rule that nobody repeats",
    _package_ghost,
    probes=(
        Probe("one question", lambda rng: _asked(rng, 2)),
        Probe("two questions", lambda rng: _asked(rng, 3, 2)),
        Probe("three questions", lambda rng: _asked(rng, 1, 2, 4)),
        Probe("five questions", lambda rng: _asked(rng, 2, 1, 3, 1, 2)),
    ),
    misconceptions=(
        Misconception("rule kept everywhere", _ghostly(kept=lambda i, n: True),
                      "in the talk that is learnt from, you repeat the rule at every question. "
                      "Then the model learns to need the reminder. Keep it in the first alone."),
        Misconception("rule nowhere", _ghostly(kept=lambda i, n: False),
                      "in the talk that is learnt from, nobody sets the rule. Keep it in the first "
                      "question."),
        Misconception("rule in the last question", _ghostly(kept=lambda i, n: i == n - 1),
                      "you keep the rule in the last question. It stays in the first, so that the "
                      "model has to look back."),
        Misconception("not reminded", _ghostly(sampled=lambda i, n: i == 0),
                      "you sampled with the rule in the first question alone, so the answers show "
                      "what the model does by itself, and it forgets. Join the rule to every "
                      "question while you sample."),
        Misconception("newest question reminded", _ghostly(sampled=lambda i, n: i == n),
                      "you joined the rule to the newest question only. It is joined to all of "
                      "them, the earlier ones too."),
        Misconception("all answers learnt", _ghostly(learnt=lambda i, n: i % 2 == 1),
                      "you learn every answer. The loss of all earlier turns is zero: what is "
                      "learnt is to keep the rule at a distance."),
        Misconception("first answer learnt", _ghostly(learnt=lambda i, n: i == 1),
                      "you learn the first answer, where the rule stands right before it. Learn "
                      "the last."),
        Misconception("everything learnt", _ghostly(learnt=lambda i, n: True),
                      "you learn what the user says. Only the last answer is learnt."),
        Misconception("last question learnt", _ghostly(learnt=lambda i, n: i >= n - 2),
                      "you learn the last question, too. Only the answer to it is learnt."),
        Misconception("each question alone", _ghostly(alone=True),
                      "you asked each question in a talk of its own. The model sees all that was "
                      "said before."),
        Misconception("answers forgotten", _ghostly(forget=True),
                      "you sampled without the answers that were given before. They belong to the "
                      "talk."),
        Misconception("rule behind", _ghostly(join="{said} {rule}"),
                      "you put the rule behind the question. Here it stands before it, with a "
                      "space between."),
        Misconception("rule by the system", _by_system,
                      "you made the rule a message of the system. Ghost Attention joins it to what "
                      "the user says."),
    ),
    hints=(
        "Keep two talks: one that the model sees while it answers, and one to learn from.",
        "In the first, every question has the rule before it. In the second, the first question "
        "has. The answers are the same.",
        "Only the very last message of the second talk is learnt.",
    ))

EXERCISES = [KEPT, GHOST]
