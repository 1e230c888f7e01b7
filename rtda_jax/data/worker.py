"""A process that makes parts of a data set; started by `parts.make`, fed a pickle on stdin.

A plain subprocess and not multiprocessing: it neither forks a process that runs TensorFlow or JAX
threads nor imports the caller's main module.
"""

import json
import os
import pickle
import sys

from rtda_jax.data.errors import DataError


def main() -> int:
    """Write each part whole or not at all, reporting one JSON line per part on stdout."""
    make, jobs = pickle.load(sys.stdin.buffer)
    for path, argument in jobs:
        try:
            examples = list(make(argument))
        except DataError as error:
            print(json.dumps({"error": str(error)}), flush=True)
            return error.exit_code
        partial = f"{path}.{os.getpid()}.partial"
        with open(partial, "wb") as file:
            pickle.dump(examples, file)
        os.replace(partial, path)
        print(json.dumps({"done": len(examples)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
