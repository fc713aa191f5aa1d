"""TRL's online trainers under a plan.

Nothing of TRL is copied: the parts extend its methods and call them. With an empty plan each
trainer does what TRL's does, bit for bit.
"""

from __future__ import annotations

from trl import GRPOTrainer, RLOOTrainer

from posttrain.llm.anchored import Anchored
from posttrain.llm.keep import KeepData


class PlanGRPOTrainer(KeepData, Anchored, GRPOTrainer):
    """GRPO (arXiv 2402.03300) that can keep the data and anchor to pi_0."""


class PlanRLOOTrainer(KeepData, Anchored, RLOOTrainer):
    """RLOO (arXiv 2402.14740) that can keep the data and anchor to pi_0."""


TRAINERS: dict[str, type[PlanGRPOTrainer] | type[PlanRLOOTrainer]] = {
    "grpo": PlanGRPOTrainer,
    "rloo": PlanRLOOTrainer,
}
