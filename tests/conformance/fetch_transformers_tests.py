"""Fetches the tests that Transformers runs on each of its models, as of the installed version, into `.conformance/`.

They are part of the source distribution on the package index, and of no wheel; nothing of them is kept in this repository.
Run by `make test-conformance`. What the distribution leaves out of `tests/`, and these tests import, is written beside them.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers

FOLDER = Path(__file__).resolve().parents[2] / ".conformance" / f"transformers-{transformers.__version__}"
PACKAGE = "transformers_tests"

# file -> its content: what is imported from it, and no more.
LEFT_OUT = {
    f"{PACKAGE}/__init__.py": "",
    f"{PACKAGE}/exporters/__init__.py": "",
    f"{PACKAGE}/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    f"{PACKAGE}/generation/__init__.py": "",
    f"{PACKAGE}/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    f"{PACKAGE}/utils/__init__.py": "",
    # Every field that a PreTrainedConfig declares, with a value that is not its default.
    f"{PACKAGE}/utils/test_configuration_utils.py": """config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["BertModel"],
    "id2label": {0: "label"},
    "label2id": {"label": 0},
    "problem_type": "regression",
}
""",
    "utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url):\n    return url\n",
}


def fetch(folder: Path) -> None:
    """Writes `transformers_tests/` and `utils/` into the folder, which appears whole or not at all.

    Raises:
        OSError: the index has no source distribution of this version, cannot be reached, or it holds no tests.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    wanted = f"transformers=={transformers.__version__}"
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", work]
        options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
        done = subprocess.run([*pip, *options, wanted], capture_output=True, text=True, check=False)
        archive = next(Path(work).glob("transformers-*.tar.gz"), None)
        if archive is None:
            reason = (done.stderr.strip().splitlines() or ["nothing was downloaded"])[-1]
            raise OSError(f"no source distribution of {wanted}: {reason}")
        with tarfile.open(archive) as files:
            tests = [member for member in files if member.name.split("/")[1:2] == ["tests"]]
            files.extractall(work, tests, filter="data")
        unpacked = archive.with_suffix("").with_suffix("")
        if not (unpacked / "tests" / "test_modeling_common.py").is_file():
            raise OSError(f"{archive.name} holds no tests/test_modeling_common.py")
        os.replace(unpacked / "tests", unpacked / PACKAGE)
        for name, content in LEFT_OUT.items():
            path = unpacked / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(unpacked, folder)


if __name__ == "__main__":
    if not (FOLDER / PACKAGE).is_dir():
        try:
            fetch(FOLDER)
        except (OSError, tarfile.TarError) as error:
            print(f"{Path(__file__).name}: {error}", file=sys.stderr)
            sys.exit(2)
