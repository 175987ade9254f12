"""Pickles of arrays are read as they were written, and no other pickle runs anything."""

import os
import pickle
import re

import numpy as np
import pytest

from modeling_sen.evaluation.array_pickle import load_array_pickle


def written(tmp_path, value, protocol=4):
    path = tmp_path / "file.pkl"
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_are_restored(tmp_path, protocol):
    draw = np.random.default_rng(0)
    video = draw.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    value = {
        "video": video,
        "points": draw.random((2, 3, 2)).astype(np.float32),
        "big endian": np.arange(6.0).astype(">f8"),
        "column order": np.asfortranarray(draw.random((3, 4))),
        "permuted": draw.random((2, 3, 4)).transpose(1, 2, 0),
        "strided": video[:, ::2],
        "occluded": np.array([[True, False]]),
        "encoded": np.array([b"ab", b"c"]),
        "plain": [1, 2.5, None, True, "text", (b"bytes", {"a": -1})],
    }
    found = load_array_pickle(written(tmp_path, value, protocol))
    assert list(found) == list(value)
    assert found.pop("plain") == value.pop("plain")
    for name, array in value.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@pytest.mark.parametrize("core", ["core", "_core"])
def test_names_of_old_and_new_numpy_are_read(tmp_path, core):
    renamed = re.sub(rb"numpy\._?core", f"numpy.{core}".encode(), pickle.dumps(np.arange(3.0), 2))
    assert f"cnumpy.{core}.multiarray\n_reconstruct".encode() in renamed
    np.testing.assert_array_equal(load_array_pickle(written(tmp_path, renamed)), np.arange(3.0))


def test_arrays_of_bytes_objects_are_lists(tmp_path):
    assert load_array_pickle(written(tmp_path, np.array([b"ab", b"c\0"], dtype=object))) == [b"ab", b"c\0"]


class Calls:
    """What its pickle calls when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_pickle_that_runs_a_command_is_refused_without_running_it(tmp_path):
    mark = tmp_path / "mark"
    for call in (Calls(os.mkdir, str(mark)), Calls(eval, f"__import__('os').mkdir({str(mark)!r})")):
        for value in (call, {"video": np.zeros(3), "points": call}, [call], np.array([call], dtype=object)):
            path = written(tmp_path, value)
            with pytest.raises(
                ValueError, match=r"expected a pickle of numpy arrays .* found (posix\.mkdir|builtins\.eval)"
            ):
                load_array_pickle(path)
            assert not mark.exists()
    pickle.loads(written(tmp_path, call).read_bytes())
    assert mark.exists(), "the pickle would have run it"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({1, 2}, "an object of type set"),
        (np.float64(1), r"numpy\S*\.scalar"),
        (np.array([object], dtype=object), r"builtins\.object"),
        (np.array(["text"], dtype=object), "an array of objects that are not bytes"),
        (np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), "an array of dtype 'V12'"),
        (np.zeros(2, dtype="M8[s]"), "an array of dtype 'M8'"),
        (np.dtype("f8"), "an object of type _Dtype"),
        (complex(1, 2), r"builtins\.complex"),
    ],
)
def test_other_objects_are_refused(tmp_path, value, found):
    with pytest.raises(
        ValueError, match=f"file.pkl: expected a pickle of numpy arrays and plain containers, found {found}"
    ):
        load_array_pickle(written(tmp_path, value))


def test_a_crafted_dtype_creates_no_pointers(tmp_path):
    """Flags in the state of a dtype, by which numpy's own functions take the bytes of a file for addresses."""

    class Crafted:
        def __reduce__(self):
            state = (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 8, 0)
            return np.dtype, ("V8", False, True), state

    class Array:
        def __reduce__(self):
            make, arguments, _ = np.zeros(1).__reduce__()
            return make, arguments, (1, (1,), Crafted(), False, b"\x08" * 8)

    with pytest.raises(ValueError, match="an array of dtype 'V8'"):
        load_array_pickle(written(tmp_path, Array()))


def test_a_state_given_to_a_stand_in_changes_nothing(tmp_path):
    for target in (b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n"):
        with pytest.raises(ValueError, match="expected a pickle of numpy arrays"):
            load_array_pickle(written(tmp_path, target + b"(dS'build'\nI1\nsb."))
    np.testing.assert_array_equal(load_array_pickle(written(tmp_path, np.arange(3))), np.arange(3))


@pytest.mark.parametrize("length", [0, 1, 20, 150, -1])
def test_truncated_and_other_files(tmp_path, length):
    data = pickle.dumps({"points": np.arange(100.0)}, 4)
    with pytest.raises(ValueError, match="expected a pickle of numpy arrays"):
        load_array_pickle(written(tmp_path, data[:length]))
    with pytest.raises(ValueError, match="expected a pickle of numpy arrays"):
        load_array_pickle(written(tmp_path, b"PK\x03\x04" + bytes(length % 99)))


def test_an_array_with_fewer_bytes_than_its_shape(tmp_path):
    data = pickle.dumps(np.arange(3, dtype=np.uint8), 2)
    short = data.replace(b"K\x03\x85", b"K\x04\x85")
    assert short != data
    with pytest.raises(ValueError, match="cannot reshape"):
        load_array_pickle(written(tmp_path, short))


def test_a_list_that_holds_itself(tmp_path):
    value = []
    value.append(value)
    with pytest.raises(ValueError, match="recursion"):
        load_array_pickle(written(tmp_path, value))


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_array_pickle(tmp_path / "missing.pkl")
