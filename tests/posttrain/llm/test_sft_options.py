"""TRL's own ways of doing SFT, through our pipeline."""

import importlib.metadata
import importlib.util
from dataclasses import replace

import pytest
import torch

from posttrain.llm import prompts, sft
from posttrain.llm.settings import Lora, ModelSettings, Quantization, SftSettings
from posttrain.recipe import RecipeError
from posttrain.record import MetricsLog
from posttrain.tuning import model, quantized
from posttrain.tuning.world import World

PACKED = {"packing": True, "max_length": 64}


def cloned(tiny, sums, folder, lora=None, **trainer):
    """Weights and held-out losses."""
    policy, tokenizer = model.load(tiny)
    given = {
        "max_steps": 10, "per_device_train_batch_size": 16, "learning_rate": 1e-2,
        "per_device_eval_batch_size": 64, "save_steps": 10, **trainer,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value != "unset"}
    return sft.train(
        policy, tokenizer, sums[0][:64], sums[1], SftSettings(trainer=given), lora=lora, seed=0,
        folder=folder / "c", log=MetricsLog(folder / "m.jsonl"), world=World(),
    )  # fmt: skip


def losses(*args, **trainer):
    return [loss for _, loss in cloned(*args, **trainer)[1]]


@pytest.mark.parametrize("lora", [None, Lora(rank=4)])
@pytest.mark.parametrize("option", [PACKED, {"padding_free": True, "max_length": None}])
def test_packed_and_padding_free_rows_are_learnt(tiny, sums, tmp_path, option, lora):
    trained, found = cloned(tiny, sums, tmp_path, lora, **option)
    assert found[-1][1] < found[0][1] - 0.05
    assert set(trained.state_dict()) == set(model.load(tiny)[0].state_dict())  # merged


def test_packed_rows_do_not_see_each_other(tiny, sums, tmp_path):
    """Nothing is learnt at rate 0, so the loss is the same however rows are laid out.

    Wrapped packing, which lets rows see their neighbours, is the control.
    """
    still = {"learning_rate": 0.0, "max_steps": 1}
    plain = losses(tiny, sums, tmp_path / "a", **still)[0]
    free = {"padding_free": True, "max_length": None}
    assert losses(tiny, sums, tmp_path / "b", **still, **free)[0] == pytest.approx(plain, abs=1e-5)
    assert losses(tiny, sums, tmp_path / "c", **still, **PACKED)[0] == pytest.approx(
        plain, abs=1e-5
    )
    wrapped = {**PACKED, "packing_strategy": "wrapped"}
    assert abs(losses(tiny, sums, tmp_path / "d", **still, **wrapped)[0] - plain) > 1e-4


def test_only_the_completion_is_learnt_unless_said_otherwise(tiny, sums, tmp_path):
    """The loss of D's completions, by hand, is the held-out loss before anything is learnt."""
    still = {"learning_rate": 0.0, "max_steps": 1}
    policy, tokenizer = model.load(tiny)
    batch = model.batch_of(
        [prompts.demonstration_ids(tokenizer, row) for row in sums[1]], 0, torch.device("cpu")
    )
    with torch.no_grad():
        logps, mask = model.token_logps(policy.eval(), batch)
    by_hand = float(-logps.sum() / mask.sum())
    only = losses(tiny, sums, tmp_path / "a", **still, completion_only_loss=True)[0]
    assert only == pytest.approx(by_hand, abs=1e-5)
    assert losses(tiny, sums, tmp_path / "b", **still)[0] == pytest.approx(by_hand, abs=1e-5)
    both = losses(tiny, sums, tmp_path / "c", **still, completion_only_loss=False)[0]
    assert abs(both - by_hand) > 1e-2


def test_packing_by_epochs_is_refused_with_a_sentence(tiny, sums, tmp_path):
    with pytest.raises(RecipeError, match=r"sft\.trainer\.packing.*set sft\.trainer\.max_steps"):
        cloned(tiny, sums, tmp_path, **PACKED, max_steps="unset")


def test_what_trl_refuses_names_the_section(tiny, sums, tmp_path):
    with pytest.raises(RecipeError, match=r"sft\.trainer: .*max_length"):
        cloned(tiny, sums, tmp_path, padding_free=True)


QLORA = ModelSettings(path="somebody/model", lora=Lora(), quantization=Quantization())


def test_quantised_weights_want_an_adapter_and_a_model():
    with pytest.raises(ValueError, match="set lora as well"):
        replace(QLORA, lora=None)
    with pytest.raises(ValueError, match="made on the spot"):
        replace(QLORA, path="tiny")


def test_without_bitsandbytes_or_a_gpu_quantisation_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(quantized.QuantizationError, match="bitsandbytes, which is not installed"):
        quantized.config_of(Quantization())
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(quantized.QuantizationError, match="CUDA GPU"):
        quantized.config_of(Quantization())


def test_quantisation_reaches_transformers_as_its_own_configuration(monkeypatch, tiny):
    """With a stand-in for bitsandbytes and a GPU: what `from_pretrained` would be given."""
    given = {}
    whole = model.load(tiny)[0]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda n: "0.49.0" if n == "bitsandbytes" else real(n)
    )

    def from_pretrained(path, **kwargs):
        given.update(kwargs)
        return whole

    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    prompts.load_base(replace(QLORA, path=str(tiny)), texts=(), seed=0)
    config = given["quantization_config"]
    assert config.load_in_4bit
    assert config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    assert config.bnb_4bit_use_double_quant
    given.clear()
    prompts.load_base(replace(QLORA, path=str(tiny), quantization=None), texts=(), seed=0)
    assert "quantization_config" not in given
    assert quantized.config_of(Quantization(bits=8)).load_in_8bit
