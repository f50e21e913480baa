# SPDX-License-Identifier: MIT
"""/proc/zoneinfo of machines of any size, as in Linux 6.18 and 6.1 (mm/vmstat.c)."""

import random
from typing import NamedTuple


class Zoneinfo(NamedTuple):
    """A text, and its contents: pages on the per-CPU lists, pagesets, and the sum of their limits."""

    text: str
    pcp_pages: int
    pagesets: int
    limits: int


def zoneinfo(cpus: int = 2, nodes: int = 1, *, old: bool = False, seed: int = 0) -> Zoneinfo:
    """Return a machine's file; ``old`` is as before 6.7, when a pageset had one limit."""
    draw = random.Random(seed)  # noqa: S311 - no secret, and the same each time
    text, pcp_pages, pagesets, limits = [], 0, 0, 0
    for node in range(nodes):
        first = True
        # All low memory is on the first node; the last zones have no pages, and so no pagesets.
        for name, size in (("DMA", 3840), ("DMA32", 772_918), ("Normal", 1 << 26), ("Movable", 0)):
            if node and name.startswith("DMA"):
                continue
            text.append(f"Node {node}, zone {name:>8}\n")
            if first:
                text.append("  per-node stats\n" + _stats(draw, 49))
                first = False
            text.append(_zone(draw, size))
            if not size:
                continue
            text.append(_stats(draw, 18) + "  pagesets\n")
            limit = size // 8 // max(1, cpus // nodes)
            for cpu in range(cpus):
                # Most lists of other nodes' memory are empty.
                count = draw.choice((0, draw.randrange(limit)))
                text.append(_pageset(cpu, count, limit, old=old))
                pcp_pages, pagesets, limits = pcp_pages + count, pagesets + 1, limits + limit
            text.append("  node_unreclaimable:  0\n  start_pfn:           4096\n")
    return Zoneinfo("".join(text), pcp_pages, pagesets, limits)


def _stats(draw: random.Random, lines: int) -> str:
    return "".join(f"      nr_count_{n} {draw.randrange(1 << draw.randrange(1, 30))}\n" for n in range(lines))


def _zone(draw: random.Random, size: int) -> str:
    return (
        f"  pages free     {draw.randrange(size + 1)}\n"
        "        boost    0\n        min      42\n        low      52\n        high     62\n"
        f"        promo    72\n        spanned  {size}\n        present  {size}\n        managed  {size}\n"
        "        cma      0\n        protection: (0, 3019, 5963, 5963, 5963)\n"
    )


def _pageset(cpu: int, count: int, limit: int, *, old: bool) -> str:
    if old:
        sizes = f"              count: {count}\n              high:  {limit}\n              batch: 63\n"
    else:
        sizes = (
            f"              count:    {count}\n              high:     {max(count, limit // 9)}\n"
            f"              batch:    63\n              high_min: {limit // 9}\n"
            f"              high_max: {limit}\n"
        )
    return f"    cpu: {cpu}\n{sizes}  vm stats threshold: 125\n"
