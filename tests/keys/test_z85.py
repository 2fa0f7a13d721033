"""Z85 as pyzmq writes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85 as theirs

from appliance.keys import z85


@given(st.binary(max_size=64).filter(lambda data: len(data) % 4 == 0))
def test_it_is_what_pyzmq_writes_and_reads(data: bytes) -> None:
    text = z85.encode(data)
    assert text.encode() == theirs.encode(data)
    assert z85.decode(text) == data


@given(st.text(z85.ALPHABET + " ~\"'é", max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        data = z85.decode(text)
    except ValueError:
        return
    assert z85.encode(data) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("#####", "more than four bytes"),
        ("%nSc1", "more than four bytes"),
        ("0000", "4 characters"),
        ("0000 ", "' ' is no character"),
    ],
)
def test_what_stands_for_no_bytes_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        z85.decode(text)


def test_only_whole_words_are_written() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        z85.encode(b"123")


def test_a_key_is_32_bytes() -> None:
    assert z85.is_key(z85.encode(bytes(32)))
    assert not z85.is_key(z85.encode(bytes(28)))
    assert not z85.is_key("~" * 40)
