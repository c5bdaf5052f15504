"""Why a snapshot is not accepted, and how text of a file is shown."""

from ...errors import one_line

MAX_SHOWN = 120


class Refused(Exception):
    """The file holds something that is not accepted; the text says what."""


class Damaged(Refused):
    """The file is no pickle, or not all of one."""


def demand(holds: bool, what: str) -> None:
    """Refuse ``what`` unless the condition holds."""
    if not holds:
        raise Refused(f"refused {what}")


def shown(text: object) -> str:
    """Text from a file, safe to print: ASCII, quoted, not long. Of what is no text, the kind."""
    if not isinstance(text, str):
        return kind(text)
    return ascii(text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "...")


def kind(value: object) -> str:
    """Kind of a value, for an error: the name that stand-ins and pickletools' kinds have, or its type."""
    name = getattr(value, "name", None)
    return name if isinstance(name, str) else type(value).__name__


def brief(error: Exception) -> str:
    """An error on one line, not long, with nothing in it that a terminal would obey."""
    text = "".join(c if c.isprintable() else " " for c in one_line(str(error)[:2000]))
    return text if len(text) <= 400 else f"{text[:397]}..."
