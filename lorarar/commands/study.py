"""The paper's human study: `lorarar study make|serve|summary`.

lorarar study make --results RUN --methods learned,ziplora --case random -o STUDY
lorarar study serve STUDY --host 0.0.0.0
lorarar study summary STUDY -o REPORT
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from human_study.definition import QUESTION, read_study
from human_study.make import CASES, make_study
from human_study.report import FILES, facts, interval, percent, title, write_report
from human_study.store import Store, read_answers
from human_study.summary import Summary, only_complete, summarise
from lorarar.command_line import EXIT_OK, Parser, run_command
from lorarar.errors import InputError
from lorarar.toolchains import missing_toolchain

ANSWERS_FILE = "answers.sqlite"
DEFAULT_PORT = 8000

_EPILOG = """
the study (paper §4, A1.2):
  each participant compares two methods' images of every pair, with a subject and a style reference, and chooses
  Option 1, Similar or Option 2. Methods are not named to the browser; tasks and sides come in random order. A drawn
  example explains the task first. Answers go to STUDY/answers.sqlite as they are given; a reload goes on.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; raises InputError for anything the user can put right."""
    args = _parse(argv)
    code: int = args.run(args)
    return code


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="lorarar study",
        description="The paper's human study: make it from an evaluation, serve it to browsers, summarise the answers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="make|serve|summary", required=True)
    make = commands.add_parser("make", help="choose one image of each method for each pair of an evaluation")
    make.add_argument("--results", type=Path, required=True, metavar="RUN", help="folder made by `lorarar evaluate`")
    make.add_argument("--methods", default="learned,ziplora", metavar="A,B", help="the two (default %(default)s)")
    make.add_argument(
        "--case", choices=CASES, default="random", help="any image, or one that MARS² accepts (default %(default)s)"
    )
    make.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice of images (default %(default)s)")
    make.add_argument("--question", metavar="TEXT", help="shown over each pair of images")
    make.add_argument("-o", "--output", type=Path, required=True, metavar="STUDY", help="the study's folder")
    make.set_defaults(run=_make)
    serve = commands.add_parser("serve", help="let people answer in a browser, until Ctrl-C")
    serve.add_argument("study", type=Path, metavar="STUDY", help="a folder made by make")
    serve.add_argument("--answers", type=Path, metavar="FILE", help=f"SQLite file (default STUDY/{ANSWERS_FILE})")
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 opens it to the network (default %(default)s)",
    )
    serve.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 for any free one (default %(default)s)")
    serve.add_argument("--shared-device", action="store_true", help="the next person can start after the thank-you")
    serve.set_defaults(run=_serve)
    summary = commands.add_parser("summary", help="counts, shares with intervals, the paper's Fig. 7")
    summary.add_argument("study", type=Path, nargs="+", metavar="STUDY", help="one or more studies, a bar for each")
    summary.add_argument("--answers", type=Path, metavar="FILE", help=f"of a single STUDY, if not STUDY/{ANSWERS_FILE}")
    summary.add_argument("--complete", action="store_true", help="only participants who answered every task")
    summary.add_argument("-o", "--output", type=Path, metavar="DIR", help="write Markdown, CSV and PNG there")
    summary.set_defaults(run=_summary)
    return parser.parse_args(argv)


def _make(args: argparse.Namespace) -> int:
    methods = [name.strip() for name in args.methods.split(",")]
    if len(methods) != 2 or not all(methods):
        raise InputError(f"--methods {args.methods}: give two names with a comma between, for example learned,ziplora")
    question = QUESTION if args.question is None else args.question
    if not question.strip():
        raise InputError("--question is empty; leave it out for the usual question")
    made = make_study(args.results, (methods[0], methods[1]), args.case, args.output, args.seed, question)
    for line in made.without_accepted:
        print(f"warning: {line} has no image that MARS² accepts; one at random is shown", file=sys.stderr)
    print(f"{made.folder}: {made.tasks} comparisons of {methods[0]} and {methods[1]}, {args.case} images")
    print(f"next: lorarar study serve {made.folder}")
    return EXIT_OK


def _serve(args: argparse.Namespace) -> int:
    try:
        from human_study.app import create_app
        from human_study.serve import is_local, listen, qr_code, serve, url
    except ImportError as error:
        raise missing_toolchain(error.name or "starlette", "study") from None
    if not 0 <= args.port <= 65535:
        raise InputError(f"--port {args.port}: a port is 0 to 65535")
    study = read_study(args.study)
    answers = args.answers or args.study / ANSWERS_FILE
    # The port first: if it is taken, no file of answers is made.
    with listen(args.host, args.port) as server:
        store = Store(answers, study)
        address = url(args.host, server.getsockname()[1])

        def announce() -> None:
            print(f"{len(study.tasks)} comparisons, answers in {answers}")
            print(f"open {address}   (Ctrl-C stops)", flush=True)
            if not is_local(args.host):
                print("everybody on this network can take part; the connection is not encrypted")
                if (sys.stdout.encoding or "").lower().startswith("utf"):
                    print(qr_code(address), flush=True)

        serve(create_app(study, store, args.shared_device), server, announce)
    participants, given = store.counts()
    print(f"stopped: {given} answers of {participants} participants in {answers}")
    return EXIT_OK


def _summary(args: argparse.Namespace) -> int:
    if args.answers and len(args.study) > 1:
        raise InputError("--answers goes with one STUDY; leave it out to read each study's own answers")
    summaries, answers = [], []
    for folder in args.study:
        study = read_study(folder)
        given = read_answers(args.answers or folder / ANSWERS_FILE, study)
        answers.append(only_complete(study, given) if args.complete else given)
        summaries.append(summarise(study, answers[-1]))
    for summary in summaries:
        _show(summary)
    if args.output:
        write_report(args.output, summaries, answers)
        print(f"{args.output}: {', '.join(FILES)}")
    return EXIT_OK


def _show(summary: Summary) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title(summary)), title_justify="left")
    for heading in ("answer", "count", "share", "95 % by participants", "by pairs", "Wilson"):
        table.add_column(heading, justify="left" if heading == "answer" else "right")
    for share in summary.shares:
        spreads = (interval(share.by_participants), interval(share.by_tasks), interval(share.wilson))
        table.add_row(escape(share.label), str(share.count), percent(share.share), *spreads)
    console = Console(highlight=False)
    console.print(table)
    for line in facts(summary) if summary.answers else ["no answers yet"]:
        console.print(escape(line), soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
