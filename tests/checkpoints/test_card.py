"""The model card says what provenance holds, and says unknown where it holds nothing."""

import pytest
import yaml

from isthmus.checkpoints.card import model_card
from isthmus.checkpoints.exported_card import exported_card
from isthmus.checkpoints.native import read_bridge, update_provenance, write_bridge
from isthmus.records import BridgeFile, BridgeSizes

ENCODER = {"address": "hub:org/clip@abc", "fingerprint": "e" * 32, "hidden_layer": -2}
LLM = {"address": "folder:llama", "fingerprint": "f" * 32, "hidden_layer": None, "licence": "apache-2.0"}
CONFIG = {
    "data": {"train": {"folder": "pictures"}, "evaluation": None},
    "train": {"steps": 100, "batch_size": 8, "accumulation": 1},
}


def provenance(stage=1, **more):
    towers = {"encoder": ENCODER} if stage == 1 else {"encoder": ENCODER, "llm": LLM}
    return {"stage": stage, "towers": towers, "config": CONFIG, "precision": "float32", **more}


def front(card):
    return yaml.safe_load(card.split("---\n")[1])


@pytest.mark.parametrize(("stage", "task"), [(1, "zero-shot-image-classification"), (2, "image-to-text")])
def test_the_front_is_what_the_hub_reads(stage, task):
    assert front(model_card(provenance(stage))) == {
        "library_name": "isthmus",
        "license": "unknown",
        "pipeline_tag": task,
        "tags": ["blip-2", "q-former", "vision-language", f"stage-{stage}"],
        "base_model": ["org/clip"],
    }


def test_a_tower_that_is_not_on_the_hub_is_no_base_model_there():
    towers = {"encoder": {**ENCODER, "address": "file:clip.safetensors"}}
    assert "base_model" not in front(model_card({**provenance(), "towers": towers}))


def test_towers_stand_with_addresses_fingerprints_and_licences():
    card = model_card(provenance(2, licence="mit"))
    assert f"| encoder | `hub:org/clip@abc`, hidden layer -2 | `{'e' * 32}` | unknown |" in card
    assert f"| llm | `folder:llama` | `{'f' * 32}` | apache-2.0 |" in card
    assert front(card)["license"] == "mit" and "Licence of the bridge itself: mit." in card


def test_data_training_and_figures_are_those_of_the_run():
    sources = [{"source": "pictures", "size": 1200, "rows_drawn": 800, "different_rows": 700}]
    figures = {"text_to_image": {"R@1": 61.234567, "note": "a|b"}, "candidates": 240, "captions": [["a", "b"]]}
    more = {"sources": sources, "figures": figures, "step": 100, "processes": 2, "ranking": {"weight": 0.5}}
    card = model_card(provenance(**more))
    assert "- training: `pictures`, 1,200 rows; 800 rows drawn, 700 of them different\n- held out: none" in card
    assert "Step 100 of 100, batches of 8 x 2 x 1\n(rows x processes x accumulation), in\nfloat32" in card
    table = card[card.index("| figure") :].splitlines()
    assert table[2:] == [
        "| text to image R@1 | 61.23 |",
        "| text to image note | a\\|b |",
        "| candidates | 240 |",
        "| ranking weight | 0.5 |",
    ]


def test_what_is_not_known_is_said():
    card = model_card(provenance())
    assert "None were measured." in card and "Step unknown of 100" in card and "Versions: unknown" in card
    assert '- training: `{"folder": "pictures"}`' in card
    assert "- held out: unseen artist, unseen names\n" in model_card(
        provenance(scored_on=["unseen artist", "unseen names"])
    )
    held_out = {**CONFIG, "data": {**CONFIG["data"], "held_out": 0.1}}
    assert "- held out: 0.1 of the training pictures" in model_card({**provenance(), "config": held_out})


def test_the_card_goes_along_with_the_provenance_unless_somebody_changed_it(tmp_path):
    folder, file = tmp_path / "bridge", BridgeFile(BridgeSizes(4), {}, provenance())
    write_bridge(file, folder, card=model_card(file.provenance))
    update_provenance(folder, {"figures": {"R@1": 50.0}})
    card = (folder / "README.md").read_text()
    assert card == model_card(read_bridge(folder).provenance) and "| R@1 | 50 |" in card
    (folder / "README.md").write_text("my own words")
    update_provenance(folder, {"figures": {"R@1": 60.0}})
    assert (folder / "README.md").read_text() == "my own words"
    assert read_bridge(folder).provenance["figures"] == {"R@1": 60.0}


def test_the_card_of_an_exported_folder_names_a_bos_that_is_not_the_tokenizer_s():
    prompt = {"before": "", "after": "", "bos": "after_soft_prompt", "turns": None}
    written = [
        exported_card({**provenance(2), "prompt": {**prompt, **more}}, layout="Blip2", lost=[], differences={})
        for more in ({}, {"bos_token": None}, {"bos_token": "</s>"})
    ]
    assert ["BOS was `</s>`: where the tokenizer adds another" in card for card in written] == [False, False, True]
