"""Two thousand corrupted GGUF files: each is read, or refused with our own error."""

import random
import struct
import time
from pathlib import Path

from gguf_files import two_files, weights_of

from llama_edu import tokenizer
from llama_edu.formats.gguf import header as gguf_header
from llama_edu.formats.gguf import weights as gguf

N_FUZZED = 2_000


def corrupted(content: bytes, n_header: int, draw: random.Random) -> bytes:
    """Cut, flipped bits, numbers replaced by absurd ones, a part repeated or taken out."""
    # Pieces fill most of a header; half of the harm goes to the fields before and the list after.
    places = (range(800), range(n_header - 1_300, n_header), range(n_header), range(len(content)))
    at = draw.choice(draw.choice(places))
    absurd = struct.pack("<Q", draw.choice([0, 1, 2**31, 2**32 - 1, 2**60, 2**64 - 1, 97]))
    size = draw.choice([1, 4, 8])
    match draw.randrange(5):
        case 0:
            return content[:at]
        case 1:
            flipped = bytearray(content)
            for _ in range(draw.randrange(1, 9)):
                flipped[draw.choice(draw.choice(places))] ^= 1 << draw.randrange(8)
            return bytes(flipped)
        case 2:
            return content[:at] + absurd[:size] + content[at + size:]
        case 3:
            return content[:at] + content[at + size:]
    return content[:at] + content[at - 40 : at] + content[at:]


def use(file: Path) -> None:
    """All that a reader of the file can do with it."""
    source = gguf.open_file(file)
    weights_of(source)
    words = tokenizer.load(file, stop_ids=source.stop_ids)
    assert words.n_vocab <= source.config.vocab_size
    words.decode(words.encode("Once a llama 🦙 slept.\n", bos=False, eos=False))


def test_two_thousand_broken_files_are_read_or_refused_with_our_error(tmp_path, tmp_path_factory):
    draw, messages, seconds = random.Random(0), [], []
    file = tmp_path / "x.gguf"
    for content in two_files(tmp_path_factory):
        file.write_bytes(content)
        use(file)
        n_header = gguf_header.read(file).start
        for _ in range(N_FUZZED // 2):
            file.write_bytes(corrupted(content, n_header, draw))
            started = time.process_time()
            try:
                use(file)
            except ValueError as refused:
                messages.append(str(refused))
            seconds.append(time.process_time() - started)
    assert all(len(message) < 600 and message.endswith((".", "?")) for message in messages)
    assert len(messages) > N_FUZZED / 2     # the others changed a weight, a piece or a score
    assert len(seconds) == N_FUZZED
    assert max(seconds) < 5
