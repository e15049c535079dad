"""The exercise of chapter 17 on Ghost Attention, 17.4."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator

from ..alignment.ghost import ghost
from .compare import snapshot
from .data import Exercise, Inputs, Misconception, Probe, count
from .dialog_pieces import WORDS

Said = tuple[str, str]
Ghost = tuple[list[Said], list[bool]]


def _package_ghost(rule: str, questions: list[str], reply: Callable) -> Ghost:
    talk = ghost(rule, questions, lambda messages: reply(
        [(each.role, each.content) for each in messages]))
    return ([(each.role, each.content) for each in talk],
            [False] * (len(talk) - 1) + [True])


def _overheard(answer: Callable, rule: str, questions: list[str], reply: Callable) -> Ghost:
    """What an answer makes, if every list that it gave to `reply` is still what it was."""
    given = []

    def remembering(talk: list[Said]) -> str:
        given.append((talk, snapshot(talk)))
        return reply(talk)

    made = answer(rule, questions, remembering)
    if any(now != before for now, before in given):
        raise ValueError(CHANGED)
    return made


CHANGED = "a list that `reply` was given has changed since. Give it one of its own: reply([*talk])"


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


def _one_list(rule: str, questions: list[str], reply: Callable) -> Ghost:
    """One list to ask with and to learn from; its reminders are taken out at the end."""
    talk: list[Said] = []
    for question in questions:
        talk.append(("user", f"{rule} {question}"))
        talk.append(("assistant", reply(talk)))
    for i, question in enumerate(questions[1:], 1):
        talk[2 * i] = ("user", question)
    return talk, [False] * (len(talk) - 1) + [True]


def _marks_of_turns(rule: str, questions: list[str], reply: Callable) -> Ghost:
    talk, learnt = _ghost(rule, questions, reply)
    return talk, learnt[1::2]


GHOST = Exercise(
    "17.4", "Ghost Attention", "Your turn: Ghost Attention",
    _package_ghost, adapt=_overheard,
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
                      "while the model answers you remind it at the newest question, and no "
                      "longer at those before. The rule stays joined to all of them.",
                      also=(_ghostly(sampled=lambda i, n: i in (0, n)),)),
        Misconception("list changed afterwards", _one_list,
                      "you gave `reply` a list and changed it afterwards. Whoever keeps what was "
                      "asked now holds another talk, with the answer in it. Give a list of its "
                      "own: reply([*talk])."),
        Misconception("one mark a turn", _marks_of_turns,
                      "you return one mark for each turn. Each message has its own: the questions, "
                      "too."),
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

EXERCISES = [GHOST]
