"""The reference of an anchor, as TRL holds it: another model, or the same one without adapters.

Read it, move it towards the policy, keep it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posttrain.intervention.parts import REFERENCE_ADAPTER, is_lora
from posttrain.tuning import compat
from posttrain.tuning.honour import PlanError
from posttrain.tuning.model import token_logps

FILE = "reference.safetensors"
RANKS = 2
"""Rank of the reference's adapter, in ranks of the policy's."""


def policy_of(trainer: Any) -> Any:
    """The policy, not wrapped."""
    return trainer.accelerator.unwrap_model(trainer.model)


def has_adapters(trainer: Any) -> bool:
    """Whether adapters are trained; the reference is then inside the policy."""
    return hasattr(policy_of(trainer), "peft_config")


@torch.no_grad()
def reference_logps(trainer: Any, batch: dict[str, Tensor]) -> Tensor:
    """What TRL's reference says of a batch's labels, `[n, length - 1]`."""
    if trainer.ref_model is not None:
        return token_logps(trainer.ref_model.eval(), batch)[0]
    policy = policy_of(trainer)
    name = REFERENCE_ADAPTER if REFERENCE_ADAPTER in policy.peft_config else None
    with compat.use_adapter(policy, name), _evaluating(policy):
        return token_logps(policy, batch)[0]


@torch.no_grad()
def policy_logps(trainer: Any, batch: dict[str, Tensor], *, training: bool = False) -> Tensor:
    """What the policy says of them, `[n, length - 1]`; in training mode with its dropout."""
    policy = policy_of(trainer)
    with _evaluating(policy, training=training):
        return token_logps(policy, batch)[0]


class _evaluating:  # noqa: N801 - reads as the context it is
    """Switch dropout for a while."""

    def __init__(self, model: Any, *, training: bool = False) -> None:
        self.model, self.wanted, self.was = model, training, model.training

    def __enter__(self) -> None:
        self.model.train(self.wanted)

    def __exit__(self, *_: object) -> None:
        self.model.train(self.was)


def refuse_sharded(trainer: Any) -> None:
    """A reference whose weights lie on several devices cannot be moved here.

    Raises:
        PlanError: ZeRO-3 or FSDP.
    """
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    sharded = plugin is not None and int(plugin.zero_stage) == 3
    if sharded or trainer.is_fsdp_enabled:
        raise PlanError(
            "anchor.reference: the weights are sharded (ZeRO-3 or FSDP), and a sharded reference "
            "cannot be moved; keep it fixed, or train a LoRA adapter, or use ZeRO-2 or DDP"
        )


class FullReference:
    """A whole model beside the policy."""

    def __init__(self, trainer: Any) -> None:
        """Move `trainer.ref_model`."""
        self.trainer = trainer

    @property
    def model(self) -> Any:
        """The reference, not wrapped."""
        return self.trainer.accelerator.unwrap_model(self.trainer.ref_model)

    @torch.no_grad()
    def follow(self, mix: float) -> float:
        """Move to mix * policy + (1 - mix) * reference. Returns the error made, which is 0."""
        policy = dict(policy_of(self.trainer).named_parameters())
        for name, parameter in self.model.named_parameters():
            wanted = policy[name].detach().to(parameter.device, parameter.dtype)
            parameter.copy_(wanted if mix == 1 else torch.lerp(parameter, wanted, mix))
        return 0.0

    def save(self, checkpoint: Path) -> None:
        """Write the weights."""
        from safetensors.torch import save_model

        save_model(self.model, str(checkpoint / FILE))

    def load(self, checkpoint: Path) -> None:
        """Read them again.

        Raises:
            PlanError: the checkpoint was written by a run whose reference did not move.
        """
        from safetensors.torch import load_model

        if not (checkpoint / FILE).exists():
            raise PlanError(f"{checkpoint}: has no {FILE}, so the moved reference is lost")
        load_model(self.model, str(checkpoint / FILE))


class AdapterReference:
    """A frozen second adapter. It has twice the policy's rank, and TRL finds it by its name.

    A mixture of two adapters has up to the sum of their ranks. The sum is cut back to the
    reference's by the best approximation in the Frobenius norm. Copies are exact, and so is a
    mixture while it fits.
    """

    def __init__(self, trainer: Any) -> None:
        """Give the policy a reference adapter that starts as the policy's own."""
        self.trainer = trainer
        policy = policy_of(trainer)
        if REFERENCE_ADAPTER in policy.peft_config:  # TRL's own copy has no room for mixtures
            policy.delete_adapter(REFERENCE_ADAPTER)
        self.adapter = str(policy.active_adapter)
        own = policy.peft_config[self.adapter]
        if getattr(own, "use_dora", False) or own.peft_type != "LORA":
            raise PlanError(f"anchor.reference: only plain LoRA adapters can follow, got {own!r}")
        policy.add_adapter(REFERENCE_ADAPTER, _wider(own))
        policy.set_adapter(self.adapter)
        self.follow(1.0)

    @torch.no_grad()
    def follow(self, mix: float) -> float:
        """Move to mix * policy + (1 - mix) * reference, as products of the factors.

        Returns:
            The largest part of a layer's mixture that did not fit, in [0, 1].
        """
        lost = 0.0
        for layer in self._layers():
            left, right, rest = mixed(
                (
                    layer.scaling[self.adapter] * layer.lora_B[self.adapter].weight,
                    layer.lora_A[self.adapter].weight,
                ),
                (layer.lora_B[REFERENCE_ADAPTER].weight, layer.lora_A[REFERENCE_ADAPTER].weight),
                mix,
            )
            layer.lora_B[REFERENCE_ADAPTER].weight.copy_(left)
            layer.lora_A[REFERENCE_ADAPTER].weight.copy_(right)
            lost = max(lost, rest)
        return lost

    def _layers(self) -> Iterator[Any]:
        for name, module in policy_of(self.trainer).named_modules():
            layer: Any = module
            if not is_lora(layer):
                continue
            if self.adapter not in layer.lora_A or layer.lora_A[self.adapter].weight.ndim != 2:
                raise PlanError(
                    f"anchor.reference: {name} is no linear layer, and only adapters of linear "
                    "layers can be followed; set model.lora.target"
                )
            yield layer

    def save(self, checkpoint: Path) -> None:
        """Nothing to do: every adapter is in a checkpoint."""

    def load(self, checkpoint: Path) -> None:
        """Nothing to do: every adapter is read again."""


