"""Which re-ranking a bridge is used with, as its folder keeps it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from isthmus.models.ranking import Ranking


@dataclass(frozen=True)
class ChosenRanking:
    """A re-ranking; `chosen_on` names the pictures that its weight was chosen on.

    None: nobody chose it, it is the default.
    """

    ranking: Ranking = field(default_factory=Ranking)
    chosen_on: str | None = None

    @staticmethod
    def of(provenance: Mapping[str, Any]) -> "ChosenRanking":
        """What a model folder says, or the default in all that it does not say."""
        stored, default = provenance.get("ranking") or {}, Ranking()
        weight, rule = float(stored.get("weight", default.weight)), stored.get("rule", default.rule)
        return ChosenRanking(Ranking(weight, rule, stored.get("shortlist", default.shortlist)), stored.get("chosen_on"))

    def as_json(self) -> dict[str, Any]:
        """What `of` reads under `ranking`."""
        return {**asdict(self.ranking), "chosen_on": self.chosen_on}
