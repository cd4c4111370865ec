"""Runs a RephraseRun: driver, workers, ledger, engines."""
