"""Rendered images for a start without a download."""

from mmadapt.data.shapes.dataset import ShapesData as ShapesData
