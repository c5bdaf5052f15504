"""Radiance fields along rays: encoding, modulated trunk, sampling, weights, compositing; forward and backward."""
