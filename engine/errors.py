"""Errors that a person can cause and mend: one clear line, no traceback."""


class UserError(Exception):
    """Bad input of any kind. The message names the argument, what was wanted and what came; exit code 2."""
