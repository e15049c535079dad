"""Answers to chapter 05 that polite probes let through, each refused and named; and right ones."""

import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from llama_edu.data.samples import parallel, sample
from llama_edu.exercises import check
from llama_edu.exercises.ch05_tokenizers_hunt import HUNT, vocabulary
from llama_edu.exercises.hunts import HEALTHY
from llama_edu.tokenizer import BytePairs


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


def train(chunks, n_merges, *, merge=merge, choose=lambda counts: min(
        counts, key=lambda pair: (-counts[pair], pair))):
    words, merges = [(list(chunk), n) for chunk, n in chunks.items()], []
    while len(merges) < n_merges:
        counts = Counter()
        for tokens, n in words:
            for pair in pairwise(tokens):
                counts[pair] += n
        if not counts:
            break
        merges.append(choose(counts))
        words = [(merge(tokens, merges[-1], 255 + len(merges)), n) for tokens, n in words]
    return merges


def encode(chunk, ranks):
    parts = [bytes([byte]) for byte in chunk]
    while pairs := [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts))
                    if a + b in ranks]:
        i = min(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [ranks[part] for part in parts]


def llama2_tokens(text, ids):
    tokens = [1]
    for character in "▁" + text.replace(" ", "▁") if text else "":
        tokens += [ids[character]] if character in ids else [3 + b for b in character.encode()]
    return tokens


# -- right answers, written otherwise -----------------------------------------------------------


def train_on_letters(chunks, n_merges):
    """No index: chunks as text, a pair replaced by one new letter."""
    words, merges = [("".join(map(chr, chunk)), n) for chunk, n in chunks.items()], []
    for new in range(256, 256 + n_merges):
        counts = Counter()
        for word, n in words:
            for a, b in pairwise(word):
                counts[ord(a), ord(b)] += n
        if not counts:
            return merges
        best = min(pair for pair in counts if counts[pair] == max(counts.values()))
        merges.append(best)
        words = [(word.replace(chr(best[0]) + chr(best[1]), chr(new)), n) for word, n in words]
    return merges


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


def all_pairs_of_two(letters):
    """Every pair of letters is a piece, those further behind of lower rank."""
    at = {letter: i for i, letter in enumerate(letters)}
    pairs = sorted(((a, b) for a in letters for b in letters if at[b] == at[a] + 1),
                   key=lambda pair: -at[pair[0]])
    return {bytes([letter]): 900 + at[letter] for letter in letters} | {
        bytes(pair): i for i, pair in enumerate(pairs)}


def fewest_by_steps(chunk, ranks):
    """How far one comes with 0, 1, 2, ... pieces."""
    reached, n = {0}, 0
    while len(chunk) not in reached:
        reached = {end for start in reached for end in range(start + 1, len(chunk) + 1)
                   if chunk[start:end] in ranks}
        n += 1
    return n


def fewest_from_behind(chunk, ranks):
    best = [0] * (len(chunk) + 1)
    for i in reversed(range(len(chunk))):
        best[i] = 1 + min(best[i + len(piece)] for piece in ranks if chunk.startswith(piece, i))
    return best[0]


@pytest.mark.parametrize(("exercise", "answer"), [
    ("5.1", train), ("5.1", train_on_letters),
    ("5.2", encode), ("5.2", encode_as_integers), ("5.2", encode_recursively),
    ("5.2", lambda chunk, ranks: encode(bytearray(chunk), ranks)),
    ("5.3", all_pairs_of_two),
    ("5.4", fewest_by_steps), ("5.4", fewest_from_behind),
    ("5.5", llama2_tokens),
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
    "5.2": lambda change: lambda chunk, ranks: encode(change(chunk.decode()).encode(), ranks),
    "5.5": lambda change: lambda text, ids: llama2_tokens(change(text), ids),
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
        "a space dropped" if exercise == "5.5" and name in dropped else name)


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
    report = check("5.2", answer)
    assert report.status == "wrong"
    assert report.diagnosis == name


def train_frequent(chunks, n_merges):
    """Ends where the best pair stands only once."""
    last = {}

    def choose(counts):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        last[len(last)] = counts[best]
        return best

    merges = train(chunks, n_merges, choose=choose)
    return [merge for i, merge in enumerate(merges) if last[i] > 1]


@pytest.mark.parametrize(("answer", "name"), [
    (lambda chunks, n_merges: train(chunks, n_merges, choose=lambda counts: counts.most_common(
        1)[0][0]), "the first seen wins"),
    (lambda chunks, n_merges: train(chunks, n_merges, merge=lambda tokens, pair, new: tokens),
     "nothing merged"),
    (train_frequent, "stopped at pairs that stand once"),
])
def test_a_wrong_training_is_refused_and_named(answer: Callable, name: str):
    assert check("5.1", answer).diagnosis == name


@pytest.mark.parametrize(("answer", "name"), [
    (lambda chunk, ranks: len(encode(chunk, ranks)), "merging"),
    (lambda chunk, ranks: fewest_by_steps(chunk, ranks) or 1, "nothing is one token"),
])
def test_a_count_that_is_not_the_fewest_is_refused_and_named(answer: Callable, name: str):
    assert check("5.4", answer).diagnosis == name


def fewest_within(most):
    """The right table, with pieces of so many bytes at most."""
    def fewest(chunk, ranks):
        best = [0]
        for end in range(1, len(chunk) + 1):
            starts = range(max(0, end - most), end)
            best.append(1 + min(best[i] for i in starts if chunk[i:end] in ranks))
        return best[-1]
    return fewest


@pytest.mark.parametrize("most", [2, 3, 4, 5, 6, 8, 10, 12, 16])
def test_a_table_that_looks_at_short_pieces_only_is_told_so(most: int):
    assert check("5.4", fewest_within(most)).diagnosis == "pieces of some length at most"


def test_ranks_for_letters_of_ones_own_are_told_so():
    assert check("5.3", lambda letters: all_pairs_of_two(b"abcdef")).diagnosis == "other letters"


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda letters: {letters[i : i + 1]: i for i in range(len(letters))}, "both have `"),
    (lambda letters: all_pairs_of_two(letters) | {letters: 99}, "two at most"),
    (lambda letters: dict.fromkeys(all_pairs_of_two(letters), 7), "have the same rank, 7"),
    (lambda letters: [*letters], "a dict of ranks is needed; this is a list"),
])
def test_wrong_ranks_show_what_they_do(spoil: Callable, said: str):
    assert said in repr(check("5.3", spoil))


