"""The line of one lane: who is next. `room` puts requests in and takes them out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import chain

from attrs import define, field

from appliance.scheduling.events import Rank, Request
from appliance.values import new_dict, new_list

TIER_VALUE = 0.25
"""What answering a request in time is worth, of what one of the next better tier is, from 1 on."""

SOFT_VALUE = 0.5
"""What answering a soft request in time is worth, of what a firm one is, which is lost else."""


@define(eq=False)
class Ranked:
    """Requests by rank, best first, in parallel lists that a decision reads.

    Attributes:
        times_ns: The first of each rank; of requests that are not dry, the deadline to plan with.
        values: What answering each in time is worth.
        kinds: How many there are of each of these.
        ranks: Of each.
        odd: Whether they are not all worth the same.
        usual: What each is worth if they are all worth the same; else 1.
    """

    requests: list[Request] = field(factory=new_list)
    times_ns: list[int] = field(factory=new_list)
    values: list[float] = field(factory=new_list)
    kinds: dict[float, int] = field(factory=new_dict)
    ranks: list[Rank] = field(factory=new_list)
    odd: bool = False
    usual: float = 1.0

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)

    def add(self, request: Request) -> None:
        """Insert by rank. Ranks end in the request's id, so no two are equal."""
        worth = _worth(request) if request.firm else SOFT_VALUE * _worth(request)
        self._insert(request, request.rank, worth)

    def copy(self) -> Ranked:
        """Return another one of the same."""
        return Ranked(
            self.requests.copy(),
            self.times_ns.copy(),
            self.values.copy(),
            self.kinds.copy(),
            self.ranks.copy(),
            self.odd,
            self.usual,
        )

    def add_dry(self, request: Request, due_ns: int) -> None:
        """Insert one that is dry as if it had a deadline; it is worth as much as a firm one."""
        self._insert(request, (due_ns, request.tier, *request.rank[2:]), _worth(request))

    def _insert(self, request: Request, rank: Rank, worth: float) -> None:
        ranks, kinds = self.ranks, self.kinds
        kinds[worth] = kinds.get(worth, 0) + 1
        if kinds[worth] == 1:
            self._look_at_kinds()
        index = bisect_left(ranks, rank) if ranks and rank < ranks[-1] else len(ranks)
        ranks.insert(index, rank)
        self.requests.insert(index, request)
        self.times_ns.insert(index, rank[0])
        self.values.insert(index, worth)

    def _look_at_kinds(self) -> None:
        self.odd = len(self.kinds) > 1
        self.usual = next(iter(self.kinds)) if len(self.kinds) == 1 else 1.0

    def remove(self, first: Request, count: int = 1) -> None:
        """Take out so many side by side, from `first` on."""
        index = bisect_left(self.ranks, first.rank)
        assert self.requests[index] is first
        end = index + count
        for worth in self.values[index:end] if self.odd else (self.values[index],):
            self.kinds[worth] -= 1 if self.odd else end - index
        if not all(self.kinds.values()):
            self.kinds = {worth: many for worth, many in self.kinds.items() if many}
            self._look_at_kinds()
        del self.ranks[index:end], self.requests[index:end]
        del self.times_ns[index:end], self.values[index:end]


def _worth(request: Request) -> float:
    return 1.0 if request.tier < 2 else TIER_VALUE ** (request.tier - 1)


@define(eq=False)
class Line:
    """The waiting requests of one lane, in four parts.

    Attributes:
        timely: Those with a deadline, firm and soft, by deadline. A soft one stays when it is over.
        first: Dry ones whose turn it is.
        yielding: Dry ones whose turn it is not.
        background: More than their clients said they would send.
        firm: How many of `timely` are firm.
        critical: Those of `timely` that are of tier 0.
    """

    timely: Ranked = field(factory=Ranked)
    first: Ranked = field(factory=Ranked)
    yielding: Ranked = field(factory=Ranked)
    background: Ranked = field(factory=Ranked)
    firm: int = 0
    critical: Ranked = field(factory=Ranked)

    def __len__(self) -> int:
        return len(self.timely) + len(self.first) + len(self.yielding) + len(self.background)

    def __iter__(self) -> Iterator[Request]:
        return chain(self.first, self.timely, self.yielding, self.background)

    @property
    def has_tier_0(self) -> bool:
        """Whether anybody of tier 0 waits whose turn it is."""
        dry = self.first.requests  # ranked by tier
        return bool(self.critical.requests) or bool(dry and dry[0].tier == 0)

    @property
    def has_spare(self) -> bool:
        """Whether anybody waits who has no deadline to plan with."""
        return bool(self.first.requests or self.yielding.requests or self.background.requests)

    def with_patience(self, until_ns: int, patience_ns: int) -> Line:
        """Return a copy in which dry ones are timely that would wait until `until_ns`.

        Each would wait `patience_ns` from when it asked first, or ran dry; none of tier 0 does.
        """
        timely, first = self.timely.copy(), Ranked()
        for request in self.first:
            due_ns = (request.since_ns or request.arrived_ns) + patience_ns
            if request.tier > 0 and due_ns >= until_ns:
                timely.add_dry(request, due_ns)
            else:
                first.add(request)
        return Line(timely, first, self.yielding, self.background, self.firm, self.critical)

    def of_tier_0(self) -> Line:
        """Return a copy of those of tier 0 whose turn it is."""
        line = Line()
        for request in chain(self.first, self.critical):
            if request.tier == 0:
                line.add(request)
        return line

    def part(self, request: Request) -> Ranked:
        """Return the part that a request belongs to."""
        if request.dry:
            return self.yielding if request.yields else self.first
        return self.background if request.background else self.timely

    def add(self, request: Request) -> None:
        """Insert by rank."""
        part = self.part(request)
        part.add(request)
        if part is self.timely:
            self.firm += request.firm
            if request.tier == 0:
                self.critical.add(request)

    def remove(self, request: Request) -> None:
        """Take one out that is in the line."""
        part = self.part(request)
        part.remove(request)
        if part is self.timely:
            self.firm -= request.firm
            if request.tier == 0:
                self.critical.remove(request)

    def take(self, requests: list[Request]) -> None:
        """Take out several; mostly they stand side by side in `timely`."""
        timely = self.timely
        first = requests[0]
        count = len(requests)
        if count > 1 and not first.dry and not first.background:
            index = bisect_left(timely.ranks, first.rank)
            if timely.requests[index : index + count] == requests:
                timely.remove(first, count)
                if self.firm:
                    self.firm -= sum(request.firm for request in requests)
                if self.critical.requests:
                    for request in requests:
                        if request.tier == 0:
                            self.critical.remove(request)
                return
        for request in requests:
            self.remove(request)
