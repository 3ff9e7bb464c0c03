"""The stage `label`: first-principles energies, forces and virials of the chosen frames. One file a software.

What the softwares share (frames to label, classes of failure, the dataset) is in `frames`.
"""
