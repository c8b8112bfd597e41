"""Addresses: where they lead, and what is said of each wrong form."""

import pytest
import timm
import torch
from PIL import Image

from fake_encoders import tiny_timm_file
from fakes import tiny_clip_folder, tiny_llama_folder, tiny_siglip_folder, tiny_t5_folder
from isthmus.build.precision import Compute
from isthmus.build.towers import TowerPlace, build_encoder, build_llm, resolve
from isthmus.build.workshop import identify
from isthmus.config.model import EncoderConfig, LanguageConfig
from isthmus.errors import ConfigError, TowerError
from isthmus.features.key import Views, store_key
from isthmus.language.decoder_only import DecoderOnlyLLM
from isthmus.language.encoder_decoder import EncoderDecoderLLM
from isthmus.language.prompts import Prompt

CPU = Compute(torch.device("cpu"), torch.float32)


def test_where_addresses_lead(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("hub:org/name") == TowerPlace(None, "org/name", None)
    assert resolve("hub:org/name@abc") == TowerPlace(None, "org/name", "abc")
    assert resolve("hub:org/name@abc").name == "org/name"
    assert resolve(f"folder:{tmp_path}") == TowerPlace(tmp_path)
    assert resolve(f"file:{tmp_path}/model.gguf").name == f"{tmp_path}/model.gguf"
    assert resolve("file:~/model.gguf") == TowerPlace(tmp_path / "model.gguf")
    assert resolve("package:isthmus/quickstart/stage1.yaml").path.is_file()
    assert resolve("package:isthmus/quickstart").path.is_dir()


@pytest.mark.parametrize("address", ["", "name", "hub:", ":name", "/a/path", "https://host/x", "Folder:x", "folder:"])
def test_what_is_no_address_is_refused_with_the_known_forms(address):
    with pytest.raises(ConfigError, match="write hub:NAME@REVISION, folder:PATH, file:PATH or package:MODULE/PATH"):
        resolve(address)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("folder:{}/nothing", "there is no such folder at"),
        ("folder:{}/file", "there is no such folder at"),
        ("file:{}/nothing", "there is no such file at"),
        ("file:{}", "there is no such file at"),
        ("package:isthmus/nothing.bin", "there is no such file at"),
        ("package:no_such_package_here/model", "the package no_such_package_here is not installed"),
        ("package:no.such.package/model", r"the package no.such.package is not installed"),
        ("package:/model", "the package  is not installed"),
        ("package:isthmus.errors/model", r"the package isthmus.errors is not installed"),
    ],
)
def test_an_address_where_nothing_is_says_so(tmp_path, address, message):
    (tmp_path / "file").write_text("")
    with pytest.raises(TowerError, match=message):
        resolve(address.format(tmp_path))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "timm"}, "`encoder.name` is missing"),
        ({"kind": "transformers"}, "`encoder.weights` is missing"),
    ],
)
def test_an_encoder_that_lacks_something_is_refused_by_key(config, message):
    with pytest.raises(ConfigError, match=message):
        build_encoder(EncoderConfig(**config), CPU)


def test_weights_on_the_hub_bring_their_network_along_and_a_name_beside_them_is_checked(monkeypatch):
    create, asked = timm.create_model, []

    def on_the_hub(name, *, pretrained):
        asked.append((name, pretrained))
        return create("test_vit")

    monkeypatch.setattr("isthmus.vision.timm_encoder.timm.create_model", on_the_hub)
    hub = EncoderConfig(kind="timm", weights="hub:me/mine@abc")
    assert build_encoder(hub, CPU).address == "timm:hub:me/mine@abc"
    assert asked == [("hf-hub:me/mine@abc", True)]
    for name in ("test_vit", "test_vit.r160_in1k"):
        named = build_encoder(hub.model_copy(update={"name": name}), CPU)
        assert named.address == f"timm:{name} hub:me/mine@abc"
    with pytest.raises(ConfigError, match=r"`encoder.name` is vit_base, but hub:me/mine@abc is a test_vit; leave"):
        build_encoder(hub.model_copy(update={"name": "vit_base"}), CPU)


