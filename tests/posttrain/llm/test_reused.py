"""Rollouts of the diagnosis in RL's first batches."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from trl.trainer.utils import RepeatSampler

from posttrain.intervention.plan import Plan, Replay, Reset, Warmup
from posttrain.llm import prompts, reused, reward, rl
from posttrain.llm.sampling import rollouts, tokens_of, transformers_generator
from posttrain.llm.settings import Decoding, RegexReward, RlSettings
from posttrain.record import MetricsLog
from posttrain.tuning import model
from posttrain.tuning.honour import PlanError
from posttrain.tuning.world import World

JUDGE = reward.make_judge(RegexReward(pattern=r"[1357]"), scale=(0.0, 1.0))
ROLLOUT = Decoding(max_new_tokens=4)
GROUP = 4


def draw(tiny, rows, folder, *, samples=GROUP):
    """What the diagnosis leaves of its rollouts on seen prompts."""
    rollouts(
        rows, transformers_generator(*model.load(tiny)), JUDGE, ROLLOUT, samples=samples, batch=8,
        seed=5, folder=folder, enough=lambda _: False, tick=lambda _: None, world=World(),
        split="seen", kind="rollout",
    )  # fmt: skip
    return tokens_of(folder)


def job(tiny, sums, plan, folder, tokens, *, algorithm="grpo", source="diagnosis"):
    train, heldout = sums
    _, tokenizer = model.load(tiny)
    said = [(row, prompts.demonstration_ids(tokenizer, row)[1]) for row in heldout[:4]]
    return rl.Job(
        pi0=tiny,
        settings=RlSettings(
            algorithm=algorithm, steps=3, eval_every=3, eval_units=2, save_every=1, probe_units=4,
            warmup_from=source,
            trainer={"per_device_train_batch_size": 16, "num_generations": GROUP,
                     "learning_rate": 1e-2, "logging_steps": 1, "per_device_eval_batch_size": 2},
        ),
        plan=plan,
        experience=rl.Experience(
            rows=train[:40], heldout=heldout, pi0_rollouts=said, prior=0.5, alpha=0.05,
            scale=(0.0, 1.0), seen_tokens=tokens,
        ),
        judge=JUDGE, load=model.load, base=model.load(tiny)[0].state_dict, rollout=ROLLOUT,
        lora=None, seed=3, folder=folder / "checkpoints",
        metrics=MetricsLog(folder / "metrics.jsonl"), curve=MetricsLog(folder / "curve.jsonl"),
        world=World(),
    )  # fmt: skip


def heard(made):
    """Train, and give the units and completions of each batch of rollouts."""
    policy, tokenizer = made.load(made.pi0)
    trainer = rl._trainer(made, rl._config(made), policy, tokenizer, rl.callbacks.Recorder())
    found, drawn = [], []
    score = trainer._calculate_rewards

    def scored(inputs, prompts, completions, ids):
        if trainer.model.training:
            found.append(
                [(row["unit"], tuple(said)) for row, said in zip(inputs, ids, strict=True)]
            )
        return score(inputs, prompts, completions, ids)

    generate = trainer.model.generate

    def counted(*args, **given):
        out = generate(*args, **given)
        drawn.append((trainer.model.training, len(out)))
        return out

    trainer._calculate_rewards, trainer.model.generate = scored, counted
    trainer.train()
    return trainer, found, drawn


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_the_first_rollouts_are_the_diagnosis_own_token_by_token(tiny, sums, tmp_path, algorithm):
    tokens = draw(tiny, sums[0][:12], tmp_path / "seen")
    made = job(tiny, sums, Warmup(steps=1)(Plan()), tmp_path, tokens, algorithm=algorithm)
    trainer, batches, drawn = heard(made)
    # pi_0 speaks in the warm-up step and in the one after it, which moves the weights first.
    reused_units = []
    for batch in batches[:2]:
        for i, (unit, said) in enumerate(batch):
            assert said == tuple(tokens[unit][i % GROUP])
        reused_units += [unit for unit, _ in batch[::GROUP]]
    assert len(set(reused_units)) == 8
    logged = [row["regime/reused_rollouts"] for row in trainer.state.log_history
              if "regime/reused_rollouts" in row]  # fmt: skip
    assert logged == [16.0, 16.0]
    assert sum(rows for training, rows in drawn if training) == 16  # the third batch's
    own = [said for _, said in batches[2]]
    assert own != [tuple(tokens.get(u, [()] * 4)[i % GROUP]) for i, (u, _) in enumerate(batches[2])]


def test_what_the_diagnosis_did_not_draw_is_generated(tiny, sums, tmp_path, capsys):
    tokens = draw(tiny, sums[0][:3], tmp_path / "seen", samples=2)
    made = job(tiny, sums, Plan(), tmp_path, tokens)
    trainer, batches, drawn = heard(made)
    taken = [
        said == tuple(tokens[unit][i % GROUP])
        for i, (unit, said) in enumerate(batches[0])
        if i % GROUP < len(tokens.get(unit, ()))
    ]
    assert taken == [True] * 6
    assert sum(rows for training, rows in drawn if training) == 10 + 16 + 16
    logged = next(row for row in trainer.state.log_history if "regime/reused_rollouts" in row)
    assert logged["regime/reused_rollouts"] == 6
    said = capsys.readouterr()
    assert "has drawn 6 of these 16" in said.out + said.err


def test_reuse_learns_as_fresh_rollouts_do_and_resumes(tiny, sums, tmp_path):
    tokens = draw(tiny, sums[0][:12], tmp_path / "seen")
    plan = Warmup(steps=1)(Plan())
    whole, _ = rl.train(job(tiny, sums, plan, tmp_path / "run", tokens))
    for step in (2, 3):
        (tmp_path / "run" / "checkpoints" / f"checkpoint-{step}" / "complete.json").unlink()
    # Killed: what is left is checkpoint 1 when it was kept, else the start.
    again, _ = rl.train(job(tiny, sums, plan, tmp_path / "run", tokens))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize("shuffle", [True, False])
def test_trls_sampler_deals_what_comes_first_first(shuffle):
    units = [str(i) for i in range(20)]
    config = SimpleNamespace(seed=7, shuffle_dataset=shuffle)
    order = reused.dealt_first(units, ["13", "4", "8"], config)
    assert sorted(order) == list(range(20))
    sampler = RepeatSampler(order, 1, batch_size=1, shuffle=shuffle, seed=7)
    dealt = [units[order[i]] for i in sampler]
    assert dealt[:3] == ["13", "4", "8"]
    plain = [units[i] for i in RepeatSampler(units, 1, batch_size=1, shuffle=shuffle, seed=7)]
    assert dealt[3:] == [unit for unit in plain if unit not in {"13", "4", "8"}]


CONFIG = SimpleNamespace(
    steps_per_generation=1, num_iterations=1, gradient_accumulation_steps=1,
    generation_batch_size=16, num_generations=4, seed=0, shuffle_dataset=True, use_vllm=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("accumulation", "per_generation", "iterations", "wait", "batches"),
    [(1, 1, 1, 0, 1), (1, 1, 1, 4, 5), (4, 4, 1, 2, 3), (1, 4, 1, 2, 1), (1, 2, 2, 4, 2),
     (4, 1, 1, 1, 8)],
)  # fmt: skip
def test_batches_are_reused_while_the_policy_is_pi0(
    accumulation, per_generation, iterations, wait, batches
):
    given = {"steps_per_generation": per_generation, "num_iterations": iterations}
    config = SimpleNamespace(
        **{**vars(CONFIG), **given, "gradient_accumulation_steps": accumulation}
    )
    plan = Plan() if wait == 0 else Warmup(steps=wait)(Plan())
    assert reused.stored_of(plan, {}, [], config).batches == batches


@pytest.mark.parametrize(
    ("plan", "changed", "words"),
    [
        (Reset(parts=("policy",), how="interpolate")(Plan()), {}, "reset"),
        (Replay(prefix_share=0.5)(Plan()), {}, "prefix_share"),
        (Plan(), {"use_vllm": True}, "vLLM"),
    ],
)
def test_where_the_rollouts_would_not_be_pi0s_is_refused(plan, changed, words):
    with pytest.raises(PlanError, match=words):
        reused.stored_of(plan, {}, [], SimpleNamespace(**{**vars(CONFIG), **changed}))


def test_only_learners_with_rollouts_can_reuse_them():
    with pytest.raises(ValueError, match="warmup_from: sft takes no rollouts"):
        replace(RlSettings(), algorithm="sft", warmup_from="diagnosis")
