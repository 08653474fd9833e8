"""The figures of a run, as tables of Markdown: a row for each proxy, a column for each route."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from benchmarks.measuring import Beginning, Round, Sample
from benchmarks.streams import Load, Route
from benchmarks.variants import STOCK

Figure = Callable[[Route, str], float]
"""Of a route and a variant. Raises `KeyError` if that was not measured."""
_MISSING = "-"


@dataclass(frozen=True)
class Results:
    """What was measured of which routes and variants; memory in bytes for each open stream."""

    routes: Sequence[Route]
    variants: Sequence[str]
    rounds: Sequence[Round]
    memory: Mapping[tuple[Route, str], float]
    beginnings: Mapping[tuple[Route, str], Sequence[Beginning]]

    def median_of(self, load: Load, figure: Callable[[Sample], float], scale: float = 1.0) -> Figure:
        """The median of what `figure` says of each sample of a load."""
        return lambda route, variant: scale * median(figure(one[route, load.name, variant]) for one in self.rounds)

    def microseconds_a_chunk(self, load: Load, short: Load) -> Figure:
        """What a chunk more takes: the difference to a short answer, without the cost of the request."""

        def figure(route: Route, variant: str) -> float:
            long_s, short_s = (self.median_of(of, lambda sample: sample.cpu_s)(route, variant) for of in (load, short))
            return (long_s - short_s) / (load.words - short.words) * 1e6

        return figure

    def milliseconds_until(self, moment: Callable[[Beginning], float]) -> Figure:
        """The stock proxy's median, and what there is to it on average in the middle three fifths of the pairs."""

        def figure(route: Route, variant: str) -> float:
            own, stock = (list(map(moment, self.beginnings[route, name])) for name in (variant, STOCK))
            added = sorted(mine - its for mine, its in zip(own, stock, strict=True))
            fifth = len(added) // 5
            return (median(stock) + fmean(added[fifth : len(added) - fifth])) * 1e3

        return figure

    def compared(self, title: str, figure: Figure) -> str:
        """A table of a figure: the value, what it is over the stock proxy's, and their ratio."""
        return self._table(title, lambda route, variant: _beside(figure(route, variant), figure(route, STOCK)))

    def collections(self, title: str) -> str:
        """A table of what full collections took in all rounds, in hundredths of all else."""

        def cell(route: Route, variant: str) -> str:
            samples = [each for of in self.rounds for key, each in of.items() if (key[0], key[2]) == (route, variant)]
            return f"{100 * sum(each.collected_s for each in samples) / sum(each.cpu_s for each in samples):.1f}"

        return self._table(title, cell)

    def growth(self, title: str, few: Figure, many: Figure) -> str:
        """A table of what a figure grows to, of the whole proxy and of what is over the stock proxy's."""

        def cell(route: Route, variant: str) -> str:
            pair = few(route, variant), many(route, variant)
            whole = f"{pair[0]:.1f} → {pair[1]:.1f} ({pair[1] / pair[0]:.2f}x)"
            if variant == STOCK:
                return whole
            added = pair[0] - few(route, STOCK), pair[1] - many(route, STOCK)
            return f"{whole}; {added[0]:+.1f} → {added[1]:+.1f}"

        return self._table(title, cell)

    def _table(self, title: str, cell: Callable[[Route, str], str]) -> str:
        rows = [[variant, *(_or_dash(cell, route, variant) for route in self.routes)] for variant in self.variants]
        rows = [row for row in rows if any(text != _MISSING for text in row[1:])]
        lines = [["Proxy", *self.routes], ["---", *("---:" for _ in self.routes)], *rows]
        return "\n".join([f"**{title}**", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def _or_dash(cell: Callable[[Route, str], str], route: Route, variant: str) -> str:
    try:
        return cell(route, variant)
    except (KeyError, ZeroDivisionError):
        return _MISSING


def _beside(value: float, stock: float) -> str:
    added = value - stock
    return f"{value:.1f} ({added:+.1f}, {value / stock:.2f}x)" if added else f"{value:.1f}"
