"""An empty plan trains what TRL trains, bit for bit: weights and everything that is logged."""

import pytest
import torch
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from posttrain.intervention.plan import Plan, Replay
from posttrain.llm import rl
from posttrain.llm.kept import kept_of
from posttrain.llm.trainer import PlanGRPOTrainer, PlanRLOOTrainer
from posttrain.tuning import model, training

CLOCKS = ("runtime", "per_second", "step_time", "flos")
GRPO = {
    "grpo, two updates a batch": {"loss_type": "grpo", "num_iterations": 2},
    "dapo, accumulated": {"loss_type": "dapo", "gradient_accumulation_steps": 2},
    "dr_grpo, anchored": {"loss_type": "dr_grpo", "beta": 0.1},
    "bnpo, cool and cut off": {
        "loss_type": "bnpo", "temperature": 0.7, "top_p": 0.9, "top_k": 8,
        "mask_truncated_completions": True,
    },
    "cispo, ratio of a sequence": {
        "loss_type": "cispo", "num_iterations": 2, "gradient_accumulation_steps": 2,
        "importance_sampling_level": "sequence",
    },
}  # fmt: skip
RLOO = {
    "rloo": {"beta": 0.0},
    "rloo, anchored, accumulated": {"beta": 0.05, "gradient_accumulation_steps": 2},
}


def length(completions, **_):
    return [float(len(c[0]["content"]) % 4) for c in completions]


def trained(cls, config, tiny, sums, folder, *, lora=False, **more):
    """Weights after three steps, and what was logged."""
    training.silence()
    policy, tokenizer = model.load(tiny)
    args = {
        "output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none",
        "max_steps": 3, "per_device_train_batch_size": 8, "num_generations": 4,
        "max_completion_length": 5, "learning_rate": 1e-3, "logging_steps": 1, "seed": 7,
        "save_strategy": "no", "disable_tqdm": True, "activation_checkpointing": False, **config,
    }  # fmt: skip
    trainer = cls(
        model=policy,
        reward_funcs=length,
        args=(RLOOConfig if issubclass(cls, RLOOTrainer) else GRPOConfig)(**args),
        train_dataset=rl.prompts_of(sums[0][:24], stage="train"),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules="all-linear") if lora else None,
        **more,
    )
    trainer.train()
    logs = [
        {k: v for k, v in row.items() if not any(clock in k for clock in CLOCKS)}
        for row in trainer.state.log_history
    ]
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters()}, logs


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def check(plain, ours, config, tiny, sums, tmp_path, **more):
    torch.manual_seed(0)  # a new adapter is drawn before the trainer seeds anything
    theirs, their_log = trained(plain, config, tiny, sums, tmp_path / "plain", **more)
    torch.manual_seed(0)
    weights, log = trained(ours, config, tiny, sums, tmp_path / "ours", **more)
    assert same(theirs, weights)
    assert repr(their_log) == repr(log)  # nan is equal to nan
    start = model.load(tiny)[0].state_dict()
    assert any(not torch.equal(start[n], p) for n, p in weights.items() if n in start) or (
        more.get("lora") and any(p.any() for n, p in weights.items() if "lora_B" in n)
    )


@pytest.mark.parametrize("name", GRPO)
def test_grpo_under_an_empty_plan_is_trls(name, tiny, sums, tmp_path):
    check(GRPOTrainer, PlanGRPOTrainer, GRPO[name], tiny, sums, tmp_path)


@pytest.mark.parametrize("name", RLOO)
def test_rloo_under_an_empty_plan_is_trls(name, tiny, sums, tmp_path):
    check(RLOOTrainer, PlanRLOOTrainer, RLOO[name], tiny, sums, tmp_path)


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_an_adapter_under_an_empty_plan_is_trls(beta, tiny, sums, tmp_path):
    check(GRPOTrainer, PlanGRPOTrainer, {"beta": beta}, tiny, sums, tmp_path, lora=True)


def test_a_plan_that_keeps_something_is_not(tiny, sums, tmp_path):
    """The comparison sees a replay of one thousandth of the weight of the loss."""
    plain, _ = trained(GRPOTrainer, {}, tiny, sums, tmp_path / "plain")
    replay = Replay(weight=1e-3)(Plan()).replay
    kept = kept_of(replay, sums[0][:24], model.load(tiny)[1], batch=8, seed=0)
    ours, _ = trained(PlanGRPOTrainer, {}, tiny, sums, tmp_path / "ours", kept=kept)
    assert not same(plain, ours)
