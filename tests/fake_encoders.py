"""Tiny random image encoders beside those of `fakes.py`: one of each further family, as it is published."""

from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    BlipImageProcessor,
    DINOv3ViTConfig,
    DINOv3ViTImageProcessor,
    DINOv3ViTModel,
    OPTConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

HALF = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
EYE = {**HALF, "image_size": 32, "patch_size": 8, "initializer_range": 0.2}
SQUARE = {"height": 32, "width": 32}


def tiny_dinov3_folder(path: Path) -> Path:
    """A DINOv3: 32 px in patches of 8, P = 21 with the class token and 4 registers, V = 16."""
    torch.manual_seed(0)
    DINOv3ViTModel(DINOv3ViTConfig(**EYE, num_register_tokens=4)).save_pretrained(path)
    DINOv3ViTImageProcessor(size=SQUARE).save_pretrained(path)
    return path


def tiny_vit_folder(path: Path) -> Path:
    """A classifier, as ViT is published: without the pooler that AutoModel would make."""
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(**EYE)).save_pretrained(path)
    ViTImageProcessor(size=SQUARE).save_pretrained(path)
    return path


def tiny_blip2_folder(path: Path) -> Path:
    """A whole BLIP-2, of which the vision half is the tower: P = 17, V = 16."""
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


def tiny_timm_file(path: Path, name: str) -> Path:
    """The weights of one of timm's own networks for tests (`test_vit`, `test_efficientnet`), 160 px."""
    torch.manual_seed(0)
    save_file({key: tensor.contiguous() for key, tensor in timm.create_model(name).state_dict().items()}, path)
    return path
