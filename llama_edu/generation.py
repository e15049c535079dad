"""Generation as a stream: the prompts in one pass, then one token of every row at a time."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import takewhile

import torch
from torch import Tensor

from .cache import KVCache
from .layers import causal_mask
from .model import Llama
from .sampling import NO_TOKEN, Rule, known, pick, usual_rules
from .tokenizer import Tokenizer


def left_pad(prompts: Sequence[Tensor]) -> Tensor:
    """Prompts `t` of any lengths as one `b t`, NO_TOKEN before the shorter ones.

    Raises ValueError where there are none.
    """
    if not prompts:
        raise ValueError("no prompts were given; one or more is needed. Give a list of tensors.")
    longest = max(len(prompt) for prompt in prompts)
    padded = prompts[0].new_full((len(prompts), longest), NO_TOKEN)
    for row, prompt in zip(padded, prompts, strict=True):
        row[longest - len(prompt):] = prompt
    return padded


@torch.inference_mode()
def stream(model: Llama, prompt: Tensor, *rules: Rule, max_new: int,
           stop_ids: Collection[int] = (), generator: torch.Generator | None = None,
           cache: KVCache | None = None) -> Iterator[Tensor]:
    """Yield tokens `b 1` after prompts `b t`, as each row would alone; the caller may stop early.

    Shorter prompts have NO_TOKEN on their left: see `left_pad`. A row that has said one of
    `stop_ids` yields NO_TOKEN from then on, and the stream ends when all rows have. cache: one that
    holds the beginning of these prompts, which is then not read again; in the end it holds all but
    the last token. Raises ValueError when prompt and new tokens together exceed the context.
    """
    pads = count_pads(model, prompt, max_new=max_new)
    if cache is None:
        cache = model.new_cache(len(prompt), prompt.shape[1] + max_new)
    elif cache.length >= prompt.shape[1]:
        raise ValueError(f"the cache holds {cache.length} tokens and the prompt has "
                         f"{prompt.shape[1]}; one more at least is needed, for its logits. Rewind "
                         "the cache.")
    text = torch.cat([prompt, prompt.new_full((len(prompt), max_new), NO_TOKEN)], dim=1)
    stops = torch.tensor(list(stop_ids), dtype=torch.long, device=prompt.device)
    done = torch.zeros_like(prompt[:, :1], dtype=torch.bool)
    for end in range(prompt.shape[1], text.shape[1]):
        logits = next_logits(model, text[:, :end], cache, pads)
        for rule in rules:
            logits = rule(logits, text[:, :end])
        tokens = pick(logits, generator=generator).masked_fill(done, NO_TOKEN)
        text[:, end:end + 1] = tokens
        yield tokens
        done |= torch.isin(tokens, stops)
        if done.all():
            return


def count_pads(model: Llama, prompt: Tensor, *, max_new: int) -> Tensor:
    """How many NO_TOKENs each row of a prompt `b t` begins with; ValueError where it cannot be
    continued."""
    t, context = prompt.shape[1], model.config.max_seq_len
    empty = prompt == NO_TOKEN
    if t < 1 or empty.all(1).any():
        raise ValueError("the prompt has no tokens; at least one is needed. Begin with bos.")
    if (empty[:, 1:] & ~empty[:, :-1]).any():
        raise ValueError(f"a prompt has {NO_TOKEN} (no token) after a token; it may only stand at "
                         "the left. Make the batch with left_pad.")
    if max_new < 1:
        raise ValueError(f"{max_new} new tokens were asked for; 1 or more is needed.")
    if t + max_new > context:
        raise ValueError(f"the prompt has {t} tokens and {max_new} more were asked for; this "
                         f"model's context is {context}. Shorten the prompt or ask for fewer.")
    return empty.sum(1)


def next_logits(model: Llama, text: Tensor, cache: KVCache, pads: Tensor) -> Tensor:
    """Logits `b v`, float32, for what follows a text `b s`; only tokens that the cache lacks are
    read."""
    start, end = cache.length, text.shape[1]
    positions, mask = places(pads, start, end) if pads.any() else (None, None)
    tokens = text[:, start:].clamp(min=0)       # any token will do where nobody looks
    last = model.hidden(tokens, cache, positions=positions, mask=mask)[:, -1]
    return model.logits(last)


def places(pads: Tensor, start: int, end: int) -> tuple[Tensor, Tensor]:
    """Positions `b t` and mask `b t s` of columns start to end, in rows that begin with padding.

    Positions count from a row's first token. Padding sees itself, or its softmax would be NaN.
    """
    columns = torch.arange(end, device=pads.device)
    positions = (columns - pads[:, None]).clamp(min=0)
    mask = causal_mask(end - start, end, device=pads.device) & (columns >= pads[:, None, None])
    return positions[:, start:], mask | (columns[start:, None] == columns)


def generate(model: Llama, tokenizer: Tokenizer, text: str, *, max_new: int = 200,
             temperature: float = 0.0, top_p: float = 1.0, seed: int = 0) -> str:
    """The text that follows `text`, up to its end, `max_new` tokens or the end of the context.

        generate(model, tokenizer, "Once upon a time", temperature=0.8)

    temperature 0 takes the likeliest token always. Raises ValueError for what cannot be continued.
    """
    return "".join(answer(
        model, tokenizer, text, *usual_rules(temperature, top_p),
        max_new=room_for(max_new, model, begun(tokenizer, text)),
        generator=seeded(seed, model.tok_embeddings.weight)))


def room_for(most: int, model: Llama, ids: Sequence[int]) -> int:
    """How many of `most` new tokens the context has room for after these; 1 where it has none, so
    that a text which fills it is refused, and not answered with silence."""
    return min(most, max(1, model.config.max_seq_len - len(ids)))


def seeded(seed: int, like: Tensor) -> torch.Generator:
    """Random numbers that `seed` decides, on the device of a tensor. Raises ValueError for one
    that is no whole number from 0 on."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed} was given; a whole number from 0 to 2**63 - 1 is needed. "
                         "Choose one.")
    return torch.Generator(like.device).manual_seed(seed)


