"""Where the loss of a caption is read off a language model's states."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from isthmus.language.llm import Target


@dataclass(frozen=True)
class Labels:
    """The K tokens that a loss is taken of: state `first` + t of a row predicts its token t.

    `cells` are their places in `mask`, counted through (B T) row after row; `ids` are the tokens there.
    """

    first: int
    mask: Bool[Tensor, "B T"]
    cells: Int[Tensor, " K"]
    ids: Int[Tensor, " K"]

    def states(self) -> Int[Tensor, " K"]:
        """Which states predict them, counted through (B S) row after row: a row is `first` longer than its tokens."""
        return self.cells + (self.cells // self.mask.shape[1] + 1) * self.first

    def row_sums(self, losses: Float[Tensor, " K"]) -> Float[Tensor, " B"]:
        """Each row's sum of its labels' losses."""
        return losses.new_zeros(self.mask.numel()).scatter(0, self.cells, losses).view_as(self.mask).sum(1)


def place_labels(target: Target, first: int) -> Labels:
    """Find a caption's tokens and the states that predict them.

    How many there are was counted on the host: nothing here waits for the device.
    """
    cells = target.mask.flatten().nonzero_static(size=target.count)[:, 0]
    return Labels(first, target.mask, cells, target.ids.flatten().index_select(0, cells))
