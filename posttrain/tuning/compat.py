"""Everything that is private in TRL and used here, checked when it is imported.

TRL offers no plugin interface. What stands below has kept its signature since TRL 1.0; a
release that changes it is refused with a sentence instead of training something else.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from trl import GRPOTrainer, RLOOTrainer, __version__
from trl.trainer.utils import use_adapter

__all__ = ["amend", "check", "micro_step", "push", "pushed", "roll", "use_adapter", "window_tokens"]

_PARAMETERS = {
    "compute_loss": ("self", "model", "inputs", "return_outputs", "num_items_in_batch"),
    "_generate_and_score_completions": ("self", "inputs"),
    "_generate_single_turn": ("self", "prompt_ids", "images", "multimodal_fields"),
    "_get_per_token_logps_and_entropies": (
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
    ),
    "_calculate_rewards": ("self", "inputs", "prompts", "completions", "completion_ids_list"),
    "_prepare_inputs": ("self",),
}


def check(trainer: type = GRPOTrainer) -> None:
    """Compare the seams with the installed TRL.

    Raises:
        ImportError: a method is gone or takes other arguments.
    """
    for name, wanted in _PARAMETERS.items():
        method = getattr(trainer, name, None)
        if method is None:
            raise ImportError(f"TRL {__version__}: {trainer.__name__} has no {name} any more")
        got = tuple(inspect.signature(inspect.unwrap(method)).parameters)
        if got[: len(wanted)] != wanted:
            raise ImportError(
                f"TRL {__version__}: {trainer.__name__}.{name} takes {got}, wanted {wanted}"
            )
    if getattr(trainer, "loss_is_scaled_for_ga", None) not in {True, False}:
        raise ImportError(f"TRL {__version__}: {trainer.__name__}.loss_is_scaled_for_ga is gone")


def push(trainer: Any, name: str, value: float) -> None:
    """Log a value with the trainer's own: averaged until the next log, sent to every tracker."""
    trainer._metrics["train"][name].append(value)  # noqa: SLF001


def pushed(trainer: Any, name: str) -> list[float]:
    """What has been logged under a name since the last log."""
    return list(trainer._metrics["train"].get(name, ()))  # noqa: SLF001


def amend(trainer: Any, name: str, by: float) -> None:
    """Add to the value that was logged last under a name."""
    trainer._metrics["train"][name][-1] += by  # noqa: SLF001


def roll(trainer: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Roll out and score as in training, for the reward function to hear."""
    trainer._generate_and_score_completions(list(rows))  # noqa: SLF001


def window_tokens(trainer: Any, inputs: Any) -> Any:
    """Completion tokens of an optimizer step of GRPO, over all processes and micro-batches.

    TRL counts those of a batch of rollouts. One that serves several steps is dealt out to them as
    TRL's own token mean does it, in equal parts.
    """
    tokens = inputs["num_items_in_batch"].clamp(min=1)
    share = trainer.current_gradient_accumulation_steps / trainer.args.steps_per_generation
    return tokens * share


def micro_step(trainer: Any) -> int:
    """Number of the current micro-batch, counted over the whole run, also after a resume."""
    accumulation = int(trainer.args.gradient_accumulation_steps)
    return int(trainer.state.global_step) * accumulation + trainer._step % accumulation  # noqa: SLF001


check()
check(RLOOTrainer)
