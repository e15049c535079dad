"""The step that both families share: neighbours merge, the best pair of the vocabulary first.

A text in Llama 3's vocabulary starts as bytes, chunk by chunk; in Llama 2's as characters, all of
it at once. From there on the two are one algorithm.
"""

from collections.abc import Iterator, Mapping, Sequence
from heapq import heappop, heappush


def merge_steps(parts: Sequence, ranks: Mapping) -> Iterator[list]:
    """The definition of encoding: merge the pair of lowest rank, the leftmost first. Yields the
    parts before the first merge and after each one.
    """
    parts = list(parts)
    while True:
        yield list(parts)
        pairs = [(ranks[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False))
                 if a + b in ranks]
        if not pairs:
            return
        i = min(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def merge_all(parts: Sequence, ranks: Mapping) -> list:
    """Where `merge_steps` ends, for long texts: a queue of candidates instead of a search.

    Parts are bytes in Llama 3's vocabulary and characters in Llama 2's; the rest is the same.
    """
    parts, end = list(parts), len(parts)
    before, after = list(range(-1, end - 1)), list(range(1, end + 1))
    queue: list[tuple] = []

    def offer(i: int, j: int) -> None:
        if i >= 0 and j < end and (rank := ranks.get(both := parts[i] + parts[j])) is not None:
            heappush(queue, (rank, i, len(both)))

    for i in range(end - 1):
        offer(i, i + 1)
    while queue:
        _, i, size = heappop(queue)
        j = after[i]
        if not parts[i] or j == end or len(parts[i]) + len(parts[j]) != size:
            continue        # one of the two has merged with another neighbour meanwhile
        parts[i], parts[j], after[i] = parts[i] + parts[j], parts[j][:0], after[j]
        if after[i] < end:
            before[after[i]] = i
        offer(before[i], i)
        offer(i, after[i])
    return [part for part in parts if part]
