"""What the training scripts share: data, masking, losses, checkpoints. The loops themselves stand in `training/*.py`."""
