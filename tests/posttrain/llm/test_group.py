"""Demonstrations in groups, against losses written out by hand."""

import math

import pytest
import torch

from posttrain.intervention.plan import Plan, Replay
from posttrain.intervention.ramp import Ramp
from posttrain.intervention.replay import token_weights
from posttrain.llm import prompts
from posttrain.llm.honour import check_group
from posttrain.tuning import model
from posttrain.tuning.dealt import Dealt, GroupShare, answered, asked, own_mask, stretched
from posttrain.tuning.honour import PlanError

GROUP = 4
SGD = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 1.0, "lr_scheduler_type": "constant"}


def shares(*, share=0.0, prefix_share=0.0, prefix=0.5):
    return GroupShare(
        share=Ramp(share), prefix_share=Ramp(prefix_share), prefix=Ramp(prefix),
        token_weight="none", completions={"u": [1, 2, 3, 4, 9]},
    )  # fmt: skip


def hand(group, unit="u", *, limit=8, step=0):
    return [group.dealt(unit, i, group=GROUP, step=step, limit=limit) for i in range(GROUP)]


def test_whole_demonstrations_stand_last_and_beginnings_before_them():
    whole, begun = Dealt(kind="whole", tokens=(1, 2, 3, 4, 9)), Dealt(kind="prefix", tokens=(1, 2))
    found = hand(shares(share=0.25, prefix_share=0.25, prefix=0.4))
    assert found == [None, None, begun, whole]
    assert hand(shares(share=0.25), unit="other") == [None] * GROUP


@pytest.mark.parametrize(
    ("prefix", "limit", "given"),
    [(0.5, 8, 3), (0.4, 8, 2), (1.0, 8, 4), (1.0, 3, 2), (0.0, 8, None), (0.09, 8, None)],
)
def test_a_beginning_leaves_a_token_to_write(prefix, limit, given):
    found = hand(shares(prefix_share=0.25, prefix=prefix), limit=limit)[-1]
    assert (None if found is None else len(found.tokens)) == given


def test_a_demonstration_is_cut_as_a_rollout_would_be():
    assert hand(shares(share=0.25), limit=3)[-1].tokens == (1, 2, 3)


def test_beginnings_shorten_with_the_step():
    fading = GroupShare(
        share=Ramp(0.0), prefix_share=Ramp(0.25), prefix=Ramp(0.8, 0.0, steps=4),
        token_weight="none", completions={"u": [1, 2, 3, 4, 9]},
    )  # fmt: skip
    last = [hand(fading, step=step)[-1] for step in range(5)]
    assert [0 if d is None else len(d.tokens) for d in last] == [4, 3, 2, 1, 0]


def test_what_is_asked_and_answered_by_hand():
    dealt = [None, Dealt(kind="prefix", tokens=(1, 2)), Dealt(kind="whole", tokens=(1, 2, 9))]
    assert asked([[7], [7, 8], [7]], dealt) == [[7], [7, 8, 1, 2], [7]]
    ids, logps = answered(
        [[5, 9], [6, 6, 9], [4]], [[-1.0, -2.0], [-3.0, -4.0, -5.0], [-6.0]], dealt, limit=4
    )
    assert ids == [[5, 9], [1, 2, 6, 6], [1, 2, 9]]
    assert logps == [[-1.0, -2.0], [None, None, -3.0, -4.0], [None, None, None]]
    assert own_mask(dealt, 4).tolist() == [
        [False] * 4, [True, True, False, False], [True, True, True, False]
    ]  # fmt: skip
    assert answered([[5]], None, [None], limit=4) == ([[5]], None)


def test_the_words_of_a_beginning_are_no_part_of_a_picture():
    fields = {"mm_token_type_ids": [[0, 1]], "pixel_values": "kept"}
    assert stretched(fields, [[3, 4, 5]]) == {
        "mm_token_type_ids": [[0, 1, 0]], "pixel_values": "kept"
    }  # fmt: skip


def lengths(text):
    """A reward of many values, so that advantages differ."""
    return (len(text) % 4) / 3


