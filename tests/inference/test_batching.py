"""Whoever shares its batch, a request's answer is the one that it would get alone."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import loud_model, some_tokens, tiny_config

from llama_edu.generation import stream
from llama_edu.inference.batching import Engine
from llama_edu.inference.decoding import DecodingLlama
from llama_edu.sampling import repetition, temperature, top_k, top_p

MODEL = loud_model(tiny_config())
EXACT = loud_model(tiny_config(), seed=3).double()
TEXTS = some_tokens(MODEL.config, 8, 60).tolist()
LENGTHS = 5, 17, 1, 30, 8, 16, 3, 24
PROMPTS = [text[:n] for text, n in zip(TEXTS, LENGTHS, strict=True)]
MAX_NEW = [12, 3, 25, 1, 30, 8, 19, 14]


def alone(prompt, *rules, model=MODEL, **how):
    return [int(token) for token in stream(model, torch.tensor([prompt]), *rules, **how)]


def engine(n_blocks=64, *, model=MODEL, block_size=4, max_batch=4):
    return Engine(model, n_blocks, block_size=block_size, max_batch=max_batch)


def submit_all(served, prompts=PROMPTS, max_new=MAX_NEW):
    return [served.submit(prompt, top_k(1), max_new=n)
            for prompt, n in zip(prompts, max_new, strict=True)]


def assert_nothing_is_held(served):
    assert (served.pool.in_use, served.wasted) == (0, 0)
    assert set(served.pool.idle) == set(range(served.pool.n_blocks))
    assert not any(served.pool.holders)


@cache
def likeliest(prompt, model, max_new):
    return alone(prompt, top_k(1), model=model, max_new=max_new)


def assert_answered(served, requests, *, model=MODEL):
    for request in requests:
        assert request.done
        prompt = tuple(request.text[:request.n_prompt])
        assert request.answer == likeliest(prompt, model, request.max_new)
    assert_nothing_is_held(served)


# -- the answers of one by one -----------------------------------------------------------------

@pytest.mark.parametrize("model", [MODEL, EXACT, DecodingLlama(MODEL)],
                         ids=["float32", "float64", "another layout"])
@pytest.mark.parametrize("max_batch", [1, 3, 8])
def test_ragged_prompts_are_answered_as_one_by_one(model, max_batch):
    served = engine(model=model, max_batch=max_batch)
    requests = submit_all(served)
    served.run()
    assert_answered(served, requests, model=model)


ARRIVALS = st.lists(st.tuples(st.integers(0, 7), st.integers(1, 20), st.integers(0, 9)),
                    min_size=1, max_size=12)


@settings(max_examples=15, deadline=None)
@given(ARRIVALS, st.integers(13, 40), st.integers(1, 5), st.sampled_from([1, 3, 4]))
def test_arrival_room_and_company_change_no_answer(arrivals, n_places, max_batch, block_size):
    """Few blocks: most runs put requests back, several times over. Prompts that come twice are
    shared, copied, forgotten and found again on the way."""
    served = engine(-(-4 * n_places // block_size), model=EXACT, block_size=block_size,
                    max_batch=max_batch)
    requests = []
    for which, max_new, pause in arrivals:
        requests.append(served.submit(PROMPTS[which], top_k(1), max_new=max_new))
        for _ in range(pause):
            served.step()
    served.run()
    assert_answered(served, requests, model=EXACT)


def test_the_last_to_come_is_put_back_before_all_that_wait_and_goes_on_where_it_was(monkeypatch):
    served, put_back = engine(12), []
    real = served._put_back

    def watched():
        last = served.running[-1]
        real()
        assert served.waiting[0] is last
        put_back.append((last, len(last.answer), len(served.waiting)))

    monkeypatch.setattr(served, "_put_back", watched)
    prompts, max_new = [PROMPTS[i] for i in (0, 2, 4, 6, 0, 2)], [30, 40, 30, 30, 5, 5]
    requests = submit_all(served, prompts, max_new)
    served.run()
    assert requests[0] not in [request for request, *_ in put_back]
    assert any(said > 0 and waiting > 1 for _, said, waiting in put_back)
    assert_answered(served, requests)


def test_a_request_that_would_soon_be_put_back_is_not_let_in():
    served = engine(3)      # the first needs two blocks now and a third later
    first, second = submit_all(served, [PROMPTS[0], PROMPTS[2]], [6, 4])
    served.step()
    assert (served.running, list(served.waiting)) == ([first], [second])
    served.run()
    assert served.tokens == (5 + 6 - 1) + (1 + 4 - 1)       # nothing was read twice
    assert_answered(served, [first, second])


def test_the_first_to_come_is_not_overtaken():
    """A request without room holds back a smaller one behind it, or it might wait for ever."""
    served = engine(10)
    big, bigger, small = submit_all(served, [PROMPTS[1], PROMPTS[3], PROMPTS[2]], [10, 5, 2])
    served.step()
    assert (served.running, list(served.waiting)) == ([big], [bigger, small])
    served.run()
    assert_answered(served, [big, bigger, small])


def test_a_stop_token_ends_an_answer_and_belongs_to_it():
    said = alone(PROMPTS[0], top_k(1), max_new=12)
    stop = said[4]
    served = engine()
    request = served.submit(PROMPTS[0], top_k(1), max_new=12, stop_ids=[stop])
    other = served.submit(PROMPTS[0], top_k(1), max_new=12)
    served.run()
    assert request.answer == said[:said.index(stop) + 1]
    assert other.answer == said
    assert_nothing_is_held(served)


def test_a_prompt_that_ends_with_a_stop_token_is_answered_all_the_same():
    served = engine()
    request = served.submit(PROMPTS[0], top_k(1), max_new=5, stop_ids=PROMPTS[0][-1:])
    assert not request.done
    served.run()
    assert request.answer == alone(PROMPTS[0], top_k(1), max_new=5, stop_ids=PROMPTS[0][-1:])


# -- chance ------------------------------------------------------------------------------------

def test_a_requests_draws_do_not_depend_on_its_neighbours():
    rules = repetition(1.2), temperature(1.3), top_p(0.95)

    def chance(i):
        return torch.Generator().manual_seed(i)

    served = engine(16, model=EXACT, max_batch=3)       # so few that some are put back
    requests = [served.submit(prompt, *rules, max_new=n, generator=chance(i))
                for i, (prompt, n) in enumerate(zip(PROMPTS, MAX_NEW, strict=True))]
    served.run()
    assert [request.answer for request in requests] == [
        alone(prompt, *rules, model=EXACT, max_new=n, generator=chance(i))
        for i, (prompt, n) in enumerate(zip(PROMPTS, MAX_NEW, strict=True))]


def test_rules_are_each_requests_own():
    served = engine()
    greedy = served.submit(PROMPTS[0], top_k(1), max_new=15)
    varied = served.submit(PROMPTS[0], repetition(1.8), top_k(1), max_new=15)
    served.run()
    assert greedy.answer == alone(PROMPTS[0], top_k(1), max_new=15)
    assert varied.answer == alone(PROMPTS[0], repetition(1.8), top_k(1), max_new=15)
    assert greedy.answer != varied.answer


# -- texts that begin alike --------------------------------------------------------------------

def test_a_prefix_that_is_there_is_not_read_again():
    """20 tokens in common, five blocks of four: the second and third read only what differs."""
    system = TEXTS[0][:20]
    prompts = [system + TEXTS[i][:n] for i, n in ((1, 7), (2, 5), (3, 9))]
    served = engine()
    requests = submit_all(served, prompts, [6, 6, 6])
    served.run()
    assert_answered(served, requests)
    assert served.tokens == 27 + 5 + 9 + 3 * 5     # and of each answer all but the last token


def test_a_prefix_outlives_its_request_until_its_room_is_needed():
    served, prompt = engine(12), PROMPTS[3]         # 30 tokens, seven full blocks
    counts = []
    for text in (prompt, prompt, PROMPTS[7] + TEXTS[5][:17], prompt):   # the third fills the pool
        before = served.tokens
        request = served.submit(text, top_k(1), max_new=1)
        served.run()
        counts.append(served.tokens - before)
        assert_answered(served, [request])
    assert counts == [30, 2, 41, 30 - 4]    # eleven of twelve were taken: a beginning is left


def test_the_same_prompt_shares_all_but_what_it_writes():
    """Its last token is read again, for its logits, into a copy of the last block."""
    served = engine()
    first, second = submit_all(served, [PROMPTS[5]] * 2, [8, 8])     # 16 tokens, four full blocks
    served.step()
    mine, theirs = first.table.blocks, second.table.blocks
    assert [a == b for a, b in zip(mine, theirs, strict=True)] == [True] * 3 + [False] * 2
    assert served.tokens == 16 + 1 + 2
    assert served.pool.in_use == 7
    served.run()
    assert_answered(served, [first, second])


def test_an_answer_is_the_prefix_of_the_next_turn():
    served = engine()
    first = served.submit(PROMPTS[0], top_k(1), max_new=12)      # 5 + 12 tokens, 16 were read
    served.run()
    before = served.tokens
    turn = first.text + TEXTS[7][:3]
    second = served.submit(turn, top_k(1), max_new=4)
    served.run()
    assert_answered(served, [second])
    assert served.tokens - before == 20 - 16 + 3


# -- counts ------------------------------------------------------------------------------------

def test_a_place_is_free_as_soon_as_an_answer_ends():
    """Two rows at most: 9 tokens beside 2, 3 and 4 take nine steps, one pass of each kind."""
    served = engine(max_batch=2)
    submit_all(served, [PROMPTS[i] for i in (0, 2, 4, 6)], [10, 3, 4, 5])
    steps = 0
    while served.waiting or served.running:
        served.step()
        steps += 1
    assert steps == 9                   # the first token comes of reading the prompt
    assert served.passes == steps + 4
    assert served.tokens == sum(LENGTHS[i] for i in (0, 2, 4, 6)) + 9 + 2 + 3 + 4


def test_less_than_a_block_of_each_running_request_is_wasted():
    served = engine(max_batch=8)
    submit_all(served)
    while served.waiting or served.running:
        served.step()
        held = sum(len(request.table.blocks) for request in served.running)
        assert served.pool.in_use == held        # no two prompts begin alike
        assert served.wasted == 4 * held - sum(len(request.text) - 1 for request in served.running)
        assert served.wasted <= 3 * len(served.running)


def test_the_context_and_the_pool_are_filled_to_the_last_token():
    served = engine(32)
    request = served.submit(PROMPTS[0], top_k(1), max_new=123)
    served.run()
    assert_answered(served, [request])
    small = engine(4)
    request = small.submit(PROMPTS[0], top_k(1), max_new=12)     # 17 tokens, of which 16 are read
    small.run()
    assert_answered(small, [request])


# -- what is refused ---------------------------------------------------------------------------

@pytest.mark.parametrize(("prompt", "max_new", "message"), [
    ([], 3, "the prompt has no tokens; at least one is needed"),
    ([1, 2], 0, "0 new tokens were asked for; 1 or more"),
    ([1, 96], 3, "token 96 was given; this model knows 0 to 95. Encode"),
    ([1, 2], 127, "prompt has 2 tokens and 127 more.*context is 128"),
    ([-1, 2], 3, "token -1 was given"),
    ([1] * 5, 13, "a prompt of 5 tokens and 13 more need 5 blocks of 4; the pool has 4. Ask")])
def test_what_could_never_be_answered_is_refused_at_once(prompt, max_new, message):
    served = engine(4)
    with pytest.raises(ValueError, match=message):
        served.submit(prompt, top_k(1), max_new=max_new)
    assert not served.waiting


def test_an_engine_for_no_request_is_refused():
    with pytest.raises(ValueError, match="a batch of at most 0 requests was asked for; 1 or more"):
        engine(max_batch=0)
    with pytest.raises(ValueError, match="0 blocks of 4 tokens"):
        engine(0)
