"""A subject's surface as a mesh."""
