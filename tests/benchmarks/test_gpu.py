"""The benchmark for GPUs runs every step without one, and finds what is wrong."""

import re
from dataclasses import replace

import pytest
import torch
from models import loud_model, tiny_config
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import _gpu_bench, gpu
from benchmarks._gpu_peer import peer
from llama_edu.compress.quant import int4, int8
from llama_edu.compress.surgery import replace_linears
from llama_edu.family.accounting import parameters
from llama_edu.inference import static
from llama_edu.inference.static import StaticLlama
from llama_edu.layers import causal_mask

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    plan = gpu.PLANS["tiny"]
    monkeypatch.setitem(gpu.PLANS, "tiny", replace(plan, prompts=(16,), batches=((2, 16),), new=2))
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)


def test_every_step_runs_on_a_cpu_and_leaves_no_result(tmp_path):
    text = "\n".join(gpu.run("tiny", "cpu"))
    assert re.findall(r"^### (\w+)", text, re.M) == list(gpu.PARTS)
    assert text.count("allowed: met") == 4
    for name in ("bf16", "int8", "int4", "transformers, static cache", "transformers, sdpa"):
        assert f"{name}" in text
    assert len(re.findall(r"goal \d+%: (?:met|missed)", text)) == 3
    assert "nan" not in text
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_it_says_so_in_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line, = gpu.run()
    assert line.startswith("No GPU was found, so nothing was measured; ")
    assert line.count(". ") == 0


def test_the_checks_find_a_pass_that_is_wrong(monkeypatch):
    monkeypatch.setattr(static, "turn_real", lambda x, rope: x)
    text = "\n".join(gpu.run("tiny", "cpu", ["checks"]))
    assert re.search("recorded passes against one whole pass: .* allowed: missed", text)


def test_memory_that_is_not_there_is_refused_before_anything_is_built(monkeypatch):
    bench = _gpu_bench.Bench(gpu.PLANS["tiny"], CPU)
    bench.plan, bench.gpu = gpu.PLANS["8b"], True
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 24 * 2**30))
    bench.expect("bf16", batch=1, max_len=1024, t=128)
    with pytest.raises(ValueError, match="int8, 1 texts and 1024 tokens; this GPU has 24.0"):
        bench.expect("int8", batch=1, max_len=1024, t=128)
    assert bench.predicted > 24 * 2**30


def test_a_prompts_arithmetic_is_counted():
    config, t = tiny_config(), 24
    model = loud_model(config)
    with FlopCounterMode(display=False) as counter:
        model.hidden(torch.zeros(1, t, dtype=torch.long))
    products = counter.get_flop_counts()["Global"][torch.ops.aten.mm]
    pairs = config.n_layers * config.n_heads * config.head_dim * int(causal_mask(t, t).sum())
    last = 2 * config.vocab_size * config.dim
    assert _gpu_bench.prefill_flops(config, t) == products + 4 * pairs + last


@pytest.mark.parametrize("tied", [False, True])
def test_what_a_pass_reads_is_counted(tied):
    config = tiny_config(tied_embeddings=tied)
    p, table = parameters(config), 4 * config.vocab_size * config.dim
    model = StaticLlama(loud_model(config))
    assert _gpu_bench.weights_read(model, model.tok_embeddings, model.output) == 4 * p.total - (
        0 if tied else table)
    for make, least, most in ((int8, 8, 8.6), (int4(16), 8, 8.1)):
        model = StaticLlama(loud_model(config))
        replace_linears(model, ".*", make)
        matrices = p.attention + p.feed_forward + table // 4
        bits = 8 * (_gpu_bench.weights_read(model, model.tok_embeddings, model.output)
                    - 4 * p.norms) / matrices
        assert least <= bits <= most        # int4: 4, and two numbers of 32 bits a group of 16


def test_the_peer_has_the_same_shape():
    for config in (tiny_config(), gpu.PLANS["tiny"].config):
        theirs = peer(config, dtype=torch.bfloat16, device=CPU)
        assert sum(w.numel() for w in theirs.parameters()) == parameters(config).total
        assert {w.dtype for w in theirs.parameters()} == {torch.bfloat16}


def test_a_share_is_bytes_over_time_over_the_copy():
    bench = _gpu_bench.Bench(gpu.PLANS["tiny"], CPU)
    plan = bench.plan
    # As many bytes as the copy reads and writes, in twice its time.
    line, share = bench.row("name", 4, 0, seconds=2.0, copy=1.0, weights=2 * plan.copied)
    assert share == 0.5
    assert line.startswith("| name | 4 | 0 | 2.0 | ")
