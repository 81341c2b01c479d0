"""Where images come from: a folder, a dataset, tar shards, each behind one interface."""
