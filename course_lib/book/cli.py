"""The `course` command: thin commands over the rest of this package, imported only when a command needs it."""

import functools
import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import course_lib
from course_lib import files
from course_lib.book import CourseError
from course_lib.names import CHECKPOINTS, DATA_SETS, unknown_name

app = typer.Typer(
    help="Run, refresh and look after the notebooks of the course.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Data sets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data, name="data")

_Chapters = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CHAPTER]...", help="A number (01), a file name, or the start of one of its words."
    ),
]
_Notebooks = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CHAPTER]...",
        help="A number (01), a file name, or the start of one of its words; studies/01 for the studies of 01.",
    ),
]
_Profile = Annotated[str, typer.Option(help="fast, or a file of notebooks/profiles.")]
_Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Set a parameter; 01.NAME=VALUE in one chapter."),
]
_CaFile = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca-file",
        metavar="FILE",
        help="For a scheduler at tls://...: its authority's certificate (PEM).",
    ),
]
_Cert = Annotated[
    Path | None, typer.Option("--tls-cert", metavar="FILE", help="Your certificate for it (PEM).")
]
_Key = Annotated[
    Path | None,
    typer.Option("--tls-key", metavar="FILE", help="The certificate's private key (PEM), without password."),
]
_INTERRUPTED = 130


def _folder(text: str) -> Path:
    """Read a folder as typed."""
    if not text.strip():
        raise typer.BadParameter("it is empty; name a folder")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~nobody
        raise typer.BadParameter(f"{text!r}: {error}") from error


def _clean(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a person can mend ends the command with one message on stderr: status 2, or 1 for data and disk."""

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except BrokenPipeError:
            raise  # the reader of the output has gone, as `head` does; click ends quietly
        except OSError as error:
            _fail(error.strerror if error.strerror and not error.filename else str(error), 2)
        except (ValueError, RuntimeError) as error:
            # CourseError and ClusterError; CheckpointError and DatasetError. Others are faults of the program.
            if not type(error).__module__.startswith("course_lib."):
                raise
            _fail(str(error), 2 if isinstance(error, ValueError) else 1)

    return wrapped


def _fail(message: str, status: int) -> None:
    typer.echo(f"course: {message}", err=True)
    raise typer.Exit(status)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"course {course_lib.__version__}")
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Run, refresh and look after the notebooks of the course."""


@app.command("list")
@_clean
def list_chapters() -> None:
    """List the chapters, each with its studies, and the parameters that --set may change."""
    from course_lib.book import notebooks

    for chapter in notebooks.book():
        typer.echo(f"{chapter.name}  {chapter.title}")
        for name, value in chapter.parameters.items():
            typer.echo(f"    {name} = {value!r}")


@app.command()
@_clean
def run(
    chapters: _Notebooks = None,
    profile: _Profile = "fast",
    assignments: _Assignments = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Parameter `seed`, in the chapters that have it.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=_folder, metavar="DIR", help="Folder of the executed notebooks. [build/course]"),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Chapters to run side by side, on one thread each; by default one a core. A cell that measures times "
            "runs while no other does. 1: one after another, in the order of the book.",
        ),
    ] = None,
    cell_timeout: Annotated[
        float | None,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="Time that one cell may take. [900; no limit with recompute, retrain or real_data]",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an earlier run of the same settings.")
    ] = False,
) -> None:
    """Run chapters and leave the executed notebooks in a folder. Exit status 1 if one fails."""
    from course_lib.book.run import course, show

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    output = show.console()
    settings = {"profile": profile, "seed": seed, "set": assignments or []}
    plan = course.plan(chapters or [], settings, out or files.work() / "build" / "course", resume=resume)
    for note in plan.notes:
        output.print(note, soft_wrap=True)
    try:
        course.carry_out(plan, jobs=jobs, cell_seconds=cell_timeout, output=output)
    except (KeyboardInterrupt, OSError) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        passed = sum(not record["failure"] for _, record in plan.records())
        again = _resume_command(chapters or [], settings, out, jobs, cell_timeout)
        _fail(
            f"{'interrupted' if interrupted else error.strerror or error}; {passed} of {len(plan.selected)} chapters "
            f"have passed and are kept in {plan.out}. Go on with: {again}",
            _INTERRUPTED if interrupted else 1,
        )
    output.print(show.summary(plan.records()))
    output.print(f"Executed notebooks: {plan.out}", soft_wrap=True)
    failed = sum(bool(record["failure"]) for _, record in plan.records())
    if failed:
        output.print(f"{failed} of {len(plan.selected)} chapters failed", soft_wrap=True)
        raise typer.Exit(1)


