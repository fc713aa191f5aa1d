"""How does a policy give up part of what it learnt?

In place, on any `nn.Module`, on LoRA adapters and on the optimizer's state. Every function says
which tensors changed, and refuses when one that should have changed did not: transformers marks
loaded weights as initialised, and its initialiser then passes over them in silence.

The draws come from a seed and leave the global generators as they were. Give every process the
same seed. Weights that are sharded (ZeRO-3, FSDP) must be gathered first, or reset before they
are sharded.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from posttrain.intervention.fresh import draw_
from posttrain.intervention.parts import ResetError, is_lora, parameters_of, select

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from posttrain.intervention.plan import Reset


def reinitialize_(
    modules: Mapping[str, nn.Module], *, seed: int, model: nn.Module | None = None
) -> tuple[str, ...]:
    """Draw new weights, as the modules' makers would.

    Modules of transformers are initialised by their model's own rule, LoRA layers by peft's
    (the adapter then adds nothing), all others by their `reset_parameters`.

    Args:
        modules: what to reset, from `select`.
        seed: of the draws.
        model: that the modules belong to; needed for transformers' rule.

    Returns:
        Names of the parameters that changed. A norm that was never trained does not.

    Raises:
        ResetError: a module that has parameters but no rule for new ones (before anything is
            changed), or a tensor that kept its values.
    """
    before = _snapshot(modules)
    draw_(modules, seed=seed, model=model)
    changed = _changed(modules, before)
    stuck = [
        name
        for name, parameter in parameters_of(modules).items()
        if name not in changed and not bool((parameter == parameter.flatten()[0]).all())
    ]
    if stuck:
        raise ResetError(f"{stuck[0]} was to be drawn anew but kept its values ({len(stuck)} did)")
    return changed


def shrink_and_perturb_(
    modules: Mapping[str, nn.Module],
    *,
    keep: float,
    noise: float,
    seed: int,
    model: nn.Module | None = None,
) -> tuple[str, ...]:
    """Move weights to keep * weight + noise * fresh (Ash and Adams, arXiv 1910.08475).

    Args:
        modules: what to change, from `select`.
        keep: factor on the old weights.
        noise: factor on newly drawn ones.
        seed: of the draws.
        model: as in `reinitialize_`.

    Returns:
        Names of the parameters that changed.
    """
    before = _snapshot(modules)
    reinitialize_(modules, seed=seed, model=model)
    with torch.no_grad():
        for name, parameter in parameters_of(modules).items():
            parameter.copy_(keep * before[name] + noise * parameter.to(before[name].dtype))
    return _changed(modules, before)


@torch.no_grad()
def interpolate_(
    modules: Mapping[str, nn.Module], base_state: Mapping[str, Tensor], *, keep: float
) -> tuple[str, ...]:
    """Move weights to keep * weight + (1 - keep) * base (LITI of WARP, arXiv 2406.16768).

    Args:
        modules: what to change, from `select`.
        base_state: the weights to move to, by their names in the model.
        keep: 1 changes nothing, 0 gives the base.

    Returns:
        Names of the parameters that changed.

    Raises:
        ResetError: a weight that the base does not have, or has in another shape.
    """
    parameters, before = parameters_of(modules), _snapshot(modules)
    for name, parameter in parameters.items():
        if name not in base_state:
            raise ResetError(f"cannot interpolate towards the base: it has no weight {name!r}")
        if base_state[name].shape != parameter.shape:
            raise ResetError(
                f"cannot interpolate {name}: shape {tuple(parameter.shape)} in the policy, "
                f"{tuple(base_state[name].shape)} in the base"
            )
    for name, parameter in parameters.items():
        base = base_state[name].to(parameter.device, before[name].dtype)
        parameter.copy_(torch.lerp(base, before[name], keep))
    return _changed(modules, before)


def reset_optimizer_(optimizer: Any, parameters: Iterable[nn.Parameter] | None = None) -> int:
    """Forget what the optimizer remembers (moments, step counts) of these parameters, or of all.

    Args:
        optimizer: of torch, or a wrapper with its `state`.
        parameters: whose state is cleared; None clears everything.

    Returns:
        How many parameters had a state.
    """
    state = optimizer.state
    if parameters is None:
        count = len(state)
        state.clear()
        return count
    return sum(state.pop(parameter, None) is not None for parameter in parameters)


def apply_reset(
    reset: Reset,
    model: nn.Module,
    *,
    seed: int,
    optimizer: Any = None,
    base_state: Mapping[str, Tensor] | None = None,
) -> tuple[str, ...]:
    """Carry out a plan's reset.

    The optimizer forgets the moments of every weight that changes, since they describe weights
    that are gone; with the part `optimizer` it forgets all.

    Args:
        reset: what to give up, and how.
        model: the policy, or an agent with `actor` and `critic`.
        seed: of the draws; derive it from the run's seed and the step.
        optimizer: of the model; needed for the part `optimizer`.
        base_state: weights before pretraining on the dataset, for `how='interpolate'`. An
            adapter needs none: without it the model *is* the base.

    Returns:
        Names of what changed: parameters, and `optimizer`.

    Raises:
        ResetError: a part that the model does not have, a weight that is frozen, or a reset
            that would change nothing.
    """
    if "optimizer" in reset.parts and optimizer is None:
        raise ResetError("cannot reset 'optimizer': none was given")
    modules: dict[str, nn.Module] = {}
    for part in reset.parts:
        if part != "optimizer":
            modules |= select(model, part, layers=reset.layers)
    modules = _outermost(modules)
    changed = _apply(reset, modules, model, seed, base_state) if modules else ()
    if modules and not changed:
        raise ResetError(f"the reset of {', '.join(reset.parts)} changed nothing: {reset}")
    if "optimizer" in reset.parts:
        reset_optimizer_(optimizer)
        return (*changed, "optimizer")
    if optimizer is not None:
        parameters = parameters_of(modules)
        reset_optimizer_(optimizer, [parameters[name] for name in changed])
    return changed


def _apply(
    reset: Reset,
    modules: Mapping[str, nn.Module],
    model: nn.Module,
    seed: int,
    base_state: Mapping[str, Tensor] | None,
) -> tuple[str, ...]:
    _refuse_frozen(modules)
    if reset.how == "fresh":
        return reinitialize_(modules, seed=seed, model=model)
    if reset.how == "shrink_perturb":
        return shrink_and_perturb_(
            modules, keep=reset.keep, noise=reset.noise, seed=seed, model=model
        )
    base = {**(base_state or {}), **_bare(modules)}
    if not base:
        raise ResetError(
            "cannot interpolate towards the base: its weights were not given (base_state)"
        )
    return interpolate_(modules, base, keep=reset.keep)


def _snapshot(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Copies wide enough to compute with: low precision becomes float32."""
    return {
        name: p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True)
        for name, p in parameters_of(modules).items()
    }


def _changed(modules: Mapping[str, nn.Module], before: Mapping[str, Tensor]) -> tuple[str, ...]:
    return tuple(
        name
        for name, parameter in parameters_of(modules).items()
        if not torch.equal(parameter.detach().to(before[name].dtype), before[name])
    )


def _refuse_frozen(modules: Mapping[str, nn.Module]) -> None:
    frozen = [name for name, p in parameters_of(modules).items() if not p.requires_grad]
    if frozen:
        raise ResetError(
            f"cannot reset {frozen[0]}: it is frozen, and would keep its new weights for ever "
            f"({len(frozen)} such)"
        )


def _bare(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The weights with which the LoRA layers among the modules add nothing: B = 0."""
    lora = {name: module for name, module in modules.items() if is_lora(module)}
    return {
        name: torch.zeros_like(parameter) if _SECOND.search(name) else parameter.detach().clone()
        for name, parameter in parameters_of(lora).items()
    }


def _outermost(modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Drop modules inside others, so that no weight is shrunk twice."""
    inner = {m for module in modules.values() for m in module.modules() if m is not module}
    return {name: module for name, module in modules.items() if module not in inner}


_SECOND = re.compile(r"\.lora_(embedding_)?B\.")
