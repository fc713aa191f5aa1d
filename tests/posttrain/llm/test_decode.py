"""The decoding loop against `generate`: the same tokens, the same distribution, less work."""

import itertools

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.cache_utils import DynamicLayer

from posttrain.llm import decode, sampling
from posttrain.llm.settings import Decoding
from posttrain.tuning import model

LENGTHS = (3, 9, 5, 9, 1, 14)


@pytest.fixture(scope="module")
def llama(tiny):
    return model.load(tiny)[0].eval()


def prompts(lengths=LENGTHS):
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(3, 16, (n,), generator=draw).tolist() for n in lengths]


def uniform(rows, tokens, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand((rows, tokens), generator=draw, dtype=torch.float64)


def said(llama, given, decoding, *, samples=1, ends=(9999,), u=None):
    u = uniform(len(given) * samples, decoding.max_new_tokens) if u is None else u
    return decode.decode(llama, given, decoding, samples=samples, ends=ends, pad=0, uniform=u)


def generated(llama, given, new, ends=(9999,)):
    greedy = Decoding(temperature=0.0, max_new_tokens=new)
    u = torch.zeros((len(given), new), dtype=torch.float64)
    return sampling._generate(llama, given, greedy, samples=1, ends=ends, pad=0, uniform=u)


def test_greedy_is_generates_token_for_token(llama):
    ours = said(llama, prompts(), Decoding(temperature=0.0, max_new_tokens=16), samples=3)
    theirs = generated(llama, prompts(), 16)
    assert ours == [ids for ids in theirs for _ in range(3)]
    assert len({tuple(ids) for ids in theirs}) > 1


def test_answers_that_end_leave_and_the_others_go_on_unchanged(llama):
    whole = said(llama, prompts(), Decoding(max_new_tokens=24), samples=8)
    ends = [whole[0][3], whole[5][7]]
    sizes = []
    forward = llama.forward
    llama.forward = lambda *a, **k: sizes.append(len(k["input_ids"])) or forward(*a, **k)
    try:
        u = uniform(8 * len(LENGTHS), 24)
        cut = said(llama, prompts(), Decoding(max_new_tokens=24), samples=8, ends=ends, u=u)
    finally:
        del llama.forward
    assert [model.trim_after_end(a, ends) for a in cut] == [
        model.trim_after_end(a, ends) for a in whole
    ]
    assert sizes[0] == len(LENGTHS)  # a prompt is read once, not eight times
    assert sizes[1] > sizes[-1]
    lengths = [len(model.trim_after_end(answer, ends)[0]) for answer in cut]
    assert len(sizes) == max(lengths)  # nothing is run for nobody
    for step, size in enumerate(sizes[1:], start=1):
        alive = sum(length > step for length in lengths)
        assert alive <= size < alive * 8 / 7 + 1


def test_an_answer_does_not_depend_on_its_neighbours(llama):
    u = uniform(2 * len(LENGTHS), 12)
    together = said(llama, prompts(), Decoding(max_new_tokens=12), samples=2, u=u)
    for i, prompt in enumerate(prompts()):
        alone = said(
            llama, [prompt], Decoding(max_new_tokens=12), samples=2, u=u[2 * i : 2 * i + 2]
        )
        assert alone == together[2 * i : 2 * i + 2]


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(max_new_tokens=2),
        Decoding(temperature=0.6, max_new_tokens=2),
        Decoding(temperature=1.3, top_k=5, top_p=0.8, max_new_tokens=2),
    ],
)
def test_samples_have_the_probabilities_that_generate_draws_from(llama, decoding):
    """A grid of uniforms reads the distribution off exactly, for both tokens."""
    (given,) = prompts((7,))
    n = 4000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    answers = said(
        llama, [given], decoding, samples=n, u=torch.stack([u, u[torch.randperm(n)]], dim=1)
    )
    first = torch.tensor([a[0] for a in answers])
    wanted = probabilities(llama, given, decoding)
    found = torch.bincount(first, minlength=len(wanted)) / n
    assert torch.allclose(found, wanted, atol=1.5 / n)
    common = int(first.mode().values)
    second = torch.tensor([a[1] for a in answers if a[0] == common])
    wanted = probabilities(llama, [*given, common], decoding)
    found = torch.bincount(second, minlength=len(wanted)) / len(second)
    assert 0.5 * (found - wanted).abs().sum() < 3 * (len(wanted) / len(second)) ** 0.5 / 2


def probabilities(llama, ids, decoding):
    """What `generate` draws the next token from, by its own words."""
    out = llama.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones((1, len(ids)), dtype=torch.long),
        **{**sampling._options(decoding), "max_new_tokens": 1},
        eos_token_id=9999,
        pad_token_id=0,
        output_scores=True,
        return_dict_in_generate=True,
    )
    return torch.softmax(out.scores[0][0], dim=-1)


