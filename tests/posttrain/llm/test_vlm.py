"""A small vision-language model: it looks at the picture, and every stage shows it to it."""

import shutil
from dataclasses import replace

import pytest
import torch

from posttrain.intervention.plan import Anchor, Plan, Replay, chain
from posttrain.intervention.ramp import Ramp
from posttrain.llm import offline, prompts, reward, rl, score, sft
from posttrain.llm.data import load_rows
from posttrain.llm.data import texts as words_of
from posttrain.llm.sampling import transformers_generator
from posttrain.llm.settings import (
    DataSettings,
    Decoding,
    ExactReward,
    ModelSettings,
    RlSettings,
    SftSettings,
)
from posttrain.record import MetricsLog
from posttrain.tuning import model, seen, tiny_vlm
from posttrain.tuning.world import World

CPU = torch.device("cpu")
JUDGE = reward.make_judge(ExactReward(), scale=(0.0, 1.0))
GREEDY = Decoding(temperature=0.0, max_new_tokens=3)
ROLLOUT = Decoding(max_new_tokens=3)


@pytest.fixture(scope="module")
def shapes():
    return load_rows(DataSettings(path="shapes", size=900, heldout=42, options={"objects": 1}))


@pytest.fixture(scope="module")
def untrained(shapes, tmp_path_factory):
    """On disk, since what is loaded differs from what is made."""
    processor = tiny_vlm.make_processor(words_of((*shapes[0], *shapes[1])))
    folder = tmp_path_factory.mktemp("untrained")
    model.save(tiny_vlm.make_model(processor, hidden=32, seed=0), processor, folder)
    return folder


