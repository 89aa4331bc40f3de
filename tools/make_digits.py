"""Make src/fastbp/data/digits.npz from scikit-learn's copy of the digits (run by hand, rarely)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TARGET = Path(__file__).parent.parent / "src" / "fastbp" / "data" / "digits.npz"


def main() -> None:
    """Write the images (values 0 to 16 in one byte each) and the labels, compressed."""
    digits = load_digits()
    images, labels = digits.data.astype(np.uint8), digits.target.astype(np.uint8)
    assert images.shape == (1797, 64)
    assert (images == digits.data).all()
    np.savez_compressed(TARGET, images=images, labels=labels)
    print(f"{TARGET.name}: {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
