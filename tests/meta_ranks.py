"""Meta's own class in several processes, each with one shard; a light file, as each imports it."""

import json
import os
import sys
from pathlib import Path

import torch

RANKS = 4


def one_rank(rank: int, root: str, cases: list[tuple[str, int, bool]]) -> None:
    """One worker of Meta's code: its shard, loaded strictly, and the logits of all together."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    torch.set_num_threads(1)
    import torch.distributed as dist
    from fairscale.nn.model_parallel import initialize
    from fairscale.nn.model_parallel.layers import ParallelEmbedding
    from llama_models.llama3.args import ModelArgs
    from llama_models.llama3.model import Transformer

    dist.init_process_group("gloo", store=dist.FileStore(f"{root}/meeting", RANKS), rank=rank,
                            world_size=RANKS)
    for name, n_shards, by_feature in cases:
        initialize.initialize_model_parallel(n_shards)
        mine, folder = initialize.get_model_parallel_rank(), Path(root, name)
        params = json.loads((folder / "params.json").read_text())
        twin = Transformer(ModelArgs(**params, max_batch_size=2, max_seq_len=64)).eval()
        if by_feature:      # as the code of Llama 1, 2 and Code has it
            twin.tok_embeddings = ParallelEmbedding(params["vocab_size"], params["dim"],
                                                    init_method=lambda w: w)
        twin.load_state_dict(torch.load(folder / f"consolidated.{mine:02}.pth", mmap=True,
                                        weights_only=True), strict=True)
        logits = twin(torch.load(folder / "tokens.pt"), 0)
        torch.save(logits, folder / f"logits.{rank}.pt")
        initialize.destroy_model_parallel()
    dist.destroy_process_group()
