"""The encoder families that transformers knows, tiny and random, each through its own saved image processor."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    Blip2ForConditionalGeneration,
    BlipImageProcessor,
    Siglip2Config,
    Siglip2Model,
    ViTModel,
)

from fake_encoders import HALF, SQUARE, tiny_blip2_folder, tiny_dinov3_folder, tiny_vit_folder
from fakes import tiny_clip_folder, tiny_dinov2_folder, tiny_siglip_folder
from isthmus.errors import TowerError
from isthmus.fingerprint import module_fingerprint
from isthmus.vision.transformers_encoder import TransformersEncoder

FAMILIES = {
    "clip": (tiny_clip_folder, 17, False),
    "siglip": (tiny_siglip_folder, 16, True),
    "dinov2": (tiny_dinov2_folder, 17, False),
    "dinov3": (tiny_dinov3_folder, 21, True),
    "vit": (tiny_vit_folder, 17, True),
    "blip2": (tiny_blip2_folder, 17, True),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("families")
    return {family: make(place / family) for family, (make, _, _) in FAMILIES.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gives_its_patches(folders, family):
    _, patches, squash = FAMILIES[family]
    tower = TransformersEncoder(folders[family], address=f"folder:{family}")
    pixels = torch.randn(2, 3, 32, 32)
    found = tower(pixels)
    assert found.shape == (2, patches, 16) and tower.width == 16
    assert found.std() > 0.1 and not torch.equal(found[0], found[1])
    assert torch.equal(tower.train()(pixels), found)
    assert all(not parameter.requires_grad for parameter in tower.parameters())
    assert (tower.preprocessing.size, tower.preprocessing.squash) == (32, squash)
    again = TransformersEncoder(folders[family], address="elsewhere")
    assert module_fingerprint(again) == module_fingerprint(tower)


@pytest.mark.parametrize("family", ["clip", "siglip", "dinov2", "dinov3"])
def test_the_patches_are_transformers_own(folders, family):
    pixels, folder = torch.randn(2, 3, 32, 32), folders[family]
    config = AutoConfig.from_pretrained(folder)
    plain = AutoModel.from_pretrained(folder, config=getattr(config, "vision_config", config)).eval()
    with torch.no_grad():
        output = plain(pixels, output_hidden_states=True)
    tower = TransformersEncoder(folder, address=f"folder:{family}")
    assert torch.allclose(tower(pixels), output.last_hidden_state, atol=1e-6)
    early = TransformersEncoder(folder, address=f"folder:{family}", hidden_layer=-2)
    assert torch.allclose(early(pixels), output.hidden_states[-2], atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_view_is_the_processors_own(folders, family):
    image = Image.effect_noise((50, 40), 60).convert("RGB")
    stock = AutoImageProcessor.from_pretrained(folders[family])(image, return_tensors="pt").pixel_values[0]
    view = TransformersEncoder(folders[family], address=f"folder:{family}").preprocessing.centre(image)
    assert view.shape == stock.shape
    assert (view - stock).abs().mean() < 0.02 and torch.allclose(view, stock, atol=0.15)


def test_blip2_gives_its_state_before_the_norm_that_the_bridge_learns(folders):
    pixels = torch.randn(2, 3, 32, 32)
    whole = Blip2ForConditionalGeneration.from_pretrained(folders["blip2"]).vision_model.eval()
    with torch.no_grad():
        wanted = whole(pixels).last_hidden_state
        found = TransformersEncoder(folders["blip2"], address="folder:blip2")(pixels)
    assert torch.allclose(whole.post_layernorm(found), wanted, atol=1e-5)
    assert not torch.allclose(found, wanted, atol=0.1)


def test_blip2s_position_embeddings_interpolate_as_from_224_to_364(folders):
    whole = Blip2ForConditionalGeneration.from_pretrained(folders["blip2"]).vision_model.eval()
    tower = TransformersEncoder(folders["blip2"], address="folder:blip2", image_size=48)
    pixels = torch.randn(2, 3, 48, 48)
    hidden = whole(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(tower(pixels), hidden, atol=1e-6) and tower(pixels).shape == (2, 37, 16)


@pytest.mark.parametrize(("family", "patches"), [("dinov2", 37), ("dinov3", 41), ("vit", 37), ("siglip", 36)])
def test_other_families_take_larger_pictures_too(folders, family, patches):
    tower = TransformersEncoder(folders[family], address=f"folder:{family}", image_size=48)
    assert tower(torch.randn(1, 3, 48, 48)).shape == (1, patches, 16)


def test_an_encoder_that_takes_one_size_only_says_so(folders, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("Input image size (48*48) doesn't match model (32*32).")

    monkeypatch.setattr(ViTModel, "forward", refuse)
    with pytest.raises(TowerError, match=r"takes no pictures of 48 pixels.*its own are 32 pixels wide"):
        TransformersEncoder(folders["vit"], address="folder:vit", image_size=48)


def test_blip2s_vision_half_alone_is_the_same_tower(folders, tmp_path):
    whole = Blip2ForConditionalGeneration.from_pretrained(folders["blip2"])
    whole.vision_model.save_pretrained(tmp_path)
    BlipImageProcessor(size=SQUARE).save_pretrained(tmp_path)
    alone, within = (TransformersEncoder(folder, address="folder:x") for folder in (tmp_path, folders["blip2"]))
    assert module_fingerprint(alone) == module_fingerprint(within)


def test_only_a_pooler_may_be_absent(folders, tmp_path):
    folder = tiny_vit_folder(tmp_path / "vit")
    assert not any(key.startswith("vit.pooler") for key in load_file(folder / "model.safetensors"))
    assert TransformersEncoder(folder, address="folder:vit").model.pooler is None


def test_a_naflex_siglip2_is_refused(tmp_path):
    vision = {**HALF, "num_patches": 16, "patch_size": 8}
    text = {**HALF, "vocab_size": 64, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}
    Siglip2Model(Siglip2Config(vision_config=vision, text_config=text)).save_pretrained(tmp_path)
    with pytest.raises(TowerError, match="is a NaFlex SigLIP2, whose number of patches differs"):
        TransformersEncoder(tmp_path, address="folder:x")
