"""Trains, evaluates and uses real-time domain adaptation, from a clone of the repository.

    python main.py                                     lists the jobs, with an example of each
    python main.py --config fda_mbt                    trains and evaluates on the built-in data

An installed package has the same command under the name `rtda-jax`, and as `python -m rtda_jax`.
What it does stands in rtda_jax/cli.py.
"""

import sys

from rtda_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
