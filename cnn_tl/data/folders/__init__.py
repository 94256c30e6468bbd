"""A folder of images -> a manifest: which folders are splits, which are classes, what is left out."""
