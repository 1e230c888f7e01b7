"""A stage is bound to the stages whose results it began with."""

import shutil

import pytest
from bindings import begin, chain, check_bound, claim

from rtda_jax.data.pseudo import HISTOGRAM, part_of_histogram
from rtda_jax.errors import ConfigError


def test_a_stage_is_not_made_anew_under_another_that_began_with_it(tmp_path):
    claim(tmp_path, chain())
    begin(tmp_path, "train", "labels", "again")
    shutil.rmtree(tmp_path / "labels")
    before = (tmp_path / "config.json").read_bytes()
    other = chain(pseudo__cut=0.9)
    with pytest.raises(ConfigError) as refused:
        claim(tmp_path, other)
    assert str(refused.value) == (
        "stage labels would be made anew, but again began with its earlier result; remove "
        f"{tmp_path / 'again'} too, or choose another --workdir"
    )
    assert (tmp_path / "config.json").read_bytes() == before
    assert check_bound(tmp_path, other) == []  # for jobs that make nothing
    shutil.rmtree(tmp_path / "again")
    assert claim(tmp_path, other) == []


def test_stages_that_are_left_out_still_began_with_a_result(tmp_path):
    def fewer(**fields):
        made = chain(**fields)
        made["stage"]["alone"] = {"kind": "train"}
        return {**made, "stages": ["train", "alone"]}

    claim(tmp_path, chain())
    claim(tmp_path, fewer())
    begin(tmp_path, "train", "labels", "again", "alone")
    with pytest.raises(ConfigError, match=r"400 there, 800 now; labels, again began with its"):
        claim(tmp_path, fewer(steps=800))
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(ConfigError, match="made anew, but labels, again began with its earlier"):
        claim(tmp_path, fewer())


def test_confidences_counted_under_other_settings_are_counted_anew(tmp_path):
    parts = [tmp_path / "labels" / name for name in (HISTOGRAM, part_of_histogram(1))]

    def count(**fields):
        """Returns whether a count of confidences outlives a claim."""
        for path in parts:
            path.touch()
        claim(tmp_path, chain(**fields))
        (there,) = {path.exists() for path in parts}
        return there

    claim(tmp_path, chain())
    begin(tmp_path, "train")
    assert count()
    assert count(threads=8, data_dir="/moved")
    assert not count(pseudo__fusion="majority")
    assert not count(pseudo__fusion="majority", steps=800)  # of the network that labels
    assert count(pseudo__fusion="majority", steps=800)
    shutil.rmtree(tmp_path / "train")
    assert not count(pseudo__fusion="majority", steps=800)
