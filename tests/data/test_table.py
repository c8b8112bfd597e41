import csv
import hashlib
import io
import pickle
from pathlib import Path

import datasets
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from isthmus.data.image import open_image
from isthmus.data.table import Columns, TableSource
from isthmus.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def png(colour):
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), colour).save(stream, "PNG")
    return stream.getvalue()


RED, BLUE = png("red"), png("blue")


def write(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)
    return str(path)


def written_by_datasets(path, images, texts):
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = {"image": [{"bytes": image, "path": None} for image in images], "text": texts}
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return str(path)


def colours(source):
    return [open_image(source[index].image).getpixel((0, 0)) for index in range(len(source))]


def test_pictures_in_the_table_are_read_when_asked_for(tmp_path):
    struct = [{"bytes": RED, "path": "a.png"}, {"bytes": BLUE, "path": None}]
    tables = [
        written_by_datasets(tmp_path / "datasets.parquet", [RED, BLUE], ["a", "b"]),
        write(tmp_path / "struct.parquet", image=struct, text=["a", "b"]),
        write(tmp_path / "bytes.parquet", image=[RED, BLUE], text=["a", "b"]),
    ]
    for table in tables:
        source = TableSource(table)
        assert colours(source) == [(255, 0, 0), (0, 0, 255)]
        assert [source[index].captions for index in (0, 1)] == [("a",), ("b",)]
        assert str(source[1].image) == f"{table}, row 1"
        moved = pickle.loads(pickle.dumps(source[1].image))
        assert moved.read_bytes() == BLUE


def test_a_picture_is_pickled_without_the_tables_bytes(tmp_path):
    noise = [Image.effect_noise((200, 200), 50).tobytes() for _ in range(20)]
    source = TableSource(write(tmp_path / "x.parquet", image=noise, text=["x"] * 20))
    assert len(pickle.dumps([source[index].image for index in range(20)])) < 20 * 1000


def test_columns_have_other_names_and_captions_are_lists(tmp_path):
    table = write(tmp_path / "x.parquet", photo=[RED, BLUE], said=[[" one ", "two"], ["three"]], what=[7, 7])
    source = TableSource(table, columns=Columns("photo", "said", "what"))
    assert [source[index].captions for index in (0, 1)] == [("one", "two"), ("three",)]
    assert [source[index].image_id for index in (0, 1)] == ["7", "7"]


def test_rows_with_the_same_picture_are_the_same_thing(tmp_path):
    source = TableSource(write(tmp_path / "x.parquet", image=[RED, BLUE, RED, None], text=["a", "b", "c", "d"]))
    red = hashlib.sha256(RED).hexdigest()
    assert [source[index].image_id for index in range(4)] == [red, hashlib.sha256(BLUE).hexdigest(), red, "row 3"]
    with pytest.raises(DataError, match=r"x\.parquet, row 3: the picture is null; a table holds a picture's bytes"):
        open_image(source[3].image)


def test_csv_holds_paths_within_its_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.png").write_bytes(RED)
    with (tmp_path / "x.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "text"], ["sub/a.png", "None"], ["./sub/a.png", "a, b"]])
    source = TableSource(str(tmp_path / "x.csv"))
    assert colours(source) == [(255, 0, 0)] * 2
    assert [(source[index].image_id, source[index].captions) for index in (0, 1)] == [
        ("sub/a.png", ("None",)),
        ("sub/a.png", ("a, b",)),
    ]


def test_a_missing_file_is_named_unless_broken_ones_are_passed_over(tmp_path):
    (tmp_path / "x.csv").write_text("image,text\ngone.png,x\n")
    with pytest.raises(DataError, match=r"x\.csv, line 2: there is no file .*gone\.png; add the picture or remove the"):
        TableSource(str(tmp_path / "x.csv"))
    assert len(TableSource(str(tmp_path / "x.csv"), check_files=False)) == 1


def test_a_dataset_with_splits(tmp_path):
    written_by_datasets(tmp_path / "birds/data/train-00000-of-00001.parquet", [RED], ["a"])
    written_by_datasets(tmp_path / "birds/data/test-00000-of-00001.parquet", [BLUE], ["b"])
    assert colours(TableSource(f"hub:{tmp_path}/birds", "test")) == [(0, 0, 255)]
    with pytest.raises(DataError, match=r"birds: there is no split 'val'; the splits there are: train, test\."):
        TableSource(f"hub:{tmp_path}/birds", "val")


def test_a_file_has_one_split(tmp_path):
    table = write(tmp_path / "x.parquet", image=[RED], text=["x"])
    with pytest.raises(DataError, match=r"x\.parquet: there is no split 'test'; the splits there are: train\."):
        TableSource(table, "test")


def test_a_missing_column_names_those_there_are(tmp_path):
    table = write(tmp_path / "x.parquet", photo=[RED], text=["x"])
    with pytest.raises(DataError, match=r"x\.parquet: there is no column 'image'; the columns there are: photo, text"):
        TableSource(table)
    with pytest.raises(DataError, match=r"there is no column 'said'"):
        TableSource(table, columns=Columns("photo", "said"))
    with pytest.raises(DataError, match=r"there is no column 'name'"):
        TableSource(table, columns=Columns("photo", "text", "name"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, r'row 0: "text" is null; give a string or a list of strings'),
        ("", r"row 0: a caption is empty"),
        ([], r'row 0: "text" is an empty list'),
        (7, r'row 0: "text" is a number'),
        (b"x", r'row 0: "text" is of the type bytes; give a string or'),
    ],
)
def test_wrong_captions(tmp_path, text, match):
    column = pyarrow.array([text], pyarrow.string()) if text is None or text == "" else [text]
    with pytest.raises(DataError, match=r"x\.parquet, " + match):
        TableSource(write(tmp_path / "x.parquet", image=[RED], text=column))


