import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.augment import geometry
from rtda_jax.augment.geometry import AffineOptions, MaskOptions
from rtda_jax.errors import ConfigError

OPTIONS = AffineOptions()


def random_images(count=3, size=(7, 12), channels=2, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *size, channels)).astype(np.float32)


def numpy_warp(image, matrix):
    """Reads every output pixel at matrix @ (x, y, 1), corner by corner."""
    height, width = image.shape[:2]
    out = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            point = np.array([(2 * j + 1) / width - 1, (2 * i + 1) / height - 1, 1.0])
            gx, gy = np.float64(matrix) @ point
            column, row = ((gx + 1) * width - 1) / 2, ((gy + 1) * height - 1) / 2
            for r in (np.floor(row), np.floor(row) + 1):
                for c in (np.floor(column), np.floor(column) + 1):
                    if 0 <= r < height and 0 <= c < width:
                        weight = (1 - abs(row - r)) * (1 - abs(column - c))
                        out[i, j] += weight * image[int(r), int(c)]
    return out


def constant(matrix, count=3):
    return np.broadcast_to(np.float32(matrix), (count, 2, 3))


def test_warp_against_numpy():
    images = random_images()
    matrices = np.array(geometry.matrices(jax.random.key(1), jnp.arange(3), options=OPTIONS))
    matrices[1, :, 2] = 0.3, -0.2  # a translation
    warped = jax.jit(geometry.warp)(images, matrices)
    for out, image, matrix in zip(warped, images, matrices, strict=True):
        np.testing.assert_allclose(out, numpy_warp(image, matrix), atol=1e-5)


def test_identity_mirror_and_translation():
    images = random_images()
    still = geometry.warp(images, constant([[1, 0, 0], [0, 1, 0]]))
    np.testing.assert_allclose(still, images, atol=1e-5)
    mirrored = geometry.warp(images, constant([[-1, 0, 0], [0, 1, 0]]))
    np.testing.assert_allclose(mirrored, images[:, :, ::-1], atol=1e-5)
    # x runs from -1 to 1 over 12 columns, y over 7 rows: a step to the right and a step up.
    moved = np.asarray(geometry.warp(images, constant([[1, 0, 2 / 12], [0, 1, -2 / 7]])))
    np.testing.assert_allclose(moved[:, 1:, :-1], images[:, :-1, 1:], atol=1e-5)
    np.testing.assert_allclose(moved[:, 0], 0, atol=1e-5)
    np.testing.assert_allclose(moved[:, :, -1], 0, atol=1e-5)


