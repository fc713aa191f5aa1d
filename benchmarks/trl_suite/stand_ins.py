"""Local folders with the names that TRL's tests ask a hub for.

`from_pretrained("trl-internal-testing/NAME")` and `load_dataset` take a folder of that name before
they ask anybody. The models have the architecture that their name says, with new weights.

There are two sets. In `small` the vocabulary is the 256 bytes and what a chat needs. Some tests
write token ids of Qwen as numbers: for them `wide` has Qwen's vocabulary size, its numbers of the
bytes, and the few longer pieces that the tests mention.
"""

from __future__ import annotations

import codecs
import contextlib
import io
from pathlib import Path
from typing import Any

import torch

OWNER = "trl-internal-testing"

PIECES = {
    293: " b", 314: " {", 330: ' "', 397: ">\n", 411: "out", 450: "dec", 497: '",', 522: "</",
    606: "name", 788: '":', 894: " any", 927: "sh", 944: "'t", 1318: "text", 1414: " know",
    1513: " don", 2765: " won", 4913: '{"', 5212: ' {"', 5392: " tool", 6023: "hi", 6659: "call",
    7692: "async", 9520: "step", 11248: "}}\n", 13477: "rement", 14172: "tool", 16252: " increment",
    16370: "arguments", 17453: "Done", 22785: "_tool", 35744: "increment", 64648: "multiply",
    93054: "_multiply", 95642: '"}}\n',
}  # fmt: skip
"""Token ids of Qwen's vocabulary that stand in the tests, with their texts."""

SPECIAL = {
    151643: "<|endoftext|>", 151644: "<|im_start|>", 151645: "<|im_end|>",
    151652: "<|vision_start|>", 151653: "<|vision_end|>", 151655: "<|image_pad|>",
    151656: "<|video_pad|>",
}  # fmt: skip
PLAIN = {
    151657: "<tool_call>", 151658: "</tool_call>", 151665: "<tool_response>",
    151666: "</tool_response>", 151667: "<think>", 151668: "</think>",
}  # fmt: skip
VOCABULARY = {"wide": 151_936, "small": 320}

CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make(folder: Path) -> None:
    """Write every stand-in under `folder`/small and `folder`/wide."""
    for size in VOCABULARY:
        home = folder / size / OWNER
        home.mkdir(parents=True, exist_ok=True)
        _texts(home, size)
        _rewards(home, size)
        _zen(home)


def _byte_letters() -> list[str]:
    """The letters by which byte-level tokenizers write the 256 bytes, in the order of their ids."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return [chr(b) for b in shown] + [chr(256 + i) for i in range(len(hidden))]


def tokenizer(template: str, *, size: str) -> Any:
    """Bytes as Qwen numbers them, what a chat needs, and in `wide` the pieces of the tests."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocabulary = {letter: i for i, letter in enumerate(_byte_letters())}
    if size == "wide":
        for number, text in PIECES.items():
            vocabulary["".join(piece for piece, _ in level.pre_tokenize_str(text))] = number
        used = set(vocabulary.values())  # ids have to go on without a gap up to the special ones
        vocabulary |= {f"\u2400{i}": i for i in range(min(SPECIAL)) if i not in used}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = level
    backend.decoder = decoders.ByteLevel()
    names = {**{i: f"<|reserved_{i}|>" for i in range(151643, 151669)}, **SPECIAL, **PLAIN}
    backend.add_tokens(
        [AddedToken(names[i], special=i not in PLAIN, normalized=False) for i in sorted(names)]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    made.chat_template = template
    return made


def template_of(name: str) -> str:
    """A chat template that TRL ships."""
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()


def common(words: Any, size: str) -> dict[str, Any]:
    """What all configurations have in common."""
    return {
        "vocab_size": VOCABULARY[size], "hidden_size": 8, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32,
        "pad_token_id": words.pad_token_id, "bos_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
    }  # fmt: skip


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}


