"""A fake communicator: the values of other processes are a function of the value of this one."""

from mcir.communicator import SingleProcess


class OtherRanks(SingleProcess):
    """One process of several, with a function that computes their mean from the value of this one."""

    def __init__(self, mean):
        self.mean = mean
