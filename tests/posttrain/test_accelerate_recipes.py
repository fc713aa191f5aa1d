"""recipes/accelerate/: each file goes through accelerate's own launcher, up to the first GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pytest.importorskip("accelerate")

FOLDER = Path(__file__).parents[2] / "recipes" / "accelerate"
FILES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
GPU = ["ddp", "fsdp2", "gpu_1", "zero2", "zero3"]
TRL = {"gpu_1": "single_gpu", "ddp": "multi_gpu"}
"""Names of TRL's own files where they differ from ours."""


def read(name):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def launched(name):
    """What `accelerate launch --config_file` makes of a file: its arguments, and the environment
    that its processes would get."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import launch

    path = str(FOLDER / f"{name}.yaml")
    args = launch_command_parser().parse_args(["--config_file", path, "train.py"])
    args, defaults, _ = _validate_launch_command(args)
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        return args, launch.prepare_deepspeed_cmd_env(args)[1]
    if args.num_processes == 1:
        return args, launch.prepare_simple_launcher_cmd_env(args)[1]
    return args, launch.prepare_multi_gpu_env(args)


@pytest.fixture
def environment(monkeypatch):
    """Sets what accelerate's plugins read; undone after the test."""

    def set_all(variables):
        for name, value in variables.items():
            if name.startswith(("ACCELERATE_", "FSDP_")):
                monkeypatch.setenv(name, value)

    return set_all


def test_a_recipe_for_each_way_to_train():
    assert [name for name in FILES if not name.startswith("cpu_")] == GPU


@pytest.mark.parametrize("name", FILES)
def test_accelerate_reads_the_file_and_knows_every_key(name):
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert isinstance(config, ClusterConfig)
    known = vars(launch_command_parser().parse_args(["train.py"]))
    for key in {**(config.fsdp_config or {}), **(config.deepspeed_config or {})}:
        assert key in known, f"accelerate launch has no option {key}"


@pytest.mark.parametrize("name", FILES)
def test_the_first_line_says_what_the_file_is_for(name):
    first = (FOLDER / f"{name}.yaml").read_text().partition("\n")[0]
    assert first.startswith("# ")
    assert len(first) > 20


@pytest.mark.parametrize("name", GPU)
def test_ours_say_what_trls_own_files_say(name):
    import trl

    theirs = Path(trl.__file__).parent / "accelerate_configs" / f"{TRL.get(name, name)}.yaml"
    ours, reference = read(name), yaml.safe_load(theirs.read_text())
    for key in ("distributed_type", "mixed_precision", "fsdp_config", "deepspeed_config"):
        assert ours.get(key) == reference.get(key), key


def test_one_process_where_there_is_one_gpu():
    # TRL's single_gpu.yaml says 8 processes; accelerate ignores them there, a reader does not
    args, _ = launched("gpu_1")
    assert (args.num_processes, args.multi_gpu, args.use_fsdp) == (1, False, False)


def test_ddp_is_several_processes_without_sharding():
    args, environment = launched("ddp")
    assert (args.multi_gpu, args.use_fsdp, args.use_deepspeed) == (True, False, False)
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_the_fsdp_file_builds_the_plugin_of_version_2(environment):
    from accelerate.utils import FullyShardedDataParallelPlugin

    args, variables = launched("fsdp2")
    assert args.use_fsdp
    environment(variables)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert plugin.cpu_ram_efficient_loading


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3", 3)])
def test_the_deepspeed_files_ask_for_their_stage_and_no_offload(name, stage, environment):
    from accelerate.utils import DeepSpeedPlugin

    args, variables = launched(name)
    assert args.use_deepspeed
    environment(variables)
    plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == stage
    assert plugin.offload_optimizer_device == plugin.offload_param_device == "none"
    assert plugin.zero3_init_flag == (stage == 3)
    zero = plugin.deepspeed_config["zero_optimization"]
    assert zero["stage"] == stage
    assert zero["stage3_gather_16bit_weights_on_model_save"] == (stage == 3)


@pytest.mark.parametrize(("name", "asked"), [("fsdp2", "FSDP"), ("zero3", "ZeRO-3")])
def test_a_run_refuses_weights_in_parts(name, asked):
    from posttrain.tuning.sharding import ShardingError, refuse_sharded_weights

    with pytest.raises(ShardingError, match=rf"{asked}, which cuts up.*zero2\.yaml"):
        refuse_sharded_weights(launched(name)[1])


@pytest.mark.parametrize("name", ["gpu_1", "ddp", "zero2", "cpu_1", "cpu_2"])
def test_a_run_takes_whole_weights(name):
    from posttrain.tuning.sharding import refuse_sharded_weights

    refuse_sharded_weights(launched(name)[1])


def test_the_refusal_is_what_a_run_says_first(environment):
    pytest.importorskip("trl")
    from posttrain.tuning.sharding import ShardingError
    from posttrain.tuning.world import current

    environment(launched("zero3")[1])
    with pytest.raises(ShardingError, match="ZeRO-3"):
        current()


def test_a_reset_between_deepspeeds_steps_is_refused_for_it_would_be_undone(tmp_path):
    pytest.importorskip("trl")
    from types import SimpleNamespace

    from posttrain.intervention.plan import Reset
    from posttrain.tuning.callbacks import ScheduledReset
    from posttrain.tuning.sharding import ShardingError

    reset = ScheduledReset(Reset(parts=("last_layers",), every=2), seed=0, base=None)
    with pytest.raises(ShardingError, match=r"reset\.every: DeepSpeed trains a copy"):
        reset.on_train_begin(SimpleNamespace(deepspeed_plugin=object()), None, None)
    reset.on_train_begin(SimpleNamespace(deepspeed_plugin=None), None, None)
