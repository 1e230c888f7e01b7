"""The audit finds one flipped bit of one leaf, and nothing where nothing is."""

import os

import helpers
import jax
import jax.numpy as jnp
import pytest
import tiny

from configs import base
from rtda_jax.adapt import build
from rtda_jax.data import DataError
from rtda_jax.errors import ConfigError, NotDeterministicError
from rtda_jax.run import files, parallel
from rtda_jax.tools import audit


def audited():
    with tiny.stubs():
        return audit.audit(
            build.build(tiny.config("dacs"), axis_name=parallel.AXIS),
            helpers.batches,
            name="train",
            steps=3,
        )


def test_the_same_bits_twice_and_the_same_hash_again():
    assert audited() == audited()


def test_one_flipped_bit_is_found_where_it_is(monkeypatch):
    made, calls = parallel.pmapped, []

    def flipping(step, over):
        run = made(step, over)

        def disturbed(state, batch):
            state, logs = run(state, batch)
            calls.append(0)
            if len(calls) == 5:  # the second step of the second run
                bits = jax.lax.bitcast_convert_type(
                    state.d_opt[0].mu["output"]["Conv_0"]["bias"], jnp.uint32
                )
                flipped = jax.lax.bitcast_convert_type(bits ^ 1, jnp.float32)
                state.d_opt[0].mu["output"]["Conv_0"]["bias"] = flipped
            return state, logs

        return disturbed

    monkeypatch.setattr(parallel, "pmapped", flipping)
    said = r"after step 2 .* 1 of \d+ .*\['bias'\]"
    with tiny.stubs(), pytest.raises(NotDeterministicError, match=said):
        audit.audit(
            build.build(tiny.config("adversarial"), axis_name=parallel.AXIS),
            helpers.batches,
            name="train",
            steps=3,
        )


def test_too_few_batches_are_no_audit():
    def two(start):
        return (helpers.batch(n) for n in range(2))

    with tiny.stubs(), pytest.raises(DataError, match="gave only 2 of 3 batches"):
        audit.audit(
            build.build(tiny.config("fda"), axis_name=parallel.AXIS), two, name="train", steps=3
        )


def test_a_workdir_in_use_is_not_audited(tmp_path):
    with files.lock(tmp_path), pytest.raises(ConfigError, match="in use by another process"):
        audit.run(base.get_config(), tmp_path)


def test_the_flag_reaches_the_compiler(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    parallel.deterministic()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=x --xla_gpu_deterministic_ops=true"


@pytest.mark.usefixtures("tiny_networks")
def test_batches_that_the_devices_cannot_share_are_refused(root, tmp_path):
    config = helpers.folder_config(root, "source_only", batch_size=3)
    with pytest.raises(ConfigError, match="batch_size 3 is not divisible by the 2 devices"):
        audit.run(config.lock(), tmp_path)
