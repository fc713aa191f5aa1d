import json

import pytest

from posttrain.llm.preflight import offload
from posttrain.llm.preflight.offload import Offload, made_elsewhere, offload_check

RISKY = Offload(stage=2, cpu_optimizer=True, accumulation=8)


@pytest.mark.parametrize(
    ("version", "severity"),
    [("0.15.1", "stop"), ("0.15.2", "stop"), ("0.18.9", "stop"), ("0.19.0", "ok"),
     ("0.19.5+cu12", "ok"), (None, "unknown")],
)  # fmt: skip
def test_the_release_decides_where_gradients_were_lost(version, severity):
    found = offload_check("sft.trainer", RISKY, version)
    assert found.severity == severity
    if version == "0.18.9":
        assert "keeps 1 of 8 micro-batches" in found.text


@pytest.mark.parametrize(
    "fine",
    [
        Offload(stage=3, cpu_optimizer=True, accumulation=8),
        Offload(stage=2, cpu_optimizer=False, accumulation=8),
        Offload(stage=2, cpu_optimizer=True, accumulation=1),
        None,
    ],
)
def test_other_combinations_were_never_wrong(fine):
    assert offload_check("sft.trainer", fine, "0.18.0").severity == "ok"


def test_a_deepspeed_file_is_read_with_the_trainers_accumulation(tmp_path):
    zero = {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    config = {"zero_optimization": zero, "gradient_accumulation_steps": "auto"}
    file = tmp_path / "ds.json"
    file.write_text(json.dumps(config))
    trainer = {"deepspeed": str(file), "gradient_accumulation_steps": 8}
    assert offload.from_trainer(trainer) == RISKY
    assert offload.from_trainer({"deepspeed": config}) == Offload(
        stage=2, cpu_optimizer=True, accumulation=1
    )
    assert offload.from_trainer({}) is None


def test_an_accelerate_file_is_read(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(
        "distributed_type: DEEPSPEED\n"
        "deepspeed_config: {zero_stage: 2, offload_optimizer_device: cpu,\n"
        "  gradient_accumulation_steps: 1}\n"
    )
    assert offload.from_accelerate(file, {"gradient_accumulation_steps": 8}) == RISKY
    file.write_text("distributed_type: MULTI_GPU\n")
    assert offload.from_accelerate(file, {}) is None


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.json"):
        offload.from_trainer({"deepspeed": str(tmp_path / "gone.json")})


def test_weights_do_not_say_how_they_were_made():
    found = made_elsewhere("somebody/sft")
    assert found.severity == "unknown"
    assert "0.19.0" in found.change
