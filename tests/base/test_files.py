"""A file that takes the place of another is whole or not there: a full disk and a kill leave what was before."""

import errno
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from rigl_lightning import AtomicCheckpointIO
from rigl_lightning.base import files
from rigl_lightning.base.loading import load_plain
from rigl_lightning.export import save_compact
from rigl_lightning.trainer.csv_logger import ResumableCSVLogger, read_rows

resource = pytest.importorskip("resource")  # limits of POSIX stand for a full disk


@contextmanager
def full_disk(size):
    """No file may grow beyond ``size`` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


SAVES = {
    "compact file": lambda path: save_compact(torch.nn.Linear(200, 200), path),
    "checkpoint": lambda path: AtomicCheckpointIO().save_checkpoint({"state_dict": torch.ones(99_999)}, path),
    "text": lambda path: files.write_text(path, "x" * 99_999),
}


@pytest.mark.parametrize("kind", SAVES)
def test_a_full_disk_leaves_what_was_there(tmp_path, kind):
    file = tmp_path / "f"
    file.write_bytes(b"before")
    with pytest.raises(OSError, match="Expected room for .*f, got: .* kept") as error, full_disk(20_000):
        SAVES[kind](file)
    assert error.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == b"before"


@pytest.mark.parametrize("key", ["x", "y"], ids=["lines are added", "a column is added"])
def test_a_full_disk_leaves_the_metrics_of_before(tmp_path, key):
    logger = ResumableCSVLogger(tmp_path, "a", version=0, flush_logs_every_n_steps=9_999)
    for step in range(3):
        logger.log_metrics({"x": step}, step)
    logger.save()
    for step in range(3, 999):
        logger.log_metrics({key: step + 0.123456789}, step)
    file = tmp_path / "a/version_0/metrics.csv"
    with pytest.raises(OSError, match="Expected room for"), full_disk(2_000):
        logger.save()
    assert file.read_bytes() == b"step,x\r\n0,0\r\n1,1\r\n2,2\r\n"
    logger.save()  # there is room again
    assert len(read_rows(file)) == 999


def test_hyper_parameters_are_whole_too(tmp_path):
    logger = ResumableCSVLogger(tmp_path, "a", version=0)
    logger.log_hyperparams({"a": 1})
    file = tmp_path / "a/version_0/hparams.yaml"
    with pytest.raises(OSError, match="File too large"), full_disk(2_000):
        logger.log_hyperparams({"b": "x" * 99_999})
    assert file.read_bytes() == b"a: 1\n"


def test_an_error_while_writing_leaves_what_was_there(tmp_path):
    place = tmp_path / "f"
    place.write_bytes(b"before")

    def fail():
        with files.replacing(place) as stream:
            stream.write(b"half")
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    assert place.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [place]


def test_the_name_stands_for_the_old_file_until_the_new_one_is_whole(tmp_path):
    place = tmp_path / "f"
    place.write_bytes(b"before")
    with files.replacing(place) as stream:
        stream.write(b"after")
        stream.flush()
        assert place.read_bytes() == b"before"
    assert place.read_bytes() == b"after"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_kill_leaves_what_was_there_and_the_next_writes_over_the_rest(tmp_path):
    code = (
        "import os, signal\nfrom rigl_lightning.base.files import replacing\n"
        "with replacing('f') as stream:\n    stream.write(b'x' * 99_999)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "f").write_bytes(b"before")
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == -signal.SIGKILL
    assert (tmp_path / "f").read_bytes() == b"before"
    files.write_text(tmp_path / "f", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="no devices")
def test_a_device_is_written_to_and_not_replaced():
    files.write_text("/dev/null", "gone")
    assert not files.is_file("/dev/null")
    assert Path("/dev/null").is_char_device()


@pytest.fixture
def remote():
    fsspec = pytest.importorskip("fsspec")
    fs = fsspec.filesystem("memory")
    yield "memory://here"
    fs.rm("/here", recursive=True) if fs.exists("/here") else None


@pytest.mark.parametrize("place", ["local", "file://", "memory://"])
def test_every_place_is_written_and_read_alike(tmp_path, remote, place):
    folder = {"local": str(tmp_path), "file://": f"file://{tmp_path}", "memory://": remote}[place]
    file = files.join(folder, "run", "f.txt")
    assert not files.is_file(file)
    files.make_folder(file)
    files.check_place(file, "Set it.")
    files.write_text(file, "one")
    before = files.fingerprint(file)
    files.write_text(file, "three")
    assert files.is_file(file)
    assert files.size(file) == 5
    assert files.fingerprint(file) != before
    assert files.modified(file) > 1e9
    with files.open_file(file) as stream:
        assert stream.read() == b"three"
    assert [Path(found).name for found in files.matching(folder, "*/f.txt")] == ["f.txt"]
    assert files.is_file(files.matching(folder, "*/f.txt")[0])


def test_what_is_no_file_of_torch_is_told_in_a_line(tmp_path):
    torch.save({"x": torch.ones(9)}, tmp_path / "good")
    whole = (tmp_path / "good").read_bytes()
    cases = {
        b"": "is empty",
        b"hello world\n": "was not written by torch",
        b"PK\x03\x04" + bytes(99): "is damaged",
        whole[: len(whole) // 2]: "is damaged",
    }
    for data, reason in cases.items():
        (tmp_path / "f").write_bytes(data)
        with pytest.raises(ValueError, match=rf"Expected a net at .*f, but the file {reason}.* Set it\.") as error:
            load_plain(tmp_path / "f", "a net", "Set it.")
        assert "\n" not in str(error.value)
    torch.save({"x": Path("a")}, tmp_path / "f")
    with pytest.raises(ValueError, match=r"objects such as pathlib\.\w+, .* could run code"):
        load_plain(tmp_path / "f", "a net", "Set it.")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_plain(tmp_path / "none", "a net", "Set it.")
    assert load_plain(tmp_path / "good", "a net", "")["x"].sum() == 9


def test_a_large_file_that_is_cut_off_is_damaged(tmp_path):
    torch.save({"state_dict": {"x": torch.ones(9_999)}}, tmp_path / "f")
    (tmp_path / "f").write_bytes((tmp_path / "f").read_bytes()[:-9_999])
    for load in (lambda path: load_plain(path, "a net", "Set it."), AtomicCheckpointIO().load_checkpoint):
        with pytest.raises(ValueError, match=r"but the file is damaged, .* Set "):
            load(tmp_path / "f")


def test_a_disk_that_fills_is_told_by_its_own_words():
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "No space left" in files.full_disk("f", error)


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected a folder for .*net\.pt, found none\. Set it\."):
        files.check_place(tmp_path / "nowhere" / "net.pt", "Set it.")
    with pytest.raises(ValueError, match=r"got the folder .*\. Set it\."):
        files.check_place(tmp_path, "Set it.")


@pytest.mark.parametrize("place", ["local", "memory://"])
def test_the_file_that_is_read_is_not_written_over(tmp_path, remote, place):
    read, other = (files.join(tmp_path if place == "local" else remote, name) for name in ("last.ckpt", "net.pt"))
    files.check_place(read, "Set it.", read)  # whoever reads it says that it is not there
    files.write_text(read, "weights")
    with pytest.raises(ValueError, match=r"Expected a new file .*last\.ckpt, which is read .* Set it\."):
        files.check_place(read, "Set it.", read)
    files.check_place(other, "Set it.", read)
    if place == "local":
        Path(other).symlink_to(read)
        with pytest.raises(ValueError, match=r"net\.pt, which is read"):
            files.check_place(other, "Set it.", read)


@pytest.mark.parametrize("write", [files.replacing, files.written_beside])
def test_a_folder_that_is_not_there_is_named(write, tmp_path):
    expected = r"Expected a folder .*nowhere to write net\.pt to, found none. Create it"
    with pytest.raises(FileNotFoundError, match=expected), write(tmp_path / "nowhere" / "net.pt"):
        raise AssertionError("nothing is to be written")
