"""The stage `label`: first-principles energies, forces and virials of the chosen frames. One file a software.

What the softwares share is in `frames` (frames to label, judging labels, the dataset), `program` (one frame a task: the
user's files, run.sh, why a program stopped) and `outputs` (classes of failure, numbers, units).
"""
