"""Answers to chapter 17 as people write them: unusual right ones pass, wrong ones are named."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from llama_edu.exercises import check


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the reader's own progress out of it."""
    monkeypatch.chdir(tmp_path)


# -- what is learnt -----------------------------------------------------------------------------


def test_answers_found_by_their_whole_header_pass():
    header = ["<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n"]

    def learnt(pieces: list[str]) -> list[bool]:
        marked = [False] * len(pieces)
        for i in range(len(pieces)):
            if pieces[i:i + 4] == header:
                end = pieces.index("<|eot_id|>", i)
                marked[i + 4:end + 1] = [True] * (end - i - 3)
        return marked

    assert check("17.1", learnt).passed


def test_a_search_for_the_word_is_named():
    def learnt(pieces: list[str]) -> list[bool]:
        marked, on = [], False
        for i, piece in enumerate(pieces):
            marked.append(on)
            word_before = i >= 2 and pieces[i - 2] == "assistant"
            on = (on or word_before) and piece != "<|eot_id|>"
        return marked

    assert check("17.1", learnt).diagnosis == "word taken for a role"


def test_a_word_that_switches_at_once_is_named():
    def learnt(pieces: list[str]) -> list[bool]:
        marked, on = [], False
        for piece in pieces:
            marked.append(on)
            on = (on or piece == "assistant") and piece != "<|eot_id|>"
        return marked

    assert check("17.1", learnt).diagnosis == "switched on at once"


def test_a_blank_line_belongs_to_its_answer():
    def learnt(pieces: list[str]) -> list[bool]:
        marked, role = [], ""
        for before, piece in zip(["", *pieces], pieces, strict=False):
            role = piece if before == "<|start_header_id|>" else role
            header = piece in ("<|start_header_id|>", "<|end_header_id|>", "\n\n", role)
            marked.append(role == "assistant" and not header)
            role = "" if piece == "<|eot_id|>" else role
        return marked

    assert check("17.1", learnt).diagnosis == "blank lines left out"


def test_the_first_end_token_of_all_is_named():
    def learnt(pieces: list[str]) -> list[bool]:
        marked = [False] * len(pieces)
        for i, piece in enumerate(pieces[:-1]):
            if piece == "<|start_header_id|>" and pieces[i + 1] == "assistant":
                for j in range(i + 4, pieces.index("<|eot_id|>") + 1):
                    marked[j] = True
        return marked

    report = check("17.1", learnt)
    assert report.diagnosis == "nothing learnt"
    assert "looks from i on" in report.message


def labelled(mark: Callable[[Tensor, Tensor, int], Tensor]) -> Callable:
    def answer(documents: list, pad: int) -> tuple[Tensor, Tensor]:
        pair = [nn.utils.rnn.pad_sequence([torch.tensor(each[i]) for each in documents],
                                          batch_first=True, padding_value=filled)
                for i, filled in ((0, pad), (1, False))]
        labels = mark(*pair, pad)
        return pair[0][:, :-1], labels[:, 1:]

    return answer


def test_labels_by_where_pass():
    right = labelled(lambda tokens, own, pad: torch.where(own, tokens, -100))
    assert check("17.2", right).passed


def test_padding_known_by_its_number_is_named_by_the_end_tokens():
    def mark(tokens: Tensor, own: Tensor, pad: int) -> Tensor:
        labels = torch.where(own, tokens, -100)
        labels[labels == pad] = -100
        return labels

    report = check("17.2", labelled(mark))
    assert report.diagnosis == "padding known by its number"
    assert "never learns to stop" in report.message


# -- whole turns --------------------------------------------------------------------------------


def test_beginnings_tried_one_by_one_pass():
    def kept(roles: list[str], sizes: list[int], room: int) -> list[int]:
        first = [0][:roles[0] == "system"]
        begins = [len(first), *(i for i in range(len(first) + 1, len(roles)) if roles[i] == "user")]
        for begin in begins:
            found = [*first, *range(begin, len(roles))]
            if sum(sizes[i] for i in found) < room:
                return found
        raise ValueError("no room")

    assert check("17.3", kept).passed


def test_cutting_messages_from_the_front_is_named():
    def kept(roles: list[str], sizes: list[int], room: int) -> list[int]:
        first = [0][:roles[0] == "system"]
        rest = [*range(len(first), len(roles))]
        while 1 + sum(sizes[i] for i in first + rest) > room:
            if len(rest) == 1:
                raise ValueError("no room")
            rest.pop(0)
        return first + rest

    report = check("17.3", kept)
    assert report.status == "wrong"


