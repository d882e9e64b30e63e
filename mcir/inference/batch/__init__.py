"""What ``mcir restore`` does with the pictures of a person: find them, restore all it can, compare, measure, tell.

``jobs`` says which picture goes where, ``tasks`` what the headers say and what is restored together, ``pipeline``
reads ahead and writes behind, ``measured`` compares with ground truths, ``pace`` tells how fast it goes; ``run`` is all
of it.
"""
