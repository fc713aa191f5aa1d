import pytest

from posttrain.llm.data import load_rows
from posttrain.llm.settings import DataSettings

SUMS = {
    "min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2, "operators": ["+"],
    "allow_parentheses": False, "allow_negation": False,
}  # fmt: skip


@pytest.fixture(scope="session")
def sums():
    settings = DataSettings(
        path="reasoning_gym:basic_arithmetic", options=SUMS, size=300, heldout=60
    )
    return load_rows(settings)


@pytest.fixture(scope="session")
def tiny(sums, tmp_path_factory):
    """A small model on disk: what is loaded differs from what is made."""
    from posttrain.tuning import model, tiny

    train, heldout = sums
    tokenizer = tiny.make_tokenizer(row.text for row in (*train, *heldout))
    folder = tmp_path_factory.mktemp("tiny")
    model.save(tiny.make_model(tokenizer, hidden=32, layers=2, seed=0), tokenizer, folder)
    return folder


@pytest.fixture
def online(tiny, sums, tmp_path):
    """Jobs and trainers of online RL on the small model, in which little is said besides."""
    return Online(tiny, sums, tmp_path)


class Online:
    """What `value(row, text)` pays for an answer is the reward."""

    def __init__(self, pi0, sums, folder):
        self.pi0, self.sums, self.folder = pi0, sums, folder

    def job(
        self, plan, *, rows=None, folder=None, algorithm="grpo", value=None, temperature=1.0,
        limit=4, steps=2, save_every=2, eval_every=2, replay_rows=8, policy_returns=(),
        dataset_returns=(), **trainer,
    ):  # fmt: skip
        from posttrain.llm import prompts, reward, rl
        from posttrain.llm.settings import Decoding, RegexReward, RlSettings
        from posttrain.record import MetricsLog
        from posttrain.tuning import model
        from posttrain.tuning.world import World

        train, heldout = self.sums
        folder = self.folder if folder is None else folder
        _, tokenizer = model.load(self.pi0)
        said = [(row, prompts.demonstration_ids(tokenizer, row)[1]) for row in heldout[:4]]
        judge = reward.make_judge(RegexReward(pattern=r"[1357]"), scale=(0.0, 1.0))
        if value is not None:
            judge = _judge(value)
        options = {"per_device_train_batch_size": 16, "num_generations": 4, "logging_steps": 1,
                   "learning_rate": 1e-2, "per_device_eval_batch_size": 8}  # fmt: skip
        return rl.Job(
            pi0=self.pi0,
            settings=RlSettings(
                algorithm=algorithm, steps=steps, eval_every=eval_every, eval_units=8,
                save_every=save_every, probe_units=4, replay_rows=replay_rows,
                trainer={**options, **trainer},
            ),
            plan=plan,
            experience=rl.Experience(
                rows=train[:64] if rows is None else rows, heldout=heldout, pi0_rollouts=said,
                prior=0.5, alpha=0.05, scale=(0.0, 1.0), policy_returns=dict(policy_returns),
                dataset_returns=dict(dataset_returns),
            ),
            judge=judge,
            load=model.load,
            base=model.load(self.pi0)[0].state_dict,
            rollout=Decoding(max_new_tokens=limit, temperature=temperature),
            lora=None,
            seed=3,
            folder=folder / "checkpoints",
            metrics=MetricsLog(folder / "metrics.jsonl"),
            curve=MetricsLog(folder / "curve.jsonl"),
            world=World(),
        )  # fmt: skip

    def trainer(self, plan, **given):
        """A trainer of the plan, for a look at single steps; it never evaluates or saves."""
        from posttrain.llm import rl
        from posttrain.tuning import model, training

        job = self.job(plan, **given)
        config = rl._config(job)
        rl._check(job, config)
        config.eval_strategy = config.save_strategy = "no"
        config.eval_on_start = False
        policy, tokenizer = model.load(self.pi0)
        trainer = rl._trainer(job, config, policy, tokenizer, rl.callbacks.Recorder())
        training.quiet(trainer)
        return trainer


def _judge(value):
    from posttrain.llm.reward import Judgement

    def judge(rows, texts):
        pairs = zip(rows, texts, strict=True)
        return [Judgement(value=value(row, text), parsed=True) for row, text in pairs]

    return judge
