"""Transfer learning as scikit-learn estimators: ``TransferClassifier``, and ``TransferFeatures`` to put before others.

Importing this loads scikit-learn; torch is loaded by the first fit.
"""

from unfreeze.sklearn.classifier import TransferClassifier
from unfreeze.sklearn.features import TransferFeatures

__all__ = ["TransferClassifier", "TransferFeatures"]
