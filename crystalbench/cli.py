"""The command line: parse, call, print. Heavy modules are imported inside the verbs that need them."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from crystalbench._exceptions import CrystalbenchError

if TYPE_CHECKING:
    from rich.console import Console

    from crystalbench.data import Dataset
    from crystalbench.experiment import Executor, Experiment, Record, Reproduction, Request, Tune
    from crystalbench.measure import Measurement
    from crystalbench.testing import Check, Result

OK, SOME_FAILED, WRONG_CALL = 0, 1, 2
_WRONG_PATH = (IsADirectoryError, NotADirectoryError, PermissionError, FileExistsError)
_DISK_FAILS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 (all ok), 1 (some method failed) or 2 (the call was wrong)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    verb: Callable[[argparse.Namespace], int] = options.verb
    try:
        status = verb(options)
        sys.stdout.flush()
        return status
    except CrystalbenchError as error:
        print(f"crystalbench: {error}", file=sys.stderr)
        return WRONG_CALL
    except BrokenPipeError:
        # The reader of the output, such as head, has seen enough; what is still buffered has no reader either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        long = (_run, _tune, _time, _paper, _reproduce, _measure, _data_make, _data_import)
        again = verb in long and error.errno in _DISK_FAILS
        advice = "; when that is mended, run the same command again" if again else ""
        print(f"crystalbench: {_reason(error)}{advice}", file=sys.stderr)
        return WRONG_CALL if isinstance(error, _WRONG_PATH) else SOME_FAILED
    except KeyboardInterrupt:
        print("crystalbench: interrupted; the same command goes on from here", file=sys.stderr)
        return SOME_FAILED


def _reason(error: OSError) -> str:
    # Files are written beside their place and renamed; the second name is then the one that the user knows.
    file = error.filename2 or error.filename
    return f"{file}: {error.strerror}" if file and error.strerror else str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crystalbench",
        description="Compare instance-segmentation methods on micrographs of crystals.",
        epilog="start with: crystalbench run --method sima",
    )
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="print the version and exit")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    _add_run(verbs)
    _add_tune(verbs)
    _add_time(verbs)
    _add_paper(verbs)
    _add_leaderboard(verbs)
    _add_compare(verbs)
    _add_score(verbs)
    _add_measure(verbs)
    _add_data(verbs)
    _add_methods(verbs)
    _add_door(verbs)
    return parser


class _PrintVersion(argparse.Action):
    """Look the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"crystalbench {version('crystalbench')}")
        parser.exit()


_Verbs = argparse._SubParsersAction  # the type that add_subparsers returns has no public name


