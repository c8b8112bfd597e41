"""How figures are shown on a terminal."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import transformers
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.logging import RichHandler
from rich.table import Table

from isthmus.tasks.figures import GAP

console = Console(highlight=False)

_ORDERS = {"ITC": None, "re-ranked": "reranked", "original's sum": "original_sum"}


def quiet_libraries() -> None:
    """Leave the terminal to this program: other libraries' bars and notices are off, its own notices are shown."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="torch.utils.data")
    log = logging.getLogger("isthmus")
    log.setLevel(logging.INFO)
    if not log.handlers:
        log.addHandler(RichHandler(console=Console(stderr=True), show_time=False, show_level=False, show_path=False))


def show_figures(figures: dict[str, Any]) -> None:
    """Print what an evaluation found: retrieval, or losses and captions; nothing for no figures."""
    if not figures:
        return
    table = retrieval_table if "text_to_image" in figures else stage2_table
    console.print(table({"held-out pictures": figures}))
    for line in _notes(figures):
        console.print(line, markup=False)
    show_captions(figures)


def show_captions(figures: dict[str, Any], *, count: int = 8) -> None:
    """Print the first captions of a set, in its own order."""
    console.print("first captions (true -> said):")
    for said, true, *asked in figures["captions"][:count]:
        console.print(f"  {'  '.join([*asked, true])}  ->  {said}", markup=False)


def retrieval_table(sets: dict[str, dict[str, Any]]) -> Group:
    """Recalls and ranks both ways by each order that there is, a table for each named set."""
    return Group(*(_retrieval(name, figures) for name, figures in sets.items()))


def _retrieval(name: str, figures: dict[str, Any]) -> Table:
    sizes = f"{figures['candidates']} pictures, {figures.get('texts', figures['candidates'])} texts"
    exact = f"the Q-Former's own captions: {figures['exact_match']:.1f} % exact"
    table = _table(
        f"Retrieval, {name}: {sizes}", f"R@K in %; mean and median rank; {exact}", left=("direction", "order")
    )
    for column in ("R@1", "95 %", "R@5", "R@10", "mean", "median"):
        table.add_column(column, justify="right")
    for direction in ("text_to_image", "image_to_text"):
        for order, key in _ORDERS.items():
            recalls = figures if key is None else figures.get(key)
            if recalls is not None:
                table.add_row(direction.replace("_", " "), order, *_recall_cells(figures, key, direction))
    return table


def _recall_cells(figures: dict[str, Any], key: str | None, direction: str) -> list[str]:
    recalls, bounds = figures, figures.get("confidence", {})
    if key is not None:
        recalls, bounds = recalls[key], bounds.get(key, {})
    found = recalls[direction]
    interval = bounds.get(direction, {}).get("R@1")
    ranks = [f"{found[rank]:.1f}" if rank in found else "" for rank in ("mean_rank", "median_rank")]
    return [f"{found['R@1']:.1f}", _interval(interval), f"{found['R@5']:.1f}", f"{found['R@10']:.1f}", *ranks]


def _interval(bounds: list[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.1f}-{bounds[1]:.1f}"


def _table(title: str, caption: str, *, left: Sequence[str]) -> Table:
    """An empty table, narrow enough for 80 columns; `left` are the columns of words."""
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in left:
        table.add_column(column, no_wrap=True)
    return table


def _notes(figures: Mapping[str, Any]) -> Iterator[str]:
    """What stands under the tables: which ranking, how its weight was chosen, and COCO's metrics."""
    if ranking := figures.get("ranking"):
        yield _ranking_line(ranking)
        for row in ranking.get("grid", []):
            yield f"  weight {row['weight']:g}: text to image R@1 {row['text_to_image']['R@1']:.1f} " + (
                f"R@5 {row['text_to_image']['R@5']:.1f}"
            )
    yield f"captions in normal form: {figures['normalised_match']:.1f} % right"
    if coco := figures.get("coco"):
        if "missing" in coco:
            yield coco["missing"]
        else:
            yield ", ".join(f"{name} {value:.1f}" for name, value in coco.items() if isinstance(value, float)) + (
                f" (x 100; {coco['empty']} of {coco['pictures']} captions without a word)"
            )


def _ranking_line(ranking: Mapping[str, Any]) -> str:
    if ranking["rule"] == "original":
        how = "cosine + ITM's logit"
    else:
        how = f"cosine / temperature + {ranking['weight']:g} x ITM's log-odds"
    chosen = ranking["chosen_on"]
    if "grid" in ranking:
        origin = "the weight was chosen on these very pictures, so the re-ranked scores flatter it"
    elif chosen is None:
        origin = "the default weight, chosen on no pictures"
    else:
        origin = f"the weight was chosen on {chosen}"
    return f"re-ranked: {how}, first {ranking['shortlist']} of each query; {origin}"


def stage2_table(sets: dict[str, dict[str, Any]]) -> Table:
    """Loss with right and shuffled pictures, and exact captions, for named sets."""
    table = _table("Through the language model", GAP, left=("set",))
    for column in ("pictures", "loss right", "shuffled", "gap, nats", "exact, %", "95 %"):
        table.add_column(column, justify="right")
    for name, figures in sets.items():
        loss = figures["loss"]
        numbers = [f"{loss['right']:.2f}", f"{loss['shuffled']:.2f}", f"{loss['gap']:.2f}"]
        interval = _interval(figures.get("confidence", {}).get("exact_match"))
        table.add_row(name, str(figures["pictures"]), *numbers, f"{figures['exact_match']:.1f}", interval)
    return table
