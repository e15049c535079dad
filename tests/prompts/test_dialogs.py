"""Prompt formats of Llama 2 and 3: to the byte, against Meta's code, llama.cpp and literals."""

import functools

import pytest
from dialogs import A, S, T, U, chatml, contents, dialog, dialogs, llama3, runs_said, spm
from folders import bytes_tokenizer, save_tokenizer
from gguf_files import source_of
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_cpp_judge import Judge
from llama_models.datatypes import RawMessage, StopReason, ToolCall
from llama_models.llama3.chat_format import ChatFormat
from llama_models.llama3.tokenizer import Tokenizer as MetaTokenizer
from models import loud_model, tiny_config
from transformers import PreTrainedTokenizerFast

from llama_edu.family.releases import RELEASES, release
from llama_edu.formats.gguf import weights as gguf
from llama_edu.prompts import (
    FORMATS,
    Message,
    dialog_text,
    dialog_tokens,
    format_for,
    n_shared,
    named,
    special_id,
    stop_ids,
)
from llama_edu.tokenizer import BytePairs, RebuiltSentencePiece, installed, json_made
from llama_edu.tokenizer.tiktoken_bpe import LLAMA31_SPECIAL

LLAMA_2, CODE, CODE_70B, LLAMA_3, LLAMA_31, COMPLETION = map(named, (
    "llama-2", "code-llama", "code-llama-70b", "llama-3", "llama-3.1", "completion"))
TALK = dialog((S, " Be brief.\n"), (U, "  Who are you? "), (A, "\nA llama. "), (U, " Why?"))
QUICK = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module")
def meta():
    return ChatFormat(MetaTokenizer(installed.path("llama3")))


# -- Llama 2 -----------------------------------------------------------------------------------

def test_llama_2_to_the_byte():
    assert dialog_text(TALK, LLAMA_2) == (
        "<s>[INST] <<SYS>>\n Be brief.\n\n<</SYS>>\n\n  Who are you? [/INST] A llama. </s>"
        "<s>[INST] Why? [/INST]")
    assert dialog_text(TALK[1:], LLAMA_2) == (
        "<s>[INST] Who are you? [/INST] A llama. </s><s>[INST] Why? [/INST]")


@QUICK
@given(dialogs())
def test_the_tokens_of_llama_2_are_those_of_metas_rule(messages):
    """Every pair is encoded alone between bos and eos, with the sentencepiece library itself."""
    turns = [m.content for m in messages if m.role != S]
    if messages[0].role == S:
        turns[0] = f"<<SYS>>\n{messages[0].content}\n<</SYS>>\n\n{turns[0]}"
    expected = []
    for i in range(0, len(turns), 2):
        whole = f"[INST] {turns[i].strip()} [/INST]"
        answered = i + 1 < len(turns)
        whole += f" {turns[i + 1].strip()} " if answered else ""
        expected += [1, *spm().inner.encode(whole), *([2] if answered else [])]
    assert dialog_tokens(messages, spm(), LLAMA_2).ids == expected


def test_pieces_encoded_apart_are_not_the_joined_text():
    joined = spm().encode(dialog_text(TALK, LLAMA_2), bos=False, eos=False,
                          allow_special=("<s>", "</s>"))
    assert dialog_tokens(TALK, spm(), LLAMA_2).ids == joined    # bos and eos cut the text
    apart = [i for text in ("[INST] Why?", " [/INST]")
             for i in spm().encode(text, bos=False, eos=False)]
    assert apart != spm().encode("[INST] Why? [/INST]", bos=False, eos=False)


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """llama.cpp on any model with words, once for each of the two templates."""
    folder = tmp_path_factory.mktemp("judges")
    gguf.write(folder / "x.gguf", source_of(loud_model(tiny_config(vocab_size=320)),
                                            save_tokenizer(bytes_tokenizer(), folder)), kind="F32")
    return {name: Judge(folder / "x.gguf", template=name) for name in ("llama2-sys-bos", "llama3")}


