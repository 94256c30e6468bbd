"""HTML pages in one file that loads nothing: templates, styles, script, charts and thumbnails for plain data.

Not here: where the data come from (reporting/ collects a run, inference/ the answers of predict) and the page of
`cnn-tl serve`, which talks to its server (serving/page).
"""