def test_tables_that_are_none(tmp_path):
    (tmp_path / "junk.parquet").write_bytes(b"<html>")
    (tmp_path / "empty.csv").write_text("image,text\n")
    (tmp_path / "nothing.csv").write_text("")
    cases = {
        str(tmp_path / "junk.parquet"): r"junk\.parquet: the table cannot be read \(Parquet file size is",
        str(tmp_path / "empty.csv"): r"empty\.csv: the table has no row; give one with pictures and captions\.",
        str(tmp_path / "nothing.csv"): r"nothing\.csv: there is no column 'image'; the columns there are: none\.",
        write(tmp_path / "empty.parquet", image=pyarrow.array([], "binary"), text=pyarrow.array([], "string")): (
            r"empty\.parquet: the table has no row"
        ),
        str(tmp_path / "none.parquet"): r"none\.parquet: there is no such file; give the path of a table\.",
        str(tmp_path): r": this is a folder; give the path of a table in it, a file\.",
        str(tmp_path / ("x" * 300 + ".csv")): r"x\.csv cannot be looked at \(File name too long\); mend the path",
        str(tmp_path / "x.xlsx"): r"x\.xlsx: a table is a file that ends in \.parquet or \.csv, or hub:NAME@REVISION",
        "hub:@1": r"hub:@1: the name of the dataset is missing; give hub:NAME@REVISION",
        "hub:no/such@1": r"hub:no/such@1: the table cannot be read \(.*; check its name",
    }
    for table, match in cases.items():
        with pytest.raises(DataError, match=match) as caught:
            TableSource(table)
        assert "\n" not in str(caught.value)


def test_csv_is_text_and_nothing_is_guessed(tmp_path):
    for name in ("a.png", "007"):
        (tmp_path / name).write_bytes(RED)
    (tmp_path / "x.csv").write_text("image,text,id\na.png,7,007\n007,True,7\n\n./a.png,NA,007\n")
    source = TableSource(str(tmp_path / "x.csv"), columns=Columns(id="id"))
    assert [(source[index].image_id, source[index].captions) for index in range(3)] == [
        ("007", ("7",)),
        ("7", ("True",)),
        ("007", ("NA",)),
    ]
    assert source[1].image == tmp_path / "007"
    with pytest.raises(DataError, match=r"x\.csv: there is no split 'test'; the splits there are: train\."):
        TableSource(str(tmp_path / "x.csv"), "test")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"image,text\na.png,x\na.png,caf\xe9\n", r"x\.csv, line 3: the line is not UTF-8; save the file as UTF-8"),
        ("image,text\na.png,x\n".encode("utf-16"), r"x\.csv, line 1: the line is not UTF-8"),
        ("image,text\na.png,x\n".encode("utf-16-le"), r"x\.csv, line 1: the line holds NUL bytes; save the file as"),
        (b"image,text\na.png,x\0y\n", r"x\.csv, line 2: the line holds NUL bytes"),
        (b"image,text\na.png,x,y\na.png,x,y\n", r"x\.csv, line 2: the row has not as many fields as the header"),
        (b"image,text\na.png\n", r"x\.csv, line 2: the row has not as many fields as the header"),
        (b'image,text\na.png,"x\n', r"x\.csv, line 2: the row is no valid CSV \(unexpected end of data\); mend it"),
        (b"image,text,text\na.png,x,y\n", r"x\.csv: the column 'text' stands there twice; rename one of them"),
        (b"image,text\na.png,\n", r"x\.csv, line 2: a caption is empty or only white space"),
    ],
)
def test_broken_csv_is_named_by_its_line(tmp_path, content, match):
    (tmp_path / "a.png").write_bytes(RED)
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(DataError, match=match):
        TableSource(str(tmp_path / "x.csv"))


def test_broken_parquet_is_one_sentence(tmp_path):
    whole = Path(write(tmp_path / "x.parquet", image=[RED], text=["a red one"])).read_bytes()
    half, noise = whole[: len(whole) // 2], whole[:4] + bytes(60) + whole[64:]
    for content in (half, noise):
        (tmp_path / "x.parquet").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.parquet: the table cannot be read \(.*\); check its name") as caught:
            TableSource(str(tmp_path / "x.parquet"))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.parquet", "x.csv"])
def test_a_table_that_may_not_be_read(tmp_path, name, no_permission):
    (tmp_path / name).write_bytes(b"")
    no_permission(tmp_path / name)
    with pytest.raises(DataError, match=r"x\.\w+: the file cannot be read \(Permission denied\); mend it or its perm"):
        TableSource(str(tmp_path / name))


def test_paths_in_a_parquet_table_lie_in_its_folder(tmp_path):
    (tmp_path / "a.png").write_bytes(RED)
    source = TableSource(write(tmp_path / "x.parquet", image=[{"bytes": None, "path": "a.png"}], text=["x"]))
    assert colours(source) == [(255, 0, 0)]


def test_a_path_that_is_none_is_a_broken_picture(tmp_path):
    source = TableSource(write(tmp_path / "x.parquet", image=[{"bytes": None, "path": "a\0b"}], text=["x"]))
    with pytest.raises(DataError, match=r"x\.parquet, row 0: the picture is null; a table holds a picture's bytes"):
        open_image(source[0].image)


def test_a_dataset_of_the_hub_must_hold_its_pictures(tmp_path):
    write(tmp_path / "birds/train.parquet", image=["a.png"], text=["x"])
    with pytest.raises(DataError, match=r"row 0: the pictures are paths; a dataset of the Hub must hold"):
        TableSource(f"hub:{tmp_path}/birds")
