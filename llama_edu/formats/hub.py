"""A model on the Hugging Face hub: from its id to a folder on this machine."""

import re
from contextlib import suppress
from pathlib import Path

import huggingface_hub

from .huggingface import pickled

ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+?))?(?:/([\w.-]+\.gguf))?", re.ASCII)
TEXTS = ["*.json", "tokenizer.model", "*.jinja"]    # small files, those of the tokenizer included
LOGIN = "hf auth login (in older versions: huggingface-cli login)"
WEIGHTS, META_WEIGHTS = ["model*.safetensors"], ["consolidated.*.pth"]


def fetch(name: str, *, endpoint: str | None = None, cache: Path | None = None) -> Path:
    """The folder of "owner/name" or "owner/name@revision" in the cache of `huggingface_hub`; or
    the file of "owner/name/FILE.gguf", with the other parts of its model where it has any.

    What is already there is not fetched again. Bars show the progress; the token, the place of
    the cache and the offline mode are those of the library (HF_TOKEN, HF_HOME, HF_HUB_OFFLINE).
    endpoint: another server of the same kind. Raises ValueError, in one sentence, for whatever
    goes wrong.
    """
    if (found := ID.fullmatch(name)) is None:
        raise ValueError(f"there is no folder or file {name!r}, and no model on the hub can be "
                         "called so; a folder, a .gguf file or an id such as owner/name, "
                         "owner/name@revision or owner/name/FILE.gguf is needed. Check the path.")
    model, revision, file = found.groups()

    def get(patterns: list[str]) -> Path:
        return Path(huggingface_hub.snapshot_download(
            model, revision=revision, endpoint=endpoint, cache_dir=cache,
            allow_patterns=patterns, ignore_patterns="*/*"))
    try:
        if file is not None:
            place = get([re.sub(r"-\d{5}-of-", "-*-of-", file)]) / file
            if place.is_file():
                return place
        folder = get(TEXTS + WEIGHTS)
        if (folder / "params.json").is_file() and not (folder / "config.json").is_file():
            folder = get(TEXTS + META_WEIGHTS)
    except Exception as error:      # of a network library that changes with the hub's versions
        raise ValueError(f"there is no folder {name!r}, and {_reason(error, model, revision)}"
                         ) from error
    if file is None and any(any(folder.glob(each)) for each in WEIGHTS + META_WEIGHTS):
        return folder
    others: list[str] = []
    with suppress(Exception):       # of that library; then only what was fetched is known
        others = huggingface_hub.HfApi(endpoint).list_repo_files(model, revision=revision)
    if ggufs := sorted(name for name in others if name.endswith(".gguf") and "/" not in name):
        raise ValueError(f"{model} on the hub has {len(ggufs)} .gguf files"
                         + (" and no others; one must " if file is None else f", not {file}; one ")
                         + f"be named, such as {model}/{ggufs[0]}"
                         + f" or {model}/{ggufs[-1]}" * (len(ggufs) > 1) + ". Name it.")
    if any(name.endswith(".bin") for name in others):
        raise pickled(model)
    return folder


def _reason(error: Exception, model: str, revision: str | None) -> str:
    """Why the hub did not give a model, and what to do."""
    errors = huggingface_hub.errors
    page = f"https://huggingface.co/{model}"
    reasons = {
        errors.GatedRepoError: f"the licence of {model} on the hub must first be accepted. Visit "
                               f"{page}, accept it, and log in with: {LOGIN}",
        errors.RevisionNotFoundError: f"{model} on the hub has no revision {revision!r}. See "
                                      f"{page}/commits for those that it has.",
        errors.RepositoryNotFoundError: f"the hub has no model {model} that you may see. Check "
                                        f"the spelling; if it is private, log in with: {LOGIN}",
        errors.HFValidationError: f"no model on the hub can be called {model!r}. Check the "
                                  "spelling.",
        errors.LocalEntryNotFoundError: f"{model} is not, or not whole, in the cache of this "
                                        "machine, and the hub cannot be reached. Connect to the "
                                        "network, or give the path of a folder.",
    }
    broke_off = (f"the download of {model} broke off ({' '.join(str(error).split()):.200}). Start "
                 "it again; files that are whole are kept.")
    return next((text for kind, text in reasons.items() if isinstance(error, kind)), broke_off)
