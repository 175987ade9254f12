"""The suite's tests on the path, and at the end of the run what was run, skipped and why."""

import sys
from collections import defaultdict

import pytest
from fetch_transformers_tests import FOLDER, PACKAGE
from not_applicable import IMAGEBIND_PATCH_TESTS, IMAGEBIND_TESTS, LANGUAGEBIND_TESTS, MODEL_TESTS, PROCESSOR_TESTS

if not (FOLDER / PACKAGE).is_dir():
    raise pytest.UsageError(f"{FOLDER} is missing; `make test-conformance` fetches it")
sys.path.insert(0, str(FOLDER))

MARKERS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "torch_compile_test",
)


def pytest_configure(config):
    for name in MARKERS:
        config.addinivalue_line("markers", f"{name}: of Transformers' suite")


def pytest_terminal_summary(terminalreporter):
    """A test counts as skipped where any of its subtests was, for one model class is most often the only one."""
    outcomes, reasons = defaultdict(set), {}
    for report in [report for reports in terminalreporter.stats.values() for report in reports]:
        if not isinstance(report, pytest.TestReport):
            continue
        if report.when == "call" or report.outcome != "passed":
            outcomes[report.nodeid].add(report.outcome)
        if report.skipped and isinstance(report.longrepr, tuple):
            reasons[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")
    failed = sorted(name for name, seen in outcomes.items() if "failed" in seen)
    skipped = [name for name, seen in outcomes.items() if name in reasons and name not in failed]
    own = MODEL_TESTS | PROCESSOR_TESTS | IMAGEBIND_TESTS | IMAGEBIND_PATCH_TESTS | LANGUAGEBIND_TESTS
    by_reason = defaultdict(list)
    for name in skipped:
        test = name.rpartition("::")[2]
        by_reason[test in own, reasons[name]].append(test)
    terminalreporter.section("conformance")
    for (ours, reason), names in sorted(by_reason.items(), key=lambda item: (item[0][0], -len(item[1]))):
        terminalreporter.write_line(f"{len(names):3d} skipped {'here' if ours else 'by the suite'}: {reason}")
        terminalreporter.write_line(f"    {', '.join(sorted(names))}")
    for name in failed:
        terminalreporter.write_line(f"    failed: {name.rpartition('::')[2]}")
    passed = len(outcomes) - len(failed) - len(skipped)
    ours = sum(len(names) for (here, _), names in by_reason.items() if here)
    terminalreporter.write_line(
        f"run {len(outcomes)}: passed {passed}, skipped {len(skipped) - ours} by the suite and {ours} here, "
        f"failed {len(failed)}"
    )
