"""Data sets: folders of micrographs and label maps."""

from crystalbench.data._classes import crystal_lengths, difficulty_class
from crystalbench.data._contact_sheet import contact_sheet, describe
from crystalbench.data._dataset import Dataset, Sample, open_dataset, read_micrograph, safe_name
from crystalbench.data._find import check_files, find_dataset, find_folder
from crystalbench.data._images import (
    LABEL_SUFFIXES,
    files_by_stem,
    read_grain,
    read_image,
    read_labels,
    write_image,
    write_labels,
)
from crystalbench.data._importers import import_dataset
from crystalbench.data._importing import ImportReport
from crystalbench.data._made import make_dataset
from crystalbench.data._splits import (
    Fold,
    Folds,
    Split,
    folds_name,
    keep_folds,
    stratified_folds,
    stratified_split,
    write_folds,
    write_split,
)
from crystalbench.data._verify import Problem, verify_dataset

__all__ = [
    "LABEL_SUFFIXES",
    "Dataset",
    "Fold",
    "Folds",
    "ImportReport",
    "Problem",
    "Sample",
    "Split",
    "check_files",
    "contact_sheet",
    "crystal_lengths",
    "describe",
    "difficulty_class",
    "files_by_stem",
    "find_dataset",
    "find_folder",
    "folds_name",
    "import_dataset",
    "keep_folds",
    "make_dataset",
    "open_dataset",
    "read_grain",
    "read_image",
    "read_labels",
    "read_micrograph",
    "safe_name",
    "stratified_folds",
    "stratified_split",
    "verify_dataset",
    "write_folds",
    "write_image",
    "write_labels",
    "write_split",
]