def llama_cpp_text(judges, template, messages):
    """What llama.cpp's own renderer makes of the dialog."""
    return judges[template].dialog(
        [{"role": m.role, "content": m.content} for m in messages])


@pytest.mark.parametrize("messages", [
    TALK, TALK[1:], TALK[:2], dialog((U, "Ça va, 🦙?\n\nOui?")), [*TALK, Message(A, "So.")]])
def test_llama_cpp_writes_the_same_llama_2_and_3(judges, messages):
    """For Llama 2 it strips nothing and puts no spaces around an answer, as Meta's code does; and
    the first bos comes from its tokenizer."""
    spaced = [Message(m.role, f" {m.content.strip()} " if m.role == A else m.content.strip())
              for m in messages]
    assert dialog_text(spaced, LLAMA_2) == "<s>" + llama_cpp_text(judges, "llama2-sys-bos", spaced)
    theirs = llama_cpp_text(judges, "llama3", messages)
    assert dialog_text(messages, LLAMA_3) == "<|begin_of_text|>" + theirs


@pytest.mark.parametrize("form", [LLAMA_2, CODE, CODE_70B], ids=lambda form: form.name)
@pytest.mark.parametrize("tag", ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"])
@pytest.mark.parametrize("role", [S, U, A])
def test_a_tag_in_a_message_is_refused(form, tag, role):
    messages = [Message(m.role, f"a{tag}b") if m.role == role else m for m in TALK]
    with pytest.raises(ValueError, match=f"message of the {role} has .*Spell it another way"):
        dialog_tokens(messages, spm(), form)


def test_only_code_llama_refuses_the_step():
    messages = dialog((U, "a <step> b"))
    assert "a <step> b" in dialog_text(messages, LLAMA_2)
    for form in (CODE, CODE_70B):
        with pytest.raises(ValueError, match="has <step> in it"):
            dialog_text(messages, form)


@pytest.mark.parametrize("roles", [[A], [S], [U, U], [U, A, A], [S, S, U], [U, S, U], [S, A]])
@pytest.mark.parametrize("form", [LLAMA_2, CODE, CODE_70B], ids=lambda form: form.name)
def test_turns_must_alternate(form, roles):
    with pytest.raises(ValueError, match=f"the roles {', '.join(roles)} were given.*in turn"):
        dialog_text(dialog(*((role, "x") for role in roles)), form)


# -- Llama 3 -----------------------------------------------------------------------------------

def test_llama_3_to_the_byte():
    assert dialog_text(TALK, LLAMA_31) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n Be brief.\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n  Who are you? <|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n\nA llama. <|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n Why?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n")
    stripped = [Message(m.role, m.content.strip()) for m in TALK]
    assert dialog_text(TALK, LLAMA_3) == dialog_text(stripped, LLAMA_31)


def test_a_header_is_four_known_tokens():
    ids, _ = dialog_tokens(dialog((U, "Hi")), llama3(), LLAMA_31)
    assert ids == [128_000, 128_006, 882, 128_007, 271, 13_347, 128_009,
                   128_006, 78_191, 128_007, 271]


def raw(message):
    """The message in Meta's own class; code is a call of the code interpreter there."""
    if message.python_tag:
        call = ToolCall(call_id="1", tool_name="code_interpreter",
                        arguments={"code": message.content})
        return RawMessage(role=A, content="", tool_calls=[call], stop_reason=(
            StopReason.end_of_message if message.eom else StopReason.end_of_turn))
    reason = StopReason.end_of_message if message.eom else None
    return RawMessage(role=message.role, content=message.content, stop_reason=reason)


@st.composite
def tool_dialogs(draw):
    """Any roles in any order, as Meta's class allows; the assistant may call tools."""
    messages = []
    for role in draw(st.lists(st.sampled_from([S, U, A, T]), min_size=1, max_size=5)):
        tools = role == A and draw(st.booleans())
        messages.append(Message(role, draw(contents()), python_tag=tools,
                                eom=tools and draw(st.booleans())))
    return [*messages, Message(draw(st.sampled_from([U, T])), draw(contents()))]


@QUICK
@given(messages=tool_dialogs())
def test_the_tokens_of_llama_31_are_those_of_metas_code(meta, messages):
    theirs = meta.encode_dialog_prompt([raw(message) for message in messages]).tokens
    assert dialog_tokens(messages, llama3(), LLAMA_31).ids == theirs


@QUICK
@given(messages=dialogs(answered=False))
def test_the_tokens_of_llama_30_are_those_of_metas_code_on_stripped_messages(meta, messages):
    theirs = [RawMessage(role=m.role, content=m.content.strip()) for m in messages]
    assert dialog_tokens(messages, llama3(), LLAMA_3).ids == (
        meta.encode_dialog_prompt(theirs).tokens)


def test_tools_are_of_llama_31_and_its_assistant():
    for form, message in ((LLAMA_3, Message(A, "x", eom=True)),
                          (LLAMA_31, Message(U, "x", python_tag=True))):
        with pytest.raises(ValueError, match="only the assistant of Llama 3.1 and later calls"):
            dialog_text([message], form)
    with pytest.raises(ValueError, match="a tool message was given; llama-3 knows system, user"):
        dialog_text(dialog((T, "x")), LLAMA_3)


def test_the_tokens_that_end_an_answer():
    assert stop_ids(llama3(), LLAMA_31) == {128_001, 128_008, 128_009}
    assert stop_ids(spm(), LLAMA_2) == {2}
    assert [s.text for s in LLAMA_3.stops] == ["<|end_of_text|>", "<|eot_id|>"]
    assert stop_ids(spm(), CODE_70B) == {2, 32_015}


def test_a_vocabulary_of_another_family_is_refused():
    with pytest.raises(ValueError, match=r"'<\|begin_of_text\|>' is not a special piece"):
        dialog_tokens(TALK, spm(), LLAMA_31)
    with pytest.raises(ValueError, match="'<s>' is not a special piece"):
        dialog_tokens(TALK, llama3(), LLAMA_2)


# -- every format ------------------------------------------------------------------------------

WORDS = {"llama-2": spm, "code-llama": spm, "code-llama-70b": spm, "llama-3": llama3,
         "llama-3.1": llama3, "completion": llama3, "chatml": chatml, "smollm2": chatml}


every_format = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS.keys())
TURNS = {name: form for name, form in FORMATS.items() if not form.one_text}
every_format_with_turns = pytest.mark.parametrize("form", TURNS.values(), ids=TURNS.keys())


