"""Every kind of reset in RL of a language model, full and with an adapter, GRPO and RLOO."""

import pytest
import torch
from transformers import TrainerCallback

from posttrain.intervention.plan import Anchor, Plan, Replay, Reset, Warmup, chain
from posttrain.llm import prompts, reward, rl
from posttrain.llm.honour import honour
from posttrain.llm.settings import Decoding, Lora, RegexReward, RlSettings
from posttrain.record import MetricsLog
from posttrain.tuning import model
from posttrain.tuning import tiny as made
from posttrain.tuning.honour import PlanError
from posttrain.tuning.interventions import interventions
from posttrain.tuning.world import World

JUDGE = reward.make_judge(RegexReward(pattern=r"[1357]"), scale=(0.0, 1.0))
BOTH = pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
DATA = Replay(weight=1e-3)
STILL = Warmup(steps=2)
"""No step of two moves the weights, so that a reset is all that happens to them."""


def base_of(tiny):
    """The model before SFT, which is another than pi_0."""
    _, tokenizer = model.load(tiny)
    return made.make_model(tokenizer, hidden=32, layers=2, seed=9).state_dict()


def job(tiny, sums, plan, folder, algorithm, *, steps=2, lora=None):
    train, heldout = sums
    _, tokenizer = model.load(tiny)
    said = [(row, prompts.demonstration_ids(tokenizer, row)[1]) for row in heldout[:4]]
    return rl.Job(
        pi0=tiny,
        settings=RlSettings(
            algorithm=algorithm, steps=steps, eval_every=steps, eval_units=2, save_every=2,
            probe_units=4, replay_rows=4,
            trainer={"per_device_train_batch_size": 8, "num_generations": 4,
                     "learning_rate": 1e-2, "logging_steps": 1, "per_device_eval_batch_size": 2},
        ),
        plan=plan,
        experience=rl.Experience(
            rows=train[:16], heldout=heldout, pi0_rollouts=said, prior=0.5, alpha=0.05,
            scale=(0.0, 1.0),
        ),
        judge=JUDGE, load=model.load, base=lambda: base_of(tiny),
        rollout=Decoding(max_new_tokens=4), lora=lora, seed=3, folder=folder / "checkpoints",
        metrics=MetricsLog(folder / "metrics.jsonl"), curve=MetricsLog(folder / "curve.jsonl"),
        world=World(),
    )  # fmt: skip


def weights(tiny, sums, plan, folder, algorithm):
    trained, _ = rl.train(job(tiny, sums, plan, folder, algorithm))
    return trained.state_dict()


@BOTH
def test_a_restart_is_the_base_with_d_beside_it(tiny, sums, tmp_path, algorithm):
    restart = Reset(parts=("policy",), how="interpolate", keep=0.0)
    plan = chain(restart, Replay(weight=1.0), STILL)(Plan())
    found, base = weights(tiny, sums, plan, tmp_path, algorithm), base_of(tiny)
    assert all(torch.equal(found[name], base[name]) for name in base)
    assert not torch.equal(base["lm_head.weight"], model.load(tiny)[0].lm_head.weight)
    logged = [row["replay/nll"] for row in MetricsLog(tmp_path / "metrics.jsonl").read()
              if "replay/nll" in row]  # fmt: skip
    assert len(logged) == 2
    assert min(logged) > 0


@BOTH
def test_interpolation_is_towards_the_base(tiny, sums, tmp_path, algorithm):
    plan = chain(Reset(parts=("policy",), how="interpolate", keep=0.25), STILL)(Plan())
    found, base = weights(tiny, sums, plan, tmp_path, algorithm), base_of(tiny)
    pi0 = model.load(tiny)[0].state_dict()
    for name, value in found.items():
        assert torch.allclose(value, 0.25 * pi0[name] + 0.75 * base[name], atol=1e-6), name


@BOTH
def test_shrink_and_perturb_keeps_a_share_and_adds_noise(tiny, sums, tmp_path, algorithm):
    reset = Reset(parts=("policy",), how="shrink_perturb", keep=0.9, noise=0.5)
    found = weights(tiny, sums, chain(reset, DATA, STILL)(Plan()), tmp_path, algorithm)
    pi0 = model.load(tiny)[0].state_dict()
    rest = found["model.layers.0.mlp.up_proj.weight"] - 0.9 * pi0[
        "model.layers.0.mlp.up_proj.weight"
    ]  # fmt: skip
    std = model.load(tiny)[0].config.initializer_range
    assert float(rest.std()) == pytest.approx(0.5 * std, rel=0.1)
    assert float(rest.mean()) == pytest.approx(0, abs=0.1 * std)


