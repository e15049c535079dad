"""llama.cpp as a judge of GGUF files: its tokens, its logits and its dialogs.

It comes as `xllamacpp`, which is a server in this process: log-probabilities go through a call,
tokens and dialogs through a port of this machine alone.
"""

import json
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llama_edu.formats.gguf import header as gguf_header

# What it picks with where a file says nothing, and under which names it tells.
OF_ITS_OWN = {"temperature": 0.8, "top_p": 0.95, "top_k": 40}
WEIGHTS_ALONE = {"temperature": 1.0, "samplers": [], "n_predict": 1}


class Judge:
    """A GGUF file, opened by llama.cpp with keys and values in float32, on one thread.

    n_ctx: how many tokens it has room for.
    """

    def __init__(self, file: Path, *, n_ctx: int = 256, template: str | None = None) -> None:
        cpp = pytest.importorskip("xllamacpp")
        words = gguf_header.read(file).fields.get("tokenizer.ggml.model", "none")
        assert words != "none", f"{file.name} has no vocabulary; the server would end this process"
        params = cpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel, params.n_threads_http = n_ctx, 1, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.cache_type_k = params.cache_type_v = cpp.ggml_type.GGML_TYPE_F32
        # Its quick attention would round queries to 11 bits.
        params.flash_attn_type = cpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.warmup, params.endpoint_props, params.verbosity = False, True, 0
        params.cache_ram_mib = 0
        if template:
            params.chat_template, params.use_jinja = template, False
            params.prefill_assistant = False
        self.server = cpp.Server(params)
        # Ended before its loop has begun, it would wait for ever: an answer shows that it has.
        self.server.handle_completions({"prompt": [0], "n_predict": 1})
        self.n_vocab = len(gguf_header.read(file).fields["tokenizer.ggml.tokens"])

    def ask(self, page: str, question: object = None) -> dict:
        link = HTTPConnection(self.server.listening_address.removeprefix("http://"))
        link.request("GET" if question is None else "POST", page, json.dumps(question))
        answer = json.loads(link.getresponse().read())
        link.close()
        assert "error" not in answer, answer
        return answer

    def encode(self, text: str, *, bos: bool = False, special: bool = False) -> list[int]:
        """`bos`: with what its vocabulary puts around a text."""
        return self.ask("/tokenize", {"content": text, "add_special": bos,
                                      "parse_special": special})["tokens"]

    def logits(self, ids: Sequence[int], *, after: Sequence[int] | None = None) -> Tensor:
        """`t v`: after each token, or after those in these places. They sum to 0 over `v`, as it
        tells log-probabilities, which know their logits up to a constant only."""
        rows = [self.log_probs(ids[: at + 1]) for at in after or range(len(ids))]
        return centred(torch.stack(rows))

    def log_probs(self, ids: Sequence[int]) -> Tensor:
        """`v`, after all of these tokens."""
        told = self.likely([*ids], bias=1000)["top_logprobs"]       # as they were before the bias
        row = torch.full((self.n_vocab,), torch.nan)
        row[[each["id"] for each in told]] = torch.tensor([each["logprob"] for each in told])
        return row

    def cost(self, ids: Sequence[int]) -> float:
        """What the last of these tokens costs after the others, in nats: it is made to say it, and
        tells how likely it was before. Only of whole letters."""
        answer = self.server.handle_completions(WEIGHTS_ALONE | {
            "prompt": [*ids[:-1]], "n_probs": 1, "logit_bias": [[ids[-1], 1000]]})
        told = answer["choices"][0]["logprobs"]["content"][0]
        assert told["id"] == ids[-1]
        return -told["logprob"]

    def likely(self, ids: list[int], *, bias: float, **more: object) -> dict:
        """What it says of the token after these. Of half a letter it says nothing, so it is
        pushed towards a whole one."""
        whole = self.encode("a")[-1]
        answer = self.server.handle_completions(WEIGHTS_ALONE | more | {
            "prompt": ids, "n_probs": self.n_vocab, "logit_bias": [[whole, bias]]})
        return answer["choices"][0]["logprobs"]["content"][0]

    def ends(self) -> set[int]:
        """The tokens that end an answer: those that it never takes if it is told to go on."""
        told = self.likely([0], bias=20, ignore_eos=True, post_sampling_probs=True)["top_probs"]
        return {*range(self.n_vocab)} - {each["id"] for each in told if each["prob"] > 0}

    def special(self, which: str) -> int | None:
        """The "bos" or "eos" token."""
        piece = self.ask("/props")[f"{which}_token"]
        return self.encode(piece, special=True)[0] if piece else None

    def sampling(self) -> dict[str, float]:
        """How it picks where the file says so, else nothing."""
        picks = self.ask("/props")["default_generation_settings"]["params"]
        picks = {name: round(float(picks[name]), 6) for name in OF_ITS_OWN}
        return {} if picks == OF_ITS_OWN else picks

    def dialog(self, messages: list[dict[str, str]]) -> str:
        """Rendered; the answer begins only after a user."""
        asked = messages[-1]["role"] == "user"
        return self.ask("/apply-template", {"messages": messages, "add_generation_prompt": asked})[
            "prompt"]


def centred(logits: Tensor) -> Tensor:
    """The same distributions from logits whose mean over `v` is 0."""
    return logits - logits.mean(-1, keepdim=True)
