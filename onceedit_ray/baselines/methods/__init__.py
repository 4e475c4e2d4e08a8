"""The seven baselines, one file each."""
