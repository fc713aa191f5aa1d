"""LeRobot datasets, v3.0 written and read, v2.1 read, without LeRobot itself.

Facts about the format: LeRobot 0.6.2 (https://github.com/huggingface/lerobot, commit 7427f31).
"""

from posttrain.vla.lerobot.hub import local_folder
from posttrain.vla.lerobot.read import read
from posttrain.vla.lerobot.validate import validate
from posttrain.vla.lerobot.write import write

__all__ = ["local_folder", "read", "validate", "write"]
