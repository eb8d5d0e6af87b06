"""Evaluation: feature extractors, reference statistics, distances and scores, and the evaluator that puts them together.

Each file imports only those before it: `statistics`, `extractors`, `sources`; `references`; `distances`, `manifold`, `scores`, `per_class`,
`r_precision`, `conditions`, `captions`; `registry`; `suite`; `evaluation_checkpoint`, `evaluator`; `reconstructions`. Beside them stand `processes`, `noise`,
`image_files`, `kernel_influence`, and `reports` with their `comparison`.
"""

from .captions import CaptionConditions, read_captions
from .conditions import (
    LABEL_POLICIES,
    ClassConditions,
    Conditions,
    Requests,
    balanced_labels,
    class_conditions,
    reference_labels,
    uniform_labels,
)
from .distances import FrechetDistance, KernelDistance, frechet_distance, kernel_distance
from .evaluation_checkpoint import EvaluationCheckpoint
from .evaluator import Evaluator
from .extractors import FeatureExtractor, InceptionExtractor, TextTower, TransformersExtractor, load_extractor
from .manifold import ManifoldScores, manifold_scores
from .per_class import ClassRecognition
from .r_precision import CANDIDATES, RPrecision, r_precision
from .reconstructions import reconstruction
from .references import Reference, compute_reference, load_reference, save_reference
from .registry import METRICS, SECOND, RegisteredMetric, build_metrics
from .reports import Report
from .scores import ClassConsistency, ClassifierScore
from .statistics import MAX_ROWS, FeatureBank, FeatureStatistics, covariance_root
from .suite import MetricSuite, check_second, knows_classes, load_second_reference


__all__ = [
    "CANDIDATES",
    "CaptionConditions",
    "ClassConditions",
    "ClassConsistency",
    "ClassRecognition",
    "ClassifierScore",
    "Conditions",
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
    "METRICS",
    "ManifoldScores",
    "MetricSuite",
    "Reference",
    "RPrecision",
    "RegisteredMetric",
    "Report",
    "Requests",
    "SECOND",
    "TextTower",
    "TransformersExtractor",
    "balanced_labels",
    "build_metrics",
    "class_conditions",
    "check_second",
    "compute_reference",
    "covariance_root",
    "frechet_distance",
    "kernel_distance",
    "knows_classes",
    "load_extractor",
    "load_reference",
    "load_second_reference",
    "manifold_scores",
    "r_precision",
    "read_captions",
    "reconstruction",
    "reference_labels",
    "save_reference",
    "uniform_labels",
]
