"""Files on disk: digests as other programs make them, and no half-written file under its own name."""

import hashlib
import os
import signal
import subprocess
import sys

import pytest

from dreamrl.files import replacement, sha256, write_atomically


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1, 3 * 2**20 - 1])
def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path, size):
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "a").write_bytes(content[:size])
    assert sha256(tmp_path / "a") == hashlib.sha256(content[:size]).hexdigest()


def test_a_digest_in_closed_form(tmp_path):
    """FIPS 180-2, appendix B.1."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_text_is_written_in_utf8_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("a long first text\n", "kürzer ✓\n", ""):
        write_atomically(path, text)
        assert path.read_bytes() == text.encode("utf-8")
        assert os.listdir(tmp_path) == ["a.txt"]


def test_what_fails_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    with pytest.raises(RuntimeError), replacement(path) as file:
        file.write(b"half")
        file.flush()
        assert path.read_text() == "old"
        raise RuntimeError
    assert path.read_text() == "old"
    write_atomically(path, "new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_a_kill_leaves_the_old_file(tmp_path):
    write_atomically(tmp_path / "a.txt", "old")
    killed = (
        "import os, pathlib, signal; from dreamrl.files import replacement\n"
        f"with replacement(pathlib.Path({str(tmp_path / 'a.txt')!r})) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "a.txt").read_text() == "old"


def test_the_new_file_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    """A name that outlives a power cut while its content does not would be worse than no file."""
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    write_atomically(tmp_path / "a.txt", "text")
    assert calls == ["fsync", "replace"]
    assert (tmp_path / "a.txt").read_text() == "text"


def test_it_needs_the_standard_library_only():
    done = "import sys; before = set(sys.modules); import dreamrl.files; print(*sorted(set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-c", done], capture_output=True, text=True, check=True).stdout.split()
    assert {name.partition(".")[0] for name in found} <= {"dreamrl", *sys.stdlib_module_names}