class Step:
    """The first batch of a run with one step of plain gradient descent, and its gradient."""

    def __init__(self, online, plan, **given):
        given = {"steps": 1, **SGD, **given}
        self.trainer = online.trainer(plan, value=lambda _, text: lengths(text), **given)
        inner = self.trainer._generate_and_score_completions

        def spy(inputs):
            self.rows = inputs
            self.batch = inner(inputs)
            self.dealt = list(self.trainer._hand)
            return self.batch

        self.trainer._generate_and_score_completions = spy
        before = {name: p.detach().clone() for name, p in self.trainer.model.named_parameters()}
        self.trainer.train()
        after = dict(self.trainer.model.named_parameters())
        self.gradient = {name: before[name] - after[name].detach() for name in before}
        self.start, self.tokenizer = model.load(online.pi0)

    def logps(self):
        """Log-probabilities of the completions under pi_0, `[n, T]`, written out."""
        ids = torch.cat([self.batch["prompt_ids"], self.batch["completion_ids"]], dim=1)
        mask = torch.cat([self.batch["prompt_mask"], self.batch["completion_mask"]], dim=1)
        logits = self.start(input_ids=ids, attention_mask=mask).logits[:, :-1]
        said = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        return said[:, -self.batch["completion_ids"].shape[1] :]

    def rewards(self):
        texts = self.tokenizer.batch_decode(self.batch["completion_ids"], skip_special_tokens=True)
        return torch.tensor([lengths(text.strip()) for text in texts])

    def gradient_of(self, loss):
        self.start.zero_grad()
        loss.backward()
        return {name: p.grad for name, p in self.start.named_parameters()}

    def check(self, loss):
        wanted = self.gradient_of(loss)
        assert max(float(g.abs().max()) for g in wanted.values()) > 1e-3
        for name, value in wanted.items():
            torch.testing.assert_close(self.gradient[name], value, rtol=1e-4, atol=2e-6, msg=name)


def weights_by_hand(kind, logps, dealt):
    p = logps.detach().exp()
    found = torch.ones_like(p)
    for i, one in enumerate(dealt):
        for t in range(0 if one is None else len(one.tokens)):
            q = float(p[i, t])
            found[i, t] = {"none": 1, "dft": q, "chord": q * (1 - q),
                           "luffy": 0.1 * q / (q + 0.1) ** 2}[kind]  # fmt: skip
    return found


PARTS = {"share": 0.25, "prefix_share": 0.25, "prefix": 0.5}


@pytest.mark.parametrize("kind", ["none", "luffy"])
def test_the_gradient_of_a_grpo_group_is_the_one_written_by_hand(online, kind):
    step = Step(
        online, Replay(**PARTS, token_weight=kind)(Plan()), loss_type="grpo", scale_rewards="none"
    )
    kinds = [None if d is None else d.kind for d in step.dealt]
    assert kinds == [None, None, "prefix", "whole"] * 4
    rewards = step.rewards().view(-1, GROUP)
    advantages = (rewards - rewards.mean(1, keepdim=True)).flatten()
    logps, mask = step.logps(), step.batch["completion_mask"]
    weights = weights_by_hand(kind, logps, step.dealt)
    each = -(advantages[:, None] * weights * logps * mask).sum(1) / mask.sum(1)
    step.check(each.mean())


@pytest.mark.parametrize("kind", ["none", "chord"])
def test_the_gradient_of_an_rloo_group_is_the_one_written_by_hand(online, kind):
    step = Step(online, Replay(**PARTS, token_weight=kind)(Plan()), algorithm="rloo")
    rewards = step.rewards().view(-1, GROUP)
    advantages = (rewards - (rewards.sum(1, keepdim=True) - rewards) / (GROUP - 1)).flatten()
    logps, mask = step.logps(), step.batch["completion_mask"]
    weights = weights_by_hand(kind, logps, step.dealt)
    step.check(-(advantages * (weights * logps * mask).sum(1)).mean())


def test_luffy_weighs_by_the_slope_of_its_shaping():
    """Finite differences of f(p) = p / (p + c), c = 0.1, over log p."""
    logp = torch.linspace(-6, -0.01, 50, dtype=torch.float64)

    def f(x):
        return x.exp() / (x.exp() + 0.1)

    eps = 1e-6
    slope = (f(logp + eps) - f(logp - eps)) / (2 * eps)
    torch.testing.assert_close(token_weights("luffy", logp), slope, rtol=1e-7, atol=1e-9)


