"""PI0 that answers a trainer of language models: log-probabilities of numbers given as tokens.

Its rows are token ids, as those of any model: the prompt, the state's numbers, and last either a
chain from noise to action or a demonstrated action (`posttrain.vla.flow.numbers`). Labels mark
that last part. For a chain, a token's log-probability is that of its number, given the chain so
far. For a demonstration it is minus the flow-matching loss of its number: so an imitation loss on
log-probabilities is the loss that PI0 is pretrained with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PI0ForConditionalGeneration
from transformers.utils import ModelOutput

from posttrain.vla.flow.chain import Chain, FlowError, grid, step_log_prob, step_mean
from posttrain.vla.flow.numbers import read_tokens
from posttrain.vla.flow.prefix import Prefix, repeated, rewound

if TYPE_CHECKING:
    from transformers import PI0Config


def shape_flow(
    config: PI0Config, *, size: int, chain: Chain, temperature: float = 1.0
) -> PI0Config:
    """Write into a configuration what this file needs to know beyond PI0's own.

    Args:
        config: changed, and returned.
        size: numbers of an action.
        chain: of the rollouts at temperature 1.
        temperature: of the rollouts.
    """
    if not 1 <= size <= config.max_action_dim:
        raise FlowError(f"size must lie in [1, {config.max_action_dim}], got {size}")
    config.flow = {
        "size": size, "steps": chain.steps, "noise": chain.noise, "temperature": temperature
    }  # fmt: skip
    return config


@dataclass
class Spoken(ModelOutput):
    """What a trainer reads."""

    loss: Tensor | None = None
    log_probs: Tensor | None = None
    """`[n, length - 1]`, 0 where nothing is labelled, as TRL's fused heads have it."""
    label_mask: Tensor | None = None
    """Where something is, likewise."""
    entropy: Tensor | None = None
    is_top1: Tensor | None = None
    """0: no number is the likeliest of a vocabulary."""
    means: Tensor | None = None
    """Where each number of a chain was expected, likewise; 0 for demonstrations."""


