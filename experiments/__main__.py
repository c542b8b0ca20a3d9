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

    benchmark = commands.add_parser("benchmark", help="time searches, Fisher traces and whole runs side by side")
    benchmark.add_argument("--results", type=Path, default=Path("results"), help="where benchmark.csv goes")
    benchmark.add_argument("--only", nargs="*", default=None, help="names of measurements; all by default")
    benchmark.add_argument("--threads", type=int, default=None, help="PyTorch threads (default: PyTorch's choice)")

    publish = commands.add_parser("publish", help="copy runs into the repository, with a table beside the paper's")
    publish.add_argument("name", help="folder under results/, for example deit_tiny")
    publish.add_argument("fingerprints", nargs="+", help="runs (see results/runs.csv), in the order of the rows")
    publish.add_argument("--results", type=Path, default=Path("results"))

    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in lampq.command_line
    try:
        if options.command == "benchmark":
            from .benchmark import benchmark as run_benchmark

            print(run_benchmark(options.results, options.only, options.threads))
        else:
            from .publish import publish as run_publish

            print(run_publish(options.name, options.fingerprints, options.results))
    except LampQError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
