"""The commands and their help; torch is imported only when one runs."""

from pathlib import Path
from typing import Annotated

import typer

from isthmus.cli import config as config_commands
from isthmus.cli.ending import EXIT_CODES
from isthmus.cli.options import (
    AnyImages,
    BatchSize,
    Config,
    Device,
    DryRun,
    Encoder,
    Existing,
    Images,
    Json,
    Llm,
    Metrics,
    Models,
    Overrides,
    Precision,
    RankingRule,
    Stage,
    Writer,
    examples,
)

app = typer.Typer(
    help="Join a frozen image encoder to a frozen language model with a small trained bridge (BLIP-2).",
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: loading rich takes longer than all the rest
)
app.add_typer(config_commands.app, name="config", short_help="What a recipe can say, and what one says.")


def _show_version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"isthmus {version('isthmus')}")
        raise typer.Exit
    return wanted


@app.callback()
def isthmus(
    wants_version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Join a frozen image encoder to a frozen language model with a small trained bridge (BLIP-2)."""


@app.command(
    short_help="Train a bridge: stage 1, stage 2, or both.",
    epilog=examples(
        "isthmus train recipes/own-folder.yaml data.train.folder=pictures",
        "isthmus train recipes/own-folder.yaml stage2.train.steps=100 --stage 2",
    ),
)
def train(config: Config, overrides: Overrides = None, stage: Stage = None) -> None:
    """Train a bridge: stage 1 against text, stage 2 through a frozen language model, or one after the other.

    Fills the feature store first, where the file names one. Of a file of both stages, a stage that is done is not
    done again, and one that was stopped starts again.
    """
    from isthmus.cli.train import run_train

    run_train(config, overrides or [], stage=stage)


@app.command(
    short_help="Fill the feature store of a recipe.",
    epilog=examples("isthmus features recipes/own-folder.yaml data.train.folder=pictures --dry-run"),
)
def features(config: Config, overrides: Overrides = None, dry_run: DryRun = False, json: Json = False) -> int:
    """Encode the pictures of a recipe into its feature store, without training.

    Says first how large the store becomes. Pictures that are stored are not encoded again. One that cannot be read is
    left out where the recipe lets it pass (exit code 3).
    """
    from isthmus.cli.features import run_features

    return run_features(config, overrides or [], dry_run=dry_run, as_json=json)


@app.command(
    short_help="Score a run on held-out pictures.",
    epilog=examples(
        "isthmus evaluate runs/stage1 data.evaluation.folder=pictures data.evaluation.metadata=held-out.jsonl",
        "isthmus evaluate runs/stage1 data.evaluation.metadata=development.jsonl --choose-ranking",
        "isthmus evaluate runs/stage2 --metrics coco",
    ),
)
def evaluate(
    run: Annotated[Path, typer.Argument(help="The folder of a training run.")],
    overrides: Overrides = None,
    choose_ranking: Annotated[
        bool, typer.Option("--choose-ranking", help="Stage 1: choose re-ranking's weight on these pictures; keep it.")
    ] = False,
    ranking: RankingRule = None,
    metrics: Metrics = None,
    json: Json = False,
) -> None:
    """Score a run on held-out pictures, and write evaluation.json into its folder.

    Stage 1: retrieval by ITC and re-ranked by ITM; stage 2: loss with right and shuffled pictures; captions in both.
    """
    from isthmus.cli.evaluate import run_evaluate

    asked = metrics or []
    run_evaluate(run, overrides or [], choose_ranking=choose_ranking, rule=ranking, metrics=asked, as_json=json)


@app.command(
    short_help="Write captions of pictures and folders.",
    epilog=examples(
        "isthmus caption boat.jpg --model runs/quickstart",
        "isthmus caption pictures --model runs/own/stage2 --output captions.jsonl",
        "isthmus caption pictures --model runs/own/stage2 --sidecar --existing append --num-beams 5",
    ),
)
def caption(
    images: Images,
    model: Models = None,
    output: Annotated[Path | None, typer.Option(help="A file of JSON lines to write or to go on with.")] = None,
    sidecar: Annotated[bool, typer.Option("--sidecar", help="Write a/1.txt beside a/1.jpg.")] = False,
    existing: Existing = "skip",
    prefix: Annotated[str, typer.Option(help="Put before each caption, as it is.")] = "",
    suffix: Annotated[str, typer.Option(help="Put after each caption, as it is.")] = "",
    prompt: Annotated[str | None, typer.Option(help="Text between picture and caption, for the trained one.")] = None,
    by: Writer = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest caption, in tokens.")] = 30,
    min_new_tokens: Annotated[int, typer.Option(help="Shortest caption, in tokens.")] = 0,
    num_beams: Annotated[int, typer.Option(help="Beams to search; 1 is greedy.")] = 1,
    temperature: Annotated[float, typer.Option(help="Above 0, captions are drawn; 0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens of this total probability.")] = 1.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1, repeated tokens are less likely.")] = 1.0,
    length_penalty: Annotated[float, typer.Option(help="Above 1, beams prefer long captions.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Key of what is drawn.")] = 0,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    dtype: Precision = "auto",
    encoder: Encoder = None,
    llm: Llm = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> int:
    """Write captions of pictures and folders: to stdout, into one file, or beside each picture.

    A run that was stopped goes on where it was when the same command is given again. A picture that cannot be read
    is named and left out (exit code 3).
    """
    from isthmus.cli.caption import Asked, Target, run_caption
    from isthmus.cli.inputs import Loading
    from isthmus.language.llm import Decoding

    decoding = Decoding(
        max_new_tokens, min_new_tokens, num_beams, temperature, top_p, repetition_penalty, length_penalty, seed
    )
    loading, asked = (
        Loading(model, device, dtype, encoder, llm),
        Asked(prompt, by, batch_size, decoding, prefix, suffix),
    )
    return run_caption(images, loading, asked, Target(output, sidecar, existing, dry_run, json))


@app.command(
    short_help="Which of some texts fits a picture best.",
    epilog=examples('isthmus match boat.jpg "a red boat" "a blue car" --model runs/quickstart'),
)
def match(
    image: Annotated[Path, typer.Argument(help="A picture.")],
    texts: Annotated[list[str], typer.Argument(metavar="TEXT", help="Texts to compare with it.")],
    model: Models = None,
    device: Device = "auto",
    dtype: Precision = "auto",
    encoder: Encoder = None,
    json: Json = False,
) -> None:
    """Score texts against a picture, the best first: cosine (ITC), probability of a match (ITM), both together."""
    from isthmus.cli.inputs import Loading
    from isthmus.cli.match import run_match

    run_match(image, texts, Loading(model, device, dtype, encoder), as_json=json)


@app.command(
    short_help="Vectors of pictures and texts, for search.",
    epilog=examples(
        "isthmus embed pictures --texts captions.txt --model runs/quickstart --output embeddings.safetensors"
    ),
)
def embed(
    output: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    images: AnyImages = None,
    texts: Annotated[Path | None, typer.Option(help="A file with a text a line.")] = None,
    model: Models = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    dtype: Precision = "auto",
    encoder: Encoder = None,
    json: Json = False,
) -> int:
    """Embed pictures and texts in the space of ITC: the cosine of a pair is the largest of the picture's rows.

    Writes `images` (pictures, queries, width) and `texts` (texts, width), with their names in the metadata.
    """
    from isthmus.cli.embed import run_embed, tell_embedded
    from isthmus.cli.inputs import Loading
    from isthmus.tasks.embeddings import EmbeddingFile

    place = EmbeddingFile(output, overwrite=overwrite)
    loading = Loading(model, device, dtype, encoder)
    shapes, broken = run_embed(images or [], texts, loading, place, batch_size=batch_size)
    return tell_embedded(output, shapes, broken, as_json=json)


@app.command(
    short_help="Guided first run on real pictures.",
    epilog=examples("isthmus quickstart --budget 40m --output runs/first"),
)
def quickstart(
    budget: Annotated[str, typer.Option(help="Time for both stages and all around them, e.g. 15m, 40m, 2h.")] = "15m",
    steps: Annotated[
        str | None, typer.Option(help="Fixed work instead: stage-1 and stage-2 steps, e.g. 360+240.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path("runs/quickstart"),
    seed: Annotated[int, typer.Option(help="Key of every random choice.", min=0)] = 0,
    development: Annotated[
        bool, typer.Option(help="Train without the development artist and score on it alone.")
    ] = False,
) -> None:
    """Guided first run: real pictures, real frozen models, both stages, scored on an artist never seen.

    What is there already is not done again; Ctrl-C loses at most the phase it stopped.
    """
    from isthmus.quickstart.work import parse_work

    work = parse_work(budget, steps)  # before torch is loaded
    from isthmus.cli.quickstart import run_quickstart

    run_quickstart(work, output, seed=seed, development=development)
