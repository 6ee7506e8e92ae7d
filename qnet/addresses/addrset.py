"""A set of numbers out of a huge range, by the bit: memory by use, the next free number in a few steps.

A page is an integer of 256 bits. Level 0 has a bit for each member; each level above has a bit for each *full* page of
the level below, so that a search skips full regions: 3 levels for a /8, 8 for an IPv6 /64, whatever is in use.
"""

from __future__ import annotations

WIDTH = 8
PAGE = 1 << WIDTH
FULL = (1 << PAGE) - 1


class AddressSet:
    """Members are offsets in `range(size)`; every operation takes time by the number of levels."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._levels: list[dict[int, int]] = [{}]
        while size > PAGE:
            size = -(-size >> WIDTH)
            self._levels.append({})
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, offset: int) -> bool:
        return bool(self._levels[0].get(offset >> WIDTH, 0) >> (offset & (PAGE - 1)) & 1)

    def add(self, offset: int) -> bool:
        """Put one in; returns whether it was not there."""
        for level in self._levels:
            bit = 1 << (offset & (PAGE - 1))
            offset >>= WIDTH
            before = level.get(offset, 0)
            if before & bit:  # only at the lowest level: a full page's bit is not set twice
                return False
            level[offset] = before | bit
            if before | bit != FULL:
                break
        self._count += 1
        return True

    def discard(self, offset: int) -> bool:
        """Take one out; returns whether it was there."""
        if offset not in self:
            return False
        self._count -= 1
        for level in self._levels:
            before = level[offset >> WIDTH]
            page = before & ~(1 << (offset & (PAGE - 1)))
            offset >>= WIDTH
            if page:
                level[offset] = page
            else:
                del level[offset]
            if before != FULL:
                break
        return True

    def next_free(self, start: int, end: int) -> int | None:
        """The smallest number in `range(start, end)` that is not a member."""
        end = min(end, self.size)
        height, at = 0, start
        while at << WIDTH * height < end:
            page = self._levels[height].get(at >> WIDTH, 0) if height < len(self._levels) else 0
            free = ~page & (FULL << (at & (PAGE - 1))) & FULL
            if not free:
                height, at = height + 1, (at >> WIDTH) + 1
                continue
            at = (at & ~(PAGE - 1)) + (free & -free).bit_length() - 1
            if height == 0:
                return at if at < end else None
            height, at = height - 1, at << WIDTH
        return None
