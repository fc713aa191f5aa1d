"""Base weights in 4 or 8 bits under an adapter: QLoRA (arXiv 2305.14314)."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from posttrain.tuning.settings import Quantization


class QuantizationError(ValueError):
    """Weights cannot be quantised here, and why."""


def config_of(settings: Quantization) -> Any:
    """The recipe's `model.quantization` as transformers takes it.

    Raises:
        QuantizationError: bitsandbytes or a GPU is missing.
    """
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise QuantizationError(
            "model.quantization needs the package bitsandbytes, which is not installed: pip "
            "install bitsandbytes, or leave model.quantization out"
        )
    if not torch.cuda.is_available():
        raise QuantizationError(
            "model.quantization needs a CUDA GPU, and there is none; leave model.quantization out "
            "(model.lora alone trains on a CPU)"
        )
    if settings.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.type,
        bnb_4bit_use_double_quant=settings.double,
        bnb_4bit_compute_dtype=getattr(torch, settings.compute),
    )
