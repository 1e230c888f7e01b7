"""Runs the command line as `python -m rtda_jax`."""

import sys

from rtda_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
