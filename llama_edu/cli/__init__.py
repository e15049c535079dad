"""The command `llama-edu`: here how it begins and ends, and beside it one file a command."""

import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 with one sentence on stderr when it could not, 130
    where Ctrl-C ended it. A command that checks something gives 1 where it is not so.

    arguments: those of the process without them, which is then the command's own to end."""
    if arguments is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    try:
        _make_writable()
        from .parser import parse  # here, so that Ctrl-C while it is imported is met below
        options = parse(arguments)
        code = options.run(options) or 0
        sys.stdout.flush()              # or a closed pipe would show only after the end
        return code
    except BrokenPipeError:             # the reader had enough
        _write_no_more()
        return 0
    except UnicodeEncodeError as odd:
        reason = (f"{odd.object[odd.start]!r} is half of a character and cannot be written; whole "
                  "characters in UTF-8 are needed. Take it out of the text.")
    except OSError as refused:
        reason = (f"{refused.filename or 'the output'} was refused ({refused.strerror}); a place "
                  "that can be written, with room on its disk, is needed. Choose another.")
        _write_no_more()
    except (ValueError, KeyError, FloatingPointError) as error:
        reason = error.args[0]
    except KeyboardInterrupt:
        return 130
    print(f"llama-edu: {reason}", file=sys.stderr)
    return 2


def _stop(number: int, frame: FrameType | None) -> None:
    """Stop at Ctrl-C as ever, but leave at once while something is imported: a library that is cut
    in its first lines may take KeyboardInterrupt for its own failure, and nothing is lost yet."""
    at = frame
    while at is not None:
        if at.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(130)
        at = at.f_back
    signal.default_int_handler(number, frame)


def _make_writable() -> None:
    """Give a stream that was closed before the start a place where nothing arrives; and let every
    character of ours be written: a file or a pipe gets UTF-8 (Windows would take cp1252 for it),
    a terminal that lacks one shows a question mark."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))     # noqa: SIM115
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and out.encoding.lower() not in ("utf-8", "utf8"):
        if out.isatty():
            out.reconfigure(errors="replace")
        else:
            out.reconfigure(encoding="utf-8")


def _write_no_more() -> None:
    """Let what is still in the buffer of stdout go nowhere, or its flush would fail at the end."""
    with suppress(OSError, ValueError):     # a stdout that is no file has no such end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
