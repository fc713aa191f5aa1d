import pytest

from posttrain.llm import sft
from posttrain.llm.settings import Lora, SftSettings
from posttrain.record import MetricsLog
from posttrain.tuning import cloning, model
from posttrain.tuning.world import World


def curve(*losses):
    return [(10 * (i + 1), loss) for i, loss in enumerate(losses)]


def test_a_loss_that_still_falls_is_not_converged():
    found = cloning.integrity(curve(1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.36, 0.33))
    assert found["converged"] is False
    assert found["fall"] == pytest.approx((0.4 - 0.33) / 0.4)
    assert "more SFT" in found["text"]


def test_a_settled_loss_is_converged():
    found = cloning.integrity(curve(1.0, 0.6, 0.5, 0.42, 0.41, 0.405, 0.404, 0.403, 0.402, 0.402))
    assert found["converged"] is True
    assert "settled at 0.402" in found["text"]


def test_a_rising_loss_is_memorising_and_not_a_case_for_more_sft():
    found = cloning.integrity(curve(1.0, 0.6, 0.5, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1))
    assert found["converged"] is True
    assert "memorised" in found["text"]


def test_a_tiny_loss_that_halves_changes_no_completion():
    assert cloning.integrity(curve(1.0, *[0.002] * 8, 0.001))["converged"] is True


def test_a_given_checkpoint_cannot_be_judged():
    assert cloning.integrity([])["converged"] is None


def cloned(tiny, sums, folder, lora=None, **trainer):
    policy, tokenizer = model.load(tiny)
    given = {"max_steps": 30, "per_device_train_batch_size": 16, "learning_rate": 1e-2,
             "save_steps": 10}  # fmt: skip
    return sft.train(
        policy, tokenizer, sums[0][:64], sums[1], SftSettings(trainer={**given, **trainer}),
        lora=lora, seed=0, folder=folder / "c", log=MetricsLog(folder / "m.jsonl"), world=World(),
    )  # fmt: skip


def test_sft_lowers_the_loss_and_an_adapter_is_merged(tiny, sums, tmp_path):
    for name, lora in (("full", None), ("lora", Lora(rank=4))):
        trained, losses = cloned(tiny, sums, tmp_path / name, lora)
        assert losses[-1][1] < losses[0][1]
        assert len(losses) == 10
        assert set(trained.state_dict()) == set(model.load(tiny)[0].state_dict())


@pytest.mark.parametrize("lora", [None, Lora(rank=4)])
def test_a_run_killed_behind_its_last_step_is_not_trained_further(tiny, sums, tmp_path, lora):
    once, losses = cloned(tiny, sums, tmp_path, lora)
    twice, again = cloned(tiny, sums, tmp_path, lora)
    assert losses == again
    for (name, one), two in zip(
        once.state_dict().items(), twice.state_dict().values(), strict=True
    ):
        assert one == pytest.approx(two, abs=1e-6), name
