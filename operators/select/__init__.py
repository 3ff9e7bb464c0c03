"""The stage `select`: which frames of the trajectories are labelled next. One file a rule, and the
steps that it is made of.
"""
