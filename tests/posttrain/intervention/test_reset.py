"""The same resets on a control agent, a loaded language model and a LoRA adapter."""

import copy

import pytest
import torch
from torch import nn

from posttrain.intervention.parts import ResetError, select
from posttrain.intervention.plan import Reset
from posttrain.intervention.reset import (
    apply_reset,
    interpolate_,
    reinitialize_,
    reset_optimizer_,
    shrink_and_perturb_,
)


def state(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def differing(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def optimizer_with_moments(model):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.0)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


# Which modules ---------------------------------------------------------------------------------


def test_the_parts_of_a_control_agent(agent):
    assert list(select(agent, "policy")) == ["actor"]
    assert list(select(agent, "critic")) == ["critics"]
    assert list(select(agent, "head")) == ["actor.head"]
    assert list(select(agent, "last_layers", layers=2)) == ["actor.trunk.2", "actor.head"]


def test_the_parts_of_a_language_model(language_model):
    assert list(select(language_model, "policy")) == [""]
    assert list(select(language_model, "head")) == ["lm_head"]
    assert list(select(language_model, "last_layers", layers=2)) == [
        "model.layers.1",
        "model.layers.2",
        "model.norm",
    ]


def test_the_head_of_a_sequential_is_its_last_layer(actor):
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1), nn.Tanh())
    assert list(select(network, "head")) == ["1"]


@pytest.mark.parametrize(
    ("model", "part", "sentence"),
    [
        ("tied_model", "head", "tied to the input embeddings"),
        ("language_model", "critic", "no child named critic"),
        ("language_model", "adapter", "no LoRA adapter"),
        ("adapted", "last_layers", "its own weights are frozen"),
        ("adapted", "policy", "merge the adapter"),
        ("actor", "adapter", "no LoRA adapter"),
        ("actor", "optimizer", "reset_optimizer_"),
    ],
)
def test_a_part_that_cannot_be_reset_gets_a_sentence(model, part, sentence, request):
    with pytest.raises(ResetError, match=sentence):
        select(request.getfixturevalue(model), part)


def test_more_layers_than_there_are_is_refused(language_model, actor):
    for model in (language_model, actor):
        with pytest.raises(ResetError, match="the policy has 3"):
            select(model, "last_layers", layers=4)


def test_a_wrapped_model_is_refused(language_model):
    wrapped = nn.ModuleDict({"module": language_model})
    with pytest.raises(ResetError, match="the module that it wraps"):
        select(wrapped, "last_layers")


def test_a_policy_that_cannot_be_told_from_the_rest_is_refused():
    with pytest.raises(ResetError, match="'actor' or 'policy'"):
        select(nn.ModuleDict({"net": nn.Linear(1, 1), "critic": nn.Linear(1, 1)}), "policy")
    with pytest.raises(ResetError, match="name it 'head'"):
        select(nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)}), "head")


# Fresh weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["policy", "head", "last_layers"])
@pytest.mark.parametrize("model", ["agent", "language_model"])
def test_a_fresh_part_changes_wholly_and_the_rest_stays(model, part, request):
    model = request.getfixturevalue(model)
    before = state(model)
    changed = apply_reset(Reset(parts=(part,)), model, seed=0)
    inside = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in select(model, part).items()
        for name, _ in module.named_parameters()
    }
    assert set(changed) == differing(before, state(model)) == inside


def test_loaded_weights_defeat_the_naive_reset_but_not_this_one(language_model):
    layer = language_model.model.layers[-1]
    before = state(layer)
    layer.apply(language_model._init_weights)
    assert differing(before, state(layer)) == set()
    changed = reinitialize_({"layer": layer}, seed=0, model=language_model)
    assert len(changed) == len(before)


def test_fresh_weights_of_a_language_model_follow_its_own_rule(language_model):
    reinitialize_({"": language_model}, seed=0)
    config = language_model.config
    spread = torch.cat([p.flatten() for p in language_model.model.layers[1].mlp.parameters()])
    assert spread.std().item() == pytest.approx(config.initializer_range, rel=0.1)
    assert spread.mean().item() == pytest.approx(0, abs=0.002)
    assert (language_model.model.norm.weight == 1).all()


def test_fresh_weights_of_an_actor_are_those_of_a_new_one(actor):
    reinitialize_({"": actor.trunk}, seed=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        new = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.LayerNorm(8))
    assert differing(state(new), state(actor.trunk)) == set()


