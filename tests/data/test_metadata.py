import pytest

from isthmus.data.folder import ImageFolder
from isthmus.errors import DataError
from isthmus.records import Example


def write(folder, text, name="metadata.csv", pictures=("a.jpg", "b.jpg")):
    for picture in pictures:
        (folder / picture).write_bytes(b"picture")
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_rows_of_one_file_are_its_captions_wherever_they_stand(tmp_path):
    write(tmp_path, 'file_name,text,more\na.jpg,"one, first",x\nb.jpg,two,y\n./a.jpg," three\nlines",z\n')
    source = ImageFolder(tmp_path)
    assert [source[index] for index in range(len(source))] == [
        Example(tmp_path / "a.jpg", "a.jpg", ("one, first", "three lines")),
        Example(tmp_path / "b.jpg", "b.jpg", ("two",)),
    ]


def test_ids_are_a_column_that_may_be_empty(tmp_path):
    write(tmp_path, "\ufefffile_name,text,image_id\r\na.jpg,x,17\r\nb.jpg,y,\r\n", "held-out.CSV")
    source = ImageFolder(tmp_path, "held-out.CSV")
    assert [source[index].image_id for index in range(2)] == ["17", "b.jpg"]


def test_json_lines_come_before_csv_where_no_file_is_named(tmp_path):
    write(tmp_path, "file_name,text\na.jpg,from csv\n")
    assert ImageFolder(tmp_path)[0].captions == ("from csv",)
    write(tmp_path, '{"file_name": "a.jpg", "text": "from json"}', "metadata.jsonl")
    assert ImageFolder(tmp_path)[0].captions == ("from json",)
    assert ImageFolder(tmp_path, "metadata.csv")[0].captions == ("from csv",)


def test_files_are_not_looked_for_where_broken_ones_are_passed_over(tmp_path):
    write(tmp_path, "file_name,text\nc.jpg,x\n")
    with pytest.raises(DataError, match=r"metadata\.csv, line 2: there is no file .*c\.jpg; add the picture or"):
        ImageFolder(tmp_path)
    assert len(ImageFolder(tmp_path, check_files=False)) == 1


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", r"there is no column 'file_name'; the columns there are: none\."),
        ("file_name;text\na.jpg;x\n", r"no column 'file_name'; the columns there are: file_name;text\."),
        ("file_name,caption\na.jpg,x\n", r"no column 'text'; the columns there are: file_name, caption\."),
        (
            "file_name,text,text\na.jpg,x,y\n",
            r"metadata\.csv: the column 'text' stands there twice; rename one of them",
        ),
        ("file_name,text\n", r"metadata\.csv: the file has no row; write one for each caption\."),
        ("file_name,text\na.jpg,one, two\n", r"line 2: the row has not as many fields as the header; quote"),
        ("file_name,text\na.jpg\n", r"line 2: the row has not as many fields as the header"),
        ("file_name,text\na.jpg,\n", r"line 2: a caption is empty or only white space"),
        ("file_name,text\n,x\n", r'line 2: "file_name" is empty or no path'),
        ('file_name,text\na.jpg,"x\n', r"line 2: the row is no valid CSV \(unexpected end of data\); mend it"),
        ("file_name,text,image_id\na.jpg,x,1\na.jpg,y,2\n", r"line 3: 'a\.jpg' has another image_id than at .*line 2"),
    ],
)
def test_wrong_files(tmp_path, text, match):
    with pytest.raises(DataError, match=match):
        ImageFolder(write(tmp_path, text))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"file_name,text\na.jpg,caf\xe9\n", r"metadata\.csv, line 2: the line is not UTF-8; save the file as UTF-8\."),
        ("file_name,text\na.jpg,x\n".encode("utf-16-le"), r"metadata\.csv, line 1: the line holds NUL bytes; save the"),
        (b"file_name,text\na.jpg,x\n\0\0\0\0", r"metadata\.csv, line 3: the line holds NUL bytes"),
    ],
)
def test_another_encoding_than_utf_8(tmp_path, content, match):
    write(tmp_path, "")
    (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(DataError, match=match):
        ImageFolder(tmp_path)


def test_line_ends_of_other_systems(tmp_path):
    write(tmp_path, "")
    for end in (b"\r\n", b"\r"):
        (tmp_path / "metadata.csv").write_bytes(end.join([b"file_name,text", b"a.jpg,x", b"b.jpg,y", b""]))
        assert [ImageFolder(tmp_path)[index].captions for index in range(2)] == [("x",), ("y",)]
