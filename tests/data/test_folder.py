import json

import pytest

from isthmus.data.folder import ImageFolder
from isthmus.errors import DataError
from isthmus.records import Example


def write(folder, *lines, pictures=("a.jpg", "b.jpg")):
    for name in pictures:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"picture")
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_lines_become_examples(tmp_path):
    folder = write(
        tmp_path,
        {"file_name": "a.jpg", "text": " A red\n boat "},
        "",
        {"file_name": "sub/./b.jpg", "text": ["one", "two"], "image_id": 17, "more": None},
        pictures=("a.jpg", "sub/b.jpg"),
    )
    source = ImageFolder(folder)
    assert len(source) == 2
    assert source[0] == Example(tmp_path / "a.jpg", "a.jpg", ("A red boat",))
    assert source[1] == Example(tmp_path / "sub/b.jpg", "17", ("one", "two"))


def test_separators_inside_a_caption_do_not_split_lines(tmp_path):
    folder = write(tmp_path, '{"file_name": "a.jpg", "text": "one\u2028two\u0085three"}')
    assert ImageFolder(str(folder))[0].captions == ("one two three",)


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    write(tmp_path)
    (tmp_path / "metadata.jsonl").write_bytes(b'\xef\xbb\xbf{"file_name": "a.jpg", "text": "x"}\r\n\r\n')
    assert ImageFolder(tmp_path)[0].captions == ("x",)


def test_other_metadata_name(tmp_path):
    write(tmp_path, {"file_name": "a.jpg", "text": "x"})
    (tmp_path / "metadata.jsonl").rename(tmp_path / "val.jsonl")
    assert len(ImageFolder(tmp_path, "val.jsonl")) == 1


def refused(folder, match):
    with pytest.raises(DataError, match=match):
        ImageFolder(folder)


def test_no_folder(tmp_path):
    refused(tmp_path / "none", r"none: there is no such folder; give the folder that holds the pictures\.")


def test_empty_folder(tmp_path):
    refused(tmp_path, r"the folder is empty; put pictures and metadata\.jsonl into it\.")


def test_no_metadata(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    refused(tmp_path, r"there is no metadata\.jsonl in it; write one, a line for each picture")


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_empty_metadata(tmp_path, text):
    refused(write(tmp_path, text), r"metadata\.jsonl: the file has no line; write one JSON object")


def test_not_utf8(tmp_path):
    write(tmp_path)
    (tmp_path / "metadata.jsonl").write_bytes(b'{"file_name": "a.jpg", "text": "caf\xe9"}')
    refused(tmp_path, r"line 1: the line is not UTF-8; save the file as UTF-8\.")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (
            '{"file_name": "a.jpg", "text": "x"}'.encode("utf-16"),
            r"line 1: the line is not UTF-8; save the file as UTF-8",
        ),
        (
            '{"file_name": "a.jpg", "text": "x"}'.encode("utf-16-le"),
            r"line 1: the line holds NUL bytes; save the file as",
        ),
        (b'{"file_name": "a.jpg", "text": "x"}\n\0\0\0\n', r"line 2: the line holds NUL bytes; save the file as UTF-8"),
    ],
)
def test_what_is_no_text(tmp_path, content, match):
    write(tmp_path)
    (tmp_path / "metadata.jsonl").write_bytes(content)
    refused(tmp_path, r"metadata\.jsonl, " + match)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_metadata_that_may_not_be_read(tmp_path, name, no_permission):
    (tmp_path / name).write_text("")
    no_permission(tmp_path / name)
    refused(tmp_path, rf"{name}: the file cannot be read \(Permission denied\); mend it or its permissions\.")


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_a_folder_in_the_place_of_the_metadata(tmp_path, name):
    (tmp_path / name).mkdir()
    refused(tmp_path, rf"{name}: this is no file; the metadata are a file of JSON lines, or CSV; write one\.")
    with pytest.raises(DataError, match="this is no file"):
        ImageFolder(tmp_path, name)


def test_a_folder_that_may_not_be_read(tmp_path, no_permission):
    (tmp_path / "closed").mkdir()
    write(tmp_path / "closed", GOOD)
    no_permission(tmp_path / "closed")
    refused(tmp_path / "closed", r"closed: the folder cannot be read \(Permission denied\); mend its permissions\.")


