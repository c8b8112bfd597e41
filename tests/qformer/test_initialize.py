import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM, BertModel

from fakes import tiny_bert_folder
from isthmus.errors import CheckpointError, TowerError
from isthmus.qformer.initialize import from_bert, from_scratch, read_bert
from isthmus.qformer.layer import Dropouts
from isthmus.qformer.masks import unimodal
from isthmus.qformer.qformer import QFormer
from isthmus.qformer.tokenizer import QFormerTokenizer, for_generation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    tiny_bert_folder(folder)
    model = BertModel.from_pretrained(folder)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.save_pretrained(folder)
    return folder


def start(folder, **options):
    tokenizer, bert = QFormerTokenizer(folder), read_bert(str(folder))
    sizes = bert.sizes(6, vocabulary=tokenizer.vocabulary, queries=2, cross_frequency=2)
    qformer = QFormer(sizes, Dropouts(0.0, 0.0, 0.0)).double()  # before the fold: its sum is then exact
    report = from_bert(qformer, bert, seed=0, dec_from=tokenizer.cls, **options)
    return qformer, tokenizer, report


def sentences(tokenizer):
    return tokenizer(["a red cat", "dog"])


def test_the_text_path_of_a_fresh_bridge_is_the_berts_own(folder):
    qformer, tokenizer, _ = start(folder)
    text, bert = sentences(tokenizer), BertModel.from_pretrained(folder).double().eval()
    assert not text.mask.all()
    expected = bert(input_ids=text.ids, attention_mask=text.mask.long()).last_hidden_state
    assert torch.allclose(qformer.encode_text(text), expected[:, 0], atol=1e-12, rtol=0)
    patches = torch.randn(2, 3, 6, dtype=torch.float64)
    states = qformer(text, unimodal(2, text.mask), patches).text
    assert torch.allclose(states[text.mask], expected[text.mask], atol=1e-12, rtol=0)


def test_dropping_the_token_type_row_changes_the_text_path_as_in_the_original(folder):
    (folded, tokenizer, _), (dropped, _, report) = start(folder), start(folder, fold_token_type=False)
    text = sentences(tokenizer)
    assert not torch.allclose(folded.encode_text(text), dropped.encode_text(text))
    assert "embeddings.token_type_embeddings.weight" in report.unused


def test_query_feed_forward_is_a_copy_and_dec_starts_from_cls(folder):
    qformer, tokenizer, _ = start(folder)
    for layer in qformer.layers:
        for query, text in zip(
            layer.query_feed_forward.parameters(), layer.text_feed_forward.parameters(), strict=True
        ):
            assert torch.equal(query, text)
    words = qformer.text.words.weight
    assert tokenizer.dec == len(words) - 1
    assert torch.equal(words[tokenizer.dec], words[tokenizer.cls])


def test_dec_can_start_random(folder):
    tokenizer, bert = QFormerTokenizer(folder), read_bert(str(folder))
    sizes = bert.sizes(6, vocabulary=tokenizer.vocabulary, queries=2, cross_frequency=2)
    qformer = QFormer(sizes)
    from_bert(qformer, bert, seed=0, dec_from=None)
    words = qformer.text.words.weight
    assert not torch.equal(words[tokenizer.dec], words[tokenizer.cls])
    assert 0 < words[tokenizer.dec].std() < 0.05


def test_the_report_accounts_for_every_tensor(folder):
    qformer, _, report = start(folder)
    assert set(report.copied) | set(report.random) == set(qformer.state_dict())
    assert not set(report.copied) & set(report.random)
    assert {name for name in report.random if "cross_attention" in name or name.startswith("memory")}
    assert "queries" in report.random
    assert "text.head.dense.weight" in report.random
    assert report.unused == ["pooler.dense.bias", "pooler.dense.weight"]
    assert "copied" in report.lines()[0]


def test_an_mlm_head_is_copied_where_present(folder, tmp_path):
    tiny_bert_folder(tmp_path)
    model = BertForMaskedLM(BertModel.from_pretrained(folder).config)
    torch.nn.init.normal_(model.cls.predictions.bias)
    model.save_pretrained(tmp_path)
    qformer, tokenizer, report = start(tmp_path)
    assert report.copied["text.head.bias"] == "cls.predictions.bias"
    text = sentences(tokenizer)
    states = model.eval().bert(input_ids=text.ids, attention_mask=text.mask.long()).last_hidden_state
    expected = model.cls(states)
    got = qformer.float().predict(states)[..., : expected.shape[-1]]
    assert torch.allclose(got, expected, atol=1e-5)


def test_from_scratch_says_so(folder):
    qformer, _, _ = start(folder)
    report = from_scratch(qformer, seed=1)
    assert "from scratch" in report.lines()[0]
    assert set(report.random) == set(qformer.state_dict())
    first = qformer.queries.clone()
    from_scratch(qformer, seed=1)
    assert torch.equal(first, qformer.queries)
    from_scratch(qformer, seed=2)
    assert not torch.equal(first, qformer.queries)