def _resume_command(
    chapters: list[str],
    settings: dict[str, Any],
    out: Path | None,
    jobs: int | None,
    cell_timeout: float | None,
) -> str:
    words = ["course", "run", *chapters, "--profile", settings["profile"]]
    words += [word for assignment in settings["set"] for word in ("--set", assignment)]
    words += ["--seed", str(settings["seed"])] if settings["seed"] is not None else []
    words += ["--out", str(out)] if out else []
    words += ["--jobs", str(jobs)] if jobs else []
    words += ["--cell-timeout", f"{cell_timeout:g}"] if cell_timeout else []
    return shlex.join([*words, "--resume"])


@app.command("sweep")
@_clean
def run_seeds(
    chapter: Annotated[str, typer.Argument(help="One that has a parameter `seed`.")],
    seeds: Annotated[str, typer.Option(help="Such as 0-9 or 0,3,5-7.")],
    profile: _Profile = "fast",
    assignments: _Assignments = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=_folder, metavar="DIR", help="Folder of the results. [build/sweep/CHAPTER]"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="To start on this machine; by default one a core.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Of a running Dask cluster, to use instead.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for the scheduler to answer and to have workers.")
    ] = 10.0,
    tls_ca_file: _CaFile = None,
    tls_cert: _Cert = None,
    tls_key: _Key = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write the figures to data/results/sweep-CHAPTER.json.")
    ] = False,
) -> None:
    """Run a chapter over many seeds with Dask and merge its key figures: mean and 95 % interval.

    Begun again, it goes on where it ended. Exit status 1 if a seed fails.
    """
    if record:
        files.require_own("--record")
    if scheduler is not None and workers is not None:
        raise CourseError(
            "--workers are started on this machine; a cluster (--scheduler) has its own. Leave one out"
        )
    tls = _tls(scheduler, tls_ca_file, tls_cert, tls_key)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = {"profile": profile, "set": assignments or []}
    wanted = _checked(chapter, seeds, settings)
    from course_lib.book.run import show, sweep
    from course_lib.book.site import recorded

    output = show.console()
    planned = sweep.plan(chapter, wanted, settings, out)
    for note in planned.notes:
        output.print(note, soft_wrap=True)
    try:
        sweep.carry_out(
            planned, scheduler=scheduler, workers=workers, timeout=timeout, tls=tls, output=output
        )
    except (KeyboardInterrupt, OSError) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        ended = len(planned.seeds) - len(planned.waiting())
        _fail(
            f"{'interrupted' if interrupted else error.strerror or error}; {ended} of {len(planned.seeds)} seeds are "
            f"kept in {planned.out}. Go on with the same command",
            _INTERRUPTED if interrupted else 1,
        )
    failures = planned.failures()
    output.print(recorded.table(recorded.of_sweep(planned.record)))
    output.print(f"Executed notebooks and {sweep.NAME}: {planned.out}", soft_wrap=True)
    for seed, failure in failures.items():
        output.print(f"seed {seed} {show.describe(failure)}", soft_wrap=True)
    if failures:
        nothing = "; nothing was recorded" if record else ""
        output.print(
            f"{len(failures)} of {len(planned.seeds)} seeds failed{nothing}. The same command runs them again"
        )
        raise typer.Exit(1)
    if record:
        output.print(f"Recorded: {sweep.keep(planned)}", soft_wrap=True)


