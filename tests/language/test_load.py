"""Loading by folder, and which kind a model is."""

import pytest
import torch
from transformers import LlamaForCausalLM, T5ForConditionalGeneration
from transformers.utils import logging

from fakes import tiny_bert_folder, tiny_llama_folder, tiny_t5_folder
from isthmus.errors import TowerError
from isthmus.fingerprint import module_fingerprint
from isthmus.language.decoder_only import DecoderOnlyLLM
from isthmus.language.load import is_encoder_decoder, load_language_model
from isthmus.language.prompts import Prompt


def test_a_folder_is_loaded_as_it_was_saved(tmp_path):
    folder = tiny_llama_folder(tmp_path)
    model, tokenizer = load_language_model(folder, attn_implementation="eager")
    assert model.config._attn_implementation == "eager"
    assert module_fingerprint(model) == module_fingerprint(LlamaForCausalLM.from_pretrained(folder))
    tower = DecoderOnlyLLM(model, tokenizer, Prompt(), address=f"folder:{folder}")
    assert tower.width == 16
    assert load_language_model(folder, dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_an_encoder_decoder_is_known_by_its_configuration(tmp_path):
    llama, t5 = tiny_llama_folder(tmp_path / "llama"), tiny_t5_folder(tmp_path / "t5")
    assert is_encoder_decoder(t5) and not is_encoder_decoder(llama)
    model, tokenizer = load_language_model(t5, dtype=torch.bfloat16)
    assert (type(model), model.dtype) == (T5ForConditionalGeneration, torch.bfloat16)
    assert tokenizer.eos_token_id == model.config.eos_token_id == 2
    for load in (is_encoder_decoder, load_language_model):
        with pytest.raises(TowerError, match="cannot be loaded"):
            load(tmp_path / "nowhere")


def test_loading_draws_no_bar_and_leaves_transformers_as_it_was(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(logging, "_tqdm_active", True)
    folder = tiny_llama_folder(tmp_path)
    capfd.readouterr()
    load_language_model(folder)
    assert capfd.readouterr() == ("", "")
    LlamaForCausalLM.from_pretrained(folder)
    assert "Loading weights" in capfd.readouterr().err


def test_what_is_missing_is_one_sentence(tmp_path):
    for name in (tmp_path / "nowhere", "no-such-owner/no-such-model"):
        with pytest.raises(TowerError, match="cannot be loaded"):
            load_language_model(name)
    with pytest.raises(TowerError, match="has no weights for 'cls"):
        load_language_model(tiny_bert_folder(tmp_path / "bert"))
