"""The RephraseRun API, shared by the runner and the operator."""
