"""Records -> rows -> a table, JSON, CSV, Markdown, LaTeX or pandas frames; comparisons of rows and of runs."""

from crystalbench.leaderboard._board import FORMATS, board_text, leaderboard
from crystalbench.leaderboard._compare import RunComparison, compare, run_comparison_table
from crystalbench.leaderboard._formats import to_csv, to_json, to_markdown
from crystalbench.leaderboard._frames import Runs, load_runs
from crystalbench.leaderboard._latencies import latency_table, ranked_latencies
from crystalbench.leaderboard._latex import to_latex
from crystalbench.leaderboard._load import load_records
from crystalbench.leaderboard._rows import ClassScores, Row, Scores, rows
from crystalbench.leaderboard._significance import Comparison, comparison_table, comparisons, comparisons_json
from crystalbench.leaderboard._table import to_table

__all__ = [
    "FORMATS",
    "ClassScores",
    "Comparison",
    "Row",
    "RunComparison",
    "Runs",
    "Scores",
    "board_text",
    "compare",
    "comparison_table",
    "comparisons",
    "comparisons_json",
    "latency_table",
    "leaderboard",
    "load_records",
    "load_runs",
    "ranked_latencies",
    "rows",
    "run_comparison_table",
    "to_csv",
    "to_json",
    "to_latex",
    "to_markdown",
    "to_table",
]
