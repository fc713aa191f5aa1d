"""The anchor of GRPO and RLOO: where its KL stands, what it weighs, and what its reference is."""

import shutil

import pytest
import torch

from posttrain.intervention.adaptive import steer
from posttrain.intervention.plan import Anchor, Plan, Warmup, chain
from posttrain.intervention.ramp import Ramp
from posttrain.intervention.reference import WrongReferenceError
from posttrain.llm import prompts, reward, rl
from posttrain.llm.settings import Decoding, Lora, RegexReward, RlSettings
from posttrain.llm.trainer import PlanGRPOTrainer
from posttrain.record import MetricsLog
from posttrain.tuning import anchored, model, reference
from posttrain.tuning.honour import PlanError
from posttrain.tuning.world import World

JUDGE = reward.make_judge(RegexReward(pattern=r"[1357]"), scale=(0.0, 1.0))
SGD = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.1}
"""Plain gradient descent without clipping, which a wrong factor cannot escape."""


def settings(algorithm="grpo", steps=4, **trainer):
    given = {"per_device_train_batch_size": 16, "num_generations": 4, "learning_rate": 1e-2,
             "logging_steps": 1, "per_device_eval_batch_size": 2}  # fmt: skip
    return RlSettings(
        algorithm=algorithm, steps=steps, eval_every=steps, eval_units=2, save_every=2,
        probe_units=4, replay_rows=8, trainer={**given, **trainer},
    )  # fmt: skip


def job(
    tiny, sums, plan, folder, *, chosen=None, lora=None, load=model.load, judge=JUDGE, tokens=4
):
    train, heldout = sums
    _, tokenizer = model.load(tiny)
    said = [(row, prompts.demonstration_ids(tokenizer, row)[1]) for row in heldout[:4]]
    return rl.Job(
        pi0=tiny,
        settings=chosen or settings(),
        plan=plan,
        experience=rl.Experience(
            rows=train[:64], heldout=heldout, pi0_rollouts=said, prior=0.5, alpha=0.05,
            scale=(0.0, 1.0),
        ),
        judge=judge,
        load=load,
        base=model.load(tiny)[0].state_dict,
        rollout=Decoding(max_new_tokens=tokens),
        lora=lora,
        seed=3,
        folder=folder / "checkpoints",
        metrics=MetricsLog(folder / "metrics.jsonl"),
        curve=MetricsLog(folder / "curve.jsonl"),
        world=World(),
    )  # fmt: skip


def train(tiny, sums, plan, folder, **given):
    trained, _ = rl.train(job(tiny, sums, plan, folder, **given))
    return {name: value.clone() for name, value in trained.state_dict().items()}


def column(folder, key):
    return [row[key] for row in MetricsLog(folder / "metrics.jsonl").read() if key in row]


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


def close(one, two, start, share=1e-3):
    """Whether two policies are the same, up to a share of how far the first has moved."""
    return all(
        (one[n] - two[n]).abs().max() <= share * (one[n] - start[n]).abs().max() + 1e-7 for n in one
    )


def trainer_of(tiny, sums, plan, folder, **given):
    """A trainer as `rl.train` makes it, with what it is checked on."""
    made = job(tiny, sums, plan, folder, **given)
    policy, tokenizer = made.load(made.pi0)
    probe = rl.probe_of(model.load(tiny)[0], tokenizer, made.experience, 4)
    recorder = rl.callbacks.Recorder()
    return rl._trainer(made, rl._config(made), policy, tokenizer, recorder), probe


class Rolled:
    """The rollouts and log-probabilities of a trainer's first batch, heard from outside."""

    def __init__(self, trainer):
        self.loss, self.batch = None, None
        inner = trainer.compute_loss

        def outer(model, inputs, **given):
            loss = inner(model, inputs, **given)
            if model.training:
                self.batch, self.loss = {k: v.clone() for k, v in inputs.items()}, loss
            return loss

        trainer.compute_loss = outer