def _checked(chapter: str, seeds: str, settings: dict[str, Any]) -> list[int]:
    """Read the seeds, and refuse what `sweep.plan` would refuse too, after seconds of importing."""
    from course_lib.book import notebooks
    from course_lib.book.run import profiles
    from course_lib.book.run.seeds import parse_seeds

    wanted, book = parse_seeds(seeds), notebooks.book()
    profiles.resolve(
        book,
        notebooks.select([chapter], book),
        profile=profiles.load(settings["profile"], notebooks.folder() / "profiles"),
        seed=None,
        assignments=profiles.parse_assignments(settings["set"]),
    )
    return wanted


@app.command("results")
@_clean
def show_results(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="Records as listed, or folders of a sweep; all are listed without."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the record named (png, pdf or svg).")
    ] = None,
) -> None:
    """List what was recorded, or print records: mean and 95 % interval of every arm."""
    from course_lib.book import kept

    kept.find(names or [])  # a wrong name is answered before seconds of importing
    from course_lib.book.run import show
    from course_lib.book.site import recorded

    output = show.console()
    found = recorded.select(names or [])
    if plot is not None and len(found) != 1:
        raise CourseError(
            f"--plot draws one record and {len(found)} are meant; name one: course results NAME --plot FILE"
        )
    if plot is not None:
        recorded.save_plot(found[0], plot)
        output.print(f"Drawn: {plot}", soft_wrap=True)
    elif not names:
        output.print(recorded.listing(found))
    else:
        for record in found:
            output.print(recorded.heading(record), soft_wrap=True)
            output.print(recorded.table(record))


