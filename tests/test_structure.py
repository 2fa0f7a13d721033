from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from attrs import field, frozen
from attrs.validators import ge
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import ConfigError
from appliance.structure import KEY, read_toml, structure


@frozen(kw_only=True)
class Leaf:
    name: str
    count: int = field(default=1, validator=ge(1))


@frozen(kw_only=True)
class Tree:
    flag: bool = False
    ratio: float = 0.5
    text: str = ""
    mode: Literal["a", "b"] = "a"
    pair: tuple[int, int] | None = None
    names: tuple[str, ...] = ()
    table: dict[str, float] = field(factory=dict)
    leaf: Leaf | None = None
    leaves: tuple[Leaf, ...] = ()
    source: str = field(default="", metadata={KEY: "from"})

    def __attrs_post_init__(self) -> None:
        if self.text == "forbidden":
            raise ValueError("text: found forbidden")


def test_a_full_document() -> None:
    tree = structure(
        {
            "flag": True,
            "ratio": 2,
            "text": "t",
            "mode": "b",
            "pair": [1, 2],
            "names": ["x", "y"],
            "table": {"k": 1, "l": 1.5},
            "leaf": {"name": "one"},
            "leaves": [{"name": "two", "count": 2}],
            "from": "there",
        },
        Tree,
        "file",
    )
    assert tree == Tree(
        flag=True,
        ratio=2.0,
        text="t",
        mode="b",
        pair=(1, 2),
        names=("x", "y"),
        table={"k": 1.0, "l": 1.5},
        leaf=Leaf(name="one"),
        leaves=(Leaf(name="two", count=2),),
        source="there",
    )
    assert type(tree.ratio) is float
    assert type(tree.table["k"]) is float


def test_an_empty_document_is_all_defaults() -> None:
    assert structure({}, Tree, "file") == Tree()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"flag": 1}, "file: flag: found 1; allowed: true or false"),
        ({"ratio": "1"}, 'file: ratio: found "1"; allowed: a number'),
        ({"ratio": True}, "file: ratio: found true; allowed: a number"),
        ({"text": 5}, "file: text: found 5; allowed: a string"),
        ({"mode": "c"}, 'file: mode: found "c"; allowed: "a", "b"'),
        ({"pair": [1]}, "file: pair: found [1]; allowed: a list of 2"),
        ({"pair": [1, True]}, "file: pair.1: found true; allowed: an integer"),
        ({"pair": 3}, "file: pair: found 3; allowed: a list"),
        ({"names": "xy"}, 'file: names: found "xy"; allowed: a list'),
        ({"names": ["x", 1]}, "file: names.1: found 1; allowed: a string"),
        ({"table": {"k": "v"}}, 'file: table.k: found "v"; allowed: a number'),
        ({"table": [1]}, "file: table: found [1]; allowed: a table"),
        ({"leaf": []}, "file: leaf: found []; allowed: a table"),
        ({"leaf": {}}, "file: leaf.name: is missing; it has no default"),
        ({"leaves": [{"name": "x", "count": 0}]}, "file: leaves.0.count: must be >= 1: 0"),
        ({"leaf": {"name": "x", "size": 1}}, "file: leaf.size: unknown key; allowed: name, count"),
        ({"text": "forbidden"}, "file: text: found forbidden"),
        ({"source": "x"}, "file: source: unknown key; allowed: "),
    ],
)
def test_an_error_names_file_key_what_was_found_and_what_is_allowed(
    document: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        structure(document, Tree, "file")
    assert str(caught.value).startswith(message)


def test_every_wrong_key_is_reported() -> None:
    with pytest.raises(ConfigError) as caught:
        structure({"flag": 0, "nonsense": 1, "leaves": [{}, {"name": 2}]}, Tree, "file")
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "nonsense",
        "flag",
        "leaves.0.name",
        "leaves.1.name",
    ]


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        structure({"flag": "x" * 1000}, Tree, "file")
    assert len(str(caught.value)) < 150


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from([*Tree.__annotations__, "from", "odd"]), json))
def test_nothing_but_config_error_comes_out(document: dict[str, Any]) -> None:
    try:
        tree = structure(document, Tree, "file")
    except ConfigError:
        pass
    else:
        assert isinstance(tree, Tree)
        assert isinstance(tree.flag, bool)
        assert isinstance(tree.ratio, float)
        assert all(isinstance(leaf, Leaf) for leaf in tree.leaves)


def test_toml_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_toml(path)
    path.write_text("a = ")
    with pytest.raises(ConfigError, match=r"c\.toml: not TOML: "):
        read_toml(path)
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match=r"c\.toml: not TOML: "):
        read_toml(path)
    path.write_text("a = 1")
    assert read_toml(path) == {"a": 1}
