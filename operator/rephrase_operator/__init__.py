"""The kopf operator: watches RephraseRuns and keeps their driver and workers running."""
