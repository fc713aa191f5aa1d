"""A vision-language model that acts: observations in, chunks of actions out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from posttrain.tuning import model as models
from posttrain.tuning.seen import tokenizer_of
from posttrain.vla.actions import FILE, ActionTokenizer
from posttrain.vla.eyes import Eyes, States
from posttrain.vla.head import restrict
from posttrain.vla.observation import Decisions, Observations, Tokens
from posttrain.vla.sampling import Drawn, speak
from posttrain.vla.settings import ModelSettings, Quantization
from posttrain.vla.tiny_vla import make_tiny
from posttrain.vla.vocabulary import PolicyError, give, names_of, places

PROMPT = "prompt.json"
TINY = "tiny"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Policy:
    """A model whose softmax is over action tokens, its eyes and its actions."""

    model: Any
    eyes: Eyes
    tokenizer: ActionTokenizer
    at_once: int = 64
    """Observations of one forward pass."""

    @property
    def processor(self) -> Any:
        """What reads images and words for the model."""
        return self.eyes.processor

    @property
    def tokens(self) -> int:
        """Tokens of one decision."""
        return self.tokenizer.per_decision

    def encode(self, seen: Observations) -> dict[str, torch.Tensor]:
        """What the model takes to decide, on its device and in its precision, padded on the left.

        Raises:
            EyesError: observations that do not fit the prompt.
        """
        return self._moved(self.eyes.encode(seen))

    def decide(
        self, seen: Observations, draws: npt.NDArray[np.float64], *, temperature: float
    ) -> Decisions:
        """Decide on n observations; as `posttrain.vla.observation.Actor` says."""
        if temperature and draws.shape != (len(seen), self.tokens):
            raise PolicyError(
                f"draws must be shaped [{len(seen)}, {self.tokens}], got {list(draws.shape)}"
            )
        ids = torch.from_numpy(np.array(self.tokenizer.ids)).to(self.model.device)
        parts = []
        with _still(self.model), torch.no_grad():
            for start in range(0, len(seen), self.at_once):
                rows = range(start, min(start + self.at_once, len(seen)))
                some = seen if len(rows) == len(seen) else seen.take(rows)
                drawn = Drawn(ids, draws[rows.start : rows.stop], temperature)
                parts.append(speak(self.model, self.encode(some), drawn, self.tokens))
        tokens = np.concatenate(parts)
        return Decisions(tokens=tokens, actions=self.tokenizer.decode(tokens))

    def inputs(self, seen: Observations, *, completion: int = 0) -> dict[str, torch.Tensor]:
        """What TRL keeps of rows: `prompt_ids` and `prompt_mask`, padded on the left, and the rest.

        Args:
            seen: n observations.
            completion: tokens that will stand behind the prompts; what processors say of every
                token is said of these too.
        """
        found = self.eyes.answered(self.eyes.encode(seen), completion)
        ids, mask = found.pop("input_ids"), found.pop("attention_mask")
        return self._moved({"prompt_ids": ids, "prompt_mask": mask, **found})

    def ids(self, tokens: Tokens) -> torch.Tensor:
        """Action tokens as the model's token ids, `[n, per_decision]`, on its device."""
        places = np.array(self.tokenizer.ids, dtype=np.int64)
        return torch.from_numpy(places[tokens]).to(self.model.device)

    def rows(self, seen: Observations, tokens: Tokens) -> dict[str, torch.Tensor]:
        """Decisions to learn from: prompts, the action tokens behind them, and `labels`.

        Args:
            seen: n observations.
            tokens: what was decided, `[n, per_decision]`, or the first of them.

        Returns:
            `input_ids`, `attention_mask` and `labels`, `[n, length]`, where labels are -100 on
            prompts and padding, and everything that goes with the images.
        """
        batch = self._moved(self.eyes.answered(self.eyes.encode(seen), tokens.shape[1]))
        said, prompts = self.ids(tokens), batch["input_ids"]
        mask = torch.cat([batch["attention_mask"], torch.ones_like(said)], dim=1)
        return {
            **batch,
            "input_ids": torch.cat([prompts, said], dim=1),
            "attention_mask": mask,
            "labels": torch.cat([torch.full_like(prompts, -100), said], dim=1),
        }

    def _moved(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        where, kind = self.model.device, self.model.dtype
        return {
            name: tensor.to(where, kind) if tensor.is_floating_point() else tensor.to(where)
            for name, tensor in batch.items()
        }


@contextmanager
def _still(model: Any) -> Iterator[None]:
    """Without dropout, whatever the model is doing."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def make_policy(
    settings: ModelSettings,
    tokenizer: ActionTokenizer,
    *,
    instructions: Sequence[str] = (),
    shape: tuple[int, ...] = (24, 24, 3),
    states: States | None = None,
    seed: int = 0,
) -> Policy:
    """A policy that has not learnt to act: a model, to which action tokens are given.

    Args:
        settings: the recipe's `model`. A folder that holds a policy is refused: `load_policy`.
        tokenizer: the actions, of `posttrain.vla.actions.from_data`.
        instructions: every instruction, for the words of a `tiny` model.
        shape: height, width and channels of the images, for a `tiny` model.
        states: the ranges of proprioception, where the prompt names `{state}`.
        seed: of new weights.

    Raises:
        PolicyError: a vocabulary too small, or no model that sees.
        TinyError: images that a `tiny` model cannot see.
        ModelError: nothing to load.
        HeadError: a softmax that cannot be restricted.
    """
    if settings.path != TINY:
        return adopt(*_loaded(settings), tokenizer, settings.prompt, states, seed=seed)
    model, processor = make_tiny(
        [settings.prompt, *instructions],
        names_of(tokenizer),
        shape=shape,
        hidden=settings.hidden,
        layers=settings.layers,
        seed=seed,
    )
    return _assembled(model, processor, tokenizer, settings.prompt, states)


def adopt(
    model: Any,
    processor: Any,
    tokenizer: ActionTokenizer,
    prompt: str = "{instruction}",
    states: States | None = None,
    *,
    seed: int = 0,
) -> Policy:
    """Make a policy of a model in memory: give it action tokens and restrict it to them.

    Raises:
        PolicyError: a vocabulary too small.
        HeadError: a softmax that cannot be restricted.
    """
    give(model, processor, names_of(tokenizer), seed)
    return _assembled(model, processor, tokenizer, prompt, states)


def _loaded(settings: ModelSettings) -> tuple[Any, Any]:
    if (Path(settings.path) / FILE).is_file():
        raise PolicyError(
            f"model.path: {settings.path!r} holds a policy already ({FILE}); it is loaded with the "
            "actions that it has"
        )
    model, processor = models.load(
        settings.path,
        dtype=settings.dtype,
        revision=settings.revision,
        quantization=settings.quantization,
        chat=False,
    )
    if not hasattr(processor, "image_processor"):
        raise PolicyError(f"model.path: {settings.path!r} is no model that sees images")
    return model, processor


def _assembled(
    model: Any, processor: Any, tokenizer: ActionTokenizer, prompt: str, states: States | None
) -> Policy:
    tokenizer_of(processor).padding_side = "left"
    placed = tokenizer.placed(places(processor, model, tokenizer))
    if tokenizer.ids and tokenizer.ids != placed.ids:
        raise PolicyError(
            f"{FILE}: the action tokens stand elsewhere in this model's vocabulary; its processor "
            "and weights are not those that were saved with it"
        )
    restrict(model, placed.ids)
    suffix = int(model.config.model_type == "paligemma")
    eyes = Eyes(processor=processor, prompt=prompt, states=states, suffix=suffix)
    return Policy(model=model, eyes=eyes, tokenizer=placed)


def save(policy: Policy, folder: Path) -> None:
    """Write weights, processor, `actions.json` and `prompt.json`; `load_policy` reads them."""
    models.save(policy.model, policy.processor, folder)
    save_actions(policy, folder)


def save_actions(policy: Policy, folder: Path) -> None:
    """Write what a model's folder lacks to be a policy: `actions.json` and `prompt.json`."""
    policy.tokenizer.save(folder)
    states = policy.eyes.states
    about = {"prompt": policy.eyes.prompt, "states": None if states is None else asdict(states)}
    (folder / PROMPT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def load_policy(
    path: str | Path, *, dtype: str = "float32", quantization: Quantization | None = None
) -> Policy:
    """A policy from the folder that `save` wrote, or from one with an adapter and both files.

    Raises:
        ActionsError: no `actions.json`, or a wrong one.
        PolicyError: no `prompt.json`, or a wrong one.
        ModelError: weights or processor cannot be loaded.
        HeadError: the softmax cannot be restricted.
    """
    folder = Path(path)
    tokenizer = ActionTokenizer.load(folder)
    prompt, states = _read_prompt(folder / PROMPT)
    model, processor = models.load(folder, dtype=dtype, quantization=quantization, chat=False)
    return _assembled(model, processor, tokenizer, prompt, states)


def _read_prompt(file: Path) -> tuple[str, States | None]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        prompt, states = found["prompt"], found["states"]
        if set(found) != {"prompt", "states"} or not isinstance(prompt, str):
            raise PolicyError(f"{file} must hold a text `prompt` and `states`")
        if states is not None:
            states = States(tuple(states["low"]), tuple(states["high"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise PolicyError(f"cannot read {file}: {error}") from error
    return prompt, states
