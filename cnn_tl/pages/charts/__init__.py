"""Charts as SVG, drawn in Python from plain numbers: bars, calibration and learning curves.

Every text in them is escaped, and colours are classes of page.css, so that they follow light and dark.
"""
