"""What a caption is: its normal form."""


def normalise(text: str) -> str:
    """Strip a caption and collapse every run of white space, line separators included, to one space.

    Case is kept for the language model; the Q-Former's BERT tokenizer lower-cases by itself.
    """
    return " ".join(text.split())
