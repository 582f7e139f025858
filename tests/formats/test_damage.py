"""Whatever a reader raises becomes one message; what is surely a defect of ours does not."""

from pathlib import Path

import fabio
import numpy as np
import pytest

from braggflow.errors import InputError
from braggflow.formats import reading_errors, stacks
from tests.formats.writers import refused


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Exception("Something is wrong"), "Something is wrong"),
        (MemoryError("Unable to allocate 8 PiB"), "more memory than there is"),
        (NotImplementedError("no"), "cannot be read"),
        (RecursionError("deep"), "cannot be read"),
        (ValueError("LZW requires the 'imagecodecs' package"), "pip install imagecodecs"),
        (ModuleNotFoundError("No module named 'x'", name="x"), "pip install x"),
        (OSError("Can't read data (required filter 'lz9' is not registered)"), "HDF5_PLUGIN_PATH"),
        (PermissionError(13, "Permission denied"), "a.npy: cannot be read ([Errno 13] Permission denied)"),
    ],
)
def test_any_exception_of_a_reader_names_the_file_and_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def read(*_: object) -> None:
        raise error

    np.save(tmp_path / "a.npy", np.zeros((20, 30)))
    monkeypatch.setitem(stacks.OPENERS, "npy", read)
    message = refused(tmp_path / "a.npy")
    assert said in message
    assert ("damaged" in message) == isinstance(error, NotImplementedError | RecursionError) or type(error) is Exception


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_is_let_through(error: type[BaseException]) -> None:
    with pytest.raises(error), reading_errors("a.cbf"):
        raise error


def test_a_name_that_is_missing_in_a_library_is_the_files_fault_and_one_in_ours_is_not(tmp_path: Path) -> None:
    outside = compile("missing_name", str(tmp_path / "library.py"), "eval")
    with pytest.raises(InputError, match="missing_name"), reading_errors("a.cbf"):
        eval(outside)
    ours = compile("missing_name", stacks.__file__, "eval")
    with pytest.raises(NameError), reading_errors("a.cbf"):
        eval(ours)


def test_a_bare_exception_of_fabio_is_a_message(tmp_path: Path) -> None:
    path = tmp_path / "p.cbf"
    fabio.cbfimage.CbfImage(data=np.zeros((32, 32), "i4")).write(str(path))
    path.write_bytes(path.read_bytes().replace(b"x-CBF_BYTE_OFFSET", b"x-CBF_NIBBLE_OFFSET"))
    message = refused(path)
    assert "CBF_NIBBLE_OFFSET" in message
    assert "damaged" not in message
    mask = tmp_path / "bad.msk"
    mask.write_bytes(b"M\0\0\0A\0\0\0S\0\0\0K\0\0\0" + b"\xff" * 2000)
    refused(mask)