def spelled_by(text, ids, *, bos=(1,), spaces=" "):
    """Llama 2's rules with the prefix written apart from the text's own spaces."""
    if not text:
        return [1]
    tokens = list(bos)
    for character in "▁" + "".join("▁" if c in spaces else c for c in text):
        tokens += [ids[character]] if character in ids else [3 + b for b in character.encode()]
    return tokens


@pytest.mark.parametrize(("wrong", "name"), [
    ({"bos": ()}, "no BOS"), ({"spaces": ""}, "spaces as bytes"),
    ({"spaces": " \n"}, "other white space"), ({"spaces": " \t"}, "other white space"),
    ({"spaces": " \n\t\r"}, "other white space"),
])
def test_a_slip_in_llama_2s_rules_is_refused_and_named(wrong: dict, name: str):
    assert check("5.5", lambda text, ids: spelled_by(text, ids)).passed
    assert check("5.5", lambda text, ids: spelled_by(text, ids, **wrong)).diagnosis == name


def test_ranks_of_half_a_number_are_no_ranks():
    report = check("5.3", lambda letters: {
        piece: rank + 0.5 for piece, rank in all_pairs_of_two(letters).items()})
    assert report.status == "wrong"


def test_the_hunts_vocabulary_is_that_of_the_chapter():
    source = (Path(__file__).parents[2] / "chapters/src/05_tokenizers.py").read_text("utf-8")
    assert ('BytePairs.train("\\n".join([*sentences["English"],*[sample("digits")]*3]),'
            'n_vocab=600,special=["<|eot_id|>"])') in "".join(source.split())
    right = BytePairs.train("\n".join([*parallel()["English"], *[sample("digits")] * 3]),
                            n_vocab=600, special=["<|eot_id|>"])
    assert right.ranks == vocabulary().ranks
    for text in (*parallel()["English"], "1234 x² <|eot_id|>"):
        assert HUNT.make(HEALTHY)(text) == right.pieces(text)


def test_the_hunt_shows_what_its_discussion_says():
    right, leftmost, longest, from_the_right, across = map(HUNT.make, (
        HEALTHY, "leftmost pair first", "longest piece first", "digits from the right",
        "merges across chunks"))
    assert right("12345") != from_the_right("12345") == across("12345")
    assert right("1234") != from_the_right("1234") != across("1234")
    assert leftmost(" Monday") != right(" Monday") != longest(" Monday")
    assert leftmost(" mountain") != right(" mountain") == longest(" mountain")


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


def train_without_moving_on(chunks, n_merges):
    return train(chunks, n_merges, merge=merge_without_moving_on)


def encode_without_merging(chunk, ranks):
    parts = [bytes([byte]) for byte in chunk]
    while any(a + b in ranks for a, b in pairwise(parts)):
        pass
    return [ranks[part] for part in parts]


def test_a_merge_that_never_moves_on_is_stopped_and_named():
    start = time.monotonic()
    report = check("5.1", train_without_moving_on)
    assert report.diagnosis == "the index stands still"
    assert "your loop never ends" in report.message
    assert time.monotonic() - start < 30        # seconds; it takes one


def test_an_encoder_that_never_ends_is_stopped_with_a_sentence():
    report = check("5.2", encode_without_merging)
    assert report.status == "wrong"
    assert "it did not end after 50,000 lines of Python" in report.message


def test_a_debuggers_trace_is_given_back():
    seen = []

    def trace(frame, event, argument):
        seen.append(event)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        check("5.1", train_without_moving_on)
        after = sys.gettrace()
    finally:
        sys.settrace(before)
    assert after is trace
