"""How few bits the weights of SmolLM2 can have: python tools/recordings/bits.py

All 210 matrices of its blocks are rounded; norms and the table stay. To llama_edu/assets/bits/:
loss.csv, what a token of held_out.txt (prose of our own) costs in nats, and what the model answers,
by who shares a scale; kinds.csv, what a token costs where some matrices alone have 3 bits. GPTQ is
calibrated on 8 texts of 256 tokens: what the model itself writes, or tokens drawn blindly. Minutes.
"""

import re
from functools import partial

import torch
from tables import record
from torch.nn import functional as F

from llama_edu import chat, checkpoint, load
from llama_edu.compress.gptq import calibrate, gptq
from llama_edu.compress.grid import rounded
from llama_edu.generation import stream
from llama_edu.sampling import known

FOLDER = checkpoint.ASSETS / "bits"
BITS = 8, 6, 5, 4, 3, 2
GROUP = 64
N, LENGTH = 8, 256              # of the texts to calibrate with
ASKED = "What is the capital of France, and what is it known for?"
KINDS = {name: rf".*\.{name}\..*" for name in ("wq", "wk", "wv", "wo", "w1", "w3", "w2")} | {
    f"blocks {i} to {i + 4}": rf"layers\.({'|'.join(map(str, range(i, i + 5)))})\..*"
    for i in range(0, 30, 5)} | {"the table": "tok_embeddings.*"}
SHARED = {
    "tensor": lambda w, bits: rounded(w.view(1, -1), bits=bits).view_as(w),
    "row": lambda w, bits: rounded(w, bits=bits),
    "group": lambda w, bits: rounded(w, bits=bits, group=GROUP)}


def main():
    model, tokenizer = load("smollm2")
    kept = {name: w.clone() for name, w in model.named_parameters() if w.dim() == 2}
    matrices = [name for name in kept if name.startswith("layers.")]
    text = torch.tensor([tokenizer.encode((FOLDER / "held_out.txt").read_text(encoding="utf-8"))])

    @torch.inference_mode()
    def cost():
        return F.cross_entropy(model(text[:, :-1])[0], text[0, 1:]).item()

    @torch.no_grad()
    def reset():
        for name, w in kept.items():
            model.get_parameter(name).copy_(w)

    @torch.no_grad()
    def only(names, make):
        for name in names:
            model.get_parameter(name).copy_(make(kept[name]))

    def found(shared, bits):
        said = chat(model, tokenizer, ASKED, format="smollm2", temperature=0, max_new=40)
        row = {"shared": shared, "bits": bits, "nats": cost(), "answer": said}
        reset()
        return row

    def losses():
        yield found("as it is", 32)
        for bits in BITS:
            for shared, make in SHARED.items():
                only(matrices, partial(make, bits=bits))
                yield found(shared, bits)
        begin = torch.zeros(N, 1, dtype=torch.long)
        own = torch.cat([begin, *stream(model, begin, known(tokenizer.n_vocab),
                                        max_new=LENGTH - 1,
                                        generator=torch.Generator().manual_seed(0))], 1)
        blind = torch.randint(17, tokenizer.n_vocab, (N, LENGTH),
                              generator=torch.Generator().manual_seed(0))
        for name, texts, bits in (("GPTQ", own, 4), ("GPTQ", own, 3), ("GPTQ, blindly", blind, 3)):
            calibrate(model, texts, lambda _, w, moment, bits=bits:
                      gptq(w, moment, bits=bits, group=GROUP))
            yield found(name, bits)

    def kinds():
        for what, pattern in KINDS.items():
            names = [name for name in kept if re.fullmatch(pattern, name)]
            only(names, lambda w: rounded(w, bits=3, group=GROUP))
            yield {"what": what, "weights": sum(kept[name].numel() for name in names),
                   "nats": cost()}
            reset()

    record("kinds", kinds(), folder=FOLDER)
    record("loss", losses(), folder=FOLDER)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
