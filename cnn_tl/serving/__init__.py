"""A trained model behind HTTP: an API for programs and a page for people.

`routes` has the routes, `service` the model and its threads, `batching` joins the images of several requests, `limits`
refuses what is too large, too slow or from another site, `server` is the process. The answers are those of inference/.
`review/` is another server: it shows what a doctor suspects. `sockets` and `origin` are what both need.
"""