@pytest.mark.parametrize("model", ["actor", "language_model", "adapted"])
def test_a_seed_decides_the_draw_and_nothing_else_does(model, request):
    model = request.getfixturevalue(model)
    reset = Reset(parts=("adapter",) if hasattr(model, "peft_config") else ("last_layers",))
    twin, other = copy.deepcopy(model), copy.deepcopy(model)
    apply_reset(reset, model, seed=1)
    torch.rand(3)
    apply_reset(reset, twin, seed=1)
    apply_reset(reset, other, seed=2)
    assert differing(state(model), state(twin)) == set()
    assert differing(state(model), state(other))


def test_the_global_generator_is_left_as_it_was(language_model):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    apply_reset(Reset(parts=("last_layers",)), language_model, seed=9)
    assert torch.equal(torch.rand(3), expected)


def test_a_module_without_a_rule_is_refused_before_anything_changes():
    class Spread(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_std = nn.Parameter(torch.zeros(2))

    model = nn.Sequential(nn.Linear(2, 2), Spread())
    before = state(model)
    with pytest.raises(ResetError, match=r"1 \(Spread\).*log_std.*reset_parameters"):
        reinitialize_({"": model}, seed=0)
    assert differing(before, state(model)) == set()


def test_a_rule_that_does_nothing_is_found_out():
    class Stubborn(nn.Linear):
        def reset_parameters(self):
            pass

    layer = Stubborn(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(4.0).reshape(2, 2))
    with pytest.raises(ResetError, match="kept its values"):
        reinitialize_({"layer": layer}, seed=0)


# Part of the way -------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["actor", "language_model"])
def test_shrink_and_perturb_is_its_formula(model, request):
    model = request.getfixturevalue(model)
    fresh, before = copy.deepcopy(model), state(model)
    reinitialize_({"": fresh}, seed=3)
    reset = Reset(parts=("policy",), how="shrink_perturb", keep=0.7, noise=0.2)
    apply_reset(reset, model, seed=3)
    for name, new in fresh.named_parameters():
        wanted = 0.7 * before[name] + 0.2 * new
        torch.testing.assert_close(model.get_parameter(name), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("model", ["actor", "language_model"])
def test_interpolation_is_its_formula_and_exact_at_both_ends(model, request):
    model = request.getfixturevalue(model)
    base, before = copy.deepcopy(model), state(model)
    reinitialize_({"": base}, seed=3)
    base = state(base)
    assert interpolate_({"": model}, base, keep=1.0) == ()
    interpolate_({"": model}, base, keep=0.25)
    for name, now in model.named_parameters():
        torch.testing.assert_close(now, 0.25 * before[name] + 0.75 * base[name])
    interpolate_({"": model}, base, keep=0.0)
    assert differing(base, state(model)) == set()


def test_low_precision_weights_are_mixed_in_single_precision():
    layer = nn.Linear(64, 64, bias=False, dtype=torch.bfloat16)
    before, twin = layer.weight.detach().float(), copy.deepcopy(layer)
    reinitialize_({"": twin}, seed=0)
    shrink_and_perturb_({"": layer}, keep=0.7, noise=0.2, seed=0)
    wanted = (0.7 * before + 0.2 * twin.weight.float()).bfloat16()
    assert torch.equal(layer.weight, wanted)


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        (None, "were not given"),
        ({"head.weight": torch.zeros(1)}, "no weight"),
    ],
)
def test_a_base_that_does_not_fit_is_refused(actor, base, sentence):
    with pytest.raises(ResetError, match=sentence):
        apply_reset(Reset(how="interpolate"), actor, seed=0, base_state=base)


def test_a_base_of_another_shape_is_refused_before_anything_changes(actor):
    base = state(actor) | {"head.weight": torch.zeros(1)}
    before = state(actor)
    with pytest.raises(ResetError, match=r"head.weight: shape \(4, 8\) in the policy, \(1,\)"):
        apply_reset(Reset(how="interpolate"), actor, seed=0, base_state=base)
    assert differing(before, state(actor)) == set()


# Adapters --------------------------------------------------------------------------------------


def logits(model, tokens):
    with torch.no_grad():
        return model(input_ids=tokens).logits


