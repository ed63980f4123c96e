"""Lets several observers hear what the dispatcher does."""

from spool.records import Delivery
from uploaders.uploader import DispatchObserver


class Observers:
    """Passes what it hears on to each of its observers, in order."""

    def __init__(self, *observers: DispatchObserver) -> None:
        self._observers = observers

    def attempted(self, delivery: Delivery, outcome: str, seconds: float) -> None:
        """An attempt ended."""
        for observer in self._observers:
            observer.attempted(delivery, outcome, seconds)

    def destination_changed(self, destination: str, up: bool, reason: str) -> None:
        """A destination began or ceased to take deliveries."""
        for observer in self._observers:
            observer.destination_changed(destination, up, reason)
