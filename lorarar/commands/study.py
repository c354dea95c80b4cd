"""The paper's human study: `lorarar study make|serve|summary`.

lorarar study make --results RUN --methods learned,ziplora --case random -o STUDY
lorarar study serve STUDY --host 0.0.0.0
lorarar study summary STUDY -o REPORT
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from human_study.definition import QUESTION, Study, read_study
from human_study.make import CASES, make_study
from human_study.report import FILES, facts, share_row, title, write_report
from human_study.store import Store, read_answers
from human_study.summary import only_complete, summarise
from lorarar.command_line import EXIT_OK, Parser, main_of, run_command
from lorarar.console import console, print_table, warn
from lorarar.errors import InputError
from lorarar.files import check_folder
from lorarar.settings import words
from lorarar.toolchains import named_if_missing

ANSWERS_FILE = "answers.sqlite"
DEFAULT_PORT = 8000

_EPILOG = """
the study (paper §4, A1.2):
  each participant compares two methods' images of every pair, with a subject and a style reference, and chooses
  Option 1, Similar or Option 2. Methods are not named to the browser; tasks and sides come in random order. A drawn
  example explains the task first. Answers go to STUDY/answers.sqlite as they are given; a reload goes on.
"""


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(
        "lorarar study",
        description="The paper's human study: make it from an evaluation, serve it to browsers, summarise the answers.",
        epilog=_EPILOG,
    )
    commands = made.add_subparsers(dest="command", metavar="make|serve|summary", required=True)
    make = commands.add_parser("make", help="choose one image of each method for each pair of an evaluation")
    add = make.add_argument
    add("--results", type=Path, required=True, metavar="RUN", help="folder made by `lorarar evaluate`")
    add("--methods", default="learned,ziplora", metavar="A,B", help="the two (default %(default)s)")
    add("--case", choices=CASES, default="random", help="any image, or one that MARS² accepts (default %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the choice of images (default %(default)s)")
    add("--question", default=QUESTION, metavar="TEXT", help="shown over each pair of images")
    add("-o", "--out", type=Path, required=True, metavar="STUDY", help="the study's folder")
    add = commands.add_parser("serve", help="let people answer in a browser, until Ctrl-C").add_argument
    add("study", type=Path, metavar="STUDY", help="a folder made by make")
    add("--answers", type=Path, metavar="FILE", help=f"SQLite file (default STUDY/{ANSWERS_FILE})")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 opens it to the network")
    add("--port", type=int, default=DEFAULT_PORT, help="0 for any free one (default %(default)s)")
    add("--shared-device", action="store_true", help="the next person can start after the thank-you")
    add = commands.add_parser("summary", help="counts, shares with intervals, the paper's Fig. 7").add_argument
    add("studies", type=Path, nargs="+", metavar="STUDY", help="one or more studies, a bar for each")
    add("--answers", type=Path, metavar="FILE", help=f"of a single STUDY, if not STUDY/{ANSWERS_FILE}")
    add("--complete", action="store_true", help="only participants who answered every task")
    add("-o", "--out", type=Path, metavar="DIR", help="write Markdown, CSV and PNG there")
    return made


def run(args: argparse.Namespace) -> int:
    """Run a subcommand; raises InputError for anything the user can put right."""
    return {"make": _make, "serve": _serve, "summary": _summary}[args.command](args)


def _make(args: argparse.Namespace) -> int:
    methods = words(args.methods)
    if len(methods) != 2:
        raise InputError(f"`methods` is {args.methods}; give two names with a comma between, such as learned,ziplora")
    made = make_study(args.results, (methods[0], methods[1]), args.case, args.out, args.seed, args.question)
    warn(f"{line} has no image that MARS² accepts; one at random is shown" for line in made.without_accepted)
    print(f"{made.folder}: {made.tasks} comparisons of {methods[0]} and {methods[1]}, {args.case} images")
    print(f"next: lorarar study serve {made.folder}")
    return EXIT_OK


def _serve(args: argparse.Namespace) -> int:
    with named_if_missing(("starlette", "uvicorn", "segno"), "study"):
        # Not needed for --help, nor for the other subcommands: they need the extra `study`.
        from human_study.app import create_app
        from human_study.serve import listen, serve, url
    study = read_study(args.study)
    answers = args.answers or args.study / ANSWERS_FILE
    # The port first: if it is taken, no file of answers is made.
    with listen(args.host, args.port) as server:
        store = Store(answers, study)
        address = url(args.host, server.getsockname()[1])
        app = create_app(study, store, args.shared_device)
        serve(app, server, lambda: _announce(study, answers, address, args.host))
    participants, given = store.counts()
    print(f"stopped: {given} answers of {participants} participants in {answers}")
    return EXIT_OK


def _announce(study: Study, answers: Path, address: str, host: str) -> None:
    from human_study.serve import is_local, qr_code  # as in _serve

    print(f"{len(study.tasks)} comparisons, answers in {answers}")
    print(f"open {address}   (Ctrl-C stops)", flush=True)
    if not is_local(host):
        print("everybody on this network can take part; the connection is not encrypted")
        if (sys.stdout.encoding or "").lower().startswith("utf"):
            print(qr_code(address), flush=True)


def _summary(args: argparse.Namespace) -> int:
    if args.answers and len(args.studies) > 1:
        raise InputError("`answers` goes with one STUDY; leave it out to read each study's own answers")
    if args.out:
        check_folder(args.out, *FILES)
    summaries, answers = [], []
    for folder in args.studies:
        study = read_study(folder)
        given = read_answers(args.answers or folder / ANSWERS_FILE, study)
        answers.append(only_complete(study, given) if args.complete else given)
        summaries.append(summarise(study, answers[-1]))
    if args.out:  # Before anything is printed, which a closed pipe ends.
        write_report(args.out, summaries, answers)
    columns = ("answer", "count", "share", "95 % by participants", "by pairs", "Wilson")
    for summary in summaries:
        print_table(columns, [share_row(share) for share in summary.shares], title(summary), left=("answer",))
        for line in facts(summary) if summary.answers else ["no answers yet"]:
            console().print(line)
    if args.out:
        print(f"{args.out}: {', '.join(FILES)}")
    return EXIT_OK


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
