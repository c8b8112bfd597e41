"""The encoder families that transformers knows, tiny and random, each through its own saved image processor."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    BlipImageProcessor,
    DINOv3ViTConfig,
    DINOv3ViTImageProcessor,
    DINOv3ViTModel,
    OPTConfig,
    Siglip2Config,
    Siglip2Model,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from fakes import tiny_clip_folder, tiny_dinov2_folder, tiny_siglip_folder
from isthmus.errors import TowerError
from isthmus.fingerprint import module_fingerprint
from isthmus.vision.transformers_encoder import TransformersEncoder

HALF = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
EYE = {**HALF, "image_size": 32, "patch_size": 8, "initializer_range": 0.2}
SQUARE = {"height": 32, "width": 32}


def tiny_dinov3_folder(path):
    torch.manual_seed(0)
    DINOv3ViTModel(DINOv3ViTConfig(**EYE, num_register_tokens=4)).save_pretrained(path)
    DINOv3ViTImageProcessor(size=SQUARE).save_pretrained(path)
    return path


def tiny_vit_folder(path):
    """A classifier, as ViT is published: without the pooler that AutoModel would make."""
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(**EYE)).save_pretrained(path)
    ViTImageProcessor(size=SQUARE).save_pretrained(path)
    return path


def tiny_blip2_folder(path):
    torch.manual_seed(0)
    config = Blip2Config(
        vision_config=EYE,
        qformer_config=Blip2QFormerConfig(**HALF, vocab_size=32, encoder_hidden_size=16).to_dict(),
        text_config=OPTConfig(
            vocab_size=32,
            hidden_size=16,
            ffn_dim=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            word_embed_proj_dim=16,
        ).to_dict(),
        num_query_tokens=2,
    )
    model = Blip2ForConditionalGeneration(config)
    torch.nn.init.normal_(model.vision_model.post_layernorm.weight)
    model.save_pretrained(path)
    BlipImageProcessor(size=SQUARE).save_pretrained(path)
    return path


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
