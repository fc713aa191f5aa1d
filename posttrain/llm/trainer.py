"""TRL's online trainers under a plan.

Nothing of TRL is copied: the parts extend its methods and call them. With an empty plan each
trainer does what TRL's does, bit for bit.

The order matters: the anchor's reward is added to rewards that the groups have watched, and the
anchor hears no forward pass of the replay.
"""

from __future__ import annotations

from trl import GRPOTrainer, RLOOTrainer

from posttrain.llm.group import Grouped
from posttrain.llm.reused import Reused
from posttrain.tuning.anchored import Anchored
from posttrain.tuning.keep import KeepData
from posttrain.tuning.order import Ordered


class PlanGRPOTrainer(KeepData, Anchored, Grouped, Ordered, Reused, GRPOTrainer):
    """GRPO (arXiv 2402.03300) that can keep the data and anchor to pi_0."""


class PlanRLOOTrainer(KeepData, Anchored, Grouped, Ordered, Reused, RLOOTrainer):
    """RLOO (arXiv 2402.14740) that can keep the data and anchor to pi_0."""

    native = ("k1", "reward")
    per_token = False


TRAINERS: dict[str, type[PlanGRPOTrainer] | type[PlanRLOOTrainer]] = {
    "grpo": PlanGRPOTrainer,
    "rloo": PlanRLOOTrainer,
}
