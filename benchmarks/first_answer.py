"""From typing a command to the first word of the real model's answer, next to `import torch`.

A new process each time, nothing kept between them but the system's cache of files.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence

from llama_edu.tokenizer import installed

from ._rounds import interleaved, machine, ratios, spread

ROUNDS = 5
GOAL = 6.0      # seconds
TORCH, ANSWER = "import torch", "llama-edu generate"
ASKED = ["-m", "llama_edu", "generate", "--model", "smollm2", "--temperature", "0",
         "What is the capital of France?"]


def run() -> Iterator[str]:
    """The lines of the report."""
    yield from machine()
    if installed.find("smollm2") is None:
        yield installed.how_to_get("smollm2")
        return
    imported = ["-c", "import torch; print(1, flush=True)"]
    times = interleaved({TORCH: lambda: until_first_byte(imported),
                         ANSWER: lambda: until_first_byte(ASKED)}, rounds=ROUNDS)
    for name, seconds in times.items():
        yield f"{name}: {spread(seconds)} s to the first byte."
    yield f"The answer takes {spread(ratios(times, TORCH, ANSWER))} times as long as the import."
    yield f"Goal: {GOAL:g} s on a quiet machine of two cores."


def until_first_byte(arguments: Sequence[str]) -> None:
    """Returns when the process has written something; it then ends."""
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE) as child:
        if not child.stdout.read(1):
            raise RuntimeError(f"{arguments} wrote nothing")
        child.kill()
