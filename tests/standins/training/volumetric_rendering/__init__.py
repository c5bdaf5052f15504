"""Radiance fields on three planes, and rays through them."""
