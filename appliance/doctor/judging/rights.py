"""Who may do what with a file."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.doctor.facts import Node, Person

READ, WRITE, SEARCH = 4, 2, 1
OTHERS = 0o077


def may(person: Person, node: Node, rights: int) -> bool:
    """Return whether somebody has rights on a file or directory, as far as its mode says."""
    if person.uid == 0:
        return True
    shift = 6 if person.uid == node.uid else 3 if node.gid in person.gids else 0
    return (node.mode >> shift) & rights == rights


def obstacle(person: Person, nodes: Sequence[Node], rights: int) -> str:
    """Say what keeps somebody from a file; nothing: it can be had, or nobody here can see that."""
    for node in nodes[:-1]:
        if not may(person, node, SEARCH):
            return f"{person.name} may not enter {node.path} (mode {node.mode:04o})"
    last = nodes[-1]
    if last.kind == "missing":
        return f"{last.path} is missing"
    if last.kind != "hidden" and not may(person, last, rights):
        what = "write" if rights & WRITE else "read"
        return f"{person.name} may not {what} {last.path} (mode {last.mode:04o})"
    return ""
