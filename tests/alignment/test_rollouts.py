"""Rollouts: what was drawn, what is learnt of it, and what the policy thought of it."""

from itertools import islice

import pytest
import torch
from models import loud_model, tiny_config

from llama_edu.alignment.ppo import answered, cut
from llama_edu.alignment.rejection import samples
from llama_edu.alignment.rollouts import divergence, rollouts
from llama_edu.losses import log_probs

ENDS = 7, 9
PROMPTS = [torch.tensor(ids) for ids in ([1, 20, 21], [1, 30], [1, 40, 41, 42])]


def policy(*, seed=0):
    return loud_model(tiny_config(), seed=seed).eval()


def length(prompts, answers):
    return torch.tensor([float(len(answer)) for answer in answers])


def drawn(model, *, n=2, grade=length, seed=0):
    return rollouts(model, PROMPTS, grade, n=n, max_new=12, stop_ids=ENDS,
                    generator=torch.Generator().manual_seed(seed))


def test_what_is_learnt_is_what_was_drawn():
    model = policy()
    batch = drawn(model)
    found = samples(model, PROMPTS, n=2, max_new=12, stop_ids=ENDS,
                    generator=torch.Generator().manual_seed(0))
    answers = [answer for some in found for answer in some]
    assert len({len(answer) for answer in answers}) > 1, "all of one length prove little"
    for i, answer in enumerate(answers):
        row, said = batch["tokens"][i], batch["learn"][i]
        prompt = PROMPTS[i // 2]
        assert row[:len(prompt)].tolist() == prompt.tolist()
        assert row[said].tolist() == answer.tolist()
        assert int(said.int().argmax()) == len(prompt)
    assert batch["scores"].tolist() == [len(answer) for answer in answers]


def test_each_token_has_the_log_probability_that_it_has_alone():
    model = policy()
    batch = drawn(model)
    for i, said in enumerate(batch["learn"]):
        text = batch["tokens"][i][:int(said.nonzero().max()) + 1]
        alone = log_probs(model, {"tokens": text[None]})[0]
        kept = batch["log_probs"][i]
        torch.testing.assert_close(kept[said[1:]], alone[said[1:len(text)]], rtol=1e-4, atol=1e-4)
        assert (kept[~said[1:]] == 0).all()


def test_the_mean_divergence_is_the_kl_divergence():
    """Of single tokens, whose odds can be summed exactly."""
    model, reference = policy(), policy(seed=1)
    prompt = PROMPTS[0]
    batch = rollouts(model, [prompt], length, n=6_000, max_new=1, stop_ids=ENDS,
                     generator=torch.Generator().manual_seed(0))
    p, q = (each(prompt[None])[0, -1].detach().double().log_softmax(-1)
            for each in (model, reference))
    alone = {"tokens": batch["tokens"], "learn": batch["learn"]}
    before = log_probs(reference, alone).detach() * batch["learn"][:, 1:]
    found = divergence(batch, before)
    exactly = (p.exp() * (p - q)).sum().item()
    assert exactly > 0.1
    assert found.mean().item() == pytest.approx(exactly, abs=4 * found.std().item() / 6_000**0.5)


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="1 of 3 scores are no finite numbers"):
        drawn(policy(), n=1, grade=lambda prompts, answers: torch.tensor([0.0, float("nan"), 1.0]))


def test_every_epoch_asks_all_prompts_in_groups():
    asked = []

    def grade(prompts, answers):
        asked.append([prompt[-1].item() for prompt in prompts])
        return length(prompts, answers)

    chance = torch.Generator().manual_seed(0)
    going = answered(policy(), policy(seed=1), PROMPTS, grade, size=2, n=2, max_new=2,
                     stop_ids=ENDS, generator=chance, pieces=1)
    batches = list(islice(going, 3))
    assert all(one == other for one, other in asked)
    assert sorted(one for one, _ in asked) == [21, 30, 42]
    assert all("reference" in batch and batch["reference"].shape == batch["log_probs"].shape
               for batch in batches)


@pytest.mark.parametrize(("size", "n", "pieces"), [(6, 2, 2), (3, 2, 1), (8, 2, 1)])
def test_sizes_that_do_not_fit_are_refused(size, n, pieces):
    with pytest.raises(ValueError, match="whole groups in every piece"):
        next(answered(policy(), policy(), PROMPTS, length, size=size, n=n, max_new=2, stop_ids=ENDS,
                      generator=torch.Generator(), pieces=pieces))


def test_pieces_have_every_row_once_an_epoch():
    batch = {"tokens": torch.arange(12).view(6, 2), "scores": torch.arange(6.0)}
    found = list(cut(batch, epochs=2, pieces=3, generator=torch.Generator().manual_seed(0)))
    assert [len(each["scores"]) for each in found] == [2] * 6
    for some in (found[:3], found[3:]):
        assert sorted(torch.cat([each["scores"] for each in some]).tolist()) == [0, 1, 2, 3, 4, 5]
    assert all((each["tokens"][:, 0] == 2 * each["scores"]).all() for each in found)
