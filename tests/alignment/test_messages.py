"""What is learnt of a dialog: every answer and its end, whole turns, and nothing that leaks."""

import functools

import pytest
import torch
from dialogs import A, S, T, U, dialog, dialogs, llama3, spm
from hypothesis import given, settings
from models import loud_model, tiny_config
from transformers import PreTrainedTokenizerFast

from llama_edu.alignment.messages import documents, fitting, learnt_tokens
from llama_edu.losses import next_token
from llama_edu.prompts import Message, dialog_tokens, named, special_id
from llama_edu.tokenizer import BytePairs, json_made
from llama_edu.tokenizer.tiktoken_bpe import LLAMA31_SPECIAL
from llama_edu.training.packing import lay_out, pack, shuffled

LLAMA_2, LLAMA_31, CHATML, COMPLETION = map(named, ("llama-2", "llama-3.1", "chatml", "completion"))
TALK = dialog((S, "Be brief."), (U, "Who are you?"), (A, "A llama."), (U, "Why?"), (A, "I am."))
SHORT = dialog((U, "Hello"), (A, "Hello there, you!"))


@functools.cache
def words():
    """A byte-level vocabulary with the special pieces of Llama 3.1 and ChatML."""
    return json_made.to_json(BytePairs.train(
        "user assistant system\n\n hello " * 9, n_vocab=530,
        special=(*LLAMA31_SPECIAL, "<|im_start|>", "<|im_end|>")))


def learnt_text(messages, form=LLAMA_31, tokenizer=None, *, answers="all"):
    tokenizer = tokenizer or words()
    ids, learnt = learnt_tokens(messages, tokenizer, form, answers=answers)
    return tokenizer.decode([token for token, is_learnt in zip(ids, learnt, strict=True)
                             if is_learnt], special=True)


# -- which tokens ------------------------------------------------------------------------------

@pytest.mark.parametrize(("form", "tokenizer", "every", "last"), [
    (LLAMA_31, words, "A llama.<|eot_id|>I am.<|eot_id|>", "I am.<|eot_id|>"),
    (CHATML, words, "A llama.<|im_end|>I am.<|im_end|>", "I am.<|im_end|>"),
    (LLAMA_31, llama3, "A llama.<|eot_id|>I am.<|eot_id|>", "I am.<|eot_id|>"),
    (LLAMA_2, spm, "A llama. </s>I am. </s>", "I am. </s>")], ids=["3.1", "chatml", "3", "2"])
def test_answers_and_their_ends_are_learnt(form, tokenizer, every, last):
    assert learnt_text(TALK, form, tokenizer()) == every
    assert learnt_text(TALK, form, tokenizer(), answers="last") == last


def test_the_tokens_are_those_of_the_dialog():
    for answers in ("all", "last"):
        found = learnt_tokens(TALK, words(), LLAMA_31, answers=answers)
        assert found.ids == dialog_tokens(TALK, words(), LLAMA_31).ids


def test_what_nobody_answered_is_left_out():
    more = [*TALK, *dialog((U, "And then?"))]
    for answers in ("all", "last"):
        assert learnt_tokens(more, words(), LLAMA_31, answers=answers) == learnt_tokens(
            TALK, words(), LLAMA_31, answers=answers)


def test_results_of_tools_are_not_learnt_and_calls_are():
    talk = [*dialog((U, "2 + 2?")), Message(A, "2 + 2", python_tag=True, eom=True),
            *dialog((T, "4"), (A, "Four."))]
    assert learnt_text(talk) == "<|python_tag|>2 + 2<|eom_id|>Four.<|eot_id|>"
    assert learnt_text(talk, answers="last") == "Four.<|eot_id|>"


def test_an_answer_that_was_cut_has_no_end_to_learn():
    assert learnt_text([*dialog((U, "Tell")), Message(A, "Once upon", cut=True)]) == "Once upon"


def test_an_empty_answer_is_its_end():
    assert learnt_text(dialog((U, "Say nothing."), (A, ""))) == "<|eot_id|>"


def test_of_a_story_what_the_assistant_wrote_is_learnt():
    ids, learnt = learnt_tokens(dialog((U, "Once"), (A, " upon a time.")), llama3(), COMPLETION,
                                answers="last")
    assert llama3().decode([t for t, k in zip(ids, learnt, strict=True) if k]) == " upon a time."
    assert ids[-1] == llama3().eos_id
    assert learnt[-1]


# -- as transformers has them --------------------------------------------------------------------

HEAD = "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
TEMPLATES = {
    "llama-3.1": ("{{ bos_token }}", HEAD, "<|eot_id|>", ""),
    "chatml": ("", "<|im_start|>{{ m['role'] }}\n", "<|im_end|>", "\n")}


