"""Training checkpoints of a tiny bridge, other ones for every step, and what they are compared by."""

import hashlib
import json
from dataclasses import asdict

import torch

from bridges import redraw, tiny_bridge
from isthmus.checkpoints.training import TrainingFile
from isthmus.fingerprint import tensors_fingerprint
from isthmus.records import BridgeFile

TOKENIZER = "vocab.txt"
NAMES = ("config.json", "model.safetensors", "optimizer.safetensors", "random.safetensors", "training.json", TOKENIZER)


def training_file(step, *, random_bytes=64):
    """The checkpoint of a step: every number in it depends on the step."""
    bridge = tiny_bridge().float()
    redraw(bridge, seed=step)
    generator = torch.Generator().manual_seed(step)
    optimizer = {}
    for name, parameter in bridge.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            optimizer[f"{name}.{moment}"] = torch.randn(parameter.shape, generator=generator)
        optimizer[f"{name}.step"] = torch.tensor(float(step))
    states = torch.randint(0, 256, (random_bytes,), generator=generator, dtype=torch.uint8)
    file = BridgeFile(bridge.sizes, {n: t.clone() for n, t in bridge.state_dict().items()}, {"stage": 1, "step": step})
    return TrainingFile(file, optimizer, {"torch.rank0": states}, {"step": step, "rate": step / 3, "seen": [1, step]})


def print_of(file):
    """All that a checkpoint holds, bit by bit, as one string."""
    sums = [tensors_fingerprint(tensors) for tensors in (file.bridge.tensors, file.optimizer, file.random)]
    rest = json.dumps([asdict(file.bridge.sizes), file.bridge.provenance, file.position], sort_keys=True)
    return hashlib.sha256((rest + "".join(sums)).encode()).hexdigest()


def save_tokenizer(folder):
    (folder / TOKENIZER).write_text("[PAD]\n[CLS]\n")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def delete(path):
    path.unlink()


DAMAGES = (truncate, empty, flip, delete)
