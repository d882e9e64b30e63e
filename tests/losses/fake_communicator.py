"""Stand-ins for several processes in tests: what the others say is a function of what this one says."""

from mcir.communicator import SingleProcess


class OtherRanks(SingleProcess):
    """One process of several, whose joint mean is whatever ``mean`` makes of a value."""

    def __init__(self, mean):
        self.mean = mean