def _texts(home: Path, size: str) -> None:
    import transformers as t

    glm = {
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1,
        "topk_group": 1, "first_k_dense_replace": 1, "moe_intermediate_size": 32, "head_dim": 8,
    }  # fmt: skip
    gpt = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "rope_parameters": None}
    models = {
        "tiny-Qwen2ForCausalLM-2.5": (t.Qwen2ForCausalLM, t.Qwen2Config, {}, "qwen2_5"),
        "tiny-Qwen3ForCausalLM": (t.Qwen3ForCausalLM, t.Qwen3Config, {}, "qwen3"),
        "tiny-Qwen3MoeForCausalLM": (
            t.Qwen3MoeForCausalLM, t.Qwen3MoeConfig, {**EXPERTS, "head_dim": 128}, "qwen3",
        ),
        "tiny-LlamaForCausalLM-3.2": (t.LlamaForCausalLM, t.LlamaConfig, {}, "llama3_2"),
        "tiny-MistralForCausalLM-0.2": (t.MistralForCausalLM, t.MistralConfig, {}, None),
        "tiny-Gemma2ForCausalLM": (t.Gemma2ForCausalLM, t.Gemma2Config, {"head_dim": 8}, "gemma"),
        "tiny-Cohere2ForCausalLM": (t.Cohere2ForCausalLM, t.Cohere2Config, {}, "cohere2"),
        "tiny-Glm4MoeForCausalLM": (t.Glm4MoeForCausalLM, t.Glm4MoeConfig, glm, "glm4moe"),
        "tiny-GptOssForCausalLM": (t.GptOssForCausalLM, t.GptOssConfig, gpt, "gptoss"),
    }  # fmt: skip
    for name, (cls, config, more, template) in models.items():
        if size == "small" or "Qwen" in name:
            words = tokenizer(CHAT if template is None else template_of(template), size=size)
            _write(home / name, cls, config(**{**common(words, size), **more}), words)


def _rewards(home: Path, size: str) -> None:
    import transformers as t

    for family, name in (
        ("Qwen2", "tiny-Qwen2ForSequenceClassification-2.5"),
        ("Qwen3", "tiny-Qwen3ForSequenceClassification"),
        ("Llama", "tiny-LlamaForSequenceClassification-3.2"),
    ):
        cls = getattr(t, f"{family}ForSequenceClassification")
        template = {"Qwen2": "qwen2_5", "Qwen3": "qwen3", "Llama": "llama3_2"}[family]
        words = tokenizer(template_of(template), size=size)
        config = getattr(t, f"{family}Config")(**common(words, size), num_labels=1)
        if size == "small" or "Qwen" in name:
            _write(home / name, cls, config, words)


def _write(folder: Path, cls: Any, config: Any, words: Any) -> None:
    if (folder / "config.json").exists():
        return
    torch.manual_seed(0)
    model = cls(config)
    with torch.no_grad():  # weights that are exactly 0 or 1 would move by nothing, or by rounding
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    words.save_pretrained(folder)
    model.save_pretrained(folder)


def _zen(home: Path) -> None:
    """Beginnings of the lines of `import this`, as texts and as messages, 17 and 2 of them."""
    from datasets import Dataset, Features, Image, List, Value
    from PIL import Image as Picture

    with contextlib.redirect_stdout(io.StringIO()):
        import this

    lines = [line for line in codecs.decode(this.s, "rot13").splitlines()[2:] if line]
    starts = [line[: line.find(" ", 8)] for line in lines]
    asked = [[{"role": "user", "content": start}] for start in starts]
    message = [{"role": Value("string"), "content": Value("string")}]
    pictures = [Picture.new("RGB", (24, 24), (7 * i, 255 - 7 * i, 99)) for i in range(len(starts))]
    configurations = {
        "zen/standard_prompt_only": (Features({"prompt": Value("string")}), {"prompt": starts}),
        "zen/conversational_prompt_only": (Features({"prompt": message}), {"prompt": asked}),
        "zen-image/conversational_prompt_only": (
            Features({"prompt": message, "image": Image()}), {"prompt": asked, "image": pictures},
        ),
        "zen-multi-image/conversational_prompt_only": (
            Features({"prompt": message, "images": List(Image())}),
            {"prompt": asked, "images": [[p] * (i % 3) for i, p in enumerate(pictures)]},
        ),
    }  # fmt: skip
    for name, (features, columns) in configurations.items():
        for split, part in (("train", slice(0, 17)), ("test", slice(17, 19))):
            path = home / name / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = Dataset.from_dict({k: v[part] for k, v in columns.items()}, features=features)
            rows.to_parquet(path)
    for name in {name.split("/")[0] for name in configurations}:
        given = [key.split("/")[1] for key in configurations if key.split("/")[0] == name]
        (home / name / "README.md").write_text(_card(given))


def _card(configurations: list[str]) -> str:
    lines = ["---", "configs:"]
    for name in configurations:
        lines += [f"- config_name: {name}", "  data_files:"]
        for split in ("train", "test"):
            lines += [f"  - split: {split}", f"    path: {name}/{split}.parquet"]
    return "\n".join([*lines, "---", ""])
