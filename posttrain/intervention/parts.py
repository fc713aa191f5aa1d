"""Which modules are the policy, the critic, the head, the last layers, the adapter of a model?

Answers for transformers' language models, for models with LoRA adapters, and for plain modules
such as a control agent. Where it cannot tell, it says so instead of guessing.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from posttrain.intervention.plan import Part

REFERENCE_ADAPTER = "ref"
"""Name under which trl keeps the frozen copy of pi_0's adapter. Never reset."""

_POLICY = re.compile(r"actor|policy|pi")
_CRITIC = re.compile(r"(critics?|values?|value_head|v_head|qfs?|qs?|vf)_?\d*")
_HEAD = re.compile(r"((lm|action|policy)_)?heads?")


class ResetError(ValueError):
    """A reset that this model cannot honour."""


def select(model: nn.Module, part: Part, *, layers: int = 1) -> dict[str, nn.Module]:
    """Find the modules of a part, by their dotted names in `model`.

        policy       the child named actor or policy; the whole model when it has no critic
        critic       the children named critic, critics, value_head, q1, qf2 and the like; not
                     their target copies, which the learner syncs itself
        head         output embeddings of a language model; else the child named head, or the
                     last layer of a Sequential
        last_layers  the last `layers` blocks and the final norm of a language model; else the
                     last `layers` modules of the policy that own parameters, as registered
        adapter      every LoRA layer

    Raises:
        ResetError: the model has no such part, it cannot be told apart, or the model is wrapped.
    """
    if [name for name, _ in model.named_children()] in (["module"], ["_orig_mod"]):
        raise ResetError(
            f"cannot look into {type(model).__name__}: give the module that it wraps, since names "
            "and parts are those of the bare model"
        )
    if part == "adapter":
        return _adapter(model)
    if part == "critic":
        return _critic(model)
    if part == "optimizer":
        raise ResetError("the optimizer is no part of the model: use reset_optimizer_")
    if any(is_lora(module) for module in model.modules()):
        raise ResetError(
            f"cannot reset {part!r} of a model with LoRA adapters: its own weights are frozen. "
            "Reset 'adapter', or merge the adapter into the model first"
        )
    policy = _policy(model)
    if part == "policy":
        return policy
    (prefix, root), *_ = policy.items()
    found = _head(root) if part == "head" else _last_layers(root, layers)
    return {_join(prefix, name): module for name, module in found.items()}


