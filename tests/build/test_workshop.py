"""What runs share is loaded once."""

import torch

from fakes import tiny_clip_folder, tiny_llama_folder
from isthmus.build.precision import Compute
from isthmus.build.towers import build_encoder
from isthmus.build.workshop import Workshop, make_tower
from isthmus.config.model import EncoderConfig, LanguageConfig
from isthmus.language.prompts import Prompt


def workshop(tmp_path):
    compute = Compute(torch.device("cpu"), torch.float32)
    weights = f"folder:{tiny_clip_folder(tmp_path / 'clip')}"
    encoder = build_encoder(EncoderConfig(kind="transformers", weights=weights), compute)
    return Workshop(compute, encoder, make_tower(encoder))


def test_a_language_model_is_loaded_once_for_the_same_weights_and_prompt(tmp_path):
    shared = workshop(tmp_path)
    config = LanguageConfig(weights=f"folder:{tiny_llama_folder(tmp_path / 'llama')}")
    first, tower = shared.language_model(config, Prompt(before="A picture of:"))
    again, same = shared.language_model(config.model_copy(update={"cache": "elsewhere"}), Prompt("A picture of:"))
    assert again is first and same is tower
    assert tower.unchanged()


def test_another_prompt_or_model_is_another_one_and_takes_the_place_of_the_first(tmp_path):
    shared = workshop(tmp_path)
    config = LanguageConfig(weights=f"folder:{tiny_llama_folder(tmp_path / 'llama')}")
    other = LanguageConfig(weights=f"folder:{tiny_llama_folder(tmp_path / 'other', seed=1)}")
    first, tower = shared.language_model(config, Prompt())
    asked, _ = shared.language_model(config, Prompt(before="A drawing of:"))
    assert asked is not first and asked.prompt.before == "A drawing of:"
    assert shared.language_model(other, Prompt())[1].fingerprint != tower.fingerprint
    assert shared.language_model(config, Prompt())[0] is not first
