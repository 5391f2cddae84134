"""Targets with every fault that the engine must find; `test_engine` runs them."""
