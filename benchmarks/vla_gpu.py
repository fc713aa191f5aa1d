"""A model of SmolVLM-256M's size, from its configuration alone: rollouts, updates, memory."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from vla_arms import RATE

from posttrain.tuning import tiny, tiny_vlm
from posttrain.tuning.model import device
from posttrain.vla.actions import from_data
from posttrain.vla.environments.make import make_fleet
from posttrain.vla.observation import join
from posttrain.vla.policy import Policy, adopt
from posttrain.vla.rollout import play
from posttrain.vla.settings import ActionSettings, EnvironmentSettings

WORDS = [f"go to the {colour} block" for colour in ("red", "green", "blue", "yellow")]
SPECIAL = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
LARGE: dict[str, Any] = {
    "side": 512, "patch": 16, "scale": 4, "vocabulary": 49_280,
    "text": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3,
    },
    "vision": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
}  # fmt: skip
SMALL: dict[str, Any] = {
    "side": 32, "patch": 8, "scale": 2, "vocabulary": 64,
    "text": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    },
    "vision": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 4,
    },
}  # fmt: skip


def measure(*, small: bool, episodes: int = 128, rows: int = 32) -> str:
    """Play, learn from what was played, and say what it took, by wall time.

    Args:
        small: a model that a CPU can run, to see that this runs.
        episodes: that are played.
        rows: of an update.
    """
    if not small and not torch.accelerator.is_available():
        raise SystemExit(
            "--gpu: this machine has no accelerator; a model of 256 million weights is not "
            "measured on a CPU. --small runs the same with a tiny one."
        )
    size = SMALL if small else LARGE
    settings = EnvironmentSettings(envs=64)
    fleet = make_fleet(settings)
    policy = _policy(size, from_data(fleet.action_space, np.arange(4), ActionSettings()))
    model = policy.model
    weights = sum(p.numel() for p in model.parameters())
    drawn = lambda place: np.random.default_rng((0, place))  # noqa: E731
    given: dict[str, Any] = {"temperature": 1.0, "draws": drawn, "keep": "decisions"}
    play(policy, fleet, range(64), **given)
    start = _now()
    played = play(policy, fleet, range(episodes), **given)
    rolled = _now() - start
    fleet.close()
    seen, tokens = join([p.seen for p in played]), np.concatenate([p.tokens for p in played])
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    batches = [list(range(i, i + rows)) for i in range(0, len(tokens) - rows + 1, rows)]
    if not batches:
        raise SystemExit(f"{len(tokens)} decisions make no update of {rows}")
    model.train()
    start = _now()
    for batch in batches:
        model(**policy.rows(seen.take(batch), tokens[batch])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    learnt = _now() - start
    peak = "-"
    if torch.cuda.is_available():
        peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    return (
        f"{weights / 1e6:.1f} million weights: {len(tokens) / rolled:.1f} decisions/s, "
        f"{episodes / rolled:.1f} episodes/s; {len(batches) / learnt:.2f} updates/s of {rows} rows "
        f"({len(batches) * rows / learnt:.1f} rows/s); peak memory {peak}"
    )


def _now() -> float:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def _policy(size: dict[str, Any], actions: Any) -> Policy:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )

    tokenizer = tiny.make_tokenizer(WORDS)
    tokenizer.chat_template = None
    tokenizer.add_tokens(list(SPECIAL), special_tokens=True)
    edge = {"longest_edge": size["side"]}
    pictures = Idefics3ImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False)
    shown = (size["side"] // size["patch"] // size["scale"]) ** 2
    processor = Idefics3Processor(
        pictures, tokenizer, image_seq_len=shown, chat_template=tiny_vlm.TEMPLATE
    )
    config = Idefics3Config(
        text_config={
            "model_type": "llama", "vocab_size": size["vocabulary"], "pad_token_id": 0,
            "eos_token_id": 1, "bos_token_id": None, **size["text"],
        },
        vision_config={
            "image_size": size["side"], "patch_size": size["patch"], **size["vision"],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=size["scale"],
        pad_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip
    model: Any = Idefics3ForConditionalGeneration(config)
    kind = torch.bfloat16 if torch.accelerator.is_available() else torch.float32
    return adopt(model.to(device(), kind), processor, actions)
