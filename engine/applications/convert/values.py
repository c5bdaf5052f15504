"""What the readers of a snapshot share: errors, limits, notes, and what stands for names and objects."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

MAX_OPCODES = 500_000
MAX_TEXT_BYTES = 32 * 2**20
MAX_NUMBER_KEYS = 4096  # chosen numbers can share a hash path: n of them cost n**2 comparisons
MAX_NOTES = 200
MAX_SHOWN = 120
_KEY_INTS = range(-(2**63), 2**64)  # multiples of 2**61 - 1 share one hash: of longer ones there is no end


class Refused(Exception):
    """What in the stream is not accepted, in words for a person."""


class Damaged(Refused):
    """The stream is no pickle, or not all of one."""


@dataclass
class Budget:
    """What one file may still cost, whatever it says; a snapshot of the public code needs about a fifth of it."""

    opcodes: int = MAX_OPCODES
    text_bytes: int = MAX_TEXT_BYTES
    number_keys: int = MAX_NUMBER_KEYS

    def spend_opcode(self) -> None:
        self.opcodes -= 1
        if self.opcodes < 0:
            raise Damaged(f"wanted at most {MAX_OPCODES} opcodes, got more")

    def spend_text(self, size: int) -> None:
        self.text_bytes -= size
        if self.text_bytes < 0:
            raise Damaged(f"wanted at most {MAX_TEXT_BYTES} bytes of text, got more")

    def spend_key(self, key: object) -> str | int | float | None:
        """A key of a mapping or set: plain and short, and few numbers, so that hashing is neither deep nor slow."""
        if key is None or type(key) in (str, bool):
            return key  # type: ignore[return-value]
        if type(key) is int and key not in _KEY_INTS:
            raise Damaged(f"wanted an integer key of at most 64 bits, got one of {key.bit_length()}")
        if type(key) in (int, float):
            self.number_keys -= 1
            if self.number_keys < 0:
                raise Damaged(f"wanted at most {MAX_NUMBER_KEYS} numbers as keys, got more")
            return key  # type: ignore[return-value]
        raise Damaged(f"wanted text or a number as a key, got {kind(key)}")


@dataclass(frozen=True)
class Name:
    """A global that the rules know: two strings, nothing imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Foreign:
    """Stands for what was refused while only looking."""


class Inert:
    """A record that may be given its state once."""

    def build(self, state: object) -> None:
        raise Refused(f"refused state for {kind(self)}")


Maker = Callable[[tuple[object, ...]], object]


@dataclass(frozen=True)
class Rule:
    """What may be done with a global: call it, make a bare instance of it, or neither: only name it."""

    call: Maker | None = None
    new: Maker | None = None


Rules = Mapping[tuple[str, str], Rule]


@dataclass
class Notes:
    """What was met: the globals that the rules know and, while only looking, reasons to refuse, with their counts."""

    known: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    tolerant: bool = False

    def refuse(self, reason: str) -> Foreign:
        """Raise, or note the reason and return what stands in for the thing refused."""
        if not self.tolerant or (reason not in self.refused and len(self.refused) >= MAX_NOTES):
            raise Refused(reason)
        self.refused[reason] = self.refused.get(reason, 0) + 1
        return Foreign()


def shown(text: str) -> str:
    """Text from a file, safe to print: ASCII, quoted, not long."""
    return ascii(text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "...")


def kind(value: object) -> str:
    """What a value is, for an error."""
    return str(value) if isinstance(value, Name) else type(value).__name__


def decode(data: bytes, encoding: str) -> str:
    try:
        return str(data, encoding)
    except UnicodeDecodeError:
        raise Damaged(f"wanted {encoding} text, got something else") from None


def parsed(form: type[int] | type[float], text: str) -> float:
    if len(text) > 40:
        raise Damaged(f"wanted a number of at most 40 digits, got {len(text)}")
    try:
        return form(text)
    except ValueError:
        raise Damaged(f"wanted a number, got {shown(text)}") from None
