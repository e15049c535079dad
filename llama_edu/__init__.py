"""The Llama family, from scratch: the code that every chapter of the course arrives at.

    from llama_edu import generate, load

    model, tokenizer = load("tales")
    print(generate(model, tokenizer, "Once upon a time"))

What is named here is fetched from its own module when it is first used, so that importing the
package takes no time; `llama_edu.model` and all other modules are imported as usual.
"""

from importlib import import_module

TYPE_CHECKING = False       # type checkers know the name; typing itself would take most of the time

if TYPE_CHECKING:
    from .checkpoint import load as load
    from .checkpoint import load_model as load_model
    from .checkpoint import save as save
    from .config import ModelConfig as ModelConfig
    from .family.releases import RELEASES as RELEASES
    from .family.releases import release as release
    from .formats.convert import convert as convert
    from .generation import generate as generate
    from .generation import stream as stream
    from .inference.talk import chat as chat
    from .losses import next_token as next_token
    from .model import Llama as Llama
    from .training.text_files import batches as batches
    from .training_loop import cosine as cosine
    from .training_loop import evaluate as evaluate
    from .training_loop import train as train

__version__ = "0.1.0"

_HOMES = {
    "checkpoint": ("load", "load_model", "save"), "config": ("ModelConfig",),
    "family.releases": ("RELEASES", "release"), "formats.convert": ("convert",),
    "generation": ("generate", "stream"), "inference.talk": ("chat",), "losses": ("next_token",),
    "model": ("Llama",), "training.text_files": ("batches",),
    "training_loop": ("cosine", "evaluate", "train"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"llama_edu has no {name!r}; it has {', '.join(__all__)}, and its "
                             "modules, which are imported by name.")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
