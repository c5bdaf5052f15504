"""Projection: photographs are found in a model."""
