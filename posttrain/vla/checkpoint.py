"""Policies in folders, of whichever kind: of action tokens, or a flow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.vla import policy as tokens
from posttrain.vla.actions import FILE as ACTIONS
from posttrain.vla.flow.scaling import FILE as FLOW

if TYPE_CHECKING:
    from posttrain.vla.policy import Policy
    from posttrain.vla.settings import ModelSettings


def holds_policy(folder: str | Path) -> bool:
    """Whether a policy was saved there, rather than a model that has still to learn to act."""
    return any((Path(folder) / name).is_file() for name in (ACTIONS, FLOW))


def holds_flow(folder: str | Path) -> bool:
    """Whether the policy saved there is a flow."""
    return (Path(folder) / FLOW).is_file()


def is_flow(policy: Any) -> bool:
    """Whether a policy is a flow, which scores its labels itself."""
    return bool(getattr(policy.model, "scores_labels", False))


def save(policy: Any, folder: Path) -> None:
    """Write everything that `load` needs."""
    if is_flow(policy):
        policy.save(folder)
    else:
        tokens.save(policy, folder)


def load(folder: Path, settings: ModelSettings, *, temperature: float = 1.0) -> Policy:
    """The policy that `save` wrote, in the recipe's precision.

    A flow runs and scores the chain of the recipe: its weights belong to no chain.

    Args:
        folder: of the policy.
        settings: the recipe's `model`.
        temperature: of rollouts, which is part of what a flow's chains are worth.

    Raises:
        ValueError: the folder holds no policy, or not what `save` wrote.
    """
    if not holds_flow(folder):
        return tokens.load_policy(folder, dtype=settings.dtype)
    from posttrain.vla.flow.start import loaded

    found: Any = loaded(folder, settings, temperature=temperature)
    return found