def parameters_of(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Give the parameters that a reset of these modules owns, by their names in the model."""
    found: dict[str, nn.Parameter] = {}
    for prefix, module in modules.items():
        named = _lora_parameters(module) if is_lora(module) else module.named_parameters()
        found |= {f"{prefix}.{name}" if prefix else name: p for name, p in named}
    for name, parameter in found.items():
        if not parameter.is_floating_point():
            raise ResetError(f"cannot reset {name}: it is quantised ({parameter.dtype})")
        if parameter.numel() == 0:
            raise ResetError(f"cannot reset {name}: it is sharded away; gather it first")
    return found


def _lora_parameters(layer: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Give the trainable adapters' own parameters of a LoRA layer, with their names in it."""
    for name, parameter in layer.named_parameters():
        container, _, rest = name.partition(".")
        if container.startswith("lora_") and rest.split(".")[0] != REFERENCE_ADAPTER:
            yield name, parameter


def lora_adapters(layer: nn.Module) -> list[str]:
    """Name the adapters of a LoRA layer, without the reference's."""
    return sorted({name.split(".")[1] for name, _ in _lora_parameters(layer)})


def is_pretrained(module: nn.Module) -> bool:
    """Whether transformers made this module. Costs no import: if it did, it is loaded."""
    library: Any = sys.modules.get("transformers.modeling_utils")
    return library is not None and isinstance(module, library.PreTrainedModel)


def is_lora(module: nn.Module) -> bool:
    """Whether peft wrapped this module with LoRA adapters."""
    library: Any = sys.modules.get("peft.tuners.lora")
    return library is not None and isinstance(module, library.LoraLayer)


def _adapter(model: nn.Module) -> dict[str, nn.Module]:
    found = {name: module for name, module in model.named_modules() if is_lora(module)}
    if not any(lora_adapters(layer) for layer in found.values()):
        raise ResetError(
            f"cannot reset 'adapter': {type(model).__name__} has no LoRA adapter (the reference's "
            "does not count)"
        )
    for name, layer in found.items():
        if any("lora_magnitude_vector" in own for own, _ in _lora_parameters(layer)):
            raise ResetError(f"cannot reset {name}: DoRA's magnitudes are tied to the old weights")
    return found


def _critic(model: nn.Module) -> dict[str, nn.Module]:
    found = {name: child for name, child in model.named_children() if _CRITIC.fullmatch(name)}
    if not found:
        raise ResetError(
            f"cannot reset 'critic': {type(model).__name__} has no child named critic or the "
            f"like; its children are {[name for name, _ in model.named_children()]}"
        )
    return found


def _policy(model: nn.Module) -> dict[str, nn.Module]:
    children = dict(model.named_children())
    if named := {name: child for name, child in children.items() if _POLICY.fullmatch(name)}:
        if len(named) > 1:
            raise ResetError(f"cannot tell which of {sorted(named)} is the policy")
        return named
    if any(_CRITIC.fullmatch(name) for name in children):
        raise ResetError(
            "the model has a critic beside the policy, so the policy must be a child named "
            f"'actor' or 'policy'; its children are {sorted(children)}"
        )
    return {"": model}


def _head(root: nn.Module) -> dict[str, nn.Module]:
    if is_pretrained(root):
        return _language_model_head(root)
    children = list(root.named_children())
    if isinstance(root, nn.Sequential):
        return dict([(name, child) for name, child in children if _parametrised(child)][-1:])
    if found := {name: child for name, child in children if _HEAD.fullmatch(name)}:
        return found
    raise ResetError(
        f"cannot tell which module is the head of {type(root).__name__}: name it 'head'; its "
        f"children are {[name for name, _ in children]}"
    )


def _language_model_head(root: Any) -> dict[str, nn.Module]:
    head = root.get_output_embeddings()
    if head is None:
        raise ResetError(f"cannot reset 'head': {type(root).__name__} has no output embeddings")
    if head.weight is root.get_input_embeddings().weight:
        raise ResetError(
            "cannot reset 'head': it is tied to the input embeddings, which would be lost with "
            "it. Reset 'last_layers' instead"
        )
    return {name: module for name, module in root.named_modules() if module is head}


def _last_layers(root: nn.Module, layers: int) -> dict[str, nn.Module]:
    names = {module: name for name, module in root.named_modules()}
    if is_pretrained(root):
        parent, blocks = _blocks(root)
        siblings = list(parent.children())
        after = siblings[siblings.index(blocks) + 1 :]
        norms = [child for child in after if "norm" in type(child).__name__.lower()]
        chosen = [*list(blocks)[-layers:], *norms]
        available = len(blocks)
    else:
        own = [m for m in root.modules() if any(True for _ in m.parameters(recurse=False))]
        chosen, available = own[-layers:], len(own)
    if layers > available:
        raise ResetError(f"cannot reset the last {layers} layers: the policy has {available}")
    return {names[module]: module for module in chosen}


def _blocks(root: Any) -> tuple[nn.Module, nn.ModuleList]:
    """Find the list of decoder blocks: the heaviest list of modules of one class."""
    found = [
        (parent, child)
        for parent in root.get_decoder().modules()
        for child in parent.children()
        if isinstance(child, nn.ModuleList) and len({type(block) for block in child}) == 1
    ]
    if not found:
        raise ResetError(f"cannot find the decoder blocks of {type(root).__name__}")
    return max(found, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))


def _parametrised(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _join(prefix: str, name: str) -> str:
    return ".".join(piece for piece in (prefix, name) if piece)