def test_a_folder_of_weights_for_timm_holds_one_file(tmp_path):
    with pytest.raises(TowerError, match=r"holds 0 .safetensors files where one is needed"):
        build_encoder(EncoderConfig(kind="timm", name="test_vit", weights=f"folder:{tmp_path}"), CPU)


def test_pictures_are_squashed_or_cut_as_the_config_says_or_as_is_the_encoder_s_own_way(tmp_path):
    picture = Image.linear_gradient("L").rotate(90).resize((80, 32)).convert("RGB")
    clip = EncoderConfig(kind="transformers", weights=f"folder:{tiny_clip_folder(tmp_path / 'clip')}")
    siglip = EncoderConfig(kind="transformers", weights=f"folder:{tiny_siglip_folder(tmp_path / 'siglip')}")
    timm = EncoderConfig(
        kind="timm", name="test_vit", weights=f"file:{tiny_timm_file(tmp_path / 'vit.safetensors', 'test_vit')}"
    )
    for config, own in ((clip, False), (siglip, True), (timm, False)):
        before = build_encoder(config, CPU)
        for squash in (None, own, not own):
            encoder = build_encoder(config.model_copy(update={"squash": squash}), CPU)
            squashes, known = encoder.preprocessing.squash, identify(encoder)
            assert squashes == (own if squash is None else squash)
            assert known.squash == (None if squashes == own else squashes)
            assert (known.sight == identify(before).sight) == (squashes == own)
            key, plain = (store_key(one, Views()) for one in (encoder, before))
            assert (key == plain) == (squashes == own)
            side = encoder.preprocessing.size
            whole = picture.resize((side, side), Image.Resampling.BICUBIC)
            same = torch.allclose(encoder.preprocessing.centre(picture), encoder.preprocessing.centre(whole), atol=0.05)
            assert same == squashes
            assert encoder.preprocessing == before.preprocessing or encoder.preprocessing.crop_share == 1


def test_a_language_model_is_of_the_kind_that_its_configuration_says(tmp_path):
    llama, t5 = (f"folder:{make(tmp_path / make.__name__)}" for make in (tiny_llama_folder, tiny_t5_folder))
    decoder = build_llm(LanguageConfig(weights=llama, max_tokens=5), Prompt(), CPU)
    assert isinstance(decoder, DecoderOnlyLLM) and (decoder.address, decoder.max_tokens) == (llama, 5)
    assert (decoder.prompt.caption_prefix, decoder.prompt.end) == (" ", "\n")
    for switch, splits in ((None, True), (True, True), (False, False)):
        tower = build_llm(LanguageConfig(weights=t5, max_tokens=5, prefix_lm=switch), Prompt(), CPU)
        assert isinstance(tower, EncoderDecoderLLM) and (tower.address, tower.max_tokens) == (t5, 5)
        assert tower.splits_captions == splits and (tower.prompt.caption_prefix, tower.prompt.end) == ("", "")
    for address in (llama, t5):
        for switch in (True, False):
            assert build_llm(LanguageConfig(weights=address, dropout=switch), Prompt(), CPU).train().training == switch
        assert not build_llm(LanguageConfig(weights=address), Prompt(), CPU).train().training
        for switch in (True, False):
            assert build_llm(LanguageConfig(weights=address, checkpointing=switch), Prompt(), CPU).recomputes == switch
        half = build_llm(LanguageConfig(weights=address), Prompt(), Compute(CPU.device, torch.bfloat16))
        assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    for switch in (True, False):
        with pytest.raises(ConfigError, match=r"`llm.prefix_lm` is a switch of encoder-decoder models, and folder:"):
            build_llm(LanguageConfig(weights=llama, prefix_lm=switch), Prompt(), CPU)
