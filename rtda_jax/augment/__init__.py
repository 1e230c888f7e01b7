"""Pixel operations on the device: colours, textures, geometry, class mixing."""
