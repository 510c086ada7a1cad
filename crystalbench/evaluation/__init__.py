"""How segmentations are scored: one overlap table, and everything else from it."""

from crystalbench.evaluation._cldice import centre_lines, cldice, line_cldice, skeletonize, widen_lines
from crystalbench.evaluation._extras import ImageExtras, LengthScores, evaluate_extras, scores_by_length
from crystalbench.evaluation._feret import FeretDiameters, feret_diameters
from crystalbench.evaluation._folders import FolderScores, score_folders, score_table
from crystalbench.evaluation._grain_size import GrainSize, GrainSizes, compare_grain_sizes, grain_size
from crystalbench.evaluation._overlaps import Overlaps, count_overlaps
from crystalbench.evaluation._scores import EVALUATOR_VERSION, ImageScores, evaluate, panoptic_quality
from crystalbench.evaluation._statistics import (
    PairedComparison,
    SignedRankTest,
    bonferroni,
    can_pass,
    compare_all,
    holm,
    mean_interval,
    rank_intervals,
    signed_rank_test,
    smallest_p,
)
from crystalbench.evaluation._summary import Summary, mean_and_std, summarize, summarize_extras

__all__ = [
    "EVALUATOR_VERSION",
    "FeretDiameters",
    "FolderScores",
    "GrainSize",
    "GrainSizes",
    "ImageExtras",
    "ImageScores",
    "LengthScores",
    "Overlaps",
    "PairedComparison",
    "SignedRankTest",
    "Summary",
    "bonferroni",
    "can_pass",
    "centre_lines",
    "cldice",
    "compare_all",
    "compare_grain_sizes",
    "count_overlaps",
    "evaluate",
    "evaluate_extras",
    "feret_diameters",
    "grain_size",
    "holm",
    "line_cldice",
    "mean_and_std",
    "mean_interval",
    "panoptic_quality",
    "rank_intervals",
    "score_folders",
    "score_table",
    "scores_by_length",
    "signed_rank_test",
    "skeletonize",
    "smallest_p",
    "summarize",
    "summarize_extras",
    "widen_lines",
]
