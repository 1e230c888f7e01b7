"""The end of a program that still reads data; test_stream.py tests what the streams yield."""

import subprocess
import sys

from helpers import environment

READING = """
import time

from rtda_jax.data import pipeline
from rtda_jax.data.geometry import tf

def slow(number):
    time.sleep(0.05)
    return number

def element(number):
    return {"number": tf.numpy_function(slow, [number], tf.int64)}

graph = pipeline.mapped(tf.data.Dataset.range(1000), element, threads=4)
stream = pipeline.arrays(graph.batch(2).prefetch(4), None, start=0, threads=4)
next(stream)
raise RuntimeError("nobody foresaw this")
"""


def test_a_program_that_fails_while_it_reads_ends_by_itself():
    ended = subprocess.run(
        [sys.executable, "-c", READING],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.endswith("RuntimeError: nobody foresaw this\n")
