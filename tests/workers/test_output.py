from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance.workers.output import LINE_BYTES, LINES_PER_SECOND, TAIL_LINES, Lines
from appliance.workers.process import describe_exit

SECOND = 1_000_000_000


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r")), max_size=20),
    st.data(),
)
def test_lines_do_not_depend_on_how_bytes_come(lines: list[str], data: st.DataObject) -> None:
    written = "".join(line + "\n" for line in lines).encode()
    reader = Lines()
    told: list[str] = []
    at = 0
    while at < len(written):
        size = data.draw(st.integers(1, 40))
        told += reader.feed(written[at : at + size], 5 * SECOND)
        at += size
    assert told == lines
    assert list(reader.tail) == lines[-TAIL_LINES:]
    assert reader.end() == []


def test_a_last_line_without_an_end() -> None:
    reader = Lines()
    assert reader.feed(b"one\r\ntw", SECOND) == ["one"]
    assert reader.end() == ["tw"]
    assert list(reader.tail) == ["one", "tw"]


def test_long_lines_are_cut() -> None:
    reader = Lines()
    for _ in range(100):
        assert reader.feed(b"x" * 1000, SECOND) == []
        assert len(reader._rest) <= LINE_BYTES  # nor are they kept
    assert reader.feed(b"\nshort\n", SECOND) == ["x" * LINE_BYTES, "short"]


def test_a_flood_is_counted_and_its_end_is_kept() -> None:
    reader = Lines()
    flood = b"".join(b"%d\n" % number for number in range(1000))
    assert reader.feed(flood, SECOND) == [str(number) for number in range(LINES_PER_SECOND)]
    assert reader.feed(b"more\n", SECOND + 1) == []
    assert reader.tail[-1] == "more"
    assert reader.tail[-2] == "999"
    assert reader.feed(b"later\n", 2 * SECOND) == ["(801 more lines were dropped)", "later"]
    assert reader.feed(b"then\n", 3 * SECOND) == ["then"]


def test_exits_in_words() -> None:
    assert describe_exit(0, ["fine"]) == "exited with status 0"
    assert describe_exit(1, ["Traceback", "ValueError: no", " "]) == (
        "exited with status 1: ValueError: no"
    )
    assert describe_exit(2, []) == "exited with status 2"
    assert describe_exit(-11, ["x"]) == "killed by SIGSEGV"
    assert describe_exit(-99, []) == "killed by signal 99"
