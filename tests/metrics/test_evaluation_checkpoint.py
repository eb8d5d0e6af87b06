import errno
import resource

import pytest
import torch
from torchmetrics import MetricCollection

from diffusers_autonat.metrics import EvaluationCheckpoint, FeatureBank


def test_a_checkpoint_is_loaded_to_where_the_metrics_are(tmp_path):
    """torchmetrics leaves states on the device they were loaded to, and joining those of two devices is an error."""
    bank = FeatureBank(4)
    checkpoint = EvaluationCheckpoint(tmp_path / "s", {})
    checkpoint.load({9: MetricCollection([bank])})
    bank.update(torch.ones(3, 4), torch.arange(3))
    checkpoint.save({9: MetricCollection([bank])}, [0])
    again = MetricCollection([FeatureBank(4)]).to("meta")
    EvaluationCheckpoint(tmp_path / "s", {}).load({9: again}, "meta")
    assert again["FeatureBank"].features[0].device.type == again["FeatureBank"].indices[0].device.type == "meta"


def test_a_checkpoint_counts_every_share_once(tmp_path, monkeypatch):
    """A kill between writing the merged file and deleting what it replaces leaves both."""

    class Fake(dict):
        state_dict = dict.copy
        load_state_dict = dict.update

        def to(self, device):
            pass

    def fresh(folder=tmp_path / "s", **identity):
        return EvaluationCheckpoint(folder, identity or {"seed": 0}, seconds=0)

    first = fresh()
    collections = {9: Fake(total=torch.tensor(0.0), rows=[])}
    assert not first.exists() and first.load(collections) == set() and first.exists()
    collections[9].update(total=torch.tensor(5.0), rows=[torch.ones(1)])
    first.save(collections, [0, 1])
    monkeypatch.setattr("pathlib.Path.unlink", lambda *args, **kwargs: None)
    assert fresh().load({9: Fake()}) == {0, 1}
    assert len(list((tmp_path / "s").glob("*.pt"))) == 2
    monkeypatch.undo()
    again = {9: Fake()}
    assert fresh().load(again) == {0, 1}
    assert again[9]["total"] == 5 and len(again[9]["rows"]) == 1
    with pytest.raises(ValueError, match="an evaluation with other seed, T: delete the folder"):
        fresh(seed=1, T=4).load({9: Fake()})
    last = fresh()
    last.load({9: Fake()})
    assert last.earlier_seconds > 0  # what the earlier runs took
    last.delete()
    assert not (tmp_path / "s").exists()


class Total(dict):
    """As much of a collection of metrics as is kept."""

    state_dict = dict.copy
    load_state_dict = dict.update

    def to(self, device):
        pass


def kept(folder, calls):
    """Two runs' files, the second of which holds the given calls beside those of the first."""
    for run in (calls[:1], calls[1:]):
        checkpoint, collection = EvaluationCheckpoint(folder, {"seed": 0}, seconds=0), Total(total=torch.zeros(4))
        checkpoint.load({9: collection})
        collection["total"][run] += 1
        checkpoint.save({9: collection}, run)


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:100] + b"x" * 50 + b[150:]]
)
def test_a_damaged_file_is_named_and_its_share_made_again(tmp_path, damage):
    kept(tmp_path / "s", [0, 1])
    older, newer = tmp_path / "s" / "0001-00000.pt", tmp_path / "s" / "0002-00000.pt"
    assert not older.exists()
    kept(tmp_path / "other", [0])
    whole = (tmp_path / "other" / "0002-00000.pt").read_bytes()
    (tmp_path / "s" / "0001-00001.pt").write_bytes(whole)  # another process's
    newer.write_bytes(damage(newer.read_bytes()))
    collection = Total(total=torch.zeros(4))
    checkpoint = EvaluationCheckpoint(tmp_path / "s", {"seed": 0})
    with pytest.warns(
        UserWarning, match="0002-00000.pt is damaged .*: the images that it counted are made again"
    ) as said:
        assert checkpoint.load({9: collection}) == {0}
    assert len(said) == 1 and "\n" not in str(said[0].message)
    assert collection["total"].tolist() == [1, 0, 0, 0]
    assert (tmp_path / "s" / "0003-00000.pt").exists()  # no name is used twice
    checkpoint.delete()
    assert not (tmp_path / "s").exists()


def test_files_of_another_kind_are_passed_over(tmp_path):
    (tmp_path / "s").mkdir()
    torch.save({"taken_over": ["../../x"]}, tmp_path / "s" / "0007-00000.pt")
    torch.save([1], tmp_path / "s" / "model.pt")
    with pytest.warns(UserWarning, match="no state of an evaluation"):
        assert EvaluationCheckpoint(tmp_path / "s", {}).load({9: Total()}) == set()
    assert (tmp_path / "s" / "0008-00000.pt").exists()


def test_a_full_disk_is_said_and_the_earlier_state_kept(tmp_path):
    """The limit on file sizes stands for a full disk: both break a write in its middle."""
    kept(tmp_path / "s", [0, 1])
    checkpoint = EvaluationCheckpoint(tmp_path / "s", {"seed": 0})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large: '.*0003-00000.pt'") as error:
            checkpoint.load({9: Total(total=torch.zeros(1000))})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert error.value.errno == errno.EFBIG
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["0002-00000.pt"]
    assert EvaluationCheckpoint(tmp_path / "s", {"seed": 0}).load({9: Total()}) == {0, 1}


def test_a_state_of_the_first_release_goes_on(tmp_path):
    (tmp_path / "s").mkdir()
    state = {"identity": {}, "taken_over": [], "calls": [3], "elapsed": 2.0, "metrics": {9: {"total": torch.ones(4)}}}
    torch.save(state, tmp_path / "s" / "0001-00000.pt")
    collection = Total()
    assert EvaluationCheckpoint(tmp_path / "s", {}).load({9: collection}) == {3}
    assert collection["total"].tolist() == [1, 1, 1, 1]


def test_a_changed_byte_is_noticed_wherever_it_is(tmp_path):
    kept(tmp_path / "s", [0, 1])
    path = tmp_path / "s" / "0002-00000.pt"
    content = path.read_bytes()
    for place in range(0, len(content) - 38, 97):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.warns(UserWarning, match="0002-00000.pt is damaged .it is not what was written"):
            assert EvaluationCheckpoint(tmp_path / "s", {"seed": 0}).load({9: Total()}) == set()
        for other in (tmp_path / "s").glob("000[3-9]*"):
            other.unlink()
