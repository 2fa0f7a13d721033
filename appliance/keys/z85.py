"""Z85, the text form of 32-byte keys (RFC 32): five characters for four bytes."""

from __future__ import annotations

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
KEY_BYTES = 32
KEY_CHARACTERS = 40

_VALUES = {character: value for value, character in enumerate(ALPHABET)}
_LIMIT = 1 << 32


def encode(data: bytes) -> str:
    """Write bytes, whose number is a multiple of four.

    Raises:
        ValueError: It is not.
    """
    if len(data) % 4:
        raise ValueError(f"{len(data)} bytes; Z85 writes multiples of 4")
    characters: list[str] = []
    for start in range(0, len(data), 4):
        number = int.from_bytes(data[start : start + 4], "big")
        characters.extend(ALPHABET[number // 85**power % 85] for power in (4, 3, 2, 1, 0))
    return "".join(characters)


def decode(text: str) -> bytes:
    """Read what `encode` wrote.

    Raises:
        ValueError: It is nothing that `encode` writes.
    """
    if len(text) % 5:
        raise ValueError(f"{len(text)} characters; Z85 has a multiple of 5")
    data = bytearray()
    for start in range(0, len(text), 5):
        number = 0
        for character in text[start : start + 5]:
            if character not in _VALUES:
                raise ValueError(f"{character!r} is no character of Z85")
            number = number * 85 + _VALUES[character]
        if number >= _LIMIT:
            raise ValueError(f"{text[start : start + 5]!r} stands for more than four bytes")
        data += number.to_bytes(4, "big")
    return bytes(data)


def is_key(text: str) -> bool:
    """Return whether this is a key."""
    try:
        return len(decode(text)) == KEY_BYTES
    except ValueError:
        return False