def test_warp_and_its_gradient_against_pytorch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    images, towards = random_images(4, (9, 13), 3), random_images(4, (9, 13), 3, seed=5)
    matrices = np.array(geometry.matrices(jax.random.key(2), jnp.arange(4), options=OPTIONS))
    matrices[3, 0, 2] = 0.7  # a translation, so that much comes from outside
    theirs = torch.tensor(images).permute(0, 3, 1, 2).requires_grad_()
    grid = functional.affine_grid(torch.tensor(matrices), theirs.shape, align_corners=False)
    expected = functional.grid_sample(
        theirs, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    (expected * torch.tensor(towards).permute(0, 3, 1, 2)).sum().backward()
    warped, pull = jax.vjp(lambda x: geometry.warp(x, jnp.asarray(matrices)), jnp.asarray(images))
    np.testing.assert_allclose(warped, expected.detach().permute(0, 2, 3, 1), atol=2e-5)
    np.testing.assert_allclose(
        pull(jnp.asarray(towards))[0], theirs.grad.permute(0, 2, 3, 1), atol=2e-5
    )


def test_a_matrix_rotates_by_its_angle_shears_its_second_column_scales_and_mirrors_its_first_row():
    a, h, s = 0.5, 0.2, 1.3
    expected = s * np.array([[np.cos(a), -np.sin(a + h), 0], [np.sin(a), np.cos(a + h), 0]])
    np.testing.assert_allclose(geometry.matrix(a, h, s, jnp.bool_(False)), expected, atol=1e-6)
    expected[0] *= -1
    np.testing.assert_allclose(geometry.matrix(a, h, s, jnp.bool_(True)), expected, atol=1e-6)


def test_the_parameters_of_an_image_come_from_its_number_and_the_key_in_a_fixed_order():
    key, numbers = jax.random.key(3), (5, 900, 2, 41, 0, 1, 3, 4)
    options = AffineOptions(rotation=20.0, shear=7.0, scale=(0.5, 0.9), mirror=0.4)
    drawn = geometry.matrices(key, jnp.array(numbers), options=options)
    mirrored = []
    for number, matrix in zip(numbers, drawn, strict=True):
        u = np.float64(jax.random.uniform(jax.random.fold_in(key, number), (4,)))
        expected = geometry.matrix(
            np.deg2rad((2 * u[0] - 1) * 20),
            np.deg2rad((2 * u[1] - 1) * 7),
            0.5 + 0.4 * u[2],
            jnp.bool_(u[3] < 0.4),
        )
        np.testing.assert_allclose(matrix, expected, atol=1e-5)
        mirrored.append(u[3] < 0.4)
    assert set(mirrored) == {True, False}


def test_matrices_fill_their_ranges_and_mirror_half_of_the_images():
    drawn = np.asarray(geometry.matrices(jax.random.key(0), jnp.arange(2000), options=OPTIONS))
    assert (drawn[:, :, 2] == 0).all()
    sign = np.sign(drawn[:, 0, 0])
    assert 0.45 < (sign < 0).mean() < 0.55
    scale = np.hypot(drawn[:, 0, 0], drawn[:, 1, 0])
    np.testing.assert_allclose([scale.min(), scale.max()], [0.8, 1.2], atol=0.01)
    rotation = np.rad2deg(np.arctan2(drawn[:, 1, 0], sign * drawn[:, 0, 0]))
    np.testing.assert_allclose([rotation.min(), rotation.max()], [-30, 30], atol=0.5)
    turned = np.rad2deg(np.arctan2(-sign * drawn[:, 0, 1], drawn[:, 1, 1]))
    shear = turned - rotation
    np.testing.assert_allclose([shear.min(), shear.max()], [-5, 5], atol=0.1)


def test_the_default_ranges_are_those_of_tufl():
    assert dataclasses.asdict(OPTIONS) == {
        "rotation": 30.0,
        "shear": 5.0,
        "scale": (0.8, 1.2),
        "mirror": 0.5,
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rotation": -1.0}, r"affine\.rotation must be an angle from 0 to 180 degrees, got -1"),
        ({"rotation": 181.0}, r"affine\.rotation must be an angle from 0 to 180 degrees, got 181"),
        ({"shear": -0.1}, r"affine\.shear must be an angle from 0 to 90 degrees, got -0\.1"),
        ({"shear": 91.0}, r"affine\.shear must be an angle from 0 to 90 degrees, got 91"),
        ({"scale": (0.0, 1.0)}, r"affine\.scale must be a range .* above 0, got \(0\.0, 1\.0\)"),
        ({"scale": (1.1, 1.0)}, r"affine\.scale must be a range"),
        ({"scale": (1.0,)}, r"affine\.scale must be a range"),
        ({"mirror": 1.1}, r"affine\.mirror must be a probability, got 1\.1"),
        ({"mirror": -0.1}, r"affine\.mirror must be a probability"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        AffineOptions(**fields)


def test_ranges_include_their_limits():
    AffineOptions(rotation=0.0, shear=0.0, scale=(1.0, 1.0), mirror=0.0)
    AffineOptions(rotation=180.0, shear=90.0, mirror=1.0)


@pytest.mark.parametrize("size", [(64, 96), (60, 70), (20, 90), (7, 5)])
def test_masks_are_those_of_pytorchs_nearest_upsampling(size):
    torch = pytest.importorskip("torch")
    key, index = jax.random.key(5), jnp.array([4, 0, 77])
    options = MaskOptions(block=16, ratio=0.6)
    mask = geometry.block_mask(key, index, size=size, options=options)
    assert mask.shape == (3, *size, 1)
    grid = [max(1, round(side / 16)) for side in size]
    lots = np.stack(
        [jax.random.uniform(jax.random.fold_in(key, int(number)), grid) for number in index]
    )
    coarse = torch.tensor(lots >= 0.6).float()[:, None]
    expected = torch.nn.functional.interpolate(coarse, size=size, mode="nearest")
    np.testing.assert_array_equal(mask[..., 0], expected[:, 0].bool())


def test_blocks_are_hidden_as_often_as_asked_and_hidden_pixels_are_zero():
    images = 1 + np.abs(random_images(200, (32, 48), 3))
    hidden = geometry.hide_blocks(
        images, jax.random.key(0), jnp.arange(200), options=MaskOptions(block=8, ratio=0.7)
    )
    blocks = np.asarray(hidden).reshape(200, 4, 8, 6, 8, 3)
    visible = (blocks != 0).all(axis=(2, 4, 5))
    assert ((blocks == 0).all(axis=(2, 4, 5)) | visible).all()
    np.testing.assert_allclose(visible.mean(), 0.3, atol=0.02)
    np.testing.assert_array_equal(hidden, np.where(hidden != 0, images, 0))
    assert len({row.tobytes() for row in visible}) > 190  # each image has blocks of its own


@pytest.mark.parametrize(("ratio", "shown"), [(0.0, True), (1.0, False)])
def test_a_ratio_of_zero_hides_nothing_and_of_one_everything(ratio, shown):
    mask = geometry.block_mask(
        jax.random.key(1), jnp.arange(50), size=(32, 32), options=MaskOptions(ratio=ratio, block=4)
    )
    assert (np.asarray(mask) == shown).all()


def test_the_default_blocks_are_those_of_mic():
    assert dataclasses.asdict(MaskOptions()) == {"block": 64, "ratio": 0.7, "colour": "daformer"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block": 0}, r"masked\.block must be a number of pixels from 1, got 0"),
        ({"ratio": 1.5}, r"masked\.ratio must be a probability, got 1\.5"),
        ({"ratio": -0.5}, r"masked\.ratio must be a probability"),
    ],
)
def test_masks_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        MaskOptions(**fields)
