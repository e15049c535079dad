"""The exercise of chapter 17 on a talk that is too long, 17.3: whole turns stay."""

from collections.abc import Callable, Sequence

from torch import Generator

from ..alignment.messages import fitting
from ..prompts.dialog import Message
from ..prompts.llama3 import EOT, LLAMA_3
from .data import Exercise, Inputs, Misconception, Probe, count
from .dialog_pieces import Words

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
                  turn: tuple[str, ...] = ("user",), counted: bool = True, keep: bool = True,
                  skip: bool = False, strict: bool = False, refuse: bool = True,
                  special: bool = True, greeted: bool = True) -> list[int]:
    """Whole turns from the last one on, while there is room; right unless told otherwise.

    special: a system message at the start is none of the turns. greeted: what stands before the
    first question is one of them.
    """
    n_first = int(special and roles[0] == "system")
    used = begin + (sum(sizes[:n_first]) if counted else 0)
    starts = [i for i in range(n_first, len(roles))
              if roles[i] in turn or greeted and i == n_first]
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
    return _up_to([i for i in range(1, len(roles) + 1) if i == len(roles) or roles[i] == "user"],
                  sizes, room)


def _first_messages(least: int) -> Callable[[list[str], list[int], int], list[int]]:
    """The beginning of the dialog, message by message, at least so many."""
    return lambda roles, sizes, room: _up_to([*range(least, len(roles) + 1)], sizes, room)


def _up_to(ends: Sequence[int], sizes: Sequence[int], room: int) -> list[int]:
    """The longest beginning that has room, of those that end there."""
    found = [end for end in ends if 1 + sum(sizes[:end]) <= room]
    if not found:
        raise ValueError("no room")
    return [*range(found[-1])]


def _every_system(roles: list[str], sizes: list[int], room: int) -> list[int]:
    """Whole turns, and the system messages of all others."""
    always = {i for i, role in enumerate(roles) if role == "system"}
    for start in sorted({0, *(i for i, role in enumerate(roles) if role == "user")}):
        found = sorted({*always, *range(start, len(roles))})
        if 1 + sum(sizes[i] for i in found) <= room:
            return found
    raise ValueError("no room")


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
        Probe("a greeting, and all fits", lambda rng: _sizes(rng, "auaua", spare=0, last=5)),
        Probe("a greeting, one token short",
              lambda rng: _sizes(rng, "sauaua", spare=-1, last=5)),
        Probe("a later system message", lambda rng: _sizes(rng, "suasua", spare=9, last=2)),
        Probe("a later system message that fits",
              lambda rng: _sizes(rng, "uauasua", spare=1, last=5)),
    ),
    misconceptions=(
        Misconception("message by message", _kept(turn=tuple(SHORT.values()), refuse=False),
                      "you take message by message, so a talk may begin with an answer that nobody "
                      "asked for. A turn is a question and all that follows it.", also=(
                          _kept(turn=tuple(SHORT.values())),)),
        Misconception("the first turns", _first_turns,
                      "you keep the beginning and lose the end. The last answer is what is learnt; "
                      "the first turns go.", also=(_first_messages(1), _first_messages(2))),
        Misconception("system message lost", _kept(keep=False),
                      "you lose the system message. It says how to answer, and always stays.",
                      also=(_kept(keep=False, counted=False), _kept(special=False))),
        Misconception("every system message stays", _every_system,
                      "you keep system messages wherever they stand. Only one at the start always "
                      "stays; a later one belongs to its turn, and goes with it."),
        Misconception("greeting lost", _kept(greeted=False),
                      "you lose what the assistant says before the first question, though there is "
                      "room. It goes first, and only where there is none."),
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

EXERCISES = [KEPT]