def logps_of(policy, batch):
    """Log-probabilities of the completions, from plain logits."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    logits = policy(input_ids=ids, attention_mask=mask).logits.float().log_softmax(-1)
    picked = logits[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
    return picked[:, -batch["completion_ids"].shape[1] :]


NO_REWARD = reward.make_judge(RegexReward(pattern=r"never"), scale=(0.0, 1.0))
"""All rollouts are equally bad, so that RL has no gradient and only the anchor pulls."""


def test_k2_beside_the_loss_is_its_mean_a_token_by_hand(tiny, sums, tmp_path):
    """One step of gradient descent away from pi_0, against a loss written out here."""
    plan = Anchor(coefficient=0.5, estimator="k2")(Plan())
    other, tokenizer = model.load(tiny)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    start = {n: p.clone() for n, p in other.state_dict().items()}
    trainer, _ = trainer_of(
        tiny, sums, plan, tmp_path, load=lambda _: (other, tokenizer), judge=NO_REWARD,
        chosen=settings(steps=1, **SGD, lr_scheduler_type="constant"),
    )  # fmt: skip
    heard = Rolled(trainer)
    for callback in anchored.callbacks_of(trainer):
        trainer.add_callback(callback)
    trainer.train()
    moved = trainer.model.state_dict()

    policy, pi0 = model.load(tiny)[0], model.load(tiny)[0]
    policy.load_state_dict(start)
    mask = heard.batch["completion_mask"]
    with torch.no_grad():
        ref = logps_of(pi0, heard.batch)
    distance = (logps_of(policy, heard.batch) - ref).square() / 2
    (0.5 * (distance * mask).sum() / mask.sum()).backward()
    for name, parameter in policy.named_parameters():
        wanted = start[name] - 0.1 * parameter.grad
        assert torch.allclose(moved[name], wanted, atol=1e-6), name
        assert parameter.grad.abs().max() > 0
    whole = 0.5 * (distance.detach() * mask).sum() / mask.sum()
    assert float(heard.loss.detach()) == pytest.approx(float(whole), rel=1e-4)


@pytest.mark.parametrize("place", ["loss", "reward"])
def test_an_anchor_of_our_own_does_not_depend_on_how_a_batch_is_cut(tiny, sums, tmp_path, place):
    plan = Anchor(coefficient=2.0, estimator="k2", place=place)(Plan())
    cuts = {
        "one": settings(**SGD, per_device_train_batch_size=32),
        "four": settings(**SGD, per_device_train_batch_size=8, gradient_accumulation_steps=4),
    }
    found = {n: train(tiny, sums, plan, tmp_path / n, chosen=cut) for n, cut in cuts.items()}
    start = model.load(tiny)[0].state_dict()
    assert close(found["one"], found["four"], start)
    one, four = (column(tmp_path / n, "kl") for n in cuts)
    assert one == pytest.approx(four, rel=0.05)
    assert one[-1] > 1e-5


def test_k3_is_trls_own_bit_for_bit(tiny, sums, tmp_path):
    from trl import GRPOTrainer

    plan = Anchor(coefficient=0.2)(Plan())
    ours = train(tiny, sums, plan, tmp_path / "ours")
    made = job(tiny, sums, plan, tmp_path / "plain")
    policy, tokenizer = model.load(tiny)
    plain = GRPOTrainer(
        model=policy,
        reward_funcs=rl.reward_function(JUDGE, rl.callbacks.Recorder()),
        args=rl._config(made),
        train_dataset=rl.prompts_of(made.experience.rows, stage="train"),
        eval_dataset=rl.prompts_of(made.experience.heldout[:2], stage="eval"),
        processing_class=tokenizer,
    )
    plain.train()
    assert plain.beta == 0.2
    assert same(ours, plain.model.state_dict())


def test_k1_in_the_reward_of_grpo_is_subtracted_rollout_by_rollout(tiny, sums, tmp_path):
    """From a policy away from pi_0, with no other reward: the column is -c * sum(k1)."""
    plan = Anchor(coefficient=0.3, estimator="k1", place="reward")(Plan())
    other, tokenizer = model.load(tiny)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    trainer, _ = trainer_of(
        tiny, sums, plan, tmp_path, load=lambda _: (other, tokenizer), judge=NO_REWARD,
        chosen=settings(steps=1, learning_rate=0.0),
    )  # fmt: skip
    heard, seen = Rolled(trainer), []
    inner = trainer._calculate_rewards
    trainer._calculate_rewards = lambda *args: seen.append(inner(*args)) or seen[-1]
    for callback in anchored.callbacks_of(trainer):
        trainer.add_callback(callback)
    trainer.train()

    rewards = next(one for one in seen if len(one) == 16)
    mask = heard.batch["completion_mask"]
    with torch.no_grad():
        k1 = logps_of(trainer.model, heard.batch) - logps_of(model.load(tiny)[0], heard.batch)
    sums_of = (k1 * mask).sum(-1)
    assert torch.equal(rewards[:, 0], torch.zeros(16))
    # TRL shuffles rollouts after they are scored, so compare without order.
    assert torch.allclose(rewards[:, 1].sort().values, (-0.3 * sums_of).sort().values, atol=1e-5)
    assert sums_of.abs().max() > 1e-3
    logged = next(row for row in trainer.state.log_history if "kl" in row)
    assert logged["kl"] == pytest.approx(float((k1 * mask).sum() / mask.sum()), rel=1e-4)
    assert logged["rewards/kl/mean"] == pytest.approx(float(rewards[:, 1].mean()), rel=1e-4)
    assert logged["reward"] == pytest.approx(0, abs=1e-6)  # what the reward says, without the KL


def test_a_kl_in_the_reward_holds_the_policy_near_pi0(tiny, sums, tmp_path):
    far = train(tiny, sums, Plan(), tmp_path / "free", chosen=settings(steps=8))
    plan = Anchor(coefficient=3.0, estimator="k1", place="reward")(Plan())
    near = train(tiny, sums, plan, tmp_path / "held", chosen=settings(steps=8))
    distance = [column(tmp_path / name, "regime/kl_to_pi0")[-1] for name in ("free", "held")]
    assert distance[1] < 0.5 * distance[0]
    assert not same(far, near)


def test_an_unscorable_rollout_gets_no_reward_from_its_kl(tiny, sums, tmp_path, monkeypatch):
    from trl import GRPOTrainer

    plan = Anchor(coefficient=0.3, estimator="k1", place="reward")(Plan())
    trainer, _ = trainer_of(tiny, sums, plan, tmp_path)
    plain = torch.tensor([[1.0, 0.0], [torch.nan, torch.nan]])

    class Scored(PlanGRPOTrainer):
        _rollout_kl = staticmethod(lambda _: torch.tensor([2.0, 2.0]))

    trainer.__class__, trainer.coefficient = Scored, 0.3
    trainer.model.train()
    monkeypatch.setattr(GRPOTrainer, "_calculate_rewards", lambda *_: plain.clone())
    found = trainer._calculate_rewards([{}] * 2, [], [], [])
    assert found[0].tolist() == pytest.approx([1.0, -0.6])
    assert found[1].isnan().all()


def test_a_ramp_from_and_to_zero_keeps_the_reference(tiny, sums, tmp_path):
    for name, ramp in (("up", Ramp(0.0, 0.4, steps=4)), ("down", Ramp(0.4, 0.0, steps=2))):
        train(tiny, sums, Anchor(coefficient=ramp)(Plan()), tmp_path / name)
        assert column(tmp_path / name, "regime/anchor") == pytest.approx(
            [ramp(i) for i in range(4)]
        )
        assert len(column(tmp_path / name, "kl")) == 4
    assert len(column(tmp_path / "down", "kl")) == 4


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_an_adaptive_coefficient_answers_to_the_logged_kl(tiny, sums, tmp_path, algorithm):
    where = {"estimator": "k1", "place": "reward"} if algorithm == "rloo" else {}
    plan = chain(Warmup(steps=1), Anchor(coefficient=0.5, target=0.02, rate=0.9, **where))(Plan())
    train(tiny, sums, plan, tmp_path, chosen=settings(algorithm, steps=6))
    used, found = column(tmp_path, "regime/anchor"), column(tmp_path, "kl")
    wanted = [0.5, 0.5]  # nothing can be learnt from a policy that cannot move
    for distance in found[1:-1]:
        wanted.append(steer(wanted[-1], distance, target=0.02, rate=0.9))
    assert used == pytest.approx(wanted, rel=1e-5)
    assert len(set(used)) > 3


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
@pytest.mark.parametrize(
    "anchor",
    [
        Anchor(coefficient=0.3, target=0.01, rate=0.9, reference="synced", every=1, mix=0.5),
        Anchor(coefficient=0.3, estimator="k2", reference="reset", every=1),
        Anchor(coefficient=0.3, estimator="k1", place="reward", reference="reset", trigger=1e-4),
    ],
)
def test_a_moved_reference_resumes_to_the_same_weights(tiny, sums, tmp_path, anchor, lora):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    unbroken = train(tiny, sums, anchor(Plan()), whole, lora=lora)
    assert column(whole, "regime/reference_moved_at")
    shutil.copytree(whole, broken)
    (broken / "checkpoints" / "checkpoint-4" / "complete.json").unlink()  # killed while saving
    resumed = train(tiny, sums, anchor(Plan()), broken, lora=lora)
    assert same(unbroken, resumed)
    for name in ("kl", "regime/anchor", "regime/kl_to_pi0"):
        assert column(whole, name) == column(broken, name), name
    assert set(unbroken) == set(model.load(tiny)[0].state_dict())  # no trace of adapters


def test_a_lost_reference_is_not_replaced_in_silence(tiny, sums, tmp_path):
    plan = Anchor(reference="synced", every=1)(Plan())
    train(tiny, sums, plan, tmp_path)
    (tmp_path / "checkpoints" / "checkpoint-4" / "complete.json").unlink()
    (tmp_path / "checkpoints" / "checkpoint-2" / "reference.safetensors").unlink()
    with pytest.raises(PlanError, match="the moved reference is lost"):
        train(tiny, sums, plan, tmp_path)


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_a_reset_makes_the_policy_the_reference_and_forgets_the_moments(tiny, sums, tmp_path, lora):
    from transformers import TrainerCallback

    plan = Anchor(coefficient=0.1, reference="reset", every=2)(Plan())
    trainer, probe = trainer_of(tiny, sums, plan, tmp_path, lora=lora)
    anchored.verify(trainer, probe)
    found = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer=None, **_):
            policy = reference.policy_logps(trainer, probe.rollouts)
            ref = reference.reference_logps(trainer, probe.rollouts)
            found.append((float((policy - ref).abs().max()), len(optimizer.state)))

    for callback in (*anchored.callbacks_of(trainer), Watch()):
        trainer.add_callback(callback)
    trainer.train()
    distances, moments = zip(*found, strict=True)
    assert distances[0] > 1e-3 < distances[2]
    assert distances[1] == pytest.approx(0, abs=1e-5)
    assert moments[1] == 0 < moments[0]
    assert distances[3] > 1e-3  # nothing is reset after the last step


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_syncing_moves_the_weights_by_the_mix(tiny, sums, tmp_path, lora):
    """Twice: the second mixture is of two different policies, and still exact for an adapter."""
    plan = Anchor(reference="synced", every=1, mix=0.25)(Plan())
    trainer, probe = trainer_of(tiny, sums, plan, tmp_path, lora=lora)
    anchored.verify(trainer, probe)
    moving = anchored.callbacks_of(trainer)[1].reference
    torch.manual_seed(0)

    def weights(which):
        if lora is None:
            return dict(which.named_parameters())
        name = "ref" if which is moving else "default"
        return {
            n: m.scaling[name] * m.lora_B[name].weight @ m.lora_A[name].weight
            for n, m in trainer.model.named_modules()
            if hasattr(m, "lora_A")
        }

    ref = trainer.ref_model if lora is None else moving
    wanted = {n: w.detach().clone() for n, w in weights(ref).items()}
    for _ in range(2):
        with torch.no_grad():
            for p in trainer.model.parameters():
                if p.requires_grad:
                    p.add_(0.1 * torch.randn_like(p))
        lost = moving.follow(0.25)
        wanted = {
            n: 0.25 * w.detach() + 0.75 * wanted[n] for n, w in weights(trainer.model).items()
        }
        assert lost == pytest.approx(0, abs=1e-6)
        for n, w in weights(ref).items():
            assert torch.allclose(w, wanted[n], atol=1e-5), n


def test_a_mixture_that_does_not_fit_is_the_nearest_that_does():
    torch.manual_seed(0)
    policy = (torch.randn(12, 2), torch.randn(2, 9))
    ref = (torch.randn(12, 3), torch.randn(3, 9))
    left, right, lost = reference.mixed(policy, ref, 0.4)
    whole = 0.4 * policy[0] @ policy[1] + 0.6 * ref[0] @ ref[1]
    u, sizes, vh = torch.linalg.svd(whole)
    nearest = u[:, :3] * sizes[:3] @ vh[:3]
    assert torch.allclose(left @ right, nearest, atol=1e-4)
    assert lost == pytest.approx(float(sizes[3:].norm() / sizes.norm()), rel=1e-4)
    assert lost > 0.01
    left, right, lost = reference.mixed(policy, ref, 1.0)
    assert torch.equal(left @ right, policy[0] @ policy[1])
    assert (left.shape, right.shape, lost) == ((12, 3), (3, 9), 0.0)


def adapter_folder(tiny, where, *, scale):
    """An SFT adapter of the model in `tiny`, as peft writes it; a scale of 0 is no SFT at all."""
    from peft import LoraConfig, get_peft_model

    base, tokenizer = model.load(tiny)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear"))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(scale * torch.randn_like(parameter))
    adapted.save_pretrained(where)
    tokenizer.save_pretrained(where)
    return where


def pi0_of(folder):
    """The base with its adapter, by peft's own means."""
    from peft import AutoPeftModelForCausalLM

    return AutoPeftModelForCausalLM.from_pretrained(folder).eval()


