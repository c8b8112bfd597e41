"""caption, match, embed and features through the command line, on tiny trained bridges."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from command_line import isthmus
from isthmus.cli import features
from isthmus.predictor import Predictor

pytestmark = pytest.mark.e2e
FP32 = ("--device", "cpu", "--dtype", "float32")


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor.from_pretrained(trained / "one", trained / "two", device="cpu", dtype="float32")


@pytest.fixture
def folder(trained, tmp_path):
    """Five of the pictures, one of them in a folder below, and a file that is none."""
    place = tmp_path / "pictures"
    (place / "inner").mkdir(parents=True)
    for number in range(4):
        shutil.copy(trained / "pictures" / f"{5 * number}.png", place)
    shutil.copy(trained / "pictures" / "23.png", place / "inner")
    (place / "notes.md").write_text("no picture")
    return place


@pytest.fixture
def command(trained, capfd):
    """Run a command with both bridges in fp32: the exit code, stdout and stderr."""

    def command(*arguments, models=("one", "two")):
        given = [option for model in models for option in ("--model", trained / model)]
        capfd.readouterr()
        code = isthmus(*arguments, *given, *(FP32 if models else ()))
        return code, *capfd.readouterr()

    return command


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


NAMES = ["0.png", "10.png", "15.png", "5.png", "inner/23.png"]


def test_captions_on_stdout_are_the_predictor_s(command, folder, predictor):
    code, out, err = command("caption", folder, "--json")
    said = predictor.caption([folder / name for name in NAMES])
    assert (code, lines(out)) == (0, [{"file_name": n, "text": t} for n, t in zip(NAMES, said, strict=True)])
    assert "Traceback" not in err


def test_one_picture_is_a_line_with_a_tab(command, folder, predictor):
    code, out, _ = command("caption", folder / "5.png", "--by", "qformer", "--prefix", "a photo,  ", "--suffix", "!")
    said = predictor.caption(folder / "5.png", by="qformer")
    assert (code, out) == (0, f"{folder / '5.png'}\ta photo, {said}!\n")


def test_decoding_and_prompt_reach_the_model(command, folder, predictor):
    options = {"max_new_tokens": 5, "min_new_tokens": 2, "num_beams": 3, "length_penalty": 2.0}
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    code, out, _ = command("caption", folder / "5.png", "--prompt", "a big", "--json", *flags)
    expected = predictor.caption(folder / "5.png", "a big", **options)
    assert (code, lines(out)[0]["text"]) == (0, expected)
    drawn = {"temperature": 2.0, "top_p": 0.9, "seed": 3, "repetition_penalty": 1.5}
    flags = [part for name, value in drawn.items() for part in (f"--{name.replace('_', '-')}", value)]
    _, out, _ = command("caption", folder / "5.png", "--json", *flags)
    assert lines(out)[0]["text"] == predictor.caption(folder / "5.png", **drawn)


def test_a_folder_goes_into_one_file_and_on_after_a_stop(command, folder, tmp_path):
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    code, out, err = command("caption", folder, "--output", whole, "--batch-size", 2)
    assert (code, out) == (0, "") and [entry["file_name"] for entry in lines(whole.read_text())] == NAMES
    assert f"captions written to {whole}: 5; done before: 0; broken pictures: 0; other files ignored: 1" in err
    stopped.write_bytes(whole.read_bytes()[: whole.read_bytes().index(b"\n") + 30])
    code, out, _ = command("caption", folder, "--output", stopped, "--batch-size", 2, "--json")
    assert (code, stopped.read_bytes()) == (0, whole.read_bytes())
    assert lines(out) == [
        {"output": str(stopped), "written": 4, "empty": 0, "done_before": 1, "ignored": 1, "broken": []}
    ]
    code, _, err = command("caption", folder, "--output", stopped, models=["nowhere"])
    assert code == 0 and f"written to {stopped}: 0; done before: 5" in err, "what is done needs no model"


def test_side_cars_can_be_added_to(command, folder):
    (folder / "5.txt").write_text("by hand\n")
    code, _, err = command("caption", folder, "--sidecar", "--by", "qformer")
    assert code == 0 and "captions written to text files beside the pictures: 4; done before: 1" in err
    assert (folder / "5.txt").read_text() == "by hand\n" and (folder / "inner" / "23.txt").is_file()
    _, _, err = command("caption", folder, "--sidecar", "--by", "qformer", "--existing", "append", "--prefix", "see: ")
    first, second = (folder / "5.txt").read_text().splitlines()
    assert first == "by hand" and second.startswith("see: ") and "pictures: 5; done before: 0" in err


def test_a_dry_run_names_what_it_would_do_and_needs_no_model(command, folder, tmp_path):
    output = tmp_path / "new" / "captions.jsonl"
    code, out, err = command("caption", folder, "--output", output, "--dry-run", models=())
    assert (code, out.splitlines()) == (0, NAMES)
    assert "to caption: 5; done before: 0; other files ignored: 1; nothing was written" in err
    code, out, _ = command("caption", folder, "--sidecar", "--dry-run", "--json", models=())
    assert lines(out) == [{"to_caption": NAMES, "done_before": 0, "ignored": 1}]
    assert not output.parent.exists() and not list(folder.rglob("*.txt"))


def test_broken_pictures_are_told_and_the_exit_code_is_3(command, folder, tmp_path):
    (folder / "1.jpg").write_text("<html>")
    output = tmp_path / "captions.jsonl"
    code, out, err = command("caption", folder, "--output", output, "--json")
    ((written,),) = (lines(out),)
    assert code == 3 and written["written"] == 5 and [one["name"] for one in written["broken"]] == ["1.jpg"]
    assert "isthmus: 1.jpg: this is no picture in one of the formats" in err
    code, out, err = command("caption", folder, "--json")
    assert code == 3 and lines(out)[-1]["file_name"] == "1.jpg" and "no picture" in lines(out)[-1]["error"]
    code, _, err = command("embed", folder, "--output", tmp_path / "e.safetensors")
    assert code == 3 and "isthmus: 1.jpg: " in err


def test_where_all_are_broken_each_is_named_and_the_exit_code_is_2(command, tmp_path):
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).write_text("<html>")
    (tmp_path / "texts").write_text("a red cat")
    pictures, output = [tmp_path / "1.jpg", tmp_path / "2.jpg"], tmp_path / "e.safetensors"
    code, out, err = command("caption", *pictures, "--json")
    assert (code, [entry["file_name"] for entry in lines(out)]) == (2, list(map(str, pictures)))
    assert all(f"isthmus: {picture}: this is no picture" in err for picture in pictures)
    assert err.splitlines()[-1].startswith("isthmus: no picture could be read, so nothing was done")
    code, out, _ = command("embed", *pictures, "--texts", tmp_path / "texts", "--output", output, "--json")
    assert code == 2 and [one["name"] for one in lines(out)[0]["broken"]] == list(map(str, pictures))
    assert lines(out)[0]["shapes"] == {} and not output.exists()


def test_features_names_broken_pictures_and_the_exit_code_is_3(command, folder, trained, tmp_path):
    (folder / "0.png").write_text("<html>")
    captions = [{"file_name": name, "text": name} for name in NAMES]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, captions)))
    source = json.dumps({"folder": str(folder)})
    given = [f"data.train={source}", f"data.evaluation={source}", f"features.folder={tmp_path / 'store'}"]
    given += ["data.broken=skip", "data.broken_rate=0.5", f"output={tmp_path / 'run'}", "device=cpu"]
    for _ in range(2):  # a store that is complete tells it too
        code, out, err = command("features", trained / "one.yaml", *given, "--json", models=())
        (told,) = lines(out)
        assert code == 3 and told["stored_pictures"] == 4
        assert [one["name"] for one in told["broken"]] == [str(folder / "0.png")]
        assert f"isthmus: 1 pictures could not be read; {tmp_path / 'run' / 'bad_images.jsonl'} names them" in err


def test_match_puts_the_best_text_first(command, trained, predictor):
    picture, texts = trained / "pictures" / "7.png", ["a green  bird", "a red cat", "the sun"]
    code, out, _ = command("match", picture, *texts, "--json")
    (found,) = lines(out)
    matches = predictor.match([picture], texts)
    order = matches.score[0].argsort(descending=True).tolist()
    assert code == 0 and found["file_name"] == str(picture)
    assert [row["text"] for row in found["texts"]] == [texts[index] for index in order]
    for row, index in zip(found["texts"], order, strict=True):
        expected = (matches.score[0, index], matches.itc[0, index], matches.itm[0, index])
        assert (row["score"], row["cosine"], row["match_probability"]) == pytest.approx([float(x) for x in expected])
    code, out, _ = command("match", picture, *texts)
    header, *rows = out.splitlines()
    assert header.split() == ["score", "cosine", "match", "text"]
    assert [" ".join(row.split()[3:]) for row in rows] == [" ".join(texts[index].split()) for index in order]


def test_embeddings_with_their_names(command, folder, tmp_path, predictor):
    output = tmp_path / "new" / "embeddings.safetensors"
    (tmp_path / "texts").write_bytes(b"\xef\xbb\xbfa red cat\r\n\n a  blue dog\n")
    (folder / "0.jpg").write_text("")
    code, out, _ = command("embed", folder, "--texts", tmp_path / "texts", "--output", output, "--batch-size", 2)
    assert (code, out) == (3, f"images  5 x 4 x 8  {output}\ntexts  2 x 8  {output}\n")
    with safe_open(output, "pt") as file:
        images, texts = file.get_tensor("images"), file.get_tensor("texts")
        names, captions = (json.loads(file.metadata()[kind]) for kind in ("images", "texts"))
    assert (names, captions) == (NAMES, ["a red cat", "a blue dog"])
    assert torch.allclose(images, predictor.embed(images=[folder / name for name in NAMES]), atol=1e-6)
    assert torch.allclose(texts, predictor.embed(texts=captions), atol=1e-6)
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    code, _, err = command("embed", folder / "5.png", "--output", output)
    assert code == 2 and "is there already; choose another output, or give --overwrite" in err
    code, out, _ = command("embed", folder / "5.png", "--output", output, "--overwrite", "--json")
    assert (code, lines(out)) == (0, [{"output": str(output), "shapes": {"images": [1, 4, 8]}, "broken": []}])


def test_features_fills_the_store_that_training_then_finds(command, trained, tmp_path):
    store, recipe = tmp_path / "store", trained / "one.yaml"
    given = ("features", recipe, f"features.folder={store}", "precision=fp32", "device=cpu")
    code, out, err = command(*given, "--dry-run", models=())
    assert (code, out) == (0, "") and not store.exists()
    assert f"{store}: 24 pictures, 2 views each in float32: 52.2 kB at most in all; " in err
    code, out, _ = command(*given, "--json", models=())
    (told,) = lines(out)
    assert code == 0 and told["planned_bytes"] == 24 * 2 * 17 * 16 * 4 and told["stored_pictures"] == 24
    written = {path: path.stat().st_mtime_ns for path in store.iterdir()}
    code, out, _ = command(*given, models=())
    assert code == 0 and out.startswith(f"{store}: 24 different pictures are stored, ")
    assert {path: path.stat().st_mtime_ns for path in store.iterdir()} == written


def test_features_names_its_own_remedies_for_too_little_memory(command, trained, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(features, "open_looks", full)
    code, _, err = command("features", trained / "one.yaml", f"features.folder={tmp_path / 'store'}", models=())
    told = "isthmus: the device has too little memory; give a smaller features.batch_size, or device=cpu"
    assert (code, err.splitlines()[-1]) == (2, told)


def test_pictures_of_every_kind_are_captioned(command, tmp_path):
    place = tmp_path / "pictures"
    place.mkdir()
    Image.new("RGB", (10_000, 1), "red").save(place / "strip.png")
    Image.new("RGB", (1, 1), "red").save(place / "point.png")
    Image.new("I;16", (9, 7), 40_000).save(place / "deep.png")
    Image.new("CMYK", (9, 7), (0, 99, 99, 0)).save(place / "print.jpg")
    frames = [Image.new("P", (9, 7), number) for number in range(3)]
    frames[0].save(place / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (9, 7), (255, 0, 0, 0)).save(place / "glass.webp")
    code, out, _ = command("caption", place, "--json", "--max-new-tokens", 3)
    names = ["deep.png", "glass.webp", "moving.gif", "point.png", "print.jpg", "strip.png"]
    assert code == 0 and [entry["file_name"] for entry in lines(out)] == names