def mixed(
    policy: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor], mix: float
) -> tuple[Tensor, Tensor, float]:
    """Factors of mix * policy + (1 - mix) * reference, in the reference's rank.

    Args:
        policy: factors B `[out, r]` and A `[r, in]` of a weight B A.
        reference: likewise, `[out, R]` and `[R, in]`, with R >= r.
        mix: share of the policy, in (0, 1].

    Returns:
        B and A of rank R, and the Frobenius norm of what was cut off, as a share of the whole.
    """
    rank = reference[0].shape[1]
    if mix == 1:
        free = rank - policy[0].shape[1]
        return (
            torch.nn.functional.pad(policy[0], (0, free)),
            torch.nn.functional.pad(policy[1], (0, 0, 0, free)),
            0.0,
        )
    left = torch.cat([mix * policy[0], (1 - mix) * reference[0]], dim=1).double()
    right = torch.cat([policy[1], reference[1]]).double()
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.T)
    u, sizes, vh = torch.linalg.svd(r_left @ r_right.T)
    kept = min(rank, len(sizes))
    root = sizes[:kept].sqrt()
    out = torch.nn.functional.pad((q_left @ u[:, :kept]) * root, (0, rank - kept))
    into = torch.nn.functional.pad(root[:, None] * (vh[:kept] @ q_right.T), (0, 0, 0, rank - kept))
    whole = float(sizes.norm())
    lost = float(sizes[kept:].norm()) / whole if whole > 0 else 0.0
    return out.to(reference[0].dtype), into.to(reference[1].dtype), lost


def _wider(own: Any) -> Any:
    config = copy.deepcopy(own)
    config.r = config.lora_alpha = RANKS * max([own.r, *own.rank_pattern.values()])
    config.rank_pattern, config.alpha_pattern = {}, {}
    config.lora_dropout, config.use_rslora = 0.0, False
    config.init_lora_weights, config.inference_mode = True, True
    return config
