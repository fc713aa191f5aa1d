"""RL of a tiny model that has learned nothing: what is kept, not what is gained."""

import json
import shutil

import pytest
import torch

from posttrain.intervention.plan import Anchor, Plan, Replay, Reset, Warmup, chain
from posttrain.intervention.ramp import Ramp
from posttrain.intervention.reference import WrongReferenceError
from posttrain.llm import prompts, reward, rl
from posttrain.llm.honour import honour
from posttrain.llm.settings import Decoding, Lora, RegexReward, RlSettings
from posttrain.record import MetricsLog
from posttrain.tuning import model
from posttrain.tuning.honour import PlanError
from posttrain.tuning.world import World

WORLD = World()
ROLLOUT = Decoding(max_new_tokens=4)
JUDGE = reward.make_judge(RegexReward(pattern=r"[1357]"), scale=(0.0, 1.0))


def settings(**trainer):
    given = {"per_device_train_batch_size": 16, "num_generations": 4, "learning_rate": 1e-2,
             "logging_steps": 1, "per_device_eval_batch_size": 8}  # fmt: skip
    return RlSettings(
        steps=4, eval_every=2, eval_units=8, save_every=2, probe_units=8, replay_rows=8,
        trainer={**given, **trainer},
    )  # fmt: skip


def experience(tiny, sums):
    train, heldout = sums
    _, tokenizer = model.load(tiny)
    said = [(row, prompts.demonstration_ids(tokenizer, row)[1]) for row in heldout[:8]]
    return rl.Experience(
        rows=train[:64], heldout=heldout, pi0_rollouts=said, prior=0.5, alpha=0.05, scale=(0.0, 1.0)
    )


def job(tiny, sums, plan, folder, *, chosen=None, lora=None, seed=3, load=model.load):
    return rl.Job(
        pi0=tiny,
        settings=chosen or settings(),
        plan=plan,
        experience=experience(tiny, sums),
        judge=JUDGE,
        load=load,
        base=model.load(tiny)[0].state_dict,
        rollout=ROLLOUT,
        lora=lora,
        seed=seed,
        folder=folder / "checkpoints",
        metrics=MetricsLog(folder / "metrics.jsonl"),
        curve=MetricsLog(folder / "curve.jsonl"),
        world=WORLD,
    )


def train(tiny, sums, plan, folder, **given):
    trained, _ = rl.train(job(tiny, sums, plan, folder, **given))
    return {name: value.clone() for name, value in trained.state_dict().items()}


def rows(folder, name="metrics.jsonl"):
    return MetricsLog(folder / name).read()


def column(folder, key):
    return [row[key] for row in rows(folder) if key in row]


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


KEEP_ALL = chain(
    Anchor(coefficient=Ramp(0.2, 0.0, steps=3)),
    Replay(weight=Ramp(1.0, 0.1, steps=3), share=0.25, token_weight="chord"),
    Warmup(steps=1),
)(Plan())


def test_an_empty_plan_is_plain_grpo_bit_for_bit(tiny, sums, tmp_path):
    from trl import GRPOTrainer

    ours = train(tiny, sums, Plan(), tmp_path)
    policy, tokenizer = model.load(tiny)
    recorder = rl.callbacks.Recorder()
    given = experience(tiny, sums)
    plain = GRPOTrainer(
        model=policy,
        reward_funcs=rl.reward_function(JUDGE, recorder),
        args=rl._config(job(tiny, sums, Plan(), tmp_path / "plain")),
        train_dataset=rl.prompts_of(given.rows, stage="train"),
        eval_dataset=rl.prompts_of(given.heldout[:8], stage="eval"),
        processing_class=tokenizer,
    )
    plain.train()
    theirs = plain.model.state_dict()
    start = model.load(tiny)[0].state_dict()
    assert same(ours, theirs)
    assert not same(ours, start)