def test_a_fresh_adapter_is_the_base_and_the_reference_stays(adapted, tokens):
    before = state(adapted)
    with adapted.disable_adapter():
        base = logits(adapted, tokens)
    assert not torch.allclose(logits(adapted, tokens), base)
    changed = apply_reset(Reset(parts=("adapter",)), adapted, seed=0)
    torch.testing.assert_close(logits(adapted, tokens), base)
    assert set(changed) == differing(before, state(adapted))
    assert all(".default." in name for name in changed)
    assert len(changed) == 2 * 2 * 3  # A and B of two layers in three blocks


def test_an_interpolated_adapter_has_that_part_of_its_weight(adapted):
    layer = adapted.base_model.model.model.layers[0].self_attn.q_proj
    whole = layer.get_delta_weight("default").detach().clone()
    changed = apply_reset(Reset(parts=("adapter",), how="interpolate", keep=0.25), adapted, seed=0)
    torch.testing.assert_close(layer.get_delta_weight("default"), 0.25 * whole)
    assert all("lora_B" in name for name in changed)


def test_a_frozen_adapter_is_refused(adapted):
    for parameter in adapted.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ResetError, match="frozen"):
        apply_reset(Reset(parts=("adapter",)), adapted, seed=0)


# Optimizer -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["agent", "language_model"])
def test_moments_of_changed_weights_are_forgotten_and_no_others(model, request):
    model = request.getfixturevalue(model)
    optimizer = optimizer_with_moments(model)
    changed = apply_reset(Reset(parts=("last_layers",)), model, seed=0, optimizer=optimizer)
    for name, parameter in model.named_parameters():
        assert (parameter in optimizer.state) == (name not in changed)


def test_moments_of_a_weight_that_did_not_change_are_kept(adapted):
    optimizer = optimizer_with_moments(adapted)
    reset = Reset(parts=("adapter",), how="interpolate", keep=0.5)
    apply_reset(reset, adapted, seed=0, optimizer=optimizer)
    kept = {name for name, p in adapted.named_parameters() if p in optimizer.state}
    assert kept == {name for name in state(adapted) if "lora_A.default" in name}


def test_the_optimizer_alone_can_be_reset(language_model):
    optimizer, before = optimizer_with_moments(language_model), state(language_model)
    reset = Reset(parts=("optimizer",))
    assert apply_reset(reset, language_model, seed=0, optimizer=optimizer) == ("optimizer",)
    assert len(optimizer.state) == 0
    assert differing(before, state(language_model)) == set()


def test_the_optimizer_starts_over_after_a_reset(actor):
    optimizer = optimizer_with_moments(actor)
    assert reset_optimizer_(optimizer, [actor.head.weight]) == 1
    assert reset_optimizer_(optimizer) == len(list(actor.parameters())) - 1
    actor.head.weight.grad = torch.ones_like(actor.head.weight)
    optimizer.step()
    assert optimizer.state[actor.head.weight]["step"] == 1


def test_the_critic_is_reset_without_the_actor(agent):
    before = state(agent)
    apply_reset(Reset(parts=("critic",)), agent, seed=0)
    assert {name.split(".")[0] for name in differing(before, state(agent))} == {"critics"}


def test_a_part_inside_another_is_reset_once(actor):
    twin = copy.deepcopy(actor)
    both = Reset(parts=("policy", "head"), how="shrink_perturb", keep=0.5, noise=0.5)
    apply_reset(both, actor, seed=0)
    apply_reset(Reset(parts=("policy",), how="shrink_perturb", keep=0.5, noise=0.5), twin, seed=0)
    assert differing(state(actor), state(twin)) == set()


@pytest.mark.parametrize(
    ("reset", "sentence"),
    [
        (Reset(parts=("optimizer",)), "none was given"),
        (Reset(how="shrink_perturb", keep=1.0, noise=0.0), "changed nothing"),
        (Reset(parts=("critic",)), "critic"),
    ],
)
def test_a_reset_that_would_do_nothing_is_refused(actor, reset, sentence):
    with pytest.raises(ResetError, match=sentence):
        apply_reset(reset, actor, seed=0)


def test_a_frozen_weight_is_refused(actor):
    actor.trunk.requires_grad_(False)
    with pytest.raises(ResetError, match="frozen"):
        apply_reset(Reset(parts=("policy",)), actor, seed=0)
