"""Twins: images that show the same picture, equal or changed, and how sure that is."""

from cnn_tl.doctor.twins.find import KINDS, Twins, find_twins

__all__ = ["KINDS", "Twins", "find_twins"]
