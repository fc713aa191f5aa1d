import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.intervention.plan import (
    Anchor,
    Plan,
    Replay,
    Reset,
    Warmup,
    chain,
    plan_from_dict,
    plan_to_json,
)
from posttrain.intervention.ramp import Ramp

shares = st.floats(0, 1)
ramps = st.builds(Ramp, start=shares, end=shares, steps=st.integers(1, 99), shape=st.just("cosine"))
anchors = st.one_of(
    st.builds(Anchor, coefficient=ramps, estimator=st.sampled_from(["k1", "k2", "k3", "exact"])),
    st.builds(Anchor, reference=st.sampled_from(["synced", "reset"]), every=st.integers(1, 9)),
)
replays = st.builds(
    Replay,
    weight=st.floats(0.1, 2),
    share=ramps,
    token_weight=st.sampled_from(["none", "chord", "dft", "luffy"]),
    gate=st.sampled_from(["none", "map"]),
)
warmups = st.builds(Warmup, steps=st.integers(1, 99))
resets = st.builds(
    Reset,
    parts=st.lists(st.sampled_from(["policy", "head", "adapter"]), min_size=1, unique=True),
    how=st.sampled_from(["fresh", "shrink_perturb", "interpolate"]),
    keep=shares,
)
interventions = st.one_of(anchors, replays, warmups, resets)
chains = st.lists(interventions, max_size=4).map(lambda several: chain(*several))
plans = chains.map(lambda several: several(Plan()))


@given(plans)
def test_the_empty_chain_changes_nothing(plan):
    assert chain()(plan) == plan


@given(interventions, chains, chains, plans)
def test_chaining_associates(a, b, c, plan):
    assert chain(chain(a, b), c)(plan) == chain(a, chain(b, c))(plan) == c(b(a(plan)))


@given(interventions, plans)
def test_an_intervention_fills_its_own_slot_and_no_other(intervention, plan):
    changed = intervention(plan)
    assert getattr(changed, intervention.kind) == intervention
    for kind in {"anchor", "replay", "warmup", "reset"} - {intervention.kind}:
        assert getattr(changed, kind) == getattr(plan, kind)


@given(interventions, plans)
def test_applying_an_intervention_twice_is_applying_it_once(intervention, plan):
    assert intervention(intervention(plan)) == intervention(plan)


def test_the_default_plan_is_inert():
    assert Plan().interventions == ()
    assert Plan().family == "minimal"


@given(plans)
def test_a_plan_survives_json_and_pickle(plan):
    assert plan_from_dict(json.loads(plan_to_json(plan))) == plan
    assert pickle.loads(pickle.dumps(plan)) == plan  # noqa: S301 - our own bytes
    assert hash(plan_from_dict(plan.to_dict())) == hash(plan)


@pytest.mark.parametrize(
    ("parts", "family"),
    [
        ((Anchor(),), "pi0-centric"),
        ((Warmup(),), "pi0-centric"),
        ((Replay(share=0.5),), "D-centric"),
        ((Reset(), Replay(weight=1.0)), "D-centric"),
        ((Reset(),), "D-centric"),
        ((Anchor(), Replay(weight=1.0)), "mixed"),
    ],
)
def test_the_family_is_the_prior_that_a_plan_keeps(parts, family):
    assert chain(*parts)(Plan()).family == family


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: Anchor(reference="synced"), "every"),
        (lambda: Anchor(every=5), "every"),
        (lambda: Anchor(estimator="k9"), "estimator"),
        (lambda: Anchor(term="js"), "term"),
        (lambda: Anchor(coefficient=-1), "start"),
        (Replay, "weight, a share"),
        (lambda: Replay(share=1.5), "share"),
        (lambda: Replay(share=Ramp(0.5, 1.5, steps=3)), "share"),
        (lambda: Replay(weight=1, token_weight="phi"), "token_weight"),
        (lambda: Replay(weight=1, gate="yes"), "gate"),
        (lambda: Warmup(steps=0), "steps"),
        (lambda: Reset(parts=()), "parts"),
        (lambda: Reset(parts=("head", "head")), "twice"),
        (lambda: Reset(parts=("hat",)), "hat"),
        (lambda: Reset(how="freesh"), "how"),
        (lambda: Reset(keep=1.1), "keep"),
        (lambda: Reset(noise=float("nan")), "noise"),
        (lambda: Reset(layers=0), "layers"),
    ],
)
def test_an_intervention_that_means_nothing_is_refused_by_name(make, names):
    with pytest.raises(ValueError, match=names):
        make()


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ({}, "interventions"),
        ({"interventions": [{"kind": "magic"}]}, "magic"),
        ({"interventions": [{}]}, "kind"),
        ({"interventions": [{"kind": "warmup", "stpes": 3}]}, "stpes"),
        ({"interventions": [{"kind": "anchor", "coefficient": {"stat": 1}}]}, "coefficient"),
        ({"interventions": [{"kind": "warmup"}, {"kind": "warmup"}]}, "twice"),
    ],
)
def test_a_plan_that_cannot_be_read_is_refused_by_name(data, names):
    with pytest.raises(ValueError, match=names):
        plan_from_dict(data)