def test_the_weights_are_those_at_the_rollout_where_trl_keeps_them(online):
    """Rollouts that serve several steps: TRL's own log-probabilities are used."""
    step = Step(
        online, Replay(share=0.25, token_weight="dft")(Plan()), loss_type="grpo",
        scale_rewards="none", num_iterations=2, steps=2, save_every=2,
    )  # fmt: skip
    old = step.batch["old_per_token_logps"]
    rewards = step.rewards().view(-1, GROUP)
    advantages = (rewards - rewards.mean(1, keepdim=True)).flatten()[:, None]
    wanted = advantages * weights_by_hand("dft", old, step.dealt)
    torch.testing.assert_close(step.batch["advantages"], wanted)
    torch.testing.assert_close(old, step.logps().detach() * step.batch["completion_mask"],
                               rtol=1e-4, atol=1e-5)  # fmt: skip


def test_a_row_begins_with_its_demonstration_and_goes_on_in_the_policys_words(online, sums):
    step = Step(online, Replay(**PARTS)(Plan()), rows=sums[0][:4])
    by_unit = {row.unit: prompts.demonstration_ids(step.tokenizer, row)[1] for row in sums[0][:4]}
    for i, (row, dealt) in enumerate(zip(step.rows, step.dealt, strict=True)):
        said = by_unit[row["unit"]]
        mine = step.batch["completion_ids"][i][step.batch["completion_mask"][i].bool()].tolist()
        if dealt is None:
            continue
        assert dealt.tokens == tuple(said[: len(dealt.tokens)])
        assert mine[: len(dealt.tokens)] == list(dealt.tokens)
        assert (dealt.kind == "whole") == (mine == list(said[:4])) or dealt.kind == "prefix"
        if dealt.kind == "prefix":
            assert len(dealt.tokens) == math.floor(0.5 * len(said) + 0.5)
            assert len(dealt.tokens) < len(mine) <= 4
    asked = {r.unit: prompts.prompt_ids(step.tokenizer, r.prompt) for r in sums[0][:4]}
    for i, row in enumerate(step.rows):  # the loss sees the beginning as completion, not as prompt
        ids = step.batch["prompt_ids"][i][step.batch["prompt_mask"][i].bool()].tolist()
        assert ids == list(asked[row["unit"]])


def test_the_log_tells_rows_apart(online):
    step = Step(online, Replay(**PARTS)(Plan()))
    logged = next(r for r in step.trainer.state.log_history if "regime/prefix_share" in r)
    rewards = step.rewards()
    kinds = [None if d is None else d.kind for d in step.dealt]

    def mean(kind):
        return float(rewards[[k == kind for k in kinds]].mean())

    assert logged["regime/replay_share"] == logged["regime/prefix_share"] == 0.25
    assert logged["regime/prefix"] == 0.5
    assert logged["regime/on_policy_reward"] == pytest.approx(mean(None))
    assert logged["regime/prefix_reward"] == pytest.approx(mean("prefix"))
    assert logged["reward"] == pytest.approx(float(rewards.mean()))


