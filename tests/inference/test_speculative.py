"""Speculation changes how long an answer takes, never how likely it is."""

import math
from collections import Counter
from functools import partial
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import loud_model, some_tokens, tiny_config

from llama_edu.cache import KVCache
from llama_edu.generation import stream
from llama_edu.inference import speculative
from llama_edu.inference.decoding import DecodingLlama
from llama_edu.inference.speculative import early_exit, rounds, speculate, verify
from llama_edu.sampling import no_repeat, repetition, temperature, top_k, top_p

MODEL, DRAFT = loud_model(tiny_config(), seed=0), loud_model(tiny_config(n_layers=1), seed=5)
PROMPT = some_tokens(tiny_config(), batch=1, length=6)
SURE = 1e-6     # a correct rule is called wrong by one seed in a million; the seeds are fixed


# -- chi-square --------------------------------------------------------------------------------

def chi_square(counts, chances):
    """How likely counts this far from their chances, or farther, would be."""
    n = sum(counts)
    far = sum((seen - n * p) ** 2 / (n * p) for seen, p in zip(counts, chances, strict=True))
    freedom = torch.tensor((len(counts) - 1) / 2, dtype=torch.float64)
    return torch.special.gammaincc(freedom, torch.tensor(far / 2, dtype=torch.float64)).item()


def test_chi_square_by_hand():
    """60 throws of a die, from a table: 11.07 is where five degrees of freedom reach 5 %."""
    counts = [10 + x for x in (5, -5, 5, -5, 2, -2)]
    far = (4 * 25 + 2 * 4) / 10
    assert far == 10.8
    assert 0.05 < chi_square(counts, [1 / 6] * 6) < 0.06
    assert chi_square([10] * 6, [1 / 6] * 6) == 1


# -- one check of guesses ----------------------------------------------------------------------

def accept_all(p, q, guesses, *, generator=None):
    return torch.cat([guesses, torch.multinomial(p[-1], 1, generator=generator)])


def redraw_from_p(p, q, guesses, *, generator=None):
    """Forgets that refused guesses were the draft's favourites: draws from p, not from p - q."""
    new = verify(p, q, guesses, generator=generator)
    if len(new) <= len(guesses) and new[-1] != guesses[len(new) - 1]:
        new[-1:] = torch.multinomial(p[len(new) - 1], 1, generator=generator)
    return new


def keep_the_likelier(p, q, guesses, *, generator=None):
    """Keeps a guess only where the model finds it at least as likely as the draft does."""
    n = 0
    while n < len(guesses) and p[n, guesses[n]] >= q[n, guesses[n]]:
        n += 1
    return torch.cat([guesses[:n], torch.multinomial(p[n], 1, generator=generator)])


SPOILED = [accept_all, redraw_from_p, keep_the_likelier]
P = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]])
Q = torch.tensor([[0.1, 0.4, 0.3, 0.2]])


def first_tokens(rule, draws):
    """How often each token comes first when the draft guesses one."""
    gen = torch.Generator().manual_seed(0)
    guesses = torch.multinomial(Q[0], draws, replacement=True, generator=gen)
    first = [int(rule(P, Q, guess, generator=gen)[0]) for guess in guesses.split(1)]
    return torch.tensor(first).bincount(minlength=4).tolist()


def test_a_checked_guess_is_distributed_as_the_models_own():
    assert chi_square(first_tokens(verify, 6000), P[0].tolist()) > SURE


@pytest.mark.parametrize("rule", SPOILED)
def test_a_spoiled_check_of_guesses_is_found(rule):
    assert chi_square(first_tokens(rule, 6000), P[0].tolist()) < SURE


def test_guesses_are_kept_as_often_as_the_distributions_overlap():
    """Leviathan et al. 2023, theorem 3.5: the chance is the sum of min(p, q)."""
    gen, n = torch.Generator().manual_seed(1), 4000
    guesses = torch.multinomial(Q[0], n, replacement=True, generator=gen)
    kept = sum(len(verify(P, Q, guess, generator=gen)) - 1 for guess in guesses.split(1))
    overlap = torch.minimum(P[0], Q[0]).sum().item()
    assert kept / n == pytest.approx(overlap, abs=4 * math.sqrt(0.25 / n))     # 4 deviations


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.integers(0, 10_000))
def test_what_the_draft_agrees_with_is_always_kept(t, seed):
    gen = torch.Generator().manual_seed(seed)
    p = torch.rand(t + 1, 7, generator=gen).softmax(-1)
    guesses = torch.randint(7, (t,), generator=gen)
    new = verify(p, p[:t], guesses, generator=gen)
    assert torch.equal(new[:t], guesses)
    assert len(new) == t + 1


