"""How segmentations are scored: one overlap table, and everything else from it."""

from crystalbench.evaluation._cldice import centre_lines, cldice, line_cldice, skeletonize, widen_lines
from crystalbench.evaluation._feret import FeretDiameters, feret_diameters
from crystalbench.evaluation._folders import FolderScores, score_folders, score_table
from crystalbench.evaluation._overlaps import Overlaps, count_overlaps
from crystalbench.evaluation._scores import EVALUATOR_VERSION, ImageScores, evaluate, panoptic_quality
from crystalbench.evaluation._summary import Summary, mean_and_std, summarize

__all__ = [
    "EVALUATOR_VERSION",
    "FeretDiameters",
    "FolderScores",
    "ImageScores",
    "Overlaps",
    "Summary",
    "centre_lines",
    "cldice",
    "count_overlaps",
    "evaluate",
    "feret_diameters",
    "line_cldice",
    "mean_and_std",
    "panoptic_quality",
    "score_folders",
    "score_table",
    "skeletonize",
    "summarize",
    "widen_lines",
]