def test_an_adapter_is_loaded_as_the_model_that_it_makes(tiny, sums, tmp_path):
    folder = adapter_folder(tiny, tmp_path / "sft", scale=0.3)
    loaded, tokenizer = model.load(folder)
    ids = torch.tensor([prompts.prompt_ids(tokenizer, sums[0][0].prompt)])
    with torch.no_grad():
        merged, wanted = loaded(ids).logits, pi0_of(folder)(ids).logits
        base = model.load(tiny)[0](ids).logits
    assert torch.allclose(merged, wanted, atol=1e-5)
    assert not torch.allclose(merged, base, atol=1e-2)
    assert all(p.requires_grad for p in loaded.parameters())  # not frozen with its adapter
    assert not hasattr(loaded, "peft_config")


def test_lora_on_merged_lora_is_anchored_to_pi0(tiny, sums, tmp_path):
    """The reference is the policy without the new adapter, which is pi_0 and not its base."""
    folder = adapter_folder(tiny, tmp_path / "sft", scale=0.3)
    pi0 = model.save(*model.load(folder), tmp_path / "pi0") or tmp_path / "pi0"
    plan = Anchor(coefficient=0.1)(Plan())
    train(pi0, sums, plan, tmp_path / "run", lora=Lora(rank=2))
    assert column(tmp_path / "run", "kl")[0] == pytest.approx(0, abs=1e-6)


