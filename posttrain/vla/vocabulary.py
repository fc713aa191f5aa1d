"""Action tokens in the vocabulary of a language model: added to it, or its last ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from posttrain.tuning.seen import tokenizer_of
from posttrain.vla.actions import ActionTokenizer

SPREAD = 0.1
"""Of the rows of new tokens about the mean row, as a share of the rows' own spread."""


class PolicyError(ValueError):
    """A model that cannot be a policy, and why."""


def names_of(tokenizer: ActionTokenizer) -> list[str]:
    """The tokens that are added to a vocabulary: none in `tail` mode."""
    return [f"<act_{i}>" for i in range(tokenizer.size)] if tokenizer.vocabulary == "added" else []


def give(model: Any, processor: Any, names: Sequence[str], seed: int) -> None:
    """Add tokens, whose rows lie close about the mean row, each a little elsewhere.

    Args:
        model: with input and output embeddings, tied or not.
        processor: whose tokenizer learns the tokens.
        names: of the tokens; those that it has already get new rows too.
        seed: of the rows.
    """
    if not names:
        return
    words = tokenizer_of(processor)
    words.add_tokens(list(names), special_tokens=True)
    table = model.get_input_embeddings().weight
    if len(words) > len(table):
        model.resize_token_embeddings(len(words), mean_resizing=False)
    new = words.convert_tokens_to_ids(list(names))
    inward, outward = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    tied = inward.data_ptr() == outward.data_ptr()
    generator = torch.Generator().manual_seed(seed)
    for rows in [inward] if tied else [inward, outward]:
        old = rows.detach()[: min(new)].float()
        noise = torch.randn(len(new), rows.shape[1], generator=generator).to(old.device)
        fresh = old.mean(0) + SPREAD * old.std(0) * noise
        with torch.no_grad():
            rows[torch.tensor(new, device=rows.device)] = fresh.to(rows.dtype)


def places(processor: Any, model: Any, tokenizer: ActionTokenizer) -> list[int]:
    """Where action tokens stand in a model's vocabulary, token 0 first.

    In `tail` mode token 0 is the last one. A vocabulary that was padded to a multiple, as OpenVLA's
    configuration says, ends before its padding.

    Raises:
        PolicyError: too few tokens, or special ones among them.
    """
    words = tokenizer_of(processor)
    if tokenizer.vocabulary == "added":
        return list(words.convert_tokens_to_ids(names_of(tokenizer)))
    padding = getattr(model.config, "pad_to_multiple_of", None)
    text = model.config.get_text_config()
    end = text.vocab_size - padding if padding else words.vocab_size
    found = [end - 1 - token for token in range(tokenizer.size)]
    special = {number for number, token in words.added_tokens_decoder.items() if token.special}
    if found[-1] < 0 or special & {*found}:
        raise PolicyError(
            f"model.actions.vocabulary: the last {tokenizer.size} of {end} tokens cannot be "
            "actions, since there are not as many, or special ones are among them; use 'added'"
        )
    return found
