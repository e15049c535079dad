"""Generation as a stream: the prompt in one pass, then one token at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .cache import KVCache
from .model import Llama
from .sampling import Rule, pick
from .tokenizer import Tokenizer


@torch.inference_mode()
def stream(model: Llama, prompt: Tensor, *rules: Rule, max_new: int,
           generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """Yield `b 1` tokens after a prompt of `b t`. The caller decides when to stop.

    Raises ValueError when prompt and new tokens together exceed the model's context.
    """
    t, context = prompt.shape[1], model.config.max_seq_len
    if t < 1:
        raise ValueError("the prompt has no tokens; at least one is needed. Begin with bos.")
    if max_new < 1:
        raise ValueError(f"{max_new} new tokens were asked for; 1 or more is needed.")
    if t + max_new > context:
        raise ValueError(f"the prompt has {t} tokens and {max_new} more were asked for; this "
                         f"model's context is {context}. Shorten the prompt or ask for fewer.")
    cache = KVCache(model.config, len(prompt), max_len=t + max_new,
                    like=model.tok_embeddings.weight)
    tokens = prompt
    for _ in range(max_new):
        logits = model(tokens, cache)[:, -1]
        for rule in rules:
            logits = rule(logits)
        tokens = pick(logits, generator=generator)
        yield tokens


def answer(model: Llama, words: Tokenizer, text: str, *rules: Rule, max_new: int,
           generator: torch.Generator | None = None) -> Iterator[str]:
    """Yield the text that follows `text`, in pieces that join to the whole, up to a stop token.

    A character whose bytes are spread over several tokens is held back until it is complete.
    Only the tokens since the last piece but one are decoded again: enough to see a leading space.
    """
    ids = words.encode(text, bos=words.bos_id is not None, eos=False)
    prompt = torch.tensor([ids], dtype=torch.long, device=model.tok_embeddings.weight.device)
    start, end, shown = 0, len(ids), words.decode(ids)      # shown: the text of ids[start:end]
    for token in stream(model, prompt, *rules, max_new=max_new, generator=generator):
        if token.item() in words.stop_ids:
            break
        ids.append(int(token.item()))
        now = words.decode(ids[start:])
        if len(now) > len(shown) and not now.endswith("\N{REPLACEMENT CHARACTER}"):
            yield now[len(shown):]
            start, end = end, len(ids)
            shown = words.decode(ids[start:])
    if end < len(ids):
        yield words.decode(ids[start:])[len(shown):]
