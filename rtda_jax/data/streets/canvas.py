"""A painter's canvas: shapes in metres become material ids and depths, and these become colour."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from rtda_jax.data.streets.domain import LABEL_IDS, PLAIN, SIZE, Colour, Domain, Windows, bank

FAR = 2000.0
PLANES = {"front": 0, "left": 1, "right": 1, "ground": 2, "sky": 3}


@dataclass(frozen=True)
class View:
    """A level pinhole camera, in buffer pixels, on a street that bends by `bend * z**2` metres."""

    rows: int
    columns: int
    focal: float
    centre: float
    horizon: float
    height: float
    bend: float

    def column(self, x: float, z: float) -> float:
        """Returns the column of the street point `x` metres right of the camera at depth `z`."""
        return self.centre + self.focal * (x / z + self.bend * z)

    def row(self, y: float, z: float) -> float:
        """Returns the row of a point `y` metres above the ground at depth `z`."""
        return self.horizon + self.focal * (self.height - y) / z


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    """Returns the pixels whose centres lie in [low, high), clipped to [0, size)."""
    return max(ceil(low - 0.5), 0), min(ceil(high - 0.5), size)


class Canvas:
    """Buffers [rows, columns] of material ids and depths, and the table of materials behind them.

    Shapes are in metres: x to the right, y up from the ground, z ahead. Later shapes cover earlier
    ones. A material's `face` ("front", "left", "right", "ground", "sky") sets how the sun meets it
    and along which axes its texture runs.
    """

    def __init__(self, view: View, domain: Domain, light: dict[str, float]) -> None:
        self.view = view
        self.domain = domain
        self.light = light
        self.ids = np.zeros((view.rows, view.columns), np.int16)
        self.depth = np.full((view.rows, view.columns), FAR, np.float32)
        self.shade = np.ones((view.rows, view.columns), np.float32)
        self.slopes = (
            (np.arange(view.columns, dtype=np.float32) + np.float32(0.5 - view.centre))
            / np.float32(view.focal)
        )  # fmt: skip
        self._row = np.arange(view.rows, dtype=np.float32) + np.float32(0.5)
        self._column = np.arange(view.columns, dtype=np.float32) + np.float32(0.5)
        self._known: dict[tuple, int] = {}
        self.table: list[tuple[float, ...]] = []

    def material(
        self,
        label: str,
        colour: Colour,
        *,
        face: str = "front",
        surface: str = "",
        windows: Windows | None = None,
    ) -> int:
        """Returns the id of a material: its label, lit colour (0 to 255), texture and windows."""
        key = (label, colour, face, surface, windows)
        known = self._known.get(key)
        if known is not None:
            return known
        texture = self.domain.textures.get(surface, PLAIN)
        gain = self.light[face]
        pane = (*windows[:4], *(gain * c for c in windows.glass)) if windows else (0.0,) * 7
        self.table.append((
            LABEL_IDS[label], PLANES[face], gain * colour[0], gain * colour[1], gain * colour[2],
            *texture, *pane,
        ))  # fmt: skip
        self._known[key] = len(self.table) - 1
        return len(self.table) - 1

    def _fill(self, top: int, bottom: int, left: int, right: int, mask, z, material: int) -> None:
        np.copyto(self.ids[top:bottom, left:right], material, where=mask)
        np.copyto(self.depth[top:bottom, left:right], z, where=mask)

    def rect(self, x0: float, x1: float, y0: float, y1: float, z: float, material: int) -> None:
        """Paints an upright rectangle that faces the camera."""
        view = self.view
        left, right = _span(view.column(x0, z), view.column(x1, z), view.columns)
        top, bottom = _span(view.row(y1, z), view.row(y0, z), view.rows)
        if left < right and top < bottom:
            self.ids[top:bottom, left:right] = material
            self.depth[top:bottom, left:right] = z

    def disc(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        z: float,
        material: int,
        *,
        ragged: float = 0.0,
        rough: np.ndarray | None = None,
    ) -> None:
        """Paints an upright ellipse; `ragged` > 0 tears its rim with the pattern `rough`."""
        view = self.view
        left, right = _span(view.column(x - rx, z), view.column(x + rx, z), view.columns)
        top, bottom = _span(view.row(y + ry, z), view.row(y - ry, z), view.rows)
        if left >= right or top >= bottom:
            return
        u = (self._column[left:right] - np.float32(view.column(x, z))) * np.float32(
            z / (view.focal * rx)
        )
        v = (self._row[top:bottom] - np.float32(view.row(y, z))) * np.float32(z / (view.focal * ry))
        distance = (u * u)[None, :] + (v * v)[:, None]
        if rough is not None and ragged > 0:
            shift = int(x * 37 + z * 11)
            iu = (u * np.float32(9 * rx)).astype(np.int32) + shift & 127
            iv = (v * np.float32(9 * ry)).astype(np.int32) + shift & 127
            distance += np.float32(ragged) * rough[iv[:, None], iu[None, :]]
        self._fill(top, bottom, left, right, distance < 1, z, material)

    def polygon(self, points: Sequence[tuple[float, float]], z: float, material: int) -> None:
        """Paints a convex upright polygon; its corners (x, y) are counter-clockwise to the eye."""
        view = self.view
        corners = [(view.column(x, z), view.row(y, z)) for x, y in points]
        columns = [c for c, _ in corners]
        rows = [r for _, r in corners]
        left, right = _span(min(columns), max(columns), view.columns)
        top, bottom = _span(min(rows), max(rows), view.rows)
        if left >= right or top >= bottom:
            return
        u, v = self._column[left:right][None, :], self._row[top:bottom][:, None]
        mask: np.ndarray | None = None
        for (c0, r0), (c1, r1) in zip(corners, corners[1:] + corners[:1], strict=True):
            inside = (u - np.float32(c0)) * np.float32(r1 - r0) >= (
                v - np.float32(r0)
            ) * np.float32(c1 - c0)
            mask = inside if mask is None else mask & inside
        self._fill(top, bottom, left, right, mask, z, material)

    def side(self, x: float, z0: float, z1: float, y0: float, y1: float, material: int) -> None:
        """Paints an upright wall along the street at offset `x`, from depth z0 to z1."""
        view = self.view
        near, far = view.column(x, z0), view.column(x, z1)
        left, right = _span(min(near, far), max(near, far), view.columns)
        if left >= right:
            return
        slope = self.slopes[left:right]
        # z solves bend * z^2 - slope * z + x = 0; this form of the root also serves bend = 0.
        root = np.sqrt(np.maximum(slope * slope - np.float32(4 * view.bend * x), 0))
        with np.errstate(divide="ignore"):
            z = np.float32(2 * x) / (slope + (root if x > 0 else -root))
        np.clip(z, np.float32(z0), np.float32(z1), out=z)
        scale = np.float32(view.focal) / z
        low = np.float32(view.horizon) + np.float32(view.height - y0) * scale
        high = np.float32(view.horizon) + np.float32(view.height - y1) * scale
        top, bottom = _span(float(high.min()), float(low.max()), view.rows)
        if top >= bottom:
            return
        v = self._row[top:bottom][:, None]
        self._fill(top, bottom, left, right, (v >= high) & (v < low), z, material)

    def shadow(self, x0: float, x1: float, z0: float, z1: float, gain: float) -> None:
        """Darkens the ground, and only the ground, between two offsets and two depths."""
        view = self.view
        top, bottom = _span(view.row(0, z1), view.row(0, z0), view.rows)
        if top >= bottom:
            return
        z = np.float32(view.focal * view.height) / (self._row[top:bottom] - view.horizon)
        near, far = (np.float32(e) / z + np.float32(view.bend) * z for e in (x0, x1))
        slope = self.slopes[None, :]
        mask = (slope >= near[:, None]) & (slope < far[:, None])
        np.copyto(self.shade[top:bottom], np.float32(gain), where=mask)


def shade(canvas: Canvas) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns lit colour float32 [R, C, 3] in 0 to 255, depth and label ids [R, C].

    Textures, windows and shadows follow street coordinates.
    """
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