def turns(*, first: bool = True, greeting: bool = True, always: bool = False) -> Callable:
    """Beginnings tried one by one, the earliest first."""
    def kept(roles: list[str], sizes: list[int], room: int) -> list[int]:
        stay = {i for i, role in enumerate(roles)
                if role == "system" and (always or first and i == 0)}
        begins = {0} if greeting else set()
        for begin in sorted(begins | {i for i, role in enumerate(roles) if role == "user"}):
            found = sorted(stay | {*range(begin, len(roles))})
            if 1 + sum(sizes[i] for i in found) <= room:
                return found
        raise ValueError("no room")

    return kept


def test_beginnings_of_every_kind_pass():
    assert check("17.3", turns()).passed


@pytest.mark.parametrize(("wrong", "name"), [
    (turns(greeting=False), "greeting lost"),
    (turns(first=False), "system message lost"),
    (turns(always=True), "every system message stays")])
def test_what_stands_before_a_turn_or_within_it_is_asked(wrong: Callable, name: str):
    assert check("17.3", wrong).diagnosis == name


def test_cutting_at_the_end_is_named():
    def kept(roles: list[str], sizes: list[int], room: int) -> list[int]:
        n = len(roles)
        while n and 1 + sum(sizes[:n]) > room:
            n -= 1
        if n < 2:
            raise ValueError("no room")
        return list(range(n))

    assert check("17.3", kept).diagnosis == "the first turns"


# -- Ghost Attention ----------------------------------------------------------------------------


