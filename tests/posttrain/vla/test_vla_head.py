"""One constant bias restricts the softmax wherever logits are computed."""

import copy

import peft
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from posttrain.intervention.replay import label_logp
from posttrain.vla.head import HeadError, is_restricted, restrict, unrestrict

IDS = [3, 7, 11, 12]
SMALL = {
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.5,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def make(**more):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SMALL, **more}))


def batch(n=5, length=6):
    rng = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 20, (n, length), generator=rng)
    ids[:, -2:] = torch.tensor(IDS)[torch.randint(0, 4, (n, 2), generator=rng)]
    labels = torch.full_like(ids, -100)
    labels[:, -2:] = ids[:, -2:]
    return {"input_ids": ids, "labels": labels}


def truth(free, given):
    """Log-probabilities over the action tokens alone, of a model that is not restricted."""
    logps = free(input_ids=given["input_ids"]).logits[:, -3:-1, IDS].double().log_softmax(-1)
    place = torch.searchsorted(torch.tensor(IDS), given["input_ids"][:, -2:].contiguous())
    return logps, logps.gather(-1, place[..., None]).squeeze(-1)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nothing_but_actions_is_likely_in_any_precision(tied, dtype):
    model = make(tie_word_embeddings=tied)
    restrict(model, IDS)
    model = model.to(dtype)
    probs = model(**batch()).logits.float().softmax(-1)
    others = [i for i in range(20) if i not in IDS]
    assert probs[..., others].max() == 0
    assert torch.allclose(probs[..., IDS].sum(-1), torch.ones(5, 6), atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 1.6])
def test_trl_s_fused_head_is_restricted_exactly(tied, temperature):
    free, given = make(tie_word_embeddings=tied), batch()
    model = copy.deepcopy(free)
    restrict(model, IDS)
    add_fused_lm_head(model, temperature=temperature, outputs=("log_probs", "entropy"))
    out = model(**given, fused_lm_head=True)
    logits = free(input_ids=given["input_ids"]).logits[:, -3:-1, IDS].double() / temperature
    logps = logits.log_softmax(-1)
    place = torch.searchsorted(torch.tensor(IDS), given["input_ids"][:, -2:].contiguous())
    wanted = logps.gather(-1, place[..., None]).squeeze(-1)
    assert torch.allclose(out.log_probs[:, -2:].double(), wanted, atol=1e-5)
    entropy = -(logps.exp() * logps).sum(-1)
    assert torch.allclose(out.entropy[:, -2:].double(), entropy, atol=1e-5)
    out.log_probs.sum().backward()


def test_the_loss_and_the_log_probs_of_training_are_restricted():
    free, given = make(), batch()
    model = copy.deepcopy(free)
    restrict(model, IDS)
    _, wanted = truth(free, given)
    logps, mask = label_logp(model(**given).logits, given["labels"])
    assert torch.allclose(logps[mask].reshape(5, 2).double(), wanted, atol=1e-5)
    assert torch.allclose(model(**given).loss.double(), -wanted.mean(), atol=1e-5)


def test_generation_says_actions_only():
    model = make()
    restrict(model, IDS)
    torch.manual_seed(0)
    said = model.generate(batch()["input_ids"], do_sample=True, max_new_tokens=8)[:, 6:]
    assert set(said.unique().tolist()) <= set(IDS)


@pytest.mark.parametrize("fused", [True, False])
def test_rows_of_other_tokens_get_no_gradient_at_all(fused):
    model, given = make(tie_word_embeddings=False), batch()
    restrict(model, IDS)
    if fused:
        add_fused_lm_head(model)
        loss = model(**given, fused_lm_head=True).loss
    else:
        loss = model(**given).loss
    loss.backward()
    grad = model.lm_head.weight.grad
    assert (grad[[i for i in range(20) if i not in IDS]] == 0).all()
    assert (grad[IDS].abs().sum(1) > 0).all()


@pytest.mark.parametrize("tied", [True, False])
def test_the_bias_is_not_saved_and_the_weights_are(tmp_path, tied):
    free = make(tie_word_embeddings=tied)
    model = copy.deepcopy(free)
    restrict(model, IDS)
    assert set(model.state_dict()) == set(free.state_dict())
    assert not [name for name, _ in model.named_parameters() if name.endswith("lm_head.bias")]
    model.save_pretrained(tmp_path)
    again, told = LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not told["unexpected_keys"]
    assert not told["missing_keys"]
    assert not is_restricted(again)
    restrict(again, IDS)
    assert torch.equal(again(**batch()).logits, model(**batch()).logits)


def test_copies_stay_restricted_and_do_not_share():
    model = make()
    restrict(model, IDS)
    other = copy.deepcopy(model)
    assert is_restricted(other)
    unrestrict(model)
    assert is_restricted(other)
    assert not is_restricted(model)


def test_unrestricting_gives_the_model_back():
    free = make()
    model = copy.deepcopy(free)
    unrestrict(model)
    restrict(model, IDS)
    restrict(model, [1, 2])
    assert model(**batch()).logits.argmax(-1).unique().tolist() in ([1], [2], [1, 2])
    unrestrict(model)
    assert torch.equal(model(**batch()).logits, free(**batch()).logits)
    assert model.lm_head.bias is None


@pytest.mark.parametrize("target", ["all-linear", ["q_proj", "lm_head"]])
def test_adapters_leave_it_in_place(target):
    free, given = make(tie_word_embeddings=False), batch()
    model = copy.deepcopy(free)
    restrict(model, IDS)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=target))
    assert is_restricted(wrapped)
    _, wanted = truth(free, given)
    logps, mask = label_logp(wrapped(**given).logits, given["labels"])
    assert torch.allclose(logps[mask].reshape(5, 2).double(), wanted, atol=1e-5)
    logps.sum().backward()
    assert not [
        n
        for n in peft.get_peft_model_state_dict(wrapped, save_embedding_layers=True)
        if "bias" in n
    ]
    merged = wrapped.merge_and_unload()
    assert is_restricted(merged)
    assert torch.allclose(merged(**given).loss, wrapped(**given).loss)


def test_a_wrapped_model_can_be_restricted():
    wrapped = peft.get_peft_model(make(), peft.LoraConfig(r=2, target_modules="all-linear"))
    restrict(wrapped, IDS)
    assert set(wrapped(**batch()).logits.argmax(-1).unique().tolist()) <= set(IDS)


def test_what_squashes_logits_is_refused():
    config = Gemma2Config(**{**SMALL, "head_dim": 8}, final_logit_softcapping=30.0)
    with pytest.raises(HeadError, match=r"final_logit_softcapping = 30\.0"):
        restrict(Gemma2ForCausalLM(config), IDS)


def test_a_trained_bias_is_refused():
    model = make()
    model.lm_head = torch.nn.Linear(16, 20)
    with pytest.raises(HeadError, match="trained bias"):
        restrict(model, IDS)


def test_what_is_no_linear_head_is_refused():
    model = make()
    model.lm_head = torch.nn.Identity()
    with pytest.raises(HeadError, match="linear layer, got Identity"):
        restrict(model, IDS)


@pytest.mark.parametrize("ids", [[], [20], [-1]])
def test_tokens_outside_the_vocabulary_are_refused(ids):
    with pytest.raises(HeadError, match="vocabulary of 20"):
        restrict(make(), ids)
