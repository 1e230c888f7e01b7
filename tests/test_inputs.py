"""What is found to predict, and how it is resized."""

import numpy as np
import pytest
from PIL import Image
from predictions import noise

from rtda_jax.deploy import inputs
from rtda_jax.errors import DataError


def test_the_image_is_resized_as_evaluation_resizes_it():
    from rtda_jax.data import geometry

    image = np.asarray(Image.fromarray(noise(90, 130)).resize((131, 91)))
    ours = inputs.resized(image, (32, 64)).astype(int)
    theirs = geometry.resized(image, (32, 64)).numpy().astype(int)
    assert np.abs(ours - theirs).max() <= 1
    assert (ours == theirs).mean() > 0.8


def test_no_input_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        inputs.find(str(tmp_path / "nothing"), out=tmp_path / "out")
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(DataError, match=r"holds no image or video \(1 left out, \.txt is not read"):
        inputs.find(str(tmp_path), out=tmp_path / "out")
