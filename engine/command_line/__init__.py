"""The command line: ``main`` parses, ``guard`` ends it in one line, ``verbs`` do the work."""