def fitting(form, messages):
    """Without what the format does not know; answers as they were asked for: from us to the
    user, which only the 70B spells."""
    return [Message(m.role, m.content, destination="user" if m.role == A else "")
            for m in messages if m.role in form.roles]


@every_format
@QUICK
@given(messages=dialogs())
def test_what_was_typed_never_becomes_a_special_piece(form, messages):
    words, messages = WORDS[form.name](), fitting(form, messages)
    special = {*words.special.values(), 32_015}
    blank = [Message(m.role, "x", destination=m.destination) for m in messages]
    n_special, n_expected = (sum(i in special for i in dialog_tokens(talk, words, form).ids)
                             for talk in (messages, blank))
    assert n_special == n_expected


@every_format_with_turns
@QUICK
@given(messages=dialogs(answered=True))
def test_the_mask_marks_the_answers_with_their_end_tokens(form, messages):
    words, messages = WORDS[form.name](), fitting(form, messages)
    tokens = dialog_tokens(messages, words, form)
    runs = runs_said(tokens)
    # SentencePiece spells a space as ▁, so both come back as a space.
    answers = [m.content.replace("▁", " " if words is spm() else "▁")
               for m in messages if m.role == A]
    assert len(runs) == len(answers)
    for run, answer in zip(runs, answers, strict=True):
        assert run[-1] in stop_ids(words, form)
        assert words.decode(run[:-1]).strip() == answer.strip()
    end = len(tokens.said) - tokens.said[::-1].index(True)
    assert runs[-1] == tokens.ids[end - len(runs[-1]):end]
    assert words.decode(tokens.ids[end:], special=True) == ("\n" if words is chatml() else "")


