"""A talk in a terminal: questions read, answers streamed, the cache kept from turn to turn.

Nothing here knows a terminal: lines come from `read_line`, text goes to `write`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..cache import KVCache
from ..formats.whole_files import write_whole
from ..generation import room_for, seeded, spell, stream
from ..model import Llama
from ..prompts import Format, Message, dialog_tokens, n_shared, named, stop_ids
from ..sampling import Rule, known, usual_rules
from ..tokenizer import Tokenizer
from .speculative import rounds

HELP = """\
/reset         forget what was said, and begin anew
/system TEXT   tell the model who it is; without TEXT, nothing
/tool TEXT     answer a call of the model: what the tool gave back
/save FILE     write the dialog to a new file, as JSON
/help          this list
An empty line lets a base model go on. A line that begins with // is said with one slash.
Ctrl-C ends an answer; at the prompt, Ctrl-C or Ctrl-D ends the talk.
"""


def chat(model: Llama, tokenizer: Tokenizer, said: str | Sequence[Message], *, format: str,
         max_new: int = 512, temperature: float = 0.6, top_p: float = 0.9, seed: int = 0) -> str:
    """What a model answers: to one line of a user, or to a dialog that ends with one.

        chat(model, tokenizer, "Who are you?", format="llama-3.1")

    format: how the model was taught to see a dialog, one of `prompts.FORMATS`. Raises KeyError for
    another, ValueError for a dialog that the format or the context has no room for.
    """
    form = named(format)
    dialog = [Message("user", said)] if type(said) is str else said
    ids = dialog_tokens(dialog, tokenizer, form).ids
    speaker = Speaker(model, tokenizer, stop_ids(tokenizer, form), usual_rules(temperature, top_p),
                      seeded(seed, model.tok_embeddings.weight))
    answer = "".join(speaker.pieces(ids, room_for(max_new, model, ids)))
    return answer.lstrip() if form.strips else answer


def run(model: Llama, tokenizer: Tokenizer, form: Format, *, read_line: Callable[[str], str],
        write: Callable[[str], object], system: str, rules: Sequence[Rule], max_new: int,
        generator: torch.Generator | None) -> list[Message]:
    """Talk until `read_line` raises EOFError or KeyboardInterrupt; returns the dialog.

    system: what the model is told first; "" for nothing. A KeyboardInterrupt while an answer
    streams ends the answer: what was said of it stays in the dialog, marked as cut. Raises
    ValueError where the format does not fit the model or what `system` says, and for answers of
    less than one token.
    """
    if max_new < 1:
        raise ValueError(f"answers of {max_new} tokens were asked for; 1 or more is needed.")
    try:
        stops = stop_ids(tokenizer, form)
    except ValueError as unknown:
        raise ValueError(f"the format {form.name} does not fit this model ({unknown.args[0]:.80}); "
                         "its vocabulary needs the pieces of the format. Choose another format: "
                         "completion, for a base model.") from None
    speaker = Speaker(model, tokenizer, stops, rules, generator)
    talk = Talk(speaker, form, write, max_new)
    talk.messages = talk.told(system)
    write(f"{form.name}, {model.config.max_seq_len:,} tokens of context. /help lists the "
          "commands.\n")
    while True:
        try:
            line = read_line("> ")
        except (EOFError, KeyboardInterrupt, RuntimeError):     # the last: stdin was closed
            write("\n")
            return talk.messages
        try:
            talk.hear(line)
        except ValueError as refused:
            write(f"{refused.args[0]}\n")
        except KeyboardInterrupt:       # before the answer began
            write("\n(Ended by you. The line was not taken.)\n")


class Talk:
    """The dialog so far, and what a line of the reader does to it."""

    def __init__(self, speaker: "Speaker", form: Format, write: Callable[[str], object],
                 max_new: int) -> None:
        self.speaker, self.form, self.write, self.max_new = speaker, form, write, max_new
        self.messages: list[Message] = []

    def hear(self, line: str) -> None:
        """Do what a line says: a command, or something to answer. ValueError, and an unchanged
        dialog, where that cannot be done."""
        if line.startswith("/") and not line.startswith("//"):
            self.obey(*line.split(maxsplit=1))
        elif line.strip():
            self.answer(self.heard(line.removeprefix("/") if line.startswith("//") else line))
        elif self.form.one_text and self.messages and not self.is_over():
            self.answer(self.messages)

    def heard(self, line: str) -> list[Message]:
        """The dialog with this line in it: a new one where the text before has ended."""
        return [*([] if self.is_over() else self.messages), Message("user", line)]

    def is_over(self) -> bool:
        """Whether the model ended a text that knows no turns."""
        return self.form.one_text and bool(self.messages) and not self.messages[-1].cut

    def answer(self, asked: list[Message]) -> None:
        """Stream what the model says to this dialog, and keep both.

        Raises ValueError for a dialog that does not fit the format, or leaves the answer no room.
        """
        ids = dialog_tokens(asked, self.speaker.tokenizer, self.form).ids
        context = self.speaker.model.config.max_seq_len
        if len(ids) >= context:
            raise ValueError(f"with this line the dialog has {len(ids):,} tokens, and the context "
                             f"of this model is {context:,}; the line was not taken. Say it "
                             "shorter, or type /reset to begin anew.")
        max_new = min(self.max_new, context - len(ids))
        said = ""
        try:
            for piece in self.speaker.pieces(ids, max_new):
                piece = piece if said or not self.form.strips else piece.lstrip()
                said += piece
                self.write(piece)
            cut = not self.speaker.stopped
            note = self.why_cut(len(ids) + max_new, context) if cut else ""
        except KeyboardInterrupt:
            cut, note = True, "(Ended by you.)"
        reply = self.form.reply(said, self.speaker.said, self.speaker.tokenizer, cut=cut)
        self.messages = [*asked, reply]
        self.write(f"\n{note}\n" if note else "\n")
        if self.is_over():
            self.write("(The text is over. Your next line begins a new one.)\n")

    def why_cut(self, length: int, context: int) -> str:
        """Why an answer stopped before its end."""
        if length >= context:
            return (f"(The context of {context:,} tokens is full: nothing more can be said. Type "
                    "/reset to begin anew.)")
        more = "An empty line goes on." if self.form.one_text else "Ask it to go on."
        return f"(Cut after {self.max_new:,} tokens. {more})"

    # -- commands ------------------------------------------------------------------------------

    def obey(self, command: str, rest: str = "") -> None:
        """Carry out a command. ValueError for one that there is not."""
        known = {"/reset": self.reset, "/system": self.tell, "/tool": self.result,
                 "/save": self.save, "/help": lambda rest: self.write(HELP)}
        if command not in known:
            raise ValueError(f"{command} is no command; there are {', '.join(known)}. To say a "
                             "line that begins with a slash, begin it with two.")
        known[command](rest.strip())

    def reset(self, rest: str) -> None:
        """Forget all but the system message."""
        self.messages = [m for m in self.messages if m.role == "system"]
        self.write("(Forgotten.)\n")

    def tell(self, text: str) -> None:
        """Put this system message in the place of the one before; the talk goes on."""
        self.messages = self.told(text)
        self.write("(Told.)\n")

    def told(self, text: str) -> list[Message]:
        """The dialog under this system message, or under none.

        Raises ValueError for a message where the format knows none.
        """
        if text and "system" not in self.form.roles:
            raise ValueError(f"{self.form.name} has no system message. Say it in a line instead.")
        talk = [m for m in self.messages if m.role != "system"]
        return [Message("system", text), *talk] if text else talk

    def result(self, text: str) -> None:
        """Let the model go on with what a tool gave back."""
        self.answer([*self.messages, Message("tool", text)])

    def save(self, name: str) -> None:
        """Write the dialog to a new file. Raises ValueError for a name that is taken or none."""
        try:
            file = Path(name).expanduser()
            taken = not name or file.exists()
        except (OSError, RuntimeError) as odd:
            raise ValueError(f"{name:.60} cannot be a file ({odd}); another name is needed. Type "
                             "/save and a shorter path.") from None
        if taken:
            raise ValueError(f"the file {name!r} was named; one that is not there yet is needed. "
                             "Type /save and a new name.")
        rows = [{key: value for key, value in asdict(message).items() if value or key == "content"}
                for message in self.messages]
        write_whole(file, json.dumps(rows, indent=1, ensure_ascii=False).encode())
        self.write(f"({len(rows)} messages are in {file}.)\n")


class Speaker:
    """A model that remembers the last dialog it read, and reads only what is new in the next."""

    def __init__(self, model: Llama, tokenizer: Tokenizer, stops: frozenset[int],
                 rules: Sequence[Rule], generator: torch.Generator | None) -> None:
        self.model, self.tokenizer, self.stops = model, tokenizer, stops
        self.rules, self.generator = rules, generator
        self.cache: KVCache | None = None
        self.ids: list[int] = []    # the first of them are in the cache: cache.length many
        self.said: list[int] = []   # the tokens of the last answer
        self.stopped = False        # whether it came to its end

    def pieces(self, ids: Sequence[int], max_new: int) -> Iterator[str]:
        """What the model says after these tokens, in pieces of whole characters."""
        self.stopped, self.said = False, []
        yield from spell(self.until_stop(ids, max_new), ids, self.tokenizer)

    def until_stop(self, ids: Sequence[int], max_new: int) -> Iterator[int]:
        """The tokens of the answer's text; `said` has its end token too."""
        for token in self.tokens(ids, max_new):
            self.said.append(token)
            if token in self.stops:
                self.stopped = True
                return
            yield token

    def tokens(self, ids: Sequence[int], max_new: int) -> Iterator[int]:
        """The tokens that follow, one at a time; the cache keeps what it shares with the last.

        Raises ValueError for a prompt without tokens, and as `stream` does.
        """
        if not ids:
            raise ValueError("the prompt has no tokens; at least one is needed. Begin with bos.")
        cache = self.remember(ids, len(ids) + max_new)
        prompt = torch.tensor([self.ids], dtype=torch.long,
                              device=self.model.tok_embeddings.weight.device)
        rules = known(self.tokenizer.n_vocab), *self.rules
        for token in stream(self.model, prompt, *rules, max_new=max_new,
                            generator=self.generator, cache=cache):
            self.ids.append(int(token.item()))
            yield self.ids[-1]

    def remember(self, ids: Sequence[int], max_len: int) -> KVCache:
        """The cache with room for `max_len` tokens, rewound to where these leave the last ones."""
        old = self.cache
        if old is None or old.max_len < max_len:
            room = max(max_len, 2 * (old.max_len if old else 0))
            self.cache = self.model.new_cache(1, min(room, self.model.config.max_seq_len))
            if old is not None:
                self.cache.take(old)
        shared = n_shared(self.ids[:self.cache.length], ids)
        self.cache.rewind(min(shared, len(ids) - 1))        # one is read for its logits
        self.ids = list(ids)
        return self.cache


class SpeakerWithDraft(Speaker):
    """A speaker for whom a draft guesses ahead. It counts the guesses, and those that are kept."""

    def __init__(self, *speaker: Any, draft: Llama, ahead: int) -> None:
        super().__init__(*speaker)
        self.draft, self.ahead = draft, ahead
        self.guessed = self.kept = 0

    def tokens(self, ids: Sequence[int], max_new: int) -> Iterator[int]:
        """The tokens that follow, one at a time; nothing is remembered of the last text."""
        prompt = torch.tensor([ids], device=self.model.tok_embeddings.weight.device)
        rules = known(self.tokenizer.n_vocab), *self.rules
        for guessed, new in rounds(self.model, self.draft, prompt, *rules, max_new=max_new,
                                   ahead=self.ahead, generator=self.generator):
            self.guessed += guessed
            self.kept += len(new) - 1
            yield from new.tolist()
