"""Talking in a terminal: answers, the cache between turns, commands, and Ctrl-C on a real pty."""

import json
import os
import select
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch
from dialogs import A, S, U, spm
from hypothesis import given, settings
from hypothesis import strategies as st
from models import loud_model, tiny_config

from llama_edu import checkpoint
from llama_edu.generation import answer
from llama_edu.inference import talk as talk_module
from llama_edu.inference.talk import Speaker, Talk
from llama_edu.prompts import Message, dialog_tokens, named, special_id
from llama_edu.sampling import top_k
from llama_edu.tokenizer import BytePairs
from llama_edu.tokenizer.tiktoken_bpe import LLAMA31_SPECIAL

COMPLETION, LLAMA_2, LLAMA_31 = map(named, ("completion", "llama-2", "llama-3.1"))
WORDS = BytePairs.train("user assistant system ipython\n\n hello " * 9, n_vocab=270 + 256,
                        special=LLAMA31_SPECIAL)
GREEDY = (top_k(1),)


@pytest.fixture(scope="module")
def tales():
    return checkpoint.load(checkpoint.TALES)


@pytest.fixture(scope="module")
def loud():
    return loud_model(tiny_config(vocab_size=WORDS.n_vocab, max_seq_len=512))


def forced(*tokens):
    """A rule that leaves one token at a time; the last one for ever."""
    left = list(tokens)

    def rule(logits, _=None):
        only = torch.full_like(logits, -torch.inf)
        only[:, left.pop(0) if len(left) > 1 else left[0]] = 0
        return only

    return rule


class Reader:
    """Somebody who types these lines, then Ctrl-D, and sees what is written. An exception among
    the lines is what the terminal raises in its place."""

    def __init__(self, *lines):
        self.lines, self.seen, self.interrupt_after = list(lines), "", None

    def read_line(self, prompt):
        line = self.lines.pop(0) if self.lines else EOFError()
        if not isinstance(line, str):
            raise line
        self.seen += f"{prompt}{line}\n"
        return line

    def write(self, text):
        self.seen += text
        if self.interrupt_after and self.interrupt_after in self.seen:
            self.interrupt_after = None
            raise KeyboardInterrupt


def talk(reader, model, words, form, *, rules=GREEDY, system="", max_new=20):
    return talk_module.run(model, words, form, read_line=reader.read_line, write=reader.write,
                           system=system, rules=rules, max_new=max_new, generator=None)


# -- answers -----------------------------------------------------------------------------------

def test_the_model_that_comes_along_goes_on_with_a_story(tales):
    model, words = tales
    story = "".join(answer(model, words, "Once upon a time", *GREEDY, max_new=40))
    reader = Reader("Once upon a time")
    messages = talk(reader, model, words, COMPLETION, max_new=40)
    assert messages == [Message(U, "Once upon a time"), Message(A, story, cut=True)]
    assert f"> Once upon a time\n{story}\n(Cut after 40 tokens. An empty line goes on.)\n" in (
        reader.seen)
    assert reader.seen.startswith("completion, 256 tokens of context. /help lists")


def test_an_empty_line_goes_on_as_if_the_answer_had_been_longer(tales):
    model, words = tales
    whole = "".join(answer(model, words, "Once upon a time", *GREEDY, max_new=40))
    parts = talk(Reader("Once upon a time", "", "  "), model, words, COMPLETION, max_new=13)
    assert "".join(m.content for m in parts[1:]) == whole[:sum(len(m.content) for m in parts[1:])]
    assert len(parts) == 4


def test_a_story_that_ended_is_followed_by_a_new_one(tales):
    model, words = tales
    reader = Reader("One", "", "Two")
    end = words.encode(".", bos=False, eos=False)[0]
    rules = (forced(end, words.eos_id, end),)
    messages = talk(reader, model, words, COMPLETION, rules=rules, max_new=3)
    assert "(The text is over. Your next line begins a new one.)" in reader.seen
    assert messages == [Message(U, "Two"), Message(A, "...", cut=True)]


