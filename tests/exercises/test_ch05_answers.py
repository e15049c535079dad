"""Answers to chapter 05 that polite probes let through, each refused and named; and right ones."""

import sys
import time
import unicodedata
from collections.abc import Callable
from itertools import groupby, pairwise
from pathlib import Path

import pytest
import regex

from llama_edu.exercises import check


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the reader's own progress out of it."""
    monkeypatch.chdir(tmp_path)


def merge(tokens, pair, new):
    merged, i = [], 0
    while i < len(tokens):
        found = tuple(tokens[i : i + 2]) == pair
        merged.append(new if found else tokens[i])
        i += 2 if found else 1
    return merged


def encode(chunk, ranks):
    parts = [bytes([byte]) for byte in chunk]
    while pairs := [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts))
                    if a + b in ranks]:
        i = min(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [ranks[part] for part in parts]


def decode(ids, spelling):
    return b"".join(spelling[i] for i in ids).decode(errors="replace")


def llama2_tokens(text, ids):
    tokens = [1]
    for character in "▁" + text.replace(" ", "▁") if text else "":
        tokens += [ids[character]] if character in ids else [3 + b for b in character.encode()]
    return tokens


def one_turn(message, tokenizer):
    return [*tokenizer.encode(message, bos=True), tokenizer.special["<|eot_id|>"]]


# -- right answers, written otherwise -----------------------------------------------------------


def merge_by_runs(tokens, pair, new):
    """No index: a text of placeholders, replaced by a regular expression."""
    text = "".join(chr(1000 + token) for token in tokens)
    text = text.replace(chr(1000 + pair[0]) + chr(1000 + pair[1]), chr(1000 + new))
    return [ord(letter) - 1000 for letter in text]


def merge_in_place(tokens, pair, new):
    tokens, i = list(tokens), 0
    while i < len(tokens) - 1:
        if (tokens[i], tokens[i + 1]) == pair:
            tokens[i : i + 2] = [new]
        i += 1
    return tokens


def encode_as_integers(chunk, ranks):
    """Tokens instead of pieces, the place of the best pair found by `min` with a default."""
    spelling = {rank: piece for piece, rank in ranks.items()}
    ids = [ranks[chunk[i : i + 1]] for i in range(len(chunk))]
    while True:
        both = [ranks.get(spelling[a] + spelling[b], 10**9) for a, b in pairwise(ids)]
        if min(both, default=10**9) == 10**9:
            return ids
        i = both.index(min(both))
        ids[i : i + 2] = [both[i]]


def encode_recursively(chunk, ranks):
    def shorter(parts):
        best = min(((ranks.get(a + b, 10**9), i) for i, (a, b) in enumerate(pairwise(parts))),
                   default=(10**9, 0))
        if best[0] == 10**9:
            return parts
        i = best[1]
        return shorter((*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]))

    return [ranks[part] for part in shorter(tuple(bytes([byte]) for byte in chunk))]


def decode_into_an_array(ids, spelling):
    data = bytearray()
    for i in ids:
        data += spelling[i]
    return str(data, "utf-8", "replace")


