"""Episodes: decided by seeds and streams, not by slots; what they keep, and their rows."""

import numpy as np
import pytest

pytest.importorskip("gymnasium")
from posttrain.regime.scores import Scores
from posttrain.vla.environments.make import make_fleet
from posttrain.vla.maker import Disturbances, demonstrator
from posttrain.vla.observation import Decisions
from posttrain.vla.rollout import play, records, run
from posttrain.vla.scripted import Random
from posttrain.vla.settings import EnvironmentSettings, ReturnSettings


class Eager:
    """Looks at pixels and draws; decides `chunk` actions, each token one of four."""

    def __init__(self, chunk=1):
        self.tokens, self.sizes, self.drawn = chunk, [], []

    def decide(self, seen, draws, *, temperature):
        self.sizes.append(len(seen))
        self.drawn.append(draws)
        looks = seen.images["image"].reshape(len(seen), -1).sum(axis=1, dtype=np.int64) % 7
        tokens = (np.floor(draws * 4).astype(np.int64) + looks[:, None]) % 4
        return Decisions(tokens=tokens, actions=tokens)


def streams(place):
    return np.random.default_rng((3, place))


def played(envs, *, chunk=1, count=60, vector="sync", temperature=1.0, **given):
    fleet = make_fleet(EnvironmentSettings(envs=envs, vector=vector))
    actor = Eager(chunk)
    try:
        found = play(actor, fleet, range(count), draws=streams, temperature=temperature, **given)
    finally:
        fleet.close()
    return found, actor


def facts(episodes):
    return [
        (
            e.seed,
            e.task,
            e.instruction,
            e.success,
            e.steps,
            e.rewards,
            e.truncated,
            e.tokens.tolist(),
        )
        for e in episodes
    ]


@pytest.mark.parametrize(("chunk", "execute"), [(1, 0), (3, 0), (3, 2)])
def test_slots_do_not_influence_each_other(chunk, execute):
    given = {"chunk": chunk, "execute": execute, "keep": "decisions"}
    alone = facts(played(1, **given)[0])
    assert alone == facts(played(3, **given)[0]) == facts(played(16, **given)[0])
    assert [fact[0] for fact in alone] == list(range(60))
    assert 0 < sum(fact[3] for fact in alone) < 60


def test_processes_of_their_own_play_the_same():
    one, _ = played(2, count=8, keep="decisions")
    other, _ = played(2, count=8, keep="decisions", vector="async")
    assert facts(one) == facts(other)


def test_slots_are_filled_again_so_that_batches_are_full():
    found, actor = played(8, count=60)
    assert actor.sizes[:20] == [8] * 20
    assert sum(actor.sizes) == sum(one.steps for one in found)


def test_streams_belong_to_places_and_seeds_may_repeat():
    fleet = make_fleet(EnvironmentSettings(envs=4))
    found = play(Eager(), fleet, [5] * 24, draws=streams, temperature=1.0, keep="decisions")
    assert {one.seed for one in found} == {5}
    assert len({one.task for one in found}) == 1
    assert len({one.tokens.tobytes() for one in found}) > 4
    rows = records(found, ReturnSettings(), max_steps=6, split="heldout", decoding="rollout")
    assert [row["seed"] for row in rows] == list(range(24))
    again = play(
        Eager(), fleet, [5], draws=lambda _: streams(23), temperature=1.0, keep="decisions"
    )
    np.testing.assert_array_equal(again[0].tokens, found[23].tokens)


def test_greedy_looks_at_no_draws():
    def refuse(place):
        raise AssertionError(place)

    fleet = make_fleet(EnvironmentSettings(envs=4))
    actor = Eager()
    assert len(play(actor, fleet, range(5), draws=refuse, temperature=0)) == 5
    assert not np.concatenate(actor.drawn).any()


def test_what_is_kept_is_what_was_seen_and_done():
    for one in played(4, chunk=2, count=20, keep="frames")[0]:
        assert len(one.seen) == len(one.tokens) == -(-one.steps // 2)
        assert one.frames["image"].shape == (one.steps + 1, 24, 24, 3)
        np.testing.assert_array_equal(one.frames["image"][:-1:2], one.seen.images["image"])
        np.testing.assert_array_equal(one.actions, one.tokens.reshape(-1)[: one.steps])
        assert one.gains.tolist() == [0.0] * (one.steps - 1) + [float(one.success)]
        assert (one.frames["image"][-1] != one.frames["image"][-2]).any() or one.truncated
    bare = played(4, count=2)[0][0]
    assert len(bare.seen) == 0
    assert not bare.frames
    assert bare.tokens.size == 0


def test_part_of_a_chunk_is_carried_out_and_no_more_than_there_is():
    found, actor = played(4, chunk=3, execute=1)
    assert sum(actor.sizes) == sum(one.steps for one in found)
    with pytest.raises(ValueError, match="a decision holds 3 actions, 4 were asked for"):
        played(4, chunk=3, execute=4)


def test_nothing_to_play_and_who_is_told():
    heard = []
    assert played(2, count=0)[0] == []
    played(2, count=5, tick=heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 5


def test_rows_are_scores_with_the_return_that_was_chosen():
    fleet = make_fleet(EnvironmentSettings(envs=4))
    rng = [np.random.default_rng(i) for i in range(12)]
    found = run(demonstrator(fleet, rng, Disturbances()), fleet, range(12))
    returns = ReturnSettings(time_penalty=0.5)
    rows = records(
        found, returns, max_steps=fleet.max_steps, split="seen", decoding="deployment",
        samples=[2] * 12,
    )  # fmt: skip
    scores = Scores.from_rows(rows)
    np.testing.assert_allclose(scores.returns, [1 - 0.5 * one.steps / 6 for one in found])
    assert rows[0] == {
        "source": "policy", "unit": f"{found[0].task}/0", "task": found[0].task,
        "return": scores.returns[0], "seed": 2, "steps": found[0].steps, "success": True,
        "truncated": False, "unscorable": False, "prompt": found[0].instruction, "split": "seen",
        "decoding": "deployment",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("actions", "low", "high"), [("discrete", 0.24, 0.34), ("continuous", 0.2, 0.34)]
)
def test_chance_gets_as_far_as_is_documented(actions, low, high):
    fleet = make_fleet(EnvironmentSettings(options={"actions": actions}))
    chance = Random(fleet.action_space)
    found = play(chance, fleet, range(1500), draws=streams, temperature=1.0)
    assert low < np.mean([one.success for one in found]) < high
    with pytest.raises(ValueError, match="random actions are not greedy"):
        play(chance, fleet, [0], draws=streams, temperature=0)


def test_an_episode_draws_its_stream_from_the_beginning():
    fleet = make_fleet(EnvironmentSettings(envs=1, options={"max_steps": 30, "size": 6}))
    for place in range(40):
        actor = Eager(2)
        play(actor, fleet, [place], draws=streams, temperature=1.0, execute=1)
        drawn = np.concatenate(actor.drawn)
        np.testing.assert_array_equal(drawn, streams(0).random(drawn.shape))
        if len(drawn) > 10:
            break
    else:
        pytest.fail("no episode is long")
    fleet.close()