def test_a_turn_of_llama_2_loses_its_space_and_ends_at_eos():
    model = loud_model(tiny_config(vocab_size=32_000))
    said = spm().encode("Hello 🦙!", bos=False, eos=True)
    reader = Reader("Hi")
    messages = talk(reader, model, spm(), LLAMA_2, rules=(forced(*said),))
    assert messages == [Message(U, "Hi"), Message(A, "Hello 🦙!")]
    assert reader.seen.endswith("> Hi\nHello 🦙!\n\n")
    assert "�" not in reader.seen


def test_a_call_of_a_tool_is_kept_as_one(loud):
    tag, eom, eot = (special_id(WORDS, f"<|{p}|>") for p in ("python_tag", "eom_id", "eot_id"))
    x = WORDS.encode("x")[0]
    messages = talk(Reader("Hi", "/tool 25 C"), loud, WORDS, LLAMA_31,
                    rules=(forced(tag, x, eom, x, eot),))
    assert messages == [Message(U, "Hi"), Message(A, "x", python_tag=True, eom=True),
                        Message("tool", "25 C"), Message(A, "x")]


def test_a_message_that_the_format_refuses_leaves_the_dialog_as_it_was():
    model = loud_model(tiny_config(vocab_size=32_000))
    reader = Reader("Hi", "a [/INST] b", "Hi again")
    messages = talk(reader, model, spm(), LLAMA_2, rules=(forced(2),))
    assert [m.content for m in messages] == ["Hi", "", "Hi again", ""]
    assert "> a [/INST] b\na message of the user has [/INST] in it" in reader.seen


def test_no_answers_at_all_cannot_be_asked_for(tales):
    with pytest.raises(ValueError, match="answers of 0 tokens were asked for; 1 or more"):
        talk(Reader(), *tales, COMPLETION, max_new=0)


# -- the cache ---------------------------------------------------------------------------------

def count_reads(model, monkeypatch):
    """How many tokens each pass reads."""
    passes, hidden = [], model.hidden

    def counting(tokens, *rest, **named_):
        passes.append(tokens.shape[1])
        return hidden(tokens, *rest, **named_)

    monkeypatch.setattr(model, "hidden", counting)
    return passes


def test_a_second_turn_reads_only_what_is_new(loud, monkeypatch):
    passes = count_reads(loud, monkeypatch)
    x, eot = WORDS.encode("x")[0], special_id(WORDS, "<|eot_id|>")
    messages = talk(Reader("A long question to begin with", "And?"), loud, WORDS, LLAMA_31,
                    rules=(forced(x, x, eot, x, x, eot),))
    first, second = (len(dialog_tokens(messages[:n], WORDS, LLAMA_31).ids) for n in (1, 3))
    # "xx" is read as the two tokens that were said, and its end token was said but not read
    assert WORDS.encode("xx") == [x, x]
    assert passes == [first, 1, 1, second - (first + 2), 1, 1]


def test_answers_are_those_of_a_model_without_a_memory(loud):
    said = talk(Reader("Hello", "user", "hello hello"), loud, WORDS, LLAMA_31, max_new=12)
    assert len(said) == 6
    for n in (1, 3, 5):
        ids = dialog_tokens(said[:n], WORDS, LLAMA_31).ids
        fresh = Speaker(loud, WORDS, frozenset(), GREEDY, None)
        assert "".join(fresh.pieces(ids, 12)).startswith(said[n].content)
        assert said[n].content


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=9),
                          st.integers(1, 4), st.integers(1, 4)), min_size=2, max_size=5))
def test_whatever_was_read_before_the_next_tokens_are_the_same(talks):
    """Prompts that share much, little or nothing; answers taken whole or left half-way."""
    model = loud_model(tiny_config())
    memory = Speaker(model, WORDS, frozenset(), GREEDY, None)
    for prompt, max_new, taken in talks:
        fresh = Speaker(model, WORDS, frozenset(), GREEDY, None)
        expected = list(fresh.tokens(prompt, max_new))[:taken]
        assert [t for t, _ in zip(memory.tokens(prompt, max_new), range(taken), strict=False)
                ] == expected


