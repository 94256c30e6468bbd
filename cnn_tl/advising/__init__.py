"""Advice before the next hour of work: what more images would buy, and which backbone to take.

Everything here follows from the features of frozen backbones, which the cache keeps, and from heads that are fitted on
them again and again. Nothing is trained, and no image is changed.
"""
