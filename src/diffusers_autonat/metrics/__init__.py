"""Evaluation: feature extractors, reference statistics, distances and scores."""

from .checkpoints import EvaluationCheckpoint
from .distances import (
    MAX_ROWS,
    FeatureBank,
    FeatureStatistics,
    FrechetDistance,
    KernelDistance,
    covariance_root,
    frechet_distance,
    kernel_distance,
)
from .evaluation import LABEL_POLICIES, Evaluator
from .extractors import FeatureExtractor, InceptionExtractor, TransformersExtractor, load_extractor
from .references import Reference, compute_reference, load_reference, save_reference
from .scores import (
    METRIC_NAMES,
    ClassConsistency,
    ClassifierScore,
    ManifoldScores,
    balanced_labels,
    build_metrics,
    manifold_scores,
    reference_labels,
    uniform_labels,
)


__all__ = [
    "ClassConsistency",
    "ClassifierScore",
    "EvaluationCheckpoint",
    "Evaluator",
    "FeatureBank",
    "FeatureExtractor",
    "FeatureStatistics",
    "FrechetDistance",
    "InceptionExtractor",
    "KernelDistance",
    "LABEL_POLICIES",
    "MAX_ROWS",
    "METRIC_NAMES",
    "ManifoldScores",
    "Reference",
    "TransformersExtractor",
    "balanced_labels",
    "build_metrics",
    "compute_reference",
    "covariance_root",
    "frechet_distance",
    "kernel_distance",
    "load_extractor",
    "load_reference",
    "manifold_scores",
    "reference_labels",
    "save_reference",
    "uniform_labels",
]
