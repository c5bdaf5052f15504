"""Snapshots of the public implementation, read without executing anything in them."""
