"""A journal that a full disk, a power cut or a crash has torn is mended when it is opened: no finished trial is lost."""

import json
import logging
import multiprocessing
import os
import re
import resource
import signal
import threading

import optuna
import pytest
from optuna.trial import TrialState

from diffusers_autonat.search import open_storage
from diffusers_autonat.search.journal import JournalLock, mend


optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def study_of(path):
    return optuna.create_study(study_name="s", storage=open_storage(path), load_if_exists=True,
                               sampler=optuna.samplers.RandomSampler(seed=0))  # fmt: skip


def add_trials(path, number):
    study_of(path).optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=number)


def exit_codes_of_six(path):
    """Of workers at once, each with five trials."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=add_trials, args=(path, 5)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    return [worker.exitcode for worker in workers]


def finished(path):
    return [(t.number, t.values) for t in study_of(path).trials if t.state == TrialState.COMPLETE]


@pytest.fixture
def journal(tmp_path):
    path = tmp_path / "search.journal"
    add_trials(path, 4)
    return path


def torn(path):
    aside = path.with_name(path.name + ".torn")
    return aside.read_bytes() if aside.exists() else b""


def test_torn_tail_is_set_aside_and_the_search_goes_on(journal, caplog):
    whole, before = journal.read_bytes(), finished(journal)
    last = whole.splitlines(keepends=True)[-1]  # the state of the fourth trial
    journal.write_bytes(whole[:-20])
    with caplog.at_level(logging.WARNING):
        storage = open_storage(journal)
    assert torn(journal) == last[:-20] + b"\n" and journal.read_bytes() == whole.removesuffix(last)
    [message] = [record.getMessage() for record in caplog.records]
    assert str(journal) in message and f"{journal.name}.torn" in message and "\n" not in message
    assert finished(journal) == before[:-1]
    for _ in range(3):
        add_trials(journal, 1)
    assert finished(journal)[:3] == before[:-1] and len(finished(journal)) == 6
    assert storage.get_all_studies()[0].study_name == "s"  # one that was opened before reads on


def test_a_last_line_that_only_lacks_its_end_is_kept(journal):
    before = finished(journal)
    os.truncate(journal, journal.stat().st_size - 1)
    assert finished(journal) == before and not torn(journal)
    add_trials(journal, 1)
    assert finished(journal)[:4] == before


@pytest.mark.parametrize(
    "tail", [b"\0" * 40, b'{"op_code":', b"{\xff\xfe", b"{", b'{"op_code":5}x\n', b"\xff\n", b"\n"]
)
def test_every_kind_of_torn_tail(journal, tail):
    before, whole = finished(journal), journal.read_bytes()
    with journal.open("ab") as file:
        file.write(tail)
    assert finished(journal) == before and torn(journal).strip() == tail.strip()
    add_trials(journal, 1)
    assert journal.read_bytes().startswith(whole) and len(finished(journal)) == 5


def test_cut_anywhere(journal):
    """Also in the first line: what was finished by then is all there, and the study goes on."""
    whole = journal.read_bytes()
    for size in range(0, len(whole), 101):
        for left in journal.parent.glob("search.journal.*"):
            left.unlink()
        journal.write_bytes(whole[:size])
        known = sum(json.loads(line).get("state") == 1 for line in whole[:size].splitlines(True) if line[-1:] == b"\n")
        assert len(finished(journal)) == known
        add_trials(journal, 1)
        assert len(finished(journal)) == known + 1


def test_a_line_that_was_appended_to_a_torn_one_is_read(journal):
    """As earlier versions did it, and other tools of Optuna do: their journals can be read again."""
    before, lines = finished(journal), journal.read_bytes().splitlines(keepends=True)
    torn_line = lines[-1][:30]
    journal.write_bytes(b"".join([*lines[:8], torn_line, *lines[8:]]))
    assert finished(journal) == before and torn(journal) == torn_line + b"\n"
    assert journal.read_bytes().startswith(b"".join(lines))


def test_a_worker_mends_before_it_writes(journal):
    """What another worker left on a full disk, while this one was at its trial."""
    study = study_of(journal)

    def objective(trial):
        with journal.open("ab") as file:
            file.write(b'{"op_code":6,"worker')
        return trial.suggest_float("x", 0, 1)

    study.optimize(objective, n_trials=3)
    assert len(finished(journal)) == 7 and torn(journal).count(b'{"op_code":6,"worker\n') == 3


def test_a_line_in_the_middle_that_cannot_be_read_is_named(journal):
    """Something wrote over it: which trial the lines after it mean is not known."""
    content = bytearray(journal.read_bytes())
    content[content.index(b"\n") + 3] = 0
    journal.write_bytes(content)
    with pytest.raises(ValueError, match=f"{journal}.* line 2 .*backup") as error:
        open_storage(journal)
    assert "\n" not in str(error.value) and journal.read_bytes() == content


@pytest.mark.parametrize("content", [b"notes", b"notes\n", b"# a\n# b\n", b"\x80\x02}", b"{}\n", b"[]\n", b"{}", b"{'a': 1",
                                     b"\n\n", b"1\n", b"{" * 50_000 + b"\n"])  # fmt: skip
def test_a_file_that_is_no_journal_is_left_alone(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} is not a journal of Optuna")) as error:
        open_storage(path)
    assert path.read_bytes() == content and "\n" not in str(error.value)
    assert [one.name for one in tmp_path.iterdir()] == ["notes.txt"]


def test_a_line_that_is_being_written_is_waited_for(journal):
    """The lock of a living worker is respected: opening waits, and cuts nothing."""
    before = finished(journal)
    line = journal.read_bytes().splitlines(keepends=True)[-1]
    lock = JournalLock(journal)
    lock.acquire()
    opened = threading.Thread(target=open_storage, args=[journal])
    with journal.open("ab", buffering=0) as file:
        file.write(line[:25])
        opened.start()
        opened.join(0.2)
        assert opened.is_alive()
        file.write(line[25:])
    lock.release()
    opened.join(20)
    assert not opened.is_alive() and not torn(journal) and journal.read_bytes().endswith(line * 2)
    assert finished(journal) == before


def test_several_open_a_torn_journal_at_once(journal):
    before = finished(journal)
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    assert exit_codes_of_six(journal) == [0] * 6
    assert finished(journal)[:4] == before and len(finished(journal)) == 4 + 30
    assert torn(journal) == b'{"op_code":4,"wor\n'  # by one of them, once


def test_two_names_of_one_journal_have_one_lock(journal, tmp_path):
    (tmp_path / "link").symlink_to(journal)
    add_trials(tmp_path / "link", 1)
    assert len(finished(journal)) == 5 and open_storage(tmp_path / "link")._backend._file_path == str(journal)


def test_a_lock_that_a_kill_left_is_found_stale(tmp_path, monkeypatch):
    """Optuna looks at what the lock points to; a name relative to somewhere else it would wait for, for ever."""
    monkeypatch.chdir(tmp_path)
    lock = open_storage("folder/search.journal")._backend._lock
    lock.acquire()
    assert os.stat("folder/search.journal.lock").st_mtime > 0
    lock.release()


class HastyLock(JournalLock):
    """That waits a third of a second for a dead worker rather than thirty."""

    def __init__(self, path):
        super().__init__(path)
        self.grace_period = 0.3


def test_a_lock_that_was_broken_is_its_successors(journal, caplog):
    dead, first, second = (HastyLock(journal) for _ in range(3))
    dead.acquire()
    seen = second._state()
    first.acquire()
    assert [record.args for record in caplog.records] == [(f"{journal}.lock",)]
    second._break(seen)  # which has waited as long, and comes a moment later
    dead.release()  # it had only stood still
    assert os.path.lexists(f"{journal}.lock") and len(caplog.records) == 1
    first.release()
    assert not os.path.lexists(f"{journal}.lock")


def test_several_wait_for_a_worker_that_was_killed_with_the_lock(journal, monkeypatch):
    monkeypatch.setattr("diffusers_autonat.search.journal.JournalLock", HastyLock)
    HastyLock(journal).acquire()
    assert exit_codes_of_six(journal) == [0] * 6 and len(finished(journal)) == 4 + 30


def test_mending_a_whole_journal_changes_nothing(journal):
    content = journal.read_bytes()
    mend(journal)
    assert journal.read_bytes() == content and not torn(journal)


def fill_the_disk(path, spare):
    """A worker on a disk that has room for so many more bytes of the journal."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + spare,) * 2)
    add_trials(path, 3)


def test_a_disk_that_is_full_within_a_line(journal):
    before = finished(journal)
    for spare in (300, 700, 1234):
        worker = multiprocessing.get_context("fork").Process(target=fill_the_disk, args=(journal, spare))
        worker.start()
        worker.join(60)
        assert worker.exitcode == 1 and not journal.read_bytes().endswith(b"\n")
        after = finished(journal)
        assert after[: len(before)] == before and torn(journal)
        before = after
    add_trials(journal, 2)
    assert len(finished(journal)) == len(before) + 2
