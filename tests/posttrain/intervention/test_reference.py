import copy
import math

import pytest
import torch

from posttrain.intervention.reference import (
    WrongReferenceError,
    check_reference,
    verify_models,
    verify_reference,
)


def test_a_policy_is_its_own_reference():
    logp = -torch.rand(3, 5)
    found = verify_reference(logp, logp.clone())
    assert (found.kl, found.max_abs, found.count) == (0, 0, 15)


def test_rounding_is_forgiven_and_a_shift_is_not():
    logp = -torch.rand(3, 5)
    assert check_reference(logp, logp + 0.01).ok
    assert not check_reference(logp, logp + 0.1).ok


def test_one_sided_differences_do_not_cancel():
    logp = torch.zeros(2)
    assert not check_reference(logp, torch.tensor([0.5, -0.5])).ok


def test_a_wrong_reference_gets_a_sentence_with_the_usual_causes():
    with pytest.raises(WrongReferenceError, match=r"about 0 .* got .*base model.*dropout"):
        verify_reference(torch.zeros(4), -torch.ones(4))


def test_with_the_base_at_hand_the_sentence_names_it():
    with pytest.raises(WrongReferenceError, match="is the base model before SFT"):
        verify_reference(torch.zeros(4), -torch.ones(4), base_logp=-torch.ones(4))


def test_what_the_mask_hides_is_not_compared():
    policy = torch.tensor([-1.0, -2.0, math.nan])
    reference = torch.tensor([-1.0, -9.0, -1.0])
    assert verify_reference(policy, reference, torch.tensor([1, 0, 0])).count == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_no_agreement(value):
    with pytest.raises(WrongReferenceError):
        verify_reference(torch.zeros(2), torch.tensor([0.0, value]))


def test_nothing_compared_is_nothing_verified():
    with pytest.raises(WrongReferenceError, match="mask is empty"):
        verify_reference(torch.zeros(2), torch.zeros(2), torch.zeros(2))


def test_a_language_model_and_its_copy_agree(language_model, tokens):
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    found = verify_models(language_model, copy.deepcopy(language_model), batch)
    assert found.kl == pytest.approx(0, abs=1e-6)
    assert found.count == tokens.numel()


def test_an_adapter_whose_reference_is_the_base_is_refused(adapted, tokens):
    def base(**batch):
        with adapted.disable_adapter():
            return adapted(**batch)

    with pytest.raises(WrongReferenceError, match="without the SFT adapter"):
        verify_models(adapted.eval(), base, {"input_ids": tokens})


def test_a_control_actor_and_its_copy_agree_and_another_actor_does_not(actor, observations):
    assert verify_models(actor, copy.deepcopy(actor), observations).ok
    other = copy.deepcopy(actor)
    with torch.no_grad():
        other.head.bias.add_(0.5)
    with pytest.raises(WrongReferenceError, match="not pi_0"):
        verify_models(actor, other, observations)


def test_dropout_in_the_policy_is_named(actor, observations):
    noisy = torch.nn.Sequential(actor.trunk, torch.nn.Dropout(0.5), actor.head)
    assert verify_models(copy.deepcopy(noisy).eval(), noisy.eval(), observations).ok
    with pytest.raises(WrongReferenceError, match="Dropout is active"):
        verify_models(noisy.train(), noisy, observations)


def test_two_kinds_of_output_cannot_be_compared(actor, observations):
    with pytest.raises(TypeError, match="both"):
        verify_models(actor, actor.trunk, observations)
