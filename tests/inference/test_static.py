"""Passes of fixed shape give the answers of ordinary ones, also when they are only replayed."""

from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import (
    STRETCH_8,
    assert_same,
    cached_logits,
    loud_model,
    roomy_cache,
    some_tokens,
    tiny_config,
)
from torch.fx.experimental.proxy_tensor import make_fx

from llama_edu.cache import KVCache
from llama_edu.compress.quant import int4, int8
from llama_edu.compress.surgery import replace_linears
from llama_edu.generation import left_pad, stream
from llama_edu.inference import static as static_module
from llama_edu.inference.decoding import DecodingLlama, one_linear
from llama_edu.inference.speculative import speculate
from llama_edu.inference.static import StaticLlama, attend_next, turn_real
from llama_edu.layers import attend, causal_mask, rope_frequencies, rope_table, rotate
from llama_edu.sampling import NO_TOKEN, temperature, top_k

CONFIG = tiny_config(max_seq_len=64)
MODEL = loud_model(CONFIG)
PROMPT = some_tokens(CONFIG, batch=3, length=9)
RAGGED = left_pad([PROMPT[0], PROMPT[1, :3], PROMPT[2, :1]])


@pytest.fixture
def recorded(monkeypatch):
    """A CUDA graph in the manner of a CPU: the tensors that a pass touched, and what was done.

    It is traced once, and from then on only replayed: a number that Python read would be frozen,
    and a tensor that moved would be missed. Its result is always in the same place. The list names
    what was recorded.
    """
    kept = []

    def record(work, device):
        kept.append(work)
        graph = make_fx(work)()
        place = graph().clone()
        return lambda: place.copy_(graph())

    monkeypatch.setattr(static_module, "record", record)
    return kept


@pytest.fixture
def small_steps(monkeypatch):
    """Passes over 8, 16, 32 and 64 keys."""
    monkeypatch.setattr(static_module, "SHORTEST", 8)
    monkeypatch.setattr(static_module, "PART", 4)


def static(model=MODEL, **options):
    return StaticLlama(model, **dict(max_len=model.config.max_seq_len) | options)


def greedy(model, prompt, **more):
    return torch.cat(list(stream(model, prompt, top_k(1), **more)), dim=1)


# -- the same answers --------------------------------------------------------------------------

@pytest.mark.parametrize("changes", [
    {}, {"n_kv_heads": 4}, {"n_kv_heads": 1}, {"tied_embeddings": True},
    {"rope_scaling": STRETCH_8}], ids=str)
def test_a_static_pass_changes_no_answer(changes, recorded, small_steps):
    """From the first token of a text on, which has nothing before it."""
    config = tiny_config(**changes)
    model, tokens = loud_model(config), some_tokens(config, length=20)
    assert_same(static(model)(tokens), model(tokens))
    assert_same(cached_logits(static(model), tokens, first=1), model(tokens))
    assert [work.args for work in recorded] == [(8,), (16,), (32,)]


@pytest.mark.parametrize("prompt", [PROMPT, PROMPT[:1], RAGGED], ids=["even", "one", "ragged"])
def test_generation_says_the_same_to_the_end_of_the_context(prompt, recorded, small_steps):
    assert torch.equal(greedy(static(), prompt, max_new=55), greedy(MODEL, prompt, max_new=55))
    assert [work.args for work in recorded] == [(16,), (32,), (64,)]


def test_a_draw_is_the_same(recorded):
    one, two = (torch.cat(list(stream(model, RAGGED, temperature(2.0), max_new=30,
                                      generator=torch.Generator().manual_seed(0))), dim=1)
                for model in (static(), MODEL))
    assert torch.equal(one, two)


def test_a_row_that_has_stopped_is_silent(recorded):
    stop = int(greedy(MODEL, RAGGED, max_new=12)[0, 4])
    made, plain = (greedy(model, RAGGED, max_new=12, stop_ids=[stop])
                   for model in (static(), MODEL))
    assert torch.equal(made, plain)
    assert (made == NO_TOKEN).any()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=6), st.data())
