"""Which backbone to take: candidates are embedded on a sample, cross-validated in the same folds, compared in pairs.

`recommend.py` is the story from a recipe to a `Recommendation`; `race.py` spends the time.
"""
