"""Direct preference optimisation: which tokens count, the loss, and what a policy thinks."""

import copy
import math
from functools import partial
from itertools import islice

import pytest
import torch
from models import loud_model, tiny_config
from torch.autograd import grad

from llama_edu.alignment.dpo import (
    AnswerPair,
    answer_pair,
    batches,
    document,
    dpo,
    laid_out,
    log_probs,
    rewards,
    together,
    with_reference,
)
from llama_edu.alignment.preferences import orders
from llama_edu.data.dialogues_tokenizer import tokenizer
from llama_edu.losses import Loss, learnt_log_probs, next_token
from llama_edu.prompts import Message, dialog_tokens, named
from llama_edu.prompts.dialog import stop_ids
from llama_edu.training import lora
from llama_edu.training_loop import add_up, train

END = 7
PROMPT = torch.tensor([1, 20, END])         # ends with what is an end token elsewhere
LLAMA_3 = named("llama-3")


def some_pairs(n, *, seed=0, formatting=(END,)):
    """Pairs of answers of unequal lengths to prompts of unequal lengths."""
    chance = torch.Generator().manual_seed(seed)

    def drawn(most):
        length = int(torch.randint(1, most, (), generator=chance))
        return torch.randint(30, 90, (length,), generator=chance)

    def answer():
        return torch.cat([drawn(9), torch.tensor([END])])

    return [AnswerPair.of(torch.cat([PROMPT, drawn(5)]), answer(), answer(), formatting=formatting)
            for _ in range(n)]


def policy(*, seed=0):
    return loud_model(tiny_config(), seed=seed).double().requires_grad_(True)


def referred(pairs, *, seed=1):
    """With the references of another model."""
    return with_reference(policy(seed=seed), pairs, size=3)


# -- the loss against another way to compute it ------------------------------------------------

def answer_score(model, marked):
    """The mean and the sum of an answer's log-probabilities: of all of it, and of what counts;
    token by token from the whole softmax, alone, without padding."""
    tokens, learn, counts = marked.T.tolist()
    logits = model(torch.tensor([tokens]))[0]
    told = [(logits[i - 1].exp()[tokens[i]] / logits[i - 1].exp().sum()).log()
            for i in range(1, len(tokens))]
    said = [value for value, is_said in zip(told, learn[1:], strict=True) if is_said]
    counted = [value for value, does in zip(told, counts[1:], strict=True) if does]
    return sum(said) / len(said), sum(counted)


def by_hand(model, pairs, *, beta, nll):
    """log(1 + exp(-margin)) + nll * -mean log p, pair by pair."""
    total = 0.0
    for each in pairs:
        (mean, chosen), (_, rejected) = (answer_score(model, text)
                                         for text in (each.chosen, each.rejected))
        before = each.reference.tolist()
        margin = beta * ((chosen - before[0]) - (rejected - before[1]))
        total = total + torch.log1p(torch.exp(-margin)) - nll * mean
    return total


