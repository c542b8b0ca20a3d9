"""`python -m experiments COMMAND`: what is done around runs, not in them."""

import argparse
import os
import sys
from pathlib import Path

from lampq.errors import LampQError
from lampq.launch.memory import keep_freed_memory
from lampq.launch.streams import degrade
from lampq.limits import folder


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

    plan = "a plan.json, a run's folder, or a run's fingerprint"
    command("frame", "write everything measured as one table, frame.csv and frame.parquet, for a notebook of your own")

    explain = command("explain", "say for each layer why it got its bits: its score, and what a bit less or more costs")
    explain.add_argument("plan", help=plan)
    explain.add_argument("--csv", type=Path, default=None, help="write the numbers to this file as well")

    diff = command("diff", "compare two plans: bits, size, and the accuracies of their runs, paired by image")
    diff.add_argument("plan", nargs=2, help=plan)

    solve = command("solve", "solve other budgets from the scores that a plan holds; nothing is measured again")
    solve.add_argument("plan", help=plan)
    solve.add_argument("--bits", nargs="+", required=True, help="targets, average weight bits, for example 2.5 3 3.5")
    solve.add_argument(
        "--bit-set", default=None, help="bits that a layer may get, for example 2,3,4 (default: as it was)"
    )
    solve.add_argument("--out", type=Path, default=None, help="folder of the plans (default: RESULTS/solved/PLAN)")

    run = "a run's folder, or a run's fingerprint"
    save = command("save", "write the quantized model of a run or of a plan, packed at its bits, for lampq.load")
    save.add_argument("plan", help=plan)
    save.add_argument("--out", type=Path, default=None, help="folder of the model (default: model/ beside the plan)")
    save.add_argument("--like", default=None, help="the run whose model, images and base quantizer a plan file is for")

    export = command("export", "write the quantized model of a run for another runtime, and compare the two")
    export.add_argument("run", help=run)
    export.add_argument("--to", choices=("onnx", "openvino"), default="onnx", help="the runtime's format")
    export.add_argument("--out", type=Path, required=True, help="the file: NAME.onnx, or NAME.xml for OpenVINO")
    export.add_argument(
        "--opset", type=int, choices=(18, 25), default=18, help="ONNX operators; 25: 2- and 4-bit types"
    )
    export.add_argument("--force", action="store_true", help="keep a file whose classes differ from the simulation's")

    verify = command("verify", "compare a run's model as simulated, as saved, in integers and in other runtimes")
    verify.add_argument("run", help=run)
    verify.add_argument("--images", type=int, default=None, help="validation images (default: all)")

    evaluate = command("evaluate", "measure a saved model's accuracy on any data set")
    evaluate.add_argument("folder", type=Path, help="the folder of a saved model")
    evaluate.add_argument("overrides", nargs="*", help="as of run.py: dataset=imagenet dataset.root=/data/imagenet")
    evaluate.add_argument(
        "--execute", choices=("simulated", "integer"), default="simulated", help="how its products are computed"
    )

    benchmark = command("benchmark", "time searches, Fisher traces and whole runs side by side")
    benchmark.add_argument("--only", nargs="*", default=None, help="names of measurements; all by default")
    benchmark.add_argument("--threads", type=int, default=None, help="PyTorch threads (default: PyTorch's choice)")

    page = "print docs/configuration.md, made from the comments of the files in conf"
    commands.add_parser("configuration", help=page, description=page)

    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in lampq.launch.command_line
    keep_freed_memory()
    degrade(sys.stdout, sys.stderr)
    try:
        status = _run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except LampQError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from lampq.launch.failures import explain_failure

        results, typed = str(options.results), "--results, --out or --csv"
        print(f"error: {explain_failure(error, [results], results, typed)}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    left_out: list[str] = []
    for key in ("out", "csv"):  # before any work: they are written at the end of it
        if (path := getattr(options, key, None)) is not None:
            folder(f"--{key}", str(Path(path).parent))
    complete = _command(options, left_out)
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    return 1 if left_out or not complete else 0


def _command(options: argparse.Namespace, left_out: list[str]) -> bool:
    """Run a command; `left_out` gets a line on everything that is damaged. Returns whether all was well otherwise."""
    if options.command == "report":
        from lampq.runs.tracking.csv import rebuild_runs_csv

        from .report import report

        print(*report(_existing(options.results), options.names, left_out), sep="\n")
        if (options.results / "runs").is_dir():
            print(rebuild_runs_csv(options.results))
    elif options.command == "status":
        from .status import status

        return status(_existing(options.results), options.name, left_out=left_out)
    elif options.command == "publish":
        from .publish import publish

        print(*publish(options.names, _existing(options.results), left_out), sep="\n")
    elif options.command == "frame":
        from .frame import write

        print(*write(_existing(options.results), left_out), sep="\n")
    elif options.command == "explain":
        from lampq.plan.bit_plan import BitPlan
        from lampq.report.explanation import explanation

        from .plan_files import costs_beside

        path = _plan(options.plan, options.results, left_out)
        print(explanation(BitPlan.read(path), name=str(path), csv=options.csv, costs=costs_beside(path)))
    elif options.command == "diff":
        from .diff import diff
        from .plan_files import find_plan

        print(diff(*(find_plan(text, options.results) for text in options.plan), left_out))
    elif options.command == "solve":
        from .solve import solve

        plan = _plan(options.plan, options.results, left_out)
        named = plan.parent.name if plan.name == "plan.json" else plan.stem
        print(solve(plan, options.bits, options.bit_set, options.out or options.results / "solved" / named))
    elif options.command == "save":
        from .saved import save

        print(save(options.plan, options.results, options.out, options.like))
    elif options.command == "export":
        from .saved import export

        out = options.out
        print(export(options.run, options.results, options.to, out, options.opset, options.force))
    elif options.command == "verify":
        from .verify import verify

        print(verify(options.run, options.results, options.images))
    elif options.command == "evaluate":
        from .evaluate import evaluate

        print(evaluate(options.folder, options.overrides, options.execute))
    elif options.command == "configuration":
        from .configuration import configuration_page

        print(configuration_page(), end="")
    else:
        from .benchmark import benchmark

        print(benchmark(options.results, options.only, options.threads))
    return True


def _plan(text: str, results: Path, left_out: list[str]) -> Path:
    """The plan file that a user means, which is used as it is, also where the rest of its run is damaged."""
    from lampq.runs.finished_run import DamagedRun

    from .plan_files import find_plan, run_of

    plan = find_plan(text, results)
    try:
        run_of(plan)
    except DamagedRun as error:
        left_out.append(f"{error}; its plan is used as it is")
    return plan


def _existing(results: Path) -> Path:
    if not results.is_dir():
        raise LampQError(f"--results {results}: no such folder; give the folder that runs were written to")
    return results


if __name__ == "__main__":
    sys.exit(main())
