"""A flow before it is cloned: made on the spot, or a published PI0 with the scale of D."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from posttrain.vla.flow import tiny_pi0
from posttrain.vla.flow.chain import Chain, FlowError
from posttrain.vla.flow.model import FlowPI0, shape_flow
from posttrain.vla.flow.policy import FlowPolicy, load_policy
from posttrain.vla.flow.scaling import Scaling, from_data
from posttrain.vla.settings import ActionSettings, ModelSettings

if TYPE_CHECKING:
    from posttrain.vla.observation import Actions, Floats

TINY = "tiny_pi0"


def is_pi0(settings: ModelSettings) -> bool:
    """Whether the recipe names a flow that has no policy's folder: `tiny_pi0`, or a PI0."""
    from transformers import AutoConfig

    if settings.path == TINY:
        return True
    if settings.path == "tiny":
        return False
    try:
        config = AutoConfig.from_pretrained(settings.path, revision=settings.revision)
    except (OSError, ValueError, KeyError):  # whoever loads the model says what is wrong with it
        return False
    return bool(config.model_type == "pi0")


def make_flow(
    settings: ModelSettings,
    space: Any,
    actions: Actions,
    states: Floats | None = None,
    *,
    instructions: Sequence[str] = (),
    cloned: bool = True,
    seed: int = 0,
) -> FlowPolicy:
    """A flow that has not learnt to act here, with the scale of D's numbers.

    Args:
        settings: the recipe's `model`.
        space: the environment's actions.
        actions: D's, `[n, size]`.
        states: D's proprioception `[n, size]`, where the policy reads it.
        instructions: every instruction, for the words of a `tiny_pi0`.
        cloned: whether SFT follows, from which a published PI0 learns D's scale.
        seed: of new weights.

    Raises:
        FlowError: what a flow cannot do, or a checkpoint that does not fit.
    """
    _check(settings)
    scaling = from_data(space, actions, states, chunk=settings.actions.chunk)
    if settings.path == TINY:
        return _tiny(settings, scaling, instructions, seed)
    if not cloned:
        raise FlowError(
            f"sft: {settings.path!r} is a PI0 that does not know the scale of D's actions, so it "
            "has to be cloned first, got null; only a policy's own folder (flow.json) needs no SFT"
        )
    return _published(settings, scaling)


def loaded(folder: Path, settings: ModelSettings, *, temperature: float = 1.0) -> FlowPolicy:
    """A saved flow with the recipe's precision and chain; the words of its prompt are its own.

    Raises:
        FlowError: it is no such folder, or its chunks are not the recipe's.
    """
    _check(settings)
    found = load_policy(folder, dtype=_dtype(settings))
    if found.chunk != settings.actions.chunk:
        raise _other_chunk(str(folder), found.chunk, settings)
    shape_flow(
        found.model.config,
        size=found.tokenizer.size,
        chain=_chain(settings),
        temperature=temperature,
    )
    return found


def _check(settings: ModelSettings) -> None:
    given = settings.actions
    if given != replace(ActionSettings(), chunk=given.chunk, execute=given.execute):
        raise FlowError(
            "model.actions: a flow makes numbers and no action tokens, so that only chunk and "
            "execute can be set; leave bins, quantiles, vocabulary and statistics out"
        )
    if settings.quantization is not None:
        raise FlowError("model.quantization: a flow cannot be quantised; leave it out")
    if "{state}" in settings.prompt:
        raise FlowError(
            "model.prompt: a flow reads proprioception as numbers, not in words; leave {state} out "
            "and set environment.state"
        )


def _tiny(
    settings: ModelSettings, scaling: Scaling, instructions: Sequence[str], seed: int
) -> FlowPolicy:
    texts = [settings.prompt.format(instruction=text, state="") for text in instructions]
    words = tiny_pi0.make_tokenizer(texts)
    config = tiny_pi0.make_config(
        words,
        hidden=settings.hidden,
        layers=settings.layers,
        chunk=scaling.chunk,
        size=scaling.size,
        state=max(1, len(scaling.state_mean)),
        chain=_chain(settings),
    )
    model = tiny_pi0.make_model(config, seed=seed).eval()
    return FlowPolicy(model, words, scaling, settings.prompt)


def _published(settings: ModelSettings, scaling: Scaling) -> FlowPolicy:
    from transformers import AutoTokenizer

    name, revision = settings.path, settings.revision
    try:
        model = FlowPI0.from_pretrained(
            name, revision=revision, dtype=_dtype(settings), use_safetensors=True
        )
        words = AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        said = str(error).strip().splitlines()[0]
        raise FlowError(f"model.path: cannot load {name!r}: {said}") from error
    config = model.config
    if config.chunk_size != scaling.chunk:
        raise _other_chunk(name, int(config.chunk_size), settings)
    for what, has, wants in (
        ("actions", config.max_action_dim, scaling.size),
        ("proprioception", config.max_state_dim, len(scaling.state_mean)),
    ):
        if wants > has:
            raise FlowError(
                f"model.path: {name!r} has room for {what} of {has} numbers, and the environment's "
                f"are of {wants}"
            )
    shape_flow(config, size=scaling.size, chain=_chain(settings))
    return FlowPolicy(model.eval(), words, scaling, settings.prompt)


def _other_chunk(name: str, chunk: int, settings: ModelSettings) -> FlowError:
    return FlowError(
        f"model.actions.chunk: {name!r} decides on {chunk} actions at once, got "
        f"{settings.actions.chunk}; execute says how many of them are carried out"
    )


def _chain(settings: ModelSettings) -> Chain:
    return Chain(steps=settings.flow.steps, noise=settings.flow.noise)


def _dtype(settings: ModelSettings) -> Any:
    return "auto" if settings.dtype == "auto" else getattr(torch, settings.dtype)
