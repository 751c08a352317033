"""The backfill: what is over, read once, within a share of the budget, while the sync goes on."""
