"""Ops in plain torch, each written the long way."""
