"""Byte-level BPE: every merge against the definition, and against the Rust trainer."""

import json
from collections import Counter
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from llama_edu.data import samples
from llama_edu.tokenizer import BytePairs
from llama_edu.tokenizer.bpe import count_chunks, grow, split
from llama_edu.tokenizer.merging import merge_all, merge_steps

ENDS = ("<|begin_of_text|>", "<|end_of_text|>")
REAL_TEXT = samples.sample("python") + "\n".join(
    "\n".join(lines) for lines in samples.parallel().values())


def merges_by_definition(chunks):
    """Count all pairs, merge the most frequent one everywhere, and begin again."""
    pieces = [bytes([byte]) for byte in range(256)]
    words = [(list(chunk), n) for chunk, n in chunks.items()]
    while True:
        counts = Counter()
        for tokens, n in words:
            for pair in pairwise(tokens):
                counts[pair] += n
        if not counts:
            return
        pair, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
        left, right = (pieces[token] for token in pair)
        new = len(pieces)
        pieces.append(left + right)
        yield left, right, count
        for tokens, _ in words:
            i = 0
            while i < len(tokens) - 1:
                if (tokens[i], tokens[i + 1]) == pair:
                    tokens[i : i + 2] = [new]
                i += 1


def merges_of_the_rust_trainer(chunks, n):
    """Its own alphabet is sorted by character, so byte b is given as character 0x4E00 + b."""
    spelled = {b: chr(0x4E00 + b) for b in range(256)}
    text = ["".join(spelled[b] for b in chunk) for chunk, k in chunks.items() for _ in range(k)]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=256 + n, show_progress=False, initial_alphabet=list(spelled.values())))
    merges = json.loads(inner.to_str())["model"]["merges"]
    return [tuple(bytes(ord(c) - 0x4E00 for c in part) for part in merge) for merge in merges]


# Few letters and short words: almost every step has a tie, and pairs overlap themselves.
@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.text("ab", min_size=1, max_size=12).map(str.encode),
                       st.integers(1, 3), max_size=6))
def test_every_merge_is_the_one_of_the_definition(chunks):
    assert list(grow(chunks)) == list(merges_by_definition(chunks))


@settings(max_examples=200, deadline=None)
@given(st.text("abc \n1é", max_size=60))
def test_every_merge_is_the_one_of_the_definition_after_splitting(text):
    chunks = count_chunks(text)
    assert list(grow(chunks)) == list(merges_by_definition(chunks))


def test_every_merge_of_a_real_text_is_the_one_of_the_definition():
    chunks = count_chunks(REAL_TEXT[:6000])
    assert list(islice(grow(chunks), 250)) == list(islice(merges_by_definition(chunks), 250))


def test_every_merge_of_a_real_text_is_the_one_of_the_rust_trainer():
    chunks = count_chunks(REAL_TEXT)
    theirs = merges_of_the_rust_trainer(chunks, 1000)
    assert len(theirs) == 1000
    assert [merge[:2] for merge in islice(grow(chunks), 1000)] == theirs


def test_a_tie_goes_to_the_smaller_pair_and_not_to_the_first_seen():
    first = next(grow({b"zy": 1, b"ab": 1}))
    assert first == (b"a", b"b", 1)
    # Pieces are numbered after all bytes: once "ab" is one, (c, d) is smaller than (ab, c).
    assert [m.piece for m in islice(grow({b"abc": 2, b"cd": 2, b"ab": 1}), 2)] == [b"ab", b"cd"]


def test_overlapping_pairs_all_count_but_merge_from_the_left():
    merges = list(grow({b"aaa": 1}))
    assert merges == [(b"a", b"a", 2), (b"aa", b"a", 1)]
    assert [m.piece for m in grow({b"aaaa": 1})] == [b"aa", b"aaaa"]


def test_no_piece_is_made_by_two_pairs():
    for text in (REAL_TEXT, "ab" * 50, "aabab" * 7 + "a" * 30):
        pieces = [merge.piece for merge in grow(count_chunks(text))]
        assert len(set(pieces)) == len(pieces) > 0


def test_no_piece_crosses_a_border():
    text = "the cat. the cat. the cat. 12345 12345 the\n\nthe\n\n" * 3
    pieces = [merge.piece for merge in grow(count_chunks(text))]
    assert {b" the", b" cat", b"123", b"45"} <= set(pieces)
    assert not [p for p in pieces if b"the cat" in p or b"1234" in p or b"cat." in p]


@pytest.mark.parametrize(("text", "chunks"), [
    ("Hello world", ["Hello", " world"]),
    ("don't DON'T", ["don", "'t", " DON", "'T"]),
    ("12345", ["123", "45"]),
    ("a  b", ["a", " ", " b"]),
    ("x = 1\n\n  y", ["x", " =", " ", "1", "\n\n", " ", " y"]),
    ("日本語!", ["日本語", "!"])])
def test_a_text_is_split_by_the_pattern_of_llama_3(text, chunks):
    assert split(text) == chunks


LETTERS = {b"".join(p): i for i, p in enumerate(
    [(b"a",), (b"b",), (b"a", b"b"), (b"b", b"a"), (b"a", b"a"), (b"ab", b"a"), (b"aa", b"ab"),
     (b"ba", b"b"), (b"bab", b"a"), (b"aa", b"aa")])}


@settings(max_examples=500, deadline=None)
@given(st.text("abc", max_size=25))
def test_the_queue_ends_where_the_definition_of_encoding_ends(text):
    parts = [letter.encode() for letter in text]
    assert merge_all(parts, LETTERS) == list(merge_steps(parts, LETTERS))[-1]


