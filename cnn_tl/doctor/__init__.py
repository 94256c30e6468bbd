"""Examines a folder of images: twins, leaks, wrong labels, outliers, shortcuts and series; reads, never changes it."""
