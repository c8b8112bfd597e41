"""What the parity tests share: weights in which nothing hides, and our tensors by the names that others give them.

The names are written from the files of others, for the tests alone.
"""

import torch
from torch.overrides import TorchFunctionMode

_ATTENTION_OUTPUT = {"output.dense": "output.dense", "output.norm": "output.LayerNorm"}


class Fp64(TorchFunctionMode):
    """What would be cast to fp32 is cast to fp64."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.float:
            function = torch.Tensor.double
        args = [torch.float64 if value is torch.float32 else value for value in args]
        given = {name: torch.float64 if value is torch.float32 else value for name, value in (kwargs or {}).items()}
        return function(*args, **given)


def redrawn(module, seed=0, matrices=0.1):
    """Draw every parameter from N(0, 0.1), the scales of norms around 1: zeros, ones and the like hide errors.

    `matrices` is the spread of those with two axes or more.
    """
    generator, done = torch.Generator().manual_seed(seed), set()
    with torch.no_grad():
        for part in module.modules():
            for name, parameter in part.named_parameters(recurse=False):
                if parameter in done:  # tied
                    continue
                done.add(parameter)
                spread = matrices if parameter.ndim > 1 else 0.1
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * spread
                scales = name == "weight" and "Norm" in type(part).__name__
                parameter.copy_(drawn + 1 if scales else drawn)
    return module.eval()


def original_names(sizes):
    """A stage-1 bridge's tensors by their names in the original."""
    modules = {
        "qformer.norm": "Qformer.bert.embeddings.LayerNorm",
        "qformer.memory.norm": "ln_vision",
        "qformer.text.head.dense": "Qformer.cls.predictions.transform.dense",
        "qformer.text.head.norm": "Qformer.cls.predictions.transform.LayerNorm",
        "heads.image": "vision_proj",
        "heads.text": "text_proj",
        "heads.match": "itm_head",
        **_layers(sizes, "Qformer.bert.encoder.layer", inner="self"),
    }
    single = {
        "qformer.queries": "query_tokens",
        "qformer.text.words.weight": "Qformer.bert.embeddings.word_embeddings.weight",
        "qformer.text.positions.weight": "Qformer.bert.embeddings.position_embeddings.weight",
        "qformer.text.head.bias": "Qformer.cls.predictions.bias",
        "heads.temperature": "temp",
    }
    return {**single, **_weights_and_biases(modules)}


def transformers_names(sizes):
    """A bridge's tensors by their names in `Blip2ForImageTextRetrieval`, which has no LM head and no temperature."""
    modules = {
        "qformer.norm": "qformer.layernorm",
        "qformer.memory.norm": "vision_model.post_layernorm",
        "heads.image": "vision_projection",
        "heads.text": "text_projection",
        "heads.match": "itm_head",
        **_layers(sizes, "qformer.encoder.layer", inner="attention"),
    }
    single = {
        "qformer.queries": "query_tokens",
        "qformer.text.words.weight": "embeddings.word_embeddings.weight",
        "qformer.text.positions.weight": "embeddings.position_embeddings.weight",
    }
    return {**single, **_weights_and_biases(modules)}


def _layers(sizes, prefix, *, inner):
    """The modules of all layers; `inner` is what holds query, key and value within an attention."""
    pairs = {}
    for number in range(sizes.layers):
        ours, theirs = f"qformer.layers.{number}", f"{prefix}.{number}"
        for part in ("query", "key", "value"):
            pairs[f"{ours}.self_attention.{part}"] = f"{theirs}.attention.{inner}.{part}"
        attentions = {"self_attention": "attention"}
        cross, rest = divmod(number, sizes.cross_frequency)
        if rest == 0:
            attentions["cross_attention"] = "crossattention"
            pairs[f"{ours}.cross_attention.query"] = f"{theirs}.crossattention.{inner}.query"
            pairs[f"qformer.memory.keys.{cross}"] = f"{theirs}.crossattention.{inner}.key"
            pairs[f"qformer.memory.values.{cross}"] = f"{theirs}.crossattention.{inner}.value"
        for our, their in attentions.items():
            pairs.update({f"{ours}.{our}.{a}": f"{theirs}.{their}.{b}" for a, b in _ATTENTION_OUTPUT.items()})
        for our, suffix in (("query_feed_forward", "_query"), ("text_feed_forward", "")):
            pairs[f"{ours}.{our}.up"] = f"{theirs}.intermediate{suffix}.dense"
            pairs[f"{ours}.{our}.down"] = f"{theirs}.output{suffix}.dense"
            pairs[f"{ours}.{our}.norm"] = f"{theirs}.output{suffix}.LayerNorm"
    return pairs


def _weights_and_biases(modules):
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in modules.items() for kind in ("weight", "bias")}
