"""Full-size checkpoints in the Hub's layouts, with random weights: loaded by folder, run on a clip, saved, loaded again."""

import pytest
from hub_layouts import FAMILIES, check

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_is_sufficient_with_and_without_the_package(family, shared_data, shared):
    row = check(family, shared_data / "chat" / "video-llama" / "applausing.mp4", shared)
    assert row.with_package == 0
    assert row.without_package == 0
    assert row.saved_bytes < 20e6  # the association only
