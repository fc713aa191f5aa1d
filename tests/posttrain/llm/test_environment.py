"""A policy in an environment: demonstrations replayed, rollouts through TRL's tool loop, RL."""

import json
from dataclasses import replace

import pytest
import torch

from posttrain.llm import environment, prompts, replayed, reward, vault
from posttrain.llm.data import DataError, load_rows, row_from_dict, texts
from posttrain.llm.rollouts_in_environment import Acting, environment_generator
from posttrain.llm.settings import (
    DataSettings,
    Decoding,
    EnvironmentReward,
    EnvironmentSettings,
    FunctionReward,
)
from posttrain.tuning import model, tiny
from posttrain.tuning.world import World

pytestmark = pytest.mark.filterwarnings("ignore:You are using 'environment_factory'")

SETTINGS = EnvironmentSettings(path="posttrain.llm.vault:Vault")
JUDGE = reward.make_judge(EnvironmentReward(), scale=(0.0, 1.0))
LIMIT = 32


class Greeter(vault.Vault):
    """A vault that says which slot is wanted only when the door opens."""

    def reset(self, slot, vault, **row):
        super().reset(slot, vault)
        assert "observation" not in row
        assert row["prompt"][-1]["content"] == f"submit slot {slot}"
        return f" {vault}"


class Fickle(vault.Vault):
    """Its episodes differ from one reset to the next."""

    times = 0

    def reset(self, slot, vault, **_row):
        super().reset(slot, vault)
        Fickle.times += 1
        return f" {Fickle.times}"


class Waiting(vault.Vault):
    """A tool that has to be awaited."""

    async def listen(self) -> str:
        """Listen at the door."""
        return "nothing"


class Silent:
    """No reward of its own."""

    def reset(self, **_row):
        self.said = []

    def say(self, word: str) -> str:
        """Say a word.

        Args:
            word: The word.
        """
        self.said.append(word)
        return "heard"


def of_here(name):
    return EnvironmentSettings(path=f"{__name__}:{name}")


def made(settings=SETTINGS, *, rewards=True):
    return environment.make_factory(settings, rewards=rewards)


@pytest.fixture(scope="module")
def rows():
    train, heldout = load_rows(DataSettings(path="vault", size=120, heldout=40))
    return environment.enter(train, heldout, made())


@pytest.fixture(scope="module")
def tokenizer(rows):
    return tiny.make_tokenizer(texts([*rows[0], *rows[1]]), tools=True)


