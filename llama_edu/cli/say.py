"""What a command says beside its result: on stderr, under its name."""

import sys


def say(text: str) -> None:
    print(f"llama-edu: {text}", file=sys.stderr, flush=True)
