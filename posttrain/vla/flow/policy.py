"""A flow-matching policy that can be rolled out, cloned and fine-tuned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri

from posttrain.vla.flow.chain import Chain, FlowError
from posttrain.vla.flow.model import FlowPI0, shape_flow
from posttrain.vla.flow.numbers import to_tokens
from posttrain.vla.flow.scaling import Scaling
from posttrain.vla.observation import Decisions, Floats, Images, Observations, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT = "prompt.json"
LEAST_DRAW = 2.0**-54
"""Uniform draws of 0 have no normal."""


@dataclass(frozen=True, slots=True, eq=False)
class FlowPolicy:
    """PI0, the words it knows, and the scale of its numbers.

    A decision's tokens are its whole chain: the noise it started from, and every state up to the
    action, number by number (`posttrain.vla.flow.numbers`). Each takes one uniform draw.
    """

    model: FlowPI0
    words: PreTrainedTokenizerBase
    tokenizer: Scaling
    prompt: str = "{instruction}"

    @property
    def tokens(self) -> int:
        """Tokens of one decision, and draws."""
        return self.model.chain_tokens

    @property
    def processor(self) -> PreTrainedTokenizerBase:
        """What a trainer keeps beside the model's checkpoints."""
        return self.words

    @property
    def chunk(self) -> int:
        """Actions of one decision."""
        return int(self.model.config.chunk_size)

    @torch.no_grad()
    def decide(
        self, seen: Observations, draws: npt.NDArray[np.float64], *, temperature: float
    ) -> Decisions:
        """Run the chain.

        The temperature multiplies all noise, that of the start too. At 0 this is PI0's own sampler
        started from no noise, the mean of its start, and no draw is looked at.

        Args:
            seen: n observations.
            draws: uniform numbers in [0, 1), `[n, tokens]`.
            temperature: 1 samples the policy that RL trains.

        Raises:
            FlowError: what is seen does not fit the model.
        """
        model, n = self.model, len(seen)
        training, device = model.training, model.device
        normals = self._normals(draws, n, temperature, device)
        cut, width = model.start_tokens, model.config.max_action_dim
        start = temperature * normals[:, :cut].view(n, self.chunk, width)
        chain = self.chain_at(temperature)
        steps = normals[:, cut:].view(n, chain.steps, self.chunk, model.size)
        inputs = self.encode(seen)
        ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
        model.eval()
        try:
            states = torch.from_numpy(self._states(seen)).to(device)
            seen_once = self.model.read(ids, mask, states, **inputs)
            numbers = model.sample(seen_once, start, steps, chain).cpu().numpy()
        finally:
            model.train(training)
        tokens = to_tokens(numbers)
        return Decisions(tokens=tokens, actions=self.tokenizer.decode(tokens))

    def chain_at(self, temperature: float) -> Chain:
        """The chain at a temperature."""
        flow = self.model.config.flow
        return Chain(steps=flow["steps"], noise=flow["noise"] * temperature)

    def scored_at(self, temperature: float) -> None:
        """Have the model score chains as sampled at this temperature; copies of it will as well.

        Raises:
            FlowError: at this temperature a chain has no density.
        """
        if self.chain_at(temperature).noise == 0:
            raise FlowError("temperature: without noise a chain has no density, got 0")
        self.model.config.flow["temperature"] = temperature

    def _normals(self, draws: Any, n: int, temperature: float, device: Any) -> torch.Tensor:
        if temperature == 0:
            return torch.zeros((n, self.tokens), device=device)
        if np.shape(draws) != (n, self.tokens):
            raise FlowError(f"draws must be shaped [{n}, {self.tokens}], got {np.shape(draws)}")
        normals = ndtri(np.maximum(draws, LEAST_DRAW))
        return torch.from_numpy(normals.astype(np.float32)).to(device)

    def _states(self, seen: Observations) -> Floats:
        return self.tokenizer.state(seen.states, len(seen), self.model.config.max_state_dim)

    def encode(self, seen: Observations) -> dict[str, torch.Tensor]:
        """What the model sees, without the state; prompts are padded on the left."""
        cameras = list(seen.images.values())
        side = self.model.config.vlm_config.vision_config.image_size
        patches = (side // self.model.config.vlm_config.vision_config.patch_size) ** 2
        shown = [
            _prompt_ids(self.words, self.prompt.format(instruction=text, state=""))
            for text in seen.instructions
        ]
        image = self.model.config.vlm_config.image_token_id
        texts = [[image] * (patches * len(cameras)) + list(ids) for ids in shown]
        length = max(len(ids) for ids in texts)
        ids = torch.zeros((len(texts), length), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, text in enumerate(texts):
            ids[i, length - len(text) :] = torch.tensor(text)
            mask[i, length - len(text) :] = 1
        pixels = torch.stack([_pixels(frames, side) for frames in cameras], dim=1)
        found = {
            "input_ids": ids,
            "attention_mask": mask,
            "pixel_values": pixels,
            "pixel_attention_mask": torch.ones(pixels.shape[:2], dtype=torch.bool),
        }
        return {name: tensor.to(self.model.device) for name, tensor in found.items()}

    def rows(self, seen: Observations, tokens: Tokens) -> dict[str, torch.Tensor]:
        """Rows that the model scores: prompt, state, and `tokens`, which the labels repeat.

        Args:
            seen: n observations.
            tokens: their decisions', or demonstrated actions as `tokenizer` writes them.
        """
        inputs = self.encode(seen)
        state = torch.from_numpy(to_tokens(self._states(seen))).to(self.model.device)
        said = self.ids(tokens)
        ids = torch.cat([inputs["input_ids"], state, said], dim=1)
        labels = torch.full_like(ids, -100)
        labels[:, -said.shape[1] :] = said
        added = torch.ones_like(ids[:, inputs["input_ids"].shape[1] :])
        mask = torch.cat([inputs["attention_mask"], added], dim=1)
        return {**inputs, "input_ids": ids, "attention_mask": mask, "labels": labels}

    def ids(self, tokens: Tokens) -> torch.Tensor:
        """Tokens as the model takes them: the same, on its device."""
        return torch.from_numpy(np.asarray(tokens)).to(self.model.device)

    def save(self, folder: Path) -> None:
        """Write weights, words, scale, and `prompt.json`; `load_policy` reads them."""
        self.model.save_pretrained(folder)
        self.words.save_pretrained(folder)
        self.tokenizer.save(folder)
        (folder / PROMPT).write_text(json.dumps({"prompt": self.prompt}) + "\n", encoding="utf-8")


def load_policy(folder: Path, *, dtype: Any = torch.float32) -> FlowPolicy:
    """Read what `FlowPolicy.save` wrote.

    Raises:
        FlowError: it is no such folder.
    """
    from transformers import AutoTokenizer

    scaling, prompt = Scaling.load(folder), _read_prompt(folder / PROMPT)
    try:
        model = FlowPI0.from_pretrained(folder, dtype=dtype, use_safetensors=True)
        words = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise FlowError(f"model.path: cannot load {folder}: {error}") from error
    if not hasattr(model.config, "flow"):
        shape_flow(model.config, size=scaling.size, chain=Chain())
    return FlowPolicy(model.eval(), words, scaling, prompt)


def _read_prompt(file: Path) -> str:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["prompt"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise FlowError(f"cannot read {file}: {error}") from error
    if not isinstance(found, str):
        raise FlowError(f"{file}: prompt must be a text, got {found!r}")
    return found


@lru_cache(maxsize=4096)
def _prompt_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """As PI0's processor writes prompts: behind the pictures, and ended by a new line."""
    written = f"{tokenizer.bos_token or ''}{text}\n"
    return tuple(tokenizer(written, add_special_tokens=False)["input_ids"])


def _pixels(frames: Images, side: int) -> torch.Tensor:
    """Frames `[n, height, width, 3]` as the vision tower takes them, in [-1, 1].

    Raises:
        FlowError: they are not square, so that resizing would distort them.
    """
    height, width = frames.shape[1:3]
    if height != width:
        raise FlowError(f"images must be square, got {height} x {width}; crop or pad them")
    if height != side:
        frames = _resized(frames, side)
    scaled = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    return scaled / 127.5 - 1


def _resized(frames: Images, side: int) -> Images:
    from PIL import Image

    resize: Sequence[Any] = [
        Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC) for frame in frames
    ]
    return np.stack([np.asarray(image) for image in resize])
