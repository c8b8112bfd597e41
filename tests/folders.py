"""Folders of both stages as runs leave them, made without training: tiny random towers, redrawn bridges."""

from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from bridges import redraw
from fakes import tiny_bert_folder, tiny_clip_folder, tiny_llama_folder
from isthmus.build.precision import Compute
from isthmus.build.towers import build_encoder, build_llm
from isthmus.build.workshop import identify
from isthmus.checkpoints.native import write_bridge
from isthmus.config.run import RunConfig
from isthmus.language.prompts import Prompt
from isthmus.models.bridge import Bridge
from isthmus.qformer.tokenizer import QFormerTokenizer
from isthmus.records import BridgeFile, BridgeSizes

CPU = Compute(torch.device("cpu"), torch.float32)


def tiny_config(place, stage, **values):
    """A run's config; stage 2 has a language model and begins from stage 1."""
    content = {
        "stage": stage,
        "output": str(place / f"stage{stage}"),
        "data": {"train": {"folder": str(place / "pictures")}},
        "encoder": {"kind": "transformers", "weights": f"folder:{place / 'clip'}"},
        "train": {"steps": 3, "batch_size": 2},
    }
    if stage == 1:
        content["bridge"] = {"bert": f"folder:{place / 'bert'}", "queries": 4, "shared_width": 8}
    else:
        content["init"] = {"from": str(place / "stage1")}
        content["llm"] = {"weights": f"folder:{place / 'llama'}", "prompt": {"before": "A picture of:"}}
    return RunConfig.model_validate({**content, **values})


def asking_config(place):
    """The config of a stage 2 that was trained with questions, into `asked`."""
    prompt = {"before": "Look.", "after": " Q: {question} A:"}
    llm = {"weights": f"folder:{place / 'llama'}", "prompt": prompt}
    return tiny_config(place, 2, output=str(place / "asked"), bridge={"instruct": True}, llm=llm)


def save_stage(place, stage, *, config=None, precision="float32", seed=0, **provenance):
    """Write the run folder of a stage, with its bridge in it."""
    config = config or tiny_config(place, stage)
    encoder = build_encoder(config.encoder, CPU)
    towers, prompt = {"encoder": identify(encoder)}, None
    if config.llm is not None:
        prompt = Prompt(before=config.llm.prompt.before, after=config.llm.prompt.after)
        towers["llm"] = identify(build_llm(config.llm, prompt, CPU))
    tokenizer = QFormerTokenizer(place / "bert")
    sizes = BridgeSizes(
        vision_width=encoder.width,
        width=16,
        layers=3,
        heads=4,
        feed_forward_width=32,
        queries=4,
        vocabulary=tokenizer.vocabulary,
        positions=64,
        shared_width=8,
    )
    if stage == 2:
        sizes = replace(sizes, text=config.bridge.instruct, lm_head=False, shared_width=None, language_width=16)
    bridge = Bridge(sizes)
    redraw(bridge, seed)
    if bridge.heads is not None:
        bridge.heads.temperature.data.fill_(0.07)
    record = {
        "stage": stage,
        "towers": {name: vars(tower) for name, tower in towers.items()},
        "prompt": None if prompt is None else prompt.as_json(),
        "config": config.model_dump(mode="json"),
        "precision": precision,
        "step": 3,
        **provenance,
    }
    folder = Path(config.output)
    write_bridge(BridgeFile(sizes, dict(bridge.state_dict()), record), folder / "bridge", save_tokenizer=tokenizer.save)
    return folder


def tiny_stages(place):
    """`place` with pictures, towers, runs of both stages, `stage1` and `stage2`, and one with questions, `asked`."""
    tiny_clip_folder(place / "clip")
    tiny_bert_folder(place / "bert")
    tiny_llama_folder(place / "llama")
    tiny_pictures(place / "pictures")
    save_stage(place, 1)
    save_stage(place, 2)
    save_stage(place, 2, config=asking_config(place))
    return place


def tiny_pictures(folder, count=5):
    """Pictures of coloured noise of several sizes."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    paths = []
    for number in range(count):
        pixels = torch.randint(0, 256, (36 + number, 40, 3), generator=generator, dtype=torch.uint8)
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels.numpy()).save(paths[-1])
    return paths
