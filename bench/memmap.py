"""Fit from a file that is larger than memory: how long an epoch takes, and how much memory that needs.

    python bench/memmap.py                    a file half as large again as the machine's memory
    python bench/memmap.py --gigabytes 4      another size
    python bench/memmap.py --dtype uint8      images in a byte each, which are converted to float32 piece by piece

The file has holes for rows, which the system reads as zeros: it takes no room on the disk, but goes through memory as
any other file does. What a process has of a file in memory counts as its own in most displays, yet the system takes it
away when it needs the room; so the two are told apart.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
from pathlib import Path

import numpy as np

import fastbp

COLUMNS, CLASSES = 784, 10


def kilobytes(name: str) -> int:
    """Return what the system says of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {name}")


class Watch(threading.Thread):
    """The most memory that was seen until `stop`: the process's own, and of files."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.own = self.of_files = 0
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        """Look twenty times a second."""
        while not self._over.wait(0.05):
            self.own = max(self.own, kilobytes("RssAnon"))
            self.of_files = max(self.of_files, kilobytes("RssFile"))

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self.join()


def main() -> None:
    """Make the file, fit, tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, help="of the file (default: 1.5 times the memory)")
    parser.add_argument("--dtype", choices=("float32", "uint8"), default="float32", help="of the file")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--in-order", action="store_true", help="do not shuffle")
    options = parser.parse_args()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    size = 1.5 * memory if options.gigabytes is None else options.gigabytes
    dtype = np.dtype(options.dtype)
    rows = int(size * 1e9 / COLUMNS / dtype.itemsize)
    labels = np.random.default_rng(0).integers(CLASSES, size=rows, dtype=np.uint8)
    net = fastbp.MLP([COLUMNS, 32, CLASSES], output_activation="softmax", loss="cross_entropy", dtype=np.float32, rng=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows")
        with path.open("wb") as file:
            file.truncate(rows * COLUMNS * dtype.itemsize)
        X = np.memmap(path, dtype, "r", shape=(rows, COLUMNS))
        before = kilobytes("RssAnon")
        watch = Watch()
        history = net.fit(X, labels, epochs=options.epochs, batch_size=512, shuffle=not options.in_order, rng=0)
        watch.stop()
        del X
    print(
        f"{size:.1f} GB of {dtype}, {rows:,} rows, on a machine of {memory:.1f} GB; epochs of "
        + ", ".join(f"{seconds:.1f} s ({size / seconds:.2f} GB/s)" for seconds in history.seconds)
        + f"; memory of its own {(watch.own - before) / 1e6:.2f} GB, of the file at most {watch.of_files / 1e6:.1f} GB"
    )


if __name__ == "__main__":
    main()
