"""How segmentations are scored: one overlap table, and everything else from it."""

from crystalbench.evaluation._cldice import centre_lines, cldice, line_cldice, skeletonize, widen_lines
from crystalbench.evaluation._feret import FeretDiameters, feret_diameters
from crystalbench.evaluation._folders import FolderScores, score_folders, score_table
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
from crystalbench.evaluation._summary import Summary, mean_and_std, summarize

__all__ = [
    "EVALUATOR_VERSION",
    "FeretDiameters",
    "FolderScores",
    "ImageScores",
    "Overlaps",
    "PairedComparison",
    "SignedRankTest",
    "Summary",
    "bonferroni",
    "can_pass",
    "centre_lines",
    "cldice",
    "compare_all",
    "count_overlaps",
    "evaluate",
    "feret_diameters",
    "holm",
    "line_cldice",
    "mean_and_std",
    "mean_interval",
    "panoptic_quality",
    "rank_intervals",
    "score_folders",
    "score_table",
    "signed_rank_test",
    "skeletonize",
    "smallest_p",
    "summarize",
    "widen_lines",
]
