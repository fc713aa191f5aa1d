"""How strong is a prescribed intervention at first?

Functions of the planned RL steps and of what the learner can do. The numbers are first guesses
in the range that published runs use, to be tuned; docs/plan.md lists where each comes from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from posttrain.intervention.plan import Anchor, Plan, Replay, Reset, Warmup, chain
from posttrain.intervention.ramp import Ramp

if TYPE_CHECKING:
    from posttrain.intervention.capabilities import Capabilities
    from posttrain.intervention.plan import Place


def nothing(steps: int, learner: Capabilities) -> Plan:
    """Plain RL from pi_0."""
    del steps, learner
    return Plan()


def warmup(steps: int, learner: Capabilities) -> Plan:
    """pi_0 acts, its weights wait."""
    return Plan(warmup=Warmup(steps=max(1, round(learner.warmup_fraction * steps))))


def anchor(steps: int, learner: Capabilities) -> Plan:
    """Firm at first, when a policy degrades, then loose."""
    pull = Ramp(0.1, 0.02, steps=steps, shape="cosine")
    return _anchored(pull, learner)


def anchor_after_warmup(steps: int, learner: Capabilities) -> Plan:
    """The firm anchor, after a warm-up."""
    return chain(*anchor(steps, learner).interventions)(warmup(steps, learner))


def light_anchor(steps: int, learner: Capabilities) -> Plan:
    """Enough to notice drift, too little to stop learning."""
    return _anchored(Ramp(0.02, 0.005, steps=steps), learner)


def replay(steps: int, learner: Capabilities) -> Plan:
    """An imitation loss that decays, on the tokens that are still undecided."""
    del learner
    weight = Ramp(0.5, 0.02, steps=steps, shape="cosine")
    return Plan(replay=Replay(weight=weight, token_weight="chord"))


def strong_replay(steps: int, learner: Capabilities) -> Plan:
    """A larger one on all tokens: phi = p(1-p) would pass over those pi_0 never says."""
    del learner
    return Plan(replay=Replay(weight=Ramp(1.0, 0.05, steps=steps, shape="cosine")))


def group(steps: int, learner: Capabilities) -> Plan:
    """One demonstration in every group of eight, judged by the reward like the others."""
    del steps, learner
    return Plan(replay=Replay(share=0.125))


def strong_replay_and_group(steps: int, learner: Capabilities) -> Plan:
    """Both ways of showing demonstrations; both fade."""
    del learner
    return Plan(
        replay=Replay(
            weight=Ramp(1.0, 0.05, steps=steps, shape="cosine"),
            share=Ramp(0.25, 0.0, steps=steps, shape="cosine"),
        )
    )


def half_data(steps: int, learner: Capabilities) -> Plan:
    """Half of every batch from the dataset."""
    del steps, learner
    return Plan(replay=Replay(share=0.5))


def half_data_reset(steps: int, learner: Capabilities) -> Plan:
    """Half of every batch from the dataset, into new networks."""
    return chain(_reset(steps, learner))(half_data(steps, learner))


def strong_replay_reset(steps: int, learner: Capabilities) -> Plan:
    """A reset, never without the replay that refills it."""
    return chain(_reset(steps, learner))(strong_replay(steps, learner))


def light_mix(steps: int, learner: Capabilities) -> Plan:
    """A little of both priors; the data's part fades."""
    weight = Ramp(0.1, 0.0, steps=steps, shape="cosine")
    data = Replay(weight=weight, token_weight="chord")
    return chain(data)(light_anchor(steps, learner))


def quarter_data_after_warmup(steps: int, learner: Capabilities) -> Plan:
    """A little of both priors, for a learner with a critic."""
    return chain(Replay(share=0.25))(warmup(steps, learner))


def _anchored(pull: Ramp, learner: Capabilities) -> Plan:
    """An anchor where the learner has its KL, by the learner's own estimator."""
    place: Place = "loss" if "loss" in learner.places else "reward"
    return Plan(anchor=Anchor(coefficient=pull, estimator=learner.estimators[0], place=place))


def _reset(steps: int, learner: Capabilities) -> Reset:
    """The most that this kind of learner survives."""
    if learner.critic:
        return Reset(parts=("policy", "critic", "optimizer"))
    if "last_layers" in learner.reset:
        return Reset(parts=("last_layers",))
    # An adapter is new when RL starts, so there is something to reset only half way.
    return Reset(parts=("adapter",), every=max(1, steps // 2))