def test_a_reference_from_the_base_of_an_adapter_is_refused(tiny, sums, tmp_path):
    """Full fine-tuning straight from an adapter: TRL reads the reference from the base's folder."""
    folder = adapter_folder(tiny, tmp_path / "sft", scale=0.3)
    with pytest.raises(WrongReferenceError):
        train(folder, sums, Anchor(coefficient=0.1)(Plan()), tmp_path / "run")


def peft_trainer(tiny, sums, folder, adapter, *, beta=0.1, trainable=True):
    """Our trainer with a policy that is a base and an SFT adapter, as TRL's users give it."""
    from peft import PeftModel

    made = job(tiny, sums, Anchor(coefficient=0.1)(Plan()), folder)
    base, tokenizer = model.load(tiny)
    policy = PeftModel.from_pretrained(base, adapter, is_trainable=trainable)
    config = rl._config(made)
    config.beta = beta
    trainer = PlanGRPOTrainer(
        model=policy,
        reward_funcs=rl.reward_function(JUDGE, rl.callbacks.Recorder()),
        args=config,
        train_dataset=rl.prompts_of(made.experience.rows, stage="train"),
        eval_dataset=rl.prompts_of(made.experience.heldout[:8], stage="eval"),
        processing_class=tokenizer,
        anchor=made.plan.anchor,
    )
    probe = rl.probe_of(pi0_of(adapter), tokenizer, made.experience, 4)
    return trainer, probe