def template(name):
    """The template of a format with marks around what the assistant generates."""
    first, head, end, after = TEMPLATES[name]
    said = "{{ m['content'] }}" + end
    return (first + "{% for m in messages %}" + head + "{% if m['role'] == 'assistant' %}"
            "{% generation %}" + said + "{% endgeneration %}{% else %}" + said + "{% endif %}"
            + "{{ '" + after.replace("\n", "\\n") + "' }}{% endfor %}")


@settings(max_examples=60, deadline=None)
@given(messages=dialogs(answered=True))
@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_and_mask_are_those_of_transformers_with_generation_marks(name, messages):
    """Where both agree: it encodes a header's line ends with the message, and makes a special piece
    of one that was typed. The end token is inside the marks, as templates for training have it."""
    messages = [m for m in messages if "<|" not in m.content]
    messages = [m for m in messages if not m.content[:1].isspace()]
    if not any(m.role == A for m in messages):
        return
    theirs = PreTrainedTokenizerFast(tokenizer_object=words().inner, chat_template=template(name),
                                     bos_token="<|begin_of_text|>")
    theirs._tokenizer.encode_special_tokens = False
    while messages[-1].role != A:
        messages.pop()
    found = theirs.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in messages], return_dict=True,
        return_assistant_tokens_mask=True)
    ours = learnt_tokens(messages, words(), named(name), answers="all")
    assert ours.ids == found["input_ids"]
    assert [*map(int, ours.said)] == found["assistant_masks"]


# -- whole turns -------------------------------------------------------------------------------

def long_talk(n):
    return dialog((S, "Be brief."), *(part for i in range(n) for part in (
        (U, f"Question {i}?"), (A, f"Answer {i}."))))


@pytest.mark.parametrize("answers", ["all", "last"])
@pytest.mark.parametrize("kept", [1, 2, 5])
def test_a_long_dialog_loses_its_first_turns_and_keeps_its_system_message(kept, answers):
    whole = long_talk(5)
    wanted = [whole[0], *whole[-2 * kept:]]
    expected = learnt_tokens(wanted, words(), LLAMA_31, answers=answers)
    for spare in (0, 20):       # a turn more has 40 tokens
        found = fitting(whole, words(), LLAMA_31, answers=answers,
                        length=len(expected.ids) + spare)
        assert found == expected


def test_turns_begin_with_questions_whatever_follows_them():
    talk = [*long_talk(2), *dialog((U, "2 + 2?")),
            Message(A, "2 + 2", eom=True), *dialog((T, "4"), (A, "Four."))]
    expected = learnt_tokens([talk[0], *talk[-4:]], words(), LLAMA_31, answers="all")
    assert fitting(talk, words(), LLAMA_31, answers="all", length=len(expected.ids)) == expected


def test_an_answer_is_never_cut():
    least = len(fitting(TALK[:1] + TALK[3:], words(), LLAMA_31, answers="all", length=999).ids)
    with pytest.raises(ValueError, match=f"its last turn has {least} tokens, .* and a row has room "
                                         f"for {least - 1}. Make rows longer, or leave it out"):
        fitting(TALK, words(), LLAMA_31, answers="all", length=least - 1)


# -- what cannot be learnt -----------------------------------------------------------------------

@pytest.mark.parametrize("bad", [
    dialog((U, "Is anybody there, or am I talking to myself again?")), dialog((S, "Be brief.")), [],
    [*dialog((U, "Tell")), Message(A, "", cut=True)]], ids=["asked", "system", "empty", "cut"])
def test_a_dialog_with_nothing_to_learn_is_named(bad):
    begins = repr(bad[0].content[:40] if bad else "")
    with pytest.raises(ValueError, match="dialog 2, which begins ") as error:
        list(documents([TALK, SHORT, bad], words(), LLAMA_31, answers="all", length=200))
    assert str(error.value) == (
        f"dialog 2, which begins {begins}: it holds nothing to learn; one word of the assistant, "
        "or an end token, is needed. Leave it out.")


def test_a_dialog_that_is_too_long_or_of_another_form_is_named():
    with pytest.raises(ValueError, match="dialog 1, which begins 'Be brief.': its last turn has"):
        list(documents([SHORT, TALK], words(), LLAMA_31, answers="all", length=36))
    with pytest.raises(ValueError, match="dialog 0, which begins 'Hi': the roles assistant were"):
        list(documents([dialog((A, "Hi"))], spm(), LLAMA_2, answers="all", length=36))


def test_answers_are_all_or_the_last():
    with pytest.raises(ValueError, match="answers 'first' were asked for; there are last, all"):
        list(documents([TALK], words(), LLAMA_31, answers="first", length=200))


# -- packed ------------------------------------------------------------------------------------

LENGTH = 160
DIALOGS = [TALK, SHORT, dialog((U, "What is it?"), (A, "Nothing, and nothing at all."))]


