"""Fine-tuning without rollouts: it is TRL's own trainer, evaluated as RL is."""

import shutil
from dataclasses import replace

import pytest
import torch

from posttrain.intervention.plan import Anchor, Plan, Replay, Reset, Warmup, chain
from posttrain.intervention.ramp import Ramp
from posttrain.llm import offline, prompts, reward, rl
from posttrain.llm.preferences import PreferenceError, as_demonstration
from posttrain.llm.preferences import pairs as pairs_of
from posttrain.llm.settings import Decoding, Lora, RegexReward, RlSettings
from posttrain.recipe import RecipeError
from posttrain.record import MetricsLog
from posttrain.tuning import model
from posttrain.tuning.honour import PlanError
from posttrain.tuning.world import World

JUDGE = reward.make_judge(RegexReward(pattern=r"[1357]"), scale=(0.0, 1.0))
GIVEN = {"learning_rate": 1e-2, "logging_steps": 1, "optim": "adamw_torch"}


def wrong(rows):
    return [replace(row, columns={**row.columns, "rejected": "1"}) for row in rows]


def job(tiny, sums, folder, *, algorithm, plan=None, trainer=None, lora=None, pairs=True):
    train, heldout = sums
    train = wrong(train[:64]) if pairs else list(train[:64])
    _, tokenizer = model.load(tiny)
    said = [(row, prompts.demonstration_ids(tokenizer, row)[1]) for row in heldout[:8]]
    batch = {"per_device_train_batch_size": 4} if algorithm == "dpo" else {}
    return rl.Job(
        pi0=tiny,
        settings=RlSettings(
            algorithm=algorithm, steps=4, eval_every=2, eval_units=8, save_every=2, probe_units=8,
            replay_rows=8, trainer={**GIVEN, **batch, **(trainer or {})},
        ),
        plan=plan or Plan(),
        experience=rl.Experience(
            rows=train, heldout=wrong(heldout), pi0_rollouts=said, prior=0.5, alpha=0.05,
            scale=(0.0, 1.0),
        ),
        judge=JUDGE,
        load=model.load,
        base=model.load(tiny)[0].state_dict,
        rollout=Decoding(max_new_tokens=4),
        lora=lora,
        seed=3,
        folder=folder / "checkpoints",
        metrics=MetricsLog(folder / "metrics.jsonl"),
        curve=MetricsLog(folder / "curve.jsonl"),
        world=World(),
    )  # fmt: skip


def train(*given, **named):
    trained, _ = offline.train(job(*given, **named))
    return {name: value.clone() for name, value in trained.state_dict().items()}


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


def column(folder, key):
    return [row[key] for row in MetricsLog(folder / "metrics.jsonl").read() if key in row]


DPO = {"beta": 0.1}
KEEP = chain(
    Anchor(coefficient=Ramp(0.5, 0.1, steps=4), estimator="exact"),
    Replay(weight=Ramp(1.0, 0.1, steps=3), token_weight="dft"),
    Warmup(steps=1),
)(Plan())


def test_further_sft_is_plain_sft_on_as_many_rows_a_step(tiny, sums, tmp_path):
    from trl import SFTTrainer

    ours = train(tiny, sums, tmp_path, algorithm="sft")
    given = job(tiny, sums, tmp_path / "plain", algorithm="sft")
    policy, tokenizer = model.load(tiny)
    config = offline._sft_config(given)
    plain = SFTTrainer(
        model=policy, args=config, processing_class=tokenizer,
        train_dataset=offline.pairs_dataset(given.experience.rows),
        eval_dataset=offline.pairs_dataset(given.experience.heldout[:1]),
    )  # fmt: skip
    plain.train()
    assert config.per_device_train_batch_size == 8
    assert same(ours, plain.model.state_dict())
    assert not same(ours, model.load(tiny)[0].state_dict())


def test_further_sft_reads_the_recipe_of_the_arm_beside_it(tiny, sums, tmp_path):
    grpo = {"per_device_train_batch_size": 256, "num_generations": 8, "epsilon": 0.3,
            "gradient_accumulation_steps": 2}  # fmt: skip
    config = offline._sft_config(job(tiny, sums, tmp_path, algorithm="sft", trainer=grpo))
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (4, 2)
    assert config.learning_rate == 1e-2
    with pytest.raises(RecipeError, match="learning_rte"):
        offline._sft_config(job(tiny, sums, tmp_path, algorithm="sft", trainer={"learning_rte": 1}))


def test_further_sft_takes_no_plan(tiny, sums, tmp_path):
    with pytest.raises(PlanError, match="further SFT has no imitation loss"):
        train(tiny, sums, tmp_path, algorithm="sft", plan=Replay(weight=1.0)(Plan()))


def test_an_empty_plan_is_plain_dpo_bit_for_bit(tiny, sums, tmp_path):
    from trl import DPOTrainer

    ours = train(tiny, sums, tmp_path, algorithm="dpo", trainer=DPO)
    given = job(tiny, sums, tmp_path / "plain", algorithm="dpo", trainer=DPO)
    policy, tokenizer = model.load(tiny)
    plain = DPOTrainer(
        model=policy, args=offline._dpo_config(given), processing_class=tokenizer,
        train_dataset=pairs_of(given.experience.rows),
        eval_dataset=pairs_of(given.experience.rows).select([0]),
    )  # fmt: skip
    plain.train()
    assert same(ours, plain.model.state_dict())
    assert not same(ours, model.load(tiny)[0].state_dict())


