"""Policies over the families of vision-language models, each from a small configuration.

Processors that also read videos want torchvision when they are made; the tests give them none.
"""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
from datasets import Dataset
from gymnasium import spaces
from trl import SFTConfig, SFTTrainer

from posttrain.tuning import tiny, tiny_vlm
from posttrain.tuning.model import token_logps
from posttrain.vla.actions import from_data
from posttrain.vla.cloner import AnswerSFTTrainer
from posttrain.vla.head import is_restricted
from posttrain.vla.observation import Observations
from posttrain.vla.policy import adopt
from posttrain.vla.settings import ActionSettings

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"  # PaliGemmaProcessor
)

WORDS = ("go to the red block", "go to the blue one now")
SIDE, HIDDEN = 28, 32
TEXT = {
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
VISION = {
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 14,
    "initializer_range": 0.2,
}


def no_videos(processor):
    class ImagesOnly(processor):
        def check_argument_for_proper_class(self, argument_name, argument):
            if argument_name == "video_processor" and argument is None:
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

    ImagesOnly.__name__ = processor.__name__
    return ImagesOnly


def words(*special):
    tokenizer = tiny.make_tokenizer(WORDS)
    tokenizer.chat_template = None
    tokenizer.add_tokens(list(special), special_tokens=True)
    return tokenizer


def llava():
    processor = tiny_vlm.make_processor(WORDS)
    return tiny_vlm.make_model(processor, hidden=HIDDEN), processor


def idefics3():
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )

    tokenizer = words("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    pictures = Idefics3ImageProcessorPil(
        size={"longest_edge": SIDE},
        max_image_size={"longest_edge": SIDE},
        do_image_splitting=False,
    )
    processor = Idefics3Processor(
        pictures, tokenizer, image_seq_len=4, chat_template=tiny_vlm.TEMPLATE
    )
    config = Idefics3Config(
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **TEXT},
        vision_config=VISION,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=1,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    return Idefics3ForConditionalGeneration(config), processor


def smolvlm():
    pytest.importorskip("num2words")
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    tokenizer = words("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    pictures = SmolVLMImageProcessorPil(
        size={"longest_edge": SIDE},
        max_image_size={"longest_edge": SIDE},
        do_image_splitting=False,
    )
    processor = no_videos(SmolVLMProcessor)(
        pictures, tokenizer, None, image_seq_len=4, chat_template=tiny_vlm.TEMPLATE
    )
    config = SmolVLMConfig(
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **TEXT},
        vision_config=VISION,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=1,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    return SmolVLMForConditionalGeneration(config), processor


def paligemma():
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
    )
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tokenizer = words("<image>")
    tokenizer.bos_token = tiny.END
    pictures = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    pictures.image_seq_length = 4
    processor = PaliGemmaProcessor(pictures, tokenizer)
    config = PaliGemmaConfig(
        text_config={"model_type": "gemma", "vocab_size": len(tokenizer), "head_dim": 8, **TEXT},
        vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=HIDDEN,
        hidden_size=HIDDEN,
        pad_token_id=0,
    )
    return PaliGemmaForConditionalGeneration(config), processor


def qwen2_vl():
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    marks = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>")
    tokenizer = words(*marks)
    pictures = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 14 * 14, "longest_edge": 28 * 28}, patch_size=7, merge_size=2
    )
    template = tiny_vlm.TEMPLATE.replace("<image>", "".join(marks[:3]))
    processor = no_videos(Qwen2VLProcessor)(pictures, tokenizer, None, chat_template=template)
    ids = tokenizer.convert_tokens_to_ids(list(marks))
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]
            },
            **TEXT,
        },
        vision_config={
            "depth": 1, "embed_dim": HIDDEN, "hidden_size": HIDDEN, "num_heads": 4,
            "mlp_ratio": 2, "patch_size": 7, "initializer_range": 0.2,
        },
        vision_start_token_id=ids[0], image_token_id=ids[1], vision_end_token_id=ids[2],
        video_token_id=ids[3],
    )  # fmt: skip
    return Qwen2VLForConditionalGeneration(config), processor


FAMILIES = [llava, idefics3, smolvlm, paligemma, qwen2_vl]


@pytest.fixture(scope="module", params=FAMILIES, ids=[f.__name__ for f in FAMILIES])
def policy(request):
    torch.manual_seed(0)
    model, processor = request.param()
    actions = np.random.default_rng(0).uniform(-1, 1, (40, 3))
    box = spaces.Box(-1, 1, (3,))
    return adopt(model, processor, from_data(box, actions, ActionSettings(bins=8)))


def seen(n=4):
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)
    return Observations(images={"top": frames}, instructions=[WORDS[i % 2] for i in range(n)])


def drawn(policy, n=4):
    return np.random.default_rng(2).random((n, policy.tokens))


def test_prompts_of_a_batch_are_those_of_the_processor(policy):
    ours = policy.eyes.encode(seen())
    theirs = policy.eyes._whole(policy.eyes.say(seen()), seen())
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert torch.allclose(ours[name], tensor, rtol=0, atol=1e-6), name


def test_no_shortcut_is_missed(policy):
    policy.eyes.encode(seen())
    assert {look.how for look in policy.eyes._looks.values()} <= {"table", "images"}


