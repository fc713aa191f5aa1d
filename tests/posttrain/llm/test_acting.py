"""A whole run in an environment, and RL there: what is kept, and what it equals."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from posttrain.intervention.plan import Anchor, Plan, Replay, chain
from posttrain.llm import environment, offline, prompts, reward, rl, vault
from posttrain.llm.data import load_rows, row_from_dict
from posttrain.llm.honour import honour
from posttrain.llm.settings import (
    DataSettings,
    Decoding,
    EnvironmentReward,
    EnvironmentSettings,
    LlmRecipe,
    RlSettings,
)
from posttrain.recipe import RecipeError, load
from posttrain.record import MetricsLog, Record, read_jsonl
from posttrain.tuning import model
from posttrain.tuning.honour import PlanError
from posttrain.tuning.world import World

pytestmark = pytest.mark.filterwarnings("ignore:You are using 'environment_factory'")

LIMIT = 32
DATA = {"path": "vault", "size": 120, "heldout": 40}
TRAINER = {"per_device_train_batch_size": 16, "num_generations": 4, "learning_rate": 3e-3,
           "logging_steps": 1, "per_device_eval_batch_size": 8}  # fmt: skip
RECIPE = {
    "kind": "llm",
    "name": "small",
    "threads": 1,
    "data": DATA,
    "environment": {"path": f"{__name__}:Patient"},
    "reward": {"kind": "environment"},
    "rollout": {"max_new_tokens": LIMIT},
    "model": {"hidden": 32},
    "sft": {"check_rows": 8,
            "trainer": {"max_steps": 120, "per_device_train_batch_size": 16,
                        "learning_rate": 1e-2}},
    "diagnose": {"samples": 2, "units": 10, "minimum": 10, "batch": 5, "seen_units": 0},
    "interventions": [{"kind": "replay", "weight": 0.5, "token_weight": "chord"},
                      {"kind": "anchor", "coefficient": 0.05}],
    "rl": {"steps": 2, "eval_every": 2, "eval_units": 8, "save_every": 2, "probe_units": 4,
           "replay_rows": 8, "trainer": TRAINER},
}  # fmt: skip


class Patient(vault.Vault):
    """A vault that pays for every digit, so that a policy that knows little still learns."""

    def reset(self, slot, vault, **_row):
        super().reset(slot, vault)
        self._looked = ""

    def look(self, slot: str) -> str:
        """Read the number in a slot.

        Args:
            slot: Three digits.
        """
        self._looked = slot
        return super().look(slot)

    def get_reward(self):
        right = sum(a == b for a, b in zip(self._looked, self._slot, strict=False)) / 3
        return (right + super().get_reward()) / 2


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.json"
    path.write_text(json.dumps(RECIPE))
    return path


def run(written, output):
    from posttrain.run import run

    return Record(run(written, [f"output={output}"]))


@pytest.fixture(scope="module")
def whole(written, tmp_path_factory):
    return run(written, tmp_path_factory.mktemp("whole"))


def test_a_run_measures_demonstrations_and_policy_in_the_environment(whole):
    scores = whole.scores()
    data = scores.where(source="dataset", split="heldout")
    policy = scores.where(source="policy", split="heldout")
    assert (len(data), len(policy)) == (40, 30)  # two samples of ten units, and one as deployed
    assert set(data.returns) == {1.0, 1 / 6}  # a slot read backwards keeps its middle digit
    said = [json.loads(text) for text in policy.text]
    assert any(len(messages) > 1 for messages in said)
    for messages, value in zip(said, policy.returns, strict=True):
        assert messages[0]["role"] == "assistant"
        assert value == 0 or messages[0]["tool_calls"]
    assert {r["split"] for r in read_jsonl(whole.data / "demonstration_scores.jsonl")} == {
        "seen", "heldout"
    }  # fmt: skip
    for column in ("replay/nll", "kl", "regime/J", "regime/kl_to_pi0", "tools/call_frequency"):
        assert any(column in row for row in whole.metrics.read()), column
    outcome = json.loads(whole.outcome_file.read_text())
    assert outcome["decoding"] == "rollout"


def test_a_killed_run_draws_and_trains_the_same_again(written, whole, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(whole.path, broken / "small")
    again = Record(broken / "small")
    for marker in again.path.rglob("*"):
        if marker.is_file() and marker.stem in ("sample", "rl", "outcome"):
            marker.unlink()
    again.scores_file.unlink()
    (again.path / "rollouts" / "pi0" / "rollout" / "00001.jsonl").unlink()
    shutil.rmtree(again.path / "rl")
    shutil.rmtree(again.path / "checkpoints" / "rl")
    resumed = run(written, broken)
    assert resumed.scores().rows() == whole.scores().rows()
    assert resumed.metrics.read() == whole.metrics.read()
    assert same(weights(resumed.rl), weights(whole.rl))


def weights(folder):
    return model.load(folder)[0].state_dict()


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


def job(record, plan, folder, **settings):
    train, heldout = (
        [row_from_dict(r) for r in read_jsonl(record.data / f"{name}.jsonl")]
        for name in ("train", "heldout")
    )
    _, words = model.load(record.sft)
    said = [(row, prompts.demonstration_ids(words, row)[1]) for row in heldout[:4]]
    return rl.Job(
        pi0=record.sft,
        settings=RlSettings(
            **{"steps": 2, "eval_every": 2, "eval_units": 8, "save_every": 2, "probe_units": 4,
               "replay_rows": 8, "trainer": TRAINER, **settings}
        ),
        plan=plan,
        experience=rl.Experience(rows=train, heldout=heldout, pi0_rollouts=said, prior=0.5,
                                 alpha=0.05, scale=(0.0, 1.0)),
        judge=reward.make_judge(EnvironmentReward(), scale=(0.0, 1.0)),
        load=model.load,
        base=dict,
        rollout=Decoding(max_new_tokens=LIMIT),
        lora=None,
        seed=3,
        folder=folder / "checkpoints",
        metrics=MetricsLog(folder / "metrics.jsonl"),
        curve=MetricsLog(folder / "curve.jsonl"),
        world=World(),
        factory=environment.make_factory(
            EnvironmentSettings(path=f"{__name__}:Patient"), rewards=True
        ),
    )  # fmt: skip


def test_an_empty_plan_is_plain_grpo_in_an_environment_bit_for_bit(whole, tmp_path):
    """Plain: the class itself, whose `get_reward` TRL calls, and the rows as they were read."""
    from trl import GRPOTrainer

    ours = job(whole, Plan(), tmp_path / "ours")
    trained, _ = rl.train(ours)
    train, heldout = load_rows(DataSettings(**DATA))
    policy, words = model.load(whole.sft)
    plain = GRPOTrainer(
        model=policy,
        reward_funcs=[],
        args=rl._config(job(whole, Plan(), tmp_path / "plain")),
        train_dataset=rl.prompts_of(train, stage="train"),
        eval_dataset=rl.prompts_of(heldout[:8], stage="eval"),
        processing_class=words,
        environment_factory=Patient,
    )
    plain.train()
    assert same(trained.state_dict(), plain.model.state_dict())
    assert not same(trained.state_dict(), weights(whole.sft))
    rewards = [row["reward"] for row in ours.metrics.read() if "reward" in row]
    assert rewards == [row["reward"] for row in plain.state.log_history if "reward" in row]
    assert any(value > 0 for value in rewards)


def test_further_sft_is_measured_in_the_environment_and_does_not_notice(whole, tmp_path):
    """Evaluations make a trainer of TRL, which seeds every stream anew."""
    trained = {}
    for every in (1, 2):
        rival = job(whole, Plan(), tmp_path / str(every), algorithm="sft", eval_every=every)
        trained[every] = offline.train(rival)[0].state_dict()
        curve = rival.curve.read()
        assert [row["step"] for row in curve] == list(range(0, 3, every))
        assert all(len(row["unit"]) == 8 for row in curve)
        assert any(value > 0 for value in curve[0]["return"])
    assert same(trained[1], trained[2])
    assert not same(trained[1], weights(whole.sft))


def test_the_curve_holds_the_returns_of_whole_episodes(whole):
    curve = MetricsLog(whole.path / "curve.jsonl").read()
    assert [row["step"] for row in curve] == [0, 2]
    assert all(len(row["unit"]) == 8 == len(set(row["unit"])) for row in curve)
    allowed = {(right / 3 + value) / 2 for right in range(4) for value in (0, 1)}
    assert all(min(abs(v - a) for a in allowed) < 1e-6 for row in curve for v in row["return"])


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Replay(share=0.25)(Plan()), "in an environment cannot mix data"),
        (Replay(prefix_share=0.25)(Plan()), "in an environment cannot start rollouts"),
        (Replay(weight=1.0, gate="map")(Plan()), "in an environment has no per-unit gate"),
        (Anchor(coefficient=0.1, place="reward")(Plan()), "KL into the reward"),
    ],
)
def test_what_needs_rollouts_of_one_turn_is_refused(plan, words):
    with pytest.raises(PlanError, match=words):
        honour(plan, generations=4, lora=False, acting=True)
    loss = chain(Replay(weight=1.0), Anchor(coefficient=0.1))(Plan())
    honour(loss, generations=4, lora=False, acting=True)


@pytest.mark.parametrize(
    ("section", "value", "words"),
    [
        ("rl", {"algorithm": "rloo"}, "rl.algorithm is rloo"),
        ("rl", {"algorithm": "dpo"}, "rl.algorithm is dpo"),
        ("rl", {"interpolate": [0.5]}, "rl.interpolate"),
        ("rl", {"warmup_from": "diagnosis"}, "rl.warmup_from"),
        ("diagnose", {"backend": "vllm"}, "diagnose.backend"),
        ("environment", None, "there is no environment"),
        ("environment", {"path": "vault"}, "path must read module:Class"),
    ],
)
def test_recipes_that_cannot_act_are_refused(section, value, words):
    with pytest.raises(RecipeError, match=words):
        load(LlmRecipe, json.dumps({**RECIPE, section: value}))


def test_the_recipe_loads():
    path = Path(__file__).parents[3] / "recipes" / "llm" / "vault.yaml"
    assert load(LlmRecipe, path).environment.path == "posttrain.llm.vault:Vault"
