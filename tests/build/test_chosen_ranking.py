"""What a folder says of its re-ranking is one thing, whoever asks."""

from isthmus.build.chosen_ranking import ChosenRanking
from isthmus.models.ranking import Ranking


def test_a_folder_says_how_it_ranks_or_the_default_does():
    assert ChosenRanking.of({}) == ChosenRanking(Ranking(), None)
    stored = {"weight": 1.0, "rule": "original", "shortlist": 8, "chosen_on": "here", "grid": []}
    assert ChosenRanking.of({"ranking": stored}) == ChosenRanking(Ranking(1.0, "original", 8), "here")


def test_what_a_folder_does_not_say_is_the_default():
    assert ChosenRanking.of({"ranking": {"weight": 2}}) == ChosenRanking(Ranking(2.0))
    assert ChosenRanking.of({"ranking": None}) == ChosenRanking()


def test_what_is_kept_is_read_again():
    chosen = ChosenRanking(Ranking(0.5, "log_odds", 4), "elsewhere")
    assert ChosenRanking.of({"ranking": chosen.as_json()}) == chosen
