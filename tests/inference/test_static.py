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

from llama_edu.compress.quant import int4, int8
from llama_edu.compress.surgery import replace_linears
from llama_edu.generation import left_pad, stream
from llama_edu.inference import static as static_module
from llama_edu.inference.decoding import DecodingLlama, one_linear
from llama_edu.inference.speculative import speculate
from llama_edu.inference.static import StaticLlama, attend_static, turn_real
from llama_edu.layers import attend, rope_frequencies, rope_table, rotate
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
    return StaticLlama(model, **options)


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
    assert [work.args[1] for work in recorded] == [8, 16, 32]


@pytest.mark.parametrize("prompt", [PROMPT, PROMPT[:1], RAGGED], ids=["even", "one", "ragged"])
def test_generation_says_the_same_to_the_end_of_the_context(prompt, recorded, small_steps):
    assert torch.equal(greedy(static(), prompt, max_new=55), greedy(MODEL, prompt, max_new=55))
    assert [work.args[1] for work in recorded] == [16, 32, 64]


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
    model = static()
    cache = roomy_cache(model, 2)
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
        assert len(graphs) == 2     # the pass, and the output after it


# -- the parts ---------------------------------------------------------------------------------

def test_attending_in_parts_is_attending(monkeypatch):
    monkeypatch.setattr(static_module, "PART", 4)
    gen = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, *shape, 16, generator=gen) for shape in ((6, 1), (3, 12), (3, 12)))
    mask = (torch.arange(12) >= torch.tensor([[0], [5]])) & (torch.arange(12) < 11)
    expected = attend(q, k, v, mask[:, None, None, None])
    torch.testing.assert_close(attend_static(q, k, v, mask), expected)


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


# -- caches ------------------------------------------------------------------------------------

def test_two_texts_may_take_turns(recorded):
    model, tokens = static(), some_tokens(CONFIG, batch=2, length=24)
    caches = [roomy_cache(model, 1, max_len=24) for _ in range(2)]
    with torch.inference_mode():
        parts = tokens.split([6, *[1] * 18], dim=1)
        made = [torch.cat([model(part[n:n + 1], caches[n]) for n in (0, 1)]) for part in parts]
        assert_same(torch.cat(made, dim=1), MODEL(tokens))
    assert len(recorded) == 2


def test_texts_that_share_a_cache_share_what_was_recorded(recorded):
    model = static()
    cache = roomy_cache(model, 3)
    for prompt in (PROMPT, RAGGED):
        cache.rewind(0)
        assert torch.equal(greedy(model, prompt, max_new=9, cache=cache),
                           greedy(MODEL, prompt, max_new=9))
    assert len(recorded) == 1


def test_an_ordinary_cache_is_filled_by_ordinary_passes(recorded):
    model, cache = static(), roomy_cache(MODEL, 3)
    assert torch.equal(greedy(model, PROMPT, max_new=9, cache=cache),
                       greedy(MODEL, PROMPT, max_new=9))
    assert recorded == []


def test_an_answer_stays_when_the_next_one_comes(recorded):
    model = static()
    cache = roomy_cache(model, 3)
    with torch.inference_mode():
        model.hidden(PROMPT, cache)
        first = model.hidden(PROMPT[:, :1], cache)
        before = first.clone()
        model.hidden(PROMPT[:, 1:2], cache)
    assert torch.equal(first, before)


def test_a_cache_may_be_filled_outside_of_inference_mode():
    model = static()
    with torch.inference_mode():
        cache = roomy_cache(model, 3)
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

@pytest.mark.parametrize(("batch", "max_len", "message"), [
    (1, 65, "a cache of 65 tokens was asked for; this model's context is 64"),
    (1, 0, "a cache for 1 texts of 0 tokens"), (0, 8, "a cache for 0 texts of 8 tokens")])
def test_a_cache_that_cannot_be_is_refused(batch, max_len, message):
    with pytest.raises(ValueError, match=message):
        static().new_cache(batch, max_len)


def test_a_full_cache_refuses_the_next_token():
    model = static()
    cache = roomy_cache(model, 3, max_len=9)
    model(PROMPT, cache)
    with pytest.raises(ValueError, match="the cache holds 9 tokens; 10 were asked for"):
        model(PROMPT[:, :1], cache)
    assert cache.length == 9


def test_a_cache_for_another_batch_is_refused():
    model = static()
    with pytest.raises(ValueError, match="the cache was made for 2 texts; 3 were given"):
        model(PROMPT[:, :1], model.new_cache(2, 9))