def test_any_cuts_with_any_rewinds_give_the_same_answer(sizes, data):
    """Passes of one token are static ones, longer ones are not; both fill the same cache."""
    tokens = some_tokens(CONFIG, length=60)
    model, cache = static(), roomy_cache(MODEL, 2)
    with torch.inference_mode():
        whole = MODEL(tokens)
        for size in sizes:
            back = data.draw(st.integers(0, cache.length))
            cache.rewind(back)
            for part in (tokens[:, back:back + size], tokens[:, back + size:back + size + 1]):
                at = cache.length
                assert_same(model(part, cache), whole[:, at:at + part.shape[1]])


def test_a_static_model_speculates_as_any_other():
    draft = loud_model(CONFIG, seed=5)
    texts = [torch.cat(list(speculate(*pair, PROMPT[:1], temperature(1.0), max_new=40, ahead=3,
                                      generator=torch.Generator().manual_seed(0))), dim=1)
             for pair in ((static(), static(draft)), (MODEL, draft))]
    assert torch.equal(*texts)


@pytest.mark.parametrize("make", [int8, int4(16)], ids=["int8", "int4"])
def test_rounded_weights_give_the_same_in_a_static_pass(make, recorded):
    plain, quick = DecodingLlama(MODEL, join=one_linear), static()
    for model in (plain, quick):
        replace_linears(model, ".*", make)
    assert torch.equal(greedy(quick, RAGGED, max_new=30), greedy(plain, RAGGED, max_new=30))


def test_sixteen_bits_stay_sixteen_bits():
    model = loud_model(CONFIG).bfloat16()
    tokens = some_tokens(CONFIG, length=20)
    made, plain = cached_logits(static(model), tokens, first=5), model(tokens)
    # bfloat16 keeps 8 bits; two layers of sums in another order differ by a few of the last.
    torch.testing.assert_close(made, plain, rtol=0, atol=0.05 * plain.abs().max().item())