def without_reminders(talk: list, questions: list[str]) -> tuple[list, list[bool]]:
    clean = [(role, questions[i // 2] if role == "user" and i else said)
             for i, (role, said) in enumerate(talk)]
    return clean, [False] * (len(clean) - 1) + [True]


def test_a_copy_for_each_reply_passes():
    def ghost_data(rule: str, questions: list[str], reply: Callable) -> tuple:
        talk = []
        for question in questions:
            talk.append(("user", f"{rule} {question}"))
            talk.append(("assistant", reply(talk[:])))
        return without_reminders(talk, questions)

    assert check("17.4", ghost_data).passed


@pytest.mark.parametrize("at_once", [False, True])
def test_a_list_that_changes_after_it_was_given_is_named(at_once: bool):
    def ghost_data(rule: str, questions: list[str], reply: Callable) -> tuple:
        talk = []
        for question in questions:
            talk.append(("user", f"{rule} {question}"))
            answer = reply(talk)
            if at_once and len(talk) > 1:
                talk[-1] = ("user", question)
            talk.append(("assistant", answer))
        return without_reminders(talk, questions)

    report = check("17.4", ghost_data)
    assert "reply([*talk])" in report.message
    assert at_once or report.diagnosis == "list changed afterwards"


def test_a_reminder_at_the_newest_question_only_is_named():
    def ghost_data(rule: str, questions: list[str], reply: Callable) -> tuple:
        talk = []
        for question in questions:
            answer = reply([*talk, ("user", f"{rule} {question}")])
            talk += [("user", question if talk else f"{rule} {question}"), ("assistant", answer)]
        return talk, [False] * (len(talk) - 1) + [True]

    assert check("17.4", ghost_data).diagnosis == "newest question reminded"


# -- the narrow path ----------------------------------------------------------------------------


class Path8(nn.Module):
    """A layer as peft writes it: two linear layers without bias, A and B their weights."""

    def __init__(self, weight: Tensor, rank: int, alpha: float):
        super().__init__()
        self.base = nn.Linear(*weight.T.shape, bias=False).requires_grad_(False)
        self.base.weight = nn.Parameter(weight.clone(), requires_grad=False)
        self.a = nn.Parameter(torch.empty(rank, weight.shape[1]).normal_())
        self.b = nn.Parameter(torch.zeros(len(weight), rank))
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + nn.functional.linear(x @ self.a.T, self.b) * self.scale

    def merged(self) -> Tensor:
        return self.base.weight + self.scale * torch.einsum("or,ri->oi", self.b, self.a)


def test_a_layer_around_a_linear_layer_passes():
    assert check("17.5", Path8).passed


def test_a_layer_without_a_and_b_is_told_what_is_needed():
    class Nameless(nn.Module):
        def __init__(self, weight: Tensor, rank: int, alpha: float):
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return x

    assert "no nn.Parameter called `a`" in check("17.5", Nameless).message


def test_both_zero_is_sent_to_the_gradients():
    class Dead(Path8):
        def __init__(self, weight: Tensor, rank: int, alpha: float):
            super().__init__(weight, rank, alpha)
            self.a = nn.Parameter(torch.zeros_like(self.a))

    report = check("17.5", Dead)
    assert report.diagnosis == "both zero"
    assert "the way back" in report.message


class Alike(Path8):
    def __init__(self, weight: Tensor, rank: int, alpha: float):
        super().__init__(weight, rank, alpha)
        self.a = nn.Parameter(torch.full_like(self.a, 0.5))


class BothDrawn(Path8):
    def __init__(self, weight: Tensor, rank: int, alpha: float):
        super().__init__(weight, rank, alpha)
        self.b = nn.Parameter(torch.randn_like(self.b) / 100)


class Lying(Path8):
    def __init__(self, weight: Tensor, rank: int, alpha: float):
        super().__init__(weight, rank, alpha)
        self.a, self.b = nn.Parameter(self.a.detach().T), nn.Parameter(self.b.detach().T)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * x @ self.a @ self.b


class Exchanged(Path8):
    def __init__(self, weight: Tensor, rank: int, alpha: float):
        super().__init__(weight, rank, alpha)
        self.a, self.b = self.b, self.a

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * (x @ self.b.T) @ self.a.T


class Wasteful(Path8):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.merged().T


class Unkept(Path8):
    def __init__(self, weight: Tensor, rank: int, alpha: float):
        super().__init__(weight, rank, alpha)
        del self.base
        self.held = weight

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.held.T + self.scale * (x @ self.a.T) @ self.b.T

    def merged(self) -> Tensor:
        return self.held + self.scale * self.b @ self.a


class UnscaledForward(Path8):
    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (x @ self.a.T) @ self.b.T


def test_a_path_without_its_scale_is_told_so_by_what_the_right_code_does():
    report = check("17.5", UnscaledForward)
    assert report.status == "wrong"
    assert "`self.scale *` left out" in report.message


class InPlace(Path8):
    @torch.no_grad()
    def merged(self) -> Tensor:
        self.base.weight += self.scale * self.b @ self.a
        return self.base.weight


@pytest.mark.parametrize(("layer", "name"), [
    (Alike, "rows of A alike"), (BothDrawn, "B drawn at random"),
    (Lying, "A and B on their sides"), (Exchanged, "letters exchanged"),
    (Wasteful, "merged at every step"), (Unkept, "weight not kept"), (InPlace, "merged in place")])
def test_a_layer_that_begins_or_works_otherwise_is_named(layer: type, name: str):
    assert check("17.5", layer).diagnosis == name


# -- the way back -------------------------------------------------------------------------------


def test_gradients_by_einsum_and_a_view_of_the_weight_pass():
    def way_back(x: Tensor, g: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float):
        s = alpha / len(a)
        h, back = torch.einsum("ti,ri->tr", x, a), torch.einsum("to,or->tr", g, b)
        return (nn.functional.linear(g, weight.T) + s * torch.einsum("tr,ri->ti", back, a),
                s * torch.einsum("tr,ti->ri", back, x), s * torch.einsum("to,tr->or", g, h))

    assert check("17.7", way_back).passed


def test_autograd_is_refused():
    def way_back(x: Tensor, g: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float):
        leaves = [each.clone().requires_grad_() for each in (x, a, b)]
        y = leaves[0] @ weight.T + alpha / len(a) * leaves[0] @ leaves[1].T @ leaves[2].T
        return torch.autograd.grad(y, leaves, g)

    assert "runs without autograd" in check("17.7", way_back).message


def test_the_gradient_of_the_large_matrix_is_named():
    def way_back(x: Tensor, g: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float):
        s, whole = alpha / len(a), g.T @ x
        return g @ weight + s * (g @ b) @ a, s * b.T @ whole, s * whole @ a.T

    assert check("17.7", way_back).diagnosis == "the large matrix made"


def test_gradients_of_the_path_alone_without_its_scale_are_named():
    def way_back(x: Tensor, g: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float):
        return g @ weight + alpha / len(a) * (g @ b) @ a, (g @ b).T @ x, g.T @ (x @ a.T)

    assert check("17.7", way_back).diagnosis == "A and B not scaled"


def test_a_rank_read_from_the_wrong_axis_is_named():
    def way_back(x: Tensor, g: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float):
        s = alpha / len(b)
        return g @ weight + s * (g @ b) @ a, s * (g @ b).T @ x, s * g.T @ (x @ a.T)

    assert check("17.7", way_back).diagnosis == "divided by the rows of B"