def _add_run(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    run = verbs.add_parser("run", help="train and test methods, and print the leaderboard")
    run.set_defaults(verb=_run)
    _add_request(run, timeout=None)
    _add_executor(run)
    _add_tuned(run)
    _add_folds(run, "one row over K folds, each tested with the others trained and validated on")
    add = run.add_argument
    add("--nested", action="store_true", help="parameters that `crystalbench tune --folds K` chose in each fold")
    add("--dry-run", action="store_true", help="say what would be done")
    add("--retry", choices=("failed",), help="only the experiments that failed before")
    add("--retrain", action="store_true", help="train again also what is trained")


def _add_tune(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    tune = verbs.add_parser(
        "tune",
        help="choose a method's parameters on the validation images",
        description="Try the values that a method's YAML lists in `search`; what --set gives is not searched. "
        "The choice is in OUT/DATA/METHOD/tuned.yaml, for `crystalbench run --tuned`. The same command goes on "
        "where one was killed; several share the work.",
    )
    tune.set_defaults(verb=_tune, tuned=False, nested=False)
    _add_request(tune, timeout=None)
    _add_executor(tune)
    _add_folds(tune, "a search in each of K folds, for `crystalbench run --folds K --nested`")
    add = tune.add_argument
    add("--trainings", type=_positive, metavar="N", help="try N settings of `train` in all (the whole grid)")
    add("--sampler", choices=("grid", "tpe"), default="grid", help="tpe: Optuna's, with --trainings (%(default)s)")
    add("--prune", action="store_true", help="leave out points as soon as a test on the images so far says that they "
        "are worse than the best (Optuna's WilcoxonPruner)")  # fmt: skip
    add("--storage", metavar="URL", help="the Optuna study, such as postgresql://user@host/name "
        "(OUT/DATA/METHOD/tune/study.db)")  # fmt: skip
    add("--retry", choices=("failed",), help="try again what failed before")
    add("--dry-run", action="store_true", help="say how many trainings and points there are")


def _add_tuned(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tuned", nargs="?", type=Path, const=True, default=False, metavar="FILE",
        help="parameters that `crystalbench tune` chose (OUT/DATA/METHOD/tuned.yaml)")  # fmt: skip


def _add_folds(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--folds", type=_folds, metavar="K", help=what)


def _add_time(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    time = verbs.add_parser("time", help="time methods in turn on this machine; trains what is not trained")
    time.set_defaults(verb=_time, folds=None, nested=False, jobs=None)
    # A method that stands still would keep the turn from all others.
    _add_request(time, timeout=600.0)
    _add_tuned(time)
    time.add_argument("--retime", action="store_true", help="time again also what was timed on this machine")
    time.add_argument("--json", action="store_true")


def _add_paper(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    paper = verbs.add_parser(
        "paper",
        help="write the paper's tables and figures for a data set",
        description="Train and test what tables I to III and figures 4 to 6 of the paper need and is not there yet, "
        "and write them as Markdown, LaTeX, CSV, PNG and PDF, each number beside the one that the paper reports. "
        "--method names the rows of Table II, by default the paper's eight. The same command goes on where one was "
        "killed.",
    )
    paper.set_defaults(verb=_paper, nested=False)
    _add_request(paper, timeout=None, one_at_least=False)
    _add_executor(paper)
    _add_tuned(paper)
    _add_folds(paper, "over K folds, as the paper's (the fixed split)")
    paper.add_argument("--to", type=Path, metavar="DIR", help="where the tables and figures go (OUT/DATA/paper)")
    paper.add_argument("--dry-run", action="store_true", help="say what would be done")


def _add_request(parser: argparse.ArgumentParser, timeout: float | None, one_at_least: bool = True) -> None:
    """Add what says which experiments are meant, and what their workers may take."""
    add = parser.add_argument
    add("--method", action="append", required=one_at_least, metavar="M", help="may be repeated; all: every method")
    add("--data", default="demo", metavar="DATA", help="a made set or a data-set folder (%(default)s)")
    add("--train-data", metavar="DATA", help="train and validate on this set, test on all of --data")
    add("--preset", choices=("quick", "standard", "paper"), default="quick", help="(%(default)s)")
    add("--seed", type=_seed, nargs="+", default=[0], metavar="S", help="one experiment a seed (0)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(%(default)s)")
    add("--threads", type=_positive, metavar="T", help="CPU threads a job; part of its identity (cores over jobs)")
    add("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE",
        help="such as train.lr=0.01 or 'infer.resize_factors=[input,0.25,0.5,1]'; "
        "with several methods sima.train.cp.lr=0.01")  # fmt: skip
    add(
        "--limit",
        type=_positive,
        metavar="N",
        help="N images only, of the test or in tune of the validation; marked partial",
    )
    add("--timeout", type=_amount, metavar="S", default=timeout, help="end a job that makes no progress "
        f"for S seconds: no step that it reports, no image ({f'{timeout:g}' if timeout else 'none'})")  # fmt: skip
    add("--max-memory", type=_gigabytes, metavar="GB", help="end a job that holds more memory "
        "(what leaves the machine 5 %% of its own, from 0.5 to 2 GB)")  # fmt: skip
    add("--adapter", action="append", default=[], metavar="FILE[:Class]", help="a method of your own")
    add("--isolated", action="store_true", help="run adapters that carry a `# /// script` block with the "
        "dependencies it names (PEP 723), in an environment that uv builds")  # fmt: skip
    add("--unpickle-weights", action="store_true", help="read files of weights that need unpickling, "
        "which can run code: only for files you trust")  # fmt: skip
    add("--out", type=Path, default=Path("runs"), metavar="DIR", help="(%(default)s)")


def _add_executor(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--jobs", type=_positive, metavar="J", help="jobs side by side, without latencies (1; with ray as many as "
        "the cluster has room for)")  # fmt: skip
    add("--executor", choices=("local", "ray"), default="local", help="where jobs run (%(default)s)")
    add("--address", metavar="A", help="of the Ray cluster that this machine is a node of: HOST:PORT, auto, or local "
        "for one of this machine alone (auto)")  # fmt: skip


def _add_leaderboard(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    board = verbs.add_parser("leaderboard", help="show the results of all runs")
    board.set_defaults(verb=_leaderboard)
    board.add_argument("--runs", type=Path, nargs="+", metavar="DIR", help="(runs)")
    board.add_argument("--data", metavar="NAME", help="one data set alone")
    board.add_argument("--format", choices=("table", "json", "csv", "markdown", "latex", "html"), default="table",
        help="html: a page with figures and pictures, in one file, with over 50 test images in a folder beside it "
        "as well (%(default)s)")  # fmt: skip
    board.add_argument("--out", type=Path, metavar="FILE", help="(standard output; leaderboard.html)")
    board.add_argument(
        "--significance", action="store_true", help="compare all ranked rows in pairs, as table or json: "
        "Wilcoxon signed-rank tests with Bonferroni's and Holm's correction, bootstrap intervals"
    )  # fmt: skip


def _add_compare(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    compare = verbs.add_parser("compare", help="show how two runs differ, in settings and image by image")
    compare.set_defaults(verb=_compare)
    for number in ("first", "second"):
        compare.add_argument(number, type=Path, metavar="RUN", help="the folder of an experiment, or its record")
    compare.add_argument("--json", action="store_true")
    again = verbs.add_parser("reproduce", help="do the experiment of a record again and say what differs")
    again.set_defaults(verb=_reproduce)
    add = again.add_argument
    add("record", type=Path, metavar="RECORD", help="the folder of an experiment, or its record")
    add("--data", metavar="DATA", help="where its data set is (what the recorded command says)")
    add("--train-data", metavar="DATA", help="where the set that it was trained on is (the same)")
    add("--adapter", action="append", default=[], metavar="FILE[:Class]", help="the file of its method, where that is "
        "not built in; the one that the record names is not loaded unasked")  # fmt: skip
    add("--unpickle-weights", action="store_true", help="read files of weights that need unpickling, as run does; "
        "the record's own leave to do so does not count")  # fmt: skip
    add("--out", type=Path, metavar="DIR", help="a new folder (reproduced/KEY)")


def _add_score(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    score = verbs.add_parser("score", help="score label images made by any tool")
    score.set_defaults(verb=_score)
    score.add_argument("--truth", type=Path, required=True, metavar="DIR")
    score.add_argument("--prediction", type=Path, required=True, metavar="DIR")
    score.add_argument("--json", action="store_true")


def _add_measure(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    measure = verbs.add_parser(
        "measure",
        help="measure the crystals of new micrographs with the model of a run",
        description="Segment micrographs with the model of a run and measure their crystals: label maps, tables, "
        "a report, and files for ImageJ, Cellpose and COCO. The same command goes on where one was killed.",
    )
    measure.set_defaults(verb=_measure)
    add = measure.add_argument
    add("--model", type=Path, required=True, metavar="RUN", help="the folder of an experiment, runs/DATA/METHOD/KEY")
    add("images", type=Path, nargs="+", metavar="IMAGES", help="files, folders of images or data-set folders")
    add("--um-per-px", type=_amount, metavar="X", help="micrometres a pixel (what manifest.csv, dataset.yaml or the "
        "tags of a TIFF say)")  # fmt: skip
    add("--adapter", action="append", default=[], metavar="FILE[:Class]", help="the file of the model's method, where "
        "that is not built in")  # fmt: skip
    add("--out", type=Path, metavar="DIR", help="a new folder (measured/NAME of the first of IMAGES)")


def _add_data(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    data = verbs.add_parser("data", help="make, import, verify and show data sets")
    kinds = data.add_subparsers(required=True, metavar="VERB")
    make = kinds.add_parser("make", help="make a synthetic set, such as demo or refractory-like")
    make.set_defaults(verb=_data_make)
    make.add_argument("name", metavar="NAME")
    importer = kinds.add_parser("import", help="turn labelled images into a data-set folder")
    importer.set_defaults(verb=_data_import)
    importer.add_argument("kind", metavar="KIND", help="labels, boundaries, colours, cellpose or coco")
    importer.add_argument("source", type=Path, metavar="SRC")
    importer.add_argument("target", type=Path, metavar="DST")
    importer.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE",
        help="an option of the importer; boundaries: boundary=light, threshold=128, min_area=9; "
        "colours: 'background=[255,255,255]', connected=true; coco: images=FOLDER, 'categories=[crystal]'")  # fmt: skip
    verify = kinds.add_parser("verify", help="name every bad file and every leak between splits")
    verify.set_defaults(verb=_data_verify)
    verify.add_argument("folder", metavar="DIR")
    show = kinds.add_parser("show", help="describe a data set and draw a contact sheet")
    show.set_defaults(verb=_data_show)
    show.add_argument("folder", metavar="DIR")
    show.add_argument("--out", type=Path, metavar="FILE", help="(contact-sheet-NAME.png)")


def _add_methods(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    methods = verbs.add_parser("methods", help="list the methods")
    methods.set_defaults(verb=_methods)
    methods.add_argument("--json", action="store_true")
    methods.add_argument("--adapter", action="append", default=[], metavar="FILE[:Class]")
    doctor = verbs.add_parser("doctor", help="say what is installed and what each method lacks")
    doctor.set_defaults(verb=_doctor)
    doctor.add_argument("--adapter", action="append", default=[], metavar="FILE[:Class]")


def _add_door(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    new = verbs.add_parser("new", help="write the files that a method of your own begins with")
    new.set_defaults(verb=_new)
    new.add_argument("name", metavar="NAME")
    new.add_argument("--to", type=Path, default=Path(), metavar="DIR", help="(the current folder)")
    check = verbs.add_parser("check", help="see that a method does what is asked of all methods")
    check.set_defaults(verb=_check)
    check.add_argument("name", metavar="NAME")
    check.add_argument("--adapter", action="append", default=[], metavar="FILE[:Class]")
    check.add_argument(
        "--isolated", action="store_true", help="in the environment of the adapter's `# /// script` block"
    )


def _run(options: argparse.Namespace) -> int:
    from crystalbench.experiment import Limits, Run, open_executor, plan, reporter

    console = _stderr()
    say = reporter(console)
    executor = open_executor(options.executor, options.jobs, options.address, say.say)
    request = _request(options, console, executor)
    experiments = plan(request, say.say)
    if options.retry:
        experiments = [experiment for experiment in experiments if _has_failed(experiment)]
    if options.dry_run:
        _print_plan(experiments, options.retrain)
        return OK
    _keep_folds(request, console)
    limits = Limits(options.timeout, options.max_memory)
    records = Run(experiments, say, retrain=options.retrain, limits=limits, executor=executor)()
    _print_results(experiments, records)
    return OK if all(record.status == "ok" for record in records) else SOME_FAILED


def _request(options: argparse.Namespace, console: Console, executor: Executor) -> Request:
    from crystalbench import _devices
    from crystalbench.experiment import Request
    from crystalbench.registry import choose_methods

    # Before a data set is made or read through, which can take minutes.
    choose_methods(options.method, options.adapter)
    return Request(
        methods=tuple(dict.fromkeys(options.method)),
        dataset=_usable(options.data, console),
        train_dataset=_usable(options.train_data, console) if options.train_data else None,
        preset=options.preset,
        seeds=tuple(dict.fromkeys(options.seed)),
        settings=tuple(options.settings),
        adapters=tuple(options.adapter),
        limit=options.limit,
        device=executor.device(options.device),
        threads=options.threads or max(1, _devices.cores() // (options.jobs or 1)),
        isolated=options.isolated,
        unpickle=options.unpickle_weights,
        tuned=options.tuned or options.nested,
        folds=options.folds,
        nested=options.nested,
        out=options.out,
    )


def _usable(data: str, console: Console) -> Dataset:
    """Open a data set; one that people made is read through first, so that bad files are named at once."""
    from crystalbench.data import check_files, find_folder, open_dataset

    with _counter(console, f"make {data}") as report:
        folder = find_folder(data, report)
    with _counter(console, f"check {folder.name}") as report:
        problems = check_files(folder, report)
    for problem in problems:
        console.print(str(problem), markup=False, highlight=False, soft_wrap=True)
    return open_dataset(folder)


def _keep_folds(request: Request, console: Console) -> None:
    """Write new folds down beside the images, and show what is odd about them."""
    from crystalbench.data import check_files, folds_name, keep_folds

    if request.folds is None:
        return
    try:
        file = keep_folds(request.dataset, request.folds)
    except OSError as error:
        told = [f"warning: the folds are not written down, and are made again each time: {_reason(error)}"]
    else:
        told = [f"the folds are in {file}"] if file else []
    root, name = request.dataset.root, folds_name(request.folds)
    with _counter(console, f"check {name}") as report:
        problems = check_files(root, report, name)
    for line in (*told, *(str(problem) for problem in problems if problem.file.parent == root / "splits")):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _has_failed(experiment: Experiment) -> bool:
    from crystalbench.experiment import read_record

    record = read_record(experiment.folder)
    return record is not None and record.status != "ok"


def _print_plan(experiments: Sequence[Experiment], retrain: bool) -> None:
    trained: set[str] = set()
    for experiment in experiments:
        for name, training in experiment.trainings.items():
            if training.key not in trained:
                state = "done" if training.is_done and not retrain else "to do"
                print(f"train {name:12} {state:6} {training.folder}")
            trained.add(training.key)
        tested = f"{len(experiment.samples)} images{experiment.parts.suffix}"
        print(f"test  {experiment.method.name:20} {tested} -> {experiment.folder}")
    n_images = sum(len(experiment.samples) for experiment in experiments)
    print(f"in all: {len(trained)} trainings, {len(experiments)} tests of {n_images} images")


def _print_results(experiments: Sequence[Experiment], records: Sequence[Record]) -> None:
    from crystalbench.leaderboard import board_text

    if not records:
        print("nothing to do", file=sys.stderr)
        return
    print(board_text(records), end="")
    for experiment, record in zip(experiments, records, strict=True):
        if record.overlays:
            print(f"overlays of {record.method}: {experiment.folder / 'overlays'}")
        if record.error:
            failed = next((job for job in experiment.trainings.values() if not job.is_done), experiment)
            print(f"{record.method} {record.status}: see {failed.folder / 'log.txt'}", file=sys.stderr)
            print(record.error.log_tail, file=sys.stderr)


def _tune(options: argparse.Namespace) -> int:
    from crystalbench._exceptions import WorkerError
    from crystalbench.experiment import Limits, Tune, open_executor, plan_searches, reporter

    console = _stderr()
    say = reporter(console)
    executor = open_executor(options.executor, options.jobs, options.address, say.say)
    limits = Limits(options.timeout, options.max_memory)
    request = _request(options, console, executor)
    searches = plan_searches(request, say.say, prune=options.prune)
    if not options.dry_run:
        _keep_folds(request, console)
    status = OK
    for search in searches:
        retry = bool(options.retry) and not options.dry_run
        tune = Tune(search, say, options.sampler, options.trainings, options.storage, retry, limits, executor)
        if options.dry_run:
            _print_search(tune)
            continue
        try:
            _print_tuned(tune)
        except WorkerError as error:
            print(f"crystalbench: {error}", file=sys.stderr)
            status = SOME_FAILED
    return status


def _print_search(tune: Tune) -> None:
    search, trained, n_points = tune.search, 0, 0
    print(f"{search.title} on {len(search.samples)} validation images, preset {search.request.preset}")
    for stage in tune.plan():
        print(f"stage {stage.name:12} {stage.described}")
        trained += stage.trainings
        n_points += len(stage.points)
    print(f"in all: {trained} trainings, {n_points} points")


def _print_tuned(tune: Tune) -> None:
    from crystalbench._console import screen
    from crystalbench.experiment import points_table

    tuned, records = tune()
    screen().print(points_table(records))
    cost, title = tuned.cost, tune.search.title
    trainings = ", ".join(f"{count} of {name}" for name, count in cost.trainings_by_component.items())
    print(
        f"{title}: PQ {100 * tuned.pq:.1f} % on {tuned.n_images} validation images; {cost.points} points of "
        f"{cost.trainings} trainings{f' ({trainings})' if trainings else ''} took {cost.device_s:.3g} s on the device, "
        f"point by point {cost.device_s_point_by_point:.3g} s"
    )
    fold = tune.search.parts.fold
    flags = f"--folds {fold.folds} --nested" if fold else "--tuned"
    print(f"chosen: {tune.file}; crystalbench run {flags} takes it")


def _time(options: argparse.Namespace) -> int:
    from crystalbench._console import screen
    from crystalbench.experiment import Limits, Local, TimeRun, plan, reporter
    from crystalbench.leaderboard import latency_table, ranked_latencies

    console = _stderr()
    say = reporter(console)
    experiments = plan(_request(options, console, Local()), say.say)
    limits = Limits(options.timeout, options.max_memory)
    timed = TimeRun(experiments, say, again=options.retime, limits=limits)()
    rows = ranked_latencies(timed)
    if options.json:
        _print_json(rows)
    else:
        screen().print(latency_table(rows))
    return OK if all(one.is_ok for one in timed) else SOME_FAILED


def _paper(options: argparse.Namespace) -> int:
    from crystalbench.experiment import Limits, Run, open_executor, reporter
    from crystalbench.paper import METHODS, check_matplotlib, plan_study, read_results, write_paper

    check_matplotlib()
    console = _stderr()
    say = reporter(console)
    executor = open_executor(options.executor, options.jobs, options.address, say.say)
    options.method = options.method or list(METHODS)
    study = plan_study(_request(options, console, executor), say.say)
    if options.dry_run:
        _print_plan(study.experiments, retrain=False)
        return OK
    _keep_folds(study.request, console)
    limits = Limits(options.timeout, options.max_memory)
    records = Run(study.experiments, say, limits=limits, executor=executor)()
    folder = options.to or options.out / study.request.dataset.name / "paper"
    with _counter(console, "score boundaries") as report:
        print(write_paper(read_results(study), folder, report))
    return OK if all(record.status == "ok" for record in records) else SOME_FAILED


def _leaderboard(options: argparse.Namespace) -> int:
    from crystalbench.leaderboard import leaderboard

    with _counter(_stderr(), "draw test images") as report:
        text = leaderboard(options.runs, options.data, options.format, options.out, options.significance, report)
    if text is not None:
        sys.stdout.write(text)
    return OK


def _compare(options: argparse.Namespace) -> int:
    from crystalbench._console import screen
    from crystalbench.experiment import open_record
    from crystalbench.leaderboard import compare, run_comparison_table

    comparison = compare(open_record(options.first), open_record(options.second))
    if options.json:
        _print_json(comparison.model_dump(mode="json"))
    else:
        screen().print(run_comparison_table(comparison))
    return OK


def _reproduce(options: argparse.Namespace) -> int:
    from crystalbench.data import safe_name
    from crystalbench.experiment import Reproducer, open_record, reporter, told_data
    from crystalbench.registry import find_method

    console = _stderr()
    record = open_record(options.record)
    with _missing("method", "--adapter"):
        find_method(record.method, options.adapter)
    data, train_data = told_data(record)
    trained = options.train_data or train_data
    with _missing("data set", "--data"):
        dataset = _usable(options.data or data, console)
    with _missing("training data", "--train-data"):
        train_dataset = _usable(trained, console) if trained else None
    reproduce = Reproducer(
        dataset=dataset,
        train_dataset=train_dataset,
        adapters=options.adapter,
        unpickle=options.unpickle_weights,
        out=options.out or Path("reproduced") / safe_name(record.key[:12]),
    )
    done = reproduce(record, reporter(console))
    _print_reproduction(done)
    return OK if done.is_same else SOME_FAILED


@contextmanager
def _missing(what: str, flag: str) -> Iterator[None]:
    """Say of what a record names and is not here how to name it."""
    from crystalbench._exceptions import ConfigurationError, UnknownNameError

    try:
        yield
    except UnknownNameError as error:
        raise ConfigurationError(f"the {what} of the record is not here: {error}; name it with {flag}") from error


def _print_reproduction(done: Reproduction) -> None:
    from crystalbench.leaderboard._cells import plain

    images, n_images = done.images, len(done.recorded.images)
    same = f"the scores of all {n_images} images are the same, integer for integer"
    lines = [
        *([f"{done.again.status}: {done.again.error.message}"] if done.again.error else []),
        *(f"{name}: differs in {', '.join(differing)}" for name, differing in images.items()),
        *(f"{name}: {before} -> {now}" for name, (before, now) in {**done.scores, **done.conditions}.items()),
        *(f"{name}: made with other pixels than in the record" for name in done.other_pixels),
        same if done.is_same else f"the scores of {len(images)} of {n_images} images differ",
        str(done.folder),
    ]
    # A record can be a stranger's.
    print("\n".join(map(plain, lines)))


def _score(options: argparse.Namespace) -> int:
    from rich.console import Console

    from crystalbench.evaluation import score_folders, score_table

    with _counter(_stderr(), "score") as report:
        scores = score_folders(options.truth, options.prediction, report)
    if options.json:
        _print_json(scores.to_json())
    else:
        Console().print(score_table(scores))
    return OK


def _measure(options: argparse.Namespace) -> int:
    from crystalbench._exceptions import WorkerError
    from crystalbench.data import safe_name
    from crystalbench.experiment import open_record, reporter
    from crystalbench.measure import Measure, find_micrographs, open_model
    from crystalbench.registry import find_method

    say = reporter(_stderr())
    images = find_micrographs(options.images)
    with _missing("method", "--adapter"):
        find_method(open_record(options.model).method, options.adapter)
    model = open_model(options.model, options.adapter, say.say)
    out = options.out or Path("measured") / safe_name(options.images[0].resolve().stem)
    try:
        done = Measure(model, images, options.um_per_px, out, say)()
    except WorkerError as error:
        print(f"crystalbench: {error}", file=sys.stderr)
        return SOME_FAILED
    _print_measurement(done)
    return SOME_FAILED if done.failed else OK


def _print_measurement(done: Measurement) -> None:
    from crystalbench.leaderboard._cells import plain

    for summary in done.failed:
        # Files can be called anything.
        print(plain(f"{summary.image}: {summary.error}"), file=sys.stderr)
    n_crystals = sum(len(one.crystals.label) for _, one in done.good)
    print(f"{n_crystals} crystals in {len(done.good)} images, {len(done.failed)} images failed: {done.out}")


def _data_make(options: argparse.Namespace) -> int:
    from crystalbench.data import make_dataset

    with _counter(_stderr(), f"make {options.name}") as report:
        folder = make_dataset(options.name, report=report)
    print(folder)
    return OK


def _data_import(options: argparse.Namespace) -> int:
    from crystalbench.config import parse_options
    from crystalbench.data import import_dataset

    report = import_dataset(options.kind, options.source, options.target, **parse_options(options.settings))
    print(f"{options.target}: {report.n_images} images, {report.n_crystals} crystals")
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    return OK


def _data_verify(options: argparse.Namespace) -> int:
    from crystalbench.data import find_folder, verify_dataset

    console = _stderr()
    folder = find_folder(options.folder)
    with _counter(console, f"verify {folder.name}") as report:
        problems = verify_dataset(folder, report)
    for problem in problems:
        print(problem)
    errors = sum(problem.kind == "error" for problem in problems)
    print(f"{folder}: {errors} errors, {len(problems) - errors} warnings", file=sys.stderr)
    return WRONG_CALL if errors else OK


def _data_show(options: argparse.Namespace) -> int:
    from crystalbench.data import contact_sheet, describe

    dataset = _open(options.folder, _stderr())
    print(_described(describe(dataset)))
    print(contact_sheet(dataset, options.out or Path(f"contact-sheet-{dataset.name}.png")))
    return OK


def _described(facts: Mapping[str, object]) -> str:
    """Return one line a fact; what has parts of its own stands indented below it."""
    import yaml

    return yaml.safe_dump(dict(facts), sort_keys=False, allow_unicode=True).rstrip()


def _methods(options: argparse.Namespace) -> int:
    from rich.table import Column, Table
    from rich.text import Text

    from crystalbench._console import screen
    from crystalbench.registry import find_methods

    infos = [method.info for method in find_methods(options.adapter).values()]
    if options.json:
        _print_json([info.model_dump(mode="json") for info in infos])
        return OK
    # Names are typed: what is short of room is folded, and they are not.
    method, extra = Column("method", no_wrap=True), Column("extra", no_wrap=True)
    parameters, size = Column("parameters", no_wrap=True), Column("input", no_wrap=True)
    title, licence = Column("title", overflow="fold"), Column("licence", overflow="fold")
    table = Table(method, title, parameters, size, extra, licence)
    for info in infos:
        control = " (control)" if info.control else ""
        cells = (
            info.name + control,
            info.title,
            f"{info.parameters:,}",
            f"{info.input_size} px" if info.input_size else "-",
            info.extra or "-",
            info.licence,
        )
        table.add_row(*map(Text, cells))
    screen().print(table)
    return OK


def _doctor(options: argparse.Namespace) -> int:
    from crystalbench._doctor import examine

    return OK if examine(options.adapter) else SOME_FAILED


def _new(options: argparse.Namespace) -> int:
    from crystalbench._new import new_method

    adapter, settings, test = (shlex.quote(str(file)) for file in new_method(options.name, options.to))
    print(f"wrote {adapter}, {settings} and {test}: a method that works; now make it yours")
    print(f"  crystalbench check {options.name} --adapter {adapter}")
    print(f"  crystalbench run --method {options.name} --adapter {adapter}")
    print(f"  pytest {test}")
    return OK


def _check(options: argparse.Namespace) -> int:
    if options.isolated:
        from crystalbench.experiment import check_isolated

        return check_isolated(options.name, options.adapter, lambda text: print(text, file=sys.stderr))
    from tempfile import TemporaryDirectory

    from crystalbench.testing import CHECKS, Suite, counts

    with TemporaryDirectory(prefix="crystalbench-check-") as folder:
        suite = Suite(options.name, Path(folder), options.adapter)
        results = []
        for name, check in CHECKS.items():
            with _stderr().status(f"check {name}"):
                results.append(suite.run(name))
            _print_result(results[-1], check)
    print(counts(results))
    return SOME_FAILED if any(result.outcome == "failed" for result in results) else OK


def _print_result(result: Result, check: Check) -> None:
    reason = f": {result.reason}" if result.reason else f" ({result.seconds:.1f} s)"
    print(f"{result.outcome:17}{result.check}{reason}", flush=True)
    if result.outcome == "failed":
        print(f"{'':17}asked: {check.asks}", flush=True)
        print(result.trace, end="", file=sys.stderr, flush=True)


def _open(data: str, console: Console) -> Dataset:
    from crystalbench.data import find_dataset

    with _counter(console, f"make {data}") as report:
        return find_dataset(data, report)


@contextmanager
def _counter(console: Console, title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar for work that counts items; it appears with the first report, and on a terminal alone."""
    from rich.progress import Progress

    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=None, visible=False)
        yield lambda done, total: bars.update(task, completed=done, total=total, visible=True)


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _print_json(value: object) -> None:
    import json

    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _folds(text: str) -> int:
    if not text.isdecimal() or int(text) < 3:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 3, to train, validate and test")
    return int(text)


def _amount(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = 0.0
    if not 0 < amount < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return amount


def _gigabytes(text: str) -> float:
    return _amount(text) * 1e9


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)
