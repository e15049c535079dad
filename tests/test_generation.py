"""Generation as a stream, and text that comes out in whole characters."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from folders import bytes_tokenizer, save_tokenizer, spaces_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from models import STRETCH_8, assert_same, loud_model, some_tokens, tiny_config

from llama_edu import tokenizer
from llama_edu.cache import KVCache
from llama_edu.generation import answer, answers, generate, left_pad, next_logits, stream
from llama_edu.sampling import NO_TOKEN, known, no_repeat, temperature, top_k, top_p

CONFIG = tiny_config(rope_scaling=STRETCH_8, max_seq_len=64)
MODEL = loud_model(CONFIG)
PROMPT = some_tokens(CONFIG, batch=3, length=8)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Both kinds of vocabulary, by name."""
    made = {"bytes": bytes_tokenizer(), "spaces": spaces_tokenizer()}
    return {name: tokenizer.load(save_tokenizer(inner, tmp_path_factory.mktemp(name)))
            for name, inner in made.items()}


def scripted(tokens, n_vocab):
    """A stand-in for a model: it says these tokens, one a pass, whatever it reads."""
    script = iter(tokens)

    def hidden(_, cache, **__):
        assert cache.max_len >= len(tokens)
        return torch.nn.functional.one_hot(torch.tensor([[next(script)]]), n_vocab).float()

    return SimpleNamespace(
        hidden=hidden, logits=torch.nn.Identity(),
        new_cache=partial(KVCache, 1),
        config=tiny_config(max_seq_len=4096, vocab_size=n_vocab),
        tok_embeddings=SimpleNamespace(weight=torch.zeros(1)))


def say(vocabulary, prompt, tokens):
    """The pieces of an answer that consists of these tokens."""
    model = scripted(tokens, vocabulary.n_vocab)
    return list(answer(model, vocabulary, prompt, top_k(1), max_new=len(tokens)))


# -- stream ------------------------------------------------------------------------------------

