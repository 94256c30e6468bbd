"""Predictions as text, CSV, JSON or Parquet, whole or appended, without overwriting anything valuable."""
