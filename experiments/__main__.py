"""`python -m experiments COMMAND`: what is done around runs, not in them."""

import argparse
import os
import sys
from pathlib import Path

from lampq.errors import LampQError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a user's mistake is one line and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")
        return sub

    report = command("report", "rebuild tables, figures and report.html from what was measured; runs nothing")
    report.add_argument("names", nargs="*", help="experiments, for example table3; all by default")

    status = command("status", "show which cells are done, running, failed or missing, and why")
    status.add_argument("name", nargs="?", help="an experiment; all, in brief, by default")

    publish = command("publish", "copy experiments, cells and runs, into results/published")
    publish.add_argument("names", nargs="+", help="experiments, for example table3")

    benchmark = command("benchmark", "time searches, Fisher traces and whole runs side by side")
    benchmark.add_argument("--only", nargs="*", default=None, help="names of measurements; all by default")
    benchmark.add_argument("--threads", type=int, default=None, help="PyTorch threads (default: PyTorch's choice)")

    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in lampq.command_line
    try:
        return _run(options)
    except LampQError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    if options.command == "report":
        from .report import report

        print(*report(_existing(options.results), options.names), sep="\n")
    elif options.command == "status":
        from .status import status

        return 0 if status(_existing(options.results), options.name) else 1
    elif options.command == "publish":
        from .publish import publish

        print(*publish(options.names, options.results), sep="\n")
    else:
        from .benchmark import benchmark

        print(benchmark(options.results, options.only, options.threads))
    return 0


def _existing(results: Path) -> Path:
    if not results.is_dir():
        raise LampQError(f"--results {results}: no such folder; give the folder that runs were written to")
    return results


if __name__ == "__main__":
    sys.exit(main())
