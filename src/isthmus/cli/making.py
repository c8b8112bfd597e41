"""The commands that make and score a bridge, and their help; torch is imported only when one runs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from isthmus.cli.options import (
    Config,
    DryRun,
    Estimate,
    Json,
    Metrics,
    NumBeams,
    Overrides,
    RankingRule,
    Stage,
    Target,
    examples,
)

app = typer.Typer()


@app.command(
    short_help="Train a bridge: stage 1, stage 2, or both.",
    epilog=examples(
        "isthmus train recipes/own-folder.yaml data.train.folder=pictures",
        "isthmus train recipes/own-folder.yaml data.train.folder=pictures --estimate",
        "isthmus train recipes/own-folder.yaml stage2.train.steps=100 --stage 2",
    ),
)
def train(config: Config, overrides: Overrides = None, stage: Stage = None, estimate: Estimate = False) -> None:
    """Train a bridge: stage 1 against text, stage 2 through a frozen language model, or one after the other.

    Fills the feature store first, where the file names one. Of a file of both stages, a stage that is done is not
    done again. A run that was stopped goes on from its last checkpoint.
    """
    from isthmus.cli import train as command

    (command.run_estimate if estimate else command.run_train)(config, overrides or [], stage=stage)


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
        "isthmus evaluate runs/stage2 --metrics coco --num-beams 5",
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
    num_beams: NumBeams = 1,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest caption; as long as trained.", min=1)] = None,
    json: Json = False,
) -> None:
    """Score a run on held-out pictures, and write evaluation.json into its folder.

    Stage 1: retrieval by ITC and re-ranked by ITM; stage 2: loss with right and shuffled pictures; captions in both.
    """
    from isthmus.cli.evaluate import Asked, run_evaluate

    asked = Asked(choose_ranking, ranking, metrics or [], num_beams, max_new_tokens)
    run_evaluate(run, overrides or [], asked, as_json=json)


@app.command(
    short_help="Weights of LAVIS and transformers in and out.",
    epilog=examples(
        "isthmus convert hub:Salesforce/blip2-opt-2.7b models/blip2-opt",
        "isthmus convert blip2_pretrained.pth models/stage1 --encoder hub:Salesforce/blip2-itm-vit-g "
        "--tokenizer hub:google-bert/bert-base-uncased",
        "isthmus convert runs/own/stage2 exported --to transformers",
    ),
)
def convert(
    source: Annotated[str, typer.Argument(help="A folder of transformers, a .pth file of LAVIS, or isthmus's own.")],
    output: Annotated[Path, typer.Argument(help="The folder to write.")],
    to: Target = None,
    encoder: Annotated[str | None, typer.Option(help="Address of the image encoder, where SOURCE has none.")] = None,
    hidden_layer: Annotated[int | None, typer.Option(help="Its layer that gives the patches; CLIP's is -2.")] = None,
    llm: Annotated[
        str | None, typer.Option("--llm", help="Address of the language model, where SOURCE has none.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Address of the Q-Former's own, where SOURCE has none.")] = None,
    json: Json = False,
) -> None:
    """Convert weights: of transformers or LAVIS into isthmus's own folder, and from there back to transformers.

    Towers are not copied into isthmus's folder: it names their addresses and fingerprints.
    """
    from isthmus.build.imported import Towers
    from isthmus.cli.convert import run_convert

    run_convert(source, output, Towers(encoder, hidden_layer, llm, tokenizer), to=to, as_json=json)


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
    precision: Annotated[
        Literal["auto", "bf16", "fp32"], typer.Option(help="What is computed in; auto: bf16 where it is native.")
    ] = "auto",
) -> None:
    """Guided first run: real pictures, real frozen models, both stages, scored on an artist never seen.

    What is there already is not done again, and training that was stopped goes on.
    """
    from isthmus.quickstart.work import parse_work

    work = parse_work(budget, steps)  # before torch is loaded
    from isthmus.cli.quickstart import run_quickstart

    run_quickstart(work, output, seed=seed, development=development, precision=precision)