def test_a_picture_in_a_closed_folder_is_named_by_its_line(tmp_path, no_permission):
    write(tmp_path, GOOD, {"file_name": "sub/b.jpg", "text": "x"}, pictures=("a.jpg", "sub/b.jpg"))
    no_permission(tmp_path / "sub")
    refused(
        tmp_path, r"line 2: .*sub/b\.jpg cannot be looked at \(Permission denied\); mend the path or its permissions"
    )


def test_names_that_are_too_long_for_a_file(tmp_path):
    write(tmp_path, {"file_name": "x" * 300, "text": "x"})
    refused(tmp_path, r"line 1: .*xxx cannot be looked at \(File name too long\); mend the path")
    refused(tmp_path / ("x" * 300), r"xxx cannot be looked at \(File name too long\)")
    with pytest.raises(DataError, match=r"xxx cannot be looked at \(File name too long\)"):
        ImageFolder(tmp_path, "x" * 300)


GOOD = {"file_name": "a.jpg", "text": "x"}


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('{"file_name": ', r"line 2: the line is no valid JSON \(.*\); write one object a line"),
        ("[" * 100_000, r"line 2: the line is no valid JSON"),
        ([1], r"line 2: the line holds a list; write a JSON object in braces"),
        ({"text": "x"}, r'line 2: the key "file_name" is missing; add it'),
        ({"file_name": "b.jpg"}, r'line 2: the key "text" is missing; add it'),
        ({"file_name": "c.jpg", "text": "x"}, r"line 2: there is no file .*c\.jpg; add the picture or"),
        ({"file_name": ".", "text": "x"}, r"line 2: there is no file "),
        ({"file_name": 7, "text": "x"}, r'line 2: "file_name" is a number; give the path as a string'),
        ({"file_name": " ", "text": "x"}, r'line 2: "file_name" is empty or no path'),
        ({"file_name": "a\0b", "text": "x"}, r'line 2: "file_name" is empty or no path'),
        ({"file_name": "a\ud83d.jpg", "text": "x"}, r'line 2: "file_name" is empty or no path'),
        ({"file_name": "../b.jpg", "text": "x"}, r"line 2: \"file_name\" '../b.jpg' leaves the folder; give"),
        ({"file_name": "x/../../b.jpg", "text": "x"}, r"leaves the folder"),
        ({"file_name": "/b.jpg", "text": "x"}, r"leaves the folder"),
        ({"file_name": "./a.jpg", "text": "x"}, r"line 2: 'a.jpg' stands in line 1 already; give a picture"),
        ({"file_name": "b.jpg", "text": ""}, r"line 2: a caption is empty or only white space; write it"),
        ({"file_name": "b.jpg", "text": ["x", " \n"]}, r"line 2: a caption is empty or only white space"),
        ({"file_name": "b.jpg", "text": "\u200b \ufeff"}, r"line 2: a caption is empty or only white space"),
        ({"file_name": "b.jpg", "text": "\7"}, r"line 2: a caption is empty or only white space"),
        ({"file_name": "b.jpg", "text": "x\0y"}, r"line 2: a caption holds a NUL character; remove it, or save the"),
        ({"file_name": "b.jpg", "text": []}, r'line 2: "text" is an empty list; give at least one caption'),
        ({"file_name": "b.jpg", "text": None}, r'line 2: "text" is null; give a string or a list'),
        ({"file_name": "b.jpg", "text": {"en": "x"}}, r'line 2: "text" is an object; give a string or'),
        ({"file_name": "b.jpg", "text": ["x", 3]}, r'line 2: a caption under "text" is a number; give str'),
        ({"file_name": "b.jpg", "text": "a \ud83d"}, r"line 2: a caption holds half a surrogate pair"),
        ({"file_name": "b.jpg", "text": "x", "image_id": True}, r'"image_id" is a boolean; give a string or'),
        ({"file_name": "b.jpg", "text": "x", "image_id": 1.5}, r'"image_id" is a number; give a string or an'),
        ({"file_name": "b.jpg", "text": "x", "image_id": ""}, r'"image_id" is empty; give a name or leave'),
    ],
)
def test_wrong_line(tmp_path, line, match):
    refused(write(tmp_path, GOOD, line), r"metadata\.jsonl.*" + match)