def test_greedy_generation_equals_the_full_forward_each_time():
    made = torch.cat(list(stream(MODEL, PROMPT, top_k(1), max_new=20)), dim=1)
    tokens = PROMPT
    for _ in range(20):
        tokens = torch.cat([tokens, MODEL(tokens)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(made, tokens[:, 8:])


def test_the_generator_decides_the_draw():
    one, two, other = (
        torch.cat(list(stream(MODEL, PROMPT, temperature(2.0), max_new=20,
                              generator=torch.Generator().manual_seed(seed))))
        for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_the_caller_decides_when_to_stop():
    tokens = stream(MODEL, PROMPT, top_k(1), max_new=50)
    assert next(tokens).shape == (3, 1)
    tokens.close()


def test_generation_fills_the_context_to_the_last_token():
    assert len(list(stream(MODEL, PROMPT, top_k(1), max_new=56))) == 56
    with pytest.raises(ValueError, match="prompt has 8 tokens and 57 more.*context is 64. Shorten"):
        next(stream(MODEL, PROMPT, top_k(1), max_new=57))


@pytest.mark.parametrize("max_new", [0, -3])
def test_fewer_than_one_new_token_is_refused(max_new):
    with pytest.raises(ValueError, match=f"{max_new} new tokens were asked for; 1 or more"):
        next(stream(MODEL, PROMPT, max_new=max_new))


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(ValueError, match="the prompt has no tokens; at least one is needed"):
        next(stream(MODEL, PROMPT[:, :0], max_new=1))


# -- several texts at once ---------------------------------------------------------------------

RAGGED = [PROMPT[0, :8], PROMPT[1, :3], PROMPT[2, :1], PROMPT[0, 2:7]]


def greedy(model, prompt, **more):
    return torch.cat(list(stream(model, prompt, top_k(1), **more)), dim=1)


def test_prompts_of_any_lengths_answer_as_if_each_were_alone():
    made = greedy(MODEL, left_pad(RAGGED), max_new=12)
    alone = [greedy(MODEL, prompt[None], max_new=12) for prompt in RAGGED]
    assert torch.equal(made, torch.cat(alone))
    assert len({tuple(row) for row in made.tolist()}) > 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 5))
def test_padding_changes_no_logits(lengths, more):
    """The prompt in one pass and `more` tokens one by one, in a batch and alone."""
    tokens = some_tokens(CONFIG, batch=len(lengths), length=20)
    rows = [row[:length + more] for row, length in zip(tokens, lengths, strict=True)]
    text = left_pad(rows)
    pads, t = (text == NO_TOKEN).sum(1), text.shape[1]
    cache = MODEL.new_cache(len(rows), t)
    with torch.inference_mode():
        for end in range(t - more, t + 1):
            logits = next_logits(MODEL, text[:, :end], cache, pads)
        assert_same(logits, torch.cat([MODEL(row[None])[:, -1] for row in rows]))


def test_a_rule_sees_each_rows_own_tokens():
    alone = [greedy(MODEL, prompt[None], max_new=12) for prompt in RAGGED]
    made = torch.cat(list(stream(MODEL, left_pad(RAGGED), no_repeat(1), top_k(1), max_new=12)), 1)
    for prompt, row in zip(RAGGED, made, strict=True):
        text = torch.cat([prompt.unique(), row]).tolist()
        assert len(set(text)) == len(text)
        one = torch.cat(list(stream(MODEL, prompt[None], no_repeat(1), top_k(1), max_new=12)), 1)
        assert torch.equal(one[0], row)
    assert not torch.equal(made, torch.cat(alone))      # the rule had work to do


def test_a_row_that_said_a_stop_token_is_silent_and_the_others_go_on():
    free = greedy(MODEL, left_pad(RAGGED), max_new=12)
    stop = int(free[0, 4])
    made = greedy(MODEL, left_pad(RAGGED), max_new=12, stop_ids=[stop])
    for said, row in zip(free.tolist(), made.tolist(), strict=True):
        end = said.index(stop) + 1 if stop in said else 12
        assert row == (said[:end] + [NO_TOKEN] * 12)[:len(row)]


def test_the_stream_ends_when_all_rows_have_stopped():
    free = greedy(MODEL, PROMPT, max_new=12)
    made = greedy(MODEL, PROMPT, max_new=12, stop_ids=free[:, 2].tolist())
    assert made.shape[1] <= 3
    assert (made == free[:, :made.shape[1]]).all() or NO_TOKEN in made


def test_left_pad_puts_nothing_before_the_shorter():
    rows = [torch.tensor([5]), torch.tensor([1, 2, 3])]
    assert left_pad(rows).tolist() == [[NO_TOKEN, NO_TOKEN, 5], [1, 2, 3]]


def test_no_prompts_are_refused():
    with pytest.raises(ValueError, match="no prompts were given; one or more is needed"):
        left_pad([])


def test_an_empty_prompt_in_a_batch_is_refused():
    with pytest.raises(ValueError, match="the prompt has no tokens; at least one is needed"):
        next(stream(MODEL, left_pad([PROMPT[0], PROMPT[1, :0]]), max_new=1))


def test_padding_behind_a_token_is_refused():
    with pytest.raises(ValueError, match="no token.* after a token; it may only stand at the left"):
        next(stream(MODEL, torch.tensor([[3, NO_TOKEN]]), max_new=1))


def test_only_what_the_cache_lacks_is_read(monkeypatch):
    """The prompt in one pass, then one token a pass, and one row of logits of each."""
    read, asked = [], []
    monkeypatch.setattr(MODEL.tok_embeddings, "forward", lambda tokens: (
        read.append(tokens.shape[1]),
        torch.nn.functional.embedding(tokens, MODEL.tok_embeddings.weight))[1])
    monkeypatch.setattr(MODEL.output, "forward", lambda x: (
        asked.append(tuple(x.shape)), x @ MODEL.output.weight.T)[1])
    greedy(MODEL, PROMPT, max_new=4)
    assert read == [8, 1, 1, 1]
    assert asked == [(3, 64)] * 4


# -- answer ------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["bytes", "spaces"])
@pytest.mark.parametrize("text", [
    "The llama slept.", " two  spaces", "Süße Träume", "日本語 and 🦙🦙", "a\nb\n", "é€🦙"])
def test_pieces_join_to_the_text(words, kind, text):
    vocabulary = words[kind]
    for prompt in ("Once", "Once ", "日本"):
        both = vocabulary.encode(prompt + text, bos=True, eos=False)
        start = vocabulary.encode(prompt, bos=True, eos=False)
        tokens = both[len(start):] if both[:len(start)] == start else vocabulary.encode(
            text, bos=False, eos=False)
        pieces = say(vocabulary, prompt, tokens)
        whole, shown = vocabulary.decode(start + tokens), vocabulary.decode(start)
        assert "".join(pieces) == whole[len(shown):]
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(3, 319), min_size=1, max_size=30))
def test_pieces_join_to_the_text_even_where_bytes_are_broken(words, tokens):
    vocabulary = words["bytes"]
    tokens = [token % vocabulary.n_vocab for token in tokens if token % vocabulary.n_vocab > 2]
    if tokens:
        start = vocabulary.encode("ab", bos=True, eos=False)
        assert "".join(say(vocabulary, "ab", tokens)) == vocabulary.decode(start + tokens)[2:]