def test_a_killed_run_resumes_to_the_same_weights_and_records(tiny, sums, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    unbroken = train(tiny, sums, KEEP_ALL, whole)
    shutil.copytree(whole, broken)
    last = broken / "checkpoints" / "checkpoint-4"
    (last / "complete.json").unlink()  # killed while it was saving
    (last / "model.safetensors").write_bytes(b"torn")
    resumed = train(tiny, sums, KEEP_ALL, broken)
    assert same(unbroken, resumed)
    for name in ("metrics.jsonl", "curve.jsonl"):
        assert rows(whole, name) == rows(broken, name)


def test_the_same_seed_gives_the_same_run_and_another_does_not(tiny, sums, tmp_path):
    one = train(tiny, sums, KEEP_ALL, tmp_path / "a")
    two = train(tiny, sums, KEEP_ALL, tmp_path / "b")
    other = train(tiny, sums, KEEP_ALL, tmp_path / "c", seed=4)
    assert same(one, two)
    assert not same(one, other)


def test_replay_does_not_depend_on_how_a_batch_is_cut(tiny, sums, tmp_path):
    """Plain gradient descent without clipping, which a wrong factor could not escape."""
    plain = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.1}
    plan = Replay(weight=1.0, token_weight="dft")(Plan())
    cuts = {
        "one": settings(**plain, per_device_train_batch_size=32),
        "four": settings(**plain, per_device_train_batch_size=8, gradient_accumulation_steps=4),
    }
    found = {
        name: train(tiny, sums, plan, tmp_path / name, chosen=cut) for name, cut in cuts.items()
    }
    nll = [column(tmp_path / name, "replay/nll") for name in cuts]
    assert nll[0][:1] == pytest.approx(nll[1][:1], rel=1e-5)
    start = model.load(tiny)[0].state_dict()
    for name, value in found["one"].items():
        moved = (value - start[name]).abs().max()
        assert (value - found["four"][name]).abs().max() <= 1e-3 * moved + 1e-7, name


def test_the_anchor_follows_its_ramp_after_the_warm_up(tiny, sums, tmp_path):
    train(tiny, sums, KEEP_ALL, tmp_path)
    betas = column(tmp_path, "regime/anchor")
    assert betas == pytest.approx([0.2, 0.2, 0.2 * 2 / 3, 0.2 / 3], abs=2e-6)
    assert column(tmp_path, "regime/replay_weight") == pytest.approx([1.0, 1.0, 0.7, 0.4])


def test_a_share_of_every_group_is_demonstrations_and_not_in_the_policys_reward(
    tiny, sums, tmp_path
):
    train(tiny, sums, Replay(share=0.25)(Plan()), tmp_path)
    assert column(tmp_path, "regime/replay_share") == pytest.approx([0.25] * 4)
    given, own = column(tmp_path, "reward"), column(tmp_path, "regime/on_policy_reward")
    demonstrations = [
        float(JUDGE([row.reward_columns()], [row.completion])[0].value) for row in sums[0][:64]
    ]
    injected = [4 * g - 3 * o for g, o in zip(given, own, strict=True)]
    assert all(0 <= x <= 1 for x in injected)
    assert sum(injected) / 4 == pytest.approx(sum(demonstrations) / 64, abs=0.3)


def test_the_policy_does_not_move_while_it_warms_up(tiny, sums, tmp_path):
    still = train(tiny, sums, Warmup(steps=4)(Plan()), tmp_path / "still")
    assert same(still, model.load(tiny)[0].state_dict())
    assert column(tmp_path / "still", "regime/kl_to_pi0") == pytest.approx([0.0] * 4, abs=1e-7)
    train(tiny, sums, Plan(), tmp_path / "moving")
    assert column(tmp_path / "moving", "regime/kl_to_pi0")[-1] > 1e-3


def test_every_gauge_is_logged_without_an_intervention(tiny, sums, tmp_path):
    train(tiny, sums, Plan(), tmp_path)
    for key in ("regime/J", "regime/prior", "regime/stability", "regime/plasticity",
                "regime/kl_to_pi0", "regime/nll_on_data"):  # fmt: skip
        assert column(tmp_path, key), key
    curve = rows(tmp_path, "curve.jsonl")
    assert [row["step"] for row in curve] == [0, 2, 4]
    assert all(len(row["unit"]) == 8 == len(set(row["unit"])) for row in curve)
    means = [sum(row["return"]) / 8 for row in curve]
    assert column(tmp_path, "regime/J") == pytest.approx(means)
    assert column(tmp_path, "regime/plasticity")[-1] == pytest.approx(max(means) - min(means))


