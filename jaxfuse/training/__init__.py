"""Training of classifiers, and their quality."""

from jaxfuse.training.augment import shift_and_mirror
from jaxfuse.training.checkpoint import Checkpoints, fingerprint
from jaxfuse.training.config import TrainingConfig, recommended_config
from jaxfuse.training.metrics import Metrics, evaluate
from jaxfuse.training.train import History, TrainingResult, train

__all__ = [
    "Checkpoints",
    "History",
    "Metrics",
    "TrainingConfig",
    "TrainingResult",
    "evaluate",
    "fingerprint",
    "recommended_config",
    "shift_and_mirror",
    "train",
]
