"""The Hydra configuration groups; installed as `lampq.conf`."""
