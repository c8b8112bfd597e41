"""How fast a store is filled is told, and the encoder is called no oftener than there are batches."""

import logging
import re

import pytest

from isthmus.data.workers import Workers
from isthmus.features import pace
from isthmus.features.encode import Work
from isthmus.features.extract import extract
from isthmus.features.key import Views
from isthmus.features.pace import Pace
from quadrants import FakeEncoder


def test_the_line_says_the_pace_and_the_encoders_own(monkeypatch):
    class Clock:
        now = 10.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    found = Pace(begun=clock.now)
    found.pictures = 30
    with found.encoding():
        clock.now += 3
    clock.now += 2
    assert found.line() == (
        "30 pictures encoded at 6.0 a second; the encoder alone takes 10.0 a second, 60 % of the time was its own"
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_filling_a_store_tells_the_pace_of_what_was_encoded(pictures, tmp_path, caplog, workers):
    encoder, work = FakeEncoder(), Work(batch=4, workers=Workers(workers))
    with caplog.at_level(logging.INFO):
        extract(pictures, encoder, folder=tmp_path / "store", views=Views(count=2), work=work)
    assert encoder.calls == 1 + 3 and encoder.seen == 1 + 2 * 5  # a blank picture first, then two pictures a batch
    assert re.search(r"store: 5 pictures encoded at [\d.]+ a second; the encoder alone takes [\d.]+ a s", caplog.text)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        extract(pictures, encoder, folder=tmp_path / "store", views=Views(count=2), work=work)
    assert "encoded" not in caplog.text and encoder.calls == 4
