"""Config → the module that is trained: stage 1's objectives or stage 2's frozen language model, around a bridge."""

from collections.abc import Iterable

import torch

from isthmus import distributed
from isthmus.build.bridge import BuiltBridge, fresh_bridge
from isthmus.build.going_on import PROJECTION, read_start, stage1_from, stage2_from
from isthmus.build.workshop import Tower, Workshop
from isthmus.config.model import BridgeConfig, LanguageConfig
from isthmus.config.run import RunConfig
from isthmus.config.train import TrainConfig
from isthmus.data.text import normalise
from isthmus.language.prompts import Prompt
from isthmus.models.projection import start_least_squares, start_random
from isthmus.models.stage1 import Stage1, Stage1Options
from isthmus.models.stage2 import Stage2
from isthmus.randomness import permutation
from isthmus.records import Batch, Source
from isthmus.train.optimizer import Rates


def build_stage1(config: RunConfig, workshop: Workshop) -> tuple[Stage1, BuiltBridge]:
    """A bridge under the three objectives: fresh, or gone on from a folder.

    Raises `CheckpointError` when `init.from` is no folder with a text half, or one of another encoder.
    """
    if config.init is None:
        built = fresh_bridge(config.bridge, workshop.encoder.width, seed=config.seed)
    else:
        built = stage1_from(read_start(config.init, workshop.tower), config.bridge, seed=config.seed)
    options = Stage1Options(**config.objectives.model_dump())
    return Stage1(built.bridge, dec=built.tokenizer.dec, options=options), built


def build_stage2(config: RunConfig, source: Source, workshop: Workshop) -> tuple[Stage2, BuiltBridge, Tower]:
    """A bridge that is there before a frozen language model; a new projection still has to be started.

    Raises `CheckpointError` when `init.from` is no model folder, or one of another encoder.
    """
    assert config.llm is not None
    assert config.init is not None
    start = read_start(config.init, workshop.tower)  # before the language model is loaded
    llm, tower = workshop.language_model(config.llm, make_prompt(config.llm, source, seed=config.seed))
    built = stage2_from(start, config.bridge, tower, language_width=llm.width)
    return Stage2(built.bridge, llm), built, tower


def make_prompt(config: LanguageConfig, source: Source, *, seed: int) -> Prompt:
    """The configured prompt, with as many example lines of different training captions as it asks for.

    Where captions answer questions, a line has both.
    """
    fields = config.prompt.model_dump()
    wanted = fields.pop("examples")
    examples: dict[tuple[str, ...], None] = {}
    for index in permutation(len(source), seed).tolist():
        if len(examples) == wanted:
            break
        example = source[index]
        examples[tuple(map(normalise, (example.captions[0], *example.questions[:1])))] = None
    captions, *questions = zip(*examples, strict=True) if examples else [()]
    return Prompt(**fields).with_examples(captions, *questions)


def starts_projection(built: BuiltBridge) -> bool:
    """Whether the projection is new, and not taken from a folder."""
    return not built.fresh.isdisjoint(PROJECTION)


def learning_rates(train: TrainConfig, built: BuiltBridge) -> Rates:
    """Peak rates by how a tensor starts; a projection that was taken learns like all that was taken."""
    new = train.lr_new or train.lr
    return Rates(train.lr, new, train.lr_projection or (new if starts_projection(built) else train.lr))


@torch.no_grad()
def start_projection(stage: Stage2, config: BridgeConfig, batches: Iterable[Batch], *, seed: int) -> None:
    """Start the projection at the scale of the language model's embeddings; least squares looks at some batches.

    All processes fit on the rows of all, so that their number changes nothing. Leaves the stage in evaluation mode: the
    fit must not see dropout.
    """
    projection = stage.bridge.projection
    assert projection is not None
    scale = stage.llm.embedding_scale()
    stage.eval()
    if config.projection == "random":
        start_random(projection, scale=scale, seed=seed)
        return
    device = projection.weight.device
    states, targets = [], []
    for host in batches:
        batch = host.to(device)
        target = stage.llm.tokenize(batch.captions).to(device)
        weight = target.mask[..., None].float()
        means = (stage.llm.embed(target.ids).float() * weight).sum(1) / weight.sum(1)
        read = stage.bridge.query_states(batch.vision, batch.instruction).float()
        counted = torch.ones_like(batch.index, dtype=torch.bool) if batch.counted is None else batch.counted
        kept = distributed.gather(counted)
        states.append(distributed.gather(read, exact=False)[kept])
        targets.append(distributed.gather(means, exact=False)[kept])
    start_least_squares(projection, torch.cat(states), torch.cat(targets), scale=scale)
