"""What would new weights of a module be, had it just been made?"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from posttrain.intervention.parts import (
    ResetError,
    is_lora,
    is_pretrained,
    lora_adapters,
    parameters_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn


def draw_(modules: Mapping[str, nn.Module], *, seed: int, model: nn.Module | None) -> None:
    """Draw new weights in place from `seed`; the global generators stay as they were.

    Raises:
        ResetError: a module that has parameters but no rule for new ones, before any change.
    """
    makers = _makers(model) if model is not None else {}
    for prefix, module in modules.items():
        makers |= {m: o for m, o in _makers(module).items() if m not in makers}
        _refuse_unknown(prefix, module, makers)
    with torch.no_grad(), _seeded(seed, modules):
        for module in modules.values():
            _draw_one_(module, makers)


def _draw_one_(module: Any, makers: Mapping[nn.Module, Any]) -> None:
    """Children first, as transformers and torch do: a parent may adjust what it holds."""
    if is_lora(module):
        for adapter in lora_adapters(module):
            module.reset_lora_parameters(adapter, init_lora_weights=True)
        return
    for child in module.children():
        _draw_one_(child, makers)
    own = list(module.parameters(recurse=False))
    if module in makers:
        for parameter in own:
            # Set on every loaded weight; while it is there the initialiser does nothing.
            parameter.__dict__.pop("_is_hf_initialized", None)
        makers[module]._init_weights(module)  # noqa: SLF001 - the only rule there is
    elif own:
        _rule(module)()


def _makers(root: nn.Module) -> dict[nn.Module, Any]:
    """Each module's innermost transformers model, which knows how to initialise it."""
    found: dict[nn.Module, Any] = {}

    def visit(module: nn.Module, maker: nn.Module | None) -> None:
        maker = module if is_pretrained(module) else maker
        if maker is not None:
            found[module] = maker
        for child in module.children():
            visit(child, maker)

    visit(root, None)
    return found


def _rule(module: nn.Module) -> Any:
    public = getattr(module, "reset_parameters", None)
    return public or getattr(module, "_reset_parameters", None)  # MultiheadAttention's is private


def _refuse_unknown(prefix: str, root: nn.Module, makers: Mapping[nn.Module, Any]) -> None:
    if is_lora(root):
        return
    for name, module in root.named_modules(prefix=prefix):
        own = [name for name, _ in module.named_parameters(recurse=False)]
        if own and module not in makers and _rule(module) is None:
            raise ResetError(
                f"cannot draw new weights for {name or 'the model'} ({type(module).__name__}): it "
                f"has the parameters {own} but no reset_parameters()"
            )


@contextmanager
def _seeded(seed: int, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Seed the generators of the weights' devices, and put them back afterwards."""
    devices = sorted({p.device.index for p in parameters_of(modules).values() if p.is_cuda})
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