def check_loss(objective):
    """Value and gradients of an objective like `dpo`, in float64: rounding is all that is left."""
    model, pairs = policy(), referred(some_pairs(5))
    for beta, nll in ((0.1, 0.2), (0.3, 0.0)):
        ours = objective(model, together(pairs), beta=beta, nll=nll)
        expected = by_hand(model, pairs, beta=beta, nll=nll)
        assert ours.count == 5
        torch.testing.assert_close(ours.total, expected, rtol=1e-10, atol=0)
        weights = [*model.parameters()]
        for a, b in zip(grad(ours.total, weights), grad(expected, weights), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_the_loss_and_its_gradients_are_those_of_the_formula_pair_by_pair():
    check_loss(dpo)


def mean_for_sum(model, batch, *, beta, nll):
    counts = batch["counts"][:, 1:].sum(-1)
    sums = (learnt_log_probs(model, batch) * batch["counts"][:, 1:]).sum(-1) / counts
    chosen, rejected = sums.chunk(2)
    loss = dpo(model, batch, beta=beta, nll=nll)
    first, second = (batch["reference"].T / counts.view(2, -1)).unbind()
    margins = beta * (chosen - first - rejected + second)
    return Loss(-torch.nn.functional.logsigmoid(margins).sum(), loss.count)


WRONG = {
    "mean for sum": mean_for_sum,
    "swapped": lambda model, batch, **constants: dpo(
        model, batch | {"reference": batch["reference"].flip(-1)}, **constants),
    "no reference": lambda model, batch, **constants: dpo(
        model, batch | {"reference": 0 * batch["reference"]}, **constants),
    "padding and prompt in it": lambda model, batch, **constants: dpo(
        model, batch | {"learn": torch.ones_like(batch["learn"]),
                        "counts": torch.ones_like(batch["counts"])}, **constants),
    "end token counts": lambda model, batch, **constants: dpo(
        model, batch | {"counts": batch["learn"]}, **constants),
    "beta outside": lambda model, batch, *, beta, nll: Loss(
        beta * dpo(model, batch, beta=1.0, nll=nll / beta).total, len(batch["tokens"]) // 2),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_loss_is_found_out(name):
    with pytest.raises(AssertionError):
        check_loss(WRONG[name])


def test_the_first_loss_is_log_two_and_nothing_is_preferred():
    model = policy()
    pairs = with_reference(model, some_pairs(6), size=4)
    loss = dpo(model, together(pairs), nll=0.0)
    assert loss.total.item() / loss.count == pytest.approx(math.log(2), rel=1e-12)
    assert loss.notes["margin"] == pytest.approx(0, abs=1e-12)
    sums = log_probs(model, [each.chosen for each in pairs], size=6)
    assert loss.notes["chosen"] == pytest.approx(sums.sum().item())


def test_notes_are_sums_over_the_pairs():
    model, pairs = policy(), referred(some_pairs(6))
    chosen, rejected = rewards(model, pairs, size=2).T
    notes = dpo(model, together(pairs)).notes
    assert notes["accuracy"] == (chosen > rejected).sum()
    assert 0 < notes["accuracy"] < 6
    assert notes["margin"] == pytest.approx((chosen - rejected).sum().item())
    assert list(notes) == ["accuracy", "margin", "chosen", "rejected"]


# -- gradients that must not be ----------------------------------------------------------------

def test_two_answers_that_are_the_same_teach_nothing():
    model, (each,) = policy(), some_pairs(1)
    batch = laid_out([each.chosen, each.chosen]) | {"reference": torch.tensor([[-3.0, -3.0]])}
    loss = dpo(model, batch, nll=0.0)
    assert all(g.abs().max() < 1e-14 for g in grad(loss.total, [*model.parameters()]))


def gradient_of_logits(pairs, *, nll):
    """Of -log p of every token: 0 where the loss does not look. `2b t-1`"""
    class Told(torch.nn.Module):
        """A model whose logits are a parameter."""

        def hidden(self, tokens, **more):
            self.places = torch.zeros(*tokens.shape, 96, dtype=torch.double, requires_grad=True)
            return self.places

        def logits(self, hidden):
            return hidden

    model = Told()
    dpo(model, together(pairs), nll=nll).total.backward()
    return model.places.grad.abs().sum(-1)


def test_no_gradient_from_prompt_padding_or_masked_formatting():
    pairs = [AnswerPair(each.chosen, each.rejected, torch.zeros(2)) for each in some_pairs(6)]
    batch = together(pairs)
    for nll in (0.0, 0.2):
        found = gradient_of_logits(pairs, nll=nll) > 0
        expected = batch["counts"][:, 1:].clone()
        if nll:         # the chosen answer's end token is learnt, though it does not count
            expected[:6] = batch["learn"][:6, 1:]
        assert torch.equal(found, expected)
    ends = batch["tokens"] == END
    assert (batch["learn"] & ends).sum() == 12          # and not the END of a prompt
    assert not (batch["counts"] & ends).any()


def test_no_gradient_reaches_the_reference():
    model = policy(seed=1)
    pairs = with_reference(model, some_pairs(4), size=2)
    assert not any(each.reference.requires_grad for each in pairs)
    dpo(policy(), together(pairs)).total.backward()
    assert all(p.grad is None for p in model.parameters())


def test_a_batch_in_pieces_has_the_gradient_of_the_whole():
    pairs, found = referred(some_pairs(6)), []
    for size in (6, 2):
        model = policy()
        parts = [together(pairs[i:i + size]) for i in range(0, 6, size)]
        loss = add_up(model, iter(parts), dpo, accumulate=len(parts), where="here")
        found.append((loss.total, loss.count, *(p.grad for p in model.parameters())))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


def test_padding_changes_nothing_and_pairs_are_read_alike_in_any_company():
    model, pairs = policy(), some_pairs(7)
    alone = [log_probs(model, [each.rejected], size=1).item() for each in pairs]
    for size in (2, 7, 50):
        found = log_probs(model, [each.rejected for each in pairs], size=size)
        assert found.tolist() == pytest.approx(alone, rel=1e-10)


# -- what it teaches ---------------------------------------------------------------------------

def test_training_prefers_what_was_chosen_and_the_reference_stays():
    model = loud_model(tiny_config()).requires_grad_(True)
    pairs = with_reference(model, some_pairs(8), size=8)
    before = [each.reference.clone() for each in pairs]
    steps = list(train(model, batches(pairs, size=4, seed=0), dpo, lr=lambda _: 1e-3, steps=20))
    assert steps[0].loss > math.log(2) + 0.2 * 1.0      # and the chosen answer's own loss
    assert steps[-1].loss < steps[0].loss - 0.5
    chosen, rejected = rewards(model, pairs, size=8).T
    assert (chosen > rejected).all()
    assert all(map(torch.equal, before, (each.reference for each in pairs)))
    assert steps[-1].notes["accuracy"] == 1
    assert steps[-1].notes["margin"] > 0


def test_the_cross_entropy_term_is_that_of_next_token():
    model, pairs = policy(), referred(some_pairs(1))
    batch, (each,) = together(pairs), pairs
    own = next_token(model, {"tokens": each.chosen[None, :, 0],
                             "learn": each.chosen[None, :, 1].bool()})
    with_, without = (dpo(model, batch, nll=nll).total for nll in (0.2, 0.0))
    torch.testing.assert_close(with_ - without, 0.2 * own.total / own.count)


def test_a_fresh_adapter_is_the_base_so_it_has_its_references():
    base = loud_model(tiny_config())
    model = copy.deepcopy(base)
    lora.add_lora(model, "all", rank=2, alpha=4)
    pairs = some_pairs(4)
    for a, b in zip(with_reference(base, pairs, size=4), with_reference(model, pairs, size=4),
                    strict=True):
        assert torch.equal(a.reference, b.reference)


# -- pairs and batches -------------------------------------------------------------------------

def test_batches_are_the_pairs_in_a_shuffled_order_from_any_batch_on():
    pairs = referred(some_pairs(7))
    whole = list(islice(batches(pairs, size=3, seed=4), 6))
    for number, some in enumerate(islice(orders(7, size=3, seed=4), 6)):
        assert torch.equal(whole[number]["reference"],
                           torch.stack([pairs[i].reference for i in some]))
    later = next(batches(pairs, size=3, seed=4, start=4))
    assert all(torch.equal(later[name], whole[4][name]) for name in later)


TALK = [Message("system", "Be brief."), Message("user", "Hello."), Message("assistant", "Hello."),
        Message("user", "Tell me about a fox.")]
SAID = [Message("assistant", "A fox ran.")], [Message("assistant", "No.")]


def test_an_answer_counts_without_its_end_and_nothing_before_it_does():
    words = tokenizer()
    pair = answer_pair(TALK, *SAID, words, LLAMA_3, length=200)
    for text, said in zip((pair.chosen, pair.rejected), SAID, strict=True):
        ids, learn, counts = text.T.tolist()
        whole = dialog_tokens([*TALK, *said], words, LLAMA_3).ids
        start = len(dialog_tokens(TALK, words, LLAMA_3).ids)
        assert ids == whole
        assert learn == [0] * start + [1] * (len(ids) - start)
        assert counts == [*learn[:-1], 0]
        assert ids[-1] in stop_ids(words, LLAMA_3)
    ends = answer_pair(TALK, *SAID, words, LLAMA_3, length=200, end_counts=True)
    assert torch.equal(ends.chosen[:, 2], ends.chosen[:, 1])


def test_tokens_and_messages_make_the_same_pair():
    words = tokenizer()
    ours = answer_pair(TALK, *SAID, words, LLAMA_3, length=200)
    prompt = torch.tensor(dialog_tokens(TALK, words, LLAMA_3).ids)
    answers = [text[len(prompt):, 0] for text in (ours.chosen, ours.rejected)]
    theirs = AnswerPair.of(prompt, *answers, formatting=stop_ids(words, LLAMA_3))
    assert torch.equal(ours.chosen, theirs.chosen)
    assert torch.equal(ours.rejected, theirs.rejected)
    assert torch.equal(document(prompt, answers[0])[:, 2], ours.chosen[:, 1])


def test_a_long_prompt_loses_the_same_turns_before_both_answers():
    words = tokenizer()
    whole = answer_pair(TALK, *SAID, words, LLAMA_3, length=200)
    cut = answer_pair(TALK, *SAID, words, LLAMA_3, length=len(whole.chosen) - 1)
    same = answer_pair([TALK[0], TALK[3]], *SAID, words, LLAMA_3, length=200)
    assert torch.equal(cut.chosen, same.chosen)
    assert torch.equal(cut.rejected, same.rejected)
    with pytest.raises(ValueError, match="its last turn has .* and there is room for 8"):
        answer_pair(TALK, *SAID, words, LLAMA_3, length=8)


def test_an_answer_of_several_messages_is_what_the_assistant_says_in_them():
    more = [*SAID[0], Message("user", "Go on."), Message("assistant", "It ran home.")]
    pair = answer_pair(TALK, more, SAID[1], words := tokenizer(), LLAMA_3, length=200)
    said = words.decode([token for token, _, counts in pair.chosen.tolist() if counts])
    assert said == "A fox ran.It ran home."


def test_errors_say_what_to_do():
    model, pairs = policy(), some_pairs(2)
    with pytest.raises(ValueError, match="without a reference were given.*Ask with_reference"):
        dpo(model, together(pairs))
    with pytest.raises(ValueError, match="without a reference were given.*Ask with_reference"):
        rewards(model, pairs, size=2)
    with pytest.raises(ValueError, match="2 pairs were given; a batch needs 3"):
        next(batches(pairs, size=3, seed=0))
    with pytest.raises(ValueError, match="both texts of a pair are the same 5 tokens"):
        AnswerPair.of(PROMPT, torch.tensor([30, END]), torch.tensor([30, END]))
    with pytest.raises(ValueError, match="the rejected text has no token of an answer"):
        AnswerPair.of(PROMPT, torch.tensor([30]), torch.tensor([], dtype=torch.long))


def test_constants_are_llama_3s():
    model, batch = policy(), together(referred(some_pairs(2)))
    assert torch.equal(dpo(model, batch).total,
                       partial(dpo, beta=0.1, nll=0.2)(model, batch).total)
