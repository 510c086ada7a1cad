"""Results -> the tables and figures of the paper (Neubauer et al. 2024), for any data set."""

from crystalbench.paper._figures import check_matplotlib
from crystalbench.paper._page import write_paper
from crystalbench.paper._results import Results, read_results
from crystalbench.paper._study import METHODS, Study, plan_study

__all__ = ["METHODS", "Results", "Study", "check_matplotlib", "plan_study", "read_results", "write_paper"]
