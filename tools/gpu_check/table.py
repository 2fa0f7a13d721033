"""What is printed in the end: every figure with its limit, for people. PURE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADINGS = ("section", "figure", "", "limit", "verdict")


def table(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of what was found."""
    rows: list[tuple[str, ...]] = [HEADINGS]
    for name, line in sections.items():
        rows.append((name, "", f"{line.get('seconds', 0):g} s", "", line["state"]))
        rows += [
            (
                "",
                each["what"],
                "none" if each["value"] is None else f"{each['value']:,g} {each['unit']}".rstrip(),
                each["limit"] or "",
                "" if each["limit"] is None else each["verdict"],
            )
            for each in line.get("figures", ())
        ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(
            [
                row[0].ljust(widths[0]),
                row[1].ljust(widths[1]),
                row[2].rjust(widths[2]),
                row[3].ljust(widths[3]),
                row[4],
            ]
        ).rstrip()
        for row in rows
    )