def test_another_model_type_is_refused_by_name(folder, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    with pytest.raises(TowerError, match="'roberta'"):
        read_bert(str(tmp_path))


def test_a_folder_without_safetensors_or_config_is_refused(folder, tmp_path):
    with pytest.raises(TowerError, match=r"no config\.json"):
        read_bert(str(tmp_path))
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(TowerError, match=r"no \.safetensors"):
        read_bert(str(tmp_path))


def test_an_unknown_name_is_refused(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(TowerError, match="neither a folder nor"):
        read_bert("nobody/no-such-bert-anywhere")


def test_a_missing_or_misshapen_tensor_is_refused_by_name(folder, tmp_path):
    tiny_bert_folder(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layer.0.attention.self.query.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.0\.attention\.self\.query\.weight"):
        start(tmp_path)


def test_the_tokenizer_cuts_right_pads_and_knows_dec(folder):
    tokenizer = QFormerTokenizer(folder, max_tokens=4)
    text = tokenizer(["a red cat dog", "A"])
    assert text.ids.shape == (2, 4)
    assert text.ids[0, 0] == tokenizer.cls
    assert text.ids[0, -1] == tokenizer.sep
    assert text.mask.tolist() == [[True] * 4, [True] * 3 + [False]]
    generated = for_generation(text, tokenizer.dec)
    assert generated.ids[:, 0].tolist() == [tokenizer.dec] * 2
    assert torch.equal(generated.ids[:, 1:], text.ids[:, 1:])
    assert text.ids[0, 0] == tokenizer.cls
    assert tokenizer.decode(text.ids[1]) == "a"


def test_the_side_on_which_texts_are_cut_is_the_folder_s_and_saved_with_it(folder, tmp_path):
    words = "a red cat dog"
    whole = QFormerTokenizer(folder)([words]).ids[0].tolist()
    plain, left = QFormerTokenizer(folder, max_tokens=4), QFormerTokenizer(folder, max_tokens=4, cut="left")
    right_ids, left_ids = [*whole[:3], whole[-1]], [whole[0], *whole[-3:]]
    for tokenizer, name, expected in ((plain, "right", right_ids), (left, "left", left_ids)):
        for used in ("unused", "used"):  # a tokenizer that has cut remembers it in another of its files
            tokenizer.save(tmp_path / name / used)
            again = QFormerTokenizer(tmp_path / name / used, max_tokens=4)
            assert again([words]).ids[0].tolist() == tokenizer([words]).ids[0].tolist() == expected
    assert QFormerTokenizer(tmp_path / "left/used", max_tokens=4, cut="right")([words]).ids[0].tolist() == right_ids


@pytest.mark.parametrize("name", ["[SEP]", "[PAD]", "[CLS]", "[DEC]", "[MASK]", "[UNK]"])
def test_a_special_token_that_a_caption_spells_out_is_text(folder, name):
    tokenizer = QFormerTokenizer(folder)
    special = {*tokenizer.inner.all_special_ids} - {tokenizer.inner.unk_token_id}
    (ids,) = tokenizer([f"a {name} red"]).ids.tolist()
    assert (ids[0], ids[-1]) == (tokenizer.cls, tokenizer.sep)
    assert not special & {*ids[1:-1]} and len(ids) >= 5
    assert torch.equal(tokenizer(["a red"]).ids[0, 1:3], torch.tensor(ids)[[1, -2]])


def test_a_saved_tokenizer_is_the_same(folder, tmp_path):
    tokenizer = QFormerTokenizer(folder)
    tokenizer.save(tmp_path)
    again = QFormerTokenizer(tmp_path)
    assert (again.vocabulary, again.dec) == (tokenizer.vocabulary, tokenizer.dec)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(TowerError, match="no BERT tokenizer"):
        QFormerTokenizer(tmp_path)


def test_the_first_berts_call_norms_gamma_and_beta(folder, tmp_path):
    tiny_bert_folder(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    legacy = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in tensors.items()
    }
    save_file(legacy, tmp_path / "model.safetensors")
    old, new = start(tmp_path)[0].state_dict(), start(folder)[0].state_dict()
    assert all(torch.equal(old[name], new[name]) for name in new)


def test_padding_rows_of_a_vocabulary_are_left_and_dec_is_drawn_when_random(folder, tmp_path):
    tiny_bert_folder(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    words = tensors["embeddings.word_embeddings.weight"]
    tensors["embeddings.word_embeddings.weight"] = torch.cat([words, torch.full((6, words.shape[1]), 9.0)])
    save_file(tensors, tmp_path / "model.safetensors")
    tokenizer, bert = QFormerTokenizer(folder), read_bert(str(tmp_path))
    sizes = bert.sizes(6, vocabulary=tokenizer.vocabulary, queries=2, cross_frequency=2)
    qformer = QFormer(sizes)
    from_bert(qformer, bert, seed=0, dec_from=None)
    rows = qformer.text.words.weight
    assert torch.equal(rows[:-1], words[: len(rows) - 1])
    assert rows[-1].abs().max() < 1


def test_relative_positions_are_refused(folder, tmp_path):
    config = {**json.loads((folder / "config.json").read_text()), "position_embedding_type": "relative_key"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(TowerError, match="relative_key"):
        read_bert(str(tmp_path))
