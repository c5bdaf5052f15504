"""Figures of a model or of a set of pictures: distance from training images, and whether views of a subject agree."""
