"""The two kinds of policy that share the mechanics: a control actor and a language model."""

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal


class Actor(nn.Module):
    """A Gaussian actor with a state-dependent spread."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.LayerNorm(8))
        self.head = nn.Linear(8, 4)

    def forward(self, observation):
        mean, log_std = self.head(self.trunk(observation)).chunk(2, dim=-1)
        return Independent(Normal(mean, log_std.exp()), 1)


class Agent(nn.Module):
    """What an off-policy learner holds."""

    def __init__(self):
        super().__init__()
        self.actor = Actor()
        self.critics = nn.ModuleList(
            nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1)) for _ in range(2)
        )
        self.target_critics = nn.ModuleList(
            nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1)) for _ in range(2)
        )


def trained(model):
    """Move every weight off its initial value, norms included."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def actor():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return trained(Actor())


@pytest.fixture
def agent():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return trained(Agent())


def llama(*, tied, dropout=0.0):
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=2,
            tie_word_embeddings=tied,
            attention_dropout=dropout,
        )
        return trained(LlamaForCausalLM(config))


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Folders of saved models: weights that were loaded behave unlike weights just made."""
    folders = {}
    for tied in (True, False):
        folders[tied] = tmp_path_factory.mktemp("tied" if tied else "untied")
        llama(tied=tied).save_pretrained(folders[tied])
    return folders


def load(folder):
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder)


@pytest.fixture
def language_model(saved):
    return load(saved[False])


@pytest.fixture
def tied_model(saved):
    return load(saved[True])


@pytest.fixture
def adapted(saved):
    """A trained LoRA policy with trl's frozen copy of pi_0's adapter beside it."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = get_peft_model(
            load(saved[True]), LoraConfig(r=2, target_modules=["q_proj", "down_proj"])
        )
        model.add_adapter("ref", LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def tokens():
    return torch.arange(12).reshape(2, 6) % 32


@pytest.fixture
def observations():
    return torch.linspace(-1, 1, 15).reshape(5, 3)
