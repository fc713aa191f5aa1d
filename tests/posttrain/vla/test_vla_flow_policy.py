"""PI0 as a policy: what it decides, what it scores, and that both are one chain."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from scipy.special import ndtri
from scipy.stats import norm

from posttrain.vla.flow import tiny_pi0
from posttrain.vla.flow.chain import Chain, FlowError
from posttrain.vla.flow.model import FlowPI0
from posttrain.vla.flow.numbers import from_tokens, read_tokens, to_tokens
from posttrain.vla.flow.policy import FlowPolicy, load_policy
from posttrain.vla.flow.scaling import Scaling, from_data
from posttrain.vla.observation import Actor, Observations

TEXTS = ("go to the red block", "go to the big blue block now")


def seen(n: int, *, states: int = 0, seed: int = 0) -> Observations:
    rng = np.random.default_rng(seed)
    return Observations(
        images={"image": rng.integers(0, 256, (n, 24, 24, 3), dtype=np.uint8)},
        instructions=[TEXTS[i % 2] for i in range(n)],
        states=rng.random((n, states)).astype(np.float32) if states else None,
    )


def policy_of(
    *, chunk: int = 1, size: int = 2, width: int | None = None, states: int = 0
) -> FlowPolicy:
    words = tiny_pi0.make_tokenizer(TEXTS)
    config = tiny_pi0.make_config(
        words, hidden=16, layers=1, chunk=chunk, size=size, state=max(states, 1),
        chain=Chain(steps=3, noise=0.5),
    )  # fmt: skip
    config.max_action_dim = width or size
    scaling = Scaling(
        lower=(-1.0,) * size, upper=(1.0,) * size, mean=(0.1,) * size, deviation=(0.5,) * size,
        state_mean=(0.5,) * states, state_deviation=(0.2,) * states, chunk=chunk,
    )  # fmt: skip
    return FlowPolicy(tiny_pi0.make_model(config, seed=1).eval(), words, scaling)


def draws_for(policy: FlowPolicy, n: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).random((n, policy.tokens))


def test_numbers_are_tokens_bit_for_bit() -> None:
    values = np.array([[0.0, -1.5, 3e-38, -0.0], [np.pi, 1e30, -7e-4, 1.0]], dtype=np.float32)
    tokens = to_tokens(values)
    assert tokens.dtype == np.int64
    assert tokens.min() >= 0
    assert from_tokens(tokens).tobytes() == values.tobytes()
    assert read_tokens(torch.from_numpy(tokens)).numpy().tobytes() == values.tobytes()


def test_it_is_an_actor_whose_actions_keep_the_bounds() -> None:
    policy = policy_of(chunk=3)
    actor: Actor = policy
    made = actor.decide(seen(4), draws_for(policy, 4), temperature=1.0)
    assert made.actions.shape == (4, 3, 2)
    assert made.tokens.shape == (4, policy.tokens) == (4, 6 + 3 * 6)
    assert np.abs(made.actions).max() <= 1


def test_greedy_is_the_stock_sampler_from_no_noise() -> None:
    policy = policy_of(chunk=2, states=2)
    look = seen(5, states=2)
    made = policy.decide(look, draws_for(policy, 5), temperature=0.0)
    inputs = policy.encode(look)
    assert look.states is not None
    stock = policy.model.sample_actions(
        state=torch.from_numpy((look.states - 0.5) / 0.2).float(),
        noise=torch.zeros(5, 2, 2),
        num_steps=3,
        **inputs,
    )
    wanted = np.clip(stock.numpy() * 0.5 + 0.1, -1, 1)
    assert np.allclose(made.actions, wanted, atol=1e-5)
    again = policy.decide(look, draws_for(policy, 5, seed=6), temperature=0.0)
    assert np.array_equal(again.tokens, made.tokens)


@pytest.mark.parametrize(("chunk", "width", "temperature"), [(1, 2, 1.0), (2, 5, 1.0), (1, 4, 0.6)])
def test_a_decision_is_scored_with_the_noise_that_made_it(
    chunk: int, width: int, temperature: float
) -> None:
    policy = policy_of(chunk=chunk, width=width, states=1)
    look, draws = seen(3, states=1), draws_for(policy, 3)
    made = policy.decide(look, draws, temperature=temperature)
    policy.scored_at(temperature)
    out = policy.model(**policy.rows(look, made.tokens))
    found = out.log_probs[:, -policy.tokens :].detach().numpy()
    start = chunk * width
    z = ndtri(draws[:, start:]).reshape(3, 3, -1)
    deviations = np.array(Chain(steps=3, noise=0.5 * temperature).deviations())[None, :, None]
    wanted = (norm.logpdf(z) - np.log(deviations)).reshape(3, -1)
    assert np.allclose(found[:, start:], wanted, atol=2e-3)
    assert not found[:, :start].any()


def test_what_a_row_is_batched_with_does_not_matter() -> None:
    policy = policy_of(states=1)
    look = seen(4, states=1)
    made = policy.decide(look, draws_for(policy, 4), temperature=1.0)
    together = policy.model(**policy.rows(look, made.tokens)).log_probs[:, -policy.tokens :]
    for i in range(4):
        row = policy.rows(look.take([i]), made.tokens[i : i + 1])
        alone = policy.model(**row).log_probs[:, -policy.tokens :]
        assert torch.allclose(alone[0], together[i], atol=1e-4)


def test_state_words_and_pictures_matter() -> None:
    policy = policy_of(states=3)
    look, draws = seen(1, states=3), draws_for(policy, 1)
    base = policy.decide(look, draws, temperature=1.0).actions
    assert look.states is not None
    others = [
        Observations(
            images=look.images, instructions=look.instructions, states=look.states[:, ::-1].copy()
        ),
        Observations(images=look.images, instructions=[TEXTS[1]], states=look.states),
        Observations(
            images={"image": 255 - look.images["image"]},
            instructions=look.instructions,
            states=look.states,
        ),
    ]
    for other in others:
        assert not np.allclose(
            policy.decide(other, draws, temperature=1.0).actions, base, atol=1e-5
        )


def test_the_loss_of_a_demonstration_is_that_of_pi0() -> None:
    policy = policy_of(chunk=2)
    look = seen(6)
    actions = np.random.default_rng(2).uniform(-1, 1, (6, 2, 2))
    rows = policy.rows(look, policy.tokenizer.encode(actions))
    found = policy.model(**rows)
    noise, t = policy.model._draw(6, 2, 2)
    stock = super(FlowPI0, policy.model).forward(
        state=torch.zeros(6, 1),
        actions=torch.from_numpy((actions - 0.1) / 0.5).float(),
        noise=noise,
        timestep=t,
        **policy.encode(look),
    )
    assert torch.allclose(found.loss, stock.loss, atol=1e-5)
    assert torch.allclose(found.log_probs[:, -4:].mean(), -stock.loss, atol=1e-5)


def test_losses_repeat_when_evaluated_and_move_with_the_seed_when_trained() -> None:
    policy = policy_of()
    rows = policy.rows(seen(4), policy.tokenizer.encode(np.zeros((4, 1, 2))))
    model = policy.model
    before = torch.random.get_rng_state()
    assert model(**rows).loss == model(**rows).loss
    assert torch.equal(before, torch.random.get_rng_state())
    model.train()
    torch.manual_seed(1)
    first, second = model(**rows).loss, model(**rows).loss
    torch.manual_seed(1)
    assert first == model(**rows).loss
    assert first != second


def test_cloning_brings_the_policy_to_the_demonstrations() -> None:
    policy = policy_of()
    look = seen(16)
    wanted = np.where(np.arange(16) % 2 == 0, 0.6, -0.4)[:, None, None] * np.ones((1, 1, 2))
    model = policy.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    torch.manual_seed(0)
    model.train()
    for _ in range(120):
        loss = model(**policy.rows(look, policy.tokenizer.encode(wanted))).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made = policy.decide(look, draws_for(policy, 16), temperature=1.0).actions
    assert np.abs(made - wanted).mean() < 0.2


def test_a_saved_policy_decides_the_same(tmp_path: Path) -> None:
    policy = policy_of(states=1)
    policy.save(tmp_path)
    again = load_policy(tmp_path)
    look, draws = seen(3, states=1), draws_for(policy, 3)
    first, second = (p.decide(look, draws, temperature=1.0) for p in (policy, again))
    assert np.array_equal(first.tokens, second.tokens)
    assert again.tokenizer == policy.tokenizer


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    policy = policy_of()
    with pytest.raises(FlowError, match="must be a Box"):
        from_data(Discrete(4), np.zeros(3))
    with pytest.raises(FlowError, match="demonstrations' actions"):
        from_data(Box(-1, 1, (2,)), np.zeros((3, 4)))
    with pytest.raises(FlowError, match="proprioception"):
        policy_of(states=1).rows(seen(1, states=2), np.zeros((1, 8), dtype=np.int64))
    with pytest.raises(FlowError, match="labels"):
        policy.model(**policy.rows(seen(1), np.zeros((1, 7), dtype=np.int64)))
    with pytest.raises(FlowError, match="draws"):
        policy.decide(seen(2), np.zeros((1, policy.tokens)), temperature=1.0)
    with pytest.raises(FlowError, match="density"):
        policy.scored_at(0.0)
    wide = Observations(images={"image": np.zeros((1, 24, 32, 3), np.uint8)}, instructions=["go"])
    with pytest.raises(FlowError, match="square"):
        policy.encode(wide)
    with pytest.raises(FlowError, match="cannot read"):
        load_policy(tmp_path)
