"""The commands that use a bridge, and their help; torch is imported only when one runs."""

from pathlib import Path
from typing import Annotated

import typer

from isthmus.cli.options import (
    AnyImages,
    BatchSize,
    Device,
    DryRun,
    Encoder,
    Existing,
    Images,
    Json,
    Llm,
    Models,
    NumBeams,
    Precision,
    Writer,
    examples,
)

app = typer.Typer()


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
    num_beams: NumBeams = 1,
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
    short_help="Answers to questions about a picture.",
    epilog=examples('isthmus ask boat.jpg "What colour is the boat?" "Is there a sail?" --model runs/asked'),
)
def ask(
    image: Annotated[Path, typer.Argument(help="A picture.")],
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION", help="What to ask about it.")],
    model: Models = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 30,
    num_beams: NumBeams = 1,
    device: Device = "auto",
    dtype: Precision = "auto",
    encoder: Encoder = None,
    llm: Llm = None,
    json: Json = False,
) -> None:
    """Answer questions about a picture, by a bridge that was trained with questions (bridge.instruct)."""
    from isthmus.cli.ask import run_ask
    from isthmus.cli.inputs import Loading
    from isthmus.language.llm import Decoding

    loading, decoding = Loading(model, device, dtype, encoder, llm), Decoding(max_new_tokens, num_beams=num_beams)
    run_ask(image, questions, loading, decoding, as_json=json)


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
    short_help="Published weights against published numbers.",
    epilog=examples("isthmus verify blip2-opt-2.7b pictures --model models/opt"),
)
def verify(
    weights: Annotated[str, typer.Argument(help="Which weights these are, e.g. blip2-opt-2.7b.")],
    pictures: Annotated[Path, typer.Argument(help="A folder with merlion.png or demo.jpg, as the check needs.")],
    model: Models = None,
    device: Device = "auto",
    dtype: Precision = "auto",
    json: Json = False,
) -> None:
    """Caption and score the pictures that LAVIS and transformers test their weights on, and compare.

    Says of each check what was published and what came out; ends with 2 where one differs.
    """
    from isthmus.cli.inputs import Loading
    from isthmus.cli.verify import run_verify

    run_verify(weights, pictures, Loading(model, device, dtype), as_json=json)


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