def test_the_memory_grows_with_the_dialog_and_not_at_once(loud):
    speaker = Speaker(loud, WORDS, frozenset(), GREEDY, None)
    list(speaker.tokens([1, 2, 3], 4))
    assert speaker.cache.max_len == 7
    list(speaker.tokens([1, 2, 3, 4, 5], 4))
    assert speaker.cache.max_len == 14
    list(speaker.tokens([7] * 500, 12))
    assert speaker.cache.max_len == loud.config.max_seq_len == 512


# -- the context -------------------------------------------------------------------------------

def test_a_full_context_takes_no_more_and_drops_nothing(tales):
    model, words = tales
    reader = Reader("Once", "hat " * 300, "", "The", "/reset", "Once")
    endless = (forced(words.encode(" hat", bos=False, eos=False)[0]),)
    messages = talk(reader, model, words, COMPLETION, rules=endless, max_new=200)
    assert "tokens, and the context of this model is 256; the line was not taken." in reader.seen
    assert reader.seen.count("(The context of 256 tokens is full: nothing more can be said.") == 1
    assert reader.seen.count("with this line the dialog has 25") == 1     # "The" came too late
    assert [m.role for m in messages] == [U, A]     # after /reset
    assert messages[0].content == "Once"


def test_a_question_that_leaves_no_room_for_a_single_token_is_not_taken():
    n = len(dialog_tokens([Message(U, "Hi")], WORDS, LLAMA_31).ids)
    for context, taken in ((n, 0), (n + 1, 2)):
        model = loud_model(tiny_config(vocab_size=WORDS.n_vocab, max_seq_len=context))
        assert len(talk(Reader("Hi"), model, WORDS, LLAMA_31)) == taken


# -- Ctrl-C ------------------------------------------------------------------------------------

def test_ctrl_c_ends_an_answer_and_not_the_talk(tales):
    model, words = tales
    whole = "".join(answer(model, words, "Once upon a time", *GREEDY, max_new=40))
    reader = Reader("Once upon a time", "")
    reader.interrupt_after = whole[:20]
    messages = talk(reader, model, words, COMPLETION, max_new=40)
    assert "\n(Ended by you.)\n> \n" in reader.seen
    assert whole.startswith(messages[1].content)
    assert messages[1].cut
    assert 20 <= len(messages[1].content) < len(whole)
    assert (messages[1].content + messages[2].content).startswith(whole)   # it went on from there


def test_ctrl_c_before_an_answer_begins_takes_the_line_back(tales, monkeypatch):
    def too_early(*_):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(talk_module, "dialog_tokens", too_early)
    reader = Reader("Never", "Once")
    messages = talk(reader, *tales, COMPLETION, max_new=2)
    assert "> Never\n\n(Ended by you. The line was not taken.)\n> Once\n" in reader.seen
    assert [m.role for m in messages] == [U, A]


@pytest.mark.parametrize("key", [EOFError(), KeyboardInterrupt()])
def test_ctrl_c_and_ctrl_d_at_the_prompt_end_the_talk(tales, key):
    reader = Reader(key, "never read")
    assert talk(reader, *tales, COMPLETION) == []
    assert reader.lines == ["never read"]


CHILD = """
import os
os.login_tty(0)         # as a shell does: Ctrl-C reaches us as a signal
import time, torch
from llama_edu import checkpoint
from llama_edu.inference import talk
from llama_edu.prompts import named
torch.set_num_threads(1)
model, words = checkpoint.load(checkpoint.TALES)

def endless(logits, tokens=None):
    time.sleep(0.02)
    logits[:, list(words.stop_ids)] = -torch.inf
    return logits

for name in ("first", "second"):
    messages = talk.run(
        model, words, named("completion"), read_line=input, system="", rules=(endless,),
        write=lambda text: print(text, end="", flush=True), max_new=240,
        generator=torch.Generator().manual_seed(0))
    print(name, [(m.role, m.cut) for m in messages], flush=True)
"""


class Terminal:
    """The side of a pseudo-terminal on which somebody types and reads."""

    def __init__(self, command):
        pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
        self.end, child = pty.openpty()
        self.process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child)
        os.close(child)
        self.seen = ""

    def type(self, keys):
        os.write(self.end, keys.encode())

    def read_until(self, text, *, seconds=120):
        """Everything written up to this text; the text before it is forgotten."""
        until = time.monotonic() + seconds      # another machine may be very slow
        while text not in self.seen:
            assert time.monotonic() < until, f"{text!r} did not come; there is {self.seen!r}"
            if select.select([self.end], [], [], 0.1)[0]:
                self.seen += os.read(self.end, 4096).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before


