"""Plain and compiled verbs side by side, as JSON: a program of its own, since checked signatures cannot be traced."""

import json
import sys

import torch

from isthmus.qformer.compiled import compile_verbs
from isthmus.qformer.layer import Dropouts
from isthmus.qformer.qformer import QFormer
from isthmus.records import BridgeSizes, Text

SIZES = BridgeSizes(
    vision_width=6, width=8, layers=3, heads=2, feed_forward_width=12, vocabulary=19, positions=16, queries=2
)


def build():
    generator = torch.Generator().manual_seed(0)
    qformer = QFormer(SIZES, Dropouts(0.0, 0.0, 0.0)).double()
    with torch.no_grad():
        for parameter in qformer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return qformer


def results(qformer, lengths):
    generator = torch.Generator().manual_seed(1)
    width = max(lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    text = Text(torch.randint(1, 19, (len(lengths), width), generator=generator) * mask, mask)
    patches = torch.randn(len(lengths), 4, 6, generator=generator, dtype=torch.float64)
    qformer.zero_grad()
    image = qformer.encode_image(patches)
    fused = qformer.fuse(text, image.memory.select(torch.tensor([2, 0, 2])))
    told = qformer.decode(text, image.prefix) * mask[..., None]
    total = sum(value.square().sum() for value in (image.states, qformer.encode_text(text), fused, told))
    total.backward()
    return {"value": total.detach()} | {n: p.grad for n, p in qformer.named_parameters() if p.grad is not None}


def main():
    plain, qformer, graphs = build(), build(), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compile_verbs(qformer, backend=backend)
    with torch.no_grad():
        qformer.eval().encode_text(Text(torch.ones(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool)))
    in_evaluation, furthest = len(graphs), 0.0
    qformer.train(), plain.train()
    for lengths in ((5, 2, 4), (3, 3, 3), (6, 1, 2)):
        got, expected = results(qformer, lengths), results(plain, lengths)
        assert got.keys() == expected.keys()
        apart = [
            ((got[name] - each).abs().max() / each.abs().max().clamp(min=1)).item() for name, each in expected.items()
        ]
        furthest = max(furthest, *apart)
    names = list(qformer.state_dict()) == list(plain.state_dict())
    outcome = {"evaluation": in_evaluation, "graphs": len(graphs), "furthest": furthest, "names": names}
    sys.stdout.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main()