@app.command()
@_clean
def refresh(
    chapters: _Notebooks = None,
    check: Annotated[
        bool, typer.Option("--check", help="Run nothing; report what is not normalised.")
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="On a busy machine too, where times are not to be relied on.")
    ] = False,
) -> None:
    """Run the committed notebooks in place, with normalised metadata. One that fails is left as it was.

    The numbers between the marks in the prose of all notebooks and pages, and in the README, are then those of the run.
    On a busy machine nothing is run, and a notebook after which it is busy is not written.
    """
    from course_lib.book import notebooks, prose
    from course_lib.book.run import course, show

    selected = notebooks.select(chapters or [], notebooks.book())
    if check:
        found = [
            f"{chapter.name}: {fault}" for chapter in selected for fault in notebooks.faults(chapter.path)
        ]
        found += prose.refresh(write=False)
        for line in found:
            typer.echo(line)
        typer.echo(
            f"notebooks: {len(selected)}, faults: {len(found)}"
            + ("; mend them: course refresh" if found else "")
        )
        raise typer.Exit(1 if found else 0)
    files.require_own("`course refresh`")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        failures, troubles = course.refresh(selected, anyway=anyway, output=show.console())
    except KeyboardInterrupt:
        typer.echo("course: interrupted; the notebooks not yet reported as passed are as they were", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    for name, failure in failures.items():
        typer.echo(f"{name} is left as it was: {show.describe(failure)}", err=True)
    for trouble in troubles:
        typer.echo(trouble, err=True)
    raise typer.Exit(1 if failures or troubles else 0)


_LearnersFolder = Annotated[
    Path | None,
    typer.Option(
        parser=_folder,
        metavar="DIR",
        help="Your folder. [the current one if `course learn` made it, else my-course in it]",
    ),
]


@app.command()
@_clean
def learn(
    chapters: _Chapters = None,
    folder: _LearnersFolder = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open JupyterLab.")] = False,
) -> None:
    """Make a folder of your own with chapters to work on, without solutions, and open JupyterLab there.

    Again, it brings what has changed in the course since. What you have worked on is never written over: the new
    version of such a file is put beside it.
    """
    from course_lib.book.learner import folder as own
    from course_lib.book.learner import lab, progress

    place = own.find(folder)
    given, chosen = own.give(place, chapters or [])
    for line in given.told(place):
        typer.echo(line)
    if no_open:
        typer.echo(f"Open it: cd {shlex.quote(str(place))} && jupyter lab")
        return
    typer.echo("JupyterLab opens in your browser. How far you are: course progress. To end: Ctrl-C")
    names = [chapter.name for chapter in chosen]
    raise typer.Exit(lab.start(place, progress.to_open(progress.examine(place)[0], names)))


@app.command("progress")
@_clean
def show_progress(folder: _LearnersFolder = None) -> None:
    """Show which exercises you have tried and which pass, the minutes left to read, and what is next.

    It is read from the notebooks in your folder as they are saved. Without such a folder: from what the checks have
    recorded in the notebooks of the course itself.
    """
    from course_lib.book.learner import folder as own
    from course_lib.book.learner import progress as learners
    from course_lib.book.run import progress, show
    from course_lib.checks import attempts

    output, place = show.console(), own.find(folder)
    if folder is not None and not own.is_one(place):
        raise CourseError(
            f"`course learn` has made no folder {place}. Make it: course learn --folder {shlex.quote(str(place))}"
        )
    if own.is_one(place):
        lines, missing = learners.examine(place)
        output.print(learners.table(lines))
        output.print(learners.next_step(lines, missing), soft_wrap=True)
        return
    output.print(progress.table(progress.examine()))
    if not attempts.path().is_file():
        output.print(
            "No check of an exercise was run in a notebook yet. Make a folder to work in: course learn",
            soft_wrap=True,
        )


@app.command()
@_clean
def solution(
    chapter: Annotated[
        str, typer.Argument(help="A number (01), a file name, or the start of one of its words.")
    ],
    exercise: Annotated[str, typer.Argument(help="Its number in the chapter, or its name.")],
    folder: _LearnersFolder = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Without a try, too.")] = False,
) -> None:
    """Print one solution of an exercise that you have tried, and what its check says of it."""
    from course_lib.book.learner import folder as own
    from course_lib.book.learner import solution as solutions

    name, found = solutions.find(chapter, exercise)
    if not anyway:
        solutions.require_try(own.find(folder), name, found)
    typer.echo(solutions.text(name, found))


@app.command()
@_clean
def release(
    folder: Annotated[
        Path, typer.Argument(parser=_folder, metavar="DIR", help="To write; it must be new or empty.")
    ],
    chapters: _Chapters = None,
    force: Annotated[bool, typer.Option("--force", help="Write over what is in DIR.")] = False,
) -> None:
    """Write a folder to hand out: chapters without solutions, the library, the data, and a README for students."""
    from course_lib.book.classroom import release as handing_out

    names = handing_out.write(folder, chapters or [], force=force)
    typer.echo(f"Handed out in {folder}: {', '.join(names)}")


@app.command()
@_clean
def slides(
    folder: Annotated[
        Path, typer.Argument(parser=_folder, metavar="DIR", help="To write; it must be new or empty.")
    ],
    chapters: _Chapters = None,
    force: Annotated[bool, typer.Option("--force", help="Write over what is in DIR.")] = False,
) -> None:
    """Write slides of the chapters, to be shown in a browser without a network."""
    from course_lib.book.site import slides as showing

    names = showing.write(folder, chapters or [], force=force)
    typer.echo(f"Slides in {folder / 'index.html'}: {', '.join(names)}")


@app.command()
@_clean
def grade(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=_folder, metavar="DIR", help="One folder for each student, with the notebooks in it."
        ),
    ],
    chapters: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CHAPTER]...", help="Those to grade; by default those that somebody handed in."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(parser=_folder, metavar="DIR", help="Folder of the grades. [DIR-grades]")
    ] = None,
    timeout: Annotated[int, typer.Option(min=1, help="Seconds that one cell may take.")] = 30,
    memory: Annotated[
        int, typer.Option(min=1280, help="MB that one submission may take; PyTorch alone takes 1000.")
    ] = 2048,
    without_sandbox: Annotated[
        bool,
        typer.Option(
            "--without-sandbox",
            help="Grade where there is no bubblewrap; submissions can then do all you can.",
        ),
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Submissions to grade side by side; by default one a core.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Of a running Dask cluster, to grade there instead.")
    ] = None,
    tls_ca_file: _CaFile = None,
    tls_cert: _Cert = None,
    tls_key: _Key = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on: grades of unchanged submissions are kept.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Grade everything anew and write over earlier grades.")
    ] = False,
) -> None:
    """Grade what students handed in: grades.csv, and a page of feedback for each student.

    DIR holds one folder for each student, named as the student is to be called, with the notebooks in it:

        DIR/anna/01-knowledge-distillation.ipynb
        DIR/ben/notebooks/01-knowledge-distillation.ipynb

    A notebook belongs to the chapter that it is named after, or whose number its name begins with. Nothing else in a
    student's folder is used. Each submission runs in bubblewrap: with limits, without network, and with no folder to
    see or to write in but its own. Where that cannot be had, nothing is graded unless you say --without-sandbox.

    Exit status 0 though submissions fail; 1 if one could not be graded for a fault of the machine.
    """
    if os.name != "posix":
        raise CourseError(
            "submissions are graded in processes with limits, which Linux and macOS have; use one of them"
        )
    from course_lib.book.classroom import grading as marks
    from course_lib.book.classroom.marking import Settings
    from course_lib.book.run import show

    if scheduler is not None and jobs is not None:
        raise CourseError(
            "--jobs are processes of this machine; a cluster (--scheduler) has its own. Leave one out"
        )
    tls = _tls(scheduler, tls_ca_file, tls_cert, tls_key)
    if resume and force:
        raise CourseError("--resume keeps what is graded and --force does not. Leave one out")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    output = show.console()
    planned = marks.plan(
        folder,
        chapters or [],
        Settings(timeout, memory, not without_sandbox),
        out,
        resume=resume,
        force=force,
    )
    for note in planned.notes:
        output.print(note, soft_wrap=True)
    try:
        marks.carry_out(planned, jobs=jobs, scheduler=scheduler, tls=tls, output=output)
    except (KeyboardInterrupt, OSError) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        ended = len(planned.submissions) - len(planned.waiting())
        _fail(
            f"{'interrupted' if interrupted else error.strerror or error}; {ended} of {len(planned.submissions)} "
            f"submissions are kept in {planned.out}. Go on with the same command and --resume",
            _INTERRUPTED if interrupted else 1,
        )
    output.print(show.grades(planned.rows()))
    for said in marks.boxes(planned):
        output.print(said, soft_wrap=True)
    output.print(f"{marks.GRADES} and {marks.PAGES}/: {planned.out}", soft_wrap=True)
    if troubles := planned.troubles():
        output.print(f"{len(troubles)} not graded for a fault of the machine. Once more: --resume")
        raise typer.Exit(1)