@BOTH
def test_fresh_last_layers_leave_the_others(tiny, sums, tmp_path, algorithm):
    plan = chain(Reset(parts=("last_layers",), layers=1), DATA, STILL)(Plan())
    found = weights(tiny, sums, plan, tmp_path, algorithm)
    pi0 = model.load(tiny)[0].state_dict()
    changed = {name for name in found if not torch.equal(found[name], pi0[name])}
    assert changed
    assert all(name.startswith("model.layers.1.") for name in changed)


def watched(tiny, sums, plan, folder, algorithm, look, *, lora=None):
    """What `look` sees before and after the reset of step 2 of 3, and at the end."""
    given = job(tiny, sums, plan, folder, algorithm, steps=3, lora=lora)
    policy, tokenizer = given.load(given.pi0)
    trainer = rl._trainer(given, rl._config(given), policy, tokenizer, rl.callbacks.Recorder())
    found = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, optimizer=None, **_):
            found.append(look(model, optimizer))

    for callback in (
        Look(),
        *interventions(given, trainer, base_of(tiny), None),
        Look(),
    ):
        trainer.callback_handler.callbacks.append(callback)
    trainer.train()
    before, after = found[2], found[3]  # a pair a step
    assert found[1] == found[0]  # no reset at step 1
    return before, after


def size_of_adapter(policy, _):
    """Norms of the adapters' factors, and of the products that they add."""
    layers = [m for m in policy.modules() if hasattr(m, "lora_A") and "default" in m.lora_A]
    a = [m.lora_A["default"].weight for m in layers]
    b = [m.lora_B["default"].weight for m in layers]
    return (
        sum(float(x.detach().norm()) for x in a),
        sum(float(x.detach().norm()) for x in b),
        sum(float(x.detach().sum()) for x in a),
    )


@BOTH
@pytest.mark.parametrize("how", ["fresh", "interpolate", "shrink_perturb"])
def test_an_adapter_is_drawn_anew_or_moved_towards_pi0(tiny, sums, tmp_path, algorithm, how):
    plan = Reset(parts=("adapter",), how=how, every=2, keep=0.5, noise=0.0)(Plan())
    before, after = watched(
        tiny, sums, plan, tmp_path, algorithm, size_of_adapter, lora=Lora(rank=2)
    )
    assert before[1] > 0
    if how == "fresh":
        assert after[1] == 0  # B = 0: the policy is pi_0 again
        assert after[0] == pytest.approx(before[0], rel=0.2)
        assert after[2] != before[2]
    else:
        assert after[1] == pytest.approx(0.5 * before[1], rel=1e-5)
        kept = 1.0 if how == "interpolate" else 0.5
        assert after[0] == pytest.approx(kept * before[0], rel=1e-5)


@BOTH
@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_the_optimizer_forgets(tiny, sums, tmp_path, algorithm, lora):
    plan = Reset(parts=("optimizer",), every=2)(Plan())
    before, after = watched(
        tiny, sums, plan, tmp_path, algorithm, lambda _, o: len(o.state), lora=lora
    )
    assert before > 0 == after


def test_a_reset_of_the_adapter_leaves_the_reference(tiny, sums, tmp_path):
    def factors(policy, _):
        def norm(name):
            layers = [m for m in policy.modules() if hasattr(m, "lora_B") and name in m.lora_B]
            return sum(float(m.lora_B[name].weight.detach().norm()) for m in layers)

        return norm("default"), norm("ref")

    moving = Anchor(coefficient=0.1, reference="synced", every=2, mix=1.0)
    plan = chain(moving, Reset(parts=("adapter",), every=2))(Plan())
    given = {"algorithm": "grpo", "look": factors, "lora": Lora(rank=2)}
    before, after = watched(tiny, sums, plan, tmp_path, **given)
    assert before[0] > 0 == before[1]
    assert after[0] == 0 < after[1]  # the reference took the policy's, then the policy was reset


def test_what_is_frozen_under_an_adapter_cannot_be_reset():
    plan = Reset(parts=("policy",), how="interpolate", keep=0.0)(Plan())
    with pytest.raises(PlanError, match="adapter cannot reset 'policy'"):
        honour(plan, generations=4, lora=True)
