"""What cannot be done where accelerate cuts up weights or optimizers, refused in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ShardingError(ValueError):
    """A way to distribute that a run cannot use, and what to use instead."""


def refuse_sharded_weights(environment: Mapping[str, str]) -> None:
    """Refuse FSDP and ZeRO-3, which leave every process a part of each weight.

    Between trainings a run samples, probes and saves the policy itself, with every weight in place.
    In parts it would save what one process happens to hold.

    Args:
        environment: the variables that `accelerate launch` set.

    Raises:
        ShardingError: what was asked for, and what can be done.
    """
    asked = None
    if environment.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        asked = "FSDP"
    zero = environment.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    if zero and environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3":
        asked = "DeepSpeed ZeRO-3"
    if asked is not None:
        raise ShardingError(
            f"accelerate was asked for {asked}, which cuts up the weights, and a run samples, "
            "probes and saves whole policies between its trainings; launch with "
            "recipes/accelerate/ddp.yaml or zero2.yaml (with model.lora the optimizer is small), "
            "or export the plan to TRL (posttrain prescribe RUN --for trl)"
        )


def refuse_master_weights(args: Any, field: str) -> None:
    """Refuse a reset between two steps of DeepSpeed's optimizer.

    It trains its own float32 copy of the weights and writes it over the model's at the next step,
    so that whatever was reset would be back.

    Args:
        args: the trainer's arguments.
        field: of the plan, for the message.

    Raises:
        ShardingError: the trainer runs on DeepSpeed.
    """
    if getattr(args, "deepspeed_plugin", None) is not None:
        raise ShardingError(
            f"{field}: DeepSpeed trains a copy of the weights and writes it back at every step, so "
            "a reset between two steps would be undone; launch with recipes/accelerate/ddp.yaml, "
            "or reset before RL only (reset.every: 0)"
        )
