"""A recipe that trains in a second, for all tests that need one."""

TINY = """
out = "out"
seed = 0
save_as = "bfloat16"

[text]
source = "tales"
tales = 60
held_out = 8
row_length = 65

[model]
dim = 16
n_layers = 1
n_heads = 2
n_kv_heads = 1
hidden_dim = 32
vocab_size = 280
norm_eps = 1e-5
rope_theta = 10_000.0
max_seq_len = 64
tied_embeddings = true

[training]
steps = 12
batch = 2
accumulate = 1
peak_lr = 1e-2
warmup = 2
init_std = 0.05
checkpoint_every = 2
"""