def begun(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text that begins as the model knows texts to begin."""
    return tokenizer.encode(text, bos=tokenizer.adds_bos)


def answer(model: Llama, tokenizer: Tokenizer, text: str, *rules: Rule, max_new: int,
           generator: torch.Generator | None = None) -> Iterator[str]:
    """Yield the text that follows `text`, in pieces that join to the whole, up to a stop token.

    Raises ValueError for a text without tokens, or one that the context has no room for.
    """
    ids = begun(tokenizer, text)
    prompt = torch.tensor([ids], dtype=torch.long, device=model.tok_embeddings.weight.device)
    tokens = (int(token.item()) for token in stream(
        model, prompt, known(tokenizer.n_vocab), *rules, max_new=max_new, generator=generator))
    said = takewhile(lambda token: token not in tokenizer.stop_ids, tokens)
    yield from spell(said, ids, tokenizer)


def spell(tokens: Iterable[int], before: Sequence[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Yield the text of tokens that follow others, in pieces that join to the whole.

    A character whose bytes are spread over several tokens is held back until it is complete.
    Only the tokens since the last piece but one are decoded again: enough to see a leading space.
    """
    ids = list(before)
    start, end, shown = 0, len(ids), tokenizer.decode(ids)      # shown: the text of ids[start:end]
    for token in tokens:
        ids.append(token)
        now = tokenizer.decode(ids[start:])
        if len(now) > len(shown) and not now.endswith("\N{REPLACEMENT CHARACTER}"):
            yield now[len(shown):]
            start, end = end, len(ids)
            shown = tokenizer.decode(ids[start:])
    if end < len(ids):
        yield tokenizer.decode(ids[start:])[len(shown):]


def answers(model: Llama, tokenizer: Tokenizer, texts: Sequence[str], *rules: Rule, max_new: int,
            generator: torch.Generator | None = None) -> list[str]:
    """The text that follows each of several, whatever their lengths, in one batch.

    Raises ValueError where there are none, or for one that cannot be continued.
    """
    device = model.tok_embeddings.weight.device
    prompts = [begun(tokenizer, text) for text in texts]
    padded = left_pad([torch.tensor(ids, dtype=torch.long, device=device) for ids in prompts])
    new = torch.cat(list(stream(
        model, padded, known(tokenizer.n_vocab), *rules, max_new=max_new, generator=generator,
        stop_ids=tokenizer.stop_ids)), dim=1)
    left_out = {NO_TOKEN, *tokenizer.stop_ids}
    return [tokenizer.decode(ids + [token for token in row if token not in left_out])
            [len(tokenizer.decode(ids)):] for ids, row in zip(prompts, new.tolist(), strict=True)]