def cut_by_counting(digits, n):
    return ["".join(digit for _, digit in group)
            for _, group in groupby(enumerate(digits), lambda each: each[0] // n)]


@pytest.mark.parametrize(("exercise", "answer"), [
    ("5.2", merge), ("5.2", merge_by_runs), ("5.2", merge_in_place),
    ("5.3", encode), ("5.3", encode_as_integers), ("5.3", encode_recursively),
    ("5.3", lambda chunk, ranks: encode(bytearray(chunk), ranks)),
    ("5.4", decode), ("5.4", decode_into_an_array),
    ("5.5", cut_by_counting), ("5.5", lambda digits, n: regex.findall(rf".{{1,{n}}}", digits)),
    ("5.6", llama2_tokens), ("5.7", one_turn),
    ("5.7", lambda message, tokenizer: [
        tokenizer.bos_id, *tokenizer.encode(message), tokenizer.special["<|eot_id|>"]]),
])
def test_a_right_answer_passes_however_it_is_written(exercise: str, answer: Callable):
    assert check(exercise, answer).passed


# -- wrong answers that small ASCII letters cannot tell from right ones -------------------------


def encode_text(chunk, ranks):
    """Right on ASCII: the same loop on characters."""
    names = {piece.decode(errors="replace"): rank for piece, rank in ranks.items()}
    return encode_strings(list(chunk.decode(errors="replace")), names)


def encode_text_strictly(chunk, ranks):
    return encode_strings(list(chunk.decode()),
                          {piece.decode(): rank for piece, rank in ranks.items()})


def encode_strings(parts, names):
    while pairs := [(names[a + b], i) for i, (a, b) in enumerate(pairwise(parts))
                    if a + b in names]:
        i = min(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [names[part] for part in parts]


def encode_in_the_dicts_order(chunk, ranks):
    order = list(ranks)
    parts = [bytes([byte]) for byte in chunk]
    while places := [(order.index(a + b), i) for i, (a, b) in enumerate(pairwise(parts))
                     if a + b in ranks]:
        i = min(places)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [ranks[part] for part in parts]


def sweep(chunk, ranks, pieces):
    parts = [bytes([byte]) for byte in chunk]
    for piece in pieces:
        i = 0
        while i + 1 < len(parts):
            if parts[i] + parts[i + 1] == piece:
                parts[i : i + 2] = [piece]
            i += 1
    return [ranks[part] for part in parts]


TOUCHED = {
    "stripped": (str.strip, str.lstrip, str.rstrip, lambda text: text.strip(" ")),
    "white space squeezed": (lambda text: " ".join(text.split()),),
    "line ends changed": (lambda text: text.replace("\r\n", "\n"),
                          lambda text: "\n".join(text.splitlines())),
    "lower case": (str.lower, str.casefold),
    "normalised": tuple(lambda text, form=form: unicodedata.normalize(form, text)
                        for form in ("NFC", "NFD", "NFKC", "NFKD")),
    "only ASCII": (lambda text: text.encode("ascii", "ignore").decode(),),
}
SPOILT = {
    "5.3": lambda change: lambda chunk, ranks: encode(change(chunk.decode()).encode(), ranks),
    "5.4": lambda change: lambda ids, spelling: change(decode(ids, spelling)),
    "5.6": lambda change: lambda text, ids: llama2_tokens(change(text), ids),
    "5.7": lambda change: lambda message, tokenizer: one_turn(change(message), tokenizer),
}


@pytest.mark.parametrize(("exercise", "name", "change"), [
    pytest.param(exercise, name, change, id=f"{exercise} {name} {i}") for exercise in SPOILT
    for name, changes in TOUCHED.items() for i, change in enumerate(changes)])
def test_an_answer_that_touches_the_text_is_refused_and_named(
        exercise: str, name: str, change: Callable):
    report = check(exercise, SPOILT[exercise](change))
    assert report.status == "wrong"
    dropped = {"stripped", "white space squeezed"}
    assert report.diagnosis == (
        "a space dropped" if exercise == "5.6" and name in dropped else name)


@pytest.mark.parametrize(("answer", "name"), [
    (encode_text, "text instead of bytes"), (encode_text_strictly, "text instead of bytes"),
    (encode_in_the_dicts_order, "the dict's order"),
    (lambda chunk, ranks: sweep(chunk, ranks, ranks), "the dict's order"),
    (lambda chunk, ranks: sweep(chunk, ranks, sorted(ranks, key=ranks.get)), "one sweep"),
    (lambda chunk, ranks: encode(chunk.decode(errors="ignore").encode(), ranks),
     "broken bytes dropped"),
    (lambda chunk, ranks: encode(chunk.strip(), ranks), "stripped"),
    (lambda chunk, ranks: encode(chunk.lower(), ranks), "lower case"),      # ASCII alone
])
def test_a_wrong_encoder_is_refused_and_named(answer: Callable, name: str):
    report = check("5.3", answer)
    assert report.status == "wrong"
    assert report.diagnosis == name


@pytest.mark.parametrize(("answer", "name"), [
    (lambda digits, n: [str(int(digits))[i : i + n] for i in range(0, len(str(int(digits))), n)],
     "read as a number"),
    (lambda digits, n: regex.findall(rf"[0-9]{{1,{n}}}", digits), "only ASCII"),
])
def test_a_wrong_cut_is_refused_and_named(answer: Callable, name: str):
    assert check("5.5", answer).diagnosis == name


# -- loops without end --------------------------------------------------------------------------


def merge_without_moving_on(tokens, pair, new):
    merged, i = [], 0
    while i < len(tokens):
        if i + 1 < len(tokens) and (tokens[i], tokens[i + 1]) == pair:
            merged.append(new)
            i += 2
        else:
            merged.append(tokens[i])        # and no `i += 1`
    return merged


def encode_without_merging(chunk, ranks):
    parts = [bytes([byte]) for byte in chunk]
    while any(a + b in ranks for a, b in pairwise(parts)):
        pass
    return [ranks[part] for part in parts]


def test_a_merge_that_never_moves_on_is_stopped_and_named():
    start = time.monotonic()
    report = check("5.2", merge_without_moving_on)
    assert report.diagnosis == "the index stands still"
    assert "your loop never ends" in report.message
    assert time.monotonic() - start < 30        # seconds; it takes one


def test_an_encoder_that_never_ends_is_stopped_with_a_sentence():
    report = check("5.3", encode_without_merging)
    assert report.status == "wrong"
    assert "it did not end after 50,000 lines of Python" in report.message


def test_a_debuggers_trace_is_given_back():
    seen = []

    def trace(frame, event, argument):
        seen.append(event)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        check("5.2", merge_without_moving_on)
        after = sys.gettrace()
    finally:
        sys.settrace(before)
    assert after is trace
