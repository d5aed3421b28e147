"""Lighthouse on the page: the real program, a real Chromium, npm's own Lighthouse with its desktop settings.

Lighthouse is looked for in the path; where it is not, npm installs it into a temporary folder, which goes afterwards.
Each run is a visit with an empty cache. Performance differs from run to run, so the median of its scores counts; in
what is a matter of yes and no, the worst.

    python -m benchmarks.lighthouse [--runs 3]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import sync_playwright

from benchmarks.machine import print_machine
from benchmarks.running_app import CHROMIUM_OPTIONS, chromium_path, start_server

VERSION = "12"
GOALS = {"performance": 90, "accessibility": 100, "best-practices": 100, "seo": 95}
FIGURES = (
    "first-contentful-paint",
    "largest-contentful-paint",
    "total-blocking-time",
    "cumulative-layout-shift",
    "speed-index",
)
Result = dict[str, Any]


def lighthouse(folder: Path) -> str:
    """Lighthouse's command, installed into the folder if this machine has none.

    Raises:
        SystemExit: if there is neither Lighthouse nor npm, or npm fails.
    """
    if found := shutil.which("lighthouse"):
        return found
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("There is neither Lighthouse nor npm here. Install Node.js with npm.")
    print(f"Installing Lighthouse {VERSION} into {folder}", file=sys.stderr)
    command = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", f"lighthouse@{VERSION}"]
    installed = subprocess.run(command, capture_output=True, text=True)
    if installed.returncode:
        raise SystemExit(f"npm could not install Lighthouse:\n{installed.stderr}")
    return str(folder / "node_modules" / ".bin" / "lighthouse")


def measure(runs: int) -> list[Result]:
    """Lighthouse's reports, one a run."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        command = [
            lighthouse(folder),
            "--preset=desktop",
            "--output=json",
            "--quiet",
            f"--chrome-flags={' '.join(['--headless=new', *CHROMIUM_OPTIONS])}",
        ]
        environment = {**os.environ, "CHROME_PATH": chromium_path(playwright)}
        server = start_server(folder / "app.log")
        try:
            results = []
            for _ in range(runs):
                done = subprocess.run(
                    [*command, server.url], capture_output=True, text=True, env=environment, timeout=300
                )
                if done.returncode:
                    raise SystemExit(f"Lighthouse failed:\n{done.stderr}")
                results.append(json.loads(done.stdout))
        finally:
            server.stop()
    return results


def failed_audits(result: Result) -> list[str]:
    """What did not pass in one report, those that count for a score first."""
    failed = []
    for name, category in result["categories"].items():
        for reference in category["auditRefs"]:
            audit = result["audits"][reference["id"]]
            if audit["score"] is not None and audit["score"] < 1:
                words = f"- {name}: {audit['title']} ({audit.get('displayValue') or audit['score']}"
                failed.append((-reference["weight"], f"{words}, weight {reference['weight']})"))
    return [words for _, words in sorted(failed)]


def report(results: list[Result]) -> bool:
    """Print scores, figures and failed audits; whether every goal is met."""
    print(f"Lighthouse {results[0]['lighthouseVersion']}, desktop\n")
    print("| category | score | of the runs | goal | |\n| --- | --- | --- | --- | --- |")
    met = True
    for name, goal in GOALS.items():
        scores = [round(100 * result["categories"][name]["score"]) for result in results]
        score = median(scores) if name == "performance" else min(scores)
        met &= score >= goal
        every = ", ".join(map(str, scores))
        print(f"| {name} | {score:g} | {every} | {goal} | {'met' if score >= goal else 'missed'} |")
    print("\n| figure, median | |\n| --- | --- |")
    for name in FIGURES:
        value = median(result["audits"][name]["numericValue"] for result in results)
        shown = f"{value:.4f}" if name == "cumulative-layout-shift" else f"{value:.0f} ms"
        print(f"| {results[0]['audits'][name]['title']} | {shown} |")
    print("\nNot passed in the last run, what counts most first:")
    print("\n".join(failed_audits(results[-1])) or "nothing")
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    print_machine()
    print(f"runs: {arguments.runs}\n", flush=True)
    raise SystemExit(0 if report(measure(arguments.runs)) else 1)


if __name__ == "__main__":
    main()