def test_a_base_and_its_adapter_are_anchored_to_both(tiny, sums, tmp_path):
    adapter = adapter_folder(tiny, tmp_path / "sft", scale=0.3)
    trainer, probe = peft_trainer(tiny, sums, tmp_path, adapter)
    anchored.verify(trainer, probe)
    assert "ref" in trainer.model.peft_config
    assert trainer.model.active_adapter == "default"
    trainable = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert trainable
    assert all(".default." in name for name in trainable)
    # The trap: without TRL's copy of the adapter the reference is the base model.
    trainer.model.delete_adapter("ref")
    with pytest.raises(WrongReferenceError, match="the base model before SFT"):
        anchored.verify(trainer, probe)


def test_a_moving_reference_of_a_base_and_its_adapter_starts_as_pi0(tiny, sums, tmp_path):
    adapter = adapter_folder(tiny, tmp_path / "sft", scale=0.3)
    trainer, probe = peft_trainer(tiny, sums, tmp_path, adapter)
    reference.AdapterReference(trainer)
    anchored.verify(trainer, probe)
    assert trainer.model.active_adapter == "default"
    frozen = [n for n, p in trainer.model.named_parameters() if not p.requires_grad]
    assert any(".ref." in name for name in frozen)
    assert all(".ref." in n or ".default." not in n for n in frozen)


def test_dropout_in_the_policy_is_refused_since_the_anchor_would_feel_it(tiny, sums, tmp_path):
    def load(path):
        policy, tokenizer = model.load(path)
        policy.model.norm = torch.nn.Sequential(policy.model.norm, torch.nn.Dropout(0.2))
        return policy, tokenizer

    plan = Anchor(coefficient=0.1)(Plan())
    trainer, probe = trainer_of(tiny, sums, plan, tmp_path, load=load)
    with pytest.raises(WrongReferenceError, match="dropout is active"):
        anchored.verify(trainer, probe)


def test_a_reference_that_trl_leaves_out_is_refused(tiny, sums, tmp_path):
    adapter = adapter_folder(tiny, tmp_path / "sft", scale=0.0)
    with pytest.raises(PlanError, match=r"rl\.trainer\.beta: 0"):
        peft_trainer(tiny, sums, tmp_path, adapter, beta=0.0)
