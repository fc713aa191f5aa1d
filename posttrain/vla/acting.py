"""TRL's online trainer, whose rollouts are episodes of an environment.

A row of TRL's dataset is a start; a group plays it several times. Each decision of an episode is
then a row of the loss: prompt = what was seen and told, completion = the action tokens, advantage =
the episode's. That is the form in which the policy was cloned, and memory does not grow with the
length of an episode. Pictures become tensors only when a micro-batch needs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from posttrain.intervention.kl import categorical_kl
from posttrain.intervention.parts import REFERENCE_ADAPTER
from posttrain.tuning import compat
from posttrain.tuning.anchored import FLOOR
from posttrain.tuning.callbacks import Recorder
from posttrain.tuning.honour import PlanError
from posttrain.tuning.kl_term import token_kl
from posttrain.tuning.reference import policy_of
from posttrain.vla.advantage import group_advantages, silent
from posttrain.vla.head import restrict
from posttrain.vla.observation import Observations, join
from posttrain.vla.played import Played
from posttrain.vla.rollout import Keep, play
from posttrain.vla.starts import return_of, unit_of

if TYPE_CHECKING:
    from posttrain.intervention.plan import Estimator
    from posttrain.tuning.kl_term import Heard
    from posttrain.vla.environments.fleet import Fleet
    from posttrain.vla.policy import Policy
    from posttrain.vla.settings import ReturnSettings

ROLLOUTS, EVALUATION = 1, 2
"""What a stream of draws is for, so that no two uses share one."""
LOSSES = ("dapo",)
"""TRL's losses that count tokens over the whole batch, whatever the number of rows."""


