"""How figures are shown on a terminal."""

import logging
import warnings
from typing import Any

import transformers
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

console = Console(highlight=False)


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
    show_captions(figures)


def show_captions(figures: dict[str, Any], *, count: int = 8) -> None:
    """Print the first captions of a set, in its own order."""
    console.print("first captions (true -> said):")
    for said, true in figures["captions"][:count]:
        console.print(f"  {true}  ->  {said}", markup=False)


def retrieval_table(sets: dict[str, dict[str, Any]]) -> Table:
    """R@1, R@5 and R@10 both ways for named sets, in per cent."""
    table = Table(title="Retrieval by ITC, and captions by the Q-Former itself, %")
    for column in ("set", "candidates", "direction", "R@1", "R@5", "R@10", "exact captions"):
        table.add_column(column, justify="left" if column in ("set", "direction") else "right")
    for name, figures in sets.items():
        for direction in ("text_to_image", "image_to_text"):
            recalls = [f"{figures[direction][k]:.1f}" for k in ("R@1", "R@5", "R@10")]
            exact = f"{figures['exact_match']:.1f}"
            table.add_row(name, str(figures["candidates"]), direction.replace("_", " "), *recalls, exact)
    return table


def stage2_table(sets: dict[str, dict[str, Any]]) -> Table:
    """Loss with right and shuffled pictures, and exact captions, for named sets."""
    table = Table(title="Through the language model")
    for column in ("set", "pictures", "loss right", "loss shuffled", "gap, nats", "exact, %"):
        table.add_column(column, justify="left" if column == "set" else "right")
    for name, figures in sets.items():
        loss = figures["loss"]
        numbers = [f"{loss['right']:.2f}", f"{loss['shuffled']:.2f}", f"{loss['gap']:.2f}"]
        table.add_row(name, str(figures["pictures"]), *numbers, f"{figures['exact_match']:.1f}")
    return table