@every_format_with_turns
@QUICK
@given(messages=dialogs(answered=True), more=contents())
def test_a_dialog_begins_the_one_that_goes_on(form, messages, more):
    """So keys and values of earlier turns stay good. Only the 70B joins the last space of a
    prompt to the answer's first word (and leaves both out where no answer is)."""
    words, messages = WORDS[form.name](), fitting(form, messages)
    asked, answered, again = (dialog_tokens(talk, words, form).ids for talk in (
        messages[:-1], messages, [*messages, Message(U, more)]))
    if form is not CODE_70B or messages[-1].content:
        assert n_shared(asked, answered) >= len(asked) - (form is CODE_70B)
    assert n_shared(answered, again) == len(answered)


@every_format
def test_a_cut_answer_did_not_say_its_end_token(form):
    words = WORDS[form.name]()
    whole = dialog_tokens(dialog((U, "Hi"), (A, "Yes")), words, form)
    cut = dialog_tokens([Message(U, "Hi"), Message(A, "Yes", cut=True)], words, form)
    last = len(whole.said) - 1 - whole.said[::-1].index(True)
    assert whole.ids[last] in stop_ids(words, form)
    assert sum(cut.said) == sum(whole.said) - 1
    assert cut.ids == (whole.ids[:-1] if form.one_text else whole.ids)


@every_format
def test_an_empty_dialog_is_refused(form):
    with pytest.raises(ValueError, match="an empty dialog was given; one message or more"):
        dialog_tokens([], spm(), form)


def test_a_strange_role_is_refused():
    with pytest.raises(ValueError, match="role 'ipython' was given; the roles are system, user"):
        Message("ipython", "x")


@QUICK
@given(messages=dialogs())
def test_the_text_comes_back_from_the_tokens_of_llama_31(messages):
    ids = dialog_tokens(messages, llama3(), LLAMA_31).ids
    spelled = {i: piece for piece, i in llama3().special.items()}
    text, run = "", []
    for i in [*ids, 128_000]:
        if i in spelled:
            text, run = text + llama3().decode(run) + spelled[i], []
        else:
            run.append(i)
    assert text.removesuffix("<|begin_of_text|>") == dialog_text(messages, LLAMA_31)


@functools.cache
def small_words(*, to_json=False):
    """A byte-level vocabulary with the special pieces of Llama 3.1, and its tokenizer.json."""
    words = BytePairs.train("user assistant system\n\n hello " * 9, n_vocab=270 + 256,
                            special=LLAMA31_SPECIAL)
    return json_made.to_json(words) if to_json else words


def test_special_text_is_ordinary_text_in_every_vocabulary():
    """One who types <|eot_id|> gets its letters, also in the tokenizer.json of a small model."""
    messages = dialog((U, "a<|eot_id|>b"))
    for words in (llama3(), small_words(), small_words(to_json=True)):
        ids = dialog_tokens(messages, words, LLAMA_31).ids
        assert ids.count(special_id(words, "<|eot_id|>")) == 1
        assert words.decode(ids) == "user\n\na<|eot_id|>bassistant\n\n"


def test_both_readers_of_sentencepiece_give_the_same_tokens():
    rebuilt = RebuiltSentencePiece.read(installed.path("sentencepiece_32k"))
    for form in (LLAMA_2, CODE_70B):
        assert dialog_tokens(TALK, rebuilt, form) == dialog_tokens(TALK, spm(), form)


# -- a base model's text -----------------------------------------------------------------------

def test_a_story_is_one_text_and_words_do_not_touch():
    story = dialog((U, "Once"), (A, " upon a time."), (U, "The end"), (A, " came."), (U, "\nOr"))
    assert dialog_text(story, COMPLETION) == "Once upon a time. The end came.\nOr"
    for words in (llama3(), spm()):
        ids = dialog_tokens(story[:-2], words, COMPLETION).ids
        assert ids == words.encode("Once upon a time. The end", bos=True, eos=False)
    whole = dialog_tokens(story[:2], llama3(), COMPLETION)
    assert whole.ids == llama3().encode("Once upon a time.", bos=True, eos=True)
    assert whole.said == [False, False, True, True, True, True, True]