def test_a_token_without_probability_is_never_drawn():
    scores = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]] * 3)
    edges = torch.tensor([0.0, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    assert decode.choose(scores, edges).tolist() == [1, 3, 3]


def test_a_rare_token_is_drawn_as_often_as_it_should():
    scores = torch.tensor([0.0, -30.0, -torch.inf])  # e^-30 = 9.4e-14, below single precision
    share = torch.softmax(scores.double(), -1)[1]
    inside, outside = 1 - share / 2, 1 - share * 2
    drawn = decode.choose(scores.expand(2, 3), torch.stack([inside, outside]))
    assert drawn.tolist() == [1, 0]


def test_room_holds_what_a_plain_cache_holds():
    draw = torch.Generator().manual_seed(0)
    prompt = DynamicLayer()
    prompt.update(*torch.randn((2, 3, 2, 4, 8), generator=draw))
    room = decode.Room(prompt, repeats=2, room=3)
    prompt.batch_repeat_interleave(2)
    for left in (None, [0, 2, 3, 5], [1, 3]):
        if left is not None:
            for layer in (room, prompt):
                layer.batch_select_indices(torch.tensor(left))
        new = torch.randn((2, len(prompt.keys), 2, 1, 8), generator=draw)
        for a, b in zip(room.update(*new), prompt.update(*new), strict=True):
            assert torch.equal(a, b)
    assert room.get_seq_length() == prompt.get_seq_length() == 7


def test_calls_hold_every_sample_once_and_never_too_many():
    for samples, at_once in itertools.product((1, 3, 8, 20), (4, 8, 64)):
        lengths = [5, 1, 9, 9, 2, 7, 3]
        seen = []
        for units, first, count in sampling._calls(lengths, samples, at_once):
            assert len(units) * count <= at_once
            seen += [(unit, first + j) for unit in units for j in range(count)]
        assert sorted(seen) == list(itertools.product(range(7), range(samples)))
        longest = [lengths[unit] for unit, _ in seen]
        assert longest[0] == 9
        assert longest[-1] == 1


def small(cls, config):
    torch.manual_seed(0)
    return cls(config).eval()


def test_what_the_loop_does_not_know_goes_through_generate(llama):
    window = small(
        Gemma2ForCausalLM,
        Gemma2Config(
            vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=2, head_dim=8,
            num_attention_heads=2, num_key_value_heads=1, sliding_window=4,
        ),
    )  # fmt: skip
    assert decode.why_not(llama) is None
    assert "cache is not plain" in decode.why_not(window)
    llama.generation_config.no_repeat_ngram_size = 2
    try:
        assert "no_repeat_ngram_size" in decode.why_not(llama)
    finally:
        llama.generation_config.no_repeat_ngram_size = None


def test_another_architecture_with_positions_in_its_embedding():
    gpt = small(
        GPT2LMHeadModel,
        GPT2Config(
            vocab_size=40,
            n_positions=64,
            n_embd=16,
            n_layer=2,
            n_head=2,
            bos_token_id=0,
            eos_token_id=1,
        ),
    )
    assert decode.why_not(gpt) is None
    greedy = Decoding(temperature=0.0, max_new_tokens=10)
    assert said(gpt, prompts(), greedy) == generated(gpt, prompts(), 10)


def test_a_models_own_taste_does_not_change_the_sampler(llama, sums, tiny):
    """RL samples with the recipe's settings alone; so does the diagnosis, on either path."""
    (given,) = prompts((7,))
    plain = probabilities(llama, given, Decoding())
    llama.generation_config.update(repetition_penalty=1.3, top_k=3, min_p=0.2, temperature=0.5)
    try:
        assert torch.equal(probabilities(llama, given, Decoding()), plain)
    finally:
        llama.generation_config.update(
            repetition_penalty=None, top_k=None, min_p=None, temperature=None
        )


def test_both_paths_answer_in_the_order_of_the_rows(tiny, sums, monkeypatch):
    rows, greedy = sums[1][:12], Decoding(temperature=0.0, max_new_tokens=6)
    loaded = model.load(tiny)
    ours = sampling.transformers_generator(*loaded, at_once=8)
    monkeypatch.setattr(sampling, "why_not", lambda _: "a reason")
    theirs = sampling.transformers_generator(*loaded, at_once=8)
    assert ours(rows, greedy, samples=2, seed=0) == theirs(rows, greedy, samples=2, seed=0)
    drawn = theirs(rows, Decoding(max_new_tokens=6), samples=3, seed=0)
    assert drawn == theirs(rows, Decoding(max_new_tokens=6), samples=3, seed=0)
    assert drawn != theirs(rows, Decoding(max_new_tokens=6), samples=3, seed=1)
    assert len({tuple(c.ids) for group in drawn for c in group}) > 12


def test_sampling_leaves_the_global_randomness_alone(tiny, sums):
    generate = sampling.transformers_generator(*model.load(tiny))
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    generate(sums[1][:2], Decoding(max_new_tokens=3), samples=2, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
