"""scikit-learn's multi-layer perceptrons on fastbp's kernels: change the import line, keep the rest.

``from sklearn.neural_network import MLPClassifier`` becomes ``from fastbp.sklearn import MLPClassifier``.
"""

try:
    import sklearn as _sklearn  # noqa: F401
except ImportError as error:
    raise ImportError("fastbp.sklearn needs scikit-learn: pip install 'fastbp[sklearn]'") from error

from ._classifier import MLPClassifier
from ._regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
