import json

import numpy as np
import pytest

from posttrain.llm import reward, score
from posttrain.llm.data import Row
from posttrain.llm.sampling import Completion, rollouts, transformers_generator, vllm_generator
from posttrain.llm.settings import Decoding, DiagnoseSettings, ExactReward, RegexReward
from posttrain.tuning import measured, model
from posttrain.tuning.world import World, WorldError, current

JUDGE = reward.make_judge(RegexReward(pattern=r"\d"), scale=(0.0, 1.0))


@pytest.fixture(scope="module")
def generate(tiny):
    return transformers_generator(*model.load(tiny), at_once=16)


def draw(generate, rows, folder, *, enough=lambda _: False, samples=2):
    return rollouts(
        rows, generate, JUDGE, Decoding(max_new_tokens=4), samples=samples, batch=8, seed=5,
        folder=folder, enough=enough, tick=lambda _: None, world=World(),
        split="heldout", kind="rollout",
    )  # fmt: skip


def test_a_killed_sampling_goes_on_to_the_same_rollouts(generate, sums, tmp_path):
    rows = sums[1][:24]
    whole = draw(generate, rows, tmp_path / "whole")
    draw(generate, rows, tmp_path / "broken")
    (tmp_path / "broken" / "00001.jsonl").unlink()  # killed in the second batch
    (tmp_path / "broken" / "00002.jsonl").unlink()
    assert draw(generate, rows, tmp_path / "broken") == whole


def test_sampling_stops_once_enough_is_known(generate, sums, tmp_path):
    found = draw(generate, sums[1], tmp_path, enough=lambda records: len(records) >= 32)
    assert len(found) == 32


def test_greedy_draws_are_equal_and_samples_are_not(generate, sums):
    rows = sums[1][:6]
    greedy = generate(rows, Decoding(temperature=0.0, max_new_tokens=4), samples=3, seed=0)
    assert all(c == group[0] for group in greedy for c in group)
    drawn = generate(rows, Decoding(max_new_tokens=4), samples=8, seed=0)
    assert any(len({c.text for c in group}) > 1 for group in drawn)
    assert drawn == generate(rows, Decoding(max_new_tokens=4), samples=8, seed=0)


def test_a_rollout_that_hits_the_limit_is_truncated(generate, sums):
    (group,) = generate(sums[1][:1], Decoding(max_new_tokens=1), samples=16, seed=0)
    assert all(len(c.ids) == 1 for c in group)
    assert {c.finished for c in group} <= {True, False}
    assert not all(c.finished for c in group)


def row(unit, completion, answer="1"):
    prompt = ({"role": "user", "content": f"Calculate {unit}."},)
    return Row(unit=unit, prompt=prompt, completion=completion, answer=answer)


def test_demonstrations_are_right_wrong_unscorable_or_cut_off(tiny):
    _, tokenizer = model.load(tiny)
    judge = reward.make_judge(ExactReward(extract=r"(\d+)"), scale=(0.0, 1.0))
    rows = [row("1", "1"), row("2", "2"), row("3", "Calculate"), row("4", ". . . . 1")]
    found = score.score_demonstrations(rows, judge, tokenizer, limit=4, split="heldout")
    assert [r["return"] for r in found] == [1.0, 0.0, None, None]
    assert [r["unscorable"] for r in found] == [False, False, True, True]
    assert [r["truncated"] for r in found] == [False, False, False, True]


def looked(policy, data, **settings):
    units = [f"u{i}" for i in range(len(policy))]
    chosen = DiagnoseSettings(**{"batch": 10, **settings})
    return measured.looks(
        dict(zip(units, policy, strict=True)), dict(zip(units, data, strict=True)), chosen
    )


def test_looking_batch_by_batch_decides_a_wide_gap_early():
    rng = np.random.default_rng(0)
    state = looked(rng.binomial(1, 0.2, 60).astype(float), np.ones(60))
    assert state.decided
    assert state.regime == "inferior"


def test_no_gap_is_not_decided_by_a_few_units():
    rng = np.random.default_rng(0)
    returns = rng.binomial(1, 0.5, (2, 40)).astype(float)
    assert not looked(*returns).decided


def test_stopping_waits_for_the_minimum(sums):
    settings = DiagnoseSettings(minimum=30, batch=10)
    demonstrations = [
        {"unit": f"u{i}", "return": 1.0, "unscorable": False, "split": "heldout"} for i in range(50)
    ]
    enough = measured.stopping_rule(settings, demonstrations)
    records = [{"unit": f"u{i}", "return": 0.0, "unscorable": False} for i in range(50)]
    assert not enough(records[:29])
    assert enough(records[:30])


def test_every_process_draws_its_part():
    worlds = [World(rank, 3) for rank in range(3)]
    parts = [world.share(list(range(10))) for world in worlds]
    assert [x for part in parts for x in part] == list(range(10))
    assert {len(part) for part in parts} == {3, 4}


def test_one_process_where_two_were_asked_for_is_refused(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(WorldError, match=r"cpu_2\.yaml"):
        current()


def test_vllm_is_asked_for_what_the_recipe_says(monkeypatch, tiny, sums):
    """A stand-in for vLLM's two classes, with its argument names."""
    import sys
    import types
    from types import SimpleNamespace

    asked = {}

    class SamplingParams:
        def __init__(self, *, n, temperature, top_p, top_k, max_tokens, seed):
            asked.update(n=n, temperature=temperature, top_k=top_k, max_tokens=max_tokens)

    class LLM:
        def __init__(self, *, model):
            asked["model"] = model

        def generate(self, prompts, parameters, *, use_tqdm):
            assert all(set(p) == {"prompt_token_ids"} for p in prompts)
            one = SimpleNamespace(text=" 7 ", token_ids=(9, 1), finish_reason="stop")
            cut = SimpleNamespace(text="77", token_ids=(9, 9), finish_reason="length")
            return [SimpleNamespace(outputs=[one, cut]) for _ in prompts]

    fake = types.ModuleType("vllm")
    fake.LLM, fake.SamplingParams = LLM, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", fake)
    _, tokenizer = model.load(tiny)
    generate = vllm_generator(tiny, tokenizer)
    found = generate(sums[1][:3], Decoding(max_new_tokens=2), samples=2, seed=0)
    assert found == [[Completion("7", [9, 1], True), Completion("77", [9, 9], False)]] * 3
    assert asked == {
        "n": 2, "temperature": 1.0, "top_k": -1, "max_tokens": 2, "model": str(tiny),
    }  # fmt: skip


def test_without_vllm_a_sentence_says_what_to_do(tiny):
    _, tokenizer = model.load(tiny)
    with pytest.raises(model.ModelError, match=r"diagnose\.backend=transformers"):
        vllm_generator(tiny, tokenizer)


def test_rollouts_of_somebody_else_are_reused(tmp_path):
    path = tmp_path / "theirs.jsonl"
    rows = [{"source": "policy", "unit": f"u{i}", "return": 1.0} for i in range(3)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = measured.reuse(path)
    assert {(r["split"], r["decoding"]) for r in found} == {("heldout", "rollout")}
