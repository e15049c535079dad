"""The peers of the speed benchmarks compute what we compute, and their reports come out whole."""

import pytest
import torch
from models import assert_same, tiny_config
from torch.nn import functional as F

from benchmarks import _rounds, batching, decode, lora_step, rollouts, train_step
from llama_edu.family.accounting import parameters
from llama_edu.losses import next_learnt_token
from llama_edu.model import Llama
from llama_edu.training_loop import initialise

CONFIG = tiny_config(n_kv_heads=4, tied_embeddings=True)
TEXT = torch.randint(96, (2, 33), generator=torch.Generator().manual_seed(0))


def drawn():
    return initialise(Llama(CONFIG), std=0.2, generator=torch.Generator().manual_seed(1)).eval()


@torch.no_grad()
def test_the_plain_loop_is_the_same_llama():
    model, plain = drawn(), train_step.PlainLlama(CONFIG, 32)
    plain.wte.weight.copy_(model.tok_embeddings.weight)
    for ours, theirs in zip(model.layers, plain.layers, strict=True):
        a, f = ours.attention, ours.feed_forward
        theirs["qkv"].weight.copy_(torch.cat([a.wq.weight, a.wk.weight, a.wv.weight]))
        theirs["proj"].weight.copy_(a.wo.weight)
        theirs["up"].weight.copy_(torch.cat([f.w1.weight, f.w3.weight]))
        theirs["down"].weight.copy_(f.w2.weight)
    loss = F.cross_entropy(model(TEXT[:, :-1]).flatten(0, 1), TEXT[:, 1:].flatten())
    torch.testing.assert_close(plain(TEXT[:, :-1], TEXT[:, 1:]), loss)


@torch.no_grad()
def test_transformers_is_the_same_llama():
    model = drawn()
    assert_same(model(TEXT), decode.transformers_model(model)(TEXT).logits)


def test_peft_learns_the_same_from_the_same_rows(monkeypatch):
    monkeypatch.setattr(lora_step, "TOKENS", 12)
    ours, theirs = lora_step.pair(drawn())
    with torch.no_grad():       # A is drawn; the same one makes the first gradients alike
        for layer, block in zip(ours.layers, theirs.base_model.model.model.layers, strict=True):
            for w, proj in ((layer.attention.wq, "q_proj"), (layer.attention.wv, "v_proj")):
                getattr(block.self_attn, proj).lora_A["default"].weight.copy_(w.a)
    given = lora_step.batch(0.5, CONFIG.vocab_size)
    loss = next_learnt_token(ours, given)
    assert loss.count == 8 * 6
    mean = lora_step.their_loss(theirs, given)
    torch.testing.assert_close(loss.total / loss.count, mean)
    (loss.total / loss.count).backward()
    mean.backward()
    wv, v_proj = (ours.layers[0].attention.wv,
                  theirs.base_model.model.model.layers[0].self_attn.v_proj)
    torch.testing.assert_close(wv.b.grad, v_proj.lora_B["default"].weight.grad)
    counts = [sum(p.numel() for p in each.parameters() if p.requires_grad)
              for each in (ours, theirs)]
    assert counts[0] == counts[1]


def test_the_report_on_lora_names_both_and_every_share(monkeypatch):
    monkeypatch.setattr(lora_step, "MODEL", "tales")
    monkeypatch.setattr(lora_step, "ROUNDS", 1)
    lines = [*lora_step.run()]
    assert [row.split(" |")[0] for row in lines[-3:]] == ["| a quarter", "| half", "| all"]
    assert all("met" in row for row in lines[-3:])


def test_the_report_on_rollouts_counts_what_each_way_draws(monkeypatch):
    monkeypatch.setattr(rollouts, "ROUNDS", 1)
    monkeypatch.setattr(rollouts, "SIZES", (3,))
    monkeypatch.setattr(rollouts, "MAX_NEW", 4)
    calls = []
    draw, asked = rollouts.task(3)

    def watched(prompts):
        calls.append((len(prompts), int((batch := draw(prompts))["learn"].sum())))
        return batch

    speed = rollouts.measure(watched, asked)
    assert [n for n, _ in calls] == [3, 1, 1, 1] * 2, "one round is not counted"
    assert all(n <= tokens <= 4 * n for n, tokens in calls)
    assert set(speed) == {rollouts.BATCHED, rollouts.ALONE}
    assert all(len(rates) == 1 and rates[0] > 0 for rates in speed.values())
    row = rollouts.line(3, {rollouts.BATCHED: [12.0, 60.0], rollouts.ALONE: [2.0, 10.0]})
    assert row == "| 3 | 36 | 6 | 6.00 (6.00 to 6.00) | met |"


def test_both_ways_of_batching_give_the_same_answers_as_long_as_asked_for(monkeypatch):
    monkeypatch.setattr(batching, "LONGEST", 40)
    requests, model = batching.drawn(CONFIG, 20), drawn().double()
    both = [way(model, requests) for way in (batching.continuous, batching.static)]
    assert both[0] == both[1]
    assert [len(answer) for answer in both[0]] == [n for _, n in requests]


def test_the_report_on_batching_names_both_ways_and_the_goal(monkeypatch):
    for name, value in (("MODEL", CONFIG), ("N", 12), ("ROUNDS", 1), ("LONGEST", 20)):
        monkeypatch.setattr(batching, name, value)
    *_, continuous, static, _, goal = batching.run()
    assert continuous.startswith("| continuous |")
    assert "1.00 (1.00 to 1.00)" in static
    assert goal.startswith("Goal 2.0 times: ")


def test_a_token_reads_every_matrix_once():
    for config in decode.MODELS.values():
        p = parameters(config)
        assert decode.token_bytes(config, 0) == 4 * (p.total - p.norms)     # tied: one table
    cache = 4 * 2 * 6 * 288     # bytes of keys and values per token: float32, 6 layers
    config = decode.MODELS["15M"]
    assert decode.token_bytes(config, 100) - decode.token_bytes(config, 0) == 100 * cache


def test_ratios_are_taken_round_by_round():
    assert _rounds.ratios({"us": [1.0, 4.0], "them": [2.0, 2.0]}, "us", "them") == [2.0, 0.5]
    assert _rounds.spread([2.0, 0.5, 1.0]) == "1.00 (0.50 to 2.00)"


@pytest.mark.parametrize("benchmark", [decode, train_step])
def test_a_report_names_every_engine_and_every_goal(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "MODELS", {"15M": CONFIG})
    monkeypatch.setattr(benchmark, "ROUNDS", 1)
    monkeypatch.setattr(_rounds, "BANDWIDTH_FLOATS", 1000)
    if benchmark is decode:
        monkeypatch.setattr(decode, "SHORT", 8)
        monkeypatch.setattr(decode, "LONG", 64)
    lines = "\n".join(benchmark.run())
    for name in ("transformers", "llama_edu", "met"):
        assert name in lines
    assert ("nan" in lines) is False
