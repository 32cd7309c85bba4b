"""Machine code is kept where only the user can write; whatever is wrong with that, the kernels compile and go on."""

import errno
import os
import stat
import warnings

import pytest
import torch

from rigl_lightning.kernels import available

if "fast" not in available():
    pytest.skip("needs numba", allow_module_level=True)

from rigl_lightning.kernels import private_folder
from rigl_lightning.kernels.compiled import cache
from rigl_lightning.kernels.compiled.cache import Job
from rigl_lightning.kernels.compiled.jobs import Indexed, gather_job
from rigl_lightning.kernels.threads import run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RIGL_LIGHTNING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_said", [])
    monkeypatch.setattr(private_folder, "_refuse_ancestors", lambda _: None)  # those of the machine that tests
    return tmp_path / "cache"


def gathers():
    """A job that was not compiled yet works."""
    job, starts = Job(gather_job.body, Indexed), torch.tensor([0, 2], dtype=torch.int32)
    out = torch.zeros(2)
    run(job, 1, Indexed(torch.tensor([3.0, 4.0, 5.0]), 3, starts, torch.tensor([2, 0], dtype=torch.int32), out, 1))
    assert out.tolist() == [5.0, 3.0]


@pytest.fixture
def silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_code_is_kept_and_used_again(folder, silent, monkeypatch):
    gathers()
    (file,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    monkeypatch.setattr(cache.CFunc, "_compile_uncached", None)
    gathers()


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:100], lambda b: b[:-1], lambda b: b[:-5] + b"12345"])
def test_a_damaged_file_is_compiled_again(folder, silent, damage):
    gathers()
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    gathers()
    assert len(file.read_bytes()) > len(whole) // 2


def test_without_a_place_it_is_said_once(folder, monkeypatch):
    monkeypatch.setenv("RIGL_LIGHTNING_CACHE", "/proc/nowhere")
    with pytest.warns(UserWarning, match="not kept between processes: .*nowhere.*RIGL_LIGHTNING_CACHE"):
        gathers()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gathers()


def test_without_a_home(folder, monkeypatch):
    monkeypatch.delenv("RIGL_LIGHTNING_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(private_folder.Path, "home", no_home)
    with pytest.warns(UserWarning, match="no home folder"):
        gathers()


def test_a_full_disk(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(private_folder.os, "replace", full)
    with pytest.warns(UserWarning, match="No space left"):
        gathers()
    assert not list(folder.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
class TestOthers:
    def test_a_folder_that_others_write_to_is_not_read(self, folder):
        gathers()
        folder.chmod(0o777)
        with pytest.warns(UserWarning, match="another user could write to .*cache"):
            gathers()

    def test_a_file_that_others_could_have_written_is_not_read(self, folder, monkeypatch):
        gathers()
        (file,) = folder.iterdir()
        file.chmod(0o666)
        monkeypatch.setattr(cache.pickle, "loads", None)
        with pytest.warns(UserWarning, match="could have been written by another user"):
            gathers()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600  # written anew

    def test_a_folder_of_another_user_is_not_read(self, folder, monkeypatch):
        gathers()
        monkeypatch.setattr(private_folder.os, "geteuid", lambda: os.getuid() + 1)
        with pytest.warns(UserWarning, match="another user could write"):
            gathers()

    def test_a_link_is_what_it_points_to(self, folder, tmp_path):
        (tmp_path / "shared").mkdir()
        (tmp_path / "shared").chmod(0o777)
        folder.symlink_to(tmp_path / "shared")
        with pytest.warns(UserWarning, match="another user could write to .*shared"):
            gathers()


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize(("mode", "is_private"), [(0o755, True), (0o1777, True), (0o777, False)])
def test_folders_above_it_may_be_shared_only_with_the_sticky_bit(tmp_path, monkeypatch, mode, is_private):
    above = tmp_path / "above"
    above.mkdir()
    above.chmod(mode)
    try:
        private_folder._refuse_ancestors(tmp_path)
    except PermissionError:
        pytest.skip("the machine's temporary folder is shared")
    monkeypatch.setenv("RIGL_LIGHTNING_CACHE", str(above / "cache"))
    if is_private:
        assert private_folder.private_folder() == above / "cache"
    else:
        with pytest.raises(PermissionError, match="above"):
            private_folder.private_folder()
