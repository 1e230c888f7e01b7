import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.augment import geometry

OPTIONS = geometry.AffineOptions()


def images(count=3, size=(7, 12), channels=2, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *size, channels)).astype(np.float32)


def numpy_warp(image, matrix):
    """Read every output pixel at matrix @ (x, y, 1), corner by corner."""
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


def test_warp_against_numpy_and_identity():
    made = images()
    chosen = geometry.matrices(jax.random.key(1), jnp.arange(3), options=OPTIONS)
    got = jax.jit(geometry.warp)(made, chosen)
    for out, image, matrix in zip(got, made, chosen, strict=True):
        np.testing.assert_allclose(out, numpy_warp(image, matrix), atol=1e-5)
    still = np.broadcast_to(np.float32([[1, 0, 0], [0, 1, 0]]), (3, 2, 3))
    np.testing.assert_allclose(geometry.warp(made, still), made, atol=1e-5)
    mirrored = np.broadcast_to(np.float32([[-1, 0, 0], [0, 1, 0]]), (3, 2, 3))
    np.testing.assert_allclose(geometry.warp(made, mirrored), made[:, :, ::-1], atol=1e-5)


def test_warp_and_its_gradient_against_pytorch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    made, towards = images(4, (9, 13), 3), images(4, (9, 13), 3, seed=5)
    chosen = np.array(geometry.matrices(jax.random.key(2), jnp.arange(4), options=OPTIONS))
    chosen[3, 0, 2] = 0.7  # a translation, so that much comes from outside
    theirs = torch.tensor(made).permute(0, 3, 1, 2).requires_grad_()
    grid = functional.affine_grid(torch.tensor(chosen), theirs.shape, align_corners=False)
    moved = functional.grid_sample(
        theirs, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    (moved * torch.tensor(towards).permute(0, 3, 1, 2)).sum().backward()
    got, pull = jax.vjp(lambda x: geometry.warp(x, jnp.asarray(chosen)), jnp.asarray(made))
    np.testing.assert_allclose(got, moved.detach().permute(0, 2, 3, 1), atol=2e-5)
    np.testing.assert_allclose(
        pull(jnp.asarray(towards))[0], theirs.grad.permute(0, 2, 3, 1), atol=2e-5
    )


def test_matrices_are_within_their_ranges_and_mirror_half_of_the_images():
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


def test_a_matrix_belongs_to_its_image_and_step():
    key, index = jax.random.key(3), jnp.array([5, 9, 2])
    drawn = geometry.matrices(key, index, options=OPTIONS)
    np.testing.assert_allclose(geometry.matrices(key, index[::-1], options=OPTIONS), drawn[::-1])
    assert not np.allclose(geometry.matrices(jax.random.key(4), index, options=OPTIONS), drawn)
