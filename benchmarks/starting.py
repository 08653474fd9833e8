"""What the plugin adds to the start of a proxy: `python -m benchmarks.starting`.

Two real proxies, without the plugin and with it, start in turn; each ends before the next starts. What is measured
ends with the first answer of /health/liveliness. Linux only.
"""

import argparse
import os
import tempfile
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median

import psutil
import yaml

from benchmarks.proxies import cpu_seconds
from benchmarks.variants import STOCK, VARIANTS, Config
from luthien_litellm_hooks.cli.demo.proxy import is_serving, proxy_process
from tests.support.proxy import KEY, PYTHON, free_port

_LOOK_S = 0.01
_MB = 1e6


@dataclass(frozen=True, slots=True)
class Start:
    """One start: seconds of the clock and of the processor, and resident MB at its end."""

    wall_s: float
    cpu_s: float
    resident_mb: float


def start(config: Config, folder: Path) -> Start:
    path, port = folder / "config.yaml", free_port()
    path.write_text(yaml.safe_dump(dict(config)))
    own = {"LITELLM_MASTER_KEY": KEY, **PYTHON, "LUTHIEN_RECORDS": str(folder / "records.sqlite")}
    began = time.monotonic()
    with (folder / "output.txt").open("wb") as output, proxy_process(path, port, own, output) as process:
        while not is_serving(port):
            if process.poll() is not None:
                raise RuntimeError(f"the proxy did not start:\n{(folder / 'output.txt').read_text()[-2000:]}")
            time.sleep(_LOOK_S)
        wall_s = time.monotonic() - began
        return Start(wall_s, cpu_seconds(process.pid), psutil.Process(process.pid).memory_info().rss / _MB)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.starting", description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--variant", choices=sorted(VARIANTS.keys() - {STOCK}), default="noop")
    given = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its byte code
    pairs: list[tuple[Start, Start]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.pairs + 1):
            stock, ours = (start(VARIANTS[name], Path(folder)) for name in (STOCK, given.variant))
            if number:  # the first pair writes byte code
                pairs.append((stock, ours))
    print(f"| {given.pairs} pairs | stock | {given.variant} | median of the differences | least | most |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, column in zip(("s", "s of processor time", "resident MB"), _columns(pairs), strict=True):
        stock, ours = zip(*column, strict=True)
        more = [with_it - without for without, with_it in column]
        figures = (median(stock), median(ours), median(more), min(more), max(more))
        print(f"| {name} | {' | '.join(f'{figure:.2f}' for figure in figures)} |")


def _columns(pairs: list[tuple[Start, Start]]) -> list[list[tuple[float, float]]]:
    """Returns the pairs of each measure."""
    rows = [list(zip(astuple(stock), astuple(ours), strict=True)) for stock, ours in pairs]
    return [list(column) for column in zip(*rows, strict=True)]


if __name__ == "__main__":
    main()