def test_equal_distributions_that_differ_by_rounding_still_give_a_token():
    q = torch.tensor([[0.5, 0.5]])
    p = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    p[0, 0] -= 0.2      # p never above q: nothing is left of max(0, p - q)
    for seed in range(20):
        gen = torch.Generator().manual_seed(seed)
        assert verify(p, q, torch.tensor([0]), generator=gen)[0] in (0, 1)


# -- whole answers -----------------------------------------------------------------------------

def bigrams(chances):
    """A stand-in for a model with three tokens: what comes next depends on the last alone."""
    table = torch.tensor(chances).log()

    def hidden(tokens, cache):
        cache.length += tokens.shape[1]
        assert cache.length < cache.max_len
        return table[tokens]

    return SimpleNamespace(
        table=table, hidden=hidden, logits=torch.nn.Identity(),
        new_cache=partial(KVCache, 1),
        config=tiny_config(vocab_size=3, dim=2, n_heads=1, n_kv_heads=1, n_layers=1),
        tok_embeddings=SimpleNamespace(weight=torch.zeros(1)))


TRUE = bigrams([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5]])
ROUGH = bigrams([[0.1, 0.3, 0.6], [0.6, 0.2, 0.2], [0.2, 0.6, 0.2]])


def answers(n):
    """How often each of the 27 answers of three tokens is given, two guesses at a time."""
    gen, start = torch.Generator().manual_seed(2), torch.tensor([[1]])
    made = Counter(
        tuple(int(token) for token in speculate(TRUE, ROUGH, start, temperature(0.8), max_new=3,
                                                ahead=2, generator=gen))
        for _ in range(n))
    return [made[text] for text in product(range(3), repeat=3)]


def chances():
    step = (TRUE.table / 0.8).softmax(-1)
    return [(step[1, a] * step[a, b] * step[b, c]).item() for a, b, c in product(range(3),
                                                                                 repeat=3)]


def test_answers_are_distributed_as_those_of_the_model_alone():
    assert chi_square(answers(1000), chances()) > SURE


@pytest.mark.parametrize("rule", SPOILED)
def test_a_spoiled_check_shows_in_whole_answers(rule, monkeypatch):
    monkeypatch.setattr(speculative, "verify", rule)
    assert chi_square(answers(1000), chances()) < SURE


def joined(tokens):
    return torch.cat(list(tokens), dim=1)


@pytest.mark.parametrize("ahead", [1, 2, 5, 40])
@pytest.mark.parametrize("draft", [DRAFT, MODEL], ids=["a stranger", "itself"])
def test_the_likeliest_answer_is_the_models_own(draft, ahead):
    alone = joined(stream(MODEL, PROMPT, top_k(1), max_new=30))
    assert torch.equal(joined(speculate(MODEL, draft, PROMPT, top_k(1), max_new=30, ahead=ahead)),
                       alone)


def test_rules_read_the_guesses_that_came_before():
    rules = repetition(1.5), no_repeat(2), top_k(1)
    alone = joined(stream(MODEL, PROMPT, *rules, max_new=30))
    assert torch.equal(joined(speculate(MODEL, DRAFT, PROMPT, *rules, max_new=30, ahead=4)), alone)


def test_a_draft_that_agrees_saves_passes(monkeypatch):
    passes, hidden = [], MODEL.hidden

    def counted(tokens, cache):
        passes.append(tokens.shape[1])
        return hidden(tokens, cache)

    model = SimpleNamespace(config=MODEL.config, tok_embeddings=MODEL.tok_embeddings,
                            new_cache=MODEL.new_cache, logits=MODEL.logits,
                            hidden=counted)
    list(speculate(model, MODEL, PROMPT, top_k(1), max_new=20, ahead=4))
    assert passes == [6 + 4, 5, 5, 5]       # the prompt with four guesses, then four and one


def test_the_generator_decides_the_answer():
    def say(seed):
        gen = torch.Generator().manual_seed(seed)
        return joined(speculate(MODEL, DRAFT, PROMPT, temperature(1.5), top_p(0.9), max_new=12,
                                ahead=3, generator=gen))

    assert torch.equal(say(0), say(0))
    assert not torch.equal(say(0), say(1))


