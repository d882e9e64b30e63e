"""A communicator that simulates other processes."""

from mcir.communicator import SingleProcess


class FakeCommunicator(SingleProcess):
    """A communicator whose ``mean`` is a function of the value of this process."""

    def __init__(self, mean):
        self.mean = mean