class FlowPI0(PI0ForConditionalGeneration):
    """PI0 for actions of `size` numbers. Its weights and configuration are those of PI0.

    PI0 pads actions with zeros to `max_action_dim`, where x_t = t e is known: those numbers are
    set to it at every step, and belong to no chain and no loss.
    """

    scores_labels = True
    """What tells a trainer that it has log-probabilities of labels, and no logits."""

    def __init__(self, config: PI0Config) -> None:
        """Make PI0, and what TRL looks for in every model and a flow has no use for."""
        super().__init__(config)
        self.generation_config = GenerationConfig()

    @property
    def size(self) -> int:
        """Numbers of an action."""
        return int(self.config.flow["size"])

    @property
    def chain(self) -> Chain:
        """The chain that rollouts run: its noise is scaled by their temperature."""
        flow = self.config.flow
        return Chain(steps=flow["steps"], noise=flow["noise"] * flow["temperature"])

    @property
    def start_tokens(self) -> int:
        """Numbers of the noise that a chain starts from."""
        return int(self.config.chunk_size * self.config.max_action_dim)

    @property
    def action_tokens(self) -> int:
        """Numbers of a chunk of actions."""
        return int(self.config.chunk_size * self.size)

    @property
    def chain_tokens(self) -> int:
        """Numbers of a whole chain."""
        return self.start_tokens + self.chain.steps * self.action_tokens

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        fused_lm_head: bool = False,
        **inputs: Any,
    ) -> Any:
        """Score what is labelled; without labels, do what PI0 does.

        Args:
            input_ids: `[n, length]`.
            attention_mask: likewise.
            labels: likewise, -100 where nothing is scored; every row has as many others.
            fused_lm_head: TRL's wish for log-probabilities only, which it gets anyway.
            inputs: pictures, and whatever else PI0 takes.

        Raises:
            FlowError: what is labelled is neither a chain nor an action.
        """
        del fused_lm_head
        if labels is None or input_ids is None or attention_mask is None:
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, **inputs)
        said = labels != -100
        numbers = read_tokens(input_ids[said]).view(len(input_ids), -1)
        means = torch.zeros_like(numbers)
        seen = self._split(input_ids, attention_mask, said)
        if numbers.shape[1] == self.chain_tokens:
            found, means = self.chain_log_probs(self.read(*seen, **inputs), numbers)
        elif numbers.shape[1] == self.action_tokens:
            found = -self.flow_loss(self.read(*seen, **inputs), numbers)
        else:
            raise FlowError(
                f"labels: a row must hold a chain ({self.chain_tokens} numbers) or an action "
                f"({self.action_tokens}), got {numbers.shape[1]}"
            )
        mask = said[:, 1:]
        nothing = found.new_zeros(mask.shape)
        return Spoken(
            loss=-found.mean(),
            log_probs=nothing.masked_scatter(mask, found),
            label_mask=mask,
            entropy=nothing,
            is_top1=nothing.bool(),
            means=nothing.masked_scatter(mask, means),
        )

    def _split(self, ids: Tensor, mask: Tensor, said: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Prompt ids, their mask, and the state, which stands right before what is said."""
        first = said.int().argmax(1, keepdim=True)
        count = self.config.max_state_dim
        at = first - count + torch.arange(count, device=ids.device)
        state = read_tokens(ids.gather(1, at))
        prompt = torch.arange(ids.shape[1], device=ids.device) < first - count
        keep = int((first - count).max())
        mask = torch.where(prompt, mask, 0)[:, :keep]
        return torch.where(prompt, ids, 0)[:, :keep], mask, state

    def prepare_inputs_for_generation(self, *_: Any, **__: Any) -> Any:
        """Refuse: PEFT's adapters of causal models look for it, and a flow says no words.

        Raises:
            FlowError: always.
        """
        raise FlowError("a flow does not generate tokens; act with its policy")

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write a folder that says PI0, which it is for everyone else."""
        super().save_pretrained(save_directory, *args, **kwargs)
        file = Path(save_directory) / "config.json"
        if file.is_file():
            config = json.loads(file.read_text(encoding="utf-8"))
            config["architectures"] = [PI0ForConditionalGeneration.__name__]
            file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def read(self, ids: Tensor, mask: Tensor, state: Tensor, **inputs: Any) -> Prefix:
        """Look at pictures and words.

        Args:
            ids: of the prompt, `[n, length]`.
            mask: which count, likewise.
            state: normalised, `[n, max_state_dim]`.
            inputs: `pixel_values` `[n, cameras, 3, height, width]` and `pixel_attention_mask`.
        """
        pixels = inputs["pixel_values"]
        cameras = inputs.get("pixel_attention_mask")
        if cameras is None:
            cameras = torch.ones(pixels.shape[:2], dtype=torch.bool, device=pixels.device)
        embedded = self.model.embed_prefix(ids, pixels, cameras)
        cache = self.model.vlm(
            inputs_embeds=embedded,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            token_type_ids=torch.zeros_like(ids),
            use_cache=True,
        ).past_key_values
        if cache is None:
            raise FlowError(
                "model: PI0 hands what it sees to its action expert through the cache, which "
                "activation checkpointing switches off; set trainer.activation_checkpointing and "
                "trainer.gradient_checkpointing to false"
            )
        return Prefix(cache, mask, state)

    def velocity(self, prefix: Prefix, x: Tensor, t: Tensor) -> Tensor:
        """The velocity at states `x`, `[n, chunk, max_action_dim]`, and times `t`, `[n]`."""
        with rewound(prefix):
            out = super().forward(
                state=prefix.state.to(self.dtype),
                noise=x.to(self.dtype),
                timestep=t,
                attention_mask=prefix.mask,
                past_key_values=prefix.cache,
            )
        return out.logits.float()

    def chain_log_probs(self, prefix: Prefix, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of chains and their means, `[n, chain_tokens]` each.

        Both are 0 for the noise that a chain starts from, in which the model has no say.

        All steps are scored in one pass of the action expert.
        """
        states = self.unpack(numbers)
        n, steps = len(numbers), self.chain.steps
        t, deviation = grid(self.chain, states)
        x = states[:, :-1].transpose(0, 1)
        times = t.view(-1, 1).expand(steps, n)
        wide = repeated(prefix, steps)
        velocity = self.velocity(wide, x.flatten(0, 1), times.flatten()).unflatten(0, (steps, n))
        t, deviation = t.unsqueeze(-1), deviation.unsqueeze(-1)
        mean = step_mean(self.chain, x, velocity, t, deviation)[..., : self.size]
        found = step_log_prob(states[:, 1:, :, : self.size].transpose(0, 1), mean, deviation)
        start = found.new_zeros(n, self.start_tokens)
        said = [torch.cat([start, x.transpose(0, 1).flatten(1)], dim=1) for x in (found, mean)]
        return said[0], said[1]

    def unpack(self, numbers: Tensor) -> Tensor:
        """States of chains, `[n, steps + 1, chunk, max_action_dim]`, from `[n, chain_tokens]`."""
        chunk, width = self.config.chunk_size, self.config.max_action_dim
        start = numbers[:, : self.start_tokens].view(-1, 1, chunk, width)
        rest = numbers[:, self.start_tokens :].view(-1, self.chain.steps, chunk, self.size)
        ends = torch.tensor([*self.chain.times()[1:], 0.0], device=numbers.device)
        padding = ends.view(1, -1, 1, 1) * start[..., self.size :]
        return torch.cat([start, torch.cat([rest, padding], dim=-1)], dim=1)

    @torch.no_grad()
    def sample(self, prefix: Prefix, start: Tensor, normals: Tensor, chain: Chain) -> Tensor:
        """Run a chain.

        Args:
            prefix: what is seen.
            start: the noise it starts from, `[n, chunk, max_action_dim]`.
            normals: standard normal draws, `[n, steps, chunk, size]`.
            chain: the steps.

        Returns:
            Its numbers, `[n, chain_tokens]`; the last are the normalised actions.
        """
        x, said = start, [start.flatten(1)]
        grown = zip(*grid(chain, start), strict=True)
        for k, (t, deviation) in enumerate(grown):
            velocity = self.velocity(prefix, x, t.flatten().expand(len(x)))
            mean = step_mean(chain, x, velocity, t, deviation)[..., : self.size]
            action = mean + deviation * normals[:, k]
            said.append(action.flatten(1))
            s = (t - 1 / chain.steps).clamp(min=0)
            x = torch.cat([action, s * start[..., self.size :]], dim=-1)
        return torch.cat(said, dim=1)

    def flow_loss(self, prefix: Prefix, numbers: Tensor) -> Tensor:
        """Squared error of the velocity on the way to demonstrated actions, `[n, action_tokens]`.

        Noise and times come from torch's generator, which trainers seed and checkpoints keep; they
        are the same at every call while the model is evaluated, so that losses can be compared.
        """
        n, chunk, width = len(numbers), self.config.chunk_size, self.config.max_action_dim
        action = torch.nn.functional.pad(numbers.view(n, chunk, self.size), (0, width - self.size))
        noise, t = self._draw(n, chunk, width)
        noise, t = noise.to(action), t.to(action)
        at = t.view(-1, 1, 1)
        velocity = self.velocity(prefix, at * noise + (1 - at) * action, t)
        return (velocity - (noise - action)).square()[..., : self.size].flatten(1)

    def _draw(self, n: int, chunk: int, width: int) -> tuple[Tensor, Tensor]:
        """Noise, and times from the Beta distribution of the configuration."""
        config = self.config
        with torch.random.fork_rng(devices=[], enabled=not self.training):
            if not self.training:
                torch.manual_seed(0)
            noise = torch.randn(n, chunk, width)
            beta = torch.distributions.Beta(
                float(config.time_sampling_beta_alpha), float(config.time_sampling_beta_beta)
            ).sample((n,))
        return noise, beta * config.time_sampling_scale + config.time_sampling_offset


def speak(model: Any) -> FlowPI0:
    """Have a model score numbers again where TRL gave it a head, or read it as plain PI0.

    TRL's fused head stands in `model.forward`, where it would look for a vocabulary.
    """
    vars(model).pop("forward", None)
    model.__class__ = FlowPI0
    return model
