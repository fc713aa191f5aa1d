"""What cloning of D is for every kind of policy: adapters, and whether it had converged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.record import MetricsLog
from posttrain.regime import Flag
from posttrain.tuning.settings import Lora

CHECKS = 10


STILL_FALLING = 0.05


NEGLIGIBLE = 0.01


def losses(log: MetricsLog) -> list[tuple[int, float]]:
    """Held-out losses by step, as they were logged."""
    return [(int(row["step"]), float(row["eval_loss"])) for row in log.read() if "eval_loss" in row]


def peft_config(lora: Lora) -> Any:
    """The adapter that a recipe describes, as peft's configuration."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target,
        task_type="CAUSAL_LM",
    )


def integrity(losses: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """Was pi_0 trained to the end? An under-trained pi_0 only looks inferior.

    Compares the held-out loss (nats a token) at the end with the one at four fifths of SFT.

    Returns:
        `converged` (None where it cannot be told), `fall` (relative), `losses`, `text`.
    """
    points = [{"step": step, "loss": loss} for step, loss in losses]
    if len(losses) < CHECKS // 2:
        text = "too few held-out losses were taken to tell whether SFT had converged"
        return {"converged": None, "fall": None, "losses": points, "text": text}
    last_step, last = losses[-1]
    earlier = [loss for step, loss in losses if step <= 0.8 * last_step]
    best = min(loss for _, loss in losses)
    fall = (earlier[-1] - last) / earlier[-1] if earlier[-1] > 0 else 0.0
    falling = fall > STILL_FALLING and earlier[-1] - last > NEGLIGIBLE
    if falling:
        text = (
            f"the held-out loss still fell by {fall:.0%} over the last fifth of SFT: "
            "more SFT is the cure to try first"
        )
    elif last > 1.1 * best and last - best > NEGLIGIBLE:
        text = (
            f"the held-out loss rose from {best:.3f} to {last:.3f} nats a token: SFT memorised "
            "its rows, so more of it will not help"
        )
    else:
        text = f"the held-out loss had settled at {last:.3f} nats a token"
    return {"converged": not falling, "fall": fall, "losses": points, "text": text}


def integrity_flags(found: Mapping[str, Any]) -> tuple[Flag, ...]:
    """What a diagnosis must say of what `integrity` found."""
    if found.get("converged") is False:
        return (Flag("sft_not_converged", str(found["text"])),)
    return ()
