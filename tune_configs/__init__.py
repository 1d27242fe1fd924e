"""Search spaces that come along: ``dreamrl tune tune_configs/smoke.yaml``."""
