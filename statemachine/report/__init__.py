"""Figures out of the store, plots of them, and pages that show them: this room reads a run and never writes to it.

What may enter: numbers of one run, how they are drawn, why a frame was chosen. What the machine decides by them belongs
to `machine`; what stages write down of their data belongs to `operators`.
"""
