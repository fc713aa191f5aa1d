import shutil

import pytest
import torch

from posttrain.llm.data import Row
from posttrain.llm.prompts import demonstration_ids
from posttrain.tuning import model, tiny
from posttrain.tuning.model import ModelError, batch_of, token_logps


def row(question, answer):
    return Row(unit="u", prompt=({"role": "user", "content": question},), completion=answer)


def test_a_made_model_survives_saving(tiny, sums):
    policy, tokenizer = model.load(tiny)
    ids = torch.tensor([demonstration_ids(tokenizer, sums[0][0])[0]])
    again, _ = model.load(tiny)
    assert torch.equal(policy(ids).logits, again(ids).logits)


def test_the_tiny_tokenizer_reads_digits_one_by_one_and_says_them_together():
    tokenizer = tiny.make_tokenizer(["Calculate 12 + 345."])
    prompt, completion = demonstration_ids(tokenizer, row("Calculate 12 + 345.", "357"))
    words = ["<|user|>", "Calculate", "1", "2", "+", "3", "4", "5", ".", "<|assistant|>"]
    assert tokenizer.convert_ids_to_tokens(prompt) == words
    assert tokenizer.convert_ids_to_tokens(completion) == ["3", "5", "7", "<|end|>"]
    assert tokenizer.decode(completion, skip_special_tokens=True) == "357"


def test_the_same_seed_makes_the_same_model():
    tokenizer = tiny.make_tokenizer(["a"])
    one, two, other = (tiny.make_model(tokenizer, hidden=16, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.lm_head.weight, two.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


@torch.no_grad()
def test_log_probabilities_do_not_see_the_padding(tiny, sums):
    policy, tokenizer = model.load(tiny)
    pairs = [demonstration_ids(tokenizer, r) for r in sums[0][:6]]
    pairs.append((pairs[0][0] + pairs[0][0], pairs[0][1]))
    where, pad = torch.device("cpu"), tokenizer.pad_token_id
    together, mask = token_logps(policy, batch_of(pairs, pad, where))
    for i, pair in enumerate(pairs):
        alone, only = token_logps(policy, batch_of([pair], pad, where))
        assert together[i][mask[i]] == pytest.approx(alone[0][only[0]], abs=1e-5)
        naive = torch.log_softmax(policy(torch.tensor([[*pair[0], *pair[1]]])).logits[0], -1)
        expected = [naive[len(pair[0]) - 1 + j, t] for j, t in enumerate(pair[1])]
        assert alone[0][only[0]] == pytest.approx(torch.stack(expected), abs=1e-5)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(ModelError, match="cannot load 'no/such'"):
        model.load("no/such")
    with pytest.raises(ModelError, match="cannot load"):
        model.load(tmp_path)


def test_pickled_weights_are_not_read(tiny, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(tiny, folder)
    policy, _ = model.load(tiny)
    (folder / "model.safetensors").unlink()
    torch.save(policy.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot load"):
        model.load(folder)


def test_a_tokenizer_without_a_chat_template_is_refused(tiny, tmp_path):
    folder = tmp_path / "plain"
    shutil.copytree(tiny, folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        model.load(folder)


def test_a_template_that_rewrites_the_prompt_is_refused(tiny):
    _, tokenizer = model.load(tiny)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ loop.length }}{{ m['content'] }}{% endfor %}"
    )
    with pytest.raises(ModelError, match="not a prefix"):
        demonstration_ids(tokenizer, row("1 + 1", "2"))
