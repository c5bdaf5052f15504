"""The report of a run: what its statistics say, its pictures over time, and what to do next, in one HTML page."""
