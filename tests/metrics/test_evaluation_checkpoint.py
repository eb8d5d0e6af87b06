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
