import pytest
import torch

from bridges import tiny_batch, tiny_bridge
from captioned import Captioned, tokenize
from isthmus.quickstart.looks import most_different, queries_look
from isthmus.tasks.retrieval import embed

PICTURES = [f"{thing}.png" for thing in "abcd"]


def looked(rows=(2, 0), patches=4):
    bridge, batch = tiny_bridge(queries=3).eval(), tiny_batch(patches=patches)
    source = Captioned([("an a",), ("a b",), ("see",), ("the d",)], list("abcd"))
    embedded = embed(bridge, [batch], source, tokenize=tokenize, device=torch.device("cpu"))
    found = queries_look(bridge, batch.vision[list(rows)], embedded, {row: PICTURES[row] for row in rows})
    return found, bridge, batch, embedded


def test_the_query_that_decides_the_match_comes_first_and_maps_are_those_of_the_plain_definition():
    found, bridge, batch, embedded = looked()
    assert [(look.picture, look.name) for look in found] == [("c.png", "see"), ("a.png", "an a")]
    for look, row in zip(found, (2, 0), strict=True):
        cosine = [float(query @ embedded.texts[row]) for query in embedded.images[row]]
        assert look.gazes[0].query == cosine.index(max(cosine))
        assert look.cosine == pytest.approx(max(cosine))
        attention = bridge.qformer(None, None, batch.vision[row : row + 1], look=True).looks[-1][0].mean(dim=0)
        for gaze in look.gazes:
            assert gaze.attention == pytest.approx(attention[gaze.query].tolist(), abs=1e-5)
        assert look.average == pytest.approx(attention.mean(dim=0).tolist(), abs=1e-5)
        assert (look.side, sum(look.average)) == (2, pytest.approx(1, abs=1e-4))


def test_further_queries_are_the_ones_that_look_elsewhere():
    maps = torch.tensor([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.1, 0.8, 0.1]])
    assert most_different(maps, 1, count=2)[0] == 1
    assert sorted(most_different(maps, 0, count=3)) == [0, 2, 3]
    assert sorted(most_different(maps, 2, count=9)) == [0, 1, 2, 3], "no query twice"


def test_patches_that_make_no_square_are_refused():
    with pytest.raises(ValueError, match="5 patches make no square"):
        looked(patches=5)