def clone(path, rows, heldout, folder, *, steps):
    policy, processor = model.load(path)
    settings = SftSettings(
        trainer={"max_steps": steps, "per_device_train_batch_size": 32, "learning_rate": 3e-3,
                 "lr_scheduler_type": "cosine", "warmup_steps": 10, "save_steps": steps // 2}
    )  # fmt: skip
    trained, losses = sft.train(
        policy, processor, rows, heldout, settings, lora=None, seed=0,
        folder=folder / "checkpoints", log=MetricsLog(folder / "sft.jsonl"), world=World(),
    )  # fmt: skip
    return trained, processor, losses


@pytest.fixture(scope="module")
def pi0(untrained, shapes, tmp_path_factory):
    """Cloned until it answers well."""
    folder = tmp_path_factory.mktemp("pi0")
    trained, processor, losses = clone(untrained, *shapes, folder, steps=120)
    model.save(trained, processor, folder / "sft")
    return folder / "sft", losses


def accuracy(path, rows):
    policy, processor = model.load(path)
    groups = transformers_generator(policy, processor)(rows, GREEDY, samples=1, seed=0)
    right = [row.answer == group[0].text for row, group in zip(rows, groups, strict=True)]
    return sum(right) / len(right)


def test_cloning_learns_to_answer_and_the_picture_is_what_it_looks_at(pi0, shapes):
    path, losses = pi0
    assert losses[-1][1] < 0.5 * losses[0][1]
    heldout = shapes[1]
    assert accuracy(path, heldout) > 0.8
    swapped = [
        replace(row, images=other.images)
        for row, other in zip(heldout, (*heldout[1:], heldout[0]), strict=True)
    ]
    assert accuracy(path, swapped) == pytest.approx(0.25, abs=0.15)  # four colours


def by_hand(policy, processor, row):
    """Log-probability of a demonstration's tokens: one row, no padding, the processor's tensors."""
    from posttrain.tuning.pictures import decode

    asked = "<|user|><image>" + row.text + "<|assistant|>"
    told = processor(
        text=[asked + row.completion + "<|end|>"],
        images=[[decode(row.images[0])]],
        return_tensors="pt",
    )
    logps = torch.log_softmax(policy.eval()(**told).logits[0], -1)
    ids = told["input_ids"][0]
    return [float(logps[i - 1, ids[i]]) for i in (-2, -1)]


@torch.no_grad()
def test_a_batch_of_demonstrations_scores_them_as_each_alone(pi0, shapes):
    policy, processor = model.load(pi0[0])
    rows = [shapes[0][0], *(replace(r, prompt=longer(r)) for r in shapes[0][1:4])]
    pairs = [prompts.demonstration_ids(processor, row) for row in rows]
    batch = model.batch_of(pairs, seen.pad_of(processor), CPU)
    logps, mask = model.token_logps(policy.eval(), batch)
    for row, got, counted in zip(rows, logps, mask, strict=True):
        assert got[counted].tolist() == pytest.approx(by_hand(policy, processor, row), abs=1e-4)


def longer(row):
    return ({"role": "user", "content": row.text + " " + row.text},)


@torch.no_grad()
def test_another_picture_changes_what_the_model_says_and_the_same_does_not(pi0, shapes):
    policy, processor = model.load(pi0[0])
    row = shapes[0][0]
    other = next(r for r in shapes[0] if r.text == row.text and r.answer != row.answer)

    def score_with(images):
        pair = prompts.demonstration_ids(processor, replace(row, images=images))
        batch = model.batch_of([pair], seen.pad_of(processor), CPU)
        return model.token_logps(policy.eval(), batch)[0].sum()

    assert score_with(row.images) == score_with(row.images)
    assert (score_with(row.images) - score_with(other.images)).abs() > 1


def test_greedy_answers_are_those_of_the_models_own_generate(pi0, shapes):
    policy, processor = model.load(pi0[0])
    rows = [*shapes[1][:6], *(replace(r, prompt=longer(r)) for r in shapes[1][6:10])]
    ours = transformers_generator(policy, processor, at_once=4)(rows, GREEDY, samples=2, seed=0)
    for row, group in zip(rows, ours, strict=True):
        alone = seen.encode(processor, [row.prompt], [row.images])
        out = policy.generate(**alone, max_new_tokens=3, do_sample=False)
        said = out[0, alone["input_ids"].shape[1] :].tolist()
        assert [c.ids for c in group] == [model.trim_after_end(said, [1])[0]] * 2


def test_samples_come_from_their_seed_and_never_hold_a_place_holder(untrained, shapes):
    generate = transformers_generator(*model.load(untrained))
    drawn = generate(shapes[1][:6], ROLLOUT, samples=16, seed=1)
    assert drawn == generate(shapes[1][:6], ROLLOUT, samples=16, seed=1)
    assert drawn != generate(shapes[1][:6], ROLLOUT, samples=16, seed=2)
    processor = model.load(untrained)[1]
    said = {token for group in drawn for c in group for token in c.ids}
    assert processor.image_token_id not in said
    assert len(said) > 5


def test_prompts_are_the_ids_that_trl_gives_the_policy(pi0, shapes):
    """TRL reads a batch of messages in parts; a row's prompt is the same without padding."""
    from trl.data_utils import prepare_multimodal_messages

    _, processor = model.load(pi0[0])
    for row in shapes[1][:3]:
        theirs = prepare_multimodal_messages(list(row.prompt), images=row.shown()["images"])
        told = processor.apply_chat_template(
            [theirs], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        assert list(prompts.prompt_ids(processor, row.prompt, row.images)) == told["input_ids"][0]
        assert seen.plain(theirs) == list(row.prompt)


def test_demonstrations_are_scored_by_their_words(pi0, shapes):
    records = score.score_demonstrations(
        shapes[1][:5], JUDGE, model.load(pi0[0])[1], limit=3, split="heldout"
    )
    assert [r["return"] for r in records] == [1.0] * 5
    assert {r["steps"] for r in records} == {2}  # a colour and the end


def test_a_vision_language_model_is_recognised_by_its_configuration(pi0, tiny):
    assert model.sees(pi0[0])
    assert not model.sees(tiny)
    with pytest.raises(model.ModelError, match="cannot load"):
        model.sees("no/such/folder/anywhere")


def test_a_loaded_model_is_the_one_that_was_saved(pi0, shapes, tmp_path):
    policy, processor = model.load(pi0[0])
    model.save(policy, processor, tmp_path)
    again, reader = model.load(tmp_path)
    state = again.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in policy.state_dict().items())
    row = shapes[0][0]
    one, two = (prompts.prompt_ids(p, row.prompt, row.images) for p in (processor, reader))
    assert list(one) == list(two)
    assert torch.equal(one.look()["pixel_values"], two.look()["pixel_values"])


def test_pictures_are_refused_by_a_model_that_reads_only_text(tiny, shapes, tmp_path):
    with pytest.raises(model.ModelError, match="reads only text"):
        clone(tiny, *shapes, tmp_path, steps=2)
    _, tokenizer = model.load(tiny)
    with pytest.raises(model.ModelError, match="reads only text"):
        prompts.demonstration_ids(tokenizer, shapes[0][0])


def test_the_same_seed_makes_the_same_model_and_another_does_not(shapes):
    words = list(words_of(shapes[0]))

    def weights(seed):
        made, _ = prompts.load_base(
            ModelSettings(path="tiny_vlm", hidden=32), texts=words, seed=seed
        )
        return made.model.multi_modal_projector.linear_1.weight

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_a_killed_cloning_resumes_to_the_same_weights(untrained, shapes, tmp_path):
    """transformers' Trainer alone would go on from the weights that cloning started with."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    unbroken = clone(untrained, *shapes, whole, steps=6)[0].state_dict()
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "checkpoints" / "checkpoint-6")
    resumed = clone(untrained, *shapes, broken, steps=6)[0].state_dict()
    assert same(unbroken, resumed)
    assert not same(unbroken, model.load(untrained)[0].state_dict())


def settings(**given):
    trainer = {"per_device_train_batch_size": 16, "num_generations": 4, "learning_rate": 1e-3,
               "logging_steps": 1, "per_device_eval_batch_size": 8}  # fmt: skip
    return RlSettings(
        steps=4, eval_every=4, eval_units=8, save_every=2, probe_units=8, replay_rows=8,
        trainer={**trainer, **given},
    )  # fmt: skip


def job(pi0, shapes, plan, folder, **given):
    train, heldout = shapes
    _, processor = model.load(pi0)
    said = [(row, list(prompts.demonstration_ids(processor, row)[1])) for row in heldout[:8]]
    return rl.Job(
        pi0=pi0, settings=settings(**given), plan=plan, judge=JUDGE, load=model.load,
        base=model.load(pi0)[0].state_dict, rollout=ROLLOUT, lora=None, seed=3,
        folder=folder / "checkpoints", metrics=MetricsLog(folder / "metrics.jsonl"),
        curve=MetricsLog(folder / "curve.jsonl"), world=World(),
        experience=rl.Experience(
            rows=train[:64], heldout=heldout, pi0_rollouts=said, prior=0.5, alpha=0.05,
            scale=(0.0, 1.0),
        ),
    )  # fmt: skip


def train(pi0, shapes, plan, folder, **given):
    trained, _ = rl.train(job(pi0, shapes, plan, folder, **given))
    return {name: value.clone() for name, value in trained.state_dict().items()}


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


KEEP = chain(
    Anchor(coefficient=0.1),
    Replay(
        weight=Ramp(1.0, 0.1, steps=3),
        share=0.25,
        prefix_share=0.25,
        prefix=0.5,
        token_weight="dft",
    ),
)(Plan())


def test_an_empty_plan_is_plain_grpo_bit_for_bit_on_pictures(pi0, shapes, tmp_path):
    from trl import GRPOTrainer

    ours = train(pi0[0], shapes, Plan(), tmp_path)
    policy, processor = model.load(pi0[0])
    start = {name: value.clone() for name, value in policy.state_dict().items()}
    given = job(pi0[0], shapes, Plan(), tmp_path / "plain")
    plain = GRPOTrainer(
        model=policy,
        reward_funcs=rl.reward_function(JUDGE, rl.callbacks.Recorder()),
        args=rl._config(given),
        train_dataset=rl.prompts_of(given.experience.rows, stage="train"),
        eval_dataset=rl.prompts_of(given.experience.heldout[:8], stage="eval"),
        processing_class=processor,
    )
    plain.train()
    assert same(ours, plain.model.state_dict())
    assert not same(ours, start)
    vision = [name for name in ours if "vision_tower" in name]
    assert any(not torch.equal(ours[name], start[name]) for name in vision)


def test_a_killed_run_that_keeps_pictures_resumes_to_the_same_weights(pi0, shapes, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    unbroken = train(pi0[0], shapes, KEEP, whole)
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "checkpoints" / "checkpoint-4")
    assert same(unbroken, train(pi0[0], shapes, KEEP, broken))
    logs = [MetricsLog(folder / "metrics.jsonl").read() for folder in (whole, broken)]
    assert logs[0] == logs[1]
    kept = [row for row in logs[0] if "regime/replay_share" in row]
    assert {row["regime/replay_share"] for row in kept} == {0.25}
    assert {row["regime/prefix_share"] for row in kept} == {0.25}
    assert kept[0]["kl"] == pytest.approx(0, abs=1e-5)  # the reference sees the pictures, too


def test_replayed_pictures_have_the_loss_that_is_computed_by_hand(pi0, shapes, tmp_path):
    """The first step's replay loss is pi_0's mean loss a token on the demonstrations it drew."""
    from posttrain.intervention.replay import replay_indices

    plan = Replay(weight=1.0)(Plan())
    train(pi0[0], shapes, plan, tmp_path)
    logged = [
        r["replay/nll"] for r in MetricsLog(tmp_path / "metrics.jsonl").read() if "replay/nll" in r
    ]
    drawn = replay_indices(0, size=64, batch=8, seed=3, rank=0, world=1)
    policy, processor = model.load(pi0[0])
    with torch.no_grad():
        said = [by_hand(policy, processor, shapes[0][i]) for i in drawn]
    assert logged[0] == pytest.approx(-sum(map(sum, said)) / 16, rel=1e-3)


@pytest.mark.parametrize("algorithm", ["rloo", "dpo", "sft"])
def test_every_algorithm_teaches_the_eyes(algorithm, untrained, shapes, tmp_path):
    """A trainer that was not shown the pictures would leave the vision tower alone."""
    plan = {
        "rloo": Replay(share=0.25),  # it says nothing right yet, and would have no gradient
        "dpo": Anchor(coefficient=0.1, estimator="exact"),
    }
    chosen = plan[algorithm](Plan()) if algorithm in plan else Plan()
    work = job(untrained, shapes, chosen, tmp_path)
    given = {"per_device_train_batch_size": 16, "learning_rate": 1e-3, "logging_steps": 1}
    trainer = {
        "rloo": {**given, "num_generations": 8, "per_device_eval_batch_size": 8},
        "dpo": given,
        "sft": {"learning_rate": 1e-3},
    }
    steps = replace(
        work.settings, algorithm=algorithm, steps=2, eval_every=2, trainer=trainer[algorithm]
    )
    pairs = [
        replace(r, columns={"rejected": "red" if r.answer != "red" else "blue"})
        for r in work.experience.rows
    ]
    work = replace(work, settings=steps, experience=replace(work.experience, rows=pairs))
    trained, _ = (rl.train if algorithm == "rloo" else offline.train)(work)
    start = model.load(untrained)[0].state_dict()
    eyes = [name for name in start if "vision_tower.embeddings" in name]
    assert any(not torch.equal(trained.state_dict()[name], start[name]) for name in eyes)
