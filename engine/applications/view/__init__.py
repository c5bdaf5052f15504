"""A local web page to look at a model: what it asks for (``look``), rendered (``studio``, ``film``), served."""
