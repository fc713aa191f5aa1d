"""A run that is resumed after its first epoch deals the prompts that the unbroken one would."""

import shutil

import torch

from posttrain.intervention.plan import Plan
from posttrain.llm import prompts, reward, rl
from posttrain.llm.settings import Decoding, RegexReward, RlSettings
from posttrain.record import MetricsLog
from posttrain.tuning import model
from posttrain.tuning.world import World

JUDGE = reward.make_judge(RegexReward(pattern=r"[1357]"), scale=(0.0, 1.0))


def train(tiny, sums, folder):
    """Five steps of epochs of two."""
    rows, heldout = sums
    _, tokenizer = model.load(tiny)
    said = [(row, prompts.demonstration_ids(tokenizer, row)[1]) for row in heldout[:4]]
    job = rl.Job(
        pi0=tiny,
        settings=RlSettings(
            steps=5, eval_every=5, eval_units=4, save_every=1, probe_units=4,
            trainer={"per_device_train_batch_size": 8, "num_generations": 2, "logging_steps": 1,
                     "learning_rate": 1e-2, "per_device_eval_batch_size": 4,
                     "save_total_limit": None},
        ),
        plan=Plan(),
        experience=rl.Experience(
            rows=rows[:8], heldout=heldout, pi0_rollouts=said, prior=0.5, alpha=0.05,
            scale=(0.0, 1.0),
        ),
        judge=JUDGE,
        load=model.load,
        base=model.load(tiny)[0].state_dict,
        rollout=Decoding(max_new_tokens=4),
        lora=None,
        seed=3,
        folder=folder / "checkpoints",
        metrics=MetricsLog(folder / "metrics.jsonl"),
        curve=MetricsLog(folder / "curve.jsonl"),
        world=World(),
    )  # fmt: skip
    trained, _ = rl.train(job)
    return {name: value.clone() for name, value in trained.state_dict().items()}


def test_a_run_resumed_at_and_inside_a_later_epoch_ends_the_same(tiny, sums, tmp_path):
    unbroken = train(tiny, sums, tmp_path / "whole")
    for last in (2, 3):
        broken = tmp_path / str(last)
        shutil.copytree(tmp_path / "whole", broken)
        for step in range(last + 1, 6):
            shutil.rmtree(broken / f"checkpoints/checkpoint-{step}")
        resumed = train(tiny, sums, broken)
        assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken), last
