"""RL of a flow in the trainer of every robot policy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from posttrain.intervention.plan import Anchor, Plan, Replay
from posttrain.tuning import callbacks, training
from posttrain.tuning.honour import PlanError
from posttrain.vla import rl
from posttrain.vla.environments.make import make_fleet
from posttrain.vla.flow import tiny_pi0
from posttrain.vla.flow.chain import Chain, step_kl
from posttrain.vla.flow.policy import FlowPolicy, load_policy
from posttrain.vla.flow.scaling import from_data
from posttrain.vla.flow.trainer import FlowSFTTrainer, FlowVLATrainer
from posttrain.vla.frames import Frames
from posttrain.vla.maker import make
from posttrain.vla.rollout import play
from posttrain.vla.settings import DataSettings, EnvironmentSettings
from posttrain.vla.sft import Collate, numbers

WORLD = EnvironmentSettings(options={"actions": "continuous"}, envs=8)


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A flow that has not learnt much, D, and what it decides in a few episodes."""
    training.silence()
    whole = make(WORLD, DataSettings(episodes=24, heldout=6))
    fleet = make_fleet(WORLD)
    words = tiny_pi0.make_tokenizer(sorted({e.instruction for e in whole.episodes}))
    config = tiny_pi0.make_config(words, hidden=16, layers=1, chain=Chain(steps=3))
    policy = FlowPolicy(
        tiny_pi0.make_model(config).eval(), words, from_data(fleet.action_space, whole.actions)
    )
    folder = tmp_path_factory.mktemp("flow") / "pi0"
    policy.save(folder)
    played = play(
        policy, fleet, [1, 2, 3, 4], draws=lambda i: np.random.default_rng((9, i)),
        temperature=1.0, keep="decisions",
    )  # fmt: skip
    fleet.close()
    return folder, whole, played


@pytest.fixture
def job(cloned, started, tmp_path):
    folder, whole, played = started

    def build(plan=None, **given):
        found = cloned.job(tmp_path, plan, load=load_policy, **given)
        seen = [one.seen for one in played]
        from posttrain.vla.observation import join

        experience = replace(
            found.experience,
            demonstrations=whole.only(range(24)),
            watched=whole.only(range(24, 30)),
            decided=(join(seen), np.concatenate([one.tokens for one in played])),
        )
        return replace(
            found, pi0=folder, experience=experience, fleet=lambda: make_fleet(WORLD),
            base=load_policy(folder).model.state_dict,
        )  # fmt: skip

    return build


def trained(job):
    return {name: t.clone() for name, t in rl.train(job).model.state_dict().items()}


@pytest.mark.parametrize("estimator", ["k3", "exact"])
def test_a_plan_anchors_and_replays_a_flow(job, started, estimator):
    plan = Replay(weight=0.5)(Anchor(coefficient=0.1, estimator=estimator)(Plan()))
    one = job(plan)
    after = trained(one)
    before = load_policy(started[0]).model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    logged = [row for row in one.metrics.read() if "reward" in row]
    assert logged[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert all(np.isfinite(row["kl"]) for row in logged)
    assert logged[-1]["kl"] > 0
    assert {"regime/kl_to_pi0", "regime/nll_on_data", "replay/nll"} <= set(logged[-1])


def test_the_trainer_scores_what_was_played_and_its_exact_kl_is_the_gaussians(job):
    one = job(Anchor(coefficient=0.1, estimator="exact")(Plan()))
    fleet = make_fleet(WORLD)
    policy = load_policy(one.pi0)
    trainer = rl.trainer_of(one, rl.grpo_config(one), policy, fleet, callbacks.Recorder())
    assert isinstance(trainer, FlowVLATrainer)
    batch = trainer._generate_and_score_completions(
        [{"seed": start} for start in (1, 2, 3, 4) for _ in range(4)]
    )
    seen = trainer.seen.take(batch["rows"].tolist())
    plain = load_policy(one.pi0).model(**policy.rows(seen, batch["tokens"].numpy()))
    count = policy.tokens
    assert torch.allclose(batch["ref_per_token_logps"], plain.log_probs[:, -count:], atol=1e-4)
    with torch.no_grad():
        policy.model.action_out_proj.bias += 0.3
    taken, whole = trainer._says(trainer.model, batch["rows"], batch["tokens"])
    trainer._said = taken, whole
    kl = trainer._kl_beside("exact", (), batch, batch["completion_mask"])
    wanted = step_kl(whole[..., 0], plain.means[:, -count:], whole[..., 1])
    assert torch.allclose(kl, wanted * batch["completion_mask"], atol=1e-4)
    assert float(kl.detach().sum()) > 0
    fleet.close()


def test_what_a_flow_cannot_weigh_is_refused(job):
    one = job(Replay(weight=0.5, token_weight="dft")(Plan()))
    fleet = make_fleet(WORLD)
    with pytest.raises(PlanError, match="flow-matching loss"):
        rl.trainer_of(one, rl.grpo_config(one), load_policy(one.pi0), fleet, callbacks.Recorder())
    fleet.close()


def test_cloning_is_by_the_flow_matching_loss(started, tmp_path):
    from trl import SFTConfig

    folder, whole, _ = started
    policy = load_policy(folder)
    frames = Frames(whole, policy.tokenizer)
    trainer = FlowSFTTrainer(
        model=policy.model,
        args=SFTConfig(
            output_dir=str(tmp_path), max_steps=120, per_device_train_batch_size=32,
            learning_rate=5e-3, logging_steps=10, report_to="none", use_cpu=True,
            disable_tqdm=True, remove_unused_columns=False, max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True}, save_strategy="no",
            activation_checkpointing=False, bf16=False,
        ),
        train_dataset=numbers(list(range(8)) * 4),
        data_collator=Collate(frames, policy),
        processing_class=policy.processor,
    )  # fmt: skip
    training.quiet(trainer)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < 0.8 * losses[0]