def test_tokens_drawn_one_by_one_have_the_log_probs_of_the_loss(policy):
    """What was sampled with a cache, and what one pass over the row says of it."""
    shown, draws = seen(), drawn(policy)
    told = policy.decide(shown, draws, temperature=1.0)
    with torch.no_grad():
        batch = policy.rows(shown, told.tokens)
        labels = batch["labels"]
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        logits = policy.model(**inputs).logits[:, -policy.tokens - 1 : -1]
    logps = logits[..., list(policy.tokenizer.ids)].double().log_softmax(-1)
    above = logps.exp().cumsum(-1).numpy()
    for row, place in np.ndindex(told.tokens.shape):
        token, draw = told.tokens[row, place], draws[row, place]
        assert above[row, place, token] > draw - 1e-5
        assert token == 0 or above[row, place, token - 1] < draw + 1e-5
    ours, mask = token_logps(policy.model, batch)
    assert mask.sum() == told.tokens.size == (labels != -100).sum()
    picked = logps.gather(-1, torch.from_numpy(told.tokens)[..., None]).squeeze(-1)
    assert torch.allclose(ours[mask].reshape(picked.shape).double(), picked, atol=1e-4)


def test_what_is_answered_later_is_not_seen_before(policy):
    shown = seen()
    tokens = np.zeros((4, policy.tokens), dtype=np.int64)
    other = tokens.copy()
    other[:, -1] = 5
    policy.model.train()
    with torch.no_grad():
        first, mask = token_logps(policy.model, policy.rows(shown, tokens))
        second, _ = token_logps(policy.model, policy.rows(shown, other))
    policy.model.eval()
    before = [row[m][:-1] for row, m in zip(first, mask, strict=True)]
    after = [row[m][:-1] for row, m in zip(second, mask, strict=True)]
    assert torch.allclose(torch.stack(before), torch.stack(after), atol=1e-5)


def test_images_and_words_decide(policy):
    shown, draws = seen(), drawn(policy)
    dark = replace(shown, images={"top": np.zeros_like(shown.images["top"])})
    swapped = replace(shown, instructions=list(shown.instructions)[::-1])
    batches = [policy.rows(some, np.zeros_like(draws, dtype=np.int64)) for some in (shown, dark)]
    with torch.no_grad():
        one, other = (token_logps(policy.model, batch)[0] for batch in batches)
        third = token_logps(policy.model, policy.rows(swapped, np.zeros((4, 3), dtype=np.int64)))
    assert not torch.allclose(one, other, atol=1e-3)
    assert not torch.allclose(one, third[0], atol=1e-3)


def test_an_adapter_learns_and_stays_restricted(policy):
    base = policy.model
    model = peft.get_peft_model(
        base, peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=True)
    )
    try:
        wrapped = replace(policy, model=model)
        assert is_restricted(model)
        shown, draws = seen(), drawn(policy)
        told = wrapped.decide(shown, draws, temperature=1.0)
        logps, _ = token_logps(model, wrapped.rows(shown, told.tokens))
        logps.sum().backward()
        grown = [
            p.grad for n, p in model.named_parameters() if "lora_B" in n and "lm_head" not in n
        ]
        assert any(grad is not None and grad.abs().max() > 0 for grad in grown)
    finally:
        model.unload()


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
def test_the_places_that_answer_are_all_that_cloning_needs(policy, adapted, tmp_path):
    """TRL's loss, metrics and gradient on whole rows, and on rows cut to their answers."""
    batch = policy.rows(seen(), np.arange(12, dtype=np.int64).reshape(4, 3) % 8)
    lora = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    trainer = cloning(policy, tmp_path, peft_config=lora if adapted else None)
    ours, grown = found(trainer, AnswerSFTTrainer, batch)
    theirs, wanted = found(trainer, SFTTrainer, batch)
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    assert ours["entropy"] == pytest.approx(theirs["entropy"], abs=1e-5)
    assert ours["mean_token_accuracy"] == theirs["mean_token_accuracy"]
    assert max(tensor.abs().max() for tensor in wanted.values()) > 1e-3
    assert set(grown) == set(wanted)
    for name, tensor in wanted.items():
        assert torch.allclose(grown[name], tensor, atol=1e-5), name


def test_a_smoothed_loss_reads_whole_rows(policy, tmp_path):
    batch = policy.rows(seen(), np.zeros((4, policy.tokens), dtype=np.int64))
    with pytest.warns(FutureWarning, match="label_smoothing_factor"):
        trainer = cloning(policy, tmp_path, label_smoothing_factor=0.1)
    # A smoothed loss is a mean over all tokens, and those that are barred cost 1e4: compared as
    # they are, not as what one should train on.
    ours, theirs = (found(trainer, kind, batch)[0] for kind in (AnswerSFTTrainer, SFTTrainer))
    assert ours == pytest.approx(theirs)


def cloning(policy, folder, *, peft_config=None, **options):
    return AnswerSFTTrainer(
        model=deepcopy(policy.model).requires_grad_(True),
        args=SFTConfig(
            output_dir=str(folder), report_to="none", use_cpu=True, bf16=False, max_length=None,
            activation_checkpointing=False, gradient_checkpointing=False,
            remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True}, **options,
        ),
        train_dataset=Dataset.from_dict({"frame": [0]}),
        data_collator=lambda rows: rows,
        processing_class=policy.processor,
        peft_config=peft_config,
    )  # fmt: skip


def found(trainer, kind, batch):
    """A loss with TRL's metrics, and the gradient."""
    trainer.model.train()
    trainer.model.zero_grad()
    trainer._metrics["train"].clear()
    loss = kind.compute_loss(trainer, trainer.model, dict(batch))
    loss.backward()
    said = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    grads = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    trainer.model.eval()
    return {"loss": loss.item(), **{k: v for k, v in said.items() if k != "num_tokens"}}, grads
