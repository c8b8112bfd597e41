"""isthmus joins a frozen image encoder to a frozen language model with a small trained bridge (BLIP-2).

    from isthmus import Predictor

Importing the package imports neither torch nor transformers; what is asked for by name does. For all else
import the room you need, for example `from isthmus.qformer.qformer import QFormer`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isthmus.predictor import Predictor
    from isthmus.processor import Processor

__version__ = "0.1.0.dev0"
__all__ = ["Predictor", "Processor", "__version__"]


def __getattr__(name: str) -> Any:
    """Load what was asked for by name only then (PEP 562)."""
    if name == "Predictor":
        from isthmus.predictor import Predictor

        return Predictor
    if name == "Processor":
        from isthmus.processor import Processor

        return Processor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Every public name, loaded or not."""
    return sorted({*globals(), *__all__})
