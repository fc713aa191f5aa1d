"""RL of a policy that acts: the same plan and mechanics as everywhere, on episodes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from posttrain.intervention.kl import categorical_kl
from posttrain.intervention.plan import Anchor, Plan, Replay, Reset, Warmup
from posttrain.intervention.reference import WrongReferenceError
from posttrain.tuning import callbacks
from posttrain.tuning.honour import PlanError
from posttrain.tuning.settings import Lora, MonitorSettings
from posttrain.vla import rl
from posttrain.vla.environments.make import make_fleet
from posttrain.vla.frames import Frames
from posttrain.vla.policy import load_policy
from posttrain.vla.starts import Start


def weights(policy):
    return {name: t.clone() for name, t in policy.model.state_dict().items()}


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def built(cloned, tmp_path):
    """A trainer that is about to train, with its fleet closed afterwards."""
    fleets = []

    def build(plan=None, **given):
        job = cloned.job(tmp_path, plan, **given)
        fleets.append(make_fleet(cloned.environment))
        config = rl.grpo_config(job)
        rl.check(job, config)
        return rl.trainer_of(job, config, job.load(job.pi0), fleets[-1], callbacks.Recorder())

    yield build
    for fleet in fleets:
        fleet.close()


def rows(trainer):
    return [{"seed": start} for start in (1, 2, 3, 4) for _ in range(4)]


def test_an_empty_plan_trains_and_the_curve_is_kept(cloned, tmp_path):
    job = cloned.job(tmp_path)
    before = weights(load_policy(cloned.pi0))
    after = weights(rl.train(job))
    assert not same(before, after)
    assert [row["step"] for row in job.curve.read()] == [0, 2, 4]
    assert all(len(row["unit"]) == 6 for row in job.curve.read())
    assert all("/" in unit for unit in job.curve.read()[0]["unit"])
    logged = [row for row in job.metrics.read() if "reward" in row]
    assert {"episode/success", "episode/rows", "regime/kl_to_pi0", "regime/nll_on_data"} <= set(
        logged[-1]
    )


def test_a_killed_run_ends_with_the_same_weights(cloned, tmp_path):
    plan = Replay(weight=0.5)(Anchor(coefficient=0.05, estimator="exact")(Plan()))
    whole = weights(rl.train(cloned.job(tmp_path / "whole", plan)))

    class KilledError(Exception):
        pass

    job = cloned.job(tmp_path / "cut", plan)
    step = rl.training.Keep.on_step_end

    def die(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KilledError
        return step(self, args, state, control, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl.training.Keep, "on_step_end", die)
        with pytest.raises(KilledError):
            rl.train(job)
    assert same(whole, weights(rl.train(job)))


def test_the_loss_is_that_of_a_hand_written_step(built):
    trainer = built(trainer={"gradient_accumulation_steps": 1})
    policy = load_policy(trainer.policy.model.name_or_path)
    batch = trainer._generate_and_score_completions(rows(trainer))
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    ours = trainer.compute_loss(trainer.model, batch)
    taken = policy.rows(trainer.seen.take(batch["rows"].tolist()), batch["tokens"].numpy())
    labels = taken.pop("labels")[:, 1:]
    ids = list(policy.tokenizer.ids)
    logits = policy.model(**taken).logits[:, :-1, ids]
    logp = logits.log_softmax(-1)[labels != -100]
    chosen = logp.gather(1, batch["tokens"].flatten()[:, None]).squeeze(1)
    ratio = (chosen - chosen.detach()).exp()
    counted = batch["completion_mask"].flatten().bool()
    wanted = -(ratio * batch["advantages"])[counted].sum() / batch["num_items_in_batch"]
    torch.testing.assert_close(ours, wanted)


def test_rows_that_nothing_pulls_at_are_left_out_and_change_nothing(built):
    trainer = built()
    left_out = trainer._generate_and_score_completions(rows(trainer))
    trainer.in_loss = True  # as an anchor would have it: every decision is looked at
    whole = trainer._generate_and_score_completions(rows(trainer))
    assert len(whole["rows"]) > len(left_out["rows"])
    assert whole["num_items_in_batch"] == left_out["num_items_in_batch"]
    trainer.in_loss, trainer.current_gradient_accumulation_steps = False, 1

    def gradient(batch, seen):
        trainer.seen = seen
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, batch).backward()
        grads = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        return torch.cat([grad.flatten() for grad in grads])

    trainer.model.train()
    seen = trainer.seen
    with_all = gradient(whole, seen)
    again = trainer._generate_and_score_completions(rows(trainer))
    trainer.model.train()
    without = gradient(again, trainer.seen)
    torch.testing.assert_close(with_all, without, atol=1e-5, rtol=1e-3)


def test_a_batch_without_any_signal_gives_no_gradient_and_does_not_fail(built):
    trainer = built()
    trainer.return_of = lambda _: 1.0
    batch = trainer._generate_and_score_completions(rows(trainer))
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in trainer.model.parameters())


def test_rows_fill_every_micro_batch(built):
    trainer = built(trainer={"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4})
    batch = trainer._generate_and_score_completions(rows(trainer))
    assert len(batch["rows"]) % 4 == 0
    spare = len(batch["rows"]) - int(batch["completion_mask"][:, 0].sum())
    assert 0 <= spare < 4


@pytest.mark.parametrize("estimator", ["exact", "k3", "k2"])
def test_the_anchor_adds_its_kl(built, estimator):
    trainer = built(Anchor(coefficient=0.3, estimator=estimator)(Plan()))
    torch.manual_seed(0)
    with torch.no_grad():
        for p in trainer.model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    trainer.return_of = lambda _: 1.0  # no advantage: the anchor alone is left
    batch = trainer._generate_and_score_completions(rows(trainer))
    trainer.current_gradient_accumulation_steps = 1
    trainer.begin_step(0.3)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    with torch.no_grad():
        _, here = trainer._pass(trainer.model, batch)
        _, there = trainer._pass(trainer.ref_model, batch)
    kl = categorical_kl(here, there).squeeze(1)
    if estimator != "exact":
        taken = batch["tokens"][..., None]
        gap = (there - here).gather(-1, taken).flatten()
        kl = gap.exp() - gap - 1 if estimator == "k3" else gap**2 / 2
    counted = batch["completion_mask"].flatten().bool()
    assert float(kl.mean()) > 1e-4
    wanted = 0.3 * kl[counted].sum() / batch["num_items_in_batch"]
    torch.testing.assert_close(loss.detach(), wanted, rtol=1e-4, atol=1e-7)


def test_an_anchor_to_another_model_is_refused(cloned, tmp_path):
    def load(path):
        policy = load_policy(path)
        with torch.no_grad():
            for p in policy.model.parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
        return policy

    plan = Anchor(coefficient=0.1, estimator="exact")(Plan())
    with pytest.raises(WrongReferenceError):
        rl.train(cloned.job(tmp_path, plan, load=load))


def test_replay_adds_the_cloning_loss(built):
    trainer = built(Replay(weight=0.7)(Plan()))
    trainer.return_of = lambda _: 1.0
    batch = trainer._generate_and_score_completions(rows(trainer))
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    replay = trainer.replay
    kept = replay.kept(None)
    chosen = replay.rows_at(kept, trainer_batch(trainer))
    taken = replay.batch(chosen, torch.device("cpu"))
    labels = taken.pop("labels")[:, 1:]
    logp = trainer.model(**taken).logits[:, :-1].log_softmax(-1)
    nll = -logp.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)[labels != -100].mean()
    torch.testing.assert_close(loss, 0.7 * nll)


def trainer_batch(trainer):
    from posttrain.tuning.keep import Batch

    return Batch(step=0, micro=0, micros=1, accumulation=1, rank=0, world=1)


def test_a_warm_up_leaves_the_weights_where_they_are(cloned, tmp_path):
    after = rl.train(cloned.job(tmp_path, Warmup(steps=4)(Plan())))
    assert same(weights(load_policy(cloned.pi0)), weights(after))


def test_resets_moving_references_and_the_monitor_run_as_everywhere(cloned, tmp_path):
    plan = Anchor(coefficient=0.02, estimator="exact", reference="synced", every=2)(
        Replay(weight=0.2)(Reset(parts=("last_layers",), every=2)(Plan()))
    )
    job = cloned.job(tmp_path, plan)
    rl.train(job)
    assert any("regime/reference_moved_at" in row for row in job.metrics.read())
    watched = cloned.job(tmp_path / "watched", monitor=MonitorSettings(window=2))
    watched = replace(
        watched,
        experience=replace(
            watched.experience,
            heldout=[Start(s.seed, "red") for s in watched.experience.heldout],
            policy_returns={f"red/{s.seed}": [0.5] for s in watched.experience.heldout},
        ),
    )
    rl.train(watched)
    assert any("monitor/J" in row for row in watched.metrics.read())


def test_an_adapter_is_trained_and_anchored_to_pi_0(cloned, tmp_path):
    plan = Anchor(coefficient=0.1, estimator="exact")(Plan())
    after = rl.train(cloned.job(tmp_path, plan, lora=Lora(rank=2, alpha=4)))
    before = weights(load_policy(cloned.pi0))
    assert set(before) == set(weights(after))
    assert not same(before, weights(after))


def test_cloning_further_takes_as_many_updates_and_no_plan(cloned, tmp_path):
    job = cloned.job(tmp_path, algorithm="sft")
    rl.train(job)
    assert [row["step"] for row in job.curve.read()] == [0, 2, 4]
    with pytest.raises(PlanError, match="further cloning"):
        rl.train(cloned.job(tmp_path / "two", Replay(weight=1.0)(Plan()), algorithm="sft"))


def test_a_gate_needs_to_know_where_demonstrations_began(cloned, tmp_path):
    plan = Replay(weight=0.5, gate="map")(Plan())
    with pytest.raises(PlanError, match=r"replay\.gate"):
        rl.train(cloned.job(tmp_path, plan))
    episodes = cloned.demonstrations.episodes[:16]
    starts = [Start(e.seed, e.task) for e in episodes]
    job = cloned.job(tmp_path / "known", plan, rows=starts)
    units = [start.unit for start in starts]
    job = replace(
        job,
        experience=replace(
            job.experience,
            policy_returns={unit: [float(i % 2)] for i, unit in enumerate(units)},
            dataset_returns={unit: [1.0] for unit in units},
            demonstrations=cloned.demonstrations.only(range(16)),
        ),
    )
    rl.train(job)
    found = [row["regime/replay_rows"] for row in job.metrics.read() if "regime/replay_rows" in row]
    wanted = sum(e.length for i, e in enumerate(episodes) if i % 2 == 0)
    assert found[0] == wanted


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Replay(share=0.5), "mix data"),
        (Anchor(coefficient=0.1, place="reward", estimator="k1"), "anchor"),
        (Anchor(coefficient=0.1, term="bc"), "'bc'"),
    ],
)
def test_what_cannot_be_done_is_refused(cloned, tmp_path, plan, words):
    with pytest.raises(PlanError, match=words):
        rl.train(cloned.job(tmp_path, plan(Plan())))


def test_other_losses_are_refused(built):
    with pytest.raises(PlanError, match="loss_type"):
        built(trainer={"loss_type": "grpo"})


def test_several_epochs_use_the_probabilities_of_the_sampler(built):
    trainer = built(trainer={"num_iterations": 2})
    batch = trainer._generate_and_score_completions(rows(trainer))
    assert batch["old_per_token_logps"].shape == batch["completion_ids"].shape
    with torch.no_grad():
        torch.testing.assert_close(
            batch["old_per_token_logps"], trainer._pass(trainer.model, batch)[0]
        )


def test_frames_repeat_the_last_action_where_an_episode_ends_within_a_chunk(cloned):
    tokenizer = replace(load_policy(cloned.pi0).tokenizer, chunk=3)
    frames = Frames(cloned.demonstrations, tokenizer)
    first = cloned.demonstrations.episodes[0]
    actions = cloned.demonstrations.actions[list(first.rows)]
    for k in range(first.length):
        wanted = [actions[min(k + j, first.length - 1)] for j in range(3)]
        assert frames.tokens[k].tolist() == np.array(wanted).tolist()