def test_the_context_is_filled_to_the_last_token():
    assert joined(speculate(MODEL, DRAFT, PROMPT, top_k(1), max_new=122, ahead=7)).shape[1] == 122
    with pytest.raises(ValueError, match="prompt has 6 tokens and 123 more.*context is 128"):
        next(speculate(MODEL, DRAFT, PROMPT, max_new=123, ahead=7))


def test_several_prompts_at_once_are_refused():
    with pytest.raises(ValueError, match="a batch of 2 prompts was given; one is needed"):
        next(speculate(MODEL, DRAFT, PROMPT.expand(2, -1), max_new=3, ahead=2))


def test_a_draft_with_another_vocabulary_is_refused():
    other = loud_model(tiny_config(vocab_size=95))
    with pytest.raises(ValueError, match="the draft knows 95 tokens and the model 96; one vocab"):
        next(speculate(MODEL, other, PROMPT, max_new=3, ahead=2))


def test_no_guesses_are_refused():
    with pytest.raises(ValueError, match="0 guesses ahead were asked for; 1 or more is needed"):
        next(speculate(MODEL, DRAFT, PROMPT, max_new=3, ahead=0))


# -- a model's first blocks as its draft --------------------------------------------------------

DEEP = loud_model(tiny_config(n_layers=4), seed=3)
TIED = loud_model(tiny_config(n_layers=3, tied_embeddings=True), seed=3)


@pytest.mark.parametrize("model", [DEEP, TIED, DecodingLlama(DEEP)], ids=["own", "tied", "laid"])
def test_an_early_exit_is_the_same_weights_and_no_copy(model):
    draft, whole = early_exit(model, 2), model.state_dict()
    mine = draft.state_dict()
    assert {name for name in whole if not name.startswith(("layers.2", "layers.3"))} == {*mine}
    assert all(w.data_ptr() == whole[name].data_ptr() for name, w in mine.items())
    assert len(model.layers) == model.config.n_layers
    assert draft.config.n_layers == len(draft.layers) == 2


def test_an_early_exit_is_what_a_model_of_these_weights_alone_computes():
    draft = early_exit(DEEP, 3)
    alone = loud_model(draft.config)
    alone.load_state_dict({name: DEEP.state_dict()[name] for name in alone.state_dict()})
    assert torch.equal(draft(PROMPT), alone(PROMPT))
    assert not torch.equal(draft(PROMPT), DEEP(PROMPT))


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("model", [DEEP, DecodingLlama(DEEP)], ids=["own", "laid"])
def test_with_an_early_exit_the_likeliest_answer_is_the_models_own(model, n_layers):
    alone = joined(stream(DEEP, PROMPT, top_k(1), max_new=40))
    draft = early_exit(model, n_layers)
    both = joined(speculate(model, draft, PROMPT, top_k(1), max_new=40, ahead=4))
    assert torch.equal(both, alone)


def test_rounds_tell_what_was_guessed_and_end_with_a_token_of_the_models_own():
    told = list(rounds(DEEP, early_exit(DEEP, 3), PROMPT, top_k(1), max_new=40, ahead=4))
    assert sum(len(new) for _, new in told) == 40
    assert all(1 <= len(new) <= guessed + 1 <= 5 for guessed, new in told)
    kept = [len(new) - 1 for _, new in told]
    assert 0 < sum(kept) < sum(guessed for guessed, _ in told)     # it agrees at times, not always
    told = list(rounds(MODEL, MODEL, PROMPT, top_k(1), max_new=20, ahead=4))
    assert [(guessed, len(new)) for guessed, new in told] == [(4, 5)] * 4


def test_each_round_is_one_pass_of_the_model_and_one_of_the_draft_for_each_guess():
    passes, draft = Counter(), early_exit(DEEP, 1)
    watched = [(DEEP.layers[0], "first"), (DEEP.layers[3], "last")]
    hooks = [block.register_forward_hook(lambda *_, name=name: passes.update([name]))
             for block, name in watched]
    told = list(rounds(DEEP, draft, PROMPT, top_k(1), max_new=30, ahead=3))
    for hook in hooks:
        hook.remove()
    assert passes["last"] == len(told)
    assert passes["first"] == len(told) + sum(guessed for guessed, _ in told)


@pytest.mark.parametrize("n_layers", [-1, 0, 4, 5])
def test_an_early_exit_of_all_blocks_or_none_is_refused(n_layers):
    with pytest.raises(ValueError, match=f"the first {n_layers} blocks was asked for; 1 to 3 of "):
        early_exit(DEEP, n_layers)
