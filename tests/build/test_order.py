"""What a folder says of its re-ranking is one thing, whoever asks."""

from isthmus.build.order import Order
from isthmus.models.ranking import Ranking


def test_a_folder_says_how_it_ranks_or_the_default_does():
    assert Order.of({}) == Order(Ranking(), None)
    stored = {"weight": 1.0, "rule": "original", "shortlist": 8, "chosen_on": "here", "grid": []}
    assert Order.of({"ranking": stored}) == Order(Ranking(1.0, "original", 8), "here")


def test_what_a_folder_does_not_say_is_the_default():
    assert Order.of({"ranking": {"weight": 2}}) == Order(Ranking(2.0))
    assert Order.of({"ranking": None}) == Order()


def test_what_is_kept_is_read_again():
    order = Order(Ranking(0.5, "log_odds", 4), "elsewhere")
    assert Order.of({"ranking": order.as_json()}) == order