@functools.cache
def model():
    return loud_model(tiny_config(vocab_size=words().n_vocab, max_seq_len=LENGTH))


def batch_of(some, *, answers="all"):
    rows = list(pack(documents(some, words(), LLAMA_31, answers=answers, length=LENGTH),
                     length=LENGTH))
    return lay_out(rows, length=LENGTH)


@functools.cache
def sums_one_by_one(answers):
    """Nats and number of the tokens of each answer, given all before it: dialog by dialog, from
    prompts and whole dialogs, without any mask."""
    total, count = 0.0, 0
    for messages in DIALOGS:
        ends = [i for i, m in enumerate(messages) if m.role == A]
        for end in ends if answers == "all" else ends[-1:]:
            asked, whole = (dialog_tokens(messages[:n], words(), LLAMA_31).ids
                            for n in (end, end + 1))
            assert whole[:len(asked)] == asked
            assert whole[-1] == special_id(words(), "<|eot_id|>")
            logp = model()(torch.tensor([whole]))[0].log_softmax(-1)
            total -= sum(logp[i - 1, whole[i]].item() for i in range(len(asked), len(whole)))
            count += len(whole) - len(asked)
    return total, count


def learns_the_answers_alone(batch, *, answers="all"):
    total, count = sums_one_by_one(answers)
    loss = next_token(model(), batch)
    assert loss.count == count
    assert loss.total.item() == pytest.approx(total, rel=1e-5)      # sums in another order


@pytest.mark.parametrize("answers", ["all", "last"])
def test_packed_dialogs_are_learnt_as_one_by_one(answers):
    batch = batch_of(DIALOGS, answers=answers)
    assert len(batch["tokens"]) < len(DIALOGS)
    learns_the_answers_alone(batch, answers=answers)


def test_a_dialog_is_whole_in_one_row_and_batches_take_it():
    made = list(documents(DIALOGS * 30, words(), LLAMA_31, answers="all", length=LENGTH))
    rows = list(pack(made, length=LENGTH))
    packed = sorted(document.tolist() for row in rows for document in row)
    assert packed == sorted(document.tolist() for document in made)
    batch = next(shuffled(rows, size=2, length=LENGTH, seed=0))
    assert batch["tokens"].shape == (2, LENGTH)
    assert 0 < batch["learn"].float().mean() < 0.5


# -- mistakes that others shipped ----------------------------------------------------------------

EOT = "<|eot_id|>"


def prompts_are_learnt_too(batch):
    batch["learn"] = batch["mask"].any(-1) & (batch["tokens"] > 0)


def one_to_the_left(batch):
    batch["learn"] = batch["learn"].roll(-1, dims=1)


def one_to_the_right(batch):
    batch["learn"] = batch["learn"].roll(1, dims=1)


def the_first_token_of_an_answer_is_not_learnt(batch):
    batch["learn"] &= batch["learn"].roll(1, dims=1)


def end_tokens_are_not_learnt_for_they_are_padding(batch):
    batch["learn"] &= batch["tokens"] != special_id(words(), EOT)


def every_end_token_is_learnt_a_question_s_too(batch):
    batch["learn"] |= batch["tokens"] == special_id(words(), EOT)


def padding_is_learnt(batch):
    batch["learn"][:, -3:] = True


def dialogs_see_each_other_though_positions_begin_anew(batch):
    del batch["mask"]


def the_first_token_stands_twice(batch):
    for name in ("tokens", "learn"):
        batch[name] = torch.cat([batch[name][:, :1], batch[name][:, :-1]], dim=1)
    del batch["positions"], batch["mask"]


@pytest.mark.parametrize("mistake", [
    prompts_are_learnt_too, one_to_the_left, one_to_the_right,
    the_first_token_of_an_answer_is_not_learnt, end_tokens_are_not_learnt_for_they_are_padding,
    every_end_token_is_learnt_a_question_s_too, padding_is_learnt,
    dialogs_see_each_other_though_positions_begin_anew, the_first_token_stands_twice],
    ids=lambda f: f.__name__)
def test_mistakes_that_others_shipped_are_found(mistake):
    batch = batch_of(DIALOGS)
    learns_the_answers_alone(batch)
    mistake(batch)
    with pytest.raises(AssertionError):
        learns_the_answers_alone(batch)


def test_a_mean_of_means_is_another_number():
    """Averaged dialog by dialog, a short answer weighs as much as a long one: sums do not."""
    losses = [next_token(model(), batch_of([messages])) for messages in DIALOGS]
    total, count = sums_one_by_one("all")
    assert sum(x.total.item() for x in losses) / sum(x.count for x in losses) == pytest.approx(
        total / count, rel=1e-5)
    means = [x.total.item() / x.count for x in losses]
    assert abs(sum(means) / len(means) - total / count) > 0.01
