"""A policy decides by its draws alone, and is the same when it is loaded again."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from posttrain.tuning import tiny_vlm
from posttrain.tuning.model import save as save_model
from posttrain.tuning.model import token_logps
from posttrain.vla.actions import ActionsError, from_data
from posttrain.vla.eyes import States
from posttrain.vla.observation import Observations
from posttrain.vla.policy import PolicyError, load_policy, make_policy, save
from posttrain.vla.sampling import chosen
from posttrain.vla.settings import ActionSettings, ModelSettings
from posttrain.vla.tiny_vla import TinyError

WORDS = ("go to the red block", "go to the blue one now")
SETTINGS = ModelSettings(hidden=32, layers=1)


def made(*, box=True, chunk=2, settings=SETTINGS, shape=(24, 24, 3), **more):
    space = spaces.Box(-1, 1, (2,)) if box else spaces.Discrete(4)
    actions = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    acting = ActionSettings(bins=8, chunk=chunk, vocabulary=settings.actions.vocabulary)
    return make_policy(
        settings, from_data(space, actions, acting), instructions=WORDS, shape=shape, **more
    )


def seen(n=12, side=24, **more):
    pixels = np.random.default_rng(1).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    return Observations(
        images={"top": pixels}, instructions=[WORDS[i % 2] for i in range(n)], **more
    )


def drawn(policy, n=12):
    return np.random.default_rng(2).random((n, policy.tokens))


@pytest.fixture(scope="module")
def policy():
    return made()


def test_the_batch_does_not_decide(policy):
    whole = policy.decide(seen(), drawn(policy), temperature=1.0)
    few = replace(policy, at_once=5).decide(seen(), drawn(policy), temperature=1.0)
    assert (whole.tokens == few.tokens).all()
    assert whole.tokens.dtype == np.int64
    assert whole.actions.shape == (12, 2, 2)
    assert (policy.tokenizer.decode(whole.tokens) == whole.actions).all()


def test_a_decision_takes_no_random_number_of_torch_and_leaves_the_mode(policy):
    policy.model.train()
    before = torch.get_rng_state()
    first = policy.decide(seen(), drawn(policy), temperature=1.0)
    assert policy.model.training
    policy.model.eval()
    again = policy.decide(seen(), drawn(policy), temperature=1.0)
    assert not policy.model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert (first.tokens == again.tokens).all()


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_tokens_are_as_frequent_as_the_model_says(temperature):
    policy = made(box=False, chunk=1)
    one = seen(1)
    many = Observations(
        images={"top": one.images["top"].repeat(2000, 0)}, instructions=list(WORDS[:1]) * 2000
    )
    draws = (np.arange(2000)[:, None] + 0.5) / 2000
    policy = replace(policy, at_once=500)
    tokens = policy.decide(many, draws, temperature=temperature).tokens
    with torch.no_grad():
        logits = policy.model(**policy.encode(one)).logits[0, -1, list(policy.tokenizer.ids)]
    wanted = (logits.double() / temperature).softmax(-1).numpy()
    found = np.bincount(tokens[:, 0], minlength=4) / 2000
    assert np.allclose(found, wanted, atol=2e-3)
    assert (np.diff(tokens[:, 0]) >= 0).all()


def test_greedy_takes_the_likeliest_and_looks_at_no_draws(policy):
    found = policy.decide(seen(), np.zeros((0, 0)), temperature=0)
    batch = policy.rows(seen(), found.tokens)
    del batch["labels"]
    with torch.no_grad():
        logits = policy.model(**batch).logits[:, -policy.tokens - 1 : -1]
    assert (logits[..., list(policy.tokenizer.ids)].argmax(-1).numpy() == found.tokens).all()


def test_draws_at_the_ends_are_tokens():
    logits = np.array([[-80.0, 0.0, 0.0, -900.0]], dtype=np.float32).repeat(2, 0)
    assert chosen(logits, np.array([0.0, np.nextafter(1.0, 0.0)]), 1.0).tolist() == [0, 2]


def test_other_draws_are_refused(policy):
    with pytest.raises(PolicyError, match=r"\[12, 4\], got \[12, 1\]"):
        policy.decide(seen(), np.zeros((12, 1)), temperature=1.0)


def test_rows_are_prompts_and_the_decision(policy):
    tokens = policy.decide(seen(), drawn(policy), temperature=1.0).tokens
    batch, asked = policy.rows(seen(), tokens), policy.inputs(seen())
    length = asked["prompt_ids"].shape[1]
    assert torch.equal(batch["input_ids"][:, :length], asked["prompt_ids"])
    assert torch.equal(batch["attention_mask"][:, :length], asked["prompt_mask"])
    ids = np.array(policy.tokenizer.ids)[tokens]
    assert (batch["input_ids"][:, length:].numpy() == ids).all()
    assert (batch["labels"][:, :length] == -100).all()
    assert (batch["labels"][:, length:].numpy() == ids).all()
    assert batch["attention_mask"][:, length:].all()


def test_a_policy_learns_what_it_is_shown():
    policy = made(box=False, chunk=1)
    shown = seen()
    tokens = np.array([[i % 4] for i in range(12)])
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=5e-3)
    policy.model.train()
    for _ in range(40):
        loss = policy.model(**policy.rows(shown, tokens)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = policy.decide(shown, np.zeros((12, 1)), temperature=0)
    assert (found.tokens == tokens).all()


def test_saved_and_loaded_it_says_the_same(tmp_path):
    states = np.random.default_rng(0).uniform(-1, 1, (12, 2)).astype(np.float32)
    settings = replace(SETTINGS, prompt="go {state} {instruction}")
    policy = made(settings=settings, states=States.of(states))
    shown = seen(states=states)
    save(policy, tmp_path)
    again = load_policy(tmp_path)
    one = policy.decide(shown, drawn(policy), temperature=1.0)
    other = again.decide(shown, drawn(policy), temperature=1.0)
    assert (one.tokens == other.tokens).all()
    assert (one.actions == other.actions).all()
    logps = [token_logps(p.model, p.rows(shown, one.tokens))[0] for p in (policy, again)]
    assert torch.equal(*logps)
    assert {f.name for f in tmp_path.iterdir()} >= {
        "model.safetensors", "actions.json", "prompt.json", "tokenizer.json"
    }  # fmt: skip


def test_a_folder_without_its_files_is_refused(tmp_path, policy):
    with pytest.raises(ActionsError, match=r"actions\.json"):
        load_policy(tmp_path)
    policy.tokenizer.save(tmp_path)
    with pytest.raises(PolicyError, match=r"prompt\.json"):
        load_policy(tmp_path)
    (tmp_path / "prompt.json").write_text(json.dumps({"prompt": 3, "states": None}))
    with pytest.raises(PolicyError, match="must hold a text"):
        load_policy(tmp_path)


def test_actions_of_another_vocabulary_are_refused(tmp_path, policy):
    save(policy, tmp_path)
    policy.tokenizer.placed(range(8)).save(tmp_path)
    with pytest.raises(PolicyError, match="stand elsewhere"):
        load_policy(tmp_path)


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    """A vision-language model that knows no actions."""
    folder = tmp_path_factory.mktemp("vlm")
    processor = tiny_vlm.make_processor(WORDS)
    save_model(tiny_vlm.make_model(processor, hidden=32), processor, folder)
    return folder


def test_a_model_is_given_action_tokens_about_the_mean_of_its_own(vlm):
    settings = replace(SETTINGS, path=str(vlm))
    policy, again = made(settings=settings), made(settings=settings)
    table = policy.model.get_input_embeddings().weight
    ids = list(policy.tokenizer.ids)
    assert policy.tokenizer.ids == tuple(range(min(ids), min(ids) + 8))
    assert len(table) == len(policy.processor.tokenizer) == max(ids) + 1
    new, old = table[ids], table[: min(ids)]
    assert torch.equal(new, again.model.get_input_embeddings().weight[ids])
    assert len(torch.unique(new, dim=0)) == 8
    assert (new - old.mean(0)).std() < 0.3 * old.std()
    first = policy.decide(seen(), drawn(policy), temperature=1.0)
    assert first.tokens.shape == (12, 4)


def test_other_seeds_give_other_rows(vlm):
    settings = replace(SETTINGS, path=str(vlm))
    one, other = (made(settings=settings, seed=seed) for seed in (0, 1))
    ids = list(one.tokenizer.ids)
    rows = [p.model.get_input_embeddings().weight[ids] for p in (one, other)]
    assert not torch.allclose(*rows)


def test_the_tail_of_a_vocabulary_needs_no_new_token(vlm):
    settings = replace(SETTINGS, path=str(vlm), actions=ActionSettings(vocabulary="tail"))
    policy = made(settings=settings, box=False, chunk=1)
    words = policy.processor.tokenizer
    assert list(policy.tokenizer.ids) == [words.vocab_size - 1 - i for i in range(4)]
    assert policy.decide(seen(), drawn(policy), temperature=1.0).tokens.max() < 4


def test_a_padded_vocabulary_ends_before_its_padding(vlm):
    """OpenVLA: 32064 tokens, of which 64 are padding; action 0 is token 31999."""
    from posttrain.tuning.model import load
    from posttrain.vla.vocabulary import places

    model, processor = load(vlm)
    model.config.pad_to_multiple_of = 3
    actions = replace(
        from_data(spaces.Discrete(4), np.zeros(1), ActionSettings()), vocabulary="tail"
    )
    end = model.config.get_text_config().vocab_size - 3
    assert places(processor, model, actions) == [end - 1 - i for i in range(4)]


def test_a_tail_with_special_tokens_is_refused(vlm):
    settings = replace(SETTINGS, path=str(vlm), actions=ActionSettings(vocabulary="tail"))
    space = spaces.Discrete(20)
    tokenizer = from_data(space, np.zeros(1), settings.actions)
    with pytest.raises(PolicyError, match="use 'added'"):
        make_policy(settings, tokenizer)


def test_a_policy_is_not_given_actions_twice(tmp_path, policy):
    save(policy, tmp_path)
    with pytest.raises(PolicyError, match="holds a policy already"):
        made(settings=replace(SETTINGS, path=str(tmp_path)))


def test_a_model_that_does_not_see_is_refused(tmp_path):
    from posttrain.tuning import tiny

    tokenizer = tiny.make_tokenizer(WORDS)
    save_model(tiny.make_model(tokenizer, hidden=32), tokenizer, tmp_path)
    with pytest.raises(PolicyError, match="no model that sees images"):
        made(settings=replace(SETTINGS, path=str(tmp_path)))


@pytest.mark.parametrize("side", [16, 40, 64])
def test_tiny_sees_squares_of_any_size(side):
    policy = made(shape=(side, side, 3))
    shown = seen(3, side=side)
    patches = (policy.encode(shown)["input_ids"] == policy.processor.image_token_id).sum(1)
    assert (patches == (side // 8) ** 2).all()
    assert policy.decide(shown, drawn(policy, 3), temperature=1.0).tokens.shape == (3, 4)


@pytest.mark.parametrize("shape", [(24, 32, 3), (30, 30, 3)])
def test_tiny_refuses_other_pictures(shape):
    with pytest.raises(TinyError, match=f"{shape[0]} x {shape[1]}"):
        made(shape=shape)
