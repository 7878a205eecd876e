"""``make fuzz-guided``: each target in its own process, one after the other; a table of what they ran and found."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.fuzz.runner import DidNotStart, Report, how_to_repeat, run_target
from benchmarks.fuzz.targets import TARGETS

CORPUS = Path(__file__).parents[2] / ".venv" / "fuzz-corpus"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=1200, help="for each target")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one; may be given several times")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="where inputs and findings are kept")
    parser.add_argument("--plain", action="store_true", help="without atheris: random changes of the seeds")
    given = parser.parse_args()
    reports, failed = [], False
    print(f"{'target':16} {'minutes':>7} {'runs':>9} {'edges':>6} {'findings':>8}", flush=True)
    for name in given.target or TARGETS:
        try:
            report = run_target(name, given.seconds, given.corpus.resolve() / name, guided=not given.plain)
        except DidNotStart as error:
            failed = True
            print(f"{name:16} {error}", flush=True)
            continue
        reports.append(report)
        minutes = f"{report.seconds / 60:.1f}"
        print(f"{name:16} {minutes:>7} {report.runs:9} {report.edges or '-':>6} {len(report.findings):8}", flush=True)
    for report in reports:
        _tell(report)
    sys.exit(failed or any(report.findings for report in reports))


def _tell(report: Report) -> None:
    for finding in report.findings:
        print(f"\n{report.target}: {finding.kind}\n  {how_to_repeat(finding, report.target)}")


if __name__ == "__main__":
    main()