# -- which format ------------------------------------------------------------------------------

@pytest.mark.parametrize(("id", "variant", "name"), [
    ("llama-1-7b", None, "completion"), ("llama-2-70b", None, "llama-2"),
    ("llama-2-7b", "base", "completion"), ("llama-2-7b", "chat", "llama-2"),
    ("code-llama-7b-base", None, "completion"), ("code-llama-34b-python", None, "completion"),
    ("code-llama-34b-instruct", None, "code-llama"),
    ("code-llama-70b-instruct", None, "code-llama-70b"),
    ("llama-3-8b", None, "llama-3"), ("llama-3.1-405b", "mp16", "llama-3.1"),
    ("llama-3.2-1b", None, "llama-3.1"), ("llama-3.2-1b", "base", "completion"),
    ("llama-3.3-70b-instruct", None, "llama-3.1"), ("llama-guard-1-7b", None, "llama-guard-1"),
    ("llama-guard-2-8b", None, "llama-guard-2"), ("llama-guard-3-8b", "int8", "llama-guard-3"),
    ("llama-guard-3-1b", None, "llama-guard-3-small")])
def test_the_format_of_a_release(id, variant, name):
    assert format_for(release(id), variant=variant).name == name


def test_every_release_has_a_format():
    for r in RELEASES:
        for variant in (None, *r.variants):
            assert format_for(r, variant=variant).name


def test_a_format_or_variant_that_there_is_not_is_refused():
    with pytest.raises(KeyError, match="no format is called 'chat'. Known are: completion, ll"):
        named("chat")
    with pytest.raises(ValueError, match="asked for as 'instruct'; it was published as base, chat"):
        format_for(release("llama-2-7b"), variant="instruct")


# -- as published on the hub -------------------------------------------------------------------

def hub_tokens(template, words, messages):
    """What transformers makes of the dialog with this template: text and tokens."""
    theirs = PreTrainedTokenizerFast(tokenizer_object=words.inner, chat_template=template,
                                     bos_token="<|begin_of_text|>")
    theirs._tokenizer.encode_special_tokens = False     # it renders text, and encodes all of it
    chat = [{"role": m.role, "content": m.content} for m in messages]
    asked = messages[-1].role != A
    return (theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=asked),
            theirs.apply_chat_template(chat, add_generation_prompt=asked)["input_ids"])


@QUICK
@given(messages=dialogs())
def test_transformers_gives_the_same_llama_3_with_the_template_of_the_hub(messages):
    """llama-cpp-python carries the template of Meta-Llama-3-8B-Instruct word for word. It trims,
    as Llama 3 does. A special piece that was typed becomes one there: the hole that we do not
    have, so such dialogs are left out here."""
    formats = pytest.importorskip("llama_cpp.llama_chat_format",
                                  reason="llama-cpp-python comes with `make bench`")
    words = small_words(to_json=True)
    text, ids = hub_tokens(formats.LLAMA3_INSTRUCT_CHAT_TEMPLATE, words, messages)
    assert dialog_text(messages, LLAMA_3) == text
    if not any("<|" in m.content for m in messages):
        assert dialog_tokens(messages, words, LLAMA_3).ids == ids


def test_typing_a_special_piece_ends_a_turn_in_a_rendered_template_and_not_here():
    formats = pytest.importorskip("llama_cpp.llama_chat_format",
                                  reason="llama-cpp-python comes with `make bench`")
    words, messages = small_words(to_json=True), dialog((U, "a<|eot_id|>b"))
    eot = special_id(words, "<|eot_id|>")
    theirs = hub_tokens(formats.LLAMA3_INSTRUCT_CHAT_TEMPLATE, words, messages)[1]
    assert theirs.count(eot) == 2
    assert dialog_tokens(messages, words, LLAMA_3).ids.count(eot) == 1
