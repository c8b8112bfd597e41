"""transformers towers: CLIP's vision half by folder, its layers, its preprocessing."""

import json

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, CLIPModel, ViTConfig, ViTImageProcessor, ViTModel

from fakes import tiny_bert_folder, tiny_clip_folder
from isthmus.errors import TowerError
from isthmus.vision.transformers_encoder import TransformersEncoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_clip_folder(tmp_path_factory.mktemp("clip"))


def test_clip_gives_its_vision_half(folder):
    tower, pixels = TransformersEncoder(folder, address="folder:clip"), torch.randn(2, 3, 32, 32)
    half = CLIPModel.from_pretrained(folder).vision_model.eval()
    assert tower(pixels).shape == (2, 17, 16)
    assert tower.width == 16
    assert torch.allclose(tower(pixels), half(pixels).last_hidden_state, atol=1e-6)
    assert "text" not in " ".join(tower.state_dict())


def test_an_earlier_layer(folder):
    pixels = torch.randn(1, 3, 32, 32)
    hidden = CLIPModel.from_pretrained(folder).vision_model.eval()(pixels, output_hidden_states=True)
    tower = TransformersEncoder(folder, address="folder:clip", hidden_layer=-2)
    assert torch.allclose(tower(pixels), hidden.hidden_states[-2], atol=1e-6)
    with pytest.raises(TowerError, match="no layer 9"):
        TransformersEncoder(folder, address="folder:clip", hidden_layer=9)


def test_another_size_interpolates_the_position_embeddings(folder):
    tower, pixels = TransformersEncoder(folder, address="folder:clip", image_size=48), torch.randn(2, 3, 48, 48)
    half = CLIPModel.from_pretrained(folder).vision_model.eval()
    assert (tower.preprocessing.size, tower.width) == (48, 16)
    assert torch.allclose(tower(pixels), half(pixels, interpolate_pos_encoding=True).last_hidden_state, atol=1e-6)
    assert tower(pixels).shape == (2, 37, 16)
    own = TransformersEncoder(folder, address="folder:clip", image_size=32)
    assert torch.equal(own(pixels[..., :32, :32]), TransformersEncoder(folder, address="x")(pixels[..., :32, :32]))


def test_a_size_that_cannot_be_is_refused(folder):
    with pytest.raises(TowerError, match=r"patches of 8 pixels, and `encoder\.image_size` 50 is no multiple"):
        TransformersEncoder(folder, address="folder:clip", image_size=50)


def test_its_preprocessing_is_the_processors(folder):
    preprocessing = TransformersEncoder(folder, address="folder:clip").preprocessing
    assert (preprocessing.size, preprocessing.crop_share, preprocessing.squash) == (32, 1.0, False)
    image = Image.effect_noise((50, 40), 60).convert("RGB")
    stock = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt").pixel_values[0]
    assert torch.allclose(preprocessing.centre(image), stock, atol=0.05)


def test_a_plain_vision_model_that_squashes(tmp_path):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(ViTConfig(image_size=16, patch_size=8, **sizes)).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    tower = TransformersEncoder(tmp_path, address="folder:vit")
    assert tower(torch.randn(1, 3, 16, 16)).shape == (1, 5, 8)
    assert tower.preprocessing.squash
    assert tower.preprocessing.interpolation == "bilinear"


def test_dropout_is_off_after_train(folder):
    tower, pixels = TransformersEncoder(folder, address="folder:clip").train(), torch.randn(2, 3, 32, 32)
    assert torch.equal(tower(pixels), tower(pixels))
    assert not tower(pixels).requires_grad


def test_what_is_missing_is_one_sentence(tmp_path):
    for name in (tmp_path / "nowhere", "no-such-owner/no-such-model", tiny_bert_folder(tmp_path / "bert")):
        with pytest.raises(TowerError, match="cannot be loaded"):
            TransformersEncoder(name, address="folder:x")


def test_unknown_preprocessing_is_refused(tmp_path):
    folder = tiny_clip_folder(tmp_path)
    config = folder / "preprocessor_config.json"
    known = json.loads(config.read_text())
    config.write_text(json.dumps(known | {"crop_size": {"height": 32, "width": 16}}))
    with pytest.raises(TowerError, match="not square"):
        TransformersEncoder(folder, address="folder:clip")
    config.write_text(json.dumps(known | {"resample": 1}))
    with pytest.raises(TowerError, match="interpolation '1'"):
        TransformersEncoder(folder, address="folder:clip")
