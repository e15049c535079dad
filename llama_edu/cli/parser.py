"""What may be typed after `llama-edu`, and what is said where it cannot be understood."""

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

# Without torch, which takes seconds: a command imports what it needs when it runs.
from .. import __version__
from ..config import nearest
from . import chat, claims, convert, generate, info, perplexity, progress, start, train, tune

COMMANDS = start, progress, info, claims, generate, chat, perplexity, convert, train, tune
CHOICE = re.compile(r"invalid choice: '?(.*?)'? \(")


class Parser(argparse.ArgumentParser):
    """Names what is spelled most like a word that it does not know."""

    def error(self, message: str) -> NoReturn:
        if (typed := CHOICE.search(message)) is not None:
            choices = [each for action in self._actions for each in action.choices or ()]
            message += "." + nearest(typed[1], choices) if nearest(typed[1], choices) else ""
        super().error(message)

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """End with what these arguments, which no option takes, may have been meant for."""
        words = [each for each in unknown if not each.startswith("-")]
        if words == [*unknown]:
            self.error(f"{' '.join(words)!r} stands apart from what comes before; if it belongs to "
                       "a text or a name, put the whole in quotes, before or after the options.")
        known = [name for action in self._actions for name in action.option_strings]
        odd = next(each for each in unknown if each.startswith("-")).partition("=")[0]
        self.error(f"there is no option {odd}.{nearest(odd, known)}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command, and in `run` what carries it out. Raises SystemExit, when help was
    printed or nothing could be understood."""
    parser = Parser("llama-edu", description="The Llama family, from scratch.")
    parser.add_argument("--version", action="version", version=f"llama-edu {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for each in COMMANDS:
        each.add(commands)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        commands.choices[options.command].refuse(unknown)
    return options