class Acting:
    """Plays episodes in an online trainer of TRL, whose methods it extends."""

    state: Any
    model: Any
    args: Any
    accelerator: Any
    ref_model: Any
    beta: float
    num_generations: int
    num_iterations: int
    temperature: float
    recorder: Recorder
    anchor: Any

    def __init__(
        self,
        *args: Any,
        policy: Policy,
        fleet: Fleet,
        returns: ReturnSettings,
        execute: int,
        draws: int,
        **kwargs: Any,
    ) -> None:
        """Take the trainer's arguments, and where and how its policy acts.

        Args:
            *args: TRL's.
            policy: whose model is trained.
            fleet: environments of this process.
            returns: what an episode returns.
            execute: actions of a chunk that are carried out.
            draws: seed of all draws of actions.
            **kwargs: TRL's.

        Raises:
            PlanError: a loss whose scale would follow the number of rows.
        """
        loss = kwargs["args"].loss_type
        if loss not in LOSSES:
            raise PlanError(
                f"rl.trainer.loss_type: {loss!r} would weigh a step by how many decisions its "
                f"episodes took; wanted {' or '.join(map(repr, LOSSES))}, the mean over all"
            )
        super().__init__(*args, **kwargs)
        self.policy, self.fleet, self.returns = policy, fleet, returns
        self.execute, self.draws = execute, draws
        self.seen: Observations | None = None
        self._looking: tuple[Tensor, Tensor] = torch.empty(0), torch.empty(0)
        self._said: tuple[Tensor, Tensor] | None = None
        self._own = 0
        if self.ref_model is not None:
            self._read_again(self.ref_model)

    def _read_again(self, reference: Any) -> None:
        """Have a model that TRL read from pi_0's folder speak as the policy does."""
        restrict(reference, self.policy.tokenizer.ids)

    def own_rows(self) -> list[bool]:
        """Which rows of the newest batch the policy played itself: all."""
        return [True] * self._own

    def acting(self) -> Policy:
        """The policy as it is now."""
        return replace(self.policy, model=policy_of(self))

    def episodes(self, rows: Sequence[Mapping[str, Any]], *, use: int, keep: Keep) -> list[Played]:
        """Play an episode from each row's start, with draws that only its place decides."""
        first = len(rows) * int(self.accelerator.process_index)
        key = (self.draws, use, compat.micro_step(self))
        seeds = [int(row["seed"]) for row in rows]
        with self._evaluating():
            return play(
                self.acting(),
                self.fleet,
                seeds,
                draws=lambda place: np.random.default_rng((*key, seeds[place], first + place)),
                temperature=self.temperature,
                execute=self.execute,
                keep=keep,
            )

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        was = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), self.accelerator.autocast():
                yield
        finally:
            self.model.train(was)

    def return_of(self, played: Played) -> float:
        """What RL maximises, of an episode."""
        return return_of(
            self.returns,
            success=played.success,
            steps=played.steps,
            max_steps=self.fleet.max_steps,
            rewards=played.rewards,
        )

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        played = self.episodes(inputs, use=ROLLOUTS, keep="decisions")
        mine = torch.tensor([self.return_of(one) for one in played], device=self._where)
        returns = self.accelerator.gather(mine)
        advantages = group_advantages(returns, self.num_generations, self.args.scale_rewards)
        first = len(mine) * int(self.accelerator.process_index)
        own = advantages[first : first + len(mine)]
        self._hear(played, mine)
        self._log(played, returns)
        return self._decisions(played, own)

    @property
    def _where(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device

    def _hear(self, played: Sequence[Played], returns: Tensor) -> None:
        units = [unit_of(one.task, one.seed) for one in played]
        self._own = len(units)
        self.recorder.hear(units, returns.tolist(), training=True)
        gate = getattr(self, "gate", None)
        if gate is not None:
            found = self._everywhere(list(zip(units, returns.tolist(), strict=True)))
            for start in range(0, len(found), self.num_generations):
                group = found[start : start + self.num_generations]
                gate.observe(group[0][0], [value for _, value in group])
            for what, share in gate.shares().items():
                compat.push(self, f"regime/gate_{what}", share)

    def _everywhere(self, found: list[Any]) -> list[Any]:
        if self.accelerator.num_processes == 1:
            return found
        from accelerate.utils import gather_object

        return list(gather_object(found))

    def _log(self, played: Sequence[Played], returns: Tensor) -> None:
        facts = torch.tensor(
            [[one.success, one.steps, len(one.tokens), one.truncated] for one in played],
            dtype=torch.float32,
            device=self._where,
        )
        means = self.accelerator.gather(facts).mean(dim=0).tolist()
        compat.push(self, "reward", float(returns.mean()))
        compat.push(self, "reward_std", float(returns.std()) if len(returns) > 1 else 0.0)
        share = silent(returns, self.num_generations).float().mean()
        compat.push(self, "frac_reward_zero_std", float(share))
        for name, value in zip(("success", "steps", "decisions", "truncated"), means, strict=True):
            compat.push(self, f"episode/{name}", value)

    def _decisions(self, played: Sequence[Played], advantages: Tensor) -> dict[str, Any]:
        """Rows of the loss. Those that nothing pulls at are left out, and counted all the same."""
        pulled = self.beta > FLOOR or getattr(self, "in_loss", False)
        total = sum(one.tokens.size for one in played)
        taught = [
            (one, float(a)) for one, a in zip(played, advantages, strict=True) if pulled or a != 0
        ]
        chosen = taught or [(played[0], 0.0)]
        parts = int(self.args.steps_per_generation)
        tokens = np.concatenate([one.tokens for one, _ in chosen])
        held = torch.tensor([len(tokens)], device=self._where)
        most = int(self.accelerator.gather(held).max())  # TRL gathers rows: ranks need as many
        short = -(-most // parts) * parts - len(tokens)
        spare = np.arange(short) % len(tokens)
        self.seen = join([one.seen for one, _ in chosen])
        rows = torch.tensor([*range(len(tokens)), *spare.tolist()])
        actions = torch.from_numpy(tokens)[rows]
        values = np.concatenate([np.full(len(one.tokens), a) for one, a in chosen])
        counted = torch.ones(len(rows), dtype=torch.long)
        counted[len(tokens) :] = 0
        if not taught:
            counted[:] = 0
        batch = {
            "rows": rows,
            "tokens": actions,
            "completion_ids": self.policy.ids(actions.numpy()).to(self._where),
            "completion_mask": counted[:, None].expand(actions.shape).to(self._where),
            "advantages": torch.tensor(values, dtype=torch.float32)[rows].to(self._where),
            "num_items_in_batch": self.accelerator.gather(
                torch.tensor([total], device=self._where)
            ).sum(),
        }
        compat.push(self, "episode/rows", float(len(tokens)))
        return {**batch, **self._scored(batch)}

    @torch.no_grad()
    def _scored(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """What the sampler and the reference say of the batch, where that will be asked."""
        found: dict[str, Tensor] = {}
        cycle = self.args.steps_per_generation * self.num_iterations
        if self.args.gradient_accumulation_steps % cycle:
            found["old_per_token_logps"] = self._pass(self.model, batch)[0]
        if self.beta == 0:
            return found
        if self.ref_model is not None:
            taken, whole = self._pass(self.ref_model, batch)
        else:
            policy = policy_of(self)
            name = REFERENCE_ADAPTER if REFERENCE_ADAPTER in policy.peft_config else None
            with compat.use_adapter(policy, name):
                taken, whole = self._pass(self.model, batch)
        found["ref_per_token_logps"] = taken
        if self.anchor is not None and self.anchor.estimator == "exact":
            found["ref_action_logps"] = whole
        return found

    def _pass(self, model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the tokens taken `[n, T]` and of all `[n, T, actions]`."""
        rows = batch["rows"]
        size = -(-len(rows) // int(self.args.steps_per_generation))
        found = []
        with self._evaluating():
            for begin in range(0, len(rows), size):
                part = slice(begin, begin + size)
                found.append(self._says(model, rows[part], batch["tokens"][part]))
        taken, whole = zip(*found, strict=True)
        return torch.cat(taken), torch.cat(whole)

    def _says(self, model: Any, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What a model says of decisions, at the temperature of the rollouts."""
        if self.seen is None:
            raise RuntimeError("no episode has been played yet")
        keep = tokens.shape[1]
        heard = tokens[:, :-1].cpu().numpy()  # nobody asks what comes after the last one
        batch = self.policy.rows(self.seen.take(rows.tolist()), heard)
        del batch["labels"]
        logits = model(**batch, logits_to_keep=keep, use_cache=False).logits
        actions = torch.tensor(self.policy.tokenizer.ids, device=logits.device)
        whole = (logits[:, -keep:, actions].float() / self.temperature).log_softmax(-1)
        return whole.gather(-1, tokens.to(whole.device)[..., None]).squeeze(-1), whole

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,  # noqa: FBT001, FBT002
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """RL's loss on some decisions, which are looked at here and now."""
        self._looking = inputs["rows"], inputs["tokens"]
        mask = inputs["completion_mask"]
        # What TRL cuts prompts and completions out of; the model is given what `_says` looks at.
        inputs = {**inputs, "prompt_ids": mask[:, :1], "prompt_mask": mask[:, :1]}
        loss: Tensor = super().compute_loss(  # type: ignore[misc]
            model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )
        self._said = None
        return loss

    def _get_per_token_logps_and_entropies(
        self, model: Any, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor, None]:
        taken, whole = self._says(model, *self._looking)
        self._said = taken, whole
        return taken, -(whole.exp() * whole).sum(-1), None

    def _kl_beside(
        self, estimator: Estimator, heard: Sequence[Heard], inputs: Any, mask: Tensor
    ) -> Tensor:
        del heard
        if self._said is None:
            raise RuntimeError("the loss has not been computed yet")
        taken, whole = self._said
        if estimator == "exact":
            found = categorical_kl(whole, inputs["ref_action_logps"])
            return torch.where(mask.bool(), found, 0)
        reference, old = inputs["ref_per_token_logps"], inputs.get("old_per_token_logps")
        return token_kl(estimator, taken, reference, mask, old)

    def prediction_step(
        self, model: Any, inputs: Any, *_: Any, **__: Any
    ) -> tuple[None, None, None]:
        """Play an episode from each start of a batch of the evaluation."""
        del model
        played = self.episodes(inputs, use=EVALUATION, keep="none")
        units = [unit_of(one.task, one.seed) for one in played]
        self.recorder.hear(units, [self.return_of(one) for one in played], training=False)
        return None, None, None