def test_encoding_merges_by_rank_and_not_by_length_or_frequency():
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"bc": 3, b"ab": 4}
    assert merge_all([b"a", b"b", b"c", b"a", b"b", b"a", b"b"], ranks) == \
        [b"a", b"bc", b"ab", b"ab"]


@pytest.fixture(scope="module")
def words():
    return BytePairs.train(REAL_TEXT, n_vocab=700, special=ENDS)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_every_text_comes_back(words, text):
    ids = words.encode(text)
    assert words.decode(ids) == text
    assert len(words.pieces(text)) == len(ids)


def test_training_makes_texts_shorter(words):
    n_bytes = len(REAL_TEXT.encode())
    assert len(words.encode(REAL_TEXT)) < n_bytes / 2      # a piece has two bytes or more
    assert words.n_vocab == 700


def test_broken_utf8_is_visible(words):
    llama = words.encode("🦙")
    assert words.pieces("🦙") == ["<0xF0>", "<0x9F>", "<0xA6>", "<0x99>"]
    assert words.decode(llama[:2]) == "\ufffd"
    assert words.decode([*llama[:3], *words.encode("x")]) == "\ufffdx"


def test_special_text_is_ordinary_unless_allowed(words):
    text = "a<|end_of_text|>b"
    ids = words.encode(text)
    assert words.eos_id not in ids
    assert words.decode(ids) == text
    allowed = words.encode(text, bos=True, eos=True, allow_special={"<|end_of_text|>"})
    assert allowed == [words.bos_id, ord("a"), words.eos_id, ord("b"), words.eos_id]
    assert (words.bos_id, words.eos_id, words.stop_ids) == (698, 699, {699})
    assert words.decode(allowed) == "ab"


def test_a_special_piece_may_begin_with_another(words):
    nested = BytePairs(words.ranks, special={"<a": 1000, "<a>": 1001})
    assert nested.encode("<a><a", allow_special=["<a", "<a>"]) == [1001, 1000]


def test_a_saved_vocabulary_comes_back(words, tmp_path):
    words.save(tmp_path / "own.model")
    again = BytePairs.load(tmp_path / "own.model", special=ENDS)
    assert again.ranks == words.ranks
    assert again.encode(REAL_TEXT, bos=True, eos=True) == words.encode(
        REAL_TEXT, bos=True, eos=True)


def test_a_text_may_be_too_short_for_a_vocabulary():
    with pytest.raises(ValueError, match="gives 258 pieces and no pair is left; 300 were asked"):
        BytePairs.train("abc", n_vocab=300)


def test_bad_input_is_refused(words):
    with pytest.raises(ValueError, match=r"lone surrogate U\+D83E at position 1; no UTF-8 exists"):
        words.encode("a\ud83e")
    with pytest.raises(ValueError, match=r"token 700 was given; this vocabulary has 0 to 699"):
        words.decode([700])
    with pytest.raises(ValueError, match="token -1 was given"):
        words.decode([-1])
    with pytest.raises(ValueError, match=r"'<\|eot_id\|>' is not a special piece.*Allow one"):
        words.encode("a", allow_special={"<|eot_id|>"})
    with pytest.raises(ValueError, match="this vocabulary names no first token of a text"):
        BytePairs(words.ranks).encode("a", bos=True)


# -- special pieces, gaps, and what a file holds -----------------------------------------------

def test_special_pieces_are_shown_where_they_stand(words):
    text = "<|begin_of_text|>a llama<|end_of_text|><|end_of_text|> sleeps"
    ids = words.encode(text, allow_special=ENDS)
    assert words.decode(ids, special=True) == text
    assert words.decode(ids) == "a llama sleeps"


def test_what_is_saved_comes_back_whole(words, tmp_path):
    """Special pieces and the pattern too: the file of ranks has no place for them."""
    for made in (words, BytePairs(words.ranks),
                 BytePairs(words.ranks, special={"<a>": 900}, pattern=r"\s|\S+"),
                 BytePairs(dict(reversed(words.ranks.items())))):
        made.save(tmp_path / "own.model")
        again = BytePairs.load(tmp_path / "own.model")
        assert (again.ranks, again.special, again.pattern) == (
            made.ranks, made.special, made.pattern)
        assert again.encode(REAL_TEXT) == made.encode(REAL_TEXT)
    BytePairs(words.ranks).save(tmp_path / "own.model")
    assert [file.name for file in tmp_path.iterdir()] == ["own.model"]


def test_ranks_that_could_not_be_loaded_are_not_saved(words, tmp_path):
    shifted = {piece: 1 + i for piece, i in words.ranks.items()}
    for ranks in (shifted, {b"a": 0, b"b": 1}, {}):
        with pytest.raises(ValueError, match=f"{len(ranks)} ranks .* cannot be saved; .* Number"):
            BytePairs(ranks, special={"<a>": 900}).save(tmp_path / "own.model")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("notes", ["[", "[]", "{}", '{"special": 3, "pattern": null}',
                                   '{"special": {"<a>": "x"}, "pattern": null}',
                                   '{"special": {}, "pattern": 3}'])
def test_notes_that_are_broken_are_refused(words, tmp_path, notes):
    words.save(tmp_path / "own.model")
    (tmp_path / "own.model.json").write_text(notes)
    with pytest.raises(ValueError, match="is not what BytePairs.save notes beside its ranks"):
        BytePairs.load(tmp_path / "own.model")


def test_a_number_that_no_piece_has_is_refused(words):
    gap = BytePairs(words.ranks, special={"<a>": 1000})
    assert gap.n_vocab == 1001
    with pytest.raises(ValueError, match="token 999 was given; this vocabulary leaves out that"):
        gap.decode([1000, 999])
