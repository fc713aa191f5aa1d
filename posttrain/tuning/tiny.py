"""A small Llama and its tokenizer, made on the spot, for machines without a model hub.

Digits are single tokens and words are whole ones, so that two layers learn arithmetic within a
minute of one CPU core. White space separates tokens and is not kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD, END, UNKNOWN = "<|pad|>", "<|end|>", "<|unknown|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
PATTERN = r"[A-Za-z]+|[0-9]|[^\sA-Za-z0-9]"
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

TOOL_TOKENS = ("<|tool|>", "<|call|>")
SIGNS = ("(", ",", ")", "=")
TOOL_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] or '' }}{% for call in m['tool_calls'] or [] %}"
    "{{ '<|call|>' + call['function']['name'] + '(' }}"
    "{% for name, value in call['function']['arguments'].items() %}"
    "{{ name + '=' + value | string }}{{ '' if loop.last else ',' }}{% endfor %}{{ ')' }}"
    "{% endfor %}{{ '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""A call reads `<|call|>look(slot=472)`; the schemas of the tools are not shown."""
RESPONSE: dict[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "tool_calls": {
            "open_pattern": r"<\|call\|>(?P<name>\w+)\(",
            "close_pattern": r"\)",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {
                "tag_pattern": r"(?P<key>\w+)=(?P<value>[^,]*)",
                "value_parser": {"name": "text"},
            },
            "transform": {
                "type": "function",
                "function": {"name": "{name}", "arguments": "{content}"},
            },
        },
        "content": {"close_pattern": r"<\|end\|>", "content": "text"},
    },
}
"""How transformers reads `TOOL_TEMPLATE`'s calls back."""


def make_tokenizer(texts: Iterable[str], *, tools: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer of digits, signs and the words that occur in `texts`, and of tool calls."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True)
    words = {piece for text in texts for piece, _ in split.pre_tokenize_str(text)}
    roles = (*ROLES, *TOOL_TOKENS) if tools else ROLES
    signs = (*"0123456789", *SIGNS) if tools else tuple("0123456789")
    known = [PAD, END, UNKNOWN, *roles, *signs, *sorted(words - set(signs))]
    backend = Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(known)}, unk_token=UNKNOWN)
    )
    backend.pre_tokenizer = split
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        padding_side="left",
    )
    tokenizer.add_tokens(list(roles), special_tokens=True)
    tokenizer.chat_template = TOOL_TEMPLATE if tools else TEMPLATE
    if tools:
        tokenizer.response_template = RESPONSE
    return tokenizer


def make_model(
    tokenizer: PreTrainedTokenizerFast, *, hidden: int = 128, layers: int = 2, seed: int = 0
) -> LlamaForCausalLM:
    """A Llama of `layers` blocks of width `hidden` with weights drawn from `seed`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