class FakeVLLM:
    """Stands in for TRL's vLLM backend: samples with transformers, and is a little off."""

    def __init__(self, model, **given):
        self.model, self.limit, self.syncs = model, given["max_completion_length"], 0
        self.asked = []

    def sync_weights(self):
        self.syncs += 1

    @torch.no_grad()
    def generate(self, prompts, images, num_generations, profiler=None):
        del images, num_generations, profiler
        self.asked = prompts
        ids = []
        for prompt in prompts:
            whole = self.model.generate(
                input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)),
                max_new_tokens=self.limit, do_sample=True,
            )[0, len(prompt) :].tolist()  # fmt: skip
            end = self.model.generation_config.eos_token_id
            end = end[0] if isinstance(end, list) else end
            ids.append(whole[: whole.index(end) + 1] if end in whole else whole)
        logps = [[[-1.0] for _ in row] for row in ids]
        return prompts, ids, logps, None


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_vllm_gets_beginnings_and_its_correction_leaves_demonstrations_alone(
    online, monkeypatch, algorithm
):
    monkeypatch.setattr(f"trl.trainer.{algorithm}_trainer.VLLMGeneration", FakeVLLM)
    token = {"vllm_importance_sampling_mode": "token_truncate"} if algorithm == "grpo" else {}
    step = Step(
        online, Replay(**PARTS, token_weight="luffy")(Plan()), algorithm=algorithm,
        use_vllm=True, **token,
    )  # fmt: skip
    backend = step.trainer.vllm_generation
    assert backend.syncs == 1
    plain = [len(ids) - int(m.sum())
             for ids, m in zip(backend.asked, step.batch["prompt_mask"], strict=True)]  # fmt: skip
    begun = [len(d.tokens) if d is not None and d.kind == "prefix" else 0 for d in step.dealt]
    assert plain == begun
    assert sum(begun) > 0
    if algorithm == "grpo":
        ratio, mask = step.batch["importance_sampling_ratio"], step.batch["completion_mask"].bool()
        given = own_mask(step.dealt, mask.shape[1]) & mask
        assert (ratio[given] == 1).all()
        assert (ratio[mask & ~given] != 1).all()


@pytest.mark.parametrize(
    ("options", "replay", "words"),
    [
        ({"use_vllm": True, "vllm_mode": "server"}, {"prefix_share": 0.25}, "use 'colocate'"),
        ({"importance_sampling_level": "sequence"}, {"share": 0.25, "token_weight": "dft"},
         "needs one each"),
    ],
)  # fmt: skip
def test_options_under_which_it_would_be_another_method_are_refused(options, replay, words):
    from types import SimpleNamespace

    config = SimpleNamespace(**{"use_vllm": False, "vllm_mode": "colocate", **options})
    with pytest.raises(PlanError, match=words):
        check_group(config, Replay(**replay))
    check_group(config, Replay(weight=1.0, token_weight="dft"))


def test_a_trainer_with_tools_is_refused(online):
    trainer = online.trainer(Plan())
    trainer.tools = [print]
    with pytest.raises(PlanError, match="these rollouts call tools"):
        trainer.deal(shares(share=0.25), None)
    trainer.deal(None, None)


def test_with_pictures_each_demonstration_is_weighed_beside_its_own_picture(online, tmp_path):
    from posttrain.llm.data import load_rows, texts
    from posttrain.llm.settings import DataSettings
    from posttrain.tuning import seen, tiny_vlm

    data = load_rows(DataSettings(path="shapes", size=60, heldout=12, options={"objects": 1}))
    processor = tiny_vlm.make_processor(texts((*data[0], *data[1])))
    policy = tiny_vlm.make_model(processor, hidden=32, seed=0)
    torch.nn.init.normal_(policy.model.multi_modal_projector.linear_1.weight, std=1.0)
    model.save(policy, processor, tmp_path / "pi0")
    online = type(online)(tmp_path / "pi0", data, tmp_path)
    plan = Replay(**PARTS, token_weight="luffy")(Plan())
    step = Step(online, plan, rows=data[0][:4], algorithm="rloo")
    pi0, processor = model.load(tmp_path / "pi0")
    rows = {row.unit: row for row in data[0][:4]}
    for i, (asked_for, dealt) in enumerate(zip(step.rows, step.dealt, strict=True)):
        if dealt is None:
            assert (step.batch["demonstration_weight"][i] == 1).all()
            continue
        prompt, said = prompts.demonstration_ids(processor, rows[asked_for["unit"]])
        pad, cpu = seen.pad_of(processor), torch.device("cpu")
        with torch.no_grad():
            logps, mask = model.token_logps(pi0, model.batch_of([(prompt, said)], pad, cpu))
        wanted = token_weights("luffy", logps[mask])[: len(dealt.tokens)]
        found = step.batch["demonstration_weight"][i]
        torch.testing.assert_close(found[: len(wanted)], wanted, rtol=1e-3, atol=1e-5)
        assert (found[len(wanted) :] == 1).all()
