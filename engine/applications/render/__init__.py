"""Using a model: what is in the picture (``subjects``), from where (``paths``), rendered (``views``), written."""
