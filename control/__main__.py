"""`python -m control`."""

from control.cli import app

if __name__ == "__main__":
    app(prog_name="control")
