"""TRL's GRPO for robot policies, under the plan that drives language models too.

The order matters: an episode's decisions are looked at before the anchor asks for their KL, and
the anchor hears no forward pass of the replay.
"""

from __future__ import annotations

from trl import GRPOTrainer

from posttrain.tuning.anchored import Anchored
from posttrain.tuning.keep import KeepData
from posttrain.tuning.order import Ordered
from posttrain.vla.acting import Acting


class PlanVLATrainer(KeepData, Acting, Anchored, Ordered, GRPOTrainer):
    """GRPO (arXiv 2402.03300) of a policy that acts, with the data kept and pi_0 anchored to."""
