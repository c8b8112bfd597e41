"""What a caption is: its normal form, and the hash by which two captions are the same (DESIGN 5.7)."""

from isthmus.fingerprint import text_identity


def normalise(text: str) -> str:
    """Strip a caption and collapse every run of white space, line separators included, to one space.

    Case is kept for the language model; the Q-Former's BERT tokenizer lower-cases by itself.
    """
    return " ".join(text.split())


def caption_identity(text: str) -> int:
    """Hash a caption to a signed 64-bit integer, after normalising and lower-casing it."""
    return text_identity(normalise(text).lower())
