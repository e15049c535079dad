"""Every prompt format of the family: dialogs to tokens, and which of them the assistant said.

    form = format_for(release("llama-3.1-8b"))
    ids, said = dialog_tokens([Message("user", "Hello!")], tokenizer, form)

Which format a model was taught is a fact about its release. Its files may say it, in a template.
"""

import re
from dataclasses import replace

from ..config import nearest
from ..family.releases import Release
from .chatml import CHATML, SMOLLM2
from .code import CODE_LLAMA_70B, infill_text, infill_tokens
from .dialog import (
    DialogTokens,
    Format,
    Message,
    dialog_text,
    dialog_tokens,
    n_shared,
    special_id,
    stop_ids,
)
from .guard import GUARD_1, GUARD_2, GUARD_3, GUARD_3_SMALL
from .llama2 import CODE_LLAMA, COMPLETION, LLAMA_2
from .llama3 import LLAMA_3, LLAMA_31

__all__ = ["FORMATS", "DialogTokens", "Format", "Message", "dialog_text", "dialog_tokens",
           "format_for", "infill_text", "infill_tokens", "n_shared", "named", "of_template",
           "special_id", "stop_ids"]

# Those that one can talk in; a Llama Guard judges the talk of others.
FORMATS: dict[str, Format] = {form.name: form for form in (
    COMPLETION, LLAMA_2, CODE_LLAMA, CODE_LLAMA_70B, LLAMA_3, LLAMA_31, CHATML, SMOLLM2)}
BY_FAMILY = {"Llama 1": COMPLETION, "Llama 2": LLAMA_2, "Code Llama": CODE_LLAMA,
             "Llama 3": LLAMA_3, "Llama 3.1": LLAMA_31, "Llama 3.2": LLAMA_31,
             "Llama 3.2 Vision": LLAMA_31, "Llama 3.3": LLAMA_31, "Llama Guard": GUARD_3_SMALL}
BY_ID = {"code-llama-70b-instruct": CODE_LLAMA_70B, "llama-guard-1-7b": GUARD_1,
         "llama-guard-2-8b": GUARD_2, "llama-guard-3-8b": GUARD_3}
UNTAUGHT = "base", "python"     # variants that know no turns


def named(name: str) -> Format:
    """One of FORMATS, upper or lower case. Raises KeyError for a name that is not among them."""
    if name.lower() not in FORMATS:
        raise KeyError(f"no format is called {name!r}. Known are: {', '.join(FORMATS)}."
                       f"{nearest(name, FORMATS)}")
    return FORMATS[name.lower()]


def of_template(template: str) -> Format | None:
    """The format whose marks a chat template has; None for another's.

    A template may say more than the format: Hugging Face's of Llama 3.1 tells the model a date.
    """
    if "<|im_start|>" in template:
        if "bos_token" in template:     # which our ChatML never puts
            return None
        told = re.search(r"<\|im_start\|>system(?:\n|\\n)([^{}'\"]*?)<\|im_end\|>", template)
        default = told[1] if told else ""
        return SMOLLM2 if default == SMOLLM2.default else replace(CHATML, default=default)
    marks = ((LLAMA_31, ("<|start_header_id|>", "ipython")), (LLAMA_3, ("<|start_header_id|>",)),
             (CODE_LLAMA_70B, ("<step>", "Source:")), (LLAMA_2, ("[INST]", "<<SYS>>")))
    return next((form for form, needed in marks if all(mark in template for mark in needed)), None)


def format_for(release: Release, *, variant: str | None = None) -> Format:
    """The format of a release; base models only complete.

    Of several variants it is the one that talks, unless one is named. Raises ValueError for a
    variant that the release does not have.
    """
    if variant is not None and variant not in release.variants:
        raise ValueError(f"{release.name} was asked for as {variant!r}; it was published as "
                         f"{', '.join(release.variants)}. Take one of these.")
    if variant in UNTAUGHT or set(release.variants) <= set(UNTAUGHT):
        return COMPLETION
    return BY_ID.get(release.id, BY_FAMILY[release.family])
