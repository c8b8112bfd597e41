"""timm towers: tokens, maps and layers, strict weights, and frozen whatever is called."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from isthmus.errors import TowerError
from isthmus.fingerprint import module_fingerprint
from isthmus.vision.timm_encoder import TimmEncoder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for name in ("test_vit", "test_efficientnet"):
        torch.manual_seed(0)
        torch.save(timm.create_model(name).state_dict(), folder / f"{name}.pth")
    return folder


def encoder(weights, name="test_vit", **options):
    return TimmEncoder(name, weights=weights / f"{name}.pth", address=f"file:{name}", **options)


def plain(weights, name):
    model = timm.create_model(name).eval()
    model.load_state_dict(torch.load(weights / f"{name}.pth", weights_only=True))
    return model


def test_a_transformer_gives_every_token(weights):
    tower, pixels = encoder(weights), torch.randn(2, 3, 160, 160)
    patches = tower(pixels)
    assert patches.shape == (2, 101, 64)
    assert (tower.width, tower.preprocessing.size, tower.address) == (64, 160, "file:test_vit")
    assert torch.allclose(patches, plain(weights, "test_vit").forward_features(pixels), atol=1e-6)


def test_a_feature_map_is_read_row_by_row(weights):
    tower, pixels = encoder(weights, "test_efficientnet"), torch.randn(2, 3, 160, 160)
    patches = tower(pixels)
    feature_map = plain(weights, "test_efficientnet").forward_features(pixels)
    assert patches.shape == (2, 25, 256)
    assert patches.is_contiguous()
    assert torch.allclose(patches[:, 1 * 5 + 3], feature_map[:, :, 1, 3], atol=1e-5)


def test_an_earlier_layer(weights):
    tower, pixels = encoder(weights, hidden_layer=-2), torch.randn(1, 3, 160, 160)
    kept, model = {}, plain(weights, "test_vit")
    model.blocks[-2].register_forward_hook(lambda _, __, output: kept.update(output=output))
    model(pixels)
    assert torch.allclose(tower(pixels), kept["output"], atol=1e-6)
    assert encoder(weights, "test_efficientnet", hidden_layer=-2).width == 48
    with pytest.raises(TowerError, match="no layer 77"):
        encoder(weights, hidden_layer=77)


def test_it_stays_frozen(weights):
    tower = encoder(weights, "test_efficientnet")
    before = module_fingerprint(tower)
    head = nn.Linear(tower.width, 1)
    whole = nn.ModuleDict({"tower": tower, "head": head}).train()
    optimizer = torch.optim.SGD(whole.parameters(), lr=1.0)
    head(tower(torch.randn(2, 3, 160, 160))).sum().backward()
    optimizer.step()
    assert not any(module.training for module in tower.modules())
    assert all(not p.requires_grad and p.grad is None for p in tower.parameters())
    assert module_fingerprint(tower) == before
    assert head.weight.grad.abs().sum() > 0


def test_it_computes_in_its_own_dtype(weights):
    tower = encoder(weights).to(torch.bfloat16)
    assert tower(torch.randn(1, 3, 160, 160)).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert encoder(weights)(torch.randn(1, 3, 160, 160)).dtype == torch.float32


def test_weights_by_order_are_strict(weights, tmp_path):
    tensors = torch.load(weights / "test_vit.pth", weights_only=True)
    renamed = {f"other.{index}": tensor for index, tensor in enumerate(tensors.values())}
    path = tmp_path / "renamed.safetensors"
    save_file(renamed, path)
    with pytest.raises(TowerError, match="lacks the encoder's tensor 'cls_token'"):
        TimmEncoder("test_vit", weights=path, address="file:x")
    torch.save(renamed, tmp_path / "renamed.pth")
    ordered = TimmEncoder("test_vit", weights=tmp_path / "renamed.pth", address="file:x", match="order")
    assert module_fingerprint(ordered) == module_fingerprint(encoder(weights))
    renamed["other.5"] = torch.zeros(3)
    torch.save(renamed, path.with_suffix(".pth"))
    with pytest.raises(TowerError, match=r"tensor 5 of the weight file, 'other.5' \(3,\), does not fit"):
        TimmEncoder("test_vit", weights=path.with_suffix(".pth"), address="file:x", match="order")
    del renamed["other.5"]
    torch.save(renamed, path.with_suffix(".pth"))
    with pytest.raises(TowerError, match="holds"):
        TimmEncoder("test_vit", weights=path.with_suffix(".pth"), address="file:x", match="order")


def test_weights_by_name_may_have_another_classifier_but_nothing_else(weights, tmp_path):
    tensors = torch.load(weights / "test_vit.pth", weights_only=True)
    body = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    save_file(body, tmp_path / "body.safetensors")
    tower = TimmEncoder("test_vit", weights=tmp_path / "body.safetensors", address="file:x")
    assert module_fingerprint(tower) == module_fingerprint(encoder(weights))
    save_file(body | {"more": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(TowerError, match="'more', which the encoder does not have"):
        TimmEncoder("test_vit", weights=tmp_path / "more.safetensors", address="file:x")
    save_file(body | {"norm.bias": torch.zeros(1)}, tmp_path / "shape.safetensors")
    with pytest.raises(TowerError, match=r"'norm.bias' of the weight file is \(1,\)"):
        TimmEncoder("test_vit", weights=tmp_path / "shape.safetensors", address="file:x")


def test_what_is_missing_is_one_sentence(tmp_path):
    with pytest.raises(TowerError, match="timm knows no such model"):
        TimmEncoder("nonsense", weights=tmp_path / "x.pth", address="file:x")
    with pytest.raises(TowerError, match="does not exist"):
        TimmEncoder("test_vit", weights=tmp_path / "x.pth", address="file:x")
    with pytest.raises(TowerError, match="pretrained=True, and not both"):
        TimmEncoder("test_vit", address="file:x")
    (tmp_path / "x.pth").write_bytes(b"no tensors")
    with pytest.raises(TowerError, match="not a file of plain tensors"):
        TimmEncoder("test_vit", weights=tmp_path / "x.pth", address="file:x")
