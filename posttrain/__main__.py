"""`python -m posttrain`, which is also what `accelerate launch -m posttrain` starts."""

from posttrain.cli import app

if __name__ == "__main__":
    app(prog_name="posttrain")
