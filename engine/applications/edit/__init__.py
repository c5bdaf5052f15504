"""Directions in the space of styles, and mixing of styles."""
