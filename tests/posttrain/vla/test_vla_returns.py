"""J(D): stored, replayed or assumed, with a sentence and flags."""

from dataclasses import replace

import numpy as np
import pytest

from posttrain.regime.scores import Scores
from posttrain.vla.demonstrations import DemonstrationsError, Held
from posttrain.vla.maker import make
from posttrain.vla.returns import scores_of
from posttrain.vla.settings import DataSettings, EnvironmentSettings, ReturnSettings

GRID = EnvironmentSettings(envs=4)


@pytest.fixture(scope="module")
def made():
    """Ten episodes of a demonstrator who is half at random: some fail."""
    data = DataSettings(episodes=7, heldout=3, options={"noise": 0.5}, seed=1)
    return make(GRID, data)


def altered(d, place, **change):
    episodes = list(d.episodes)
    episodes[place] = replace(episodes[place], **change)
    return replace(d, episodes=tuple(episodes))


def test_stored_success(made):
    found = scores_of(made, DataSettings(), GRID, heldout=3)
    wins = [episode.success for episode in made.episodes]
    assert 0 < sum(wins) < 10
    assert [r["return"] for r in found.records] == [float(win) for win in wins]
    assert [r["split"] for r in found.records] == ["seen"] * 7 + ["heldout"] * 3
    first = made.episodes[0]
    assert found.records[0]["unit"] == f"{first.task}/{first.seed}"
    assert [r["steps"] for r in found.records] == [e.length for e in made.episodes]
    said = "J(D): 10 episodes from stored success; 0 assumed; all starts known."
    assert found.account == said
    assert found.flags == ()
    table = Scores.from_rows(found.records)
    assert table.returns.mean() == np.mean(wins)


def test_replaying_finds_what_the_maker_stored(made):
    stored = scores_of(made, DataSettings(), GRID, heldout=3)
    blank = replace(
        made,
        episodes=tuple(replace(e, success=None, origin="unknown") for e in made.episodes),
        rewards=None,
    )
    found = scores_of(blank, DataSettings(returns="replayed"), GRID, heldout=3)
    assert found.records == stored.records
    assert found.account.startswith("J(D): 10 episodes from replaying their actions; 0 assumed")
    rewards = replace(GRID, returns=ReturnSettings(kind="rewards"))
    by_rewards = scores_of(blank, DataSettings(returns="replayed"), rewards, heldout=3)
    assert by_rewards.records == scores_of(made, DataSettings(), rewards, heldout=3).records


def test_time_penalty(made):
    slow = replace(GRID, returns=ReturnSettings(time_penalty=0.5))
    wanted = [
        float(e.success) * (1 - 0.5 * e.length / 6) for e in made.episodes
    ]  # fmt: skip
    for how in ("stored", "replayed"):
        found = scores_of(made, DataSettings(returns=how), slow, heldout=3)
        assert np.allclose([r["return"] for r in found.records], wanted)
    found = scores_of(made, DataSettings(), replace(slow, max_steps=12), heldout=3)
    wanted = [float(e.success) * (1 - 0.5 * e.length / 12) for e in made.episodes]
    assert np.allclose([r["return"] for r in found.records], wanted)


def test_replays_that_go_another_way_are_left_out(made):
    lucky = next(i for i, e in enumerate(made.episodes) if e.length > 2)
    pixels = made.pictures.read(range(len(made)))
    (camera,) = pixels
    middle = made.episodes[lucky].begin + 1
    pixels[camera][middle] = 255 - pixels[camera][middle]
    broken = replace(made, pictures=Held(pixels))
    broken = altered(broken, 0 if lucky else 1, seed=None)
    told = altered(broken, 9, instruction="sing")
    found = scores_of(told, DataSettings(returns="replayed"), GRID, heldout=3)
    lost = {i: r["text"] for i, r in enumerate(found.records) if r["unscorable"]}
    assert lost == {
        lucky: f"its replay shows camera {camera} something else than D",
        (0 if lucky else 1): "its start's seed is not known, so it cannot be replayed",
        9: "the environment gives another instruction at its seed than D has",
    }
    assert all(found.records[i]["return"] is None for i in lost)
    assert found.records[0 if lucky else 1]["unit"] == f"D/{0 if lucky else 1}"
    assert "7 episodes from replaying" in found.account
    assert "1 with unknown starts, which cannot be paired" in found.account
    (flag,) = [f for f in found.flags if f.kind == "diverged_replays"]
    assert flag.text.startswith("3 of 10")


