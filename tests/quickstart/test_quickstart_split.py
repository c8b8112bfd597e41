import json

from isthmus.quickstart.artists import ARTISTS
from isthmus.quickstart.split import (
    Row,
    development_rows,
    load_split,
    training_rows,
    unseen_artist_rows,
    unseen_name_rows,
    write_metadata,
)

SPLIT = load_split()
HIDDEN, OTHER = SPLIT.unseen_names[:2]
TABLE = {
    "noto": ("apple", "pear", HIDDEN, OTHER),
    "openmoji": ("apple", HIDDEN),
    "twemoji": ("apple", "pear", OTHER),
    "emojione-v1": ("pear", HIDDEN),
}


def test_two_hundred_names_once_each_sorted():
    assert len(SPLIT.unseen_names) == len(set(SPLIT.unseen_names)) == 200
    assert list(SPLIT.unseen_names) == sorted(SPLIT.unseen_names)


def test_three_different_artists_of_the_table():
    special = {SPLIT.naming_artist, SPLIT.unseen_artist, SPLIT.development_artist}
    assert special == {"noto", "twemoji", "emojione-v1"} <= {artist.name for artist in ARTISTS}


def test_rows_of_every_part():
    seen = [Row("noto", "apple"), Row("noto", "pear"), Row("openmoji", "apple")]
    assert training_rows(TABLE, reported=False) == seen
    assert training_rows(TABLE, reported=True) == [*seen, Row("emojione-v1", "pear")]
    assert unseen_artist_rows(TABLE) == [Row("twemoji", "apple"), Row("twemoji", "pear")]
    assert unseen_name_rows(TABLE) == [Row("noto", HIDDEN), Row("noto", OTHER)]
    assert development_rows(TABLE) == [Row("emojione-v1", "pear")]


def test_a_row_names_its_picture():
    row = Row("noto", "snow-capped-mountain")
    assert row.file_name == "noto/snow-capped-mountain.png"
    assert (row.image_id, row.text) == ("noto/snow-capped-mountain", "snow capped mountain")


def test_metadata_files(tmp_path):
    written = write_metadata(TABLE, tmp_path)
    names = ["development", "train", "train-dev", "unseen-artist", "unseen-names"]
    assert sorted(written) == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{name}.jsonl" for name in names)
    lines = [json.loads(line) for line in written["development"].read_text().splitlines()]
    assert lines == [
        {"file_name": "emojione-v1/pear.png", "text": "pear", "image_id": "emojione-v1/pear"},
    ]


def test_a_credit_names_work_author_and_licence():
    twitter = next(artist for artist in ARTISTS if artist.name == "twemoji")
    assert twitter.credit == "Twitter Emoji by Twitter (CC-BY-4.0)"
