"""What `import modeling_sen` adds to importing Transformers, and how fast the commands answer.

    python benchmarks/import_time.py [runs]

Runs all in turn, each in a process of its own, and prints the medians.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sen_cli
from modeling_sen.world.write import write_world

ALONE = "from transformers import AutoModel, pipeline, Pipeline"
WITH_SEN = "the same, and import modeling_sen"
LOADED = "importing PreTrainedModel, and loading sen-tiny"
CLASSIFY = "sen classify, one clip"
COMMANDS = {
    "import transformers": ["-c", "import transformers"],
    ALONE: ["-c", ALONE],
    WITH_SEN: ["-c", f"{ALONE}; import modeling_sen"],
    LOADED: [
        "-c",
        "import sen_cli; sen_cli.is_program = True; from transformers import PreTrainedModel\n"
        "from modeling_sen.modeling_sen import SENModel; from modeling_sen.presets import SEN_TINY\n"
        "SENModel.from_pretrained(SEN_TINY)",
    ],
    CLASSIFY: ["-m", "sen_cli", "classify", "videos/000000.mp4", "--labels", "a,b"],
    "sen --help": ["-m", "sen_cli", "--help"],
    **{f"sen {verb} --help": ["-m", "sen_cli", verb, "--help"] for verb in sen_cli.VERBS},
    "sen presets": ["-m", "sen_cli", "presets"],
    "sen neurons": ["-m", "sen_cli", "neurons"],
}


def seconds(command: list[str], folder: str) -> tuple[float, float]:
    """(wall, processor) seconds of a Python process; the second hardly depends on what else the machine does."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, cwd=folder)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        write_world(Path(folder), "test", 1, 1, num_objects=3, hops=2)
        for number in range(runs + 1):
            for name, command in COMMANDS.items():
                found = seconds(command, folder)
                if number:  # the first is for the file cache
                    times[name].append(found)
    print(f"{runs} runs each, in turn; medians in seconds               wall  processor")
    for name, found in times.items():
        print(f"{name:54} {_median(found, 0):6.2f} {_median(found, 1):10.2f}")
    both = zip(times[WITH_SEN], times[ALONE], strict=True)
    added = [(one[0] - other[0], one[1] - other[1]) for one, other in both]
    print(f"{'import modeling_sen adds':54} {_median(added, 0):6.2f} {_median(added, 1):10.2f}")
    both = zip(times[CLASSIFY], times[LOADED], strict=True)
    ratios = [(one[0] / other[0], one[1] / other[1]) for one, other in both]
    print(f"{'sen classify, over importing and loading':54} {_median(ratios, 0):6.2f} {_median(ratios, 1):10.2f}")


def _median(times: list[tuple[float, float]], column: int) -> float:
    return statistics.median(time[column] for time in times)


if __name__ == "__main__":
    main()