def test_a_character_is_held_back_until_it_is_whole(words):
    vocabulary = words["spaces"]
    tokens = [vocabulary.inner.token_to_id(f"<0x{byte:02X}>") for byte in "🦙".encode()]
    assert say(vocabulary, "a", [*tokens, *tokens]) == ["🦙", "🦙"]


def test_a_character_that_is_never_finished_is_shown_at_the_end(words):
    vocabulary = words["spaces"]
    first = vocabulary.inner.token_to_id("<0xE2>")
    assert say(vocabulary, "a", [first]) == ["\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize("kind", ["bytes", "spaces"])
def test_an_answer_ends_before_a_stop_token(words, kind):
    vocabulary = words[kind]
    tokens = vocabulary.encode("sheep", bos=False, eos=True)
    more = vocabulary.encode("llama", bos=False, eos=False)
    assert vocabulary.eos_id in vocabulary.stop_ids
    said = "".join(say(vocabulary, "the", tokens + more))
    assert said.strip() == "sheep"


def test_special_tokens_inside_an_answer_do_not_swallow_a_space(words):
    vocabulary = words["spaces"]
    sheep = vocabulary.encode("sheep", bos=False, eos=False)
    tokens = [*sheep, vocabulary.bos_id, *sheep]
    start = vocabulary.encode("the", bos=True, eos=False)
    assert "".join(say(vocabulary, "the", tokens)) == vocabulary.decode(start + tokens)[3:]


def test_decoding_does_not_grow_with_the_answer(words):
    """Every token is decoded in a short window: 2,000 tokens take one decoding of each, twice."""
    vocabulary, lengths = words["bytes"], []
    tokens = vocabulary.encode("the llama slept. ", bos=False, eos=False) * 100

    class Counting(type(vocabulary)):
        def decode(self, ids):
            lengths.append(len(ids))
            return super().decode(ids)

    counting = Counting(vocabulary.inner, vocabulary.bos_id, vocabulary.eos_id, frozenset())
    say(counting, "a", tokens)
    assert len(tokens) > 500
    assert max(lengths) <= 4


def test_an_empty_text_needs_a_first_token(words):
    inner = words["bytes"]
    nameless = type(inner)(inner.inner, None, None, frozenset())
    assert list(answer(scripted([5], inner.n_vocab), inner, "", top_k(1), max_new=1))
    with pytest.raises(ValueError, match="the prompt has no tokens; at least one is needed"):
        next(answer(scripted([5], inner.n_vocab), nameless, "", top_k(1), max_new=1))


def test_answers_to_several_texts_are_those_to_each(words):
    vocabulary = words["bytes"]
    model = loud_model(tiny_config(vocab_size=vocabulary.n_vocab))
    texts = ["The llama", "a", "日本語 and more words"]
    each = ["".join(answer(model, vocabulary, text, top_k(1), max_new=9)) for text in texts]
    assert answers(model, vocabulary, texts, top_k(1), max_new=9) == each
    assert len(set(each)) > 1


# -- rows beyond the vocabulary ----------------------------------------------------------------

class WithRows(torch.nn.Module):
    """An output with five rows more, likelier than all others whatever was read."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        logits = self.output(x)
        return torch.cat([logits, torch.full_like(logits[..., :5], 1e4)], dim=-1)


def test_rows_beyond_the_vocabulary_never_enter_or_end_an_answer(words):
    inner = words["bytes"]
    n, texts = inner.n_vocab, ["The llama", "a", "and more words"]
    ends = replace(inner, stop_ids=frozenset({n + 1}))
    model = loud_model(tiny_config(vocab_size=n))
    plain = ["".join(answer(model, ends, text, top_k(1), max_new=9)) for text in texts]
    model.output = WithRows(model.output)
    assert next(stream(model, PROMPT, top_k(1), max_new=1)).min() >= n      # without a tokenizer
    for text, said in zip(texts, plain, strict=True):
        assert "".join(answer(model, ends, text, top_k(1), max_new=9)) == said != ""
        assert generate(model, ends, text, max_new=9) == said
        assert "".join(answer(model, ends, text, temperature(2.0), top_p(0.9), max_new=9,
                              generator=torch.Generator().manual_seed(0)))
    assert answers(model, ends, texts, top_k(1), max_new=9) == plain


def test_the_known_tokens_keep_their_logits():
    logits = torch.tensor([[1.0, -2.0, 3.0, 9.0]])
    assert known(3)(logits).tolist() == [[1.0, -2.0, 3.0, -torch.inf]]
    assert torch.equal(known(4)(logits), logits)
    assert logits[0, 3] == 9
