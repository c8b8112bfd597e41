import pytest

from isthmus.data.sidecar import SidecarFolder
from isthmus.errors import DataError
from isthmus.records import Example


def write(folder, **texts):
    """`a__jpg="..."` writes a.jpg and a.txt, below the folder `s` where the name begins with s_."""
    for name, text in texts.items():
        stem, suffix = name.replace("s_", "sub/").split("__")
        (folder / stem).parent.mkdir(exist_ok=True, parents=True)
        (folder / f"{stem}.{suffix}").write_bytes(b"picture")
        if text is not None:
            (folder / f"{stem}.txt").write_text(text, encoding="utf-8")
    return folder


def test_every_line_is_a_caption_and_folders_are_gone_through(tmp_path):
    write(tmp_path, b__PNG="\ufeff a red\tboat \r\n\r\ntwo\u2028oars\n", s_a__jpeg="x")
    source = SidecarFolder(tmp_path)
    assert [source[index] for index in range(len(source))] == [
        Example(tmp_path / "b.PNG", "b.PNG", ("a red boat", "two oars")),
        Example(tmp_path / "sub/a.jpeg", "sub/a.jpeg", ("x",)),
    ]


def test_other_files_are_passed_over_and_counted(tmp_path, caplog):
    write(tmp_path, a__jpg="x")
    for name in ("notes.pdf", "sub/Thumbs.db", ".hidden.jpg", ".git/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.jpg").mkdir()
    with caplog.at_level("INFO"):
        assert len(SidecarFolder(tmp_path)) == 1
    assert "1 pictures with texts; 2 other files passed over, such as notes.pdf" in caplog.text


def test_a_text_ending_in_capitals_belongs_to_its_picture(tmp_path):
    write(tmp_path, a__JPG=None)
    (tmp_path / "a.TXT").write_text("x")
    (tmp_path / "b.jpg").write_bytes(b"picture")
    (tmp_path / "b.Txt").write_text("y")
    source = SidecarFolder(tmp_path)
    assert [source[index].captions for index in range(2)] == [("x",), ("y",)]


def test_two_texts_that_differ_in_case_only_are_refused(tmp_path):
    write(tmp_path, a__jpg="x")
    (tmp_path / "a.TXT").write_text("y")
    refused(tmp_path, r"a\.TXT: a\.txt is a text of the same picture; keep one of them\.")


def test_line_ends_of_other_systems(tmp_path):
    write(tmp_path, a__jpg="one\rtwo\r\nthree\n")
    assert SidecarFolder(tmp_path)[0].captions == ("one", "two", "three")


def test_a_text_that_may_not_be_read_is_named(tmp_path, no_permission):
    write(tmp_path, a__jpg="x")
    no_permission(tmp_path / "a.txt")
    refused(tmp_path, r"a\.txt: the file cannot be read \(Permission denied\); mend it or its permissions\.")


def test_a_folder_below_that_may_not_be_read_is_not_passed_over(tmp_path, no_permission):
    write(tmp_path, a__jpg="x", s_b__jpg="y")
    no_permission(tmp_path / "sub")
    refused(tmp_path, r"sub: the folder cannot be read \(Permission denied\); mend its permissions\.")


def refused(folder, match):
    with pytest.raises(DataError, match=match):
        SidecarFolder(folder)


def test_what_has_no_partner_is_named(tmp_path):
    refused(tmp_path / "none", r"none: there is no such folder")
    refused(tmp_path, r"the folder is empty; put pictures and their texts into it\.")
    write(tmp_path, s_a__jpg="x", b__jpg=None)
    refused(tmp_path, r"b\.jpg: there is no b\.txt beside it; write its captions there\.")
    (tmp_path / "b.jpg").unlink()
    (tmp_path / "README.txt").write_text("about")
    refused(tmp_path, r"README\.txt: there is no picture of that name beside it; add it or remove the text\.")
    (tmp_path / "README.txt").unlink()
    (tmp_path / "sub/a.png").write_bytes(b"x")
    refused(tmp_path, r"sub/a\.jpg: a\.png has the same text file; rename one of them\.")


def test_a_folder_of_other_things(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    refused(tmp_path, r"there is no picture in it; the names of pictures end in \.jpg, \.jpeg, \.png")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"", r"a\.txt: there is no caption in it; write one a line, or remove the picture\."),
        (b" \n\t\n", r"a\.txt: there is no caption in it"),
        ("\u200b\n".encode(), r"a\.txt: a caption is empty or only white space"),
        (b"x\ncaf\xe9", r"a\.txt, line 2: the line is not UTF-8; save the file as UTF-8\."),
        ("xy".encode("utf-16-le"), r"a\.txt, line 1: the line holds NUL bytes; save the file as UTF-8"),
    ],
)
def test_wrong_texts(tmp_path, text, match):
    write(tmp_path, a__jpg="x")
    (tmp_path / "a.txt").write_bytes(text)
    refused(tmp_path, match)