def test_the_pass_compiles_as_one_graph(monkeypatch):
    """With nothing that a compiler would have to leave to Python; `fullgraph` would raise."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(static_module, "TUNED", {"backend": backend})
    for make in (int8, int4(16)):
        graphs.clear()
        torch.compiler.reset()
        quick, plain = static(compiled=True), DecodingLlama(MODEL, join=one_linear)
        for model in (quick, plain):
            replace_linears(model, ".*", make)
        assert torch.equal(greedy(quick, RAGGED, max_new=6), greedy(plain, RAGGED, max_new=6))
        assert len(graphs) == 3     # the pass; the output after the prompt, and after a pass


# -- the parts ---------------------------------------------------------------------------------

def test_attending_next_is_attending(monkeypatch):
    monkeypatch.setattr(static_module, "PART", 4)
    gen = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, *shape, 16, generator=gen) for shape in ((6, 1), (3, 13), (3, 13)))
    mask = causal_mask(1, 13) & (torch.arange(13) >= torch.tensor([[0], [5]]))
    made = attend_next(q, k[:, :, -1:], v[:, :, -1:], k[:, :, :-1], v[:, :, :-1], mask[:, :-1])
    torch.testing.assert_close(made, attend(q, k, v, mask[:, None, None, None]))


def test_turning_in_real_numbers_is_rotating():
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    rope = rope_table(rope_frequencies(8, 1e4), torch.arange(7, 12))
    torch.testing.assert_close(turn_real(x, rope), rotate(x, *rope))
    assert turn_real(x.bfloat16(), rope).dtype == torch.bfloat16


def test_on_cuda_a_pass_runs_aside_and_is_then_recorded_and_replayed(monkeypatch):
    """The order of calls alone, with stand-ins: what CUDA makes of them is for `benchmarks.gpu`."""
    said = []

    class Stream:
        def __init__(self, name="aside"):
            self.name = name

        def wait_stream(self, other):
            said.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self):
            said.append("replay")

    @contextmanager
    def within(thing):
        said.append(f"begin {type(thing).__name__}")
        yield
        said.append("end")

    for name, stand_in in (("Stream", Stream), ("current_stream", lambda: Stream("here")),
                           ("CUDAGraph", Graph), ("stream", within), ("graph", within)):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    replay = static_module.record(lambda: said.append("work") or len(said),
                                    torch.device("cuda"))
    assert said == ["aside waits for here", "begin Stream", "work", "work", "end",
                    "here waits for aside", "begin Graph", "work", "end"]
    assert replay() == replay() == 8        # what the recorded run left
    assert said[9:] == ["replay", "replay"]


# -- who lives in the room ---------------------------------------------------------------------

def test_two_texts_may_take_turns(recorded):
    model, tokens = static(), some_tokens(CONFIG, batch=2, length=24)
    caches = [roomy_cache(MODEL, 1, max_len=24) for _ in range(2)]
    with torch.inference_mode():
        parts = tokens.split([6, *[1] * 18], dim=1)
        made = [torch.cat([model(part[n:n + 1], caches[n]) for n in (0, 1)]) for part in parts]
        assert_same(torch.cat(made, dim=1), MODEL(tokens))
    assert len(recorded) == 1


def test_a_batch_of_another_size_gets_another_room(recorded):
    model = static()
    for prompt in (PROMPT, PROMPT[:1], RAGGED):
        assert torch.equal(greedy(model, prompt, max_new=9), greedy(MODEL, prompt, max_new=9))
    assert len(recorded) == 3


def test_what_a_broken_text_left_behind_is_never_seen():
    model = static()
    greedy(model, PROMPT, max_new=20)
    model.room.store.fill_(torch.nan)
    assert torch.equal(greedy(model, PROMPT, max_new=20), greedy(MODEL, PROMPT, max_new=20))


def test_an_answer_stays_when_the_next_one_comes(recorded):
    model, cache = static(), roomy_cache(MODEL, 3)
    with torch.inference_mode():
        model.hidden(PROMPT, cache)
        first = model.hidden(PROMPT[:, :1], cache)
        before = first.clone()
        model.hidden(PROMPT[:, 1:2], cache)
    assert torch.equal(first, before)


def test_a_cache_may_be_filled_outside_of_inference_mode():
    model, cache = static(), roomy_cache(MODEL, 3)
    greedy(model, PROMPT, max_new=3)        # the room is made inside
    model(PROMPT, cache)
    cache.rewind(4)
    assert_same(model(PROMPT[:, 4:5], cache), MODEL(PROMPT)[:, 4:5])


def test_the_original_is_untouched():
    model = loud_model(CONFIG)
    before, names = model(PROMPT), set(model.state_dict())
    replace_linears(static(model), ".*", int8)
    assert set(model.state_dict()) == names
    assert torch.equal(model(PROMPT), before)


# -- mistakes ----------------------------------------------------------------------------------

@pytest.mark.parametrize("max_len", [0, 65])
def test_room_for_no_token_or_beyond_the_context_is_refused(max_len):
    with pytest.raises(ValueError, match=f"room for {max_len} tokens was asked for; 1 to this mod"):
        static(max_len=max_len)


def test_a_cache_that_is_larger_than_the_room_is_refused():
    with pytest.raises(ValueError, match="a cache of 64 tokens was given; this StaticLlama has"):
        greedy(static(max_len=32), PROMPT, max_new=55)
    assert greedy(static(max_len=32), PROMPT, max_new=23).shape == (3, 23)


def test_a_full_cache_refuses_the_next_token():
    model, cache = static(), roomy_cache(MODEL, 3, max_len=9)
    model(PROMPT, cache)
    with pytest.raises(ValueError, match="the cache holds 9 tokens; 10 were asked for"):
        model(PROMPT[:, :1], cache)
    assert cache.length == 9


def test_a_cache_for_another_batch_is_refused():
    cache = KVCache(CONFIG, 2, max_len=9, like=MODEL.tok_embeddings.weight)
    with pytest.raises(ValueError, match="the cache was made for 2 texts; 3 were given"):
        static()(PROMPT[:, :1], cache)
