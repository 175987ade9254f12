"""What `import modeling_sen` adds to importing Transformers, and how fast `sen --help` answers.

    python benchmarks/import_time.py [runs]

Runs the three in turn, each in a process of its own, and prints the medians.
"""

import resource
import statistics
import subprocess
import sys
import time

ALONE = "from transformers import AutoModel, pipeline, Pipeline"
WITH_SEN = "the same, and import modeling_sen"
COMMANDS = {
    ALONE: ["-c", ALONE],
    WITH_SEN: ["-c", f"{ALONE}; import modeling_sen"],
    "sen --help": ["-m", "sen_cli", "--help"],
}


def seconds(command: list[str]) -> tuple[float, float]:
    """(wall, processor) seconds of a Python process; the second hardly depends on what else the machine does."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    for command in COMMANDS.values():  # once ahead, for the file cache
        seconds(command)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    print(f"{runs} runs each, in turn; medians in seconds            wall  processor")
    for name, found in times.items():
        print(f"{name:50} {_median(found, 0):6.2f} {_median(found, 1):10.2f}")
    both = zip(times[WITH_SEN], times[ALONE], strict=True)
    added = [(one[0] - other[0], one[1] - other[1]) for one, other in both]
    print(f"{'import modeling_sen adds':50} {_median(added, 0):6.2f} {_median(added, 1):10.2f}")


def _median(times: list[tuple[float, float]], column: int) -> float:
    return statistics.median(time[column] for time in times)


if __name__ == "__main__":
    main()
