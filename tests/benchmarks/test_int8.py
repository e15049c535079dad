"""Both engines of the benchmark in 8 bits read the same model, and the report comes out whole."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from models import distance

from benchmarks import _rounds, int8_cpu
from llama_edu.family.accounting import parameters
from llama_edu.model import Llama

CONFIG = replace(int8_cpu.CONFIG, dim=64, n_heads=4, n_kv_heads=2, hidden_dim=192, n_layers=2,
                 vocab_size=512, max_seq_len=512)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in (("CONFIG", CONFIG), ("ROUNDS", 2), ("SHORT", 12), ("THREADS", 1)):
        monkeypatch.setattr(int8_cpu, name, value)
    monkeypatch.setattr(_rounds, "BANDWIDTH_FLOATS", 1000)


def test_the_model_that_is_rounded_block_by_block_is_the_model():
    source = int8_cpu.random_source(CONFIG)
    whole = Llama(CONFIG).eval()
    weights = {name: stored.read() for name, stored in source.tensors.items()}
    whole.load_state_dict(weights)
    text = torch.randint(512, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        far = distance(int8_cpu.rounded(source)(text), whole(text))
    assert 1e-4 < far < 0.1     # off by some steps of 1/127 of the largest, and not equal


@pytest.mark.skipif(not importlib.util.find_spec("llama_cpp"), reason="llama.cpp is optional")
def test_a_report_compares_two_engines_that_say_alike():
    text = "\n".join(int8_cpu.run())
    assert int8_cpu.OURS in text
    assert int8_cpu.PEER in text
    assert "0.99 needed: met" in text
    assert "nan" not in text


def test_without_llama_cpp_it_says_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    line, = int8_cpu.run()
    assert line.startswith("llama.cpp is not here")


def test_a_token_reads_every_matrix_once():
    p, kv = parameters(CONFIG), 4 * 2 * 2 * 2 * 16 * int8_cpu.SHORT    # float32, 2 layers, 2 heads
    assert int8_cpu.token_bytes(CONFIG, bits=32) == 4 * (p.total - p.norms) + kv   # tied: one table
    assert int8_cpu.token_bytes(CONFIG, bits=8.5) == (p.total - p.norms) * 34 / 32 + kv