def test_replays_that_end_early_are_left_out(made):
    short = next(i for i, e in enumerate(made.episodes) if e.length < 5)
    episode = made.episodes[short]
    rows = [*range(len(made)), *[episode.begin + episode.length - 1] * 2]
    order = [*episode.rows, len(made), len(made) + 1]
    frames = {n: v[order] for n, v in made.pictures.read(rows).items()}
    alone = replace(
        made,
        actions=made.actions[rows][order], rewards=None, pictures=Held(frames),
        episodes=(replace(episode, begin=0, length=len(order)), replace(episode, begin=0)),
    )  # fmt: skip
    found = scores_of(alone, DataSettings(returns="replayed"), GRID, heldout=1)
    assert found.records[0]["text"] == "its replay ended before D's actions were used up"
    assert not found.records[1]["unscorable"]


def test_another_success_than_stored_is_said(made):
    wrong = altered(made, 4, success=not made.episodes[4].success)
    found = scores_of(wrong, DataSettings(returns="replayed"), GRID, heldout=3)
    assert "1 whose stored success was another" in found.account


def test_states_are_compared():
    feeling = replace(GRID, state=True, options={"state": True})
    d = make(feeling, DataSettings(episodes=3, heldout=2))
    d.states[d.episodes[1].begin] += 0.5
    found = scores_of(d, DataSettings(returns="replayed"), feeling, heldout=2)
    assert [r["text"] for r in found.records] == [
        None, "its replay has another state than D", None, None, None,
    ]  # fmt: skip


def test_nothing_can_be_replayed(made):
    blind = replace(made, episodes=tuple(replace(e, seed=None) for e in made.episodes))
    with pytest.raises(
        DemonstrationsError, match=r"none of .* could be replayed: its start's seed"
    ):
        scores_of(blind, DataSettings(returns="replayed"), GRID, heldout=3)
    frames = {"elsewhere": next(iter(made.pictures.read(range(len(made))).values()))}
    with pytest.raises(DemonstrationsError, match="D's cameras elsewhere are none of"):
        scores_of(
            replace(made, pictures=Held(frames)), DataSettings(returns="replayed"), GRID, heldout=3
        )


def test_assumed(made):
    found = scores_of(made, DataSettings(returns="assumed"), GRID, heldout=3)
    assert all(r["return"] == 1 and r["success"] for r in found.records)
    assert found.account == "J(D): 10 episodes assumed to be successes; all starts known."
    assert [f.kind for f in found.flags] == ["assumed_returns"]
    with pytest.raises(DemonstrationsError, match="stored or replayed"):
        scores_of(
            made, DataSettings(returns="assumed"),
            replace(GRID, returns=ReturnSettings(kind="rewards")), heldout=3,
        )  # fmt: skip


def test_success_filtered(made):
    said = scores_of(made, DataSettings(success_filtered=True), GRID, heldout=3)
    assert [f.kind for f in said.flags] == ["success_filtered"]
    many = replace(made, episodes=made.episodes * 5)
    winning = replace(many, episodes=tuple(replace(e, success=True) for e in many.episodes))
    found = scores_of(winning, DataSettings(), GRID, heldout=10)
    assert [f.kind for f in found.flags] == ["success_filtered"]
    assert "All 50 demonstrations" in found.flags[0].text
    almost = replace(winning, episodes=winning.episodes[:49])
    assert scores_of(almost, DataSettings(), GRID, heldout=10).flags == ()
    assert (
        scores_of(altered(winning, 7, success=False), DataSettings(), GRID, heldout=3).flags == ()
    )


def test_what_is_missing_is_named(made):
    blank = replace(made, episodes=tuple(replace(e, success=None) for e in made.episodes))
    with pytest.raises(DemonstrationsError) as error:
        scores_of(replace(blank, rewards=None), DataSettings(), GRID, heldout=3)
    for part in ("data.returns", "holds no success", "data.columns.success", "assumed"):
        assert part in str(error.value)
    assert "returns.kind" not in str(error.value)
    with pytest.raises(DemonstrationsError, match=r"environment\.returns\.kind: rewards"):
        scores_of(blank, DataSettings(), GRID, heldout=3)
    with pytest.raises(DemonstrationsError, match=r"holds no rewards; data\.columns\.reward"):
        scores_of(
            replace(made, rewards=None), DataSettings(),
            replace(GRID, returns=ReturnSettings(kind="rewards")), heldout=3,
        )  # fmt: skip


def test_some_episodes_that_do_not_say(made):
    found = scores_of(altered(made, 2, success=None), DataSettings(), GRID, heldout=3)
    assert found.records[2]["unscorable"]
    assert "9 episodes from stored success" in found.account
    assert "1 without a return (D does not say whether it succeeded)" in found.account