def test_an_adapter_is_anchored_to_pi0_without_a_second_model(tiny, sums, tmp_path):
    plan = Anchor(coefficient=0.1)(Plan())
    merged = train(tiny, sums, plan, tmp_path, lora=Lora(rank=4))
    start = model.load(tiny)[0].state_dict()
    assert set(merged) == set(start)
    assert not same(merged, start)


def test_a_reference_that_is_not_pi0_is_refused(tiny, sums, tmp_path):
    """The policy is loaded from one folder, TRL takes the reference from another."""
    wrong = tmp_path / "base"
    _, tokenizer = model.load(tiny)
    from posttrain.tuning import tiny as made

    model.save(made.make_model(tokenizer, hidden=32, layers=2, seed=9), tokenizer, wrong)

    def load(path):
        policy, tokenizer = model.load(path)
        policy.config._name_or_path = str(wrong)
        return policy, tokenizer

    with pytest.raises(WrongReferenceError):
        train(tiny, sums, Anchor(coefficient=0.1)(Plan()), tmp_path, load=load)


def test_a_reset_policy_is_still_anchored_to_pi0(tiny, sums, tmp_path):
    plan = chain(Reset(parts=("last_layers",)), Replay(weight=1.0), Anchor(coefficient=0.1))(Plan())
    train(tiny, sums, plan, tmp_path / "reset")
    train(tiny, sums, Anchor(coefficient=0.1)(Plan()), tmp_path / "whole")
    first = [column(tmp_path / name, "kl")[0] for name in ("reset", "whole")]
    assert first[0] > 1e-4  # away from pi_0 from the start
    assert first[1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Anchor(term="bc")(Plan()), "anchor by 'bc'"),
        (Anchor(estimator="k1")(Plan()), "anchor nothing .arXiv 2506.09477"),
        (Anchor(estimator="exact")(Plan()), "estimator 'exact'"),
        (Replay(share=0.9)(Plan()), "replay.share up to 4 of a group of 4"),
        (Replay(share=0.5, prefix_share=0.5)(Plan()), "and replay.prefix_share up to 2"),
        (Reset(parts=("critic",))(Plan()), "cannot reset 'critic'"),
        (Reset(parts=("adapter",), every=2)(Plan()), "cannot reset 'adapter'"),
        (Reset(parts=("optimizer",))(Plan()), "set reset.every"),
        (Reset(parts=("last_layers",))(Plan()), "without replay"),
    ],
)
def test_what_grpo_cannot_do_is_refused_with_its_field(plan, words):
    with pytest.raises(PlanError, match=words):
        honour(plan, generations=4, lora=False)


def test_checkpoints_inside_a_cycle_of_rollouts_are_refused(tiny, sums, tmp_path):
    chosen = settings(num_iterations=4)
    with pytest.raises(PlanError, match="inside a cycle of 4"):
        train(tiny, sums, Plan(), tmp_path, chosen=chosen)


def test_fields_that_the_recipe_decides_elsewhere_are_refused(tiny, sums, tmp_path):
    from posttrain.recipe import RecipeError

    with pytest.raises(RecipeError, match=r"rl\.trainer\.temperature: decided by other parts"):
        train(tiny, sums, Plan(), tmp_path, chosen=settings(temperature=0.5))
    with pytest.raises(RecipeError, match="learning_rte"):
        train(tiny, sums, Plan(), tmp_path, chosen=settings(learning_rte=0.5))


def test_checkpoints_are_safetensors(tiny, sums, tmp_path):
    train(tiny, sums, Plan(), tmp_path)
    found = sorted(p.name for p in (tmp_path / "checkpoints" / "checkpoint-4").iterdir())
    assert "model.safetensors" in found
    assert not [n for n in found if n.startswith("pytorch_model")]
    assert json.loads((tmp_path / "checkpoints/checkpoint-4/complete.json").read_text())
