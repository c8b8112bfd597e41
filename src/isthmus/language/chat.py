"""A tokenizer's chat template as text around the soft prompt, rendered once."""

from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from isthmus.errors import TowerError
from isthmus.language.prompts import Prompt

_ASKED, _ANSWERED = "[[what the user says]]", "[[what the assistant says]]"


def with_turns(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, address: str) -> Prompt:
    """Fill in the turns of a chat prompt, unless a saved prompt brings them.

    Raises `TowerError` where the tokenizer has no chat template, or one that does not repeat what is said.
    """
    if prompt.turns is not None:
        return prompt
    if not tokenizer.chat_template:
        raise TowerError(
            f"the tokenizer of {address} has no chat template: take an instruct model, or leave out llm.prompt.chat."
        )
    turns: Any = [{"role": "user", "content": _ASKED}, {"role": "assistant", "content": _ANSWERED}]
    try:
        rendered = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except Exception as error:  # a template is a program of its own, and may refuse what it is given in any way
        raise TowerError(
            f"the chat template of {address} cannot be rendered ({error}): leave out llm.prompt.chat."
        ) from error
    opening, asked, rest = rendered.partition(_ASKED)
    reply, answered, closing = rest.partition(_ANSWERED)
    if not asked or not answered:
        raise TowerError(
            f"the chat template of {address} leaves out what user and assistant say: leave out llm.prompt.chat."
        )
    return replace(prompt, turns=(opening, reply, closing))


def end_of_turn(closing: str, tokenizer: Any) -> tuple[str, list[int]]:
    """What closes the assistant's turn, as text and as tokens: one special token where the template has one.

    A template that closes no turn leaves it to the tokenizer's end of sequence.
    """
    text = closing.strip()
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids if text else [tokenizer.eos_token_id]
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    if ids[0] in special:
        return "", ids[:1]
    return text, ids
