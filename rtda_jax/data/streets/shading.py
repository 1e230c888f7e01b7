"""From material ids and depths to colour: textures, windows and shadows in street coordinates."""

import numpy as np

from rtda_jax.data.streets.canvas import PLANES, Canvas
from rtda_jax.data.streets.patterns import SIZE, bank


def shade(canvas: Canvas) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns lit colour float32 [R, C, 3] in 0 to 255, depth and label ids [R, C]."""
    view = canvas.view
    table = np.array(canvas.table, np.float32)
    ids = canvas.ids.astype(np.intp).ravel()
    depth = canvas.depth
    plane = table[:, 1].astype(np.uint8).take(ids).reshape(depth.shape)
    ground = plane == PLANES["ground"]
    along = np.where(plane == PLANES["left"], depth, canvas.slopes[None, :] * depth)
    rise = (np.arange(view.rows, dtype=np.float32) + np.float32(0.5 - view.horizon)) / np.float32(
        view.focal
    )
    up = np.where(ground, depth, np.float32(view.height) - rise[:, None] * depth)
    along, up = along.ravel(), up.ravel()

    colour = np.ascontiguousarray(table[:, 2:5]).take(ids, axis=0)
    _grade_sky(colour, plane, canvas)
    gain = np.where(ground, canvas.shade, np.float32(1)).ravel()
    glazed = np.flatnonzero((table[:, 8] > 0).take(ids))
    if glazed.size:
        _glaze(colour, glazed, table[ids[glazed], 8:], along[glazed], up[glazed])
    textured = np.flatnonzero((table[:, 7] > 0).take(ids))
    if textured.size:
        own = ids[textured]
        pattern, scale, amount = (column.take(own) for column in table[:, 5:8].T)
        u = (along[textured] * scale).astype(np.int32) & (SIZE - 1)
        v = (up[textured] * scale).astype(np.int32) & (SIZE - 1)
        texel = bank().ravel().take((pattern.astype(np.int32) * SIZE + v) * SIZE + u)
        amount /= 1 + depth.ravel()[textured] * np.float32(1 / 60)
        gain[textured] *= 1 + amount * texel
    colour *= gain[:, None]
    labels = table[:, 0].astype(np.uint8).take(ids).reshape(depth.shape)
    return colour.reshape(*depth.shape, 3), depth, labels


def _grade_sky(colour: np.ndarray, plane: np.ndarray, canvas: Canvas) -> None:
    """Fades the sky from its zenith colour to that at the horizon."""
    zenith, low = (np.array(c, np.float32) for c in canvas.domain.palette["sky"])
    where = np.flatnonzero(plane == PLANES["sky"])
    rows = np.arange(canvas.view.rows, dtype=np.float32) / np.float32(canvas.view.horizon)
    ramp = zenith + np.clip(rows, 0, 1)[:, None] ** 2 * (low - zenith)
    colour[where] = ramp[where // canvas.view.columns]


def _glaze(
    colour: np.ndarray, where: np.ndarray, panes: np.ndarray, u: np.ndarray, v: np.ndarray
) -> None:
    """Puts window panes, each of its own tone, into `colour` at the flat positions `where`."""
    u, v = u / panes[:, 0], v / panes[:, 1]
    cell_u, cell_v = np.floor(u), np.floor(v)
    u, v = u - cell_u, v - cell_v
    low_u, low_v = (1 - panes[:, 2]) / 2, (1 - panes[:, 3]) * np.float32(0.6)
    inside = (u >= low_u) & (u < low_u + panes[:, 2]) & (v >= low_v) & (v < low_v + panes[:, 3])
    picked = np.flatnonzero(inside)
    index = (cell_v[picked].astype(np.int32) * 5 & 127) * SIZE + (
        cell_u[picked].astype(np.int32) * 3 & 127
    )
    tone = 1 + np.float32(0.25) * bank()[1].ravel()[index]
    colour[where[picked]] = panes[picked, 4:7] * tone[:, None]
