"""RL's trainer, rehearsed: on a sound pi_0, and on each thing that goes wrong in practice."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from posttrain.llm import prompts
from posttrain.llm.data import Row
from posttrain.llm.preflight.parity import prompts_check, reward_check, sampler_check
from posttrain.llm.preflight.reference import precision_check, reference_checks
from posttrain.llm.preflight.rehearsal import diagnosis_sampler, rehearse
from posttrain.llm.preflight.subject import Start
from posttrain.llm.reward import Judgement, make_judge
from posttrain.llm.settings import (
    DataSettings,
    Decoding,
    ExactReward,
    LlmRecipe,
    Lora,
    ModelSettings,
    RlSettings,
)
from posttrain.tuning import model


def recipe(algorithm="grpo", lora=None, rollout=None, **trainer):
    return LlmRecipe(
        kind="llm",
        name="r",
        data=DataSettings(path="unused"),
        reward=ExactReward(),
        model=ModelSettings(lora=lora),
        rollout=rollout or Decoding(max_new_tokens=5),
        rl=RlSettings(algorithm=algorithm, trainer={"per_device_train_batch_size": 8, **trainer}),
    )


JUDGE = make_judge(ExactReward(), scale=(0.0, 1.0))


def start(tiny):
    policy, tokenizer = model.load(tiny)
    return Start(policy, tokenizer, str(tiny), made=True)


def rehearsed(given, begin, rows, folder, judge=JUDGE, *, anchored=True):
    """All findings, by check."""
    ends = model.end_ids(begin.model, begin.processing)
    sampler = diagnosis_sampler(begin, rows[0], given.rollout)
    seen = rehearse(given, begin, rows, judge, folder)
    lora = given.model.lora is not None
    found = [
        *reference_checks(seen, begin, anchored=anchored, lora=lora),
        prompts_check(rows, seen, begin.processing),
        sampler_check(seen, sampler, ends=ends),
        reward_check(rows, seen, judge, begin.processing, ends=ends),
    ]
    return {f.check: f for f in found}


def wrong(found):
    return {check: f.severity for check, f in found.items() if f.severity != "ok"}


@pytest.mark.parametrize(
    ("algorithm", "lora"), [("grpo", None), ("grpo", Lora(rank=4)), ("rloo", None)]
)
def test_a_sound_pi0_passes_every_check(tiny, sums, tmp_path, algorithm, lora):
    found = rehearsed(recipe(algorithm, lora), start(tiny), sums[0][:4], tmp_path)
    assert wrong(found) == {}
    assert found["reference.pi0"].value["kl"] == pytest.approx(0, abs=1e-6)
    assert found["reference.pi0"].value["tokens"] > 4


def test_a_reference_from_a_path_that_is_not_pi0_stops(tiny, sums, tmp_path):
    """The policy was changed in memory; TRL reads its reference from the folder."""
    begin = start(tiny)
    with torch.no_grad():
        for parameter in begin.model.parameters():
            parameter.mul_(1.5)
    found = rehearsed(recipe(), begin, sums[0][:4], tmp_path)
    assert wrong(found) == {"reference.pi0": "stop"}
    assert found["reference.pi0"].value["kl"] > 1e-3


def test_without_an_anchor_another_reference_only_warns(tiny, sums, tmp_path):
    begin = start(tiny)
    with torch.no_grad():
        begin.model.get_input_embeddings().weight.mul_(2)
    found = rehearsed(recipe(), begin, sums[0][:4], tmp_path, anchored=False)
    assert wrong(found) == {"reference.pi0": "warn"}


@pytest.fixture(scope="module")
def adapter(tiny, tmp_path_factory):
    """A LoRA checkpoint of SFT, as peft writes it."""
    policy, tokenizer = model.load(tiny)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(policy, config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.5)
    folder = tmp_path_factory.mktemp("adapter")
    adapted.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_adapter_as_transformers_reads_it_is_frozen_and_anchored_to_its_base(
    adapter, sums, tmp_path
):
    policy = AutoModelForCausalLM.from_pretrained(adapter)
    begin = Start(policy, model.load(adapter)[1], str(adapter), made=True)
    found = rehearsed(recipe(), begin, sums[0][:4], tmp_path)
    assert wrong(found) == {"reference.pi0": "stop", "reference.trainable": "stop"}
    assert "the base model without it" in found["reference.pi0"].text
    assert "is_trainable=False" in found["reference.trainable"].text


def test_an_adapter_that_we_read_is_merged_and_sound(adapter, tiny, sums, tmp_path):
    policy, tokenizer = model.load(adapter)
    assert set(policy.state_dict()) == set(model.load(tiny)[0].state_dict())
    model.save(policy, tokenizer, tmp_path / "merged")
    assert wrong(rehearsed(recipe(), start(tmp_path / "merged"), sums[0][:4], tmp_path)) == {}


def test_the_merged_adapter_says_what_the_adapter_said(adapter, sums):
    merged, tokenizer = model.load(adapter)
    inside = AutoModelForCausalLM.from_pretrained(adapter).eval()
    batch = model.batch_of(
        [prompts.demonstration_ids(tokenizer, row) for row in sums[0][:4]], 0, torch.device("cpu")
    )
    with torch.no_grad():
        one, two = (model.token_logps(m, batch)[0] for m in (merged.eval(), inside))
    assert torch.allclose(one, two, atol=1e-5)


def test_dropout_is_felt_and_can_be_switched_off(tiny, sums, tmp_path):
    def dropped():
        policy, tokenizer = model.load(tiny)
        for layer in policy.model.layers:
            layer.mlp.act_fn = torch.nn.Sequential(layer.mlp.act_fn, torch.nn.Dropout(0.3))
        return Start(policy, tokenizer, str(tiny), made=True)

    found = rehearsed(recipe(), dropped(), sums[0][:4], tmp_path / "a")
    assert wrong(found) == {"reference.dropout": "warn"}
    assert "disable_dropout" in found["reference.dropout"].change
    off = recipe(disable_dropout=True)
    assert wrong(rehearsed(off, dropped(), sums[0][:4], tmp_path / "b")) == {}


def test_other_prompts_in_trl_stop(tiny, sums, tmp_path):
    begin = start(tiny)
    begin.processing.chat_template = "{% if loud is defined %}2{% endif %}" + (
        begin.processing.chat_template
    )
    found = rehearsed(recipe(chat_template_kwargs={"loud": True}), begin, sums[0][:4], tmp_path)
    assert wrong(found) == {"parity.prompts": "stop"}
    assert found["parity.prompts"].value["other"] == 4


def test_a_penalty_in_rl_alone_warns(tiny, sums, tmp_path):
    found = rehearsed(recipe(repetition_penalty=1.2, min_p=0.1), start(tiny), sums[0][:4], tmp_path)
    assert wrong(found) == {"parity.sampler": "warn"}
    assert set(found["parity.sampler"].value["differ"]) == {"repetition_penalty", "min_p"}


def test_settings_of_the_models_own_that_both_sides_obey_are_in_order(tiny, sums, tmp_path):
    """TRL leaves open what it does not set, and transformers fills it in from the model."""
    begin = start(tiny)
    begin.model.generation_config.no_repeat_ngram_size = 2
    sampler = diagnosis_sampler(begin, sums[0][0], Decoding(max_new_tokens=5))
    assert not sampler["own_loop"]
    assert wrong(rehearsed(recipe(), begin, sums[0][:4], tmp_path)) == {}


def test_settings_of_the_models_own_that_only_rl_obeys_warn():
    seen = SimpleNamespace(
        sampler={"temperature": 1.0, "top_p": 1.0, "top_k": 0, "eos_token_id": [1]},
        defaults={"no_repeat_ngram_size": 2},
    )
    ours = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    alone = sampler_check(seen, {"own_loop": True, **ours}, ends=[1])
    assert (alone.severity, set(alone.value["differ"])) == ("warn", {"no_repeat_ngram_size"})
    assert sampler_check(seen, {"own_loop": False, **ours}, ends=[1]).severity == "ok"
    stops = sampler_check(seen, {"own_loop": False, **ours}, ends=[1, 2])
    assert set(stops.value["differ"]) == {"eos_token_id"}


def test_a_models_own_repetition_penalty_is_obeyed_by_neither(tiny, sums, tmp_path):
    begin = start(tiny)
    begin.model.generation_config.repetition_penalty = 1.1
    assert wrong(rehearsed(recipe(), begin, sums[0][:4], tmp_path)) == {}


def test_a_reward_that_reads_more_than_the_text_has_no_parity(tiny, sums, tmp_path):
    def judge(rows, texts):
        return [Judgement(float("stage" in row)) for row in rows]

    found = rehearsed(recipe(), start(tiny), sums[0][:4], tmp_path, judge)
    assert found["parity.reward"].severity == "stop"


def test_columns_that_the_table_changes_have_no_parity(tiny, sums, tmp_path):
    """A column that the first row lacks is lost in TRL's table, for every row."""
    rows = [
        Row(unit=r.unit, prompt=r.prompt, completion=r.completion, answer=r.answer,
            columns={"hint": "x"} if i else {})
        for i, r in enumerate(sums[0][:4])
    ]  # fmt: skip

    def judge(given, texts):
        return [Judgement(float("hint" in row)) for row in given]

    found = rehearsed(recipe(), start(tiny), rows, tmp_path, judge)
    assert found["parity.reward"].severity == "stop"
    begin, silent = start(tiny), SimpleNamespace(rollouts=())
    alone = reward_check(rows, silent, judge, begin.processing, ends=[])
    assert alone.value["other"] == 3  # the demonstrations tell by themselves


def test_rounding_to_bfloat16_is_measured(tiny, sums):
    begin = start(tiny)
    rows = sums[0][:4]
    exact = precision_check(rows, begin.model, begin.processing, used=False)
    small = precision_check(rows, begin.model, begin.processing, used=True)
    assert exact.severity == small.severity == "ok"
    assert 0 < small.value["max_abs"] < 0.1
    with torch.no_grad():
        begin.model.get_input_embeddings().weight.mul_(5_000)  # logits in the hundreds
    coarse = precision_check(rows, begin.model, begin.processing, used=True)
    assert coarse.severity == "warn"
    assert begin.model.dtype == torch.float32


def test_only_what_rolls_out_is_rehearsed(tiny, sums, tmp_path):
    given = replace(recipe(), rl=RlSettings(algorithm="sft"))
    with pytest.raises(ValueError, match="grpo or rloo"):
        rehearse(given, start(tiny), sums[0][:2], JUDGE, tmp_path)