def test_dpo_prefers_what_was_chosen_and_replay_raises_it(tiny, sums, tmp_path):
    train(tiny, sums, tmp_path / "plain", algorithm="dpo", trainer=DPO)
    plan = chain(Replay(weight=5.0), Anchor(coefficient=0.1, estimator="exact"))(Plan())
    train(tiny, sums, tmp_path / "kept", algorithm="dpo", plan=plan)
    margins = column(tmp_path / "plain", "rewards/margins")
    assert margins[-1] > margins[0]
    nll = [column(tmp_path / name, "regime/nll_on_data")[-1] for name in ("plain", "kept")]
    assert nll[1] < nll[0]


def test_dpos_beta_is_the_anchor(tiny, sums, tmp_path):
    train(tiny, sums, tmp_path, algorithm="dpo", plan=KEEP)
    assert column(tmp_path, "regime/anchor") == pytest.approx([0.5, 0.5, 0.4, 0.3])
    with pytest.raises(RecipeError, match=r"rl\.trainer\.beta: DPO always anchors"):
        train(tiny, sums, tmp_path / "none", algorithm="dpo")


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Replay(share=0.5)(Plan()), "DPO cannot mix data"),
        (Anchor(coefficient=0.1)(Plan()), "DPO cannot anchor with the estimator 'k3'"),
        (Reset(parts=("critic",))(Plan()), "DPO cannot reset 'critic'"),
    ],
)
def test_what_dpo_cannot_do_is_refused(tiny, sums, tmp_path, plan, words):
    with pytest.raises(PlanError, match=words):
        train(tiny, sums, tmp_path, algorithm="dpo", plan=plan, trainer={} if plan.anchor else DPO)


def test_rows_without_a_rejected_answer_are_named(tiny, sums, tmp_path):
    with pytest.raises(PreferenceError, match="needs a text in the column 'rejected'"):
        train(tiny, sums, tmp_path, algorithm="dpo", trainer=DPO, pairs=False)


@pytest.mark.parametrize(("algorithm", "plan"), [("sft", None), ("dpo", KEEP)])
def test_a_killed_run_goes_on_to_the_same_weights(tiny, sums, tmp_path, algorithm, plan):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    unbroken = train(tiny, sums, whole, algorithm=algorithm, plan=plan)
    shutil.copytree(whole, broken)
    last = broken / "checkpoints" / "checkpoint-4"
    (last / "complete.json").unlink()
    (last / "model.safetensors").write_bytes(b"torn")
    assert same(unbroken, train(tiny, sums, broken, algorithm=algorithm, plan=plan))
    for name in ("metrics.jsonl", "curve.jsonl"):
        assert MetricsLog(whole / name).read() == MetricsLog(broken / name).read()
    assert [row["step"] for row in MetricsLog(whole / "curve.jsonl").read()] == [0, 2, 4]


def test_an_adapter_is_merged_in_the_end(tiny, sums, tmp_path):
    plan = Anchor(coefficient=0.1, estimator="exact")(Plan())
    merged = train(tiny, sums, tmp_path, algorithm="dpo", plan=plan, lora=Lora(rank=4))
    start = model.load(tiny)[0].state_dict()
    assert set(merged) == set(start)
    assert not same(merged, start)


def test_preferences_are_read_in_the_forms_that_datasets_have():
    user = {"role": "user", "content": "2 + 2?"}
    good, bad = ({"role": "assistant", "content": text} for text in ("4", "5"))
    wanted = {"prompt": [user], "completion": "4", "rejected": "5"}
    assert as_demonstration({"chosen": [user, good], "rejected": [user, bad]}) == wanted
    answers = {"prompt": [user], "chosen": [good], "rejected": [bad]}
    assert as_demonstration(answers) == wanted
    texts = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
    assert as_demonstration(texts) == {"prompt": "2 + 2?", "completion": "4", "rejected": "5"}
    with pytest.raises(PreferenceError, match="no message in common"):
        as_demonstration({"chosen": [user, good], "rejected": [good, bad]})


def test_pairs_of_equal_answers_prefer_nothing(sums):
    rows = wrong(sums[0][:40])
    even = [replace(row, columns={"rejected": row.completion}) for row in rows]
    assert len(pairs_of([*rows, *even])) == sum(row.completion != "1" for row in rows)
    with pytest.raises(PreferenceError, match="all of 40 pairs have equal answers"):
        pairs_of(even)


def test_a_file_of_preferences_is_cloned_from_what_was_chosen(tmp_path):
    import json

    from posttrain.llm.data import load_rows
    from posttrain.llm.settings import DataSettings

    file = tmp_path / "pairs.jsonl"
    lines = [{"prompt": f"{n} + 1", "chosen": str(n + 1), "rejected": str(n)} for n in range(5)]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    train, heldout = load_rows(DataSettings(path=str(file), heldout=2))
    for row in (*train, *heldout):
        assert int(row.completion) == int(row.columns["rejected"]) + 1


def test_wrong_answers_are_made_for_dpo_on_request():
    from posttrain.llm.data import load_rows
    from posttrain.llm.settings import DataSettings
    from tests.posttrain.llm.conftest import SUMS

    settings = DataSettings(path="reasoning_gym:basic_arithmetic", options=SUMS, size=50,
                            heldout=10, rejected="no_carry")  # fmt: skip
    train, _ = load_rows(settings)
    wrongs = [row for row in train if row.columns["rejected"] != row.completion]
    assert 0.4 < len(wrongs) / len(train) < 0.95  # some sums carry nothing
