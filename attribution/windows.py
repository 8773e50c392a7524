"""A query's windows -> the k-grams that must be looked up to find all runs, or all that leave some spans.

    run of n bytes      n - guarantee + 1 windows in a row, each of which chose a k-gram that the document has as well
    stretch             a part of a run that is to be found: one of the k-grams that its windows chose is looked up
    needed              the k-grams that meet every stretch and have the fewest postings together

With spans that are known to be common only the runs matter that lie in none of them, and they have fewer stretches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attribution import kernels
from attribution.fingerprint import K, first_windows

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

NO_SPANS = np.empty((0, 2), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of a query: `firsts`, the first window that chose each fingerprint or one that it stands for.

    What was thinned is in one periodic region with what it repeats, and is found from there. `count` windows in all, of
    `guarantee` bytes each.
    """

    firsts: I64
    count: int
    guarantee: int

    @classmethod
    def of(cls, query: U8, w: int, q: I64) -> Windows:
        """Return the windows of at most MAX_PIECE_BYTES, of which fingerprints were chosen at `q`."""
        chosen, firsts = first_windows(query, K, w)
        return cls(firsts[np.searchsorted(chosen, q)], len(query) - K - w + 2, K + w - 1)

    def needed(self, costs: I64, min_bytes: int, common: I64 = NO_SPANS) -> Flags:
        """Return which of the fingerprints must be looked at to find all runs of `min_bytes`: those that cost least.

        The windows that lie in such a run are neighbours, and each chose one k-gram that the document has as well: one
        of these k-grams is enough. What costs nothing is not left out. A licence's text, in thousands of documents, is
        looked up in a third of the time; so is code between lines of dashes.

        Runs inside one of the `common` spans, rows (start, end) that do not hold each other, need not be found.
        """
        if compiled := kernels.ready():
            kept: Flags = compiled.needed(self.firsts, self.count, self.guarantee, costs, min_bytes, common)
            return kept
        kept = costs == 0
        first, last = self._wanted(min_bytes, common)
        cost = [*costs.tolist(), 0]
        # The fingerprints are counted from 1. Between the n-th and the one before it that is looked at there is no run.
        lowest = np.zeros(len(cost) + 1, dtype=np.int64)
        np.maximum.at(lowest, last + 2, first + 1)
        bounds = np.maximum.accumulate(lowest).tolist()
        least, before = [0], [0]  # what it costs at least to look at the n-th, and which one before it
        for number in range(1, len(cost) + 1):
            best, best_last = least[number - 1], number - 1
            for earlier in range(number - 2, bounds[number] - 1, -1):
                if not cost[earlier]:
                    break
                if least[earlier] < best:
                    best, best_last = least[earlier], earlier
            least.append(best + cost[number - 1])
            before.append(best_last)
        number = before[-1]
        while number:
            kept[number - 1] = True
            number = before[number]
        return kept

    def _wanted(self, min_bytes: int, common: I64) -> tuple[I64, I64]:
        """Return the first and last fingerprints of stretches one of which every run holds that is to be found.

        That are all stretches of `min_bytes` that lie in no common span. A longer run of which each such stretch lies
        in one, but never the whole, goes from before one span to behind another that began before.
        """
        which = np.repeat(np.arange(len(self.firsts)), np.diff(self.firsts, append=self.count))
        starts = np.arange(self.count + self.guarantee - min_bytes)
        inside = (starts[:, None] >= common[:, 0]) & (starts[:, None] + min_bytes <= common[:, 1])
        starts = starts[~inside.any(axis=1)]
        before, behind = common[:, 0] - 1, common[:, 1] + 1
        across = np.nonzero((common[:, None, 0] < common[:, 0]) & (behind[:, None] - before >= min_bytes))
        firsts = np.concatenate([starts, before[across[1]]])
        ends = np.concatenate([starts + min_bytes, behind[across[0]]])
        return which[firsts], which[ends - self.guarantee]
