"""Ghost Attention: talks that teach to keep a rule which was set long ago."""

from collections.abc import Callable, Sequence

from ..prompts.dialog import Message


def ghost(rule: str, questions: Sequence[str], reply: Callable[[list[Message]], str]
          ) -> list[Message]:
    """A talk whose answers keep a rule that only its first question sets.

        talk = ghost("Call everybody by their full name.", ["Hello!", "Who was it?"], reply)
        document(talk, ..., answers="last")     # what is learnt of it

    reply: what a model answers to a talk that ends with the user's message. While it answers, the
    rule is joined to every question; the talk that comes back has it in the first alone. Only the
    last answer is to be learnt: the loss of all earlier turns is zero (Touvron et al. 2023b,
    section 3.3).
    """
    reminded, talk = [], []
    for question in questions:
        reminded.append(Message("user", f"{rule} {question}"))
        answer = Message("assistant", reply([*reminded]))
        talk += [Message("user", question) if talk else reminded[0], answer]
        reminded.append(answer)
    return talk
