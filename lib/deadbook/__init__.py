"""The executable book: experiments, runs, claims, figures, widgets, and how it is built.

It imports `deadunits`, the library; never the other way round. It runs from a checkout (`make install`).
"""
