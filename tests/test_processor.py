"""The processor: transformers' own numbers, and a sentence where transformers is silent."""

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from blip2_models import QUERIES, conditional, instruct, retrieval, save_whole
from fakes import tiny_bert_folder
from isthmus import Processor
from isthmus.errors import CheckpointError, DataError
from isthmus.processor import _as_texts


@pytest.fixture(scope="module", params=["conditional", "instruct", "retrieval"])
def folder(request, tmp_path_factory):
    make = {"conditional": conditional, "instruct": instruct, "retrieval": retrieval}[request.param]
    return save_whole(make(), tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    return Processor.from_pretrained(save_whole(conditional(), tmp_path_factory.mktemp("asking")))


def picture(colour=(200, 30, 30)):
    return Image.new("RGB", (40, 30), colour)


def test_pairs_are_prepared_as_by_transformers(folder):
    ours, theirs = Processor.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    pictures, texts = [picture(), picture((0, 0, 99))], ["a cat", "the small blue boat"]
    found = ours(images=pictures, text=texts, return_tensors="pt")
    wanted = theirs(images=pictures, text=texts, padding=True, return_tensors="pt")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    single = ours(images=picture(), text="a cat")
    assert single["pixel_values"].shape == (1, 3, 28, 28)
    assert all(len(value) == 1 for value in single.values())


def test_pictures_alone_and_pictures_of_every_kind(asking, tmp_path):
    picture().save(tmp_path / "red.png")
    clear = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    found = asking(images=[tmp_path / "red.png", torch.zeros(3, 9, 9), clear])
    assert list(found) == ["pixel_values"] and len(found["pixel_values"]) == 3
    white = asking(images=Image.new("RGB", (40, 30), (255, 255, 255)))["pixel_values"]
    assert torch.allclose(found["pixel_values"][2], white[0])


def test_image_tokens_stand_before_the_text(asking):
    ids = asking(images=[picture(), picture()], text=["a", "a cat"])["input_ids"]
    assert torch.equal(ids[:, :QUERIES], torch.full((2, QUERIES), 259))
    assert asking.batch_decode(ids) == ["a", "a cat"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "neither a picture nor a text"),
        ({"text": "a cat"}, "a prompt without a picture has no image tokens"),
        ({"images": [picture()] * 3, "text": "a cat"}, "there are 3 pictures and 1 texts; give one text for each"),
        ({"images": picture(), "text": ["a", "b"]}, "there are 1 pictures and 2 texts"),
        ({"images": picture(), "text": "<image> <image> what?"}, "text 0 has 2 image tokens of its own, beside the 4"),
        ({"images": "nowhere.png", "text": "a"}, r"nowhere\.png"),
    ],
)
def test_what_transformers_would_take_without_a_word_is_refused(asking, given, message):
    with pytest.raises(DataError, match=message):
        asking(**given)


def test_a_text_that_is_none_is_named():
    with pytest.raises(DataError, match="text 1 is of type int; give a string, or a list of strings"):
        _as_texts(["a", 3])


def test_a_row_that_lost_image_tokens_is_refused(asking):
    with pytest.raises(DataError, match="text 0 came out with 0 image tokens where the model needs 4"):
        asking._check_tokens(torch.zeros(1, 5))


def test_a_retrieval_model_takes_one_picture_with_several_texts(tmp_path):
    ours = Processor.from_pretrained(save_whole(retrieval(), tmp_path))
    found = ours(images=picture(), text=["a cat", "a dog", "a red bus"])
    assert len(found["pixel_values"]) == 1 and len(found["input_ids"]) == 3
    assert set(ours(text="a cat")) >= {"input_ids", "attention_mask"}


def test_a_folder_without_a_processor_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no processor could be read from|has no image_processor"):
        Processor.from_pretrained(tiny_bert_folder(tmp_path))
    with pytest.raises(CheckpointError, match="no processor could be read from"):
        Processor.from_pretrained(tmp_path / "nowhere")