@pytest.fixture(scope="module")
def pi0(rows, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("actor")
    untrained = tiny.make_model(tokenizer, hidden=32, layers=2, seed=0)
    model.save(untrained, tokenizer, folder)
    return folder


def call(tool, **arguments):
    made = {"type": "function", "function": {"name": tool, "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [made]}


def answer(tool, said):
    return {"role": "tool", "name": tool, "content": said}


DONE = {"role": "assistant", "content": "done"}


def demonstration(rows, *, look=None, submit=None, found=None):
    """A demonstration for the first row: by default the right one."""
    row = rows[0][0]
    slot = row.columns["slot"] if look is None else look
    found = vault.inside(slot, row.columns["vault"]) if found is None else found
    submit = found if submit is None else submit
    return replace(
        row,
        turns=(call("look", slot=slot), answer("look", found), call("submit", value=submit),
               answer("submit", "ok"), DONE),
    )  # fmt: skip


def scored(row, tokenizer, *, limit=LIMIT, factory=None):
    factory = made() if factory is None else factory
    return replayed.score([row], factory, JUDGE, tokenizer, limit=limit, split="seen")[0]


# Demonstrations


def test_a_demonstration_that_opens_the_right_slot_scores_1(rows, tokenizer):
    record = scored(demonstration(rows), tokenizer)
    assert (record["return"], record["unscorable"], record["truncated"]) == (1.0, False, False)
    assert json.loads(record["text"])[-1] == DONE


def test_a_demonstration_with_a_wrong_call_scores_0(rows, tokenizer):
    slot = rows[0][0].columns["slot"]
    other = f"{(int(slot) + 1) % 1000:03d}"
    assert scored(demonstration(rows, look=other), tokenizer)["return"] == 0.0
    assert scored(demonstration(rows, submit="xx"), tokenizer)["return"] == 0.0


def test_j_of_d_is_the_share_of_careful_demonstrators():
    """Read forwards, a slot of the same digits from both sides is right, too."""
    train, heldout = load_rows(DataSettings(path="vault", heldout=500))
    train, heldout = environment.enter(train, heldout, made())
    words = tiny.make_tokenizer(texts([*train, *heldout]), tools=True)
    records = replayed.score([*train, *heldout], made(), JUDGE, words, limit=LIMIT, split="heldout")
    slots = [row.columns["slot"] for row in (*train, *heldout)]
    looked = [row.turns[0]["tool_calls"][0]["function"]["arguments"]["slot"]
              for row in (*train, *heldout)]  # fmt: skip
    same = [vault.inside(a, 1) == vault.inside(b, 1) for a, b in zip(slots, looked, strict=True)]
    assert [r["return"] for r in records] == [float(s) for s in same]
    assert 0.55 < sum(same) / len(same) < 0.75


def test_a_tool_that_answers_otherwise_than_in_d_leaves_no_return(rows, tokenizer):
    row = demonstration(rows, found="123")
    record = scored(row, tokenizer)
    assert record["return"] is None
    assert record["unscorable"]
    assert record["text"].startswith("diverged: look({'slot': ")
    assert "1 diverged, 0 failed (first: unit" in replayed.account([record])


def test_a_call_that_raises_is_scored_only_where_it_raised_in_d(rows, tokenizer):
    row = rows[0][0]
    error = str({"error": "no slot 9"})
    unknown = (call("look", slot="9"), answer("look", "12"), DONE)
    record = scored(replace(row, turns=unknown), tokenizer)
    assert record["text"].startswith("failed: ")
    told = (call("look", slot="9"), answer("look", error), DONE)
    assert scored(replace(row, turns=told), tokenizer)["return"] == 0.0
    absent = (call("drill"), answer("drill", "a hole"), DONE)
    assert "Tool drill not found." in scored(replace(row, turns=absent), tokenizer)["text"]


def test_a_demonstration_is_cut_where_a_rollout_would_be(rows, tokenizer):
    """The tools have acted before the limit drops their answers, in TRL and here."""
    row = demonstration(rows)
    _, said = prompts.demonstration_ids(tokenizer, row)
    submitted = [i for i in range(1, len(said)) if said.said[i - 1] and not said.said[i]][1]
    for limit, roles, value in (
        (len(said), 5, 1.0),
        (len(said) - 1, 5, 1.0),  # half of the last word
        (len(said) - 2, 4, 1.0),  # the receipt, and no last word
        (submitted, 3, 1.0),  # submitted, and no room for the receipt
        (submitted - 3, 3, 0.0),  # half of a call hands in half of a number
    ):
        record = scored(row, tokenizer, limit=limit)
        assert len(json.loads(record["text"])) == roles, limit
        assert record["return"] == value, limit
        assert record["truncated"] == (limit < len(said))


def test_rounds_of_calls_end_where_the_recipe_says(rows, tokenizer):
    once = made(replace(SETTINGS, max_tool_calling_iterations=1))
    record = scored(demonstration(rows), tokenizer, factory=once)
    assert record["return"] == 0.0
    assert [m["role"] for m in json.loads(record["text"])] == ["assistant", "tool", "assistant"]


# Tokens


def test_only_what_the_model_says_is_learned(rows, tokenizer):
    row = demonstration(rows)
    slot, vault_number = row.columns["slot"], row.columns["vault"]
    a, b, c = slot
    x, y = vault.inside(slot, vault_number)
    said = [
        *("<|call|>", "look", "(", "slot", "=", a, b, c, ")", "<|end|>"),
        *("<|call|>", "submit", "(", "value", "=", x, y, ")", "<|end|>"),
        *("done", "<|end|>"),
    ]
    read = ["<|tool|>", x, y, "<|assistant|>", "<|tool|>", "ok", "<|assistant|>"]
    pair = prompts.demonstration_ids(tokenizer, row)
    batch = model.batch_of([pair], tokenizer.pad_token_id, torch.device("cpu"))
    labels = batch["labels"][0]
    spell = tokenizer.convert_ids_to_tokens
    assert spell(labels[labels != -100].tolist()) == said
    after = batch["input_ids"][0][len(pair[0]) :]
    assert spell(after[labels[len(pair[0]) :] == -100].tolist()) == read
    mask = tokenizer.apply_chat_template(
        [*row.prompt, *row.turns], return_dict=True, return_assistant_tokens_mask=True
    )["assistant_masks"]
    assert [bool(m) for m in mask] == (labels != -100).tolist()


def test_a_template_that_rewrites_what_was_said_is_refused(rows, tokenizer):
    forgetful = tiny.make_tokenizer(["submit slot look value done ok"], tools=True)
    forgetful.chat_template = forgetful.chat_template.replace(
        "{{ m['content'] or '' }}", "{{ m['content'] or '' }}{{ 'ok' if loop.last else '' }}"
    )
    with pytest.raises(model.ModelError, match="is written differently once it follows"):
        prompts.demonstration_ids(forgetful, demonstration(rows))


def test_a_template_that_drops_calls_is_refused(sums):
    plain = tiny.make_tokenizer(row.text for row in sums[0])
    with pytest.raises(environment.EnvironmentError, match="does not write tool calls"):
        environment.prepare(plain)


# Rows


def test_rows_of_turns_survive_json(rows):
    row = rows[0][0]
    again = row_from_dict(json.loads(json.dumps(row.to_dict())))
    assert again == row
    assert again.turns
    assert again.tools[0]["function"]["name"] == "look"


def test_conversations_from_a_file_are_divided_into_prompt_and_turns(tmp_path):
    spoken = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    text = {"id": 1, "type": "function", "function": {"name": "look", "arguments": '{"slot": "1"}'}}
    asked = {"role": "assistant", "content": None, "tool_calls": [text]}
    lines = [
        {"messages": [*spoken, asked, answer("look", "5"), DONE]},
        {"prompt": [*spoken, {"role": "user", "content": "v"}],
         "completion": [call("look", slot="1", depth=None), answer("look", "5"), DONE]},
        {"messages": [*spoken, DONE, {"role": "user", "content": "w"}, DONE]},
    ]  # fmt: skip
    file = tmp_path / "d.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    train, heldout = load_rows(DataSettings(path=str(file), heldout=2))
    one, two, three = sorted([*train, *heldout], key=lambda row: row.text)
    assert one.turns == two.turns == (call("look", slot="1"), answer("look", "5"), DONE)
    assert (one.completion, three.turns, len(three.prompt)) == ("done", (), 4)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([call("look", slot="1")], "ends with a tool"),
        ([answer("look", "5"), DONE], "before it is called"),
        ([call("look", slot="1"), DONE], "1 tool calls in a message, and then 0 answers"),
    ],
)
def test_demonstrations_that_no_rollout_could_be_are_refused(tmp_path, messages, words):
    file = tmp_path / "d.jsonl"
    user = {"role": "user", "content": "u"}
    file.write_text(json.dumps({"prompt": [user], "completion": messages}) + "\n")
    with pytest.raises(DataError, match=words):
        load_rows(DataSettings(path=str(file), heldout=2))


def test_turns_without_an_environment_are_refused():
    train, heldout = load_rows(DataSettings(path="vault", size=20, heldout=5))
    with pytest.raises(environment.EnvironmentError, match=r"set environment\.path"):
        environment.enter(train, heldout, None)


# Environments


@pytest.mark.parametrize(
    ("settings", "rewards", "words"),
    [
        (EnvironmentSettings(path="posttrain.llm.vault:Safe"), True, "cannot load"),
        (EnvironmentSettings(path="posttrain.llm.vault:inside"), True, "wanted a class"),
        (EnvironmentSettings(path="builtins:dict"), True, "has no method reset"),
        (replace(SETTINGS, options={"doors": 3}), True, "cannot make"),
        (SETTINGS, False, "which TRL would add"),
        (of_here("Silent"), True, "has no get_reward"),
        (of_here("Waiting"), True, "listen is async"),
    ],
)
def test_environments_that_trl_could_not_use_are_refused(settings, rewards, words):
    with pytest.raises(environment.EnvironmentError, match=words):
        made(settings, rewards=rewards)


def test_what_reset_observes_stands_once_in_the_prompt():
    rows = load_rows(DataSettings(path="vault", size=20, heldout=5))
    factory = made(of_here("Greeter"))
    train, _ = environment.enter(*rows, factory)
    assert train[0].text == f"submit slot {train[0].columns['slot']} 1"
    assert factory.begin(train[0], "train").reset(**train[0].reward_columns()) is None


def test_an_episode_that_does_not_follow_from_its_row_is_refused():
    rows = load_rows(DataSettings(path="vault", size=20, heldout=5))
    factory = made(of_here("Fickle"))
    train, _ = environment.enter(*rows, factory)
    with pytest.raises(environment.EnvironmentError, match="must depend on its row alone"):
        factory.begin(train[0], "train")


def heard_once(completions, environments, transcript, **_):
    """A reward of one's own, with TRL's signature."""
    assert all(said[-1] == turn[0] for said, turn in zip(transcript, completions, strict=True))
    return [float(e.said == ["hello"]) for e in environments]


def test_a_reward_function_sees_the_environment_and_everything_said(rows, tokenizer):
    factory = made(of_here("Silent"), rewards=False)
    judge = reward.make_judge(FunctionReward(path=f"{__name__}:heard_once"), scale=(0.0, 1.0))
    row = replace(rows[0][0], columns={"observation": ""}, tools=factory.schemas)
    for word, value in (("hello", 1.0), ("bye", 0.0)):
        told = replace(row, turns=(call("say", word=word), answer("say", "heard"), DONE))
        record = replayed.score([told], factory, judge, tokenizer, limit=99, split="seen")[0]
        assert record["return"] == value


# Rollouts


def scripted(tokenizer, monkeypatch, *scripts):
    """Let the model say the scripts of an episode, whatever its weights."""
    from trl import GRPOTrainer

    spoken = iter(scripts)

    def speak(self, prompt_ids, *args, **kwargs):
        del args, kwargs
        ids = tokenizer(next(spoken), add_special_tokens=False)["input_ids"]
        return [ids[: self.max_completion_length] for _ in prompt_ids], None

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", speak)


def acting(pi0, folder, **given):
    return Acting(
        **{"load": lambda: model.load(pi0), "factory": made(), "judge": JUDGE, "given": {},
           "folder": folder, "world": World(), **given},
    )  # fmt: skip


def test_a_rollout_that_says_what_a_demonstration_says_scores_the_same(
    rows, tokenizer, pi0, tmp_path, monkeypatch
):
    row = demonstration(rows)
    slot = row.columns["slot"]
    value = vault.inside(slot, row.columns["vault"])
    scripted(tokenizer, monkeypatch, f"<|call|>look(slot={slot})<|end|>",
             f"<|call|>submit(value={value})<|end|>", "done<|end|>")  # fmt: skip
    generate = environment_generator(acting(pi0, tmp_path))
    (rolled,) = generate([row], Decoding(max_new_tokens=LIMIT), samples=2, seed=0)
    record = scored(row, tokenizer)
    for one in rolled:
        assert one.judgement.value == record["return"] == 1.0
        assert one.ids == list(prompts.demonstration_ids(tokenizer, row)[1])
        assert json.loads(one.text) == json.loads(record["text"])
        assert one.finished


@pytest.mark.parametrize("limit", [6, 10, 14, 16, 21, 22, 26, 28])
def test_a_demonstration_is_cut_as_trl_cuts_a_rollout(
    rows, tokenizer, pi0, tmp_path, monkeypatch, limit
):
    row = demonstration(rows)
    slot = row.columns["slot"]
    value = vault.inside(slot, row.columns["vault"])
    scripted(tokenizer, monkeypatch, f"<|call|>look(slot={slot})<|end|>",
             f"<|call|>submit(value={value})<|end|>", "done<|end|>")  # fmt: skip
    generate = environment_generator(acting(pi0, tmp_path))
    ((rolled,),) = generate([row], Decoding(max_new_tokens=limit), samples=1, seed=0)
    record = scored(row, tokenizer, limit=limit)
    assert json.loads(rolled.text) == json.loads(record["text"])
    assert rolled.judgement.value == record["return"]
    assert rolled.finished != record["truncated"]


def test_rollouts_follow_their_seed_and_the_deployment_draws_nothing(rows, pi0, tmp_path):
    generate = environment_generator(acting(pi0, tmp_path), at_once=8)

    def ids(decoding, seed):
        drawn = generate(rows[1][:3], decoding, samples=4, seed=seed)
        return [[one.ids for one in group] for group in drawn]

    sampled = Decoding(max_new_tokens=LIMIT)
    one, again, other = ids(sampled, 0), ids(sampled, 0), ids(sampled, 1)
    assert one == again != other
    greedy = ids(Decoding(max_new_tokens=LIMIT, temperature=0.0), 0)
    assert all(group == [group[0]] * 4 for group in greedy)
    assert greedy == ids(Decoding(max_new_tokens=LIMIT, temperature=0.0), 1)
