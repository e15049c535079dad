"""Run every benchmark of this folder, or those named: `python -m benchmarks tokenizer`."""

import sys
from importlib import import_module
from pathlib import Path


def main(names: list[str]) -> None:
    known = sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py"))
    if unknown := sorted(set(names) - set(known)):
        sys.exit(f"there is no benchmark {unknown[0]!r}; there are {', '.join(known)}.")
    for name in names or known:
        print(f"## {name}\n")
        for line in import_module(f"benchmarks.{name}").run():
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main(sys.argv[1:])
