"""A chat template around the soft prompt: what the model reads, what closes the caption, and what is saved."""

import json

import pytest
import torch

from decoders import MODELS, soft_prompt
from fakes import byte_tokenizer
from isthmus.errors import TowerError
from isthmus.language.decoder_only import DecoderOnlyLLM
from isthmus.language.llm import Decoding
from isthmus.language.prompts import Prompt

CHATML = (
    "<|im_start|>system\nBe brief.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = "{% for message in messages %}{{ message.role }}: {{ message.content }} [over] {% endfor %}"
NO_CLOSE = "{% for message in messages %}{{ message.role }}: {{ message.content }}{% endfor %}"
BEFORE, AFTER = "look:", " what is it?"


def talker(template=CHATML, prompt=None, *, special=("<|im_start|>", "<|im_end|>")):
    torch.manual_seed(1)
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = template
    model = MODELS["llama"]().double()
    model.resize_token_embeddings(len(tokenizer))
    prompt = prompt or Prompt(before=BEFORE, after=AFTER, chat=True)
    return DecoderOnlyLLM(model, tokenizer, prompt, address="folder:talker")


def test_the_model_reads_the_whole_conversation_as_the_template_writes_it():
    tower, caption = talker(), "a red cat"
    tokenizer = tower.tokenizer
    turns = [{"role": "user", "content": f"{BEFORE}|{AFTER}"}, {"role": "assistant", "content": caption}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    head, tail = rendered.split(f"{BEFORE}|{AFTER}")
    assert tower._before == tokenizer(head + BEFORE, add_special_tokens=False).input_ids
    said = tower.tokenize([caption]).ids[0].tolist()
    rest = tokenizer(AFTER + tail, add_special_tokens=False).input_ids
    assert tower._after + said == rest[:-1]  # but for the line break after the turn
    assert tokenizer.decode(said[-1:]) == "<|im_end|>"


def test_the_loss_is_the_plain_one_of_the_conversation():
    tower = talker()
    soft = soft_prompt(tower, 1)
    target = tower.tokenize(["a red cat"])
    embed = tower.model.get_input_embeddings()
    head, tail = (torch.tensor([ids]) for ids in (tower._before, tower._after + target.ids[0].tolist()))
    logits = tower.model(inputs_embeds=torch.cat([embed(head), soft, embed(tail)], 1)).logits
    count = target.ids.shape[1]
    plain = torch.nn.functional.cross_entropy(logits[0, -count - 1 : -1], target.ids[0], reduction="sum")
    assert tower.loss(soft, target).sum.item() == pytest.approx(plain.item(), rel=1e-12)


def test_a_prompt_of_a_pictures_own_stands_in_the_users_turn():
    tower = talker()
    soft, few = soft_prompt(tower, 2), Decoding(max_new_tokens=5)
    asked = tower.generate(soft, few, prompts=[" which colour is the animal in it?", AFTER])
    other = talker(prompt=Prompt(before=BEFORE, after=" which colour is the animal in it?", chat=True))
    assert asked == [other.generate(soft[:1], few)[0], tower.generate(soft[1:], few)[0]]


def test_the_saved_prompt_brings_the_turns_whatever_the_template_becomes():
    tower = talker()
    saved = Prompt.from_json(json.loads(json.dumps(tower.prompt.as_json())))
    assert saved == tower.prompt and saved.turns is not None and saved.turns[0].startswith("<|im_start|>system")
    again = talker(template=None, prompt=saved)
    assert (again._before, again._after, again._end) == (tower._before, tower._after, tower._end)


def test_a_template_without_special_tokens_is_closed_by_its_text():
    tower = talker(PLAIN, special=())
    assert tower.tokenizer.decode(tower._end) == tower._end_text == "[over]"
    assert talker(NO_CLOSE, special=())._end == [2]


def test_examples_stand_in_the_users_turn():
    prompt = Prompt(before=BEFORE, chat=True).with_examples(["red apple"])
    assert talker(prompt=prompt).prompt.before == "look: red apple\nlook:"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template: take an instruct model, or leave out llm.prompt.chat"),
        ("{{ messages[0].content }}", "leaves out what user and assistant say"),
        ("{{ raise_exception('no assistants here') }}", "cannot be rendered .no assistants here."),
        ("{% for %}", "cannot be rendered"),
    ],
)
def test_a_template_that_will_not_do_is_one_sentence(template, message):
    with pytest.raises(TowerError, match=message):
        talker(template)