def _tls(scheduler: str | None, *files: Path | None) -> Any:
    """The credentials that were typed."""
    from course_lib.credentials import TlsFiles

    if scheduler is None and any(files):
        raise CourseError(
            "--tls-ca-file, --tls-cert and --tls-key are for a running cluster: name it with --scheduler tls://..."
        )
    return TlsFiles(*files)


@app.command()
@_clean
def train(name: Annotated[str, typer.Argument(help="A checkpoint of data/checkpoints.")]) -> None:
    """Train a checkpoint again from its recipe and save it."""
    _check_known(name, "checkpoint", CHECKPOINTS)
    from course_lib import checkpoints

    typer.echo(f"saved {checkpoints.retrain(name)}")


@data.command()
@_clean
def fetch(name: Annotated[str, typer.Argument(help="A named data set, such as mnist.")]) -> None:
    """Download a data set, or verify the files that are there."""
    _check_known(name, "data set", DATA_SETS)
    from course_lib import data as datasets

    typer.echo(f"{name} is in {datasets.fetch(name)}")


@app.command()
@_clean
def doctor() -> None:
    """Say what is there, what is missing, and how to get it. Exit status 0 if the fast profile can run."""
    from course_lib.book.run import doctor as examination
    from course_lib.book.run import show

    findings = examination.examine()
    output = show.console()
    output.print(examination.table(findings))
    for finding in findings:
        if finding.remedy:
            output.print(f"{finding.what} ({finding.state}): {finding.remedy}", soft_wrap=True)
    missing = [finding for finding in findings if finding.state == "missing"]
    output.print(f"{len(missing)} things to mend" if missing else "the fast profile can run", soft_wrap=True)
    raise typer.Exit(1 if missing else 0)


def _check_known(name: str, kind: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise CourseError(unknown_name(name, kind, known))