@pytest.fixture
def terminal():
    made = Terminal([sys.executable, "-c", CHILD])
    yield made
    made.process.kill()
    made.process.wait()
    os.close(made.end)


def test_ctrl_c_in_a_real_terminal(terminal):
    terminal.read_until("/help lists the commands.")
    terminal.read_until("> ")
    terminal.type("Once upon a time\n")
    terminal.read_until("Once upon a time")         # the echo
    terminal.read_until(" a ")                      # the answer streams
    terminal.type("\x03")
    streamed = terminal.read_until("(Ended by you.)")
    assert len(streamed) < 600                      # 240 tokens of a tale are 700 characters
    terminal.read_until("> ")
    assert terminal.process.poll() is None
    terminal.type("\n")                             # it goes on
    terminal.read_until(" ")
    terminal.type("\x03")
    terminal.read_until("(Ended by you.)")
    terminal.read_until("> ")
    terminal.type("\x04")
    assert terminal.read_until("/help lists").split("\r\n")[1] == (
        "first [('user', False), ('assistant', True), ('assistant', True)]")
    terminal.read_until("> ")
    for _ in range(20):     # at the prompt; between its text and its wait a signal may go unseen
        terminal.type("\x03")
        with suppress(AssertionError):
            terminal.read_until("second []", seconds=5)
            break
    assert terminal.process.wait(60) == 0


# -- commands ----------------------------------------------------------------------------------

def test_a_system_message_is_told_changed_and_taken_back(loud):
    reader = Reader("Hi", "/system  Be brief. ", "So?", "/system", "/reset")
    first = talk(Reader("Hi"), loud, WORDS, LLAMA_31, system="Be kind.")
    assert [m.role for m in first] == [S, U, A]
    assert first[0].content == "Be kind."
    eot = special_id(WORDS, "<|eot_id|>")
    box = Talk(Speaker(loud, WORDS, frozenset({eot}), (forced(eot),), None), LLAMA_31,
               reader.write, 9)
    for line in reader.lines[:3]:
        box.hear(line)
    assert [(m.role, m.content) for m in box.messages] == [
        (S, "Be brief."), (U, "Hi"), (A, ""), (U, "So?"), (A, "")]
    box.hear("/reset")
    assert [m.role for m in box.messages] == [S]
    box.hear("/system")
    assert box.messages == []


def test_a_base_model_has_no_system_message(tales):
    reader = Reader("/system Be brief.")
    talk(reader, *tales, COMPLETION)
    assert "completion has no system message. Say it in a line instead." in reader.seen
    with pytest.raises(ValueError, match="completion has no system message"):
        talk(Reader(), *tales, COMPLETION, system="Be brief.")


def test_a_dialog_is_saved_once(tales, tmp_path):
    file = tmp_path / "talk.json"
    reader = Reader("Once", f"/save {file}", f"/save {file}", "/save", f"/save {file}/below")
    messages = talk(reader, *tales, COMPLETION, max_new=3)
    assert f"(2 messages are in {file}.)" in reader.seen
    assert reader.seen.count("one that is not there yet is needed. Type /save and a new") == 2
    assert "cannot be written" in reader.seen
    rows = json.loads(file.read_text(encoding="utf-8"))
    assert rows == [{"role": U, "content": "Once"},
                    {"role": A, "content": messages[1].content, "cut": True}]
    assert [Message(**row) for row in rows] == messages


def test_help_strange_commands_and_lines_with_a_slash(loud):
    reader = Reader("/help", "/quit", "/", "//usr", "", "/RESET")
    messages = talk(reader, loud, WORDS, LLAMA_31, max_new=2)
    assert "/save FILE     write the dialog" in reader.seen
    for command in ("/quit", "/", "/RESET"):
        assert f"{command} is no command; there are /reset, /system, /tool" in reader.seen
    assert [m.content for m in messages[:1]] == ["/usr"]
    assert len(messages) == 2       # an empty line asks nothing of a model that takes turns
